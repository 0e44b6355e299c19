"""Children: the training program in processes of their own, which may be killed, interrupted, limited or measured.

A fresh Python takes seconds to import the library and to load its kernels. So one process, the nursery, does that once
and forks a child for each run asked for. A child runs examples/train_fmnist.py as `python` would, from its first line
to its exit code, but on a part of the bundled sample and without drawing pictures, which is most of a short run's time.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import io
import json
import os
import pickle
import resource
import runpy
import signal
import subprocess
import sys
import time
import traceback
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np

TRAIN = Path(__file__).parents[2] / "examples" / "train_fmnist.py"

# ---------------------------------------------------------------------------------------------------------------
# What a test does


class Nursery:
    """The process that forks children; `start` one, then signal it and `wait` for its exit code."""

    def __init__(self):
        self.runs = 0
        self.process = subprocess.Popen([sys.executable, __file__], stdin=-1, stdout=-1, text=True)

    def ask(self, **task):
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, out: Path, *arguments, **conditions) -> Child:
        """Begin a run with --out; conditions are those of `run`."""
        self.runs += 1
        log = out.parent / f"{out.name}.{self.runs}.log"
        task = dict(arguments=["--out", str(out), *map(str, arguments)], log=str(log), **conditions)
        return Child(self, self.ask(**task), log)

    def run(self, out: Path, *arguments, **conditions) -> Child:
        """A run from beginning to end."""
        child = self.start(out, *arguments, **conditions)
        child.wait()
        return child

    def model(self, out: Path, *arguments) -> bytes:
        """The model file of an undisturbed run."""
        child = self.run(out, *arguments)
        assert child.code == 0, child.said
        return (out / "model.npz").read_bytes()

    def close(self):
        with self.process:
            self.process.stdin.close()


class Child:
    """A run: `code` is its exit code when it has ended, negative for a signal."""

    def __init__(self, nursery, pid, log):
        self.nursery, self.pid, self.log, self.code = nursery, pid, log, None

    @property
    def said(self) -> str:
        return self.log.read_text()

    def send(self, number) -> None:
        os.kill(self.pid, number)

    def ended(self) -> bool:
        if self.code is None:
            self.code = self.nursery.ask(ended=self.pid)
        return self.code is not None

    def until(self, happened, limit=120) -> None:
        """Wait for something; the child is killed if it never comes."""
        end = time.monotonic() + limit
        while not happened():
            if time.monotonic() > end:
                self.send(signal.SIGKILL)
                raise AssertionError(f"nothing happened in {limit} seconds\n{self.said}")
            time.sleep(0.005)

    def wait(self, limit=120) -> int:
        self.until(self.ended, limit)
        return self.code


def sound(path: Path) -> int:
    """The step that a checkpoint was saved at, or -1 where there is no whole one; read without minicnn."""
    if not path.exists():
        return -1
    content = path.read_bytes()
    if hashlib.sha256(content[:-64]).hexdigest().encode() != content[-64:]:
        return -1
    with np.load(io.BytesIO(content)) as file:
        return json.loads(file["config"].tobytes())["states"]["run"]["step"]


def newest(out: Path) -> int:
    """The step that a run in this folder would go on from, or -1."""
    return max(sound(out / name) for name in ("checkpoint.npz", "checkpoint.npz.previous"))


def one_line(text: str) -> str:
    """The line with the error that a run ended with, there being no other and no traceback."""
    assert "Traceback" not in text, text
    [line] = [line for line in text.splitlines() if line.startswith("error: ")]
    assert line == text.splitlines()[-1]
    return line


@dataclasses.dataclass
class Measured:
    """What a function gave or raised in a process of its own, and by how many MB it grew."""

    value: object
    error: BaseException | None
    megabytes: float


@dataclasses.dataclass
class Work:
    """What a function did until it returned or raised: the functions that it called, in Python and in C; the length of
    all text, bytes and containers that it handed to those in Python; and the bytes that it read from files.

    Unlike seconds these are the same however fast or busy a machine is."""

    calls: int = 0
    handed: int = 0
    read: int = 0


def measured(function, *arguments, memory: int | None = None) -> Measured:
    """Call a function in a fork, which may take so many more bytes of address space."""
    return _forked(_measure, function, arguments, memory)


def counted(module, function, *arguments) -> Work:
    """Count what a call does, in a fork; `module` is where the function opens files."""
    return _forked(_count, module, function, arguments)


def _forked(function, *arguments):
    """What a function returns in a fork, which is killed where it hangs."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later warn where there are threads
        pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            signal.alarm(300)
            gc.freeze()  # else a search for cycles walks all that earlier tests have left, and copies those pages
            result = pickle.dumps(function(*arguments))
            with open(write, "wb") as pipe:
                pipe.write(result)
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        content = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert content, f"ended with {code} and no result"
    return pickle.loads(content)


def _measure(function, arguments, memory) -> Measured:
    if memory:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    before, value, error = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, None, None
    try:
        value = function(*arguments)
    except Exception as caught:
        error = caught.with_traceback(None)
    return Measured(value, error, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def _count(module, function, arguments) -> Work:
    done, sized = Work(), str | bytes | list | tuple | dict

    class Counting(io.FileIO):
        def readinto(self, buffer):
            length = super().readinto(buffer)
            done.read += length
            return length

        def readall(self):
            content = super().readall()
            done.read += len(content)
            return content

    def count(frame, event, argument):
        if event in ("call", "c_call"):
            done.calls += 1
        if event == "call":
            names = frame.f_code.co_varnames[: frame.f_code.co_argcount]
            given = map(frame.f_locals.get, names)
            done.handed += sum(len(value) for value in given if isinstance(value, sized))

    module.open = lambda path, mode: io.BufferedReader(Counting(path, mode))
    gc.disable()  # what it finalises, and who listens to it, would be counted too
    sys.setprofile(count)
    with suppress(Exception):
        function(*arguments)
    sys.setprofile(None)
    return done


# ---------------------------------------------------------------------------------------------------------------
# What the nursery and its children do


def run(arguments, images=96, every=500, die_at=0, slow=0.0, most=0) -> None:
    """The program, on so many training images. It saves each `every` steps, kills itself before the die_at-th operation
    on files, takes so many seconds for an fsync, and can write no file larger than `most` bytes."""
    import minicnn
    from minicnn import plots
    from minicnn.commands import train
    from minicnn.data.sources import load_fashion_mnist

    minicnn.set_threads(1)  # a pool of threads does not survive a fork
    whole = load_fashion_mnist("sample", verbose=False)
    part = {f"train_{kind}": getattr(whole, f"train_{kind}")[:images] for kind in ("images", "labels")}
    part |= {f"test_{kind}": getattr(whole, f"test_{kind}")[:50] for kind in ("images", "labels")}
    train.load_dataset = lambda *arguments: dataclasses.replace(whole, **part)
    for name in ("curves", "errors", "confusion", "mistakes", "reliability", "augmentation_grid", "filters"):
        setattr(plots, name, lambda *arguments, **options: None)
    train.explain = lambda *arguments: None
    minicnn.Checkpoint.__init__.__defaults__ = (every, False)
    if most:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    if die_at or slow:
        _disturb(die_at, slow)
    sys.argv = [str(TRAIN), *arguments]
    runpy.run_path(str(TRAIN), run_name="__main__")


def _disturb(die_at: int, slow: float) -> None:
    """Count what is done to files, which is all that a kill could land between."""
    from minicnn import files

    def count(seconds=0.0):
        nonlocal die_at
        die_at -= 1
        if die_at == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(seconds)

    def counted(function, seconds=0.0):
        return lambda *arguments: (count(seconds), function(*arguments))[1]

    class Halting(io.FileIO):
        """Writes half, and then perhaps no more."""

        def write(self, content):
            half = len(content) // 2
            return super().write(content[:half]) + (count() or super().write(content[half:]))

    files.open = Halting
    os.replace, os.fsync = counted(os.replace), counted(os.fsync, slow)


def _child(task: dict) -> None:
    """Run, and end with the code that Python would end with."""
    log = os.open(task.pop("log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    code = 0
    try:
        run(**task)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    os._exit(code)


def _serve() -> None:
    answers, sys.stdout = sys.stdout, open(os.devnull, "w")
    for line in sys.stdin:
        task = json.loads(line)
        if "ended" in task:
            pid, status = os.waitpid(task["ended"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif "log" in task:
            answer = os.fork()
            if answer == 0:
                sys.stdout = open(1, "w", buffering=1, closefd=False)
                _child(task)
        else:
            with suppress(SystemExit):
                run(task["arguments"], images=16)  # here, so that the children find the kernels loaded
            answer = True
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what runs in the background ignore it
    _serve()
