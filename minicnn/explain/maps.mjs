// Arrays as pictures: colours, tiles of all channels, and a map whose cells are chosen with a pointer or the keyboard.

import { largest, show } from "./numbers.mjs";

/** An element with attributes and children. Text is always text: nothing from a file is ever read as HTML. */
export function element(tag, attributes = {}, ...children) {
  const made = tag.startsWith("svg:")
    ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4))
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** An element with nothing but words in it. */
export function text(tag, kind, words) {
  return element(tag, kind ? { class: kind } : {}, words);
}

const isDark = () => getComputedStyle(document.documentElement).getPropertyValue("--dark").trim() === "1";

/** Colours that those who confuse red and green can tell apart: orange above 0, blue below, the paper's colour at 0. */
function palette() {
  return isDark()
    ? { zero: [24, 27, 32], above: [255, 170, 80], below: [95, 175, 255] }
    : { zero: [255, 255, 255], above: [190, 85, 0], below: [20, 90, 175] };
}

/** The colour [r, g, b] of a value between -limit and limit. */
function colour(value, limit, { zero, above, below }) {
  const end = value < 0 ? below : above;
  const part = Math.min(1, Math.abs(value) / limit) ** 0.7;
  return zero.map((from, k) => from + (end[k] - from) * part);
}

/** Paint rows x columns cells, valueAt(row, column) being a number, or null for an empty cell. */
function paint(canvas, rows, columns, valueAt, limit) {
  [canvas.width, canvas.height] = [columns, rows];
  const colours = palette();
  const picture = new ImageData(columns, rows);
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) {
      const value = valueAt(row, column);
      if (value !== null) picture.data.set([...colour(value, limit, colours), 255], (row * columns + column) * 4);
    }
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

/** Paint pixels as grey or RGB, from the least of them to the largest; an overlay (h, w) from 0 to 1 in orange over it. */
export function paintImage(canvas, [h, w, c], pixels, isBytes, overlay) {
  [canvas.width, canvas.height] = [w, h];
  const [low, high] = isBytes
    ? [0, 255]
    : [pixels.reduce((a, b) => Math.min(a, b)), pixels.reduce((a, b) => Math.max(a, b))];
  const picture = new ImageData(w, h);
  for (let at = 0; at < h * w; at++) {
    const channels = c === 3 ? [0, 1, 2] : [0, 0, 0];
    const grey = channels.map((k) => ((pixels[at * c + k] - low) / (high - low || 1)) * 255);
    const part = overlay ? 0.85 * overlay[at] : 0;
    const dimmed = overlay ? grey.map((value) => value * 0.7) : grey;
    picture.data.set([...dimmed.map((value, k) => value * (1 - part) + [255, 150, 30][k] * part), 255], at * 4);
  }
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

/** How the numbers of an array lie in a map of one channel: {rows, columns, at(row, column), of(index)}. */
export function layoutOf(shape, channel) {
  if (shape.length === 3) {
    const [h, w, c] = shape;
    return {
      rows: h,
      columns: w,
      at: (row, column) => (row * w + column) * c + channel,
      of: (index) => [Math.floor(index / c / w), Math.floor(index / c) % w],
      has: (index) => index % c === channel,
    };
  }
  const count = shape.reduce((a, b) => a * b, 1);
  const columns = count <= 16 ? count : Math.ceil(Math.sqrt(count));
  return {
    rows: Math.ceil(count / columns),
    columns,
    at: (row, column) => (row * columns + column < count ? row * columns + column : null),
    of: (index) => [Math.floor(index / columns), index % columns],
    has: () => true,
  };
}

/** All channels of an array side by side in one canvas, a pixel of room between them; channelAt(x, y) for parts of 0 to 1. */
export function paintTiles(canvas, shape, values) {
  const limit = largest(values);
  if (shape.length !== 3) {
    const { rows, columns, at } = layoutOf(shape, 0);
    paint(canvas, rows, columns, (row, column) => (at(row, column) === null ? null : values[at(row, column)]), limit);
    return () => 0;
  }
  const [h, w, c] = shape;
  const across = Math.ceil(Math.sqrt((c * h) / w));
  const [rows, columns] = [Math.ceil(c / across) * (h + 1) - 1, across * (w + 1) - 1];
  const channelAt = (row, column) => Math.floor(row / (h + 1)) * across + Math.floor(column / (w + 1));
  const inside = (row, column) => row % (h + 1) < h && column % (w + 1) < w && channelAt(row, column) < c;
  const valueAt = (row, column) => values[((row % (h + 1)) * w + (column % (w + 1))) * c + channelAt(row, column)];
  paint(canvas, rows, columns, (row, column) => (inside(row, column) ? valueAt(row, column) : null), limit);
  return (x, y) => Math.min(c - 1, channelAt(Math.floor(y * rows), Math.floor(x * columns)));
}

const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const MOST_NUMBERS_ACROSS = 7;

/** A number with two digits that count, to stand in a cell. */
const short = (value) => (Math.abs(value) < 0.0005 ? "0.000" : show(Number(value.toPrecision(2))));

/** A map of one channel. `choose(index)` is called when a cell is pointed at or reached by arrow keys, `pin()` on a click. */
export class MapView {
  constructor(id, { choose = null, pin = null } = {}) {
    this.choose = choose;
    this.canvas = element("canvas");
    this.marks = element("svg:svg", { "aria-hidden": "true" });
    this.title = element("span", { class: "what" });
    this.controls = element("span", { class: "controls" });
    this.legend = element("div", { class: "legend" });
    this.cells = element(
      "div",
      {
        class: choose ? "cells active" : "cells",
        id,
        tabindex: choose ? 0 : false,
        role: choose ? "application" : "img",
      },
      this.canvas,
      this.marks,
    );
    this.figure = element(
      "figure",
      { class: "map" },
      element("figcaption", {}, this.title, this.controls),
      this.cells,
      this.legend,
    );
    if (!choose) return;
    const point = (event) => this.pick(this.cellAt(event));
    this.cells.addEventListener("pointermove", point);
    this.cells.addEventListener("pointerdown", point);
    this.cells.addEventListener("click", (event) => event.detail && matchMedia("(hover: hover)").matches && pin?.());
    this.cells.addEventListener("keydown", (event) => this.step(event));
  }

  /** Show values in a layout; marks are {index, kind} and outlines, chosen the index with the cursor. */
  show(title, values, layout, { chosen = null, marks = [], numbers = false } = {}) {
    Object.assign(this, { layout, chosen });
    this.title.textContent = title;
    this.cells.setAttribute("aria-label", `${title}; ${this.choose ? "arrow keys move" : "a picture"}`);
    const { rows, columns } = layout;
    const shown = [];
    for (let row = 0; row < rows; row++)
      for (let column = 0; column < columns; column++) shown.push(layout.at(row, column));
    const limit = largest(shown.map((at) => (at === null ? 0 : values[at])));
    paint(this.canvas, rows, columns, (row, column) => this.valueAt(values, row, column), limit);
    this.cells.style.aspectRatio = `${columns} / ${rows}`;
    this.cells.style.width = `${(100 * columns) / Math.max(rows, columns)}%`;
    this.legend.textContent = `blue ${show(-limit)} · 0 · orange ${show(limit)}`;
    this.marks.setAttribute("viewBox", `0 0 ${columns} ${rows}`);
    this.marks.replaceChildren();
    if (numbers && columns <= MOST_NUMBERS_ACROSS) this.write(values, limit);
    for (const { index, kind } of marks) if (layout.has(index)) this.outline(layout.of(index), kind);
    if (chosen !== null && layout.has(chosen)) this.outline(layout.of(chosen), "chosen");
  }

  valueAt(values, row, column) {
    const at = this.layout.at(row, column);
    return at === null || at === undefined ? null : values[at];
  }

  outline([row, column], kind) {
    this.marks.append(element("svg:rect", { x: column, y: row, width: 1, height: 1, class: kind }));
  }

  write(values, limit) {
    const { rows, columns } = this.layout;
    for (let row = 0; row < rows; row++)
      for (let column = 0; column < columns; column++) {
        const value = this.valueAt(values, row, column);
        if (value === null) continue;
        const strong = Math.abs(value) > limit * 0.55 ? "number strong" : "number";
        this.marks.append(element("svg:text", { x: column + 0.5, y: row + 0.58, class: strong }, short(value)));
      }
  }

  cellAt(event) {
    const { left, top, width, height } = this.cells.getBoundingClientRect();
    const clip = (part, count) => Math.min(count - 1, Math.max(0, Math.floor(part * count)));
    return [
      clip((event.clientY - top) / height, this.layout.rows),
      clip((event.clientX - left) / width, this.layout.columns),
    ];
  }

  pick([row, column]) {
    const at = this.layout.at(row, column);
    if (at !== null && at !== undefined && at !== this.chosen) this.choose(at);
  }

  step(event) {
    const step = STEPS[event.key];
    if (!step) return;
    event.preventDefault();
    const [row, column] = this.chosen !== null && this.layout.has(this.chosen) ? this.layout.of(this.chosen) : [0, 0];
    const clip = (at, count) => Math.min(count - 1, Math.max(0, at));
    this.pick([clip(row + step[0], this.layout.rows), clip(column + step[1], this.layout.columns)]);
  }
}

/** Buttons that go through the channels: ‹ 3 of 32 ›. */
export function channelPicker(label, channel, count, choose) {
  if (count < 2) return [];
  const button = (text, to, name) =>
    element(
      "button",
      { type: "button", "aria-label": `${name} ${label}`, onclick: () => choose((to + count) % count) },
      text,
    );
  return [button("‹", channel - 1, "previous"), ` ${label} ${channel} of ${count} `, button("›", channel + 1, "next")];
}
