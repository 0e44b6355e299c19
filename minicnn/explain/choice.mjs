// Which number is pointed at, and which channels are shown beside it. No drawing here.

import { isImage, placeOf } from "./numbers.mjs";
import {
  channelSum,
  channelsOf,
  columnOf,
  filtersOf,
  inputSum,
  outputSum,
  parts,
  weightAt,
  weightSum,
} from "./sums.mjs";

/** A number of a layer: `end` says of which array it is, y forward; x (its dx), w, b, gamma or beta backward; `at` is its
 * index. k and f are the channels of input and output that are shown, and group is the one whose products are listed. */
export class Choice {
  constructor() {
    Object.assign(this, { node: null, backward: false, end: null, at: 0, k: 0, f: 0, group: null, told: null });
  }

  /** Go to a layer, and there to the number that is largest: of y, or of dx; of one channel where one is given. */
  select(node, channel = null) {
    Object.assign(this, { node, k: 0, f: 0, group: null });
    const [end, shape, values] = this.backward ? ["x", node.input, node.dx] : ["y", node.output, node.y];
    const step = isImage(shape) && channel !== null ? shape[2] : 1;
    let best = step > 1 ? channel % step : 0;
    for (let at = best; at < values.length; at += step) {
      const known = end === "x" || columnOf(node, at % node.output.at(-1)) !== undefined;
      if (known && Math.abs(values[at]) > Math.abs(values[best])) best = at;
    }
    this.choose(end, best);
  }

  /** Point at a number. */
  choose(end, at) {
    const { node } = this;
    Object.assign(this, { end, at });
    if (end === "y" && isImage(node.output)) this.f = at % node.output[2];
    if (end === "y" && node.kind === "dense") this.f = at;
    if (end === "x" && isImage(node.input)) this.k = at % node.input[2];
    this.told = this.sum();
    this.follow();
  }

  sum() {
    const { node, end, at } = this;
    if (end === "y") return outputSum(node, at);
    if (end === "x") return inputSum(node, at);
    return end === "w" ? weightSum(node, at) : channelSum(node, end, at);
  }

  /** The terms whose products are listed. */
  get own() {
    return (this.told?.terms ?? []).filter(({ group }) => group === this.group);
  }

  /** List the products of this channel, and show it. */
  chooseGroup(group) {
    this.group = group;
    this.follow();
  }

  /** Show the channel on the other side that adds most, unless one that adds is shown already. */
  follow() {
    if (!this.told?.terms.length) return;
    const { node, end } = this;
    const groups = parts(this.told);
    if (!groups.some(({ group }) => group === this.group))
      this.group = groups.reduce((a, b) => (Math.abs(b.value) > Math.abs(a.value) ? b : a)).group;
    const { x, y } = this.own[0];
    if (end === "y" && x !== undefined && isImage(node.input)) this.k = x % node.input[2];
    if (end === "x" && y !== undefined && isImage(node.output)) this.f = y % node.output[2];
  }

  /** Show another channel of the input: the same place in it, or the same weight, where there is one. */
  goIn(k) {
    const { node, end, at } = this;
    if (end === "x") return this.choose("x", at - this.k + k);
    if (end === "y" && node.kind === "conv" && within(channelsOf(node, this.f), k)) return this.chooseGroup(k);
    if (end === "y" && this.channelByChannel) return this.choose("y", at - this.f + k);
    this.k = k;
    this.again();
  }

  /** Show another channel of the output. */
  goOut(f) {
    const { node, end, at } = this;
    if (end === "y") return this.choose("y", node.kind === "dense" ? f : at - this.f + f);
    if (end === "x" && node.kind === "conv" && within(filtersOf(node, this.k), f)) return this.chooseGroup(f);
    if (end === "x" && this.channelByChannel) return this.choose("x", at - this.k + f);
    this.f = f;
    this.again();
  }

  /** Whether each channel of the output comes from the same channel of the input alone. */
  get channelByChannel() {
    const { kind, input, output } = this.node;
    return kind !== "conv" && isImage(input) && isImage(output) && input[2] === output[2];
  }

  /** The same weight, or bias, between the channels that are shown. */
  again() {
    const { node, end, at } = this;
    if (end === "w" && node.kind === "conv") {
      const there = this.weightAt(...placeOf(node.shape, at));
      if (there !== null) this.choose("w", there);
    }
    if (["b", "gamma", "beta"].includes(end)) this.choose(end, this.f);
  }

  /** The index of the weight at (p, q) between the channels that are shown; null where there is none in this page. */
  weightAt(p, q) {
    const { node, k, f } = this;
    return within(channelsOf(node, f), k) ? (weightAt(node, p, q, k, f) ?? null) : null;
  }
}

const within = ([first, count], at) => at >= first && at < first + count;
