"""Callbacks: what can be done between the steps and the epochs of a training run.

A callback gets the run (see `minicnn.run.Run`): its model, its epoch and step, and the metrics of the epoch that
ended. Metrics are named "loss", "accuracy", "val_loss", "val_accuracy"; for an accuracy more is better, for all else less.
Before the first epoch they are NaN; a callback that adds one of its own sets it then too.
"""

from __future__ import annotations

import csv
import io
import math
import os

import numpy as np

from minicnn.arguments import flag, integer, number
from minicnn.errors import DivergedError
from minicnn.files import atomic_write, check_target
from minicnn.model_files import save_model
from minicnn.names import Named
from minicnn.run import Run
from minicnn.say import warn


class Callback(Named):
    """The base: override what you need. One that `writes` files is the first rank's alone (see distributed.py)."""

    writes = False

    def on_train_begin(self, run: Run) -> None:
        """Before the first epoch."""

    def on_step_end(self, run: Run) -> None:
        """After every step."""

    def on_epoch_end(self, run: Run) -> None:
        """After every epoch, `run.metrics` being complete."""

    def on_train_end(self, run: Run) -> None:
        """After the last epoch, or on the way out after an error."""

    def state(self) -> dict:
        """What a checkpoint must keep of it: numbers, strings and arrays by the names of its attributes.

        They are the same names at every moment: what else stands in a file is refused.
        """
        return {}

    def restore(self, state: dict) -> None:
        """Take back what `state` gave, after on_train_begin."""
        vars(self).update(state)


class _Monitor(Callback):
    """What the callbacks that watch one metric share: its best value, and for how many epochs it has not improved."""

    watches = True

    def __init__(self, monitor: str, min_delta: float = 0.0):
        self.monitor, self.min_delta = monitor, number(min_delta, "min_delta", least=0)

    def on_train_begin(self, run: Run) -> None:
        self.best, self.waited = math.inf, 0
        if self.watches:
            self.metric(run)

    def metric(self, run: Run) -> float:
        """The metric that is watched, less being better."""
        if self.monitor not in run.metrics:
            have = ", ".join(run.metrics)
            hint = "; give fit validation_data" if run.validation is None else ""
            raise ValueError(f"{type(self).__name__}: no metric {self.monitor!r}, expected one of {have}{hint}")
        return run.metrics[self.monitor] * (-1 if "accuracy" in self.monitor else 1)

    def state(self) -> dict:
        return {"best": self.best, "waited": self.waited}

    def improved(self, run: Run) -> bool:
        """Whether the metric is better than ever before in this run."""
        value = self.metric(run)
        better = value < self.best - self.min_delta
        self.best, self.waited = (value, 0) if better else (self.best, self.waited + 1)
        return better


class EarlyStopping(_Monitor):
    """Stop when the metric has not improved for `patience` epochs, and go back to the weights of the best one."""

    def __init__(self, monitor: str = "val_loss", patience: int = 3, min_delta: float = 0.0, restore_best: bool = True):
        super().__init__(monitor, min_delta)
        self.patience, self.restore_best = integer(patience, "patience", least=0), flag(restore_best, "restore_best")

    def on_train_begin(self, run: Run) -> None:
        super().on_train_begin(run)
        parameters = run.model.parameters
        self.best_values, self.best_statistics = parameters.values.copy(), parameters.statistics.copy()

    def state(self) -> dict:
        return super().state() | {"best_values": self.best_values, "best_statistics": self.best_statistics}

    def on_epoch_end(self, run: Run) -> None:
        parameters = run.model.parameters
        if self.improved(run):
            self.best_values, self.best_statistics = parameters.values.copy(), parameters.statistics.copy()
        elif self.waited >= self.patience:
            run.stop = f"{self.monitor} has not improved for {self.waited} epochs"

    def on_train_end(self, run: Run) -> None:
        if self.restore_best and self.best < math.inf:
            with run.model.lock:
                run.model.parameters.restore({"values": self.best_values, "statistics": self.best_statistics})


class ModelCheckpoint(_Monitor):
    """Save the model, for use, after every epoch, or only when the metric is the best so far.

    The path may name the epoch and the metrics, as in "model-{epoch:02d}-{val_loss:.2f}.npz". (To go on with a run
    after a crash, see `minicnn.Checkpoint`.)
    """

    writes = True

    def __init__(self, path: str | os.PathLike, monitor: str = "val_loss", save_best_only: bool = True):
        super().__init__(monitor)
        self.path, self.watches = os.fspath(path), flag(save_best_only, "save_best_only")

    def on_train_begin(self, run: Run) -> None:
        super().on_train_begin(run)
        check_target(self.filled(run))

    def on_epoch_end(self, run: Run) -> None:
        if not self.watches or self.improved(run):
            save_model(run.model, self.filled(run))

    def filled(self, run: Run) -> str:
        """The path with the epoch and the metrics in it."""
        try:
            return self.path.format(epoch=run.epoch, **run.metrics)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            names = ", ".join(f"{{{name}}}" for name in ("epoch", *run.metrics))
            raise ValueError(f"ModelCheckpoint: path {self.path!r}: {error}, expected no names but {names}") from None


class ReduceLROnPlateau(_Monitor):
    """Multiply the learning rate by `factor` when the metric has not improved for `patience` epochs, down to min_lr."""

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 3,
        factor: float = 0.5,
        min_lr: float = 1e-5,
        min_delta: float = 0.0,
    ):
        super().__init__(monitor, min_delta)
        self.patience, self.factor = integer(patience, "patience", least=0), number(factor, "factor", above=0, below=1)
        self.min_lr = number(min_lr, "min_lr", least=0)

    def on_epoch_end(self, run: Run) -> None:
        if not self.improved(run) and self.waited >= self.patience:
            rate = run.metrics["learning_rate"]
            lower = min(rate, max(rate * self.factor, self.min_lr))
            run.rate_scale, self.waited = run.rate_scale * (lower / rate if rate else 1), 0


class CSVLogger(Callback):
    """Write the metrics of all epochs so far to a CSV file, a row an epoch, after every epoch.

    With keep_going, a file that cannot be written (a full disk) is a warning and not an OSError.
    """

    writes = True

    def __init__(self, path: str | os.PathLike, keep_going: bool = False):
        self.path, self.keep_going = path, flag(keep_going, "keep_going")

    def on_train_begin(self, run: Run) -> None:
        if not self.keep_going:
            check_target(self.path)

    def on_epoch_end(self, run: Run) -> None:
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(["epoch", *run.history])
        writer.writerows(zip(range(1, run.epoch + 1), *run.history.values(), strict=True))
        try:
            with atomic_write(self.path) as file:
                file.write(text.getvalue().encode())
        except OSError as error:
            if not self.keep_going:
                raise
            warn(f"warning: {error}; going on")


class TerminateOnNaN(Callback):
    """Check gradients and weights after every step, not only the loss: finds the step at which a run went wrong."""

    def on_step_end(self, run: Run) -> None:
        for name in ("grads", "values"):
            if not np.isfinite(getattr(run.model.parameters, name)).all():
                raise DivergedError(f"{name}: got NaN or infinity at step {run.step - 1} (epoch {run.epoch + 1})")


class LambdaCallback(Callback):
    """A callback of functions that get the run: LambdaCallback(on_epoch_end=lambda run: print(run.metrics["loss"]))."""

    def __init__(self, on_train_begin=None, on_step_end=None, on_epoch_end=None, on_train_end=None):
        given = {k: v for k, v in locals().items() if k.startswith("on_") and v is not None}
        for name, function in given.items():
            if not callable(function):
                raise ValueError(f"{name}: got {function!r}, expected a function of the run")
        vars(self).update(given)
