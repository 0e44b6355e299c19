"""How fast minicnn is beside PyTorch, TensorFlow and JAX, on this machine, now.

    python -m pip install -e ".[bench]"        # the peers; one that is not installed is left out by name
    python benchmarks/compare.py --nets A,B,S --rounds 9 --threads 2 --json result.json

Each contestant lives in a process of its own. First all get the same weights and images, and must give the same logits,
loss and gradients. Then come rounds: in each, every contestant in turn takes training steps and inferences for about a
second, and the machine's peak of multiply-adds is measured. A machine's speed may change by a factor of two from minute
to minute, so a number is the median over the rounds of the ratio within the round: how many times faster minicnn was than
that peer. Written are a table, a JSON file and a bar chart.

In the table, memory is the most that the process held; import the seconds that importing the library took; cold and warm
the seconds from the process's start to the end of its first training step, with empty caches and with full ones.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib import metadata, util
from pathlib import Path

import numpy as np
from contestants import NAMES
from nets import INFERENCE_BATCH, NETS
from tqdm import tqdm

HERE = Path(__file__).parent
MODULES = {"torch": "torch", "tensorflow": "tensorflow", "jax": "jax", "minicnn": "minicnn"}
KINDS = ("train", "infer")


class Process:
    """A contestant's process: send it a command, get its answer."""

    def __init__(self, name: str, threads: int, cache: str):
        self.name = name
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
        environment |= {"OPENBLAS_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}
        environment |= {"XDG_CACHE_HOME": cache, "TORCHINDUCTOR_CACHE_DIR": os.path.join(cache, "inductor")}
        command = [sys.executable, str(HERE / "contestants.py"), name, str(threads)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment
        )

    def ask(self, **command) -> dict:
        """The answer, or a RuntimeError where the process has died."""
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name}: died at {command['do']!r}")
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait(timeout=30)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="How fast minicnn is beside PyTorch, TensorFlow and JAX, on this machine, now."
    )
    parser.add_argument("--nets", default="A,B,S")
    parser.add_argument("--peers", default=",".join(NAMES[1:]))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=1.0, help="of each contestant's turn")
    parser.add_argument("--json", type=Path, default=Path("compare.json"))
    options = parser.parse_args()
    for net in options.nets.split(","):
        if net not in NETS:
            parser.error(f"--nets: got {net}, expected some of {', '.join(NETS)}")
    names = ["minicnn"]
    for name in options.peers.split(","):
        if name not in NAMES:
            parser.error(f"--peers: got {name}, expected some of {', '.join(NAMES[1:])}")
        if util.find_spec(MODULES[name.split("-")[0]]):
            names.append(name)
        else:
            print(f"left out, not installed: {name}")
    results = {"machine": machine(options.threads), "nets": {}}
    for net in options.nets.split(","):
        results["nets"][net] = compare(net, names, options)
        print(table(net, results["nets"][net]), flush=True)
        options.json.write_text(json.dumps(results, indent=1))
    chart(results, options.json.with_suffix(".png"))


def machine(threads: int) -> dict:
    """What was measured on, with which versions."""
    cpu = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    versions = {}
    for package in ("numpy", "numba", "torch", "tensorflow", "jax"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"cpu": cpu, "cores": os.cpu_count(), "threads": threads, "python": platform.python_version(), **versions}


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def compare(net: str, names: list[str], options) -> dict:
    """Set the contestants up, check that they agree, and let them run in rounds."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npz"
        count, truth = prepare(net, data)
        contestants, result = [], {"setup": {}, "rounds": []}
        for name in tqdm(names, desc=f"net {net}, setting up", disable=None):
            cache, answer = os.path.join(folder, f"cache-{name}"), Path(folder) / f"{name}.npz"
            try:
                first = Process(name, options.threads, cache)  # with empty caches, as after installing
                cold = first.ask(do="setup", net=net, data=str(data), arrays=count, answer="")
                first.close()
                contestant = Process(name, options.threads, cache)
                warm = contestant.ask(do="setup", net=net, data=str(data), arrays=count, answer=str(answer))
                result["setup"][name] = warm | {"cold": cold["first_step"]}
                result["setup"][name]["error"] = disagreement(truth, np.load(answer))
                contestants.append(contestant)
            except RuntimeError as error:
                result["setup"].pop(name, None)
                print(f"left out: {name}: {error}")
        for _ in tqdm(range(options.rounds), desc=f"net {net}", disable=None):
            current = {"peak": contestants[0].ask(do="peak")["flops"]}
            for contestant in contestants:
                times = {kind: contestant.ask(do=kind, seconds=options.seconds)["seconds"] for kind in KINDS}
                current[contestant.name] = times
            result["rounds"].append(current)
        for contestant in contestants:
            result["setup"][contestant.name] |= contestant.ask(do="memory")
            contestant.close()
    result["macs"] = truth["macs"]
    return result


def prepare(net: str, path: Path) -> tuple[int, dict]:
    """Weights, images and labels for all, and what they must give: minicnn's NumPy half in double precision."""
    from contestants import MiniCNN

    import minicnn

    layers, batch = NETS[net]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, 28, 28, 1)).astype(np.float32)
    y = rng.integers(0, 10, batch)
    minicnn.use_backend("numpy")
    model = minicnn.Sequential(list(MiniCNN.layers(minicnn, layers, False)), dtype="float64")
    weights = [w.astype(np.float32) for w in model.get_weights()]
    many = rng.standard_normal((INFERENCE_BATCH, 28, 28, 1)).astype(np.float32)
    np.savez(path, x=x, y=y, many=many, **{f"w{i}": w for i, w in enumerate(weights)})
    model.set_weights(weights)
    logits = model.forward(x.astype(np.float64), training=True)
    loss, dlogits = minicnn.losses.CrossEntropy()(logits, y)
    model.backward(dlogits)
    gradients = [w.grad for w in model.arrays().values() if hasattr(w, "grad")]
    return len(weights), {"logits": logits, "loss": loss, "gradients": gradients, "macs": model.macs}


def disagreement(truth: dict, answer) -> float:
    """The largest error of logits, loss and gradients, each by its Euclidean length relative to the truth's.

    By its length, because a number that rounds to the other side of 0 before a ReLU changes single gradients a little.
    """
    pairs = [(truth["logits"], answer["logits"]), (np.array(truth["loss"]), answer["loss"])]
    pairs += [(g, answer[f"g{i}"]) for i, g in enumerate(truth["gradients"])]
    error = max(float(np.linalg.norm(a - b) / np.linalg.norm(a)) for a, b in pairs)
    if not error < 1e-2:
        raise RuntimeError(f"computes something else: relative error {error:.1e}")
    return error


def ratios(result: dict, name: str, kind: str) -> list[float]:
    """How many times faster minicnn was, round by round."""
    return [r[name][kind] / r["minicnn"][kind] for r in result["rounds"] if name in r]


def best_peer(result: dict, kind: str) -> str:
    """The peer with the least median time, minicnn's own halves apart."""
    peers = [name for name in result["setup"] if not name.startswith("minicnn")]
    return min(peers, key=lambda name: statistics.median(r[name][kind] for r in result["rounds"]), default="")


def table(net: str, result: dict) -> str:
    """What was measured with one network."""
    lines = [f"\nnet {net}, {result['macs'] / 1e6:.1f} million multiply-adds an image"]
    lines.append(
        f"{'':<20}{'train ms':>10}{'minicnn is':>12}{'(min-max)':>14}{'infer ms':>10}{'minicnn is':>12}{'(min-max)':>14}"
        f"{'memory':>9}{'import':>8}{'cold':>8}{'warm':>8}{'error':>9}"
    )
    for name, setup in result["setup"].items():
        cells = f"{name:<20}"
        for kind in KINDS:
            ms = 1e3 * statistics.median(r[name][kind] for r in result["rounds"])
            r = ratios(result, name, kind)
            span = f"({min(r):.2f}-{max(r):.2f})"
            cells += f"{ms:>10.2f}{statistics.median(r):>11.2f}x{span:>14}"
        cells += f"{setup['bytes'] / 2**20:>6.0f} MB{setup['import']:>6.1f} s{setup['cold']:>6.1f} s"
        cells += f"{setup['first_step']:>6.1f} s{setup['error']:>9.0e}"
        lines.append(cells)
    batch = NETS[net][1]
    share = [6 * result["macs"] * batch / r["minicnn"]["train"] / r["peak"] for r in result["rounds"]]
    peak = statistics.median(r["peak"] for r in result["rounds"])
    lines.append(f"peak {peak / 1e9:.0f} GFLOP/s; minicnn's training step runs at {statistics.median(share):.0%} of it")
    for kind in KINDS:
        name = best_peer(result, kind)
        if name:
            lines.append(f"{kind}: {statistics.median(ratios(result, name, kind)):.2f}x the best peer, {name}")
    return "\n".join(lines)


def chart(results: dict, path: Path) -> None:
    """Bars: how many times longer each peer takes than minicnn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    nets = results["nets"]
    figure = Figure(figsize=(4.2 * len(nets), 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (net, result) in zip(figure.subplots(1, len(nets), squeeze=False)[0], nets.items(), strict=True):
        names = [name for name in result["setup"] if name != "minicnn-numpy"]
        for i, (kind, colour) in enumerate(zip(KINDS, ("#0072B2", "#E69F00"), strict=True)):
            heights = [statistics.median(ratios(result, name, kind)) for name in names]
            bars = axes.barh(np.arange(len(names)) + 0.4 * i, heights, 0.4, label=kind, color=colour)
            axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
        axes.set_yticks(np.arange(len(names)) + 0.2, names)
        axes.invert_yaxis()
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_title(f"net {net}")
        axes.set_xlabel("time, minicnn = 1")
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
