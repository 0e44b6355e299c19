"""The training loop: batches in random order, one step for each, and what one wants to know after every epoch.

    for each epoch:
        for each batch of a new permutation of the images:
            logits = model.forward(augmented, standardised batch)
            loss, dlogits = loss(logits, labels)
            model.backward(dlogits)
            optimizer.step(learning rate of this step)

Every random number comes from (seed, epoch, batch), so that a run can be repeated to the bit, and a checkpoint need not hold
the state of any generator: only the place where the run was.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from minicnn import losses, optimizers, schedules
from minicnn.callbacks import Callback
from minicnn.checkpoint import Checkpoint
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
    """A training run: what it was given, and where it is.

    Callbacks read it. `figures` are the epoch's that has just ended; set `stop` to a reason to end after this epoch, and
    `rate_scale` to change the schedule's rates.
    """

    model: Sequential
    images: np.ndarray
    targets: np.ndarray
    validation: tuple[np.ndarray, np.ndarray] | None
    epochs: int
    batch_size: int
    optimizer: optimizers.Optimizer
    loss: Callable
    plain_loss: Callable  # without class weights, for the validation
    schedule: Callable[[int], float]
    augment: object | None
    callbacks: list[Callback]
    seed: int
    verbose: bool
    history: History = field(default_factory=History)
    epoch: int = 0  # how many are complete
    batch: int = 0  # how many of this epoch are
    step: int = 0  # how many steps were taken in all
    total: float = 0.0  # of this epoch: the sum of the losses,
    right: int = 0  # right answers,
    seen: int = 0  # images
    seconds: float = 0.0
    learning_rate: float = 0.0  # of the last step
    rate_scale: float = 1.0
    stop: str = ""
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def batches(self) -> int:
        """How many steps an epoch has."""
        return math.ceil(len(self.images) / self.batch_size)


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
    checkpoint: Checkpoint | None = None,
) -> History:
    """Train `model` on images x (n, h, w, c), uint8 or floats, and integer labels or probabilities y.

    optimizer and loss are names or objects; schedule is a function from the step to the learning rate (see schedules.py),
    by default the optimizer's own rate throughout; augment is a `minicnn.data.Augment`; validation_data is (images,
    targets), scored after every epoch; class_weight weighs the classes in the training loss; seed draws the order and the
    augmentation; checkpoint is a `minicnn.Checkpoint`, from which the run goes on where its file exists. Returns the
    History.

    Raises DataError or ShapeError for input that does not fit, and DivergedError when the loss or the weights are no
    longer finite. Ctrl-C leaves the model with the weights it has, and passes on.
    """
    optimizer, loss = optimizers.get(optimizer), losses.get(loss)
    images, targets = _checked(model, x, y, loss)
    run = Run(
        model=model,
        images=images,
        targets=targets,
        validation=_checked(model, *validation_data, loss) if validation_data is not None else None,
        epochs=positive(epochs, "epochs"),
        batch_size=positive(batch_size, "batch_size"),
        optimizer=optimizer,
        loss=_weighted(loss, class_weight),
        plain_loss=loss,
        schedule=schedule or schedules.constant(optimizer.learning_rate),
        augment=augment,
        callbacks=list(callbacks),
        seed=seed,
        verbose=verbose,
    )
    if not callable(run.schedule):
        raise ValueError(f"schedule: got {schedule!r}, expected a function from the step to the learning rate")
    if augment is not None and not hasattr(augment, "draw"):
        raise ValueError(f"augment: got {augment!r}, expected an Augment")
    if augment is not None and run.images.ndim != 4:
        raise ShapeError(f"augment: got images of shape {run.images.shape}, expected (n, h, w, c)")
    for callback in run.callbacks:
        callback.on_train_begin(run)
    with checkpoint.of(run) if checkpoint else nullcontext(lambda **moment: None) as save:
        model.learn_scale(run.images)
        model.history = run.history  # as in Keras; it survives an interrupted run
        _train(run, save)
    return run.history


def _checked(model, x, y, loss) -> tuple[np.ndarray, np.ndarray]:
    """Images and targets that fit the model, or a clear error."""
    model.check_loss(loss)
    x = model.check_images(x)
    return x, model.check_targets(y, len(x), loss)


def _weighted(loss, class_weight):
    """The loss with weights for the classes, where there are any."""
    if class_weight is None:
        return loss
    if not isinstance(loss, losses.CrossEntropy):
        raise ValueError("class_weight: got a loss that does not classify, expected cross-entropy")
    loss = copy.copy(loss)
    loss.class_weight = class_weight
    return loss


def _train(run: Run, save: Callable) -> None:
    """Epoch after epoch; `save` is called after every step, after every epoch and at the end."""
    try:
        while run.epoch < run.epochs and not run.stop:
            _epoch(run, save)
            _finish_epoch(run)
            for callback in run.callbacks:
                callback.on_epoch_end(run)
            save(epoch_ended=True)
        if run.stop and run.verbose:
            print(f"stopped after epoch {run.epoch}: {run.stop}")
    finally:
        for callback in run.callbacks:
            callback.on_train_end(run)


def _epoch(run: Run, save: Callable) -> None:
    """One walk through the training data, or what is left of it."""
    start, before = time.perf_counter(), run.seconds
    order = generator("order", run.seed, run.epoch).permutation(len(run.images))
    label = f"epoch {run.epoch + 1}/{run.epochs}"
    hidden = None if run.verbose else True
    with tqdm(total=len(order), initial=run.seen, desc=label, unit="img", leave=False, disable=hidden) as bar:
        while run.batch < run.batches:
            index = order[run.batch * run.batch_size : (run.batch + 1) * run.batch_size]
            train_step(run, index)
            for callback in run.callbacks:
                callback.on_step_end(run)
            run.seconds = before + time.perf_counter() - start
            bar.update(len(index))
            bar.set_postfix({name: f"{value:.4f}" for name, value in _training_figures(run).items()}, refresh=False)
            save()


def train_step(run: Run, index: np.ndarray) -> None:
    """Some of the images: forward, loss, backward, and a step of the optimizer."""
    matrix, holes = None, None
    if run.augment is not None:
        rng = generator("augmentation", run.seed, run.epoch, run.batch)
        matrix, holes = run.augment.draw(len(index), run.images.shape[1:3], rng)
    targets, rate = run.targets[index], float(run.schedule(run.step) * run.rate_scale)
    outputs = run.model.forward(run.model.batch(run.images, index, matrix, holes), training=True)
    value, doutputs = run.loss(outputs, targets)
    if not math.isfinite(value):
        raise DivergedError(
            f"loss: got {value} at step {run.step} (epoch {run.epoch + 1}), expected a finite number;"
            f" try a learning rate below {rate:.3g}, or clip_norm"
        )
    run.model.backward(doutputs)
    run.optimizer.step(run.model.parameters, rate)
    run.learning_rate = rate
    run.step, run.batch, run.seen = run.step + 1, run.batch + 1, run.seen + len(index)
    run.total += value * len(index)
    run.right += count_correct(outputs, targets) if run.loss.classifies else 0


def _training_figures(run: Run) -> dict[str, float]:
    figures = {"loss": run.total / run.seen}
    return figures | ({"accuracy": run.right / run.seen} if run.loss.classifies else {})


def _finish_epoch(run: Run) -> None:
    """Check the weights, score the validation data, write the epoch down."""
    if not run.model.parameters.finite():
        raise DivergedError(f"weights: got NaN or infinity after step {run.step - 1} (epoch {run.epoch + 1})")
    run.figures = _training_figures(run) | {"learning_rate": run.learning_rate, "seconds": run.seconds}
    if run.validation is not None:
        value, accuracy = run.model.evaluate(*run.validation, max(run.batch_size, 256), run.plain_loss)
        if not math.isfinite(value):
            raise DivergedError(f"val_loss: got {value} after step {run.step - 1} (epoch {run.epoch + 1})")
        run.figures["val_loss"] = value
        if run.loss.classifies:
            run.figures["val_accuracy"] = accuracy
    run.epoch, run.batch, run.total, run.right, run.seen, run.seconds = run.epoch + 1, 0, 0.0, 0, 0, 0.0
    run.history.add(run.figures)
    if run.verbose:
        figures = "  ".join(f"{k} {v:.4g}" if k == "learning_rate" else f"{k} {v:.4f}" for k, v in run.figures.items())
        print(f"epoch {run.epoch}/{run.epochs}  {figures}", flush=True)
