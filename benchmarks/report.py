"""What compare.py measured: how many times faster minicnn was, as tables and as a chart.

python benchmarks/report.py result.json another.json --chart compare.png
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

CASES = {
    "train": "a training step",
    "batch": "256 images",
    "one": "one image",
    "busy": "one image, another process wants a core",
}
RUNS = {"train": "train", "batch": "batch", "one": "one", "busy": "one"}  # what a contestant runs in that case
PRECISIONS = ("float32", "bfloat16")


def kind_of(result: dict, name: str, case: str) -> str | None:
    """What counts for the contestant in this case: "train", or of "one/1" and "one/2" the faster. None: it takes no part."""
    turns = [r[name] for r in result["rounds"] if name in r]
    kinds = {kind for turn in turns for kind in turn if kind.split("/")[0] == case}
    return min(kinds, key=lambda kind: statistics.median(t[kind]["seconds"] for t in turns if kind in t), default=None)


def seconds(result: dict, name: str, case: str) -> list[float]:
    """The times of a contestant in a case, round by round."""
    kind = kind_of(result, name, case)
    return [r[name][kind]["seconds"] for r in result["rounds"] if kind in r.get(name, {})]


def p99(result: dict, name: str, case: str) -> float:
    """The 99th percentile of all rounds, of one thread or all the better: each answer gives that of all calls yet."""
    last = {kind: turn["p99"] for r in result["rounds"] for kind, turn in r.get(name, {}).items()}
    return min(number for kind, number in last.items() if kind.split("/")[0] == case)


def own(result: dict, precision: str) -> str:
    """The contestant of ours that a class is measured against: in bfloat16 ours of that precision, where it ran."""
    return "minicnn-bfloat16" if precision == "bfloat16" and "minicnn-bfloat16" in result["setup"] else "minicnn"


def ratios(result: dict, name: str, case: str, base: str = "minicnn") -> list[float]:
    """How many times faster `base` was, round by round."""
    kind, against = kind_of(result, name, case), kind_of(result, base, case)
    turns = [r for r in result["rounds"] if kind in r.get(name, {}) and against in r.get(base, {})]
    return [r[name][kind]["seconds"] / r[base][against]["seconds"] for r in turns]


def field(result: dict, case: str, precision: str) -> list[str]:
    """The contestants of a class that took part in a case, by the median of their ratios, the fastest first."""
    names = [name for name, setup in result["setup"].items() if setup["precision"] == precision]
    found = {name: ratios(result, name, case) for name in names}
    return sorted((name for name in names if found[name]), key=lambda name: statistics.median(found[name]))


def best_peer(result: dict, case: str, precision: str) -> str:
    """The fastest peer, minicnn's own halves apart."""
    peers = [name for name in field(result, case, precision) if not name.startswith("minicnn")]
    return peers[0] if peers else ""


def span(numbers: list[float]) -> str:
    """The median, least and most."""
    return f"{statistics.median(numbers):.2f} ({min(numbers):.2f} to {max(numbers):.2f})"


def row(result: dict, name: str, case: str, base: str) -> str:
    """A contestant's line in the table of a case."""
    setup, ms = result["setup"][name], 1e3 * statistics.median(seconds(result, name, case))
    error = setup["error"]["train" if case == "train" else "inference"]
    cells = f"  {name:<28}{ms:>10.3f}{1e3 * p99(result, name, case):>10.3f}"
    memory = setup.get("training_bytes" if case == "train" else "bytes", 0)
    cells += f"{span(ratios(result, name, case, base)):>26}{error:>10.0e}{memory / 2**20:>9.0f} MB"
    if "/" in kind_of(result, name, case):
        cells += f"  threads: {kind_of(result, name, case).split('/')[1]}"
    if setup.get("cold"):
        cells += f"  import {setup['import']:.1f} s, cold {setup['cold']:.1f} s, warm {setup['first_step']:.1f} s"
    return cells


def table(net: str, result: dict) -> str:
    """What was measured with one network."""
    lines = [f"\nnet {net}, {result['macs'] / 1e6:.1f} million multiply-adds an image"]
    for case, title in CASES.items():
        for precision in PRECISIONS:
            names, base = field(result, case, precision), own(result, precision)
            if not names or not kind_of(result, base, case):
                continue
            lines.append(f"{title}, {precision}; against {base}")
            lines.append(f"  {'':<28}{'ms':>10}{'99%':>10}{base + ' is faster by':>26}{'error':>10}{'memory':>12}")
            lines += [row(result, name, case, base) for name in names]
    train = [r for r in result["rounds"] if "train" in r["minicnn"]]
    if train:
        flops = 6 * result["macs"] * result["batch"]
        share = statistics.median(flops / r["minicnn"]["train"]["seconds"] / r["peak"] for r in train)
        peak = statistics.median(r["peak"] for r in train)
        lines.append(f"peak {peak / 1e9:.0f} GFLOP/s; minicnn's training step runs at {share:.0%} of it")
    return "\n".join(lines + [f"left out: {name}: {why}" for name, why in result["failed"].items()])


def summary(results: dict) -> str:
    """For each net, case and class: how many times faster minicnn was than the best of the peers, and who that is."""
    lines = ["\nminicnn against the best of the others: median (least to most)"]
    for case, title in CASES.items():
        for precision in PRECISIONS:
            for net, result in results["nets"].items():
                peer, base = best_peer(result, case, precision), own(result, precision)
                if not peer or not kind_of(result, base, case):
                    continue
                cells = f"{net}  {span(ratios(result, peer, case, base)):<24}{peer}"
                if case in ("one", "busy"):
                    peers = [name for name in field(result, case, precision) if not name.startswith("minicnn")]
                    times, peer = min((p99(result, name, case), name) for name in peers)
                    cells += f"; 99th percentile {times / p99(result, base, case):.2f} {peer}"
                heading = f"{title}, {precision}, against {base}"
                lines += [heading] * (heading not in lines) + ["  " + cells]
    return "\n".join(lines)


def merged(many: list[dict]) -> dict:
    """Several runs as one: of a net in two of them the rounds follow one another."""
    found = {"machine": many[0]["machine"], "nets": {}}
    for results in many:
        for net, result in results["nets"].items():
            old = found["nets"].setdefault(net, result)
            if old is not result:
                for name, setup in result["setup"].items():
                    first = old["setup"].get(name, {})
                    error = setup["error"] | first.get("error", {})  # each run says it of its own cases
                    old["setup"][name] = setup | first | {"error": error}
                old["failed"] = {
                    n: why for n, why in (old["failed"] | result["failed"]).items() if n not in old["setup"]
                }
                old["rounds"] += result["rounds"]
    return found


def libraries(result: dict, case: str, precision: str) -> dict[str, str]:
    """The fastest contestant of each library."""
    found = {}
    for name in field(result, case, precision):
        found.setdefault(name.split("-")[0], name)
    return found


def chart(results: dict, path: Path) -> None:
    """Bars: how many times longer the best of each library takes than minicnn, by net, for each case and class."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    nets = results["nets"]
    cases = [c for c in CASES if any(best_peer(r, c, p) for r in nets.values() for p in PRECISIONS)]
    precisions = [p for p in PRECISIONS if any(best_peer(r, c, p) for r in nets.values() for c in CASES)]
    families = sorted(
        {f for r in nets.values() for c in cases for p in precisions for f in libraries(r, c, p)} - {"minicnn"}
    )
    colours = dict(zip(families, COLOURS, strict=False))
    shape = (max(len(cases), 1), max(len(precisions), 1))
    figure = Figure(figsize=(shape[1] * max(5, 1.2 * len(nets)), 0.6 + 2.4 * shape[0]), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(*shape, squeeze=False)
    for line, case in zip(panels, cases, strict=False):
        for axes, precision in zip(line, precisions, strict=False):
            panel(axes, nets, case, precision, colours)
    handles = [Patch(color=colour, label=family) for family, colour in colours.items()]
    if handles:
        figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(path, dpi=110)


COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")


def panel(axes, nets: dict, case: str, precision: str, colours: dict[str, str]) -> None:
    """A case and class: for each net a bar a library, the fastest first."""
    for position, result in enumerate(nets.values()):
        found = {f: name for f, name in libraries(result, case, precision).items() if f in colours}
        width, base = 0.85 / max(len(found), 1), own(result, precision)
        for j, (family, name) in enumerate(found.items()):
            height = statistics.median(ratios(result, name, case, base))
            place = position + (j - (len(found) - 1) / 2) * width
            axes.bar_label(axes.bar(place, height, width, color=colours[family]), fmt="%.2g", padding=1, fontsize=6)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    axes.yaxis.set_minor_formatter(lambda y, _: "")
    axes.set_xticks(range(len(nets)), [f"net {net}" for net in nets])
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_title(f"{CASES[case]}, {precision}", fontsize=10, loc="left")
    axes.set_ylabel("time, minicnn = 1", fontsize=8)
    axes.margins(y=0.2)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description="What runs of compare.py say together.")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--chart", type=Path)
    options = parser.parse_args()
    results = merged([json.loads(file.read_text()) for file in options.files])
    for net, result in results["nets"].items():
        print(table(net, result))
    print(summary(results))
    if options.chart:
        chart(results, options.chart)


if __name__ == "__main__":
    main()
