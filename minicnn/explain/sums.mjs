// Where a single number comes from: its sum, term by term. A sum is
//
//     {name, value, start, rest, terms, grid, groups}      value = start.value + rest.value + the products of all terms
//
// and a term {a, b, x, y, w, group, p, q}: the numbers a * b; their places in x or y and in the weights; the group that it
// belongs to (a channel), and its place in the grid of a window. start is what is added to the products, such as a bias;
// rest what comes from weights that are not in this page.

import { placeOf } from "./numbers.mjs";
import { ACTIVATIONS, scaleOf, softmax } from "./layers.mjs";
import { pixelAt, pixelsOf, windowsOf } from "./windows.mjs";

/** y[at] from the numbers of x; null where the weights are not in this page. */
export function outputSum(node, at) {
  if (node.given && columnOf(node, at % node.output.at(-1)) === undefined) return null;
  return { name: "y", at, value: node.y[at], terms: [], ...FORWARD[node.kind](node, at) };
}

/** dx[at] from the numbers of dy. */
export function inputSum(node, at) {
  const sum = { name: "dx", at, value: node.dx[at], terms: [], ...BACKWARD[node.kind](node, at) };
  if (node.given) sum.rest = { name: "outputs whose weights are not in this page", value: sum.value - total(sum) };
  return sum;
}

/** dw[at], of a convolution or a dense layer: what the weight met, times dy, over all positions. */
export function weightSum(node, at) {
  return node.kind === "dense" ? denseWeight(node, at) : convWeight(node, at);
}

/** The gradient of a bias, and of batch normalisation's gamma and beta: `name` is b, gamma or beta. */
export function channelSum(node, name, channel) {
  const c = node.output.at(-1);
  const terms = [];
  for (let at = channel; at < node.dy.length; at += c) {
    const [i, j] = placeOf(node.output, at);
    const met =
      name === "gamma" ? (node.x[at] - node.mean[channel]) / Math.sqrt(node.variance[channel] + node.epsilon) : 1;
    terms.push({ a: met, b: node.dy[at], x: at, y: at, group: 0, p: i, q: j });
  }
  return { name: `d${name}`, at: channel, terms, value: sumOf(terms) };
}

/** What a sum's parts come to. */
export function total(sum) {
  return (sum.start?.value ?? 0) + (sum.rest?.value ?? 0) + sumOf(sum.terms);
}

/** The sum of these terms' products. */
export function sumOf(terms) {
  return terms.reduce((result, { a, b }) => result + a * b, 0);
}

/** The terms of each group added up: [{group, value}], in the groups' order. */
export function parts(sum) {
  const found = new Map();
  for (const { group, a, b } of sum.terms) found.set(group, (found.get(group) ?? 0) + a * b);
  return [...found].map(([group, value]) => ({ group, value })).sort((one, other) => one.group - other.group);
}

/** The column of a filter in the weights; undefined where it is not in this page. */
export function columnOf(node, filter) {
  return node.column ? node.column.get(filter) : filter;
}

/** The index in w of the weight at (p, q), from channel k to filter f; undefined where it is not in this page. */
export function weightAt(node, p, q, k, f) {
  const [, kw, channels, columns] = node.shape;
  const column = columnOf(node, f);
  return column === undefined ? undefined : ((p * kw + q) * channels + (k % channels)) * columns + column;
}

/** The channels that a filter reads, and the filters that read a channel: [first, number of them]. */
export function channelsOf(node, f) {
  const each = node.input[2] / node.groups;
  return [Math.floor(f / (node.output[2] / node.groups)) * each, each];
}

export function filtersOf(node, k) {
  const each = node.output[2] / node.groups;
  return [Math.floor(k / (node.input[2] / node.groups)) * each, each];
}

function convOutput(node, at) {
  const [i, j, f] = placeOf(node.output, at);
  const [first, count] = channelsOf(node, f);
  const terms = [];
  for (let k = first; k < first + count; k++)
    for (const { row, column, p, q } of pixelsOf(node.window, node.input, i, j)) {
      const [x, w] = [(row * node.input[1] + column) * node.input[2] + k, weightAt(node, p, q, k, f)];
      terms.push({ a: node.x[x], b: node.w[w], x, w, group: k, p, q });
    }
  return { terms, grid: node.window.size, start: node.b && { name: `b[${f}]`, value: node.b[f] } };
}

function convInput(node, at) {
  const [row, column, k] = placeOf(node.input, at);
  const [first, count] = filtersOf(node, k);
  const terms = [];
  for (let f = first; f < first + count; f++)
    for (const { i, j, p, q } of windowsOf(node.window, node.output, row, column)) {
      const [y, w] = [(i * node.output[1] + j) * node.output[2] + f, weightAt(node, p, q, k, f)];
      if (w !== undefined) terms.push({ a: node.dy[y], b: node.w[w], y, w, group: f, p, q });
    }
  return { terms, grid: node.window.size };
}

function convWeight(node, at) {
  const [p, q, channel, column] = placeOf(node.shape, at);
  const f = node.kept ? node.kept[column] : column;
  const k = channelsOf(node, f)[0] + channel;
  const [oh, ow, filters] = node.output;
  const terms = [];
  for (let i = 0; i < oh; i++)
    for (let j = 0; j < ow; j++) {
      const pixel = pixelAt(node.window, node.input, i, j, p, q);
      if (!pixel) continue;
      const [x, y] = [(pixel.row * node.input[1] + pixel.column) * node.input[2] + k, (i * ow + j) * filters + f];
      terms.push({ a: node.x[x], b: node.dy[y], x, y, group: 0, p: i, q: j });
    }
  return { name: "dw", at, terms, value: sumOf(terms) };
}

function denseOutput(node, u) {
  const [units, column] = [node.shape[1], columnOf(node, u)];
  const terms = Array.from(node.x, (a, k) => ({
    a,
    b: node.w[k * units + column],
    x: k,
    w: k * units + column,
    group: 0,
  }));
  return { terms, start: node.b && { name: `b[${u}]`, value: node.b[u] } };
}

function denseInput(node, k) {
  const [units, terms] = [node.shape[1], []];
  node.dy.forEach((a, u) => {
    const column = columnOf(node, u);
    if (column !== undefined) terms.push({ a, b: node.w[k * units + column], y: u, w: k * units + column, group: 0 });
  });
  return { terms };
}

function denseWeight(node, at) {
  const [k, column] = placeOf(node.shape, at);
  const u = node.kept ? node.kept[column] : column;
  const terms = [{ a: node.x[k], b: node.dy[u], x: k, y: u, group: 0 }];
  return { name: "dw", at, terms, value: sumOf(terms) };
}

/** One term: x times a number. */
const times = (node, at, b, start) => ({ terms: [{ a: node.x[at], b, x: at, group: 0 }], start });

/** One term: dy times a number. */
const backTimes = (node, at, b) => ({ terms: [{ a: node.dy[at], b, y: at, group: 0 }] });

function poolOutput(node, at, weight) {
  const [i, j, k] = placeOf(node.output, at);
  const terms = pixelsOf(node.window, node.input, i, j).map(({ row, column, p, q }) => {
    const x = (row * node.input[1] + column) * node.input[2] + k;
    return { a: node.x[x], b: weight(x, at), x, group: k, p, q };
  });
  return { terms, grid: node.window.size };
}

function poolInput(node, at, weight) {
  const [row, column, k] = placeOf(node.input, at);
  const terms = windowsOf(node.window, node.output, row, column).map(({ i, j, p, q }) => {
    const y = (i * node.output[1] + j) * node.output[2] + k;
    return { a: node.dy[y], b: weight(at, y), y, group: k, p, q };
  });
  return { terms, grid: node.window.size };
}

function globalOutput(node, k, weight) {
  const [h, w, c] = node.input;
  const terms = Array.from({ length: h * w }, (_, pixel) => {
    const x = pixel * c + k;
    return { a: node.x[x], b: weight(x, k), x, group: 0, p: Math.floor(pixel / w), q: pixel % w };
  });
  return { terms };
}

const won = (node) => (x, y) => (node.winner[y] === x ? 1 : 0);
const share = (node) => (x, y) => 1 / node.counts[Math.floor(y / node.output[2])];
const whole = (node) => () => node.output[0] / node.x.length;

function softmaxInput(node, at) {
  const classes = node.output.at(-1);
  const row = at - (at % classes);
  const terms = Array.from({ length: classes }, (_, k) => {
    const y = row + k;
    return { a: node.dy[y], b: node.y[y] * ((y === at ? 1 : 0) - node.y[at]), y, group: 0 };
  });
  return { terms };
}

/** Both paths of a residual block, added: the branch's number and the shortcut's. */
function bothPaths(node, at, end, own) {
  const last = (path) => (path.length ? (end === "y" ? path.at(-1).y : path[0].dx) : own)[at];
  return {
    terms: [
      { a: last(node.branch), b: 1, group: 0, path: "branch" },
      { a: last(node.shortcut), b: 1, group: 1, path: "shortcut" },
    ],
  };
}

const FORWARD = {
  conv: convOutput,
  dense: denseOutput,
  scale: (node, at) => {
    const k = at % node.factor.length;
    return times(node, at, node.factor[k], { name: "shift", value: node.shift[k] });
  },
  batchnorm: (node, at) => {
    const k = at % node.gamma.length;
    const scale = scaleOf(node, k);
    return times(node, at, scale, { name: "beta − mean · scale", value: node.beta[k] - node.mean[k] * scale });
  },
  activation: (node, at) => ({
    start: { name: `${node.f}(x)`, value: ACTIVATIONS[node.f].f(node.x[at], node.negative_slope) },
  }),
  maxpool2d: (node, at) => poolOutput(node, at, won(node)),
  averagepool2d: (node, at) => poolOutput(node, at, share(node)),
  globalmaxpool2d: (node, at) => globalOutput(node, at, won(node)),
  globalaveragepool2d: (node, at) => globalOutput(node, at, whole(node)),
  softmax: (node, at) => ({ start: { name: "softmax(x)", value: softmax(node.x, node.output.at(-1))[at] } }),
  flatten: (node, at) => times(node, at, 1),
  dropout: (node, at) => times(node, at, 1),
  residual: (node, at) => bothPaths(node, at, "y", node.x),
};

const BACKWARD = {
  conv: convInput,
  dense: denseInput,
  scale: (node, at) => backTimes(node, at, node.factor[at % node.factor.length]),
  batchnorm: (node, at) => backTimes(node, at, scaleOf(node, at % node.gamma.length)),
  activation: (node, at) => backTimes(node, at, ACTIVATIONS[node.f].derivative(node.x[at], node.negative_slope)),
  maxpool2d: (node, at) => poolInput(node, at, won(node)),
  averagepool2d: (node, at) => poolInput(node, at, share(node)),
  globalmaxpool2d: (node, at) => globalInput(node, at, won(node)),
  globalaveragepool2d: (node, at) => globalInput(node, at, whole(node)),
  softmax: softmaxInput,
  flatten: (node, at) => backTimes(node, at, 1),
  dropout: (node, at) => backTimes(node, at, 1),
  residual: (node, at) => bothPaths(node, at, "dx", node.dy),
};

/** dx of a pool over the whole image: its channel's dy, times what the pool made of this pixel. */
function globalInput(node, at, weight) {
  const y = at % node.output[0];
  return { terms: [{ a: node.dy[y], b: weight(at, y), y, group: 0 }] };
}
