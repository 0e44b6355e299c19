// Numbers: how they are read from the page, how many a shape holds, and how they are written.

/** float32 numbers in base64, as float64: the sums of this page are made in twice the precision of the weights. */
export function decode(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return Float64Array.from(new Float32Array(bytes.buffer));
}

/** How many numbers an array of this shape has. */
export function sizeOf(shape) {
  return shape.reduce((product, n) => product * n, 1);
}

/** Whether an array of this shape is an image (h, w, c). */
export const isImage = (shape) => shape.length === 3;

/** The indices along each axis of number `at` of an array: the last axis runs fastest. */
export function placeOf(shape, at) {
  const place = [];
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    place.unshift(at % shape[axis]);
    at = Math.floor(at / shape[axis]);
  }
  return place;
}

/** The largest absolute value, at least a tiny one, so that one can divide by it. */
export function largest(values) {
  let most = 1e-30;
  for (const value of values) most = Math.max(most, Math.abs(value));
  return most;
}

/** A number with four digits that count, with a real minus sign: 0.1234, 1.2·10⁻⁵. */
export function show(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const sign = value < 0 ? "−" : "";
  if (size >= 1e-4 && size < 1e6) return sign + Number(size.toPrecision(4));
  const [digits, power] = size.toExponential(2).split("e");
  return `${sign}${digits}·10${Array.from(power, (letter) => RAISED[letter]).join("")}`;
}

const RAISED = { "+": "", "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

/** A negative number in brackets, as one writes it behind another sign. */
export function showAsFactor(value) {
  return value < 0 ? `(${show(value)})` : show(value);
}
