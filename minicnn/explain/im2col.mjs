// A convolution as one matrix product, step by step: each window becomes a row of a matrix (im2col), y = matrix · w.

import { show, showAsFactor } from "./numbers.mjs";
import { weightAt } from "./sums.mjs";
import { pixelAt } from "./windows.mjs";
import { MapView, element, layoutOf } from "./maps.mjs";

const PAUSE = 180; // milliseconds a step

export class Im2col {
  constructor(section) {
    this.section = section;
    this.image = new MapView("im2col-x");
    this.matrix = new MapView("im2col-matrix");
    this.result = new MapView("im2col-y");
    this.slider = element("input", {
      type: "range",
      min: 0,
      value: 0,
      "aria-label": "the window's position",
      oninput: () => this.go(Number(this.slider.value)),
    });
    this.play = element("button", { type: "button", onclick: () => this.run(!this.timer) }, "▶ play");
    this.words = element("p", { class: "formula", "aria-live": "off" });
    const button = (text, name, step) =>
      element("button", { type: "button", "aria-label": name, onclick: () => this.go(this.at + step) }, text);
    const controls = element(
      "div",
      { class: "controls" },
      button("‹", "one window back", -1),
      this.play,
      button("›", "one window on", 1),
      this.slider,
    );
    section.append(
      element("h3", {}, "The same as one matrix product"),
      element(
        "p",
        {},
        "A convolution is a dense layer on every window: write each window as a row of a matrix, and all outputs are one product of this matrix with the kernel, written as a column. Shown is the channel above; the other channels' columns stand beside it in the same rows.",
      ),
      controls,
      this.words,
      element("div", { class: "panels" }, this.image.figure, this.matrix.figure, this.result.figure),
    );
  }

  /** Follow the layer and the channels that the detail shows; nothing to see where it is no convolution. */
  show({ node, k, f }) {
    this.section.hidden = node.kind !== "conv";
    if (this.section.hidden || (node === this.node && k === this.k && f === this.f))
      return this.run(this.timer && !this.section.hidden);
    const fresh = node !== this.node;
    Object.assign(this, { node, k, f });
    const [kh, kw] = node.window.size;
    this.taps = Array.from({ length: kh * kw }, (_, tap) => [Math.floor(tap / kw), tap % kw]);
    this.weights = this.taps.map(([p, q]) => node.w[weightAt(node, p, q, k, f)]);
    this.rows = Array.from({ length: node.output[0] * node.output[1] }, (_, position) => this.window(position));
    this.slider.max = this.rows.length - 1;
    if (fresh) this.run(false);
    this.go(fresh ? Math.floor(this.rows.length / 2) : this.at);
  }

  /** The window at a position: for each of its pixels the index in x, or null in the padding. */
  window(position) {
    const { node } = this;
    const [i, j] = [Math.floor(position / node.output[1]), position % node.output[1]];
    return this.taps.map(([p, q]) => {
      const pixel = pixelAt(node.window, node.input, i, j, p, q);
      return pixel && (pixel.row * node.input[1] + pixel.column) * node.input[2] + this.k;
    });
  }

  go(at) {
    this.at = Math.min(this.rows.length - 1, Math.max(0, at));
    this.slider.value = this.at;
    this.draw();
  }

  run(on) {
    clearInterval(this.timer);
    this.timer = on ? setInterval(() => this.go((this.at + 1) % this.rows.length), PAUSE) : null;
    this.play.textContent = on ? "❚❚ pause" : "▶ play";
  }

  redraw() {
    if (!this.section.hidden) this.draw();
  }

  draw() {
    const { node, at, rows, taps } = this;
    const row = rows[at];
    const number = (index) => (index === null ? 0 : node.x[index]);
    this.image.show(`x, channel ${this.k}: the window`, node.x, layoutOf(node.input, this.k), {
      marks: row.filter((index) => index !== null).map((index) => ({ index, kind: "seen" })),
    });
    const window = 15; // rows of the matrix around the one that is written
    const first = Math.max(0, Math.min(rows.length - window, at - Math.floor(window / 2)));
    const count = Math.min(window, rows.length);
    const cells = {
      rows: count,
      columns: taps.length,
      at: (r, tap) => (first + r <= at ? (first + r) * taps.length + tap : null),
      of: (index) => [Math.floor(index / taps.length) - first, index % taps.length],
      has: () => true,
    };
    const values = {};
    for (let r = first; r < first + count; r++)
      rows[r].forEach((index, tap) => (values[r * taps.length + tap] = number(index)));
    this.matrix.show(`the matrix, rows ${first} to ${first + count - 1} of ${rows.length}`, values, cells, {
      marks: taps.map((_, tap) => ({ index: at * taps.length + tap, kind: "seen" })),
    });
    const sums = {};
    for (let r = 0; r <= at; r++)
      sums[r] = rows[r].reduce((sum, index, tap) => sum + number(index) * this.weights[tap], 0);
    const [oh, ow] = node.output;
    const outputs = {
      rows: oh,
      columns: ow,
      at: (i, j) => (i * ow + j <= at ? i * ow + j : null),
      of: (index) => [Math.floor(index / ow), index % ow],
      has: () => true,
    };
    this.result.show(`channel ${this.k}'s part of y, filter ${this.f}`, sums, outputs, { chosen: at });
    const terms = row.map((index, tap) => `${showAsFactor(number(index))}·${showAsFactor(this.weights[tap])}`);
    const told = terms.length > 9 ? [...terms.slice(0, 9), "…"] : terms;
    this.words.textContent = `row ${at}: ${told.join(" + ")} = ${show(sums[at])}`;
  }
}
