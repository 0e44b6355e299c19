// A window that slides over an image: which pixels it reads, and which windows read a pixel. See layers/windows.py.

/** The pixels that the window at position (i, j) reads, without those of the padding: at row and column of the image, at
 * (p, q) of the window. */
export function pixelsOf(window, [h, w], i, j) {
  const { size, stride, padding, dilation } = window;
  const pixels = [];
  for (let p = 0; p < size[0]; p++) {
    const row = i * stride[0] + p * dilation[0] - padding[0][0];
    if (row < 0 || row >= h) continue;
    for (let q = 0; q < size[1]; q++) {
      const column = j * stride[1] + q * dilation[1] - padding[1][0];
      if (column >= 0 && column < w) pixels.push({ row, column, p, q });
    }
  }
  return pixels;
}

/** The windows that read the pixel (row, column): at position (i, j), with their pixel (p, q). */
export function windowsOf(window, [oh, ow], row, column) {
  const { size, stride, padding, dilation } = window;
  const found = [];
  for (let p = 0; p < size[0]; p++) {
    const down = row + padding[0][0] - p * dilation[0];
    if (down % stride[0] || down < 0 || down / stride[0] >= oh) continue;
    for (let q = 0; q < size[1]; q++) {
      const right = column + padding[1][0] - q * dilation[1];
      if (right % stride[1] || right < 0 || right / stride[1] >= ow) continue;
      found.push({ i: down / stride[0], j: right / stride[1], p, q });
    }
  }
  return found;
}

/** The place in x that the weight at (p, q) meets at position (i, j); null in the padding. */
export function pixelAt(window, [h, w], i, j, p, q) {
  const row = i * window.stride[0] + p * window.dilation[0] - window.padding[0][0];
  const column = j * window.stride[1] + q * window.dilation[1] - window.padding[1][0];
  return row >= 0 && row < h && column >= 0 && column < w ? { row, column } : null;
}
