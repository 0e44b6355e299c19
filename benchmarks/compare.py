"""How fast minicnn is beside the libraries that people run on a CPU, on this machine, now.

    python -m pip install -e ".[bench]"        # the peers; one that is not installed is left out by name
    python benchmarks/compare.py --quick       # five minutes: each net, the peers that have been the best somewhere
    python benchmarks/compare.py --nets A,B --precision float32 --cases train,batch --rounds 9 --json result.json
    python benchmarks/report.py *.json         # what several runs say together

`contestants` lists who runs, in two classes, float32 and bfloat16; `nets.py` has the networks. There are four cases: a
training step; 256 images; one image; and one image while another process burns a core. For one image each contestant runs
with one thread and with all, and its better half counts.

Each contestant lives in a process of its own, which is stopped while it is not its turn. First all get the same weights and
images, and what they compute is compared with minicnn's NumPy half in double precision. Then come rounds: in each, every
contestant in turn runs each case for a moment, and the machine's peak of multiply-adds is measured. A machine's speed may
change by a factor of two from minute to minute, so a number is the median over the rounds of the ratio within the round: how
many times faster minicnn was than that peer. Written are a table, a JSON file and a bar chart. A contestant that is not
installed, fails or computes something else is named with the reason, and the others go on.

In the table, error is the largest relative error of what the case computes; memory is the most that the process held: of a
training step before it did anything else, otherwise in all. With --start, cold and warm are the seconds from the process's
start to the end of its first training step, with empty caches and with full ones, and import those of importing the library.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata, util
from pathlib import Path

import numpy as np
import report
from contestants import CONTESTANTS, PRECISIONS, environment
from nets import INFERENCE_BATCH, NETS
from tqdm import tqdm

HERE = Path(__file__).parent
TOLERANCE = {"float32": 1e-2, "bfloat16": 0.5}  # beyond which a contestant computes something else
QUICK = (
    *("torch-nhwc", "torch-optimized", "onnxruntime", "openvino-float32", "mnn", "ncnn", "tensorflow"),
    *("minicnn-bfloat16", "torch-nhwc-autocast", "openvino", "ncnn-bfloat16"),
)
PACKAGES = {
    *("numpy", "numba", "torch", "intel-openmp", "tensorflow", "tensorflow-cpu", "jax", "optax"),
    *("onnxruntime", "openvino", "MNN", "ncnn"),
}


class Process:
    """A contestant's process: send it a command, get its answer. It is stopped while it has none."""

    def __init__(self, name: str, threads: int, cache: str, errors: Path):
        self.name, self.errors = name, errors
        command = [sys.executable, str(HERE / "contestant.py"), name, str(threads)]
        pipe, variables = subprocess.PIPE, os.environ | environment(name, threads, cache)
        with errors.open("w") as stderr:
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=stderr, text=True, env=variables)

    def ask(self, limit: float = 60, **command) -> dict:
        """The answer, or a RuntimeError where the command failed, the process died, or no answer came in time."""
        self.signal("SIGCONT")
        timer = threading.Timer(limit, self.process.kill)
        timer.start()
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            timer.cancel()
        if not answer:
            last = (self.errors.read_text(errors="replace").strip().splitlines() or [""])[-1]
            raise RuntimeError(f"died at {command['do']!r}, or took more than {limit:.0f} s: {last}")
        self.signal("SIGSTOP")
        answer = json.loads(answer)
        if "failed" in answer:
            raise RuntimeError(answer["failed"])
        return answer

    def signal(self, name: str) -> None:
        """Send a signal, where the system has it."""
        if hasattr(signal, name) and self.process.poll() is None:
            self.process.send_signal(getattr(signal, name))

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate()


@contextlib.contextmanager
def burning_a_core():
    """Another process wants a core all the time."""
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        burner.kill()
        burner.wait()


def arguments() -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        description="How fast minicnn is beside the libraries that people run on a CPU, on this machine, now."
    )
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--peers", help="names of contestants; by default all but minicnn-numpy")
    parser.add_argument("--precision", default=",".join(PRECISIONS))
    parser.add_argument("--cases", default=",".join(report.CASES))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of each contestant's turn at a case")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true", help="few peers and short turns: five minutes for all nets")
    parser.add_argument("--start", action="store_true", help="also how long it takes until the end of the first step")
    parser.add_argument("--cache", help="folder for what contestants compile; by default a new one each time")
    parser.add_argument("--json", type=Path, default=Path("compare.json"))
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.quick else 9)
    options.seconds = options.seconds or (0.15 if options.quick else 0.5)
    options.peers = options.peers or ",".join(
        QUICK if options.quick else (n for n in CONTESTANTS if n != "minicnn-numpy")
    )
    known = {"nets": NETS, "peers": CONTESTANTS, "precision": PRECISIONS, "cases": report.CASES}
    for option, values in known.items():
        given = getattr(options, option).split(",")
        for value in given:
            if value not in values:
                parser.error(f"--{option}: got {value}, expected some of {', '.join(values)}")
        setattr(options, option, given)
    return options


def main() -> None:
    options = arguments()
    names = ["minicnn"]
    for name in options.peers:
        if CONTESTANTS[name].precision not in options.precision or name == "minicnn":
            continue
        if util.find_spec(CONTESTANTS[name].library):
            names.append(name)
        else:
            print(f"left out: {name}: not installed")
    results = {"machine": machine(options.threads), "nets": {}}
    for net in options.nets:
        results["nets"][net] = compare(net, names, options)
        print(report.table(net, results["nets"][net]), flush=True)
        options.json.write_text(json.dumps(results, indent=1))
    print(report.summary(results))
    report.chart(results, options.json.with_suffix(".png"))


def machine(threads: int) -> dict:
    """What was measured on, with which versions."""
    cpu = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    versions = {}
    for package in sorted(PACKAGES):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {"cpu": cpu, "cores": os.cpu_count(), "threads": threads, "python": platform.python_version(), **versions}


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def compare(net: str, names: list[str], options) -> dict:
    """Set the contestants up, check that they agree, and let them run in rounds."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as closing:
        truth = prepare(net, Path(folder) / "data.npz")
        result = {"macs": truth["macs"], "batch": NETS[net].batch, "setup": {}, "failed": {}, "rounds": []}
        contestants = set_up(net, names, Path(folder), truth, result, options, closing)
        if not contestants or contestants[0].name != "minicnn":
            sys.exit(f"minicnn: {result['failed'].get('minicnn')}")
        for _ in tqdm(range(options.rounds), desc=f"net {net}", disable=None):
            result["rounds"].append(play(contestants, result, options))
        for contestant in contestants:
            result["setup"][contestant.name] |= contestant.ask(do="memory")
    return result


def set_up(net, names, folder, truth, result, options, closing) -> list[Process]:
    """The contestants that are ready, in their order; with --start one at a time, else as many at once as cores."""

    def prepared(name):
        cache, answer = options.cache or str(folder / f"cache-{name}"), folder / f"{name}.npz"
        cases = sorted({report.RUNS[case] for case in options.cases})
        command = {"do": "setup", "net": net, "data": str(folder / "data.npz"), "cases": cases, "limit": 600}
        try:
            cold = {}
            if options.start:  # with empty caches, as after installing
                first = Process(name, options.threads, str(folder / f"cache-{name}"), folder / f"{name}.err")
                closing.callback(first.close)
                cold = {"cold": first.ask(**command, answer="").get("first_step")}
                first.close()
            contestant = Process(name, options.threads, cache, folder / f"{name}.err")
            closing.callback(contestant.close)
            setup = contestant.ask(**command, answer=str(answer)) | cold
            setup["error"] = disagreement(truth, np.load(answer), TOLERANCE[CONTESTANTS[name].precision])
            result["setup"][name] = setup | {"precision": CONTESTANTS[name].precision}
            return contestant
        except RuntimeError as error:
            result["failed"][name] = str(error)
            return None

    with ThreadPoolExecutor(1 if options.start else options.threads) as pool:
        made = tqdm(pool.map(prepared, names), total=len(names), desc=f"net {net}, setting up", disable=None)
        found = [contestant for contestant in made if contestant]
    result["setup"] = {contestant.name: result["setup"][contestant.name] for contestant in found}
    return found


def play(contestants: list[Process], result: dict, options) -> dict:
    """One round: each contestant's turn at each case, the quiet ones first. Who fails is taken out of the list."""
    current = {"peak": contestants[0].ask(do="peak")["flops"]}
    for case in options.cases:
        with burning_a_core() if case == "busy" else contextlib.nullcontext():
            for contestant in list(contestants):
                turn = current.setdefault(contestant.name, {})
                try:
                    for kind in result["setup"][contestant.name]["kinds"]:
                        if kind.split("/")[0] == report.RUNS[case]:
                            key = kind.replace(report.RUNS[case], case)
                            seconds = options.seconds / (2 if case in ("one", "busy") else 1)
                            turn[key] = contestant.ask(do="time", kind=kind, case=key, seconds=seconds)
                except RuntimeError as error:
                    result["failed"][contestant.name] = str(error)
                    contestants.remove(contestant)
                    result["setup"].pop(contestant.name)
    return current


def prepare(net: str, path: Path) -> dict:
    """Weights, images and labels for all, and what they must give: minicnn's NumPy half in double precision."""
    from contestants.ours import layers

    import minicnn

    rng, found = np.random.default_rng(0), NETS[net]
    x = rng.standard_normal((found.batch, *found.shape)).astype(np.float32)
    y = rng.integers(0, 10, found.batch)
    many = rng.standard_normal((INFERENCE_BATCH, *found.shape)).astype(np.float32)
    minicnn.use_backend("numpy")
    plain = found._replace(layers=[layer for layer in found.layers if layer[0] != "dropout"])
    model = minicnn.Sequential(list(layers(plain)), input_shape=found.shape, dtype="float64")
    weights = [w.astype(np.float32) for w in model.get_weights()]
    weights = [w if w.ndim > 1 else w + rng.uniform(0, 0.5, w.shape).astype(np.float32) for w in weights]
    np.savez(path, x=x, y=y, many=many, **{f"w{i}": w for i, w in enumerate(weights)})
    model.set_weights(weights)
    outputs = model.forward(many.astype(np.float64)).copy()
    logits = model.forward(x.astype(np.float64), training=True)
    loss, dlogits = minicnn.losses.CrossEntropy()(logits, y)
    model.backward(dlogits)
    gradients = [w.grad for w in model.arrays().values() if hasattr(w, "grad")]
    return {"outputs": outputs, "logits": logits, "loss": loss, "gradients": gradients, "macs": model.macs}


def disagreement(truth: dict, answer, tolerance: float) -> dict[str, float]:
    """The largest error of inference's outputs, and of a training step's logits, loss and gradients.

    Each array's is the Euclidean length of the difference relative to that of the truth, because a number that rounds to
    the other side of 0 before a ReLU changes single gradients a little. A bias before batch norm has no gradient: none has.
    """
    pairs = {"inference": [(truth["outputs"], answer["outputs"])]}
    if "loss" in answer:
        pairs["train"] = [(truth["logits"], answer["logits"]), (np.array(truth["loss"]), answer["loss"])]
        pairs["train"] += [(g, answer[f"g{i}"]) for i, g in enumerate(truth["gradients"])]
    found = {}
    for part, arrays in pairs.items():
        found[part] = max(float(np.linalg.norm(a - b) / np.linalg.norm(a)) for a, b in arrays)
        if not found[part] < tolerance:
            raise RuntimeError(f"computes something else: relative error {found[part]:.1e} in {part}")
    return found


if __name__ == "__main__":
    main()
