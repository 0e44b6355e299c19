"""Training: what `fit`, `evaluate` and `predict` promise; losses, optimizers, schedules and callbacks by hand."""

from __future__ import annotations

import copy
import csv
import errno
import io
import itertools
import math
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from types import SimpleNamespace

import numpy as np
import pytest

import minicnn
from minicnn import (
    Augment,
    BatchNorm,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool2D,
    MaxPool2D,
    Residual,
    Sequential,
    Softmax,
    engine,
    optimizers,
    schedules,
    training,
)
from minicnn.callbacks import (
    Callback,
    CSVLogger,
    EarlyStopping,
    LambdaCallback,
    ModelCheckpoint,
    ReduceLROnPlateau,
    TerminateOnNaN,
)
from minicnn.checkpoint import Checkpoint
from minicnn.data import load_fashion_mnist
from minicnn.errors import CheckpointError, DataError, DivergedError, ShapeError
from minicnn.losses import CrossEntropy, MeanSquaredError
from minicnn.parameters import Parameters


@pytest.fixture(autouse=True)
def numpy_backend():
    minicnn.use_backend("numpy")
    yield
    minicnn.use_backend("numba")


@pytest.fixture
def numba_backend(numpy_backend):
    minicnn.use_backend("numba")


@pytest.fixture(scope="module")
def sample():
    data = load_fashion_mnist("sample", verbose=False)
    return data.train_images, data.train_labels


def tiny(seed=0, **options):
    """A model that has everything that could depend on more than it should."""
    layers = [Conv2D(4, 3, stride=2), BatchNorm(activation="relu"), Residual(Conv2D(4, 3)), MaxPool2D(), Dropout(0.2)]
    return Sequential([*layers, Flatten(), Dense(10)], seed=seed, **options)


def linear(inputs=4, outputs=3, **options):
    return Sequential([Dense(outputs)], (inputs,), **options)


def blobs(n=40, inputs=4, classes=3, seed=0):
    """Points around the corners of a simplex, and which corner it is: easy to tell apart."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    return 3 * np.eye(classes, inputs)[y] + 0.3 * rng.standard_normal((n, inputs)), y


def train(model, x, y, **options):
    return model.fit(x, y, **{"verbose": False, **options})


class Watch(Callback):
    """Counts the steps, and notes the weights after each epoch."""

    def __init__(self):
        self.steps, self.weights, self.ends = 0, [], 0

    def on_step_end(self, run):
        self.steps += 1
        assert run.step == self.steps

    def on_epoch_end(self, run):
        self.weights.append(run.model.get_weights())

    def on_train_end(self, run):
        self.ends += 1


class Script(Callback):
    """Replaces a metric of each epoch by one from a list, so that what depends on it can be told in advance."""

    def __init__(self, values, name="val_loss"):
        self.values, self.name = values, name

    def on_train_begin(self, run):
        run.metrics[self.name] = math.nan

    def on_epoch_end(self, run):
        run.metrics[self.name] = self.values[run.epoch - 1]


# ---------------------------------------------------------------------------------------------------------------
# It learns


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_32_images_are_learnt_by_heart(sample, backend):
    minicnn.use_backend(backend)
    x, y = sample[0][:32], sample[1][:32]
    model = tiny()
    train(model, x, y, epochs=60, batch_size=16, optimizer=optimizers.Adam(5e-3))
    assert model.evaluate(x, y).accuracy == 1


def test_loss_falls_on_the_sample(sample):
    x, y = sample[0][:600], sample[1][:600]
    model = tiny()
    history = train(model, x, y, epochs=3, batch_size=32, optimizer=optimizers.Adam(3e-3), validation_data=(x, y))
    assert history["val_loss"][2] < history["val_loss"][0] < math.log(10)
    assert history["loss"][2] < history["loss"][1] < history["loss"][0]
    assert history["val_accuracy"][2] > 0.6


def test_a_regression_finds_the_line():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 3))
    y = x @ [[1.0], [-2], [3]] + 0.5
    model = linear(3, 1)
    history = train(model, x, y, epochs=40, batch_size=20, loss="mean_squared_error", optimizer=optimizers.Adam(0.05))
    assert list(history) == ["loss", "learning_rate", "seconds"]
    np.testing.assert_allclose(model.outputs(x), y, atol=0.02)
    found = model.evaluate(x, y, loss="mean_squared_error")
    assert found.loss < 1e-4
    assert math.isnan(found.accuracy)


def test_uint8_images_are_standardised_with_the_mean_and_standard_deviation_of_the_training_images(sample):
    x, y = sample[0][:90], sample[1][:90]
    scaled = x / 255.0
    floats = (scaled - scaled.mean()) / scaled.std()
    whole, ready = tiny(dtype="float64"), tiny(dtype="float64")
    for model, images in ((whole, x), (ready, floats)):
        train(model, images, y, epochs=2, batch_size=32, optimizer="sgd")
    for a, b in zip(whole.get_weights(), ready.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)
    np.testing.assert_allclose(whole.predict(x), ready.predict(floats), atol=1e-9)


def test_each_channel_has_its_own_scale_and_a_constant_one_stays_harmless():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 100, (50, 6, 6, 3)).astype(np.uint8)
    x[..., 1] += 100
    x[..., 2] = 7
    model = Sequential([Flatten(), Dense(2)], (6, 6, 3), dtype="float64")
    train(model, x, np.arange(50) % 2)
    batch = model.batch(x, np.arange(50))
    np.testing.assert_allclose(batch.mean(axis=(0, 1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(batch.std(axis=(0, 1, 2)), [1, 1, 0], atol=1e-12)
    x[..., 2] = 8
    assert np.abs(model.batch(x, np.arange(50))[..., 2]).max() < 0.1


def test_training_again_keeps_the_scale(sample):
    model = tiny()
    train(model, sample[0][:50], sample[1][:50])
    mean = model.scale.mean
    train(model, 255 - sample[0][:50], sample[1][:50])
    assert model.scale.mean is mean


# ---------------------------------------------------------------------------------------------------------------
# The same again


def weights_after(sample, seed=0, fit_seed=0, threads=None):
    before = minicnn.get_threads()
    minicnn.set_threads(threads or before)
    try:
        model = tiny(seed)
        augment = Augment(rotation=10, zoom=0.1, shift=0.1, horizontal_flip=True, erase=4)
        train(model, sample[0][:150], sample[1][:150], epochs=2, batch_size=64, augment=augment, seed=fit_seed)
    finally:
        minicnn.set_threads(before)
    return b"".join(w.tobytes() for w in model.get_weights())


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_the_same_seed_gives_the_same_bits(sample, backend):
    minicnn.use_backend(backend)
    first = weights_after(sample)
    assert weights_after(sample) == first
    assert weights_after(sample, seed=1) != first
    assert weights_after(sample, fit_seed=1) != first


def test_the_number_of_threads_does_not_change_a_bit(sample, numba_backend):
    assert weights_after(sample, threads=1) == weights_after(sample)


def test_predictions_do_not_depend_on_the_batch_size(sample, numba_backend):
    model = tiny()
    train(model, sample[0][:128], sample[1][:128])
    x = sample[0][:300]
    first = model.predict(x, batch_size=256)
    for batch_size in (1, 7, 300, 1000):
        np.testing.assert_array_equal(model.predict(x, batch_size=batch_size), first)
    np.testing.assert_array_equal(model.predict(x[17:18])[0], first[17])


def test_predictions_do_not_depend_on_earlier_ones(sample):
    model = tiny()
    x = sample[0][:20]
    first = model.predict(x)
    kept = first.copy()
    model.predict(255 - x)
    np.testing.assert_array_equal(first, kept)  # what was handed out is not overwritten
    np.testing.assert_array_equal(model.predict(x), kept)


def test_two_threads_may_predict_at_once(sample, numba_backend):
    model = tiny()
    parts = [sample[0][:200], sample[0][200:400]]
    expected = [model.predict(part) for part in parts]
    found = [[], []]

    def work(i):
        found[i] = [model.predict(parts[i], batch_size=16) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        assert len(found[i]) == 5
        for y in found[i]:
            np.testing.assert_array_equal(y, expected[i])


def test_predict_gives_probabilities_and_their_largest_class(sample):
    model = tiny()
    p = model.predict(sample[0][:30])
    assert p.shape == (30, 10)
    assert p.dtype == np.float32
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(model.predict_classes(sample[0][:30]), p.argmax(axis=1))


def test_a_last_softmax_is_not_applied_twice():
    x = np.random.default_rng(0).standard_normal((5, 4))
    bare, with_softmax = linear(), Sequential([Dense(3), Softmax()], (4,))
    np.testing.assert_allclose(bare.predict(x), with_softmax.predict(x), rtol=1e-6)


# ---------------------------------------------------------------------------------------------------------------
# Batches


@pytest.mark.parametrize(
    ("n", "batch_size", "steps"), [(40, 16, 3), (40, 40, 1), (40, 1000, 1), (5, 1, 5), (1, 1, 1), (33, 32, 2)]
)
def test_every_image_is_seen_once_an_epoch(n, batch_size, steps):
    seen = []

    class Spy(CrossEntropy):
        def __call__(self, outputs, targets):
            seen.append(list(targets))
            return super().__call__(outputs, targets)

    watch = Watch()
    y = np.arange(n) % 3
    history = train(linear(), blobs(n)[0], y, epochs=2, batch_size=batch_size, loss=Spy(), callbacks=[watch])
    assert watch.steps == 2 * steps
    assert [len(targets) for targets in seen[:steps]] == [batch_size] * (n // batch_size) + [n % batch_size] * (
        n % batch_size > 0
    )
    for epoch in (seen[:steps], seen[steps:]):
        assert sorted(label for targets in epoch for label in targets) == sorted(y)
    assert len(history["loss"]) == 2


def test_the_order_differs_from_epoch_to_epoch():
    orders = []

    class Spy(MeanSquaredError):
        def __call__(self, outputs, targets):
            orders.append(targets.ravel().tolist())
            return super().__call__(outputs, targets)

    train(linear(4, 1), blobs()[0], np.arange(40.0)[:, None], epochs=3, batch_size=40, loss=Spy())
    assert len({tuple(order) for order in orders}) == 3


def test_an_epochs_loss_is_the_mean_over_images_and_not_over_batches():
    values = iter([1.0, 4.0])

    class Fixed(MeanSquaredError):
        def __call__(self, outputs, targets):
            return next(values), super().__call__(outputs, targets)[1]

    history = train(linear(4, 1), blobs(40)[0], np.zeros((40, 1)), batch_size=30, loss=Fixed())
    assert history["loss"] == [pytest.approx((30 * 1 + 10 * 4) / 40)]


def test_inputs_are_never_modified(sample):
    x, y, weights = sample[0][:40].copy(), sample[1][:40].copy(), {1: 2.0}
    held_out = sample[0][40:60].copy(), sample[1][40:60].copy()
    for array in (x, y, *held_out):
        array.flags.writeable = False
    kept = x.copy(), y.copy()
    model = tiny()
    augment = Augment(rotation=20, vertical_flip=True, erase=5)
    train(model, x, y, batch_size=16, augment=augment, validation_data=held_out, class_weight=weights)
    model.predict(x)
    model.evaluate(x, y)
    np.testing.assert_array_equal(x, kept[0])
    np.testing.assert_array_equal(y, kept[1])
    assert weights == {1: 2.0}


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64", ">f4"])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_images_of_any_real_type_give_the_same_predictions(dtype, backend):
    minicnn.use_backend(backend)
    x = np.random.default_rng(0).integers(0, 9, (6, 28, 28, 1))
    model = Sequential([Flatten(), Dense(10)])
    scale = 255 if dtype == "uint8" else 1
    np.testing.assert_allclose(model.predict(x.astype(dtype)), model.predict(x / scale), rtol=1e-3)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_images_of_any_layout_give_the_same_predictions(sample, backend):
    minicnn.use_backend(backend)
    x = sample[0][:6]
    model = Sequential([Flatten(), Dense(10)])
    np.testing.assert_array_equal(model.predict(np.asfortranarray(x)), model.predict(x))
    np.testing.assert_array_equal(model.predict(sample[0][10::-2]), model.predict(sample[0][10::-2].copy()))


# ---------------------------------------------------------------------------------------------------------------
# What fit says


def test_fit_works_with_nothing_but_images_and_labels(sample, capsys):
    history = tiny().fit(sample[0][:40], sample[1][:40])
    assert list(history) == ["loss", "accuracy", "learning_rate", "seconds"]
    assert history.history == history and type(history.history) is dict
    out, err = capsys.readouterr()
    assert out.startswith("epoch 1/1  loss ")
    assert len(out.splitlines()) == 1
    assert err == ""  # no bar where the output is no terminal


def test_a_quiet_fit_prints_nothing(sample, capsys):
    train(tiny(), sample[0][:40], sample[1][:40], epochs=2)
    assert capsys.readouterr() == ("", "")


def test_history_has_one_number_an_epoch(sample):
    x, y = sample[0][:64], sample[1][:64]
    model = tiny()
    history = train(model, x, y, epochs=3, validation_data=(x[:20], y[:20]))
    assert list(history) == ["loss", "accuracy", "learning_rate", "seconds", "val_loss", "val_accuracy"]
    assert all(len(numbers) == 3 for numbers in history.values())
    assert history["learning_rate"] == [1e-3] * 3
    found = model.evaluate(x[:20], y[:20])
    assert (history["val_loss"][-1], history["val_accuracy"][-1]) == pytest.approx(found)


def test_each_epoch_has_its_own_seconds(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    assert train(linear(), *blobs(), epochs=3, batch_size=20)["seconds"] == [2] * 3  # a tick after each of two steps


def test_a_schedule_counts_steps_over_all_epochs():
    steps = []
    history = train(linear(), *blobs(), epochs=3, batch_size=20, schedule=lambda step: steps.append(step) or 0.1 + step)
    assert steps == list(range(6))
    assert history["learning_rate"] == [1.1, 3.1, 5.1]


@pytest.mark.parametrize("from_another_thread", [False, True])
def test_a_fit_on_a_model_that_is_in_training_is_refused_and_the_first_one_goes_on(from_another_thread):
    x, y = blobs()
    model, twin, errors, optimizer = linear(), linear(), [], optimizers.Adam(0.1)

    def fit():
        try:
            train(model, x, y, optimizer=optimizer)
        except RuntimeError as error:
            errors.append(str(error))

    class FitsToo(Callback):
        def on_step_end(self, run):
            if from_another_thread:
                thread = threading.Thread(target=fit)
                thread.start()
                thread.join()
            else:
                fit()

    history = train(model, x, y, epochs=2, batch_size=20, callbacks=[FitsToo()])
    assert errors == ["fit: this model is in training already; make a model for each thread"] * 4
    assert optimizer.parameters is None  # nothing was begun
    expected = train(twin, x, y, epochs=2, batch_size=20)
    assert history["loss"] == expected["loss"]
    np.testing.assert_array_equal(model.parameters.values, twin.parameters.values)
    train(model, x, y)  # and when it is over, the next one may begin


def test_after_a_fit_that_failed_the_model_can_be_trained():
    model = linear()
    with pytest.raises(DivergedError):
        train(model, *blobs(), callbacks=[Plant(1)])
    model.parameters.values[:] = 0
    assert len(train(model, *blobs())["loss"]) == 1


# ---------------------------------------------------------------------------------------------------------------
# evaluate


def test_evaluate_by_hand():
    x, y = blobs(23)
    model = linear(dtype="float64")
    p = model.predict(x)
    found = model.evaluate(x, y, batch_size=5)
    assert found.loss == pytest.approx(-np.log(p[np.arange(23), y]).mean())
    assert found.accuracy == (p.argmax(axis=1) == y).mean()
    assert model.evaluate(x, np.eye(3)[y]) == pytest.approx(found)


def test_evaluate_learns_nothing(sample):
    model = tiny()
    train(model, sample[0][:64], sample[1][:64])
    before = model.get_weights(), model.layers[4].calls
    model.evaluate(sample[0][:50], sample[1][:50])
    for a, b in zip(before[0], model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert model.layers[4].calls == before[1]


# ---------------------------------------------------------------------------------------------------------------
# Wrong input

IMAGES, LABELS = np.zeros((6, 28, 28, 1), np.uint8), np.arange(6)


@pytest.mark.parametrize(
    ("x", "y", "options", "error", "message"),
    [
        (np.zeros((6, 784), np.uint8), LABELS, {}, ShapeError, r"got shape \(6, 784\), expected \(n, 28, 28, 1\)"),
        (np.zeros((28, 28, 1), np.uint8), LABELS, {}, ShapeError, r"got shape \(28, 28, 1\)"),
        (np.zeros((6, 28, 28, 3), np.uint8), LABELS, {}, ShapeError, r"got shape \(6, 28, 28, 3\)"),
        (np.zeros((6, 1, 28, 28), np.uint8), LABELS, {}, ShapeError, r"got shape \(6, 1, 28, 28\)"),
        (IMAGES.astype(int), LABELS, {}, DataError, "images: got dtype int64, expected uint8 or floats"),
        (IMAGES.astype(str), LABELS, {}, DataError, "images: got dtype <U"),
        (np.where(np.arange(784).reshape(28, 28, 1) == 9, np.nan, IMAGES), LABELS, {}, DataError, "images: got NaN"),
        (np.full(IMAGES.shape, np.inf), LABELS, {}, DataError, "images: got NaN or infinity"),
        (IMAGES[:0], LABELS[:0], {}, DataError, "images: got none"),
        (IMAGES, LABELS[:5], {}, DataError, r"targets: got shape \(5,\), expected as many as images: 6"),
        (IMAGES, 3, {}, DataError, r"targets: got shape \(\)"),
        (IMAGES, LABELS.astype(float), {}, DataError, r"labels: got float64 of shape \(6,\), expected integers"),
        (IMAGES, LABELS.astype(str), {}, DataError, "labels: got <U"),
        (IMAGES, LABELS[:, None, None], {}, DataError, r"labels: got int64 of shape \(6, 1, 1\), expected integers"),
        (IMAGES, [0, 1, 2, 10, 4, 5], {}, DataError, "labels: got 10 at index 3, expected 0 to 9"),
        (IMAGES, [0, 1, -1, 3, 4, 5], {}, DataError, "labels: got -1 at index 2"),
        (IMAGES, np.full((6, 10), np.nan), {}, DataError, "targets: got NaN"),
        (IMAGES, np.ones((6, 10)), {}, DataError, "targets: expected probabilities"),
        (IMAGES, 2 * np.eye(6, 10) - np.eye(6, 10, 1), {}, DataError, "targets: expected probabilities"),
        (IMAGES, LABELS, {"validation_data": (IMAGES[:2], [1])}, DataError, r"targets: got shape \(1,\)"),
        (IMAGES, LABELS, {"validation_data": (IMAGES[:2, :9], [1, 2])}, ShapeError, r"got shape \(2, 9, 28, 1\)"),
        (IMAGES, LABELS, {"epochs": 0}, ValueError, "epochs: got 0"),
        (IMAGES, LABELS, {"batch_size": 0}, ValueError, "batch_size: got 0"),
        (IMAGES, LABELS, {"optimizer": "adagrad"}, ValueError, "optimizer: got 'adagrad', expected"),
        (IMAGES, LABELS, {"optimizer": optimizers.Adam}, ValueError, "optimizer: got <class"),
        (IMAGES, LABELS, {"loss": "hinge"}, ValueError, "loss: got 'hinge', expected"),
        (IMAGES, LABELS, {"loss": CrossEntropy}, ValueError, "loss: got <class"),
        (IMAGES, LABELS, {"loss": lambda y, t: (0.0, y)}, ValueError, "loss: got <function"),
        (IMAGES, LABELS, {"loss": "mean_squared_error"}, DataError, r"targets: got int64 of shape \(6,\)"),
        (IMAGES, LABELS, {"class_weight": [1.0] * 9}, DataError, "class_weight: got .*, expected 10 positive numbers"),
        (IMAGES, LABELS, {"class_weight": {10: 1.0}}, DataError, "class_weight: got class 10, expected 0 to 9"),
        (IMAGES, LABELS, {"class_weight": {1: -1.0}}, DataError, "class_weight: got .*, expected 10 positive numbers"),
        (IMAGES, LABELS, {"class_weight": {1: 0.0}}, DataError, "class_weight: got .*, expected 10 positive numbers"),
        (IMAGES, LABELS, {"class_weight": {1: 1e300}}, DataError, "class_weight: got .*, expected 10 positive numbers"),
        (IMAGES, LABELS, {"class_weight": {1: "2"}}, DataError, "class_weight: got {1: '2'}, expected 10 positive"),
        (IMAGES, LABELS, {"class_weight": "balanced"}, DataError, "class_weight: got 'balanced', expected 10 positive"),
        (IMAGES, LABELS, {"class_weight": {"a": 1, 10: 1}}, DataError, "class_weight: got class 'a', expected 0 to 9"),
        (IMAGES, LABELS, {"callbacks": None}, ValueError, "callbacks: got None, expected Callback objects"),
        (IMAGES, LABELS, {"callbacks": EarlyStopping}, ValueError, "callbacks: got <class .*EarlyStopping'>, expected"),
        (IMAGES, LABELS, {"schedule": lambda step: None}, ValueError, r"schedule\(0\): got None, expected a finite"),
        (IMAGES, LABELS, {"schedule": lambda step: -0.1}, ValueError, r"schedule\(0\): got -0.1, expected a finite"),
        (IMAGES, LABELS, {"schedule": lambda step: np.nan}, ValueError, r"schedule\(0\): got nan, expected a finite"),
        (
            IMAGES,
            np.eye(6, 10),
            {"class_weight": {1: 2.0}, "loss": "mean_squared_error"},
            ValueError,
            "class_weight: got a loss that does not classify",
        ),
    ],
)
def test_wrong_input_is_refused_before_anything_is_learnt(x, y, options, error, message):
    model = Sequential([Flatten(), Dense(10)])
    before = model.parameters.values.copy()
    with pytest.raises(error, match=message):
        train(model, x, y, **options)
    np.testing.assert_array_equal(model.parameters.values, before)


def test_predict_and_evaluate_refuse_wrong_input_too():
    model = Sequential([Flatten(), Dense(10)])
    with pytest.raises(ShapeError, match=r"got shape \(6, 784\)"):
        model.predict(IMAGES.reshape(6, 784))
    with pytest.raises(DataError, match="images: got NaN"):
        model.predict_classes(np.full(IMAGES.shape, np.nan))
    with pytest.raises(DataError, match="labels: got 10"):
        model.evaluate(IMAGES, LABELS + 5)
    for batch_size in (0, -1, 2.5):
        with pytest.raises(ValueError, match=f"batch_size: got {batch_size}"):
            model.predict(IMAGES, batch_size=batch_size)


def test_cross_entropy_behind_a_softmax_is_refused():
    model = Sequential([Flatten(), Dense(10), Softmax()])
    for use in (train, Sequential.evaluate):
        with pytest.raises(ValueError, match="cross-entropy takes logits; leave out the last Softmax"):
            use(model, IMAGES, LABELS)


def test_classifying_needs_a_flat_output():
    with pytest.raises(ShapeError, match=r"conv2d_1: got output shape \(28, 28, 2\), expected \(classes,\)"):
        train(Sequential([Conv2D(2, 3)]), IMAGES, LABELS % 2)


def test_gray_images_may_come_without_their_channel_axis(sample):
    model = tiny()
    x = sample[0][:10]
    np.testing.assert_array_equal(model.predict(x[..., 0]), model.predict(x))


# ---------------------------------------------------------------------------------------------------------------
# Losses


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def logits_and_labels(n=7, classes=4):
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, classes)), rng.integers(0, classes, n)


def slope(loss, z, targets, step=1e-6):
    """The loss' gradient by differences."""
    found = np.empty_like(z)
    for at in np.ndindex(z.shape):
        ends = []
        for sign in (1, -1):
            moved = z.copy()
            moved[at] += sign * step
            ends.append(loss(moved, targets)[0])
        found[at] = (ends[0] - ends[1]) / (2 * step)
    return found


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5, 3.0], {1: 2.0, 2: 0.5, 3: 3.0}])
def test_cross_entropy_by_hand(smoothing, weights, backend):
    minicnn.use_backend(backend)
    z, y = logits_and_labels()
    loss = engine.fast(CrossEntropy(smoothing, weights))
    value, gradient = loss(z, y)
    truth = np.eye(4)[y] * (1 - smoothing) + smoothing / 4
    rows = -(truth * np.log(softmax(z))).sum(axis=1)
    w = np.ones(7) if weights is None else np.array([1.0, 2.0, 0.5, 3.0])[y]
    assert value == pytest.approx((w * rows).sum() / w.sum(), rel=1e-12)
    np.testing.assert_allclose(gradient, slope(loss, z, y), atol=1e-9)
    again, same = loss(z, np.eye(4)[y])
    assert again == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(same, gradient, rtol=1e-12)


def test_cross_entropy_takes_probabilities():
    z, _ = logits_and_labels()
    targets = softmax(2 * z[::-1])
    value, gradient = CrossEntropy()(z, targets)
    assert value == pytest.approx(-(targets * np.log(softmax(z))).sum(axis=1).mean(), rel=1e-12)
    np.testing.assert_allclose(gradient, (softmax(z) - targets) / 7, rtol=1e-12)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_cross_entropy_does_not_overflow(backend):
    minicnn.use_backend(backend)
    z = np.array([[1e4, -1e4, 0]], np.float32)
    value, gradient = engine.fast(CrossEntropy())(z, np.array([1]))
    assert value == pytest.approx(2e4)
    np.testing.assert_allclose(gradient, [[1, -1, 0]])


def test_mean_squared_error_by_hand():
    z, t = logits_and_labels()[0], np.arange(28.0).reshape(7, 4)
    value, gradient = MeanSquaredError()(z, t)
    assert value == pytest.approx(((z - t) ** 2).mean(), rel=1e-12)
    np.testing.assert_allclose(gradient, 2 * (z - t) / 28, rtol=1e-12)
    with pytest.raises(ShapeError, match=r"got shape \(7,\), expected the outputs' \(7, 4\)"):
        MeanSquaredError()(z, np.zeros(7))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, math.nan])
def test_label_smoothing_out_of_range_is_refused(smoothing):
    with pytest.raises(ValueError, match="label_smoothing: got"):
        CrossEntropy(smoothing)


def test_fit_trains_towards_probabilities():
    x, y = blobs()
    soft = np.full((40, 3), 0.2)
    soft[np.arange(40), y] = 0.6
    model = linear()
    train(model, x, soft, epochs=200, batch_size=40, optimizer=optimizers.Adam(0.05))
    np.testing.assert_allclose(model.predict(x).max(axis=1).mean(), 0.6, atol=0.02)
    assert model.evaluate(x, soft).accuracy == 1


def test_class_weights_draw_predictions_to_the_heavy_class():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((200, 2)), rng.integers(0, 2, 200)  # nothing to learn but how frequent each class is
    shares = []
    for weights in ({0: 9.0}, {1: 9.0}, [9.0, 1.0]):
        model = linear(2, 2)
        train(model, x, y, epochs=40, batch_size=50, optimizer=optimizers.Adam(0.05), class_weight=weights)
        shares.append(model.predict(x)[:, 0].mean())
    assert shares[0] == pytest.approx(0.9, abs=0.05)
    assert shares[1] == pytest.approx(0.1, abs=0.05)
    assert shares[2] == shares[0]


def test_class_weight_leaves_label_smoothing_on():
    x, y = blobs()
    values = []
    for options in (
        {"loss": CrossEntropy(0.3), "class_weight": [1.0, 2, 3]},
        {"loss": CrossEntropy(0.3, [1.0, 2, 3])},
        {"class_weight": [1.0, 2, 3]},
    ):
        values.append(train(linear(), x, y, **options)["loss"])
    assert values[0] == values[1] != values[2]


# ---------------------------------------------------------------------------------------------------------------
# Optimizers, each formula by hand


class BySGD:
    def __init__(self, momentum=0.0, nesterov=False):
        self.momentum, self.nesterov, self.v = momentum, nesterov, 0

    def __call__(self, g, rate, t):
        self.v = self.momentum * self.v + g
        return rate * (g + self.momentum * self.v if self.nesterov else self.v)


class ByRMSprop:
    s = 0

    def __call__(self, g, rate, t):
        self.s = 0.8 * self.s + 0.2 * g**2
        return rate * g / (np.sqrt(self.s) + 1e-5)


class ByAdam:
    m = s = 0

    def __call__(self, g, rate, t):
        self.m, self.s = 0.7 * self.m + 0.3 * g, 0.9 * self.s + 0.1 * g**2
        return rate * (self.m / (1 - 0.7**t)) / (np.sqrt(self.s / (1 - 0.9**t)) + 1e-5)


RATE = 0.05
CASES = [
    (lambda **o: optimizers.SGD(RATE, **o), BySGD, 0.0),
    (lambda **o: optimizers.SGD(RATE, momentum=0.9, **o), lambda: BySGD(0.9), 0.0),
    (lambda **o: optimizers.SGD(RATE, momentum=0.9, nesterov=True, **o), lambda: BySGD(0.9, True), 0.0),
    (lambda **o: optimizers.SGD(RATE, momentum=0.9, weight_decay=0.3, **o), lambda: BySGD(0.9), 0.3),
    (lambda **o: optimizers.RMSprop(RATE, rho=0.8, epsilon=1e-5, **o), ByRMSprop, 0.0),
    (lambda **o: optimizers.RMSprop(RATE, rho=0.8, epsilon=1e-5, weight_decay=0.3, **o), ByRMSprop, 0.3),
    (lambda **o: optimizers.Adam(RATE, 0.7, 0.9, 1e-5, **o), ByAdam, 0.0),
    (lambda **o: optimizers.AdamW(RATE, 0.7, 0.9, 1e-5, weight_decay=0.3, **o), ByAdam, 0.3),
]


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("clip_norm", [None, 0.7, 1e9])
@pytest.mark.parametrize(("make", "by_hand", "decay"), CASES)
def test_optimizer_steps_by_hand(backend, clip_norm, make, by_hand, decay):
    minicnn.use_backend(backend)
    rng = np.random.default_rng(0)
    model = Sequential([Dense(3), BatchNorm(), Dense(2)], (4,), dtype="float64")
    parameters = model.parameters
    parameters.values[:] = rng.standard_normal(parameters.values.size)
    expected = {name: w.value.copy() for name, w in model.arrays().items() if hasattr(w, "grad")}
    rules = {name: by_hand() for name in expected}
    optimizer = make(clip_norm=clip_norm)
    for t in range(1, 6):
        parameters.grads[:] = rng.standard_normal(parameters.grads.size)
        norm = np.linalg.norm(parameters.grads)
        scale = min(1, clip_norm / norm) if clip_norm else 1
        rate = RATE / t
        for name in expected:
            if name.startswith("dense") and name.endswith("/w"):  # kernels decay, all else does not
                expected[name] = expected[name] * (1 - rate * decay)
            expected[name] = expected[name] - rules[name](scale * model.arrays()[name].grad, rate, t)
        kept = parameters.grads.copy()
        engine.fast(optimizer).step(parameters, rate)
        np.testing.assert_allclose(parameters.grads, scale * kept, rtol=1e-14)  # clipped in place, or as they were
        assert scale < 1 or np.array_equal(parameters.grads, kept)
    for name, w in expected.items():
        np.testing.assert_allclose(model.arrays()[name].value, w, rtol=1e-9, err_msg=name)


def test_a_step_takes_the_optimizers_own_rate_unless_told():
    for options in ({}, {"rate": 0.5}):
        parameters = Parameters("float64")
        parameters.add("w", (2,), lambda shape, rng: np.ones(shape))
        parameters.allocate(np.random.default_rng(0))
        parameters.grads[:] = 1
        optimizers.SGD(0.25).step(parameters, **options)
        assert parameters.values.tolist() == [1 - options.get("rate", 0.25)] * 2


def test_a_gradient_whose_squares_overflow_is_clipped_to_its_norm():
    parameters = Parameters("float32")
    parameters.add("w", (2,), lambda shape, rng: np.zeros(shape))
    parameters.allocate(np.random.default_rng(0))
    parameters.grads[:] = 3e30, 4e30
    optimizers.SGD(1.0, clip_norm=5).step(parameters)
    np.testing.assert_allclose(parameters.values, [-3, -4], rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "defaults"),
    [
        (optimizers.SGD, {"learning_rate": 0.01, "momentum": 0, "nesterov": False, "weight_decay": 0}),
        (optimizers.RMSprop, {"learning_rate": 1e-3, "rho": 0.9, "epsilon": 1e-7, "weight_decay": 0}),
        (optimizers.Adam, {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0}),
        (
            optimizers.AdamW,
            {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.01},
        ),
    ],
)
def test_optimizers_have_the_usual_defaults(kind, defaults):
    assert {name: vars(kind())[name] for name in defaults} == defaults


def test_an_optimizer_used_for_another_model_starts_afresh():
    x, y = blobs()
    used, fresh = optimizers.Adam(0.1), optimizers.Adam(0.1)
    train(linear(), x, y, optimizer=used)
    models = [linear(4, 5), linear(4, 5)]
    for model, optimizer in zip(models, (used, fresh), strict=True):
        train(model, x, y, optimizer=optimizer)
    np.testing.assert_array_equal(models[0].parameters.values, models[1].parameters.values)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize(("make", "by_hand", "decay"), CASES)
def test_an_optimizer_that_takes_back_its_state_goes_on_to_the_bit(make, by_hand, decay, backend):
    minicnn.use_backend(backend)
    grads = np.random.default_rng(0).standard_normal((6, linear().parameters.grads.size))

    def steps(optimizer, parameters, few):
        for g in few:
            parameters.grads[:] = g
            engine.fast(optimizer).step(parameters)
        return parameters.values.copy()

    first, model = make(), linear()
    steps(first, model.parameters, grads[:3])
    state, weights = first.state(), model.parameters.state()
    kept = copy.deepcopy(state)
    assert state["steps"] == 3  # a fast twin's steps are the optimizer's own
    assert set(state) == {"steps", *first.moments}
    expected = steps(first, model.parameters, grads[3:])
    second, other = make(), linear(seed=1)
    second.attach(other.parameters)
    second.restore(state)
    other.parameters.restore(weights)
    np.testing.assert_array_equal(steps(second, other.parameters, grads[3:]), expected)
    for name in kept:
        np.testing.assert_array_equal(state[name], kept[name])  # what was handed over stays as it was


def test_an_optimizer_attached_again_to_the_same_weights_keeps_its_moments_and_to_others_begins_anew():
    optimizer, model, other = optimizers.Adam(), linear(), linear()
    optimizer.attach(model.parameters)
    assert optimizer.state()["steps"] == 0
    for moment in optimizer.vectors.values():
        assert moment.shape == model.parameters.values.shape and not moment.any()
    model.parameters.grads[:] = 1
    optimizer.step(model.parameters)
    optimizer.attach(model.parameters)
    assert optimizer.steps == 1 and all(moment.all() for moment in optimizer.vectors.values())
    optimizer.attach(other.parameters)
    assert optimizer.steps == 0 and not any(moment.any() for moment in optimizer.vectors.values())


def test_parameters_take_back_copies_of_weights_and_running_statistics():
    model = Sequential([Dense(3), BatchNorm(), Dense(2)], (4,))
    parameters, x = model.parameters, np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    model.forward(x, training=True)  # moves the running statistics
    state, expected = parameters.state(), [w.copy() for w in model.get_weights()]
    assert set(state) == {"values", "statistics"}
    parameters.values += 1
    parameters.statistics *= 2
    for now, before in zip(model.get_weights(), expected, strict=True):
        assert not np.array_equal(now, before)
    parameters.restore(state)
    for now, before in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(now, before)
    for array in state.values():
        array[:] = -1
    np.testing.assert_array_equal(model.get_weights()[0], expected[0])  # the layers' arrays are not the state's


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_dropout_that_takes_back_its_state_draws_the_same_masks(backend):
    minicnn.use_backend(backend)
    model = Sequential([Dropout(0.5), Residual(Dropout(0.3))], (200,))
    dropouts = [layer for layer in model.all_layers() if isinstance(layer, Dropout)]
    x = np.ones((3, 200), np.float32)
    model.forward(x, training=True)
    states = [layer.state() for layer in dropouts]
    assert states == [{"calls": 1}] * 2
    second, third = (model.forward(x, training=True).copy() for _ in range(2))
    assert not np.array_equal(second, third)
    for layer, state in zip(dropouts, states, strict=True):
        layer.restore(state)
    np.testing.assert_array_equal(model.forward(x, training=True), second)
    np.testing.assert_array_equal(model.forward(x, training=True), third)


@pytest.mark.parametrize(
    ("make", "before"),
    [
        (lambda: EarlyStopping(patience=3), {"best", "waited", "best_values", "best_statistics"}),
        (lambda: ReduceLROnPlateau(patience=2), {"best", "waited"}),
        (lambda: ModelCheckpoint("nowhere.npz"), {"best", "waited"}),
        (lambda: CSVLogger("nowhere.csv"), set()),
        (lambda: TerminateOnNaN(), set()),
    ],
)
def test_a_callback_that_takes_back_its_state_is_where_it_was(make, before, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second, x, y = make(), make(), *blobs()
    train(linear(), x, y, epochs=3, callbacks=[Script([3.0, 1.0, 2.0]), first])
    state = first.state()
    assert set(state) == before
    assert state.get("waited", 1) == 1 and state.get("best", 1.0) == 1.0
    second.on_train_begin(SimpleNamespace(model=linear(), epoch=0, metrics={"val_loss": math.nan}))
    assert set(second.state()) == before  # the same names at every moment
    second.restore(state)
    for name, value in state.items():
        np.testing.assert_array_equal(second.state()[name], value)


def test_a_run_takes_back_where_it_was_and_refuses_what_cannot_be():
    runs = []

    class Keep(Callback):
        def on_step_end(self, run):
            if run.step == 5:
                runs.append(run)
                raise KeyboardInterrupt

    for model in (linear(), linear()):
        with pytest.raises(KeyboardInterrupt):
            train(model, *blobs(), epochs=4, batch_size=20, callbacks=[Keep()])
    run, other = runs
    state = copy.deepcopy(run.state())
    assert (state["epoch"], state["batch"], state["step"], state["seen"]) == (2, 1, 5, 20)
    assert 0 <= state["correct"] <= 20 and state["total"] > 0 and len(state["history"]["loss"]) == 2
    for name in ("epoch", "batch", "step", "seen", "correct"):
        setattr(other, name, 0)
    other.history.clear()
    untouched = copy.deepcopy(other.state())
    for wrong in (
        {"epoch": 5},
        {"batch": 3},
        {"seen": 41},
        {"seen": 19},
        {"correct": -1},
        {"total": math.nan},
        {"history": {}},
    ):
        with pytest.raises(ValueError, match=rf"{next(iter(wrong))}: (got|expected)"):
            other.restore(state | {"history": dict(state["history"])} | wrong)
        assert other.state() == untouched
    other.restore(state | {"history": dict(state["history"])})  # from a file it comes as a plain dict
    assert other.state() == state


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optimizers.Adam(0), "learning_rate: got 0"),
        (lambda: optimizers.SGD(math.nan), "learning_rate: got nan"),
        (lambda: optimizers.RMSprop(math.inf), "learning_rate: got inf"),
        (lambda: optimizers.SGD(0.1, weight_decay=-1), "weight_decay: got -1, expected a finite number, at least 0"),
        (lambda: optimizers.AdamW(weight_decay=-1), "weight_decay: got -1, expected a finite number, at least 0"),
        (lambda: optimizers.Adam(clip_norm=0), "clip_norm: got 0, expected a finite number, above 0"),
    ],
)
def test_bad_optimizer_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---------------------------------------------------------------------------------------------------------------
# Schedules


def values(schedule, steps):
    return [schedule(step) for step in steps]


def test_constant_and_step_decay():
    assert values(schedules.constant(0.3), [0, 1, 1000]) == [0.3] * 3
    assert values(schedules.step_decay(1.0, every=10), [0, 9, 10, 19, 20]) == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_cosine():
    found = values(schedules.cosine(2.0, 100, final=0.5), [0, 25, 50, 100, 1000])
    assert found == pytest.approx([2, 0.5 + 1.5 * (1 + math.sqrt(0.5)) / 2, 1.25, 0.5, 0.5])


def test_of_no_steps_a_schedule_has_its_end():
    assert values(schedules.cosine(2.0, 0, final=0.5), [0, 1]) == pytest.approx([2, 0.5])
    assert schedules.one_cycle(2.0, 0, final=0.5)(0) == pytest.approx(1)


def test_one_cycle_rises_to_its_peak_and_falls_to_its_end():
    schedule = schedules.one_cycle(4.0, 100, warm=0.25, start=0.1, final=0.01)
    found = values(schedule, range(100))
    assert max(found) == found[24] == pytest.approx(4)
    assert found[:25] == sorted(found[:25])
    assert found[24:] == sorted(found[24:], reverse=True)
    assert 0.4 < found[0] < 0.45
    assert found[99] == schedule(500) == pytest.approx(0.04)


@pytest.mark.parametrize("warm", [0.0, 1.0])
def test_one_cycle_may_only_fall_or_only_rise(warm):
    found = values(schedules.one_cycle(1.0, 10, warm=warm, start=0.0), range(10))
    assert found == sorted(found, reverse=warm == 0)
    assert found[-1] == pytest.approx(warm)


def test_warm_up_scales_the_first_steps():
    assert values(schedules.warm_up(schedules.constant(8.0), 4), range(6)) == [2, 4, 6, 8, 8, 8]
    assert schedules.warm_up(schedules.constant(8.0), 0)(0) == 8


# ---------------------------------------------------------------------------------------------------------------
# Callbacks


def test_early_stopping_goes_back_to_the_best_weights():
    watch = Watch()
    script = Script([3.0, 1.0, 2.0, 1.5, 0.1])
    model = linear()
    history = train(model, *blobs(), epochs=5, callbacks=[script, watch, EarlyStopping(patience=2)])
    assert len(history["loss"]) == 4
    for now, best in zip(model.get_weights(), watch.weights[1], strict=True):
        np.testing.assert_array_equal(now, best)


def test_early_stopping_may_keep_the_last_weights():
    watch = Watch()
    model = linear()
    stopping = EarlyStopping(patience=1, restore_best=False)
    train(model, *blobs(), epochs=5, callbacks=[Script([1.0, 2, 0, 0, 0]), watch, stopping])
    assert len(watch.weights) == 2
    np.testing.assert_array_equal(model.get_weights()[0], watch.weights[-1][0])


def test_early_stopping_restores_the_best_after_the_last_epoch_too_with_its_running_statistics(sample):
    watch, model = Watch(), tiny()
    callbacks = [Script([1.0, 2.0]), watch, EarlyStopping(patience=5)]
    train(model, sample[0][:64], sample[1][:64], epochs=2, callbacks=callbacks)
    for now, best in zip(model.get_weights(), watch.weights[0], strict=True):
        np.testing.assert_array_equal(now, best)


def epochs_run(callback, metrics, name="val_loss"):
    script = Script(metrics, name)
    return len(train(linear(), *blobs(), epochs=len(metrics), callbacks=[script, callback])["loss"])


def test_early_stopping_takes_a_larger_accuracy_for_better():
    assert epochs_run(EarlyStopping("val_accuracy", patience=1), [0.5, 0.6, 0.7], "val_accuracy") == 3
    assert epochs_run(EarlyStopping("val_accuracy", patience=1), [0.7, 0.6, 0.5], "val_accuracy") == 2


def test_early_stopping_wants_more_than_min_delta():
    assert epochs_run(EarlyStopping(patience=1, min_delta=0.5), [3, 2.4, 2.0, 1.0]) == 3


def test_nan_is_never_an_improvement():
    assert epochs_run(EarlyStopping(patience=2), [1.0, math.nan, math.nan, 0]) == 3


def test_a_callback_can_be_used_for_a_second_run():
    stopping = EarlyStopping(patience=1)
    assert epochs_run(stopping, [1, 2, 3]) == 2
    assert epochs_run(stopping, [10, 9, 8, 11, 12]) == 4


def test_a_metric_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"EarlyStopping: no metric 'val_loss', .*give fit validation_data"):
        train(linear(), *blobs(), callbacks=[EarlyStopping()])


def test_checkpoint_keeps_the_best_model_only(tmp_path):
    path = tmp_path / "best.npz"
    watch = Watch()
    train(linear(), *blobs(), epochs=4, callbacks=[Script([3.0, 1.0, 2.0, 1.5]), watch, ModelCheckpoint(path)])
    for saved, best in zip(minicnn.load(path).get_weights(), watch.weights[1], strict=True):
        np.testing.assert_array_equal(saved, best)
    assert [file.name for file in tmp_path.iterdir()] == ["best.npz"]


def test_checkpoint_can_keep_every_epoch(tmp_path):
    watch = Watch()
    checkpoint = ModelCheckpoint(tmp_path / "model {epoch}.npz", save_best_only=False)
    train(linear(), *blobs(), epochs=3, callbacks=[watch, checkpoint])
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"model {i}.npz" for i in (1, 2, 3)]
    for i in range(3):
        np.testing.assert_array_equal(
            minicnn.load(tmp_path / f"model {i + 1}.npz").get_weights()[0], watch.weights[i][0]
        )


def test_reduce_on_plateau_lowers_the_rate_down_to_its_minimum():
    plateau = ReduceLROnPlateau(patience=2, factor=0.5, min_lr=0.3)
    losses = [3, 2, 2, 2, 1, 1, 1, 1, 1, 1]
    options = {"optimizer": optimizers.SGD(1.0), "callbacks": [Script(losses), plateau]}
    history = train(linear(), *blobs(), epochs=10, **options)
    assert history["learning_rate"] == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.3, 0.3, 0.3]


def test_a_log_that_cannot_be_written_is_an_error_or_if_asked_a_warning(tmp_path, capsys):
    path = tmp_path / "no such folder" / "history.csv"
    with pytest.raises(FileNotFoundError, match=r"history\.csv"):
        train(linear(), *blobs(), callbacks=[CSVLogger(path)])
    history = train(linear(), *blobs(), epochs=2, callbacks=[CSVLogger(path, keep_going=True)])
    assert len(history["loss"]) == 2
    assert capsys.readouterr().err.count("history.csv") == 2


def test_reduce_on_plateau_never_raises_the_rate():
    plateau = ReduceLROnPlateau(patience=1, min_lr=0.5)
    options = {"optimizer": optimizers.SGD(0.1), "callbacks": [Script([1] * 4), plateau]}
    assert train(linear(), *blobs(), epochs=4, **options)["learning_rate"] == [0.1] * 4


def test_reduce_on_plateau_leaves_a_rate_of_0_alone():
    options = {"schedule": schedules.constant(0.0), "callbacks": [Script([1] * 3), ReduceLROnPlateau(patience=1)]}
    assert train(linear(), *blobs(), epochs=3, **options)["learning_rate"] == [0] * 3


def test_csv_logger_writes_the_history(tmp_path):
    path = tmp_path / "a history.csv"
    path.write_text("something old\n" * 9)
    x, y = blobs()
    history = train(linear(), x, y, epochs=3, validation_data=(x, y), callbacks=[CSVLogger(path)])
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", *history]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    for name, numbers in history.items():
        assert [float(row[name]) for row in rows] == numbers


def test_csv_logger_writes_each_epoch_at_once(tmp_path):
    path, counts = tmp_path / "history.csv", []

    class Count(Callback):
        def on_epoch_end(self, run):
            counts.append(len(path.read_text().splitlines()))

    train(linear(), *blobs(), epochs=3, callbacks=[CSVLogger(path), Count()])
    assert counts == [2, 3, 4]


class Plant(Callback):
    """Puts NaN into one weight after a step, or into another of the model's vectors."""

    def __init__(self, step, name="values"):
        self.step, self.name = step, name

    def on_step_end(self, run):
        if run.step == self.step:
            getattr(run.model.parameters, self.name)[0] = np.nan


@pytest.mark.parametrize("name", ["values", "grads"])
def test_terminate_on_nan_names_the_step_after_which_a_weight_was_nan(name):
    with pytest.raises(DivergedError, match=rf"{name}: got NaN or infinity at step 3 \(epoch 2\)"):
        train(linear(), *blobs(), epochs=3, batch_size=20, callbacks=[Plant(4, name), TerminateOnNaN()])


@pytest.mark.parametrize("name", ["values", "statistics"])
def test_weights_that_are_nan_after_an_epochs_last_step_are_found(name):
    model = Sequential([BatchNorm(), Dense(3)], (4,))
    with pytest.raises(DivergedError, match=r"weights: got NaN or infinity after step 1 \(epoch 1\)"):
        train(model, *blobs(), epochs=3, batch_size=20, callbacks=[Plant(2, name)])


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_an_infinite_loss_on_the_validation_data_is_found():
    x, _ = blobs()
    held_out = x, np.full((40, 3), 1e30)
    with pytest.raises(DivergedError, match=r"val_loss: got inf after step 0 \(epoch 1\)"):
        train(linear(), x, np.zeros((40, 3)), loss="mean_squared_error", validation_data=held_out)


def test_a_loss_that_is_nan_names_its_step():
    with pytest.raises(DivergedError, match=r"loss: got nan at step 3 \(epoch 2\), .*learning rate below 0.001"):
        train(linear(), *blobs(), epochs=3, batch_size=20, callbacks=[Plant(3)])


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_diverging_never_overwrites_a_good_model(tmp_path, backend):
    minicnn.use_backend(backend)
    path = tmp_path / "model.npz"
    x, y = blobs()
    model, watch = linear(), Watch()
    callbacks = [watch, ModelCheckpoint(path, save_best_only=False)]
    options = {"loss": "mean_squared_error", "optimizer": optimizers.SGD(0.01), "callbacks": callbacks}
    with pytest.raises(DivergedError, match=r"loss: got (inf|nan) at step \d+ \(epoch 2\)"):
        rate = schedules.step_decay(0.01, every=20, factor=1e6)  # a mistake that somebody will make
        train(model, x, np.eye(3)[y], epochs=5, batch_size=2, schedule=rate, **options)
    assert len(watch.weights) == watch.ends == 1
    for saved, good in zip(minicnn.load(path).get_weights(), watch.weights[0], strict=True):
        np.testing.assert_array_equal(saved, good)


def test_early_stopping_gives_back_the_best_weights_after_a_divergence():
    x, y = blobs()
    model, watch = linear(), Watch()
    with pytest.raises(DivergedError):
        train(model, x, y, epochs=3, batch_size=20, callbacks=[Plant(3), watch, EarlyStopping("loss")])
    np.testing.assert_array_equal(model.get_weights()[0], watch.weights[0][0])


def test_ctrl_c_leaves_the_model_usable(sample):
    x, y = sample[0][:64], sample[1][:64]

    class Interrupt(Callback):
        def on_step_end(self, run):
            if run.step == 3:
                raise KeyboardInterrupt

    model, watch = tiny(), Watch()
    before = model.get_weights()[0]
    with pytest.raises(KeyboardInterrupt):
        train(model, x, y, epochs=5, batch_size=16, callbacks=[watch, EarlyStopping("loss"), Interrupt()])
    assert (watch.steps, watch.ends) == (3, 1)
    assert not np.array_equal(model.get_weights()[0], before)  # what was learnt is kept
    assert np.isfinite(model.predict(x)).all()
    assert len(train(model, x, y, epochs=2)["loss"]) == 2


def test_early_stopping_and_set_weights_wait_for_another_threads_prediction():
    model, before = linear(), linear().get_weights()
    stopping, run = EarlyStopping("loss"), SimpleNamespace(metrics={"loss": 1.0}, model=model)
    stopping.on_train_begin(run)
    stopping.on_epoch_end(run)
    model.parameters.values += 1
    for change in (lambda: stopping.on_train_end(run), lambda: model.set_weights([w + 2 for w in before])):
        now = model.get_weights()[0]
        with ThreadPoolExecutor(1) as pool:
            with model.lock:
                changing = pool.submit(change)
                assert not wait([changing], timeout=0.1).done
                np.testing.assert_array_equal(model.get_weights()[0], now)
            changing.result()
        assert not np.array_equal(model.get_weights()[0], now)


def test_monitors_by_themselves():
    """As a callback of one's own would use them: with nothing but the metrics."""
    run = SimpleNamespace(metrics={"loss": 1.0}, stop="", model=linear())
    stopping = EarlyStopping("loss", patience=1)
    stopping.on_train_begin(run)
    stopping.on_epoch_end(run)
    assert run.stop == ""
    stopping.on_epoch_end(run)
    assert run.stop == "loss has not improved for 1 epochs"


def test_global_average_pooling_networks_take_any_optimizer_by_name(sample):
    x, y = sample[0][:64], sample[1][:64]
    for name in optimizers.BY_NAME:
        model = Sequential([Conv2D(4, 3, stride=2, activation="relu"), GlobalAveragePool2D(), Dense(10)])
        assert np.isfinite(train(model, x, y, optimizer=name)["loss"]).all()


# ---------------------------------------------------------------------------------------------------------------
# Test-time augmentation


def test_flips_average_the_outputs_of_an_image_and_its_mirror(sample):
    model = tiny()
    x = sample[0][:20]
    expected = (model.outputs(x) + model.outputs(x[:, :, ::-1])) / 2
    np.testing.assert_allclose(model.outputs(x, tta="flip"), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(model.predict_classes(x, tta="flip"), expected.argmax(axis=1))
    np.testing.assert_allclose(model.predict(x, tta="flip"), model.predict(x[:, :, ::-1], tta="flip"), rtol=1e-5)
    assert model.evaluate(x, sample[1][:20], tta="flip").accuracy == np.mean(expected.argmax(axis=1) == sample[1][:20])


def test_unknown_test_time_augmentation_is_refused(sample):
    with pytest.raises(ValueError, match="tta: got 'turn'"):
        tiny().predict(sample[0][:2], tta="turn")


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (
            EarlyStopping("val_acc"),
            "EarlyStopping: no metric 'val_acc', expected one of loss, accuracy, .*val_accuracy$",
        ),
        (ReduceLROnPlateau("f1"), "ReduceLROnPlateau: no metric 'f1', expected one of loss"),
        (
            ModelCheckpoint("w-{val_acc:.2f}.npz"),
            "ModelCheckpoint: path 'w-{val_acc:.2f}.npz': 'val_acc', expected no names",
        ),
        (ModelCheckpoint("w-{epoch:s}.npz"), "ModelCheckpoint: path 'w-{epoch:s}.npz': Unknown format code"),
        (EarlyStopping, "callbacks: got <class"),
    ],
)
def test_a_callback_that_cannot_do_its_work_is_refused_before_the_first_step(callback, message):
    x, y = blobs()
    model = linear()
    with pytest.raises(ValueError, match=message):
        train(model, x, y, epochs=2, callbacks=[callback], validation_data=(x, y))
    assert not model.parameters.grads.any()


@pytest.mark.parametrize("kind", [lambda path: ModelCheckpoint(path, "loss"), CSVLogger])
def test_a_folder_that_is_missing_is_told_before_the_first_step(kind, tmp_path):
    model = linear()
    with pytest.raises(FileNotFoundError, match=r"its folder is missing.*nowhere"):
        train(model, *blobs(), epochs=1, callbacks=[kind(tmp_path / "nowhere" / "a file")])
    assert not model.parameters.grads.any()


def test_what_watches_validation_wants_validation_data_before_the_first_step():
    with pytest.raises(ValueError, match=r"'val_loss', expected one of loss, .*; give fit validation_data$"):
        train(linear(), *blobs(), epochs=2, callbacks=[EarlyStopping()])


def test_model_checkpoint_fills_in_the_epoch_and_the_metrics(tmp_path):
    x, y = blobs()
    path = tmp_path / "w.{epoch:02d}-{val_loss:.2f}.npz"
    keep = ModelCheckpoint(path, save_best_only=False)
    history = linear().fit(x, y, epochs=2, validation_data=(x, y), callbacks=keep, verbose=False)
    expected = [f"w.{i:02d}-{loss:.2f}.npz" for i, loss in enumerate(history["val_loss"], 1)]
    assert sorted(file.name for file in tmp_path.iterdir()) == expected


@pytest.mark.parametrize("data", [(1,), (1, 2, 3), 5, np.zeros((6, 4))])
def test_validation_data_are_a_pair(data):
    with pytest.raises(ValueError, match=r"validation_data: got .*, expected \(images, targets\)"):
        train(linear(), *blobs(), validation_data=data)


def test_class_weights_that_differ_a_little_are_another_run(tmp_path):
    x, y = blobs()
    weights = np.ones(linear().output_shape[0])
    train(linear(), x, y, epochs=1, class_weight=weights, checkpoint=Checkpoint(tmp_path / "run.npz"))
    with pytest.raises(CheckpointError, match="another run's settings or data: loss"):
        train(linear(), x, y, class_weight=weights * (1 + 1e-9), checkpoint=Checkpoint(tmp_path / "run.npz"))


class Broken(io.TextIOBase):
    """A stream on a full disk, or whose reader has left."""

    def write(self, text):
        raise OSError(errno.ENOSPC, "no space left")

    def flush(self):
        raise BrokenPipeError(errno.EPIPE, "broken pipe")

    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [None, Broken(), "closed"])
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_run_does_not_depend_on_who_listens(name, stream, monkeypatch, tmp_path):
    x, y = blobs()
    expected = linear()
    train(expected, x, y, epochs=2)
    if stream == "closed":
        stream = io.StringIO()
        stream.close()
    monkeypatch.setattr(sys, name, stream)
    model = linear()
    log = CSVLogger(tmp_path, keep_going=True)  # a folder: a warning each epoch
    model.fit(x, y, epochs=2, callbacks=log, checkpoint=Checkpoint(tmp_path / "run.npz"))
    monkeypatch.undo()
    np.testing.assert_array_equal(model.parameters.values, expected.parameters.values)
    assert Checkpoint(tmp_path / "run.npz").exists()


# ---------------------------------------------------------------------------------------------------------------
# What users of Keras know


@pytest.fixture
def order_of(monkeypatch):
    """A function that trains with these options, and tells which images came in each epoch."""
    step = training.train_step

    def order_of(epochs, **options):
        epoch = [[] for _ in range(epochs)]
        monkeypatch.setattr(training, "train_step", lambda run, i: (epoch[run.epoch].extend(i.tolist()), step(run, i)))
        train(linear(), *blobs(10), epochs=epochs, batch_size=4, **options)
        return epoch

    return order_of


def test_shuffle_false_takes_the_images_in_their_order(order_of):
    assert order_of(epochs=2, shuffle=False) == [list(range(10))] * 2
    first, second = order_of(epochs=2)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second and list(range(10)) not in (first, second)


def test_steps_per_epoch_ends_an_epoch_early_and_the_next_has_an_order_of_its_own(order_of):
    whole, short = order_of(epochs=3), order_of(epochs=3, steps_per_epoch=2)
    assert short == [images[:8] for images in whole]


def test_validation_split_holds_the_last_images_out():
    x, y = blobs(40)
    one, other = linear(), linear()
    weights = np.linspace(0, 1, 40)
    split = train(one, x, y, epochs=2, validation_split=0.25, sample_weight=weights)
    given = train(other, x[:30], y[:30], epochs=2, validation_data=(x[30:], y[30:]), sample_weight=weights[:30])
    assert split["val_loss"] == given["val_loss"] and split["loss"] == given["loss"]
    np.testing.assert_array_equal(one.parameters.values, other.parameters.values)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_an_image_of_weight_2_counts_as_two_and_one_of_weight_0_not_at_all(backend):
    minicnn.use_backend(backend)
    x, y = blobs(3)
    y = np.array([0, 1, 2])
    weighed, repeated = linear(), linear()
    history = train(weighed, x, y, sample_weight=[2, 1, 0], optimizer=optimizers.SGD(0.1))
    expected = train(repeated, x[[0, 0, 1]], y[[0, 0, 1]], optimizer=optimizers.SGD(0.1))
    assert history["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    np.testing.assert_allclose(weighed.parameters.values, repeated.parameters.values, rtol=1e-4, atol=1e-6)


def test_weights_of_images_multiply_those_of_their_classes():
    outputs, targets = np.random.default_rng(0).standard_normal((4, 3)), np.array([0, 1, 2, 1])
    both = CrossEntropy(class_weight=[1, 2, 3])(outputs, targets, np.array([1.0, 1, 5, 0]))
    one = CrossEntropy()(outputs, targets, np.array([1.0, 2, 15, 0]))
    assert both[0] == pytest.approx(one[0])
    np.testing.assert_allclose(both[1], one[1])


def test_the_weighted_mean_squared_error_is_that_of_images_repeated_and_its_gradient_that_of_differences():
    rng = np.random.default_rng(0)
    outputs, targets = rng.standard_normal((2, 3, 2, 2))
    loss, weights = MeanSquaredError(), np.array([2.0, 1, 0])
    value, doutputs = loss(outputs, targets, weights)
    assert value == pytest.approx(loss(outputs[[0, 0, 1]], targets[[0, 0, 1]])[0])
    for index in np.ndindex(outputs.shape):
        step = np.zeros_like(outputs)
        step[index] = 1e-5
        slope = (loss(outputs + step, targets, weights)[0] - loss(outputs - step, targets, weights)[0]) / 2e-5
        assert doutputs[index] == pytest.approx(slope, abs=1e-9)


def test_a_batch_whose_images_all_have_weight_0_teaches_nothing():
    x, y = blobs(8)
    model = linear()
    before = model.get_weights()
    train(
        model,
        x,
        y,
        batch_size=4,
        shuffle=False,
        sample_weight=[0] * 4 + [1] * 4,
        optimizer=optimizers.SGD(0.1),
        callbacks=(watch := Watch()),
    )
    assert watch.steps == 2
    assert not np.array_equal(before[0], model.get_weights()[0])
    for loss in (CrossEntropy(), MeanSquaredError()):
        value, doutputs = loss(np.eye(3), np.eye(3)[::-1], np.zeros(3))
        assert value == 0 and not doutputs.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(validation_split=1.0), "validation_split: got 1.0, expected a finite number, at least 0 and below 1"),
        (dict(validation_split=0.001), "validation_split: got 0.001 of 40 images, expected at least one on each side"),
        (dict(validation_split=0.1, validation_data=blobs(4)), "got it and validation_data, expected one of them"),
        (dict(shuffle=1), "shuffle: got 1, expected True or False"),
        (dict(steps_per_epoch=0), "steps_per_epoch: got 0"),
        (dict(steps_per_epoch=3, batch_size=20), "steps_per_epoch: got 3 with shuffle=True, expected at most 2, one pass"),
        (dict(steps_per_epoch=1, shuffle=False), "steps_per_epoch: got 1 with shuffle=False, expected at most 1"),
        (dict(sample_weight=np.ones(39)), r"sample_weight: got float64 of shape \(39,\), expected numbers \(40,\)"),
        (dict(sample_weight=np.zeros(40)), "sample_weight: expected numbers from 0 to 1e30, and not all of them zero"),
        (dict(sample_weight=-np.ones(40)), "sample_weight: expected numbers from 0"),
        (dict(sample_weight=np.full(40, np.nan)), "sample_weight: expected numbers from 0"),
        (dict(sample_weight=["a"] * 40), "sample_weight: got <U1"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(options, message):
    with pytest.raises((ValueError, DataError), match=message):
        train(linear(), *blobs(40), **options)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("optimizer", [optimizers.AdamW(0.05, clip_norm=0.5), optimizers.SGD(0.05, momentum=0.9)])
def test_layers_that_are_not_trainable_keep_their_weights_and_the_others_learn(sample, backend, optimizer):
    minicnn.use_backend(backend)
    model = tiny()
    model.layers[0].trainable = model.layers[2].trainable = False  # a convolution, and a block with one in it
    before = {name: w.value.copy() for name, w in model.arrays().items()}
    train(model, sample[0][:32], sample[1][:32], batch_size=8, optimizer=copy.deepcopy(optimizer))
    kept = {name for name, w in model.arrays().items() if np.array_equal(w.value, before[name])}
    assert kept == {"conv2d_1/w", "conv2d_1/b", "residual_1/conv2d_1/w", "residual_1/conv2d_1/b"}


def test_what_is_not_trainable_counts_for_nothing_where_gradients_are_clipped(sample):
    """The others move as if there were no other gradient: here a step of SGD is as long as clip_norm says."""
    model = Sequential([Flatten(), Dense(20), Dense(10)])
    model.layers[1].trainable = False
    before = model.layers[2].w.value.copy(), model.layers[2].b.value.copy()
    train(model, sample[0][:8], sample[1][:8], optimizer=optimizers.SGD(1.0, clip_norm=1e-3))
    moved = [model.layers[2].w.value - before[0], model.layers[2].b.value - before[1]]
    assert math.sqrt(sum(np.square(d).sum() for d in moved)) == pytest.approx(1e-3, rel=1e-2)


def test_a_lambda_callback_runs_its_functions_and_a_single_callback_needs_no_list():
    said = []
    names = ("on_train_begin", "on_step_end", "on_epoch_end", "on_train_end")
    calls = {name: lambda run, name=name: said.append((name, run.epoch, run.step)) for name in names}
    train(linear(), *blobs(8), epochs=2, batch_size=4, callbacks=LambdaCallback(**calls))
    steps = [("on_step_end", 0, 1), ("on_step_end", 0, 2), ("on_epoch_end", 1, 2)]
    steps += [("on_step_end", 1, 3), ("on_step_end", 1, 4), ("on_epoch_end", 2, 4)]
    assert said == [("on_train_begin", 0, 0), *steps, ("on_train_end", 2, 4)]
    with pytest.raises(ValueError, match="on_step_end: got 1, expected a function of the run"):
        LambdaCallback(on_step_end=1)


def test_labels_may_stand_in_a_column():
    x, y = blobs(12)
    one, other = linear(), linear()
    assert train(one, x, y)["loss"] == train(other, x, y[:, None])["loss"]
