// The page's numbers against minicnn's: run by tests/test_explain.py, with the folder of pages and references in PAGES.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { sizeOf } from "../../minicnn/explain/numbers.mjs";
import { allNodes, looksAt, run } from "../../minicnn/explain/network.mjs";
import { stretched } from "../../minicnn/explain/answer.mjs";
import { channelSum, columnOf, inputSum, outputSum, total, weightSum } from "../../minicnn/explain/sums.mjs";

const MOST = 1000; // sums of a layer that are tried, in each direction

function floats(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Float64Array(bytes.buffer);
}

/** Up to MOST different indices below `count`, far from one another: steps of a prime that does not divide it. */
function some(count) {
  const step = [7919, 7907].find((prime) => count % prime);
  return Array.from({ length: Math.min(count, MOST) }, (_, k) => (k * step) % count);
}

function close(got, expected, largest, what) {
  assert.ok(Math.abs(got - expected) <= 1e-5 * Math.max(largest, 1e-6), `${what}: got ${got}, expected ${expected}`);
}

const most = (values) => values.reduce((a, b) => Math.max(a, Math.abs(b)), 0);

/** Every number of an array, and the sums of some of them, against the reference. */
function compare(name, reference, values, sumAt) {
  const expected = floats(reference);
  assert.equal(values.length, expected.length, name);
  expected.forEach((value, at) => close(values[at], value, most(expected), `${name}[${at}]`));
  let tried = 0;
  for (const at of some(expected.length)) {
    const sum = sumAt(at);
    if (sum === null) continue;
    tried++;
    close(total(sum), expected[at], most(expected), `the sum of ${name}[${at}]`);
    close(sum.value, expected[at], most(expected), `the value of ${name}[${at}]`);
  }
  assert.ok(tried > 0, `${name}: no sum was tried`);
}

const folder = process.env.PAGES;
const names = readdirSync(folder).filter((name) => name.endsWith(".json"));
assert.ok(names.length > 0, "no pages");

for (const name of names)
  test(name, () => {
    const reference = JSON.parse(readFileSync(join(folder, name), "utf-8"));
    const html = readFileSync(join(folder, name.replace(".json", ".html")), "utf-8");
    const network = run(JSON.parse(html.match(/<script type="application\/json" id="data">(.*?)<\/script>/s)[1]));
    const nodes = allNodes(network.nodes).filter(({ kind }) => kind !== "scale");
    assert.deepEqual(nodes.map((node) => node.name).sort(), Object.keys(reference.nodes).sort());
    for (const node of nodes) {
      const { y, dx, dw, channels } = reference.nodes[node.name];
      compare(`${node.name}.y`, y, node.y, (at) => outputSum(node, at));
      compare(`${node.name}.dx`, dx, node.dx, (at) => inputSum(node, at));
      if (dw) compareWeights(node, floats(dw));
      for (const [array, values] of Object.entries(channels))
        floats(values).forEach((value, k, all) =>
          close(channelSum(node, array, k).value, value, most(all), `${node.name}.d${array}[${k}]`),
        );
    }
    if (reference.loss !== null) close(network.loss, reference.loss, 1, "loss");
    compareLooks(network, reference);
  });

/** dw of the weights that are in the page; a reference is (..., filters), the page's may have fewer of them. */
function compareWeights(node, expected) {
  const columns = node.shape.at(-1);
  const filters = node.kept ?? Array.from({ length: columns }, (_, column) => column);
  const all = expected.length / (sizeOf(node.shape) / columns);
  for (const at of some(sizeOf(node.shape))) {
    const filter = filters[at % columns];
    assert.equal(columnOf(node, filter), at % columns);
    const value = expected[Math.floor(at / columns) * all + filter];
    close(weightSum(node, at).value, value, most(expected), `${node.name}.dw[${at}]`);
    close(total(weightSum(node, at)), value, most(expected), `the sum of ${node.name}.dw[${at}]`);
  }
}

function compareLooks(network, reference) {
  const found = looksAt(network, network.label);
  if (!reference.saliency) return assert.ok(found === null || !network.probabilities);
  const saliency = floats(reference.saliency);
  saliency.forEach((value, at) => close(found.saliency[at], value, most(saliency), `saliency[${at}]`));
  if (!reference.cam) return assert.equal(found.cam, null);
  const [h, w] = network.image.shape;
  const cam = stretched(found.cam, h, w);
  const largest = most(cam) || 1;
  floats(reference.cam).forEach((value, at) => close(cam[at] / largest, value, 1, `cam[${at}]`));
}
