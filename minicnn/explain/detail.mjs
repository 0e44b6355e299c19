// One layer: what comes in, its weights, what goes out; and for the number that is pointed at, every term of its sum.

import { placeOf, show, showAsFactor } from "./numbers.mjs";
import { ACTIVATIONS, scaleOf } from "./layers.mjs";
import { channelSum, channelsOf, columnOf, filtersOf, inputSum, outputSum, parts, sumOf, weightAt, weightSum } from "./sums.mjs";
import { MapView, channelPicker, element, layoutOf } from "./maps.mjs";
import { kindOf, placeInWords, settingsOf, shapeOf, wordsOf } from "./words.mjs";

const MOST_MARKED = 100; // numbers of a map that are outlined
const FEW = 12; // terms of a long sum that are shown at first
const MOST_WRITTEN = 4; // products that are written out in the equation

const isImage = (shape) => shape.length === 3;
const hasWeights = (node) => node.kind === "conv" || node.kind === "dense";

export class Detail {
  constructor(section, changed) {
    this.changed = changed;
    Object.assign(this, { section, node: null, backward: false, pinned: false, k: 0, f: 0 });
    const pin = () => this.pin(!this.pinned);
    const choose = (end) => (at) => this.pinned || this.choose(end, at);
    this.maps = { x: new MapView("map-x", { choose: choose("x"), pin }), w: new MapView("map-w", { choose: choose("w"), pin }), y: new MapView("map-y", { choose: choose("y"), pin }) };
    this.head = element("div", { class: "head" });
    this.middle = element("div", { class: "middle" });
    this.sum = element("div", { id: "sum" });
    const panels = element("div", { class: "panels" }, this.maps.x.figure, this.middle, this.maps.y.figure);
    section.append(this.head, element("div", { class: "work" }, panels, this.sum));
  }

  /** Show a layer: the number of its channel that is largest, or moves the loss most. */
  select(node, channel = null) {
    Object.assign(this, { node, k: 0, f: 0, group: null, everything: false });
    this.pin(false);
    const [end, shape, values] = this.backward ? ["x", node.input, node.dx] : ["y", node.output, node.y];
    const c = isImage(shape) ? shape[2] : 1;
    const one = isImage(shape) && c > 1 && channel !== null ? channel % c : null;
    let best = one ?? 0;
    for (let at = best; at < values.length; at += one === null ? 1 : c) {
      const known = end === "x" || !node.given || columnOf(node, at % node.output.at(-1)) !== undefined;
      if (known && Math.abs(values[at]) > Math.abs(values[best])) best = at;
    }
    this.choose(end, best);
  }

  turn(backward) {
    this.backward = backward;
    this.select(this.node);
  }

  pin(pinned) {
    this.pinned = pinned;
    this.section.classList.toggle("pinned", pinned);
  }

  /** Point at a number: of y forward; backward of x, of the weights, or of a channel's bias, gamma or beta. */
  choose(end, at) {
    if (end === "y" && this.backward) end = "out";
    if (end === "x" && !this.backward) end = "in";
    const node = this.node;
    if (end === "in" || end === "w" && !this.backward || end === "out") return; // there is no sum to tell
    this.chosen = { end, at };
    if (end === "y" && isImage(node.output)) this.f = at % node.output[2];
    if (end === "y" && node.kind === "dense") this.f = at;
    if (end === "x" && isImage(node.input)) this.k = at % node.input[2];
    this.told = this.sumOf(end, at);
    this.follow();
    this.draw();
  }

  sumOf(end, at) {
    if (end === "y") return outputSum(this.node, at);
    if (end === "x") return inputSum(this.node, at);
    if (end === "w") return weightSum(this.node, at);
    return channelSum(this.node, end, at);
  }

  /** Show the channel on the other side that adds most, unless one that adds is shown already. */
  follow() {
    if (!this.told?.terms.length) return;
    const groups = parts(this.told);
    if (!groups.some(({ group }) => group === this.group)) this.group = groups.reduce((a, b) => (Math.abs(b.value) > Math.abs(a.value) ? b : a)).group;
    const [term] = this.told.terms.filter(({ group }) => group === this.group);
    if (term.x !== undefined && isImage(this.node.input) && this.chosen.end === "y") this.k = term.x % this.node.input[2];
    if (term.y !== undefined && this.chosen.end === "x") this.f = isImage(this.node.output) ? term.y % this.node.output[2] : this.node.kind === "dense" ? this.f : term.y;
  }

  chooseGroup(group) {
    this.group = group;
    this.follow();
    this.draw();
  }

  draw() {
    this.drawHead();
    this.drawMaps();
    this.drawMiddle();
    this.drawSum();
    this.changed?.(this);
  }

  drawHead() {
    const { node } = this;
    const words = wordsOf(node);
    this.head.replaceChildren(
      element("h3", {}, `${node.name}: ${kindOf(node)}`),
      element("p", { class: "note" }, [`${shapeOf(node.input)} → ${shapeOf(node.output)}`, settingsOf(node)].filter(Boolean).join(" · ")),
      element("p", {}, element("code", {}, this.backward ? words.gradients : words.equation)),
      element("p", {}, this.backward ? words.back : words.forward),
      ...(node.kept ? [element("p", { class: "note" }, `This layer has more weights than fit in a page: here are those of ${node.kept.length} of its ${node.output.at(-1)} outputs, the ones that matter most for this image.`)] : []),
    );
  }

  drawMaps() {
    const { node, backward, chosen, told, k, f } = this;
    const meets = chosen.end === "w" || chosen.end === "gamma"; // then it is x that counts on the left side
    const [xs, ys] = backward ? [meets ? node.x : node.dx, node.dy] : [node.x, node.y];
    const [xName, yName] = backward ? [meets ? "x, what came in" : "dx, what goes back", "dy, what came back"] : ["x, what comes in", "y, what goes out"];
    const own = (told?.terms ?? []).filter(({ group }) => group === this.group);
    const seen = (end, key) => (chosen.end === end && own.length <= MOST_MARKED ? own.filter((term) => term[key] !== undefined).map((term) => ({ index: term[key], kind: "seen" })) : []);
    this.maps.x.show(xName, xs, layoutOf(node.input, k), { chosen: chosen.end === "x" ? chosen.at : null, marks: seen("y", "x") });
    this.maps.y.show(yName, ys, layoutOf(node.output, f), { chosen: chosen.end === "y" ? chosen.at : null, marks: seen("x", "y") });
    const picker = (shape, at, go) => (isImage(shape) ? channelPicker("channel", at, shape[2], go) : []);
    this.maps.x.controls.replaceChildren(...picker(node.input, k, (to) => this.goIn(to)));
    this.maps.y.controls.replaceChildren(...picker(node.output, f, (to) => this.goOut(to)));
  }

  /** Another channel of the input, or of the output: the same place in it, or the same weight. */
  goIn(to) {
    const { node, chosen } = this;
    if (chosen.end === "x") return this.choose("x", chosen.at - this.k + to);
    if (node.kind === "conv") {
      const [first, count] = channelsOf(node, this.f);
      if (chosen.end === "y" && to >= first && to < first + count) return this.chooseGroup(to);
    }
    if (chosen.end === "y" && isImage(node.output) && node.input[2] === node.output[2] && node.kind !== "conv") return this.choose("y", chosen.at - this.f + to);
    this.k = to;
    this.again();
  }

  goOut(to) {
    const { node, chosen } = this;
    if (chosen.end === "y") return this.choose("y", chosen.at - this.f + to);
    if (node.kind === "conv") {
      const [first, count] = filtersOf(node, this.k);
      if (chosen.end === "x" && to >= first && to < first + count) return this.chooseGroup(to);
    }
    if (chosen.end === "x" && isImage(node.input) && node.input[2] === node.output[2] && node.kind !== "conv") return this.choose("x", chosen.at - this.k + to);
    this.f = to;
    this.again();
  }

  /** The same weight or bias, between the channels that are shown; the gradient's own place where it has none there. */
  again() {
    const { node, chosen } = this;
    if (chosen.end === "w" && node.kind === "conv") {
      const [p, q] = placeOf(node.shape, chosen.at);
      const at = this.weightAt(p, q);
      if (at !== null) return this.choose("w", at);
    }
    if (["b", "gamma", "beta"].includes(chosen.end)) return this.choose(chosen.end, this.f);
    this.draw();
  }

  weightAt(p, q) {
    const [first, count] = channelsOf(this.node, this.f);
    return this.k >= first && this.k < first + count ? weightAt(this.node, p, q, this.k, this.f) ?? null : null;
  }

  drawMiddle() {
    const { node } = this;
    if (hasWeights(node)) return this.drawWeights();
    const shown = node.kind === "batchnorm" ? this.statistics() : node.kind === "activation" ? this.curve() : [];
    this.middle.replaceChildren(...[shown].flat());
  }

  drawWeights() {
    const { node, backward, chosen, f } = this;
    const layout = node.kind === "conv" ? this.kernelLayout() : this.denseLayout();
    const values = backward ? this.weightGradients(layout) : node.w;
    const title = `${backward ? "dw" : "w"}: ${node.kind === "conv" ? `channel ${this.k} → channel ${f}` : `the weights of output ${f}`}`;
    const marks = chosen.end === "x" ? this.told.terms.filter(({ group }) => group === this.group).map(({ w }) => ({ index: w, kind: "seen" })) : [];
    this.maps.w.show(title, values, layout, { chosen: chosen.end === "w" ? chosen.at : null, numbers: true, marks: marks.length <= MOST_MARKED ? marks : [] });
    const units = node.kind === "dense" ? channelPicker("output", f, node.output[0], (to) => (backward ? ((this.f = to), this.draw()) : this.choose("y", to))) : [];
    this.maps.w.controls.replaceChildren(...units);
    this.middle.replaceChildren(this.maps.w.figure, ...(node.b ? [this.channelButton("b", node.b[f])] : []));
  }

  /** A bias, or batch norm's gamma or beta: its value forward, a button for the sum of its gradient backward. */
  channelButton(name, value) {
    const channel = isImage(this.node.output) || this.node.kind === "dense" ? this.f : 0;
    if (!this.backward) return element("p", { class: "value" }, `${name}[${channel}] = ${show(value)}`);
    const pressed = this.chosen.end === name;
    return element("button", { type: "button", "aria-pressed": pressed, onclick: () => this.choose(name, channel) }, `d${name}[${channel}] = ${show(channelSum(this.node, name, channel).value)}`);
  }

  kernelLayout() {
    const { node, k, f } = this;
    const [rows, columns] = node.shape;
    return { rows, columns, at: (p, q) => this.weightAt(p, q), of: (index) => placeOf(node.shape, index).slice(0, 2), has: (index) => this.weightAt(...placeOf(node.shape, index)) === index };
  }

  denseLayout() {
    const { node, f } = this;
    const [units, column] = [node.shape[1], columnOf(node, f)];
    const flat = layoutOf(node.input, 0);
    const at = (row, across) => (column === undefined || flat.at(row, across) === null ? null : flat.at(row, across) * units + column);
    return { ...flat, at, of: (index) => flat.of(Math.floor(index / units)), has: (index) => index % units === column };
  }

  weightGradients({ rows, columns, at }) {
    const found = {};
    for (let p = 0; p < rows; p++) for (let q = 0; q < columns; q++) if (at(p, q) !== null) found[at(p, q)] = weightSum(this.node, at(p, q)).value;
    return found;
  }

  statistics() {
    const { node, f } = this;
    const c = isImage(node.output) ? f : this.chosen.at % node.gamma.length;
    const rows = ["gamma", "beta", "mean", "variance"].map((name) => element("p", { class: "value" }, `${name}[${c}] = ${show(node[name][c])}`));
    const scale = element("p", { class: "value" }, `so y = x · ${showAsFactor(scaleOf(node, c))} + ${showAsFactor(node.beta[c] - node.mean[c] * scaleOf(node, c))}`);
    const gradients = this.backward && isImage(node.output) ? [this.channelButton("gamma"), this.channelButton("beta")] : [];
    return [...rows, scale, ...gradients];
  }

  /** The activation's curve, with the point where the chosen number lies. */
  curve() {
    const { node, chosen } = this;
    const { f, derivative } = ACTIVATIONS[node.f];
    const x = node.x[chosen.at];
    const wide = Math.max(3, Math.ceil(Math.abs(x)));
    const points = Array.from({ length: 121 }, (_, k) => -wide + (k / 60) * wide);
    const y = (at) => f(at, node.negative_slope);
    const top = Math.max(1, ...points.map((at) => Math.abs(y(at))));
    const to = (at, value) => `${((at / wide) * 100).toFixed(2)},${((-value / top) * 70).toFixed(2)}`;
    const [cx, cy] = to(x, y(x)).split(",");
    const drawing = element("svg:svg", { viewBox: "-104 -76 208 152", class: "curve", role: "img", "aria-label": `the curve of ${node.f}` },
      element("svg:path", { d: "M-104,0H104M0,-76V76", class: "axis" }),
      element("svg:polyline", { points: points.map((at) => to(at, y(at))).join(" "), class: "line" }),
      element("svg:circle", { cx, cy, r: 4, class: "point" }));
    return [drawing, element("p", { class: "value" }, `x = ${show(x)}, f(x) = ${show(y(x))}, f′(x) = ${show(derivative(x, node.negative_slope))}`)];
  }

  // -- the sum ---------------------------------------------------------------------------------------------------

  drawSum() {
    const { told } = this;
    if (!told) return this.sum.replaceChildren(element("p", {}, "The weights of this output are not in this page. Choose another one."));
    const groups = parts(told);
    this.sum.replaceChildren(
      this.equation(told),
      ...(groups.length > 1 && told.terms.length > groups.length ? [this.bars(groups)] : []),
      ...(told.terms.length ? [this.terms(told, groups)] : []),
    );
  }

  /** The name, what is added, and the value: in letters, in numbers, and in words. */
  equation(sum) {
    const { node } = this;
    const shape = { y: node.output, dx: node.input, dw: node.shape }[sum.name] ?? [node.output.at(-1)];
    const place = placeOf(shape, sum.at);
    if (sum.name === "dw" && node.kept) place[place.length - 1] = node.kept[place.at(-1)];
    const pair = this.factors();
    const count = sum.terms.length;
    const product = count === 1 ? "" : "Σ ";
    const start = sum.start ? [sum.start] : [];
    const rest = sum.rest ? [{ name: "the rest", value: sum.rest.value }] : [];
    const few = count <= MOST_WRITTEN ? sum.terms.map(({ a, b }) => `${show(a)}·${showAsFactor(b)}`) : [show(sumOf(sum.terms))];
    const letters = [...start.map(({ name }) => name), ...(count ? [product + pair] : []), ...rest.map(({ name }) => name)];
    const numbers = [...start.map(({ value }) => show(value)), ...few, ...rest.map(({ value }) => show(value))];
    const line = numbers.join(" + ").replaceAll("+ −", "− ") || "0";
    const value = show(sum.value);
    return element("div", { id: "equation", "aria-live": "polite", "data-name": sum.name, "data-at": sum.at, "data-value": sum.value },
      element("p", { class: "formula" }, element("b", {}, `${sum.name}[${place.join(", ")}]`), letters.length ? ` = ${letters.join(" + ")}` : ""),
      element("p", { class: "formula" }, line === value ? " = " : ` = ${line} = `, element("b", {}, value)),
      element("p", { class: "note" }, `${placeInWords(place)}${count > 1 ? `: the sum of ${count} products` : count ? "" : sum.start ? "" : ": no output ever read this number, so nothing comes back"}${sum.rest ? `, and ${sum.rest.name}` : ""}`));
  }

  /** What the two numbers of a term are called. */
  factors() {
    const { node } = this;
    const { end } = this.chosen;
    const named = { conv: "w", dense: "w", scale: "factor", batchnorm: "scale", maxpool2d: "[wins]", globalmaxpool2d: "[wins]", averagepool2d: "share", globalaveragepool2d: "share" };
    if (end === "w") return "x · dy";
    if (["b", "beta"].includes(end)) return "1 · dy";
    if (end === "gamma") return "x̂ · dy";
    if (node.kind === "residual") return "both paths";
    const second = node.kind === "activation" ? "f′(x)" : node.kind === "softmax" ? "y · ([same] − y)" : named[node.kind] ?? "1";
    return `${end === "y" ? "x" : "dy"} · ${second}`;
  }

  /** A bar for each channel's part of the sum; a press shows its products. */
  bars(groups) {
    const most = Math.max(...groups.map(({ value }) => Math.abs(value)), 1e-30);
    const made = groups.map(({ group, value }, at) => {
      const height = (Math.abs(value) / most) * 48;
      const bar = element("svg:rect", { x: at, width: 0.86, y: value > 0 ? 50 - height : 50, height: Math.max(height, 0.4), class: value < 0 ? "below" : "above" });
      const area = element("svg:rect", { x: at, width: 1, y: 0, height: 100, class: group === this.group ? "area here" : "area", onclick: () => this.chooseGroup(group) }, element("svg:title", {}, `channel ${group}: ${show(value)}`));
      return [area, bar];
    });
    const chart = element("svg:svg", { viewBox: `0 0 ${groups.length} 100`, preserveAspectRatio: "none", class: "bars", role: "img", "aria-label": "what each channel adds" }, ...made.flat());
    return element("div", {}, element("p", { class: "note" }, `What each of ${groups.length} channels adds; press one to see its products.`), chart);
  }

  terms(sum, groups) {
    const own = sum.terms.filter(({ group }) => group === this.group);
    const value = sumOf(own);
    const title = groups.length > 1 && sum.terms.length > groups.length ? `Channel ${this.group} adds ${show(value)}:` : "Term by term:";
    const shown = sum.grid && sum.grid[1] <= 7 && sum.grid[0] <= 15 ? this.grid(sum.grid, own) : this.list(groups.length > 1 && sum.terms.length === groups.length ? sum.terms : own);
    return element("div", {}, element("p", {}, title), element("div", { class: "scroll", tabindex: 0 }, shown));
  }

  /** The products where they lie in the window. */
  grid([rows, columns], terms) {
    const at = new Map(terms.map((term) => [term.p * columns + term.q, term]));
    const cell = (p, q) => {
      const term = at.get(p * columns + q);
      if (!term) return element("td", { class: "empty" }, this.chosen.end === "y" ? "outside the image" : "no window");
      const product = term.a * term.b;
      return element("td", { "data-product": product, class: product > 0 ? "above" : product < 0 ? "below" : "" }, `${show(term.a)}`, element("br"), `· ${showAsFactor(term.b)}`, element("br"), element("b", {}, `= ${show(product)}`));
    };
    const body = Array.from({ length: rows }, (_, p) => element("tr", {}, ...Array.from({ length: columns }, (_, q) => cell(p, q))));
    return element("table", { class: "products", "aria-label": `each cell: ${this.factors()}` }, ...body);
  }

  /** A long sum: its largest terms, all of them on demand. */
  list(terms) {
    const sorted = terms.toSorted((one, other) => Math.abs(other.a * other.b) - Math.abs(one.a * one.b));
    const shown = this.everything ? sorted : sorted.slice(0, FEW);
    const rows = shown.map((term) => element("tr", { "data-product": term.a * term.b }, ...[this.whereOf(term), show(term.a), `· ${showAsFactor(term.b)}`, `= ${show(term.a * term.b)}`].map((text) => element("td", {}, text))));
    const rest = sorted.slice(shown.length);
    if (rest.length) {
      const more = element("button", { type: "button", onclick: () => ((this.everything = true), this.drawSum()) }, `show the other ${rest.length}`);
      rows.push(element("tr", {}, element("td", { colspan: 3 }, more), element("td", {}, `= ${show(sumOf(rest))}`)));
    }
    return element("table", { class: "list", "aria-label": `where, and ${this.factors()}` }, ...rows);
  }

  whereOf({ x, y, path }) {
    const { node, chosen } = this;
    if (path) return path;
    const of = (name, shape, at) => `${name}[${placeOf(shape, at).join(", ")}]`;
    if (chosen.end === "y") return of("x", node.input, x);
    return of(chosen.end === "w" || chosen.end === "gamma" ? "x" : "dy", chosen.end === "w" || chosen.end === "gamma" ? node.input : node.output, chosen.end === "w" || chosen.end === "gamma" ? x : y);
  }
}
