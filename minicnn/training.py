"""The training loop: batches in random order, one step for each, and what one wants to know after every epoch.

    for each epoch:
        for each batch of a new permutation of the images:
            logits = model.forward(augmented, standardised batch)
            loss, dlogits = loss(logits, labels)
            model.backward(dlogits)
            optimizer.step(learning rate of this step)

Every random number comes from (seed, epoch, batch), so that a run can be repeated to the bit, and a checkpoint need not hold
the state of any generator: only how far the run was.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np

from minicnn import engine, inputs, losses, optimizers, schedules
from minicnn.arguments import flag, integer, number
from minicnn.callbacks import Callback
from minicnn.checkpoint import Checkpoint, owners
from minicnn.data import Augment
from minicnn.distributed import Ranks
from minicnn.errors import DataError, DivergedError, ShapeError
from minicnn.layers import Dropout
from minicnn.losses import Loss
from minicnn.network import Network
from minicnn.run import History, Run
from minicnn.say import bar, say
from minicnn.seeds import generator


def fit(
    self: Network,
    x: np.ndarray,
    y: np.ndarray,
    epochs: int = 1,
    batch_size: int = 128,
    optimizer: str | optimizers.Optimizer = "adam",
    loss: str | Loss = "cross_entropy",
    schedule: Callable[[int], float] | None = None,
    augment: Augment | None = None,
    validation_data: tuple[np.ndarray, np.ndarray] | None = None,
    callbacks: Callback | Iterable[Callback] = (),
    class_weight=None,
    seed: int = 0,
    verbose: bool = True,
    checkpoint: Checkpoint | None = None,
    validation_split: float = 0.0,
    shuffle: bool = True,
    sample_weight: np.ndarray | None = None,
    steps_per_epoch: int | None = None,
    ranks: Ranks | None = None,
) -> History:
    """Train on images x (n, h, w, c), uint8 or floats, and integer labels or probabilities y; returns the History.

    optimizer and loss are names or objects; schedule is a function from the step to the learning rate (see schedules.py),
    by default the optimizer's own rate throughout; augment is a `minicnn.data.Augment`; validation_data is (images,
    targets), scored after every epoch; class_weight weighs the classes in the training loss; seed draws the order and the
    augmentation; checkpoint is a `minicnn.Checkpoint`, from which the run goes on where its file exists; ranks are the
    processes that share each batch (see distributed.py), every one of them making this call.

    validation_split, from 0 to 1, holds the last share of x and y out as validation data, as in Keras: where images are
    sorted by class, take `minicnn.data.split`. With shuffle=False every epoch takes the images in their order.
    sample_weight (n,), at least 0, weighs the images in the training loss, on top of class_weight: the loss of a batch is
    the weighted mean. With steps_per_epoch an epoch ends after so many batches of its order.

    Layers whose `trainable` was set to False keep their weights, those inside a Residual too.

    Raises DataError or ShapeError for input that does not fit, and DivergedError when the loss or the weights are no
    longer finite. Ctrl-C leaves the model with the weights it has, or EarlyStopping's best, and passes on. While a model
    is in training another thread may predict with it (each batch is of some step's weights), but not train it:
    RuntimeError.
    """
    optimizer, loss, ranks = optimizers.get(optimizer), losses.get(loss), ranks or Ranks()
    data = _training_data(self, loss, x, y, sample_weight)
    data, validation = _validation_data(self, loss, data, validation_data, validation_split)
    run = Run(
        model=self,
        images=data.images,
        targets=data.targets,
        sample_weight=data.weights,
        validation=validation,
        epochs=integer(epochs, "epochs"),
        batch_size=integer(batch_size, "batch_size"),
        optimizer=optimizer,
        loss=_weighted(loss, class_weight),
        plain_loss=loss,
        schedule=schedule or schedules.constant(optimizer.learning_rate),
        augment=augment,
        callbacks=list(callbacks) if isinstance(callbacks, Iterable) else [callbacks],
        seed=integer(seed, "seed", least=0),
        verbose=verbose and not ranks.rank,
        shuffle=flag(shuffle, "shuffle"),
        steps_per_epoch=None if steps_per_epoch is None else integer(steps_per_epoch, "steps_per_epoch"),
        ranks=ranks,
    )
    _check_settings(run, checkpoint)
    inputs.warn_of_scale(run.images, self.scale, training=True)
    if not self.fitting.acquire(blocking=False):
        raise RuntimeError("fit: this model is in training already; make a model for each thread")
    try:
        _train(run, checkpoint)
    finally:
        self.fitting.release()
    return run.history


class Evaluation(NamedTuple):
    """What `evaluate` gives: the mean loss, and the share of correct answers (NaN for a loss that does not classify)."""

    loss: float
    accuracy: float


def evaluate(
    self: Network,
    x: np.ndarray,
    y: np.ndarray,
    batch_size: int = 256,
    loss: str | Loss = "cross_entropy",
    tta: str | None = None,
) -> Evaluation:
    """Loss and accuracy on images and their targets, nothing being learnt."""
    loss = losses.get(loss)
    x, y = _checked(self, x, y, loss)
    outputs = self.outputs(x, batch_size, tta)
    accuracy = count_correct(outputs, y) / len(y) if loss.classifies else float("nan")
    return Evaluation(loss(outputs, y)[0], accuracy)


def count_correct(outputs: np.ndarray, targets: np.ndarray) -> int:
    """How many outputs are largest where the target is."""
    truth = targets if targets.ndim == 1 else targets.argmax(axis=-1)
    return int((outputs.argmax(axis=-1) == truth).sum())


def _checked(model: Network, x, y, loss: Loss) -> tuple[np.ndarray, np.ndarray]:
    """Images and targets that fit the model and the loss, or a clear error."""
    if isinstance(loss, losses.CrossEntropy) and model.gives_probabilities:
        raise ValueError("loss: cross-entropy takes logits; leave out the last Softmax, predict() applies it")
    if loss.classifies and len(model.output_shape) != 1:
        name, shape = model.layers[-1].name, model.output_shape
        raise ShapeError(f"{name}: got output shape {shape}, expected (classes,) to classify")
    x = inputs.check_images(x, model.input_shape, model.dtype)
    return x, inputs.check_targets(y, len(x), model.output_shape, loss.classifies)


class _Data(NamedTuple):
    """What to train on: images, a target for each, and a weight for each where there are any."""

    images: np.ndarray
    targets: np.ndarray
    weights: np.ndarray | None


def _training_data(model: Network, loss: Loss, x, y, sample_weight) -> _Data:
    """The training data, checked."""
    images, targets = _checked(model, x, y, loss)
    if sample_weight is None:
        return _Data(images, targets, None)
    weights = inputs.plain(sample_weight, "sample_weight")
    if weights.shape != (len(images),) or weights.dtype.kind not in "fiu":
        got = f"got {weights.dtype} of shape {weights.shape}"
        raise DataError(f"sample_weight: {got}, expected numbers ({len(images)},)")
    if not ((weights >= 0) & (weights <= 1e30)).all() or not weights.any():
        raise DataError("sample_weight: expected numbers from 0 to 1e30, and not all of them zero")
    return _Data(images, targets, weights)


def _validation_data(
    model: Network, loss: Loss, data: _Data, given, share: float
) -> tuple[_Data, tuple[np.ndarray, np.ndarray] | None]:
    """What is left to train on, and the validation data, checked: those that are given, or this share of the data."""
    share, count = number(share, "validation_split", least=0, below=1), len(data.images)
    if given is not None and share:
        raise ValueError("validation_split: got it and validation_data, expected one of them")
    if given is not None:
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise ValueError(f"validation_data: got {_kind(given)}, expected (images, targets)")
        images, targets = given
        return data, _checked(model, images, targets, loss)
    if not share:
        return data, None
    first = count - round(share * count)
    if not 0 < first < count:
        raise DataError(f"validation_split: got {share} of {count} images, expected at least one on each side")
    weights = None if data.weights is None else data.weights[:first]
    return _Data(data.images[:first], data.targets[:first], weights), (data.images[first:], data.targets[first:])


def _kind(value) -> str:
    """What it is, in few words."""
    return f"{type(value).__name__} of {len(value)}" if hasattr(value, "__len__") else repr(value)


def _check_settings(run: Run, checkpoint: Checkpoint | None) -> None:
    """Refuse what cannot be a callback, a checkpoint, a schedule, or an augmentation of these images."""
    for callback in run.callbacks:
        if not isinstance(callback, Callback):
            raise ValueError(f"callbacks: got {callback!r}, expected Callback objects, such as EarlyStopping()")
    if checkpoint is not None and not isinstance(checkpoint, Checkpoint):
        raise ValueError(f"checkpoint: got {checkpoint!r}, expected minicnn.Checkpoint(path)")
    if isinstance(run.loss, losses.CrossEntropy) and run.loss.class_weight is not None:
        run.loss.weights(run.model.output_shape[-1])
    if not callable(run.schedule):
        raise ValueError(f"schedule: got {run.schedule!r}, expected a function from the step to the learning rate")
    passes = math.ceil(len(run.images) / run.batch_size)
    if run.steps_per_epoch is not None and (run.steps_per_epoch > passes or not run.shuffle):
        got = f"got {run.steps_per_epoch} with shuffle={run.shuffle}"
        raise ValueError(f"steps_per_epoch: {got}, expected at most {passes}, one pass, with shuffle=True")
    if run.sample_weight is not None and not isinstance(run.loss, losses.CrossEntropy | losses.MeanSquaredError):
        raise ValueError(f"sample_weight: got loss {run.loss!r}, expected cross-entropy or mean squared error")
    if run.augment is not None and not hasattr(run.augment, "draw"):
        raise ValueError(f"augment: got {run.augment!r}, expected an Augment")
    if run.augment is not None and run.images.ndim != 4:
        raise ShapeError(f"augment: got images of shape {run.images.shape}, expected (n, h, w, c)")


def _weighted(loss: Loss, class_weight) -> Loss:
    """The loss with weights for the classes, where there are any."""
    if class_weight is None:
        return loss
    if not isinstance(loss, losses.CrossEntropy):
        raise ValueError("class_weight: got a loss that does not classify, expected cross-entropy")
    loss = copy.copy(loss)
    loss.class_weight = class_weight
    return loss


def _train(run: Run, checkpoint: Checkpoint | None) -> None:
    """The run from its start, or from the checkpoint on; only the first rank writes files."""
    model, ranks = run.model, run.ranks
    if ranks.rank:
        run.callbacks, checkpoint = [c for c in run.callbacks if not c.writes], None
    for layer in model.all_layers():
        if isinstance(layer, Dropout):
            layer.seed = (*layer.seed[:2], *ranks.key)
    run.optimizer.attach(model.parameters)
    for callback in run.callbacks:
        callback.on_train_begin(run)
    with checkpoint.of(run) if checkpoint else nullcontext(lambda **moment: None) as save:
        model.scale.learn(run.images)
        ranks.agree([owner for owner in owners(run).values() if not getattr(owner, "writes", False)])
        model.history = run.history  # as in Keras; it survives an interrupted run
        _epochs(run, save)


def _epochs(run: Run, save: Callable) -> None:
    """Epoch after epoch; `save` is called after every step, after every epoch and at the end."""
    try:
        while run.epoch < run.epochs and not run.stop:
            _epoch(run, save)
            _finish_epoch(run)
            for callback in run.callbacks:
                callback.on_epoch_end(run)
            save(epoch_ended=True)
            if run.verbose:
                told = (f"{k} {v:.4g}" if k == "learning_rate" else f"{k} {v:.4f}" for k, v in run.metrics.items())
                say(f"epoch {run.epoch}/{run.epochs}  {'  '.join(told)}")
        if run.stop and run.verbose:
            say(f"stopped after epoch {run.epoch}: {run.stop}")
    finally:
        for callback in run.callbacks:
            callback.on_train_end(run)


def _epoch(run: Run, save: Callable) -> None:
    """One pass through the training data, or what is left of it."""
    start, before = time.perf_counter(), run.seconds
    order = np.arange(len(run.images))
    if run.shuffle:
        order = generator("order", run.seed, run.epoch).permutation(len(run.images))
    order = order[: run.batches * run.batch_size]
    label = f"epoch {run.epoch + 1}/{run.epochs}"
    with bar(
        total=len(order), initial=run.seen, desc=label, unit="img", leave=False, hidden=not run.verbose
    ) as progress:
        while run.batch < run.batches:
            index = order[run.batch * run.batch_size : (run.batch + 1) * run.batch_size]
            train_step(run, index)
            for callback in run.callbacks:
                callback.on_step_end(run)
            run.seconds = before + time.perf_counter() - start
            progress.update(len(index))
            progress.set_postfix(
                {name: f"{value:.4f}" for name, value in run.training_metrics().items()}, refresh=False
            )
            save()


def train_step(run: Run, index: np.ndarray) -> None:
    """Some of the images: forward, loss, backward, and a step of the optimizer."""
    matrix, holes, model, batch, size = None, None, run.model, index, len(index)
    index, weight = run.ranks.share(batch)
    if run.augment is not None:
        rng = generator("augmentation", run.seed, run.epoch, run.batch, *run.ranks.key)
        matrix, holes = run.augment.draw(len(index), run.images.shape[1:3], rng)
    targets = run.targets[index]
    weights = () if run.sample_weight is None else (run.sample_weight[index],)
    rate = run.rate_scale * number(run.schedule(run.step), f"schedule({run.step})", least=0)
    with model.lock:
        outputs = model.forward(model.batch(run.images, index, matrix, holes), training=True)
        value, doutputs = engine.fast(run.loss)(outputs, targets, *weights)
        if not math.isfinite(value):
            raise DivergedError(
                f"loss: got {value} at step {run.step} (epoch {run.epoch + 1}), expected a finite number;"
                f" try a learning rate below {rate:.3g}, or clip_norm"
            )
        if run.ranks.size > 1:
            scale = _mean_weight(run, index) / (_mean_weight(run, batch) or 1)
            value, doutputs = value * scale, doutputs * scale
        model.backward(doutputs)
        correct = count_correct(outputs, targets) if run.loss.classifies else 0
        value, correct = run.ranks.combine(model.parameters, weight, value, correct)
        with model.keeping_untrained():
            engine.fast(run.optimizer).step(model.parameters, rate)
    run.learning_rate, run.total, run.correct = rate, run.total + value * size, run.correct + correct
    run.step, run.batch, run.seen = run.step + 1, run.batch + 1, run.seen + size


def _mean_weight(run: Run, index: np.ndarray) -> float:
    """The mean weight of some images in the loss: a rank's weighted mean, times its share's over the batch's, is its
    part of the batch's weighted mean."""
    weights = None if run.sample_weight is None else run.sample_weight[index]
    if isinstance(run.loss, losses.CrossEntropy):
        truth = losses.one_hot(run.targets[index], run.model.output_shape[-1], float)
        weights = run.loss.image_weights(truth, weights)
    return 1.0 if weights is None else float(weights.mean())


def _finish_epoch(run: Run) -> None:
    """Check the weights, score the validation data, write the epoch down."""
    if not run.model.parameters.finite():
        raise DivergedError(f"weights: got NaN or infinity after step {run.step - 1} (epoch {run.epoch + 1})")
    run.ranks.check(run.model.parameters, run.epoch + 1)
    run.metrics = run.training_metrics() | {"learning_rate": run.learning_rate, "seconds": run.seconds}
    if run.validation is not None:
        settings = max(run.batch_size, 256), run.plain_loss
        value, accuracy = run.ranks.mean(lambda x, y: evaluate(run.model, x, y, *settings), *run.validation)
        if not math.isfinite(value):
            raise DivergedError(f"val_loss: got {value} after step {run.step - 1} (epoch {run.epoch + 1})")
        run.metrics["val_loss"] = value
        if run.loss.classifies:
            run.metrics["val_accuracy"] = accuracy
    run.epoch, run.batch, run.total, run.correct, run.seen, run.seconds = run.epoch + 1, 0, 0.0, 0, 0, 0.0
    run.history.add(run.metrics)
