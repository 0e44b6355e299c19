"""Checkpoints: a training run that is killed at any moment goes on where it was, to the bit.

    model.fit(images, labels, epochs=30, checkpoint=Checkpoint("run/checkpoint.npz"))

The same call again, after whatever happened, goes on from the file. It holds all that the rest of the run depends on, as
each owner tells it by `state()` and takes it back by `restore(state)`: the run's progress and history, the weights and
running statistics, the optimizer's moments, the callbacks' and the layers' memory. Random numbers come from (seed, epoch,
batch), so a generator's state is an index too. The file also holds the run's settings and a fingerprint of the data, and a
run with others is refused; of callbacks and functions only the kind is compared.

A file is never half written: see files.py. The last two are kept, and where the newer is damaged the older serves.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from minicnn import archive, engine
from minicnn.arguments import flag, integer
from minicnn.errors import CheckpointError, ModelFileError
from minicnn.files import lock, remove, target_of, temporaries
from minicnn.model_files import describe
from minicnn.run import Run
from minicnn.say import say, warn
from minicnn.signals import Signals

FORMAT = 3


class Checkpoint:
    """For `fit(checkpoint=...)`: the whole state of a training run, so that it can go on after a crash.

    (To keep a trained model after an epoch, for use, see the callback `ModelCheckpoint`.) It saves to `path`, and keeps
    the one before it as <path>.previous, after every epoch and after each `every` steps. With keep_going, a file that
    cannot be written (a full disk) is a warning and not an error. Ctrl-C and SIGTERM let the step end, save, and then
    raise KeyboardInterrupt or SystemExit(143); a second one ends the process at once. Two runs cannot use one folder at
    the same time.
    """

    def __init__(self, path: str | os.PathLike, every: int = 500, keep_going: bool = False):
        self.path, self.every, self.keep_going = Path(path), integer(every, "every"), flag(keep_going, "keep_going")
        self.previous = self.path.with_name(self.path.name + ".previous")

    @contextmanager
    def of(self, run: Run) -> Iterator[Callable]:
        """Bring `run` to where its file says it was; yields what to call after each step, and after each epoch."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with lock(self.path.parent), Signals() as signals:
            target = target_of(self.path)
            for stale in temporaries(target.parent, target.name):
                stale.unlink(missing_ok=True)
            scale = run.model.scale
            before = dict(vars(scale))
            scale.learn(run.images)
            try:
                settings = _settings(run)
                newest_is_whole = self._restore(run, settings)
            except BaseException:
                vars(scale).clear()
                vars(scale).update(before)
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
        """Forget the run, the older file first; a link to a file stays."""
        remove(self.previous)
        remove(self.path)

    def _save(self, run: Run, settings: dict, keep: Path | None) -> bool:
        states = {name: owner.state() for name, owner in owners(run).items()}
        config = {"format": FORMAT, "settings": settings, "states": {k: _described(v) for k, v in states.items()}}
        try:
            archive.write(self.path, config, _arrays(states), keep)
        except OSError as error:
            failure = f"{error.filename or self.path}: cannot be written ({error.strerror or error})"
            if not self.keep_going:
                raise CheckpointError(failure) from error
            warn(f"warning: {failure}; going on")
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
                    states = _read(file, run, settings)
                    found = owners(run)
                    found.pop("run").restore(states["run"])  # it refuses what cannot be, and the others follow
            except ModelFileError as error:
                damaged.append(str(error))
                continue
            for line in damaged:
                warn(f"{line}: going on from the one before it, {path}")
            for name, owner in found.items():
                owner.restore(states[name])
            if run.verbose:
                say(f"going on from {path}: epoch {run.epoch + 1}, step {run.step}")
            return not damaged
        if damaged:
            raise CheckpointError(f"{'; '.join(damaged)}; delete what is damaged to begin anew")
        return True


# ---------------------------------------------------------------------------------------------------------------
# What a checkpoint holds


def owners(run: Run) -> dict:
    """Everything that the rest of a run depends on, by name."""
    owners = {"run": run, "parameters": run.model.parameters, "optimizer": run.optimizer}
    owners |= {f"callbacks/{i}": callback for i, callback in enumerate(run.callbacks)}
    return owners | {f"layers/{layer.name}": layer for layer in run.model.all_layers() if layer.state()}


def _described(state: dict) -> dict:
    """A state without its arrays, of which shape and dtype are told."""
    return {k: {"shape": v.shape, "dtype": v.dtype.str} if isinstance(v, np.ndarray) else v for k, v in state.items()}


def _is_array(value: object) -> bool:
    return isinstance(value, dict) and set(value) == {"shape", "dtype"}


def _arrays(states: dict[str, dict]) -> dict[str, np.ndarray]:
    """The arrays of all states, by the owner's name and theirs."""
    return {f"{o}/{k}": v for o, state in states.items() for k, v in state.items() if isinstance(v, np.ndarray)}


def _read(file: archive.Archive, run: Run, settings: dict) -> dict[str, dict]:
    """Every owner's state, once everything in the file is known to fit the run."""
    if file.config.get("format") != FORMAT:
        raise CheckpointError(f"format: got {file.config.get('format')!r}, expected {FORMAT}")
    _compare(file.config.get("settings"), settings)
    states, mine = file.config.get("states"), {name: _described(owner.state()) for name, owner in owners(run).items()}
    if type(states) is not dict or set(states) != set(mine):
        raise ValueError(f"states: expected those of {', '.join(mine)}")
    for name, state in mine.items():
        _check_state(name, states[name], state)
    expected = {
        f"{o}/{k}": (tuple(v["shape"]), np.dtype(v["dtype"]))
        for o, state in states.items()
        for k, v in state.items()
        if _is_array(v)
    }
    file.check(expected, "this run")
    return {
        o: {k: file.read(f"{o}/{k}") if f"{o}/{k}" in expected else v for k, v in state.items()}
        for o, state in states.items()
    }


def _check_state(owner: str, state: object, mine: dict) -> None:
    """An owner takes back what it gave, and nothing else: else a file could tell a callback to write elsewhere.

    An array has the shape and dtype that the owner's has, or there is none yet; a number is a number.
    """
    if not isinstance(state, dict) or set(state) != set(mine):
        raise ValueError(f"{owner}: expected the values of {', '.join(mine) or 'nothing'}")
    for name, value in mine.items():
        got = state[name]
        same = not _is_array(value) or (_is_array(got) and (tuple(got["shape"]), got["dtype"]) == tuple(value.values()))
        if not same or (isinstance(value, int | float) and not isinstance(got, int | float)):
            raise ValueError(f"{owner}: {name}: got {got!r}, expected {value!r}")
        if type(value) is int and not owner.startswith("callbacks/") and not (type(got) is int and 0 <= got < 2**53):
            raise ValueError(f"{owner}: {name}: got {got!r}, expected a whole number")


def _settings(run: Run) -> dict:
    """All that a run was told, as text and numbers that can be compared."""
    optimizer = {k: v for k, v in vars(run.optimizer).items() if k not in ("parameters", "vectors", "steps")}
    steps = run.batches * run.epochs
    return {
        "model": describe(run.model),
        "epochs": run.epochs,
        "batch_size": run.batch_size,
        "seed": run.seed,
        "shuffle": run.shuffle,
        "steps_per_epoch": run.steps_per_epoch,
        "not trainable": [layer.name for layer in run.model.all_layers() if not layer.trainable],
        "optimizer": f"{type(run.optimizer).__name__} {optimizer}",
        "loss": _told(run.loss),
        "schedule": [float(run.schedule((steps - 1) * i // 16)) for i in range(17)],
        "augment": _told(run.augment),
        "callbacks": [type(callback).__name__ for callback in run.callbacks],
        "backend": engine.backend(),
        "precision": run.model.precision,
        "data": _fingerprint(run.images, run.targets, *([] if run.sample_weight is None else [run.sample_weight])),
        "validation data": _fingerprint(*(run.validation or ())),
    }


def _told(thing: object) -> str:
    """Its class and its attributes; one's own classes may have a repr that is an address, and an array's is rounded."""
    attributes = getattr(thing, "__dict__", {})
    attributes = {k: _fingerprint(v) if isinstance(v, np.ndarray) else v for k, v in attributes.items()}
    return re.sub(r" at 0x\w+", "", f"{type(thing).__name__} {attributes}")


def _fingerprint(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        for i in range(0, len(array), 1024):
            digest.update(np.ascontiguousarray(array[i : i + 1024]).data)
    return digest.hexdigest()


def _compare(told: object, settings: dict) -> None:
    if not isinstance(told, dict) or set(told) != set(settings):
        raise ValueError("settings: not those of a run")
    mine = archive.as_read(settings)
    wrong = [name for name in settings if told[name] != mine[name]]
    if wrong:
        pairs = {k: f"got {mine[k]}, the run had {told[k]}" for k in wrong}
        plain = [f"{k}: {pair if len(pair) < 300 else 'the run had another'}" for k, pair in pairs.items()]
        raise CheckpointError(f"another run's settings or data: {'; '.join(plain)}")
