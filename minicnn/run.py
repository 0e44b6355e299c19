"""A training run: what it was given, where it is, and what it has seen so far."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from minicnn.data import Augment
from minicnn.distributed import Ranks
from minicnn.losses import Loss
from minicnn.network import Network
from minicnn.optimizers import Optimizer
from minicnn.tables import html_table, short

if TYPE_CHECKING:
    from minicnn.callbacks import Callback


class History(dict):
    """One list for each metric, with one number an epoch: "loss", "accuracy", "val_loss", "val_accuracy",
    "learning_rate", "seconds". As in Keras there is a plain dictionary of them in `history`."""

    @property
    def history(self) -> dict[str, list[float]]:
        return dict(self)

    def plot(self, path=None):
        """Loss and accuracy by epoch, as a matplotlib figure, saved where a `path` is given."""
        from minicnn import plots  # brings matplotlib

        return plots.curves(self, path)

    def __repr__(self) -> str:
        last = ", ".join(f"{name} {short(values[-1])}" for name, values in self.items() if values)
        return f"History of {max(map(len, self.values()), default=0)} epochs{last and ', the last: '}{last}"

    def _repr_html_(self) -> str:
        epochs = zip(*self.values(), strict=False)
        return html_table([("epoch", *self), *((i, *values) for i, values in enumerate(epochs, 1))])

    def add(self, metrics: dict[str, float]) -> None:
        """Append an epoch."""
        for name, value in metrics.items():
            self.setdefault(name, []).append(value)


# What a checkpoint keeps of a run: where it is, as whole numbers, numbers and text.
PROGRESS: dict[str, type] = {"epoch": int, "batch": int, "step": int, "correct": int, "seen": int} | {
    **{"total": float, "seconds": float, "learning_rate": float, "rate_scale": float, "stop": str}
}


@dataclass
class Run:
    """A training run. Callbacks read it: `metrics` are those of the epoch that has just ended.

    Set `stop` to a reason to end after this epoch, and `rate_scale` to change the schedule's rates.
    """

    model: Network
    images: np.ndarray
    targets: np.ndarray
    validation: tuple[np.ndarray, np.ndarray] | None
    epochs: int
    batch_size: int
    optimizer: Optimizer
    loss: Loss
    plain_loss: Loss  # without class weights, for the validation
    schedule: Callable[[int], float]
    augment: Augment | None
    callbacks: list[Callback]
    seed: int
    verbose: bool
    shuffle: bool = True
    sample_weight: np.ndarray | None = None
    steps_per_epoch: int | None = None
    ranks: Ranks = field(default_factory=Ranks)
    history: History = field(default_factory=History)
    epoch: int = 0  # how many are complete
    batch: int = 0  # how many of this epoch are
    step: int = 0  # how many steps were taken in all
    total: float = 0.0  # of this epoch: the sum of the losses,
    correct: int = 0  # correct answers,
    seen: int = 0  # images
    seconds: float = 0.0
    learning_rate: float = 0.0  # of the last step
    rate_scale: float = 1.0
    stop: str = ""
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def batches(self) -> int:
        """How many steps an epoch has."""
        return self.steps_per_epoch or math.ceil(len(self.images) / self.batch_size)

    def __post_init__(self):
        scored = ("loss", "accuracy") if self.loss.classifies else ("loss",)
        names = [
            *scored,
            "learning_rate",
            "seconds",
            *(f"val_{name}" for name in scored if self.validation is not None),
        ]
        self.metrics = dict.fromkeys(names, math.nan)

    def training_metrics(self) -> dict[str, float]:
        """Of the images of this epoch that were seen so far."""
        accuracy = {"accuracy": self.correct / self.seen} if self.loss.classifies else {}
        return {"loss": self.total / self.seen} | accuracy

    def state(self) -> dict:
        """What a checkpoint must keep."""
        return {name: kind(getattr(self, name)) for name, kind in PROGRESS.items()} | {"history": self.history}

    def restore(self, state: dict) -> None:
        """Take back what `state` gave; ValueError, and nothing changed, where it cannot be a run like this one's."""
        most = {"epoch": self.epochs, "batch": self.batches, "seen": len(self.images), "correct": len(self.images)}
        for name, kind in PROGRESS.items():
            value: Any = state.get(name)
            fits = type(value) is kind  # True is no number
            if not fits or (kind is int and not 0 <= value <= most.get(name, 2**53)):
                raise ValueError(f"{name}: got {value!r}, expected {kind.__name__}, 0 to {most.get(name, 'any')}")
            if kind is float and not math.isfinite(value):
                raise ValueError(f"{name}: got {value!r}, expected a finite number")
        if state["seen"] != min(state["batch"] * self.batch_size, len(self.images)):
            raise ValueError(f"seen: got {state['seen']} images in {state['batch']} batches of {self.batch_size}")
        history = state.get("history")
        if not isinstance(history, dict) or not all(type(column) is list for column in history.values()):
            raise ValueError("history: expected a list for each metric")
        epochs = [len(column) for column in (*history.values(), history.get("loss", []))]
        if set(epochs) != {state["epoch"]} or not all(type(v) in (int, float) for c in history.values() for v in c):
            raise ValueError(f"history: expected a number for each metric and each of {state['epoch']} epochs")
        for name in PROGRESS:
            setattr(self, name, state[name])
        self.history.update(history)
