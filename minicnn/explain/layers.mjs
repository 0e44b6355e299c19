// What each layer does to a whole array: forward gives y for x, backward gives dx for dy. Arrays are flat, the last axis
// (the channels) running fastest; a node says the shapes of its input and output. See minicnn/layers for the derivations.

import { sizeOf } from "./numbers.mjs";
import { pixelsOf } from "./windows.mjs";

/** y of a node for x. */
export function forward(node, x) {
  return node.given ? node.given.y : FORWARD[node.kind](node, x);
}

/** dx of a node that has its x and y, for dy. */
export function backward(node, dy) {
  return node.given ? node.given.dx : BACKWARD[node.kind](node, dy);
}

/** Calls visit(pixel's index in x, position's index in y, weight's number p*kw + q) for all that a window ever reads. */
function slide(node, visit) {
  const [oh, ow] = node.output;
  const columns = node.input[1];
  for (let i = 0; i < oh; i++)
    for (let j = 0; j < ow; j++)
      for (const { row, column, p, q } of pixelsOf(node.window, node.input, i, j))
        visit(row * columns + column, i * ow + j, p * node.window.size[1] + q);
}

/** For each channel that is read: where its weights begin, where their outputs begin, how many they are. */
function bundle(node, channel) {
  const [c, f] = [node.input[2], node.output[2]];
  const [channels, filters] = [c / node.groups, f / node.groups];
  const group = Math.floor(channel / channels);
  return { first: (channel % channels) * f + group * filters, filter: group * filters, filters };
}

function conv(node, x) {
  const [c, f] = [node.input[2], node.output[2]];
  const y = new Float64Array(sizeOf(node.output));
  if (node.b) for (let at = 0; at < y.length; at++) y[at] = node.b[at % f];
  const bundles = Array.from({ length: c }, (_, channel) => bundle(node, channel));
  const perTap = (c / node.groups) * f;
  slide(node, (pixel, position, tap) => {
    for (let k = 0; k < c; k++) {
      const value = x[pixel * c + k];
      const { first, filter, filters } = bundles[k];
      const [w, to] = [tap * perTap + first, position * f + filter];
      if (value !== 0) for (let m = 0; m < filters; m++) y[to + m] += value * node.w[w + m];
    }
  });
  return y;
}

function convDx(node, dy) {
  const [c, f] = [node.input[2], node.output[2]];
  const dx = new Float64Array(sizeOf(node.input));
  const bundles = Array.from({ length: c }, (_, channel) => bundle(node, channel));
  const perTap = (c / node.groups) * f;
  slide(node, (pixel, position, tap) => {
    for (let k = 0; k < c; k++) {
      const { first, filter, filters } = bundles[k];
      const [w, from] = [tap * perTap + first, position * f + filter];
      let sum = 0;
      for (let m = 0; m < filters; m++) sum += dy[from + m] * node.w[w + m];
      dx[pixel * c + k] += sum;
    }
  });
  return dx;
}

function dense(node, x) {
  const f = node.output[0];
  const y = node.b ? Float64Array.from(node.b) : new Float64Array(f);
  x.forEach((value, k) => {
    for (let m = 0; m < f; m++) y[m] += value * node.w[k * f + m];
  });
  return y;
}

function denseDx(node, dy) {
  const f = node.output[0];
  const dx = new Float64Array(node.input[0]);
  for (let k = 0; k < dx.length; k++) for (let m = 0; m < f; m++) dx[k] += dy[m] * node.w[k * f + m];
  return dx;
}

/** What batch normalisation multiplies a channel by, in use. */
export function scaleOf(node, channel) {
  return node.gamma[channel] / Math.sqrt(node.variance[channel] + node.epsilon);
}

function maxPool(node, x) {
  const c = node.input[2];
  const y = new Float64Array(sizeOf(node.output)).fill(-Infinity);
  node.winner = new Int32Array(y.length); // the pixel's index in x that won; of equal ones the first
  slide(node, (pixel, position) => {
    for (let k = 0; k < c; k++)
      if (x[pixel * c + k] > y[position * c + k]) {
        y[position * c + k] = x[pixel * c + k];
        node.winner[position * c + k] = pixel * c + k;
      }
  });
  return y;
}

function sendToWinners(node, dy) {
  const dx = new Float64Array(sizeOf(node.input));
  dy.forEach((value, at) => (dx[node.winner[at]] += value));
  return dx;
}

function averagePool(node, x) {
  const c = node.input[2];
  const y = new Float64Array(sizeOf(node.output));
  node.counts = new Int32Array(y.length / c); // how many pixels of each window lie in the image
  slide(node, (pixel, position, tap) => node.counts[position]++);
  slide(node, (pixel, position) => {
    for (let k = 0; k < c; k++) y[position * c + k] += x[pixel * c + k] / node.counts[position];
  });
  return y;
}

function averagePoolDx(node, dy) {
  const c = node.input[2];
  const dx = new Float64Array(sizeOf(node.input));
  slide(node, (pixel, position) => {
    for (let k = 0; k < c; k++) dx[pixel * c + k] += dy[position * c + k] / node.counts[position];
  });
  return dx;
}

function globalMax(node, x) {
  const c = node.output[0];
  const y = new Float64Array(c).fill(-Infinity);
  node.winner = new Int32Array(c);
  x.forEach((value, at) => {
    if (value > y[at % c]) [y[at % c], node.winner[at % c]] = [value, at];
  });
  return y;
}

function globalAverage(node, x) {
  const c = node.output[0];
  const y = new Float64Array(c);
  x.forEach((value, at) => (y[at % c] += (value * c) / x.length));
  return y;
}

/** exp(x) / sum of exp(x) along the last axis. */
export function softmax(x, classes) {
  const y = new Float64Array(x.length);
  for (let row = 0; row < x.length; row += classes) {
    const values = x.subarray(row, row + classes);
    const most = values.reduce((a, b) => Math.max(a, b));
    const total = values.reduce((sum, value) => sum + Math.exp(value - most), 0);
    values.forEach((value, k) => (y[row + k] = Math.exp(value - most) / total));
  }
  return y;
}

function softmaxDx(node, dy) {
  const classes = node.output.at(-1);
  return dy.map((value, at) => {
    const row = at - (at % classes);
    let sum = 0;
    for (let k = row; k < row + classes; k++) sum += dy[k] * node.y[k];
    return node.y[at] * (value - sum);
  });
}

/** Layers one after another. */
export function forwardAll(nodes, x) {
  for (const node of nodes) {
    node.x = x;
    x = node.y = forward(node, x);
  }
  return x;
}

export function backwardAll(nodes, dy) {
  for (const node of nodes.toReversed()) {
    node.dy = dy;
    dy = node.dx = backward(node, dy);
  }
  return dy;
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const SLOPE = Math.sqrt(2 / Math.PI);
const bent = (x) => SLOPE * (x + 0.044715 * x ** 3);

/** The activations: f(x) and its derivative, number by number. */
export const ACTIVATIONS = {
  relu: { f: (x) => Math.max(x, 0), derivative: (x) => (x > 0 ? 1 : 0) },
  leakyrelu: { f: (x, slope) => (x > 0 ? x : slope * x), derivative: (x, slope) => (x > 0 ? 1 : slope) },
  sigmoid: { f: sigmoid, derivative: (x) => sigmoid(x) * (1 - sigmoid(x)) },
  tanh: { f: Math.tanh, derivative: (x) => 1 - Math.tanh(x) ** 2 },
  silu: { f: (x) => x * sigmoid(x), derivative: (x) => sigmoid(x) * (1 + x * (1 - sigmoid(x))) },
  gelu: {
    f: (x) => 0.5 * x * (1 + Math.tanh(bent(x))),
    derivative: (x) => {
      const t = Math.tanh(bent(x));
      return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * SLOPE * (1 + 3 * 0.044715 * x * x);
    },
  },
};

const unchanged = (node, values) => values;

const FORWARD = {
  conv,
  dense,
  scale: (node, x) =>
    x.map((value, at) => value * node.factor[at % node.factor.length] + node.shift[at % node.factor.length]),
  batchnorm: (node, x) =>
    x.map((value, at) => {
      const k = at % node.gamma.length;
      return (value - node.mean[k]) * scaleOf(node, k) + node.beta[k];
    }),
  activation: (node, x) => x.map((value) => ACTIVATIONS[node.f].f(value, node.negative_slope)),
  maxpool2d: maxPool,
  averagepool2d: averagePool,
  globalmaxpool2d: globalMax,
  globalaveragepool2d: globalAverage,
  softmax: (node, x) => softmax(x, node.output.at(-1)),
  flatten: unchanged,
  dropout: unchanged,
  residual: (node, x) => {
    const [branch, shortcut] = [forwardAll(node.branch, x), forwardAll(node.shortcut, x)];
    return branch.map((value, at) => value + shortcut[at]);
  },
};

const BACKWARD = {
  conv: convDx,
  dense: denseDx,
  scale: (node, dy) => dy.map((value, at) => value * node.factor[at % node.factor.length]),
  batchnorm: (node, dy) => dy.map((value, at) => value * scaleOf(node, at % node.gamma.length)),
  activation: (node, dy) =>
    dy.map((value, at) => value * ACTIVATIONS[node.f].derivative(node.x[at], node.negative_slope)),
  maxpool2d: sendToWinners,
  averagepool2d: averagePoolDx,
  globalmaxpool2d: sendToWinners,
  globalaveragepool2d: (node, dy) => node.x.map((_, at) => (dy[at % dy.length] * dy.length) / node.x.length),
  softmax: softmaxDx,
  flatten: unchanged,
  dropout: unchanged,
  residual: (node, dy) => {
    const [branch, shortcut] = [backwardAll(node.branch, dy), backwardAll(node.shortcut, dy)];
    return branch.map((value, at) => value + shortcut[at]);
  },
};
