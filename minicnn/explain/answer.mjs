// What the network answers for the image: prediction, loss, where the gradient begins, and where the network looks.

import { largest, show } from "./numbers.mjs";
import { looksAt } from "./network.mjs";
import { element, paintImage } from "./maps.mjs";

const VIEWS = {
  image: () => "The image as the network gets it.",
  saliency: (name) => `Saliency: how strongly the score of ${name} would move if this pixel moved.`,
  cam: (name) => `Grad-CAM: which places speak for ${name} in the last layer that still is an image.`,
};

/** Fill the section: the image with its overlays, the sentence, and the table from outputs to gradients. */
export function showAnswer(network, section) {
  const canvas = element("canvas", { role: "img", "aria-label": "the image", id: "picture" });
  const note = element("p", { class: "note" });
  const views = network.probabilities ? looks(network) : {};
  let view = "image";
  const draw = () => {
    paintImage(canvas, imageShape(network), network.pixels, network.image.bytes, views[view]);
    note.textContent = VIEWS[view](network.classes?.[network.label]);
  };
  const choices = Object.keys(VIEWS).filter((name) => name === "image" || views[name]);
  const radios = choices.map((name) => {
    const input = element("input", {
      type: "radio",
      name: "view",
      value: name,
      onchange: () => ((view = name), draw()),
    });
    input.checked = name === view;
    return element("label", {}, input, { image: "image", saliency: "saliency", cam: "Grad-CAM" }[name]);
  });
  const picture = element(
    "div",
    { class: "picture" },
    canvas,
    element("div", { class: "choices", role: "radiogroup", "aria-label": "what to show over the image" }, ...radios),
    note,
  );
  section.append(picture, element("div", { class: "words" }, ...sentences(network)));
  if (network.probabilities) section.append(table(network));
  draw();
  return draw;
}

function imageShape({ image: { shape } }) {
  return shape.length === 3 ? shape : [1, shape.reduce((a, b) => a * b, 1), 1];
}

/** saliency and cam as overlays, 0 to 1 for each pixel. */
function looks(network) {
  const [h, w, c] = imageShape(network);
  const found = looksAt(network, network.label);
  if (!found) return {};
  const strength = new Float64Array(h * w);
  found.saliency.forEach(
    (value, at) => (strength[Math.floor(at / c)] = Math.max(strength[Math.floor(at / c)], Math.abs(value))),
  );
  const parts = (values) => values.map((value) => value / largest(values));
  return { saliency: parts(strength), cam: found.cam && parts(stretched(found.cam, h, w)) };
}

/** A map made as large as the image, by linear interpolation between the middles of its pixels. */
export function stretched({ shape: [rows, columns], values }, h, w) {
  const along = (size, have) =>
    Array.from({ length: size }, (_, k) => {
      const at = Math.min(have - 1, Math.max(0, ((k + 0.5) * have) / size - 0.5));
      const low = Math.floor(at);
      return [low, Math.min(low + 1, have - 1), at - low];
    });
  const made = new Float64Array(h * w);
  along(h, rows).forEach(([top, bottom, down], i) =>
    along(w, columns).forEach(([left, right, across], j) => {
      const row = (r) => values[r * columns + left] * (1 - across) + values[r * columns + right] * across;
      made[i * w + j] = row(top) * (1 - down) + row(bottom) * down;
    }),
  );
  return made;
}

function sentences(network) {
  const { probabilities, classes, label, labelKnown, loss, outputs } = network;
  if (!probabilities)
    return [
      element(
        "p",
        { class: "verdict" },
        `The network gives ${outputs.length === 1 ? show(outputs[0]) : `${outputs.length} numbers`}.`,
      ),
      element("p", {}, "What follows explains the largest of them: the gradients say how it would move."),
    ];
  const best = probabilities.indexOf(probabilities.reduce((a, b) => Math.max(a, b)));
  const percent = (p) => `${(p * 100).toFixed(p > 0.1 ? 0 : 1)} %`;
  const truth = labelKnown
    ? best === label
      ? "and that is right."
      : `but it is: ${classes[label]} (${percent(probabilities[label])}).`
    : "(The truth is not known here; the loss is that of this answer.)";
  return [
    element(
      "p",
      { class: "verdict" },
      `The network says: ${classes[best]} (${percent(probabilities[best])}), ${truth}`,
    ),
    element(
      "p",
      { id: "loss", "data-value": loss },
      `Loss = −log p[${classes[label]}] = −log ${show(probabilities[label])} = ${show(loss)}`,
    ),
    element(
      "p",
      {},
      "Forward, the image goes through the layers below and becomes one output for each class; softmax makes probabilities of them, and the loss says how wrong they are. Backward, the gradient begins here, with one number for each output: probability − 1 for the true class, the probability for all others. From there each layer hands it on to the one before.",
    ),
  ];
}

function table(network) {
  const { outputs, probabilities, classes, label } = network;
  const dy = network.nodes.at(-1).dy;
  const bar = (p) =>
    element(
      "td",
      { class: "bar" },
      element("span", { style: `width: ${(p * 100).toFixed(1)}%` }),
      element("b", {}, show(Number(p.toPrecision(3)))),
    );
  const rows = classes.map((name, k) =>
    element(
      "tr",
      { class: k === label ? "true" : "" },
      element("th", { scope: "row" }, name + (k === label ? " ◂" : "")),
      element("td", {}, show(outputs[k])),
      bar(probabilities[k]),
      element("td", {}, show(dy[k])),
    ),
  );
  const heads = [
    "class",
    network.probabilities === outputs ? "output" : "output (logit)",
    "probability",
    "gradient",
  ].map((text) => element("th", { scope: "col" }, text));
  const whole = element(
    "table",
    { class: "classes" },
    element("thead", {}, element("tr", {}, ...heads)),
    element("tbody", {}, ...rows),
  );
  return element("div", { class: "scroll" }, whole);
}
