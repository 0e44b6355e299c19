"""One contestant of compare.py in a process of its own: reads commands, one JSON object a line, and answers likewise."""

from __future__ import annotations

import time

BEGIN = time.perf_counter()

import importlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402

import numpy as np  # noqa: E402
from contestants import CONTESTANTS  # noqa: E402
from nets import NETS  # noqa: E402


def make(name: str, net, arrays, threads: int):
    """The contestant of that name, with this network and these weights."""
    module, kind = CONTESTANTS[name].code.split(".")
    found = getattr(importlib.import_module(f"contestants.{module}"), kind)
    return found(net, arrays, threads, **CONTESTANTS[name].options)


def peak_memory() -> int:
    """The most memory this process has held, in bytes. Linux's own figure for it: getrusage inherits the parent's."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Server:
    """Answers commands: `setup` first, then `time`, `peak` and `memory`."""

    def __init__(self, name: str, threads: int):
        self.name, self.threads = name, threads
        self.runs, self.times = {}, {}

    def setup(self, net: str, data: str, answer: str, cases: list[str]) -> dict:
        """Make what is to be timed, after the check of what it computes has been written down."""
        start = time.perf_counter()
        importlib.import_module(CONTESTANTS[self.name].library)
        found = {"import": time.perf_counter() - start}
        data, net = np.load(data), NETS[net]
        arrays = [data[f"w{i}"] for i in range(sum(key.startswith("w") for key in data))]
        x, y, many = data["x"], data["y"], data["many"]
        self.contestant = contestant = make(self.name, net, arrays, self.threads)
        if "train" in cases and getattr(contestant, "training", None):
            step = contestant.training(x, y)
            step()
            found["first_step"] = time.perf_counter() - BEGIN
            self._add("train", self.threads, step)
            found["training_bytes"] = peak_memory()
        if answer:
            plain = net._replace(layers=[layer for layer in net.layers if layer[0] != "dropout"])
            self.check(make(self.name, plain, arrays, self.threads), x, y, many, answer)
        if "batch" in cases:
            self._add("batch", self.threads, contestant.inference(many, self.threads))
        fixed = getattr(contestant, "threads_fixed", False)
        for threads in {self.threads} if fixed else {1, self.threads}:
            if "one" in cases:
                contestant.use(threads)
                self._add(f"one/{threads}", threads, contestant.inference(many[:1], threads))
        return found | {"kinds": list(self.runs)}

    def _add(self, kind: str, threads: int, run) -> None:
        self.runs[kind] = (threads, run)
        for _ in range(3):  # compilers and profilers look at the first calls
            run()

    def check(self, contestant, x, y, many, path: str) -> None:
        """Write down what the contestant computes, dropout left out: of inference, and of a training step."""
        found = {"outputs": np.array(contestant.inference(many, self.threads)(), np.float32)}
        if "train" in self.runs:
            logits, loss, gradients = contestant.gradients(x, y)
            found |= {"logits": logits, "loss": loss} | {f"g{i}": g for i, g in enumerate(gradients)}
        np.savez(path, **found)

    def time(self, kind: str, seconds: float, case: str) -> dict:
        """The median time of as many calls as fit into so many seconds, at least three; the 99th percentile of all yet."""
        threads, run = self.runs[kind]
        self.contestant.use(threads)
        run()
        times, end = [], time.perf_counter() + seconds
        while len(times) < 3 or time.perf_counter() < end:
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        self.times.setdefault(case, []).extend(times)
        return {"seconds": float(np.median(times)), "p99": float(np.percentile(self.times[case], 99))}

    def peak(self) -> dict:
        """The multiply-adds that this machine can do now, twice as many floating-point operations a second."""
        from minicnn import engine

        return {"flops": engine.measured_peak(np.float32)}

    def memory(self) -> dict:
        """The most memory that the process has held."""
        return {"bytes": peak_memory()}


def serve(name: str, threads: int) -> None:
    """Answer commands until the input ends; one that fails is answered with its error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not mix with the answers
    server = Server(name, threads)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(server, command.pop("do"))(**command)
        except Exception as error:
            answer = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
