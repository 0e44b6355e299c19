// The network of this page: read from its JSON, run for its image, and back from its loss.

import { decode, placeOf, sizeOf } from "./numbers.mjs";
import { backwardAll, forwardAll, softmax } from "./layers.mjs";

const ARRAYS = ["w", "b", "gamma", "beta", "mean", "variance"];

/** A node of the JSON with its arrays as numbers, those inside a residual block too. */
function read(node) {
  const arrays = ARRAYS.filter((name) => node[name]).map((name) => [name, decode(node[name])]);
  const found = { ...node, ...Object.fromEntries(arrays) };
  if (node.given) found.given = { y: decode(node.given.y), dx: decode(node.given.dx) };
  if (node.kept) found.column = new Map(node.kept.map((filter, column) => [filter, column]));
  if (node.kind === "residual")
    Object.assign(found, { branch: node.branch.map(read), shortcut: node.shortcut.map(read) });
  return found;
}

/** All nodes in the order they run, each followed by those inside it. */
export function allNodes(nodes) {
  return nodes.flatMap((node) => [node, ...allNodes([...(node.branch ?? []), ...(node.shortcut ?? [])])]);
}

/** The network, run forward and backward: {nodes, outputs, probabilities, label, loss, ...}. Every node has x, y, dx, dy. */
export function run(data) {
  const pixels = decode(data.image.values);
  const shape = data.image.shape;
  const scale = { kind: "scale", name: "input", input: shape, output: shape, ...data.scale };
  const nodes = [scale, ...data.nodes.map(read)];
  const outputs = forwardAll(nodes, pixels);
  const classes = data.classes?.length;
  const probabilities = classes ? (data.probabilities ? outputs : softmax(outputs, classes)) : null;
  const network = { ...data, pixels, nodes, outputs, probabilities };
  network.loss = probabilities ? -Math.log(probabilities[data.label]) : null;
  backwardAll(nodes, beginning(network));
  return network;
}

/** dLoss/doutputs; where outputs are no classes there is no loss, and it is the largest output that is explained. */
export function beginning({ outputs, probabilities, label, probabilities: p }) {
  if (!p) return indicator(outputs, outputs.indexOf(outputs.reduce((a, b) => Math.max(a, b))));
  if (p === outputs) return indicator(outputs, label).map((one, k) => (one ? -1 / p[k] : 0));
  return p.map((value, k) => value - (k === label ? 1 : 0));
}

function indicator(like, at) {
  return like.map((_, k) => (k === at ? 1 : 0));
}

/** What the score of a class says about the pixels: {saliency, cam}, made on a copy, so that the loss's gradients stay.
 *
 * saliency is d score / d input (Simonyan, Vedaldi and Zisserman, 2014); cam is Grad-CAM (Selvaraju et al., 2017), of the last layer of images:
 * max(0, sum over channels of (mean of d score / dA) * A). A layer of which only a part is here answers for the loss
 * alone, so there is neither: null. */
export function looksAt(network, label) {
  if (allNodes(network.nodes).some((node) => node.given)) return null;
  const nodes = network.nodes.map(copied);
  const saliency = backwardAll(nodes, indicator(network.outputs, label));
  const last = nodes.findLast((node) => node.output.length === 3 && node.kind !== "scale");
  return { saliency: nodes[0].dy, cam: last ? camOf(last) : null };
}

function copied(node) {
  const inner =
    node.kind === "residual" ? { branch: node.branch.map(copied), shortcut: node.shortcut.map(copied) } : {};
  return { ...node, ...inner };
}

function camOf({ y, dy, output }) {
  const [h, w, c] = output;
  const weights = new Float64Array(c);
  dy.forEach((value, at) => (weights[at % c] += value / (h * w)));
  const values = new Float64Array(h * w);
  y.forEach((value, at) => (values[Math.floor(at / c)] += value * weights[at % c]));
  return { shape: [h, w], values: values.map((value) => Math.max(0, value)) };
}
