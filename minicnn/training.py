"""The training loop: batches in random order, one step for each, and what one wants to know after every epoch.

    for each epoch:
        for each batch of a new permutation of the images:
            logits = model.forward(augmented, standardised batch)
            loss, dlogits = loss(logits, labels)
            model.backward(dlogits)
            optimizer.step(learning rate of this step)

Every random number comes from (seed, epoch, batch), so that a run can be repeated to the bit.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from minicnn import losses, optimizers, schedules
from minicnn.callbacks import Callback
from minicnn.errors import DivergedError, ShapeError
from minicnn.layers.base import positive
from minicnn.model import Sequential, count_correct
from minicnn.seeds import generator


class History(dict):
    """One list for each figure, with one number an epoch: "loss", "accuracy", "val_loss", "val_accuracy",
    "learning_rate", "seconds". As in Keras it is also its own attribute `history`."""

    @property
    def history(self) -> History:
        return self

    def add(self, figures: dict[str, float]) -> None:
        """Append an epoch."""
        for name, value in figures.items():
            self.setdefault(name, []).append(value)


@dataclass
class Run:
    """A training run as callbacks see it. `figures` are the epoch's; set `stop` to a reason to end after this epoch."""

    model: Sequential
    optimizer: optimizers.Optimizer
    epochs: int
    history: History
    epoch: int = 0
    step: int = 0
    rate_scale: float = 1.0
    stop: str = ""
    figures: dict[str, float] = field(default_factory=dict)


def fit(
    model: Sequential,
    x: np.ndarray,
    y: np.ndarray,
    epochs: int = 1,
    batch_size: int = 128,
    optimizer: str | optimizers.Optimizer = "adam",
    loss: str | Callable = "cross_entropy",
    schedule: Callable[[int], float] | None = None,
    augment=None,
    validation_data: tuple[np.ndarray, np.ndarray] | None = None,
    callbacks: Iterable[Callback] = (),
    class_weight=None,
    seed: int = 0,
    verbose: bool = True,
) -> History:
    """Train `model` on images x (n, h, w, c), uint8 or floats, and integer labels or probabilities y.

    optimizer and loss are names or objects; schedule is a function from the step to the learning rate (see schedules.py),
    by default the optimizer's own rate throughout; augment is a `minicnn.data.Augment`; validation_data is (images,
    targets), scored after every epoch; class_weight weighs the classes in the training loss; seed draws the
    order and the augmentation. Returns the History.

    Raises DataError or ShapeError for input that does not fit, and DivergedError when the loss or the weights are no
    longer finite. Ctrl-C leaves the model with the weights it has, and passes on.
    """
    epochs, batch_size, callbacks = positive(epochs, "epochs"), positive(batch_size, "batch_size"), list(callbacks)
    if schedule is not None and not callable(schedule):
        raise ValueError(f"schedule: got {schedule!r}, expected a function from the step to the learning rate")
    if augment is not None and not hasattr(augment, "draw"):
        raise ValueError(f"augment: got {augment!r}, expected an Augment")
    loss = plain_loss = losses.get(loss)
    if class_weight is not None:
        if not isinstance(loss, losses.CrossEntropy):
            raise ValueError("class_weight: got a loss that does not classify, expected cross-entropy")
        loss = copy.copy(loss)
        loss.class_weight = class_weight
    model.check_loss(loss)
    x = model.check_images(x)
    y = model.check_targets(y, len(x), loss)
    if validation_data is not None:
        held_out = model.check_images(validation_data[0])
        validation_data = held_out, model.check_targets(validation_data[1], len(held_out), loss)
    if augment is not None and x.ndim != 4:
        raise ShapeError(f"augment: got images of shape {x.shape}, expected (n, h, w, c)")
    model.learn_scale(x)
    optimizer = optimizers.get(optimizer)
    run = Run(model, optimizer, epochs, History())
    model.history = run.history  # as in Keras; it survives an interrupted run
    schedule = schedule or schedules.constant(optimizer.learning_rate)
    for callback in callbacks:
        callback.on_train_begin(run)
    try:
        while run.epoch < epochs and not run.stop:
            _epoch(run, x, y, batch_size, loss, schedule, augment, seed, callbacks, verbose)
            _finish_epoch(run, validation_data, batch_size, plain_loss, verbose)
            for callback in callbacks:
                callback.on_epoch_end(run)
        if run.stop and verbose:
            print(f"stopped after epoch {run.epoch}: {run.stop}")
    finally:
        for callback in callbacks:
            callback.on_train_end(run)
    return run.history


def _epoch(run, x, y, batch_size, loss, schedule, augment, seed, callbacks, verbose) -> None:
    """One walk through the training data."""
    model, start = run.model, time.perf_counter()
    order = generator("order", seed, run.epoch).permutation(len(x))
    total, right, seen = 0.0, 0, 0
    label = f"epoch {run.epoch + 1}/{run.epochs}"
    with tqdm(total=len(x), desc=label, unit="img", leave=False, disable=None if verbose else True) as bar:
        for batch, i in enumerate(range(0, len(x), batch_size)):
            index = order[i : i + batch_size]
            matrix, holes = None, None
            if augment is not None:
                rng = generator("augmentation", seed, run.epoch, batch)
                matrix, holes = augment.draw(len(index), x.shape[1:3], rng)
            rate = schedule(run.step) * run.rate_scale
            value, outputs = train_step(run, model.batch(x, index, matrix, holes), y[index], loss, rate)
            total, seen = total + value * len(index), seen + len(index)
            right += count_correct(outputs, y[index]) if loss.classifies else 0
            for callback in callbacks:
                callback.on_step_end(run)
            bar.update(len(index))
            figures = {"loss": f"{total / seen:.4f}"} | ({"accuracy": f"{right / seen:.4f}"} if loss.classifies else {})
            bar.set_postfix(figures, refresh=False)
    run.figures = {"loss": total / seen}
    if loss.classifies:
        run.figures["accuracy"] = right / seen
    run.figures |= {"learning_rate": rate, "seconds": time.perf_counter() - start}


def train_step(run: Run, images, targets, loss, rate: float) -> tuple[float, np.ndarray]:
    """Forward, loss, backward, and a step of the optimizer; returns the loss and the outputs."""
    outputs = run.model.forward(images, training=True)
    value, doutputs = loss(outputs, targets)
    if not math.isfinite(value):
        raise DivergedError(
            f"loss: got {value} at step {run.step} (epoch {run.epoch + 1}), expected a finite number;"
            f" try a learning rate below {rate:.3g}, or clip_norm"
        )
    run.model.backward(doutputs)
    run.optimizer.step(run.model.parameters, rate)
    run.step += 1
    return value, outputs


def _finish_epoch(run, validation_data, batch_size, loss, verbose) -> None:
    """Check the weights, score the validation data, write the epoch down."""
    if not run.model.parameters.finite():
        raise DivergedError(f"weights: got NaN or infinity after step {run.step - 1} (epoch {run.epoch + 1})")
    if validation_data is not None:
        value, accuracy = run.model.evaluate(*validation_data, max(batch_size, 256), loss)
        if not math.isfinite(value):
            raise DivergedError(f"val_loss: got {value} after step {run.step - 1} (epoch {run.epoch + 1})")
        run.figures["val_loss"] = value
        if loss.classifies:
            run.figures["val_accuracy"] = accuracy
    run.epoch += 1
    run.history.add(run.figures)
    if verbose:
        figures = "  ".join(f"{k} {v:.4g}" if k == "learning_rate" else f"{k} {v:.4f}" for k, v in run.figures.items())
        print(f"epoch {run.epoch}/{run.epochs}  {figures}", file=sys.stdout, flush=True)
