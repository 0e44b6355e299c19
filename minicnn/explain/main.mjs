// The page: reads its data, runs the network, and hands everything to its parts.

import { show } from "./numbers.mjs";
import { allNodes, run } from "./network.mjs";
import { showAnswer } from "./answer.mjs";
import { Overview } from "./overview.mjs";
import { Detail } from "./detail.mjs";
import { Im2col } from "./im2col.mjs";

function start() {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const network = run(data);
  byId("title").textContent = document.title = data.title;
  const drawAnswer = showAnswer(network, byId("answer"));
  const im2col = new Im2col(byId("im2col"));
  const detail = new Detail(byId("layer"), (shown) => im2col.show(shown));
  const overview = new Overview(network, byId("cards"), (node, channel) => {
    detail.select(node, channel);
    overview.draw(node, detail.choice.backward);
  });
  const turn = (backward) => {
    detail.turn(backward);
    overview.draw(detail.choice.node, backward);
    byId(backward ? "backward" : "forward").checked = true;
    document.body.classList.toggle("backward", backward);
  };
  const theme = () => {
    const dark = getComputedStyle(document.documentElement).getPropertyValue("--dark").trim() === "1";
    document.documentElement.dataset.theme = dark ? "light" : "dark";
    redraw();
  };
  const redraw = () => {
    drawAnswer();
    overview.draw(detail.choice.node, detail.choice.backward);
    detail.draw();
    im2col.redraw();
  };
  byId("forward").addEventListener("change", () => turn(false));
  byId("backward").addEventListener("change", () => turn(true));
  byId("theme").addEventListener("click", theme);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "b") turn(!detail.choice.backward);
    if (event.key === "Escape") detail.pin(false);
  });
  detail.choice.node = network.nodes.find((node) => node.kind === "conv") ?? network.nodes[1] ?? network.nodes[0];
  turn(false);
  byId("agreement").textContent = agreement(network, data.outputs);
  document.body.classList.add("ready");
}

/** How far the outputs that this page computed are from those that minicnn computed. */
function agreement(network, outputs) {
  const most = Math.max(...network.outputs.map((value, k) => Math.abs(value - outputs[k])));
  const sums = allNodes(network.nodes).length;
  return `Your browser has computed all ${sums} layers once more, in float64: its outputs and minicnn's differ by at most ${show(most)}.`;
}

// the browser shows the words first, and computes then
requestAnimationFrame(() => setTimeout(start));
