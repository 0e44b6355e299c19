"""Checkpoints: a training run that is killed at any moment goes on where it was, to the bit.

    model.fit(images, labels, epochs=30, checkpoint=Checkpoint("run/checkpoint.npz"))

The same call again, after whatever happened, goes on from the file. It holds all that the rest of the run depends on:
weights, running statistics, the optimizer's moments, the callbacks' memory, the place in the epoch, the history. Random
numbers come from (seed, epoch, batch), so a generator's state is a place too. It also holds the run's settings and a
fingerprint of the data, and refuses to go on with others; of callbacks and functions only the kind is compared.

A file is never half written: see files.py. The last two are kept, and where the newer is damaged the older serves.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minicnn import archive, ops
from minicnn.errors import CheckpointError, ModelFileError
from minicnn.files import lock, temporaries
from minicnn.layers.base import positive
from minicnn.model_files import describe

if TYPE_CHECKING:
    from minicnn.training import Run

FORMAT = 1
PLACE = {"epoch": int, "batch": int, "step": int, "right": int, "seen": int} | {
    **{"total": float, "seconds": float, "learning_rate": float, "rate_scale": float, "stop": str}
}


class Checkpoint:
    """Where, and how often, `fit` saves a run: to `path`, and the one before it to <path>.previous.

    Besides every epoch's end it saves after each `every` steps. With keep_going, a file that cannot be written (a full
    disk) is a warning and not an error. Ctrl-C and SIGTERM let the step end, save, and then raise KeyboardInterrupt or
    SystemExit(143); a second one ends the process at once. Two runs cannot use one folder at the same time.
    """

    def __init__(self, path: str | os.PathLike, every: int = 500, keep_going: bool = False):
        self.path, self.every, self.keep_going = Path(path), positive(every, "every"), keep_going
        self.previous = self.path.with_name(self.path.name + ".previous")

    @contextmanager
    def of(self, run: Run) -> Iterator[Callable]:
        """Bring `run` to where its file says it was; yields what to call after each step, and after each epoch."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with lock(self.path.parent), _Signals() as signals:
            for stale in temporaries(self.path.parent, self.path.name):
                stale.unlink(missing_ok=True)
            scale = run.model.mean, run.model.deviation
            run.model.learn_scale(run.images)
            try:
                settings = _settings(run)
                newest_is_whole = self._restore(run, settings)
            except BaseException:
                run.model.mean, run.model.deviation = scale
                raise
            keep = self.previous if newest_is_whole else None  # what is damaged takes no whole file's place

            def save(epoch_ended: bool = False) -> None:
                nonlocal keep
                leaving = signals.got
                if (epoch_ended or leaving or run.step % self.every == 0) and self._save(run, settings, keep):
                    keep = self.previous
                if leaving:
                    signals.leave()

            yield save
            signals.leave()

    def exists(self) -> bool:
        """Whether there is a run to go on with."""
        return self.path.exists() or self.previous.exists()

    def delete(self) -> None:
        """Forget the run, the older file first."""
        self.previous.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def _save(self, run: Run, settings: dict, keep: Path | None) -> bool:
        config = {"format": FORMAT, "settings": settings, "history": run.history}
        config |= {name: getattr(run, name) for name in PLACE}
        config |= {"optimizer_steps": run.optimizer.steps, "dropouts": [layer.calls for layer in run.model.dropouts()]}
        config["callbacks"] = [_numbers(callback.state()) for callback in run.callbacks]
        try:
            archive.write(self.path, config, _arrays(run), keep)
        except OSError as error:
            if not self.keep_going:
                raise CheckpointError(f"{self.path}: cannot be written ({error.strerror or error})") from error
            print(f"warning: {self.path}: cannot be written ({error.strerror or error}); going on", file=sys.stderr)
            return False
        return True

    def _restore(self, run: Run, settings: dict) -> bool:
        """Go on from the newest file that is whole; returns whether no newer one is damaged."""
        damaged = []
        for path in (self.path, self.previous):
            if not path.exists():
                continue
            try:
                with archive.reading(path, "a checkpoint") as file:
                    state = _read(file, run, settings)
            except ModelFileError as error:
                damaged.append(str(error))
                continue
            for line in damaged:
                print(f"{line}: going on from the one before it, {path}", file=sys.stderr)
            _apply(state, run)
            if run.verbose:
                print(f"going on from {path}: epoch {run.epoch + 1}, step {run.step}", flush=True)
            return not damaged
        if damaged:
            raise CheckpointError(f"{'; '.join(damaged)}; delete what is damaged to begin anew")
        return True


# ---------------------------------------------------------------------------------------------------------------
# What a checkpoint holds


def _settings(run: Run) -> dict:
    """All that a run was told, as text and numbers that can be compared."""
    optimizer = {k: v for k, v in vars(run.optimizer).items() if k not in ("parameters", "state", "steps")}
    steps = run.batches * run.epochs
    return {
        "model": describe(run.model),
        "epochs": run.epochs,
        "batch_size": run.batch_size,
        "seed": run.seed,
        "optimizer": f"{type(run.optimizer).__name__} {optimizer}",
        "loss": _told(run.loss),
        "schedule": [float(run.schedule((steps - 1) * i // 16)) for i in range(17)],
        "augment": _told(run.augment),
        "callbacks": [type(callback).__name__ for callback in run.callbacks],
        "backend": ops.backend(),
        "data": _fingerprint(run.images, run.targets),
        "validation data": _fingerprint(*(run.validation or ())),
    }


def _told(thing: object) -> str:
    """Its class and its attributes; one's own classes may have a repr that is an address."""
    return re.sub(r" at 0x\w+", "", f"{type(thing).__name__} {getattr(thing, '__dict__', '')}")


def _fingerprint(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        for i in range(0, len(array), 1024):
            digest.update(np.ascontiguousarray(array[i : i + 1024]).data)
    return digest.hexdigest()


def _arrays(run: Run) -> dict[str, np.ndarray]:
    parameters = run.model.parameters
    arrays = {"values": parameters.values, "states": parameters.states}
    arrays |= {f"optimizer/{name}": moment for name, moment in run.optimizer.state.items()}
    for i, callback in enumerate(run.callbacks):
        arrays |= {f"callbacks/{i}/{k}": v for k, v in callback.state().items() if isinstance(v, np.ndarray)}
    return arrays


def _numbers(state: dict) -> dict:
    """A callback's memory without its arrays, of which the shapes are told."""
    return {k: {"shape": v.shape, "dtype": v.dtype.str} if isinstance(v, np.ndarray) else v for k, v in state.items()}


def _read(file: archive.Archive, run: Run, settings: dict) -> dict:
    """The file's content, once everything in it is known to fit the run."""
    config = file.config
    if config.get("format") != FORMAT:
        raise CheckpointError(f"format: got {config.get('format')!r}, expected {FORMAT}")
    _compare(config.get("settings"), settings)
    _check_place(config, run)
    _check_callbacks(config.get("callbacks"), run)
    values, states = run.model.parameters.values, run.model.parameters.states
    expected = {"values": (values.shape, values.dtype), "states": (states.shape, states.dtype)}
    if config["optimizer_steps"]:
        expected |= {f"optimizer/{name}": (values.shape, values.dtype) for name in run.optimizer.moments}
    for i, state in enumerate(config["callbacks"]):
        told = {k: v for k, v in state.items() if isinstance(v, dict) and set(v) == {"shape", "dtype"}}
        expected |= {f"callbacks/{i}/{k}": (tuple(v["shape"]), np.dtype(v["dtype"])) for k, v in told.items()}
    file.check(expected, "this run")
    return config | {"arrays": {name: file.read(name) for name in expected}}


def _check_place(config: dict, run: Run) -> None:
    """Raise ValueError where types, ranges or counts are not those of a run like this one."""
    most = {"epoch": run.epochs, "batch": run.batches, "seen": len(run.images), "right": len(run.images)}
    for name, kind in PLACE.items():
        value = config.get(name)
        if type(value) is not kind or (kind is int and not 0 <= value <= most.get(name, 2**53)):
            raise ValueError(f"{name}: got {value!r}, expected {kind.__name__}, 0 to {most.get(name, 'any')}")
        if kind is float and not math.isfinite(value):
            raise ValueError(f"{name}: got {value!r}, expected a finite number")
    calls = config.get("dropouts")
    if type(calls) is not list or len(calls) != len(run.model.dropouts()) or not all(map(_counts, calls)):
        raise ValueError(f"dropouts: got {calls!r}, expected {len(run.model.dropouts())} whole numbers")
    if not _counts(config.get("optimizer_steps")):
        raise ValueError(f"optimizer_steps: got {config.get('optimizer_steps')!r}, expected a whole number")
    history = config.get("history")
    if type(history) is not dict or not all(type(column) is list for column in history.values()):
        raise ValueError("history: expected a list for each figure")
    losses = history.get("loss", [])
    if len(losses) != config["epoch"] or not all(type(value) in (int, float) for value in losses):
        raise ValueError(f"history: expected the losses of {config['epoch']} epochs")


def _check_callbacks(memories: object, run: Run) -> None:
    """Each callback takes back what it gave, and nothing else: else a file could tell it to write elsewhere."""
    mine = [_numbers(callback.state()) for callback in run.callbacks]
    if type(memories) is not list or [*map(_names, memories)] != [*map(_names, mine)]:
        raise ValueError(f"callbacks: expected the memory of {len(mine)}, by the names that they use")
    for memory, state in zip(memories, mine, strict=True):
        for name, value in state.items():
            if isinstance(value, int | float) and not isinstance(memory[name], int | float):
                raise ValueError(f"callbacks: {name}: got {memory[name]!r}, expected a number")


def _names(memory: object) -> set[str] | None:
    return set(memory) if isinstance(memory, dict) else None


def _counts(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _compare(told: object, settings: dict) -> None:
    if not isinstance(told, dict) or set(told) != set(settings):
        raise ValueError("settings: not those of a run")
    mine = archive.as_read(settings)
    wrong = [name for name in settings if told[name] != mine[name]]
    if wrong:
        plain = [f"{k}: got {mine[k]}, the run had {told[k]}" if len(f"{mine[k]}{told[k]}") < 300 else k for k in wrong]
        raise CheckpointError(f"another run's settings or data: {'; '.join(plain)}")


def _apply(state: dict, run: Run) -> None:
    arrays, parameters, optimizer = state["arrays"], run.model.parameters, run.optimizer
    for name in PLACE:
        setattr(run, name, state[name])
    run.history.update(state["history"])
    parameters.values[...], parameters.states[...] = arrays["values"], arrays["states"]
    if state["optimizer_steps"]:
        optimizer.parameters, optimizer.steps = parameters, state["optimizer_steps"]
        optimizer.state = {name: arrays[f"optimizer/{name}"].copy() for name in optimizer.moments}
    for layer, calls in zip(run.model.dropouts(), state["dropouts"], strict=True):
        layer.calls = calls
    for i, (callback, memory) in enumerate(zip(run.callbacks, state["callbacks"], strict=True)):
        callback.resume({k: arrays.get(f"callbacks/{i}/{k}", v) for k, v in memory.items()})


# ---------------------------------------------------------------------------------------------------------------
# Signals


class _Signals:
    """While it lasts, the first SIGINT or SIGTERM is only noted, and a second one ends the process at once."""

    got = 0

    def __enter__(self) -> _Signals:
        ours = threading.current_thread() is threading.main_thread()
        usual = (signal.SIG_DFL, signal.default_int_handler)
        numbers = (signal.SIGINT, signal.SIGTERM) if ours else ()
        self.before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) in usual}
        for number in self.before:
            signal.signal(number, self._note)
        return self

    def _note(self, number, frame) -> None:
        if self.got:
            os._exit(128 + number)
        self.got = number
        with suppress(OSError, RuntimeError, ValueError):  # no terminal any more, or the signal came amid a print
            print("\nsaving, to go on later; once more to quit at once", file=sys.stderr, flush=True)

    def leave(self) -> None:
        """Raise what the signal asks for, if there was one."""
        if self.got == signal.SIGINT:
            raise KeyboardInterrupt
        if self.got:
            raise SystemExit(128 + self.got)

    def __exit__(self, *error) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
