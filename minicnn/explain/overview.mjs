// The network from left to right: a card for each layer, with the maps of all its channels, values or gradients.

import { element, paintTiles } from "./maps.mjs";
import { kindOf, shapeOf } from "./words.mjs";

export class Overview {
  /** `choose(node, channel)` is called for a card, with the channel where one of its maps was pressed. */
  constructor(network, list, choose) {
    this.cards = [];
    Object.assign(this, { list, choose });
    list.append(...network.nodes.map((node) => this.entry(node)));
    list.addEventListener("keydown", (event) => this.step(event));
  }

  entry(node) {
    const card = this.card(node);
    if (node.kind !== "residual") return element("li", {}, card);
    const path = (name, nodes) =>
      element(
        "div",
        { class: "path" },
        element("span", { class: "note" }, nodes.length ? name : `${name}: x as it is`),
        element("ol", {}, ...nodes.map((inner) => this.entry(inner))),
      );
    return element(
      "li",
      { class: "block" },
      element("div", { class: "paths" }, path("branch", node.branch), path("shortcut", node.shortcut)),
      card,
    );
  }

  card(node) {
    const canvas = element("canvas", { "aria-hidden": "true" });
    const label = `${node.name}, ${kindOf(node)}, gives ${shapeOf(node.output)}`;
    const button = element(
      "button",
      { type: "button", class: "card", title: label, "aria-label": label, "data-node": node.name },
      element("b", {}, node.name.split("/").at(-1)),
      element("span", {}, kindOf(node)),
      canvas,
      element("small", {}, shapeOf(node.output)),
    );
    const card = { node, canvas, button, channelAt: () => 0 };
    button.addEventListener("click", (event) =>
      this.choose(node, event.target === canvas ? this.channel(card, event) : null),
    );
    this.cards.push(card);
    return button;
  }

  channel({ canvas, channelAt }, event) {
    const { left, top, width, height } = canvas.getBoundingClientRect();
    return channelAt((event.clientX - left) / width, (event.clientY - top) / height);
  }

  /** Paint all maps, of values or of gradients, and mark the card of the chosen node. */
  draw(chosen, backward) {
    for (const card of this.cards) {
      card.channelAt = paintTiles(card.canvas, card.node.output, backward ? card.node.dy : card.node.y);
      card.button.setAttribute("aria-pressed", card.node === chosen);
      if (card.node === chosen) this.list.scrollTo({ left: card.button.offsetLeft - this.list.clientWidth / 2 });
    }
  }

  step(event) {
    const at = this.cards.findIndex(({ button }) => button === document.activeElement);
    const to = at + { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (at < 0 || !this.cards[to]) return;
    event.preventDefault();
    this.cards[to].button.focus();
  }
}
