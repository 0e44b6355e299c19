// One layer: what comes in, its weights or its curve, what goes out; and the sum of the number that is pointed at.

import { isImage, placeOf, show, showAsFactor } from "./numbers.mjs";
import { ACTIVATIONS, scaleOf } from "./layers.mjs";
import { channelSum, columnOf, weightSum } from "./sums.mjs";
import { Choice } from "./choice.mjs";
import { MapView, channelPicker, element, layoutOf, text } from "./maps.mjs";
import { SumView } from "./terms.mjs";
import { kindOf, settingsOf, shapeOf, wordsOf } from "./words.mjs";

const MOST_MARKED = 100; // numbers of a map that are outlined

export class Detail {
  /** `changed(choice)` is called after each drawing. */
  constructor(section, changed) {
    this.choice = new Choice();
    Object.assign(this, { section, changed, pinned: false });
    const pin = () => this.pin(!this.pinned);
    const map = (end) => new MapView(`map-${end}`, { choose: (at) => this.point(end, at), pin });
    this.maps = { x: map("x"), w: map("w"), y: map("y") };
    this.head = element("div", { class: "head" });
    this.middle = element("div", { class: "middle" });
    const sum = element("div", { id: "sum" });
    this.sum = new SumView(sum, this.choice, () => this.draw());
    const panels = element("div", { class: "panels" }, this.maps.x.figure, this.middle, this.maps.y.figure);
    section.append(this.head, element("div", { class: "work" }, panels, sum));
  }

  select(node, channel = null) {
    this.pin(false);
    this.choice.select(node, channel);
    this.draw();
  }

  turn(backward) {
    this.choice.backward = backward;
    this.select(this.choice.node);
  }

  /** Hold the number that is shown, whatever is pointed at. */
  pin(pinned) {
    this.pinned = pinned;
    this.section.classList.toggle("pinned", pinned);
  }

  /** A cell of a map is pointed at. Forward the numbers of y have a sum to tell, backward those of dx and dw. */
  point(end, at) {
    if (!this.pinned && (end === "y") !== this.choice.backward) this.choose(end, at);
  }

  choose(end, at) {
    this.choice.choose(end, at);
    this.draw();
  }

  draw() {
    this.drawHead();
    this.drawEnds();
    this.drawMiddle();
    this.sum.draw();
    this.changed(this.choice);
  }

  drawHead() {
    const { node, backward } = this.choice;
    const words = wordsOf(node);
    const facts = [`${shapeOf(node.input)} → ${shapeOf(node.output)}`, settingsOf(node)].filter(Boolean);
    this.head.replaceChildren(
      text("h3", "", `${node.name}: ${kindOf(node)}`),
      text("p", "note", facts.join(" · ")),
      element("p", {}, text("code", "", backward ? words.gradients : words.equation)),
      text("p", "", backward ? words.back : words.forward),
    );
    if (!node.kept) return;
    const count = `${node.kept.length} of its ${node.output.at(-1)} outputs`;
    const told = `This layer has more weights than fit in a page: here are those of ${count}, which matter most for this image.`;
    this.head.append(text("p", "note", told));
  }

  /** The maps of x and y forward; of dx and dy backward, and of x where it is a weight that is pointed at. */
  drawEnds() {
    const { node, backward, end, at, k, f } = this.choice;
    const meets = end === "w" || end === "gamma"; // such a gradient is a sum of x * dy
    const left = !backward
      ? ["x, what comes in", node.x]
      : meets
        ? ["x, what came in", node.x]
        : ["dx, what goes back", node.dx];
    const right = backward ? ["dy, what came back", node.dy] : ["y, what goes out", node.y];
    const { x, y } = this.maps;
    x.show(...left, layoutOf(node.input, k), { chosen: end === "x" ? at : null, marks: this.marks("y", "x") });
    y.show(...right, layoutOf(node.output, f), { chosen: end === "y" ? at : null, marks: this.marks("x", "y") });
    const go = (move) => (to) => (move.call(this.choice, to), this.draw());
    const picker = (shape, channel, move) =>
      isImage(shape) ? channelPicker("channel", channel, shape[2], go(move)) : [];
    x.controls.replaceChildren(...picker(node.input, k, this.choice.goIn));
    y.controls.replaceChildren(...picker(node.output, f, this.choice.goOut));
  }

  /** What the listed terms read of an array, where a number at `end` is pointed at. */
  marks(end, key) {
    const { own } = this.choice;
    if (this.choice.end !== end || own.length > MOST_MARKED) return [];
    return own.filter((term) => term[key] !== undefined).map((term) => ({ index: term[key], kind: "seen" }));
  }

  drawMiddle() {
    const draw = { conv: this.weights, dense: this.weights, batchnorm: this.statistics, activation: this.curve };
    this.middle.replaceChildren(...(draw[this.choice.node.kind]?.call(this) ?? []));
  }

  /** The weights between the channels that are shown, forward; their gradients, backward. */
  weights() {
    const { node, backward, end, at, f, k } = this.choice;
    const layout = node.kind === "conv" ? this.kernelLayout() : this.denseLayout();
    const between = node.kind === "conv" ? `channel ${k} → channel ${f}` : `the weights of output ${f}`;
    const values = backward ? this.gradients(layout) : node.w;
    const chosen = end === "w" ? at : null;
    this.maps.w.show(`${backward ? "dw" : "w"}: ${between}`, values, layout, {
      chosen,
      numbers: true,
      marks: this.marks("x", "w"),
    });
    const go = (to) => (this.choice.goOut(to), this.draw());
    this.maps.w.controls.replaceChildren(
      ...(node.kind === "dense" ? channelPicker("output", f, node.output[0], go) : []),
    );
    return [this.maps.w.figure, ...(node.b ? [this.perChannel("b", f)] : [])];
  }

  kernelLayout() {
    const { choice } = this;
    const { shape } = choice.node;
    return {
      rows: shape[0],
      columns: shape[1],
      at: (p, q) => choice.weightAt(p, q),
      of: (index) => placeOf(shape, index).slice(0, 2),
      has: (index) => choice.weightAt(...placeOf(shape, index)) === index,
    };
  }

  denseLayout() {
    const { node, f } = this.choice;
    const [units, column] = [node.shape[1], columnOf(node, f)];
    const flat = layoutOf(node.input, 0);
    const at = (p, q) => (column === undefined || flat.at(p, q) === null ? null : flat.at(p, q) * units + column);
    return { ...flat, at, of: (index) => flat.of(Math.floor(index / units)), has: (index) => index % units === column };
  }

  gradients({ rows, columns, at }) {
    const found = {};
    for (let p = 0; p < rows; p++)
      for (let q = 0; q < columns; q++)
        if (at(p, q) !== null) found[at(p, q)] = weightSum(this.choice.node, at(p, q)).value;
    return found;
  }

  /** A bias, or batch norm's gamma or beta: its value forward; backward a button for the sum of its gradient. */
  perChannel(name, channel) {
    const { node, backward, end } = this.choice;
    if (!backward) return text("p", "value", `${name}[${channel}] = ${show(node[name][channel])}`);
    const gradient = show(channelSum(node, name, channel).value);
    const press = () => this.choose(name, channel);
    return element(
      "button",
      { type: "button", "aria-pressed": end === name, onclick: press },
      `d${name}[${channel}] = ${gradient}`,
    );
  }

  statistics() {
    const { node, f, at, backward } = this.choice;
    const c = isImage(node.output) ? f : at % node.gamma.length;
    const [scale, learnt] = [scaleOf(node, c), ["gamma", "beta"]];
    const shift = node.beta[c] - node.mean[c] * scale;
    const fixed = backward ? ["mean", "variance"] : [...learnt, "mean", "variance"];
    return [
      ...fixed.map((name) => text("p", "value", `${name}[${c}] = ${show(node[name][c])}`)),
      text("p", "value", `so y = x · ${showAsFactor(scale)} + ${showAsFactor(shift)}`),
      ...(backward ? learnt.map((name) => this.perChannel(name, c)) : []),
    ];
  }

  /** The activation's curve, with the point where the chosen number lies. */
  curve() {
    const { node, at } = this.choice;
    const x = node.x[at];
    const f = (value) => ACTIVATIONS[node.f].f(value, node.negative_slope);
    const wide = Math.max(3, Math.ceil(Math.abs(x)));
    const xs = Array.from({ length: 121 }, (_, step) => -wide + (step / 60) * wide);
    const high = Math.max(1, ...xs.map((value) => Math.abs(f(value))));
    const to = (value) => [((value / wide) * 100).toFixed(2), ((-f(value) / high) * 70).toFixed(2)];
    const [cx, cy] = to(x);
    const drawing = element(
      "svg:svg",
      { viewBox: "-104 -76 208 152", class: "curve", role: "img", "aria-label": `the curve of ${node.f}` },
      element("svg:path", { d: "M-104,0H104M0,-76V76", class: "axis" }),
      element("svg:polyline", { points: xs.map((value) => to(value).join(",")).join(" "), class: "line" }),
      element("svg:circle", { cx, cy, r: 4, class: "point" }),
    );
    const slope = show(ACTIVATIONS[node.f].derivative(x, node.negative_slope));
    return [drawing, text("p", "value", `x = ${show(x)}, f(x) = ${show(f(x))}, f′(x) = ${slope}`)];
  }
}
