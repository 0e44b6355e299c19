// A sum on the page: in letters, in numbers, what each channel adds, and every product.

import { placeOf, show, showAsFactor } from "./numbers.mjs";
import { parts, sumOf } from "./sums.mjs";
import { element, text } from "./maps.mjs";
import { factorsOf, placeInWords } from "./words.mjs";

const FEW = 12; // terms of a long sum that are shown at first
const MOST_WRITTEN = 4; // products that are written out in the equation
const LARGEST_GRID = [15, 7]; // rows and columns of a window whose products are shown where they lie

export class SumView {
  /** `changed` is called when another channel's products are asked for. */
  constructor(section, choice, changed) {
    Object.assign(this, { section, choice, changed, told: null });
  }

  draw(everything = false) {
    const { told } = this.choice;
    if (!told) return this.section.replaceChildren(text("p", "", "The weights of this output are not in this page."));
    const groups = parts(told);
    const many = groups.length > 1 && told.terms.length > groups.length;
    this.section.replaceChildren(this.equation());
    if (many) this.section.append(this.bars(groups));
    if (told.terms.length) this.section.append(this.terms(many, everything));
  }

  /** The name, what is added, and the value: in letters, in numbers, and in words. */
  equation() {
    const { told: sum, node, end } = this.choice;
    const place = this.place();
    const count = sum.terms.length;
    const parts = [
      ...(sum.start ? [{ name: sum.start.name, value: show(sum.start.value) }] : []),
      ...(count ? [{ name: `${count > 1 ? "Σ " : ""}${factorsOf(node, end)}`, value: written(sum.terms) }] : []),
      ...(sum.rest ? [{ name: "the rest", value: show(sum.rest.value) }] : []),
    ];
    const letters = parts.map(({ name }) => name).join(" + ");
    const numbers =
      parts
        .map(({ value }) => value)
        .join(" + ")
        .replaceAll("+ −", "− ") || "0";
    const value = show(sum.value);
    const name = element("b", {}, `${sum.name}[${place.join(", ")}]`);
    const data = { "data-name": sum.name, "data-at": sum.at, "data-value": sum.value };
    return element(
      "div",
      { id: "equation", "aria-live": "polite", ...data },
      element("p", { class: "formula" }, name, letters && ` = ${letters}`),
      element("p", { class: "formula" }, numbers === value ? " = " : ` = ${numbers} = `, element("b", {}, value)),
      text("p", "note", inWords(sum, place)),
    );
  }

  /** The indices of the number; those of a weight as they are in the whole layer. */
  place() {
    const { told: sum, node } = this.choice;
    const shape = { y: node.output, dx: node.input, dw: node.shape }[sum.name] ?? [node.output.at(-1)];
    const place = placeOf(shape, sum.at);
    if (sum.name === "dw" && node.kept) place.push(node.kept[place.pop()]);
    return place;
  }

  /** A bar for each channel's part of the sum; a press shows its products. */
  bars(groups) {
    const most = Math.max(...groups.map(({ value }) => Math.abs(value)), 1e-30);
    const bars = groups.flatMap(({ group, value }, x) => {
      const height = Math.max(0.4, (Math.abs(value) / most) * 48);
      const area = { x, width: 1, y: 0, height: 100, class: group === this.choice.group ? "area here" : "area" };
      const bar = { x, width: 0.86, y: value > 0 ? 50 - height : 50, height, class: value < 0 ? "below" : "above" };
      const press = () => (this.choice.chooseGroup(group), this.changed());
      const title = element("svg:title", {}, `channel ${group}: ${show(value)}`);
      return [element("svg:rect", { ...area, onclick: press }, title), element("svg:rect", bar)];
    });
    const frame = { viewBox: `0 0 ${groups.length} 100`, preserveAspectRatio: "none", class: "bars" };
    const label = `What each of ${groups.length} channels adds; press one to see its products.`;
    return element(
      "div",
      {},
      text("p", "note", label),
      element("svg:svg", { ...frame, role: "img", "aria-label": label }, ...bars),
    );
  }

  /** The products of the chosen channel, or all of them where each channel has one. */
  terms(many, everything) {
    const { told, own, group } = this.choice;
    const title = many ? `Channel ${group} adds ${show(sumOf(own))}:` : "Term by term:";
    const fits = told.grid && told.grid[0] <= LARGEST_GRID[0] && told.grid[1] <= LARGEST_GRID[1];
    const shown = fits ? this.grid(told.grid, own) : this.list(many ? own : told.terms, everything);
    return element("div", {}, text("p", "", title), element("div", { class: "scroll", tabindex: 0 }, shown));
  }

  /** The products where they lie in the window. */
  grid([rows, columns], terms) {
    const at = new Map(terms.map((term) => [term.p * columns + term.q, term]));
    const empty = this.choice.end === "y" ? "outside the image" : "no window";
    const numbers = (count) => Array.from({ length: count }, (_, number) => number);
    const cell = (p, q) =>
      at.has(p * columns + q) ? productCell(at.get(p * columns + q)) : text("td", "empty", empty);
    const body = numbers(rows).map((p) => element("tr", {}, ...numbers(columns).map((q) => cell(p, q))));
    return element("table", { class: "products", "aria-label": this.factors() }, ...body);
  }

  /** A long sum: its largest terms, all of them on demand. */
  list(terms, everything) {
    const sorted = terms.toSorted((one, other) => Math.abs(other.a * other.b) - Math.abs(one.a * one.b));
    const shown = everything ? sorted : sorted.slice(0, FEW);
    const rest = sorted.slice(shown.length);
    const rows = shown.map((term) => {
      const cells = [this.where(term), show(term.a), `· ${showAsFactor(term.b)}`, `= ${show(term.a * term.b)}`];
      return element("tr", { "data-product": term.a * term.b }, ...cells.map((words) => text("td", "", words)));
    });
    if (rest.length) {
      const more = element(
        "button",
        { type: "button", onclick: () => this.draw(true) },
        `show the other ${rest.length}`,
      );
      rows.push(element("tr", {}, element("td", { colspan: 3 }, more), text("td", "", `= ${show(sumOf(rest))}`)));
    }
    return element("table", { class: "list", "aria-label": this.factors() }, ...rows);
  }

  factors() {
    return `each product: ${factorsOf(this.choice.node, this.choice.end)}`;
  }

  /** Where the first number of a term comes from. */
  where({ x, y, path }) {
    const { node, end } = this.choice;
    if (path) return path;
    const fromX = ["y", "w", "gamma"].includes(end);
    return `${fromX ? "x" : "dy"}[${placeOf(fromX ? node.input : node.output, fromX ? x : y).join(", ")}]`;
  }
}

/** A few products written out, or what many come to. */
function written(terms) {
  if (terms.length > MOST_WRITTEN) return show(sumOf(terms));
  return terms.map(({ a, b }) => `${show(a)}·${showAsFactor(b)}`).join(" + ");
}

function inWords(sum, place) {
  const count = sum.terms.length;
  if (!count && !sum.start && !sum.rest)
    return `${placeInWords(place)}: no output ever read this number, so nothing comes back`;
  const products = count > 1 ? `: the sum of ${count} products` : "";
  return placeInWords(place) + products + (sum.rest ? `, and ${sum.rest.name}` : "");
}

function productCell({ a, b }) {
  const sign = a * b > 0 ? "above" : a * b < 0 ? "below" : "";
  const lines = [show(a), element("br"), `· ${showAsFactor(b)}`, element("br"), element("b", {}, `= ${show(a * b)}`)];
  return element("td", { "data-product": a * b, class: sign }, ...lines);
}
