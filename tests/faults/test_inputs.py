"""Images and labels as users have them: of any layout and real type the result is that of a plain array, what does not
fit is refused by name, inputs are never modified, and a prediction does not depend on the batch it came in.

test_training.py holds what `fit` refuses; here `predict` and `evaluate` refuse it too.
"""

from __future__ import annotations

import numpy as np
import pytest
from children import measured

import minicnn
from minicnn import BatchNorm, Conv2D, Dense, Dropout, Flatten, GlobalAveragePool2D, MaxPool2D, ReLU, Sequential
from minicnn.data import Augment, load_fashion_mnist
from minicnn.errors import DataError, DivergedError, ShapeError
from minicnn.recipes import RECIPES

BACKENDS = pytest.mark.parametrize("backend", ["numpy", "numba"])
X, Y = np.random.default_rng(0).integers(0, 256, (9, 8, 6, 2)).astype(np.uint8), np.arange(9) % 3


@pytest.fixture(autouse=True)
def numba_afterwards():
    yield
    minicnn.use_backend("numba")


def net():
    layers = [Conv2D(4, 3), BatchNorm(activation="relu"), MaxPool2D(), Dropout(0.2), GlobalAveragePool2D(), Dense(3)]
    return Sequential(layers, (8, 6, 2))


def used(x, y, **options):
    """All that comes of images and labels: weights after an epoch, predictions, loss and accuracy."""
    model = net()
    settings = dict(batch_size=4, validation_data=(x, y), augment=Augment(rotation=9), verbose=False)
    model.fit(x, y, **settings | options)
    return [*model.get_weights(), model.predict(x), model.predict(x, tta="flip"), np.array(model.evaluate(x, y))]


def mapped(x, path):
    np.save(path, x)
    return np.load(path, mmap_mode="r")


def read_only(x, path):
    x = x.copy()
    x.flags.writeable = False
    return x


LAYOUTS = {
    "Fortran order": lambda x, path: np.asfortranarray(x),
    "negative strides": lambda x, path: x[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
    "every other": lambda x, path: (
        np.repeat(np.repeat(x, 2, 0), 2, 2)[::2, :, ::2] if x.ndim == 4 else np.repeat(x, 2)[::2]
    ),
    "another axis first": lambda x, path: np.moveaxis(np.moveaxis(x, -1, 0).copy(), 0, -1),
    "a read-only memory map": mapped,
    "read-only": read_only,
}


@pytest.mark.parametrize(
    ("kind", "backend"), [("uint8", "numpy"), ("float32", "numpy"), ("float64", "numpy"), ("uint8", "numba")]
)
def test_images_of_any_layout_give_what_a_plain_array_gives(kind, backend, tmp_path):
    minicnn.use_backend(backend)
    x = X if kind == "uint8" else (X / 255).astype(kind)
    correct = used(x, Y)
    for name, lay_out in LAYOUTS.items():
        images, labels = (
            lay_out(x, tmp_path / "x.npy"),
            lay_out(Y, tmp_path / "y.npy") if name != "negative strides" else Y[::-1].copy()[::-1],
        )
        np.testing.assert_array_equal(images, x)
        for found, expected in zip(used(images, labels), correct, strict=True):
            np.testing.assert_array_equal(found, expected, err_msg=name)
        np.testing.assert_array_equal(images, x)
        np.testing.assert_array_equal(labels, Y)


@BACKENDS
def test_batches_of_one_and_a_ragged_last_one_are_learnt_from(backend):
    minicnn.use_backend(backend)
    for n, batch_size in ((1, 1), (1, 4), (9, 1), (9, 2), (9, 8), (9, 100)):
        assert all(np.isfinite(part).all() for part in used(X[:n], Y[:n], batch_size=batch_size))


def test_labels_of_any_whole_type_are_the_same():
    minicnn.use_backend("numpy")
    for dtype in ("int8", "uint8", ">i4", "uint64"):
        for found, expected in zip(used(X, Y.astype(dtype)), used(X, Y), strict=True):
            np.testing.assert_array_equal(found, expected)


NAN, HUGE = np.where(np.arange(9) == 4, np.nan, 1)[:, None, None, None] * X, np.full(X.shape, 1e300)
WRONG_IMAGES = {
    "NaN": (NAN, DataError, "images: got NaN or infinity"),
    "infinity": (np.where(np.isnan(NAN), -np.inf, NAN).astype(np.float32), DataError, "images: got NaN or infinity"),
    "more than float32 holds": (HUGE, DataError, "images: got NaN or infinity in float32, expected finite numbers"),
    "rank 3": (X[:, :, 0], ShapeError, r"images: got shape \(9, 8, 2\), expected \(n, 8, 6, 2\)"),
    "rank 5": (X[None], ShapeError, "images: got shape"),
    "no rank": (np.float32(3), (ShapeError, DataError), "images: got shape"),
    "channels": (X[..., :1], ShapeError, r"images: got shape \(9, 8, 6, 1\)"),
    "channels first": (np.moveaxis(X, -1, 1), ShapeError, r"images: got shape \(9, 2, 8, 6\)"),
    "none": (X[:0], DataError, "images: got none"),
    "int64": (X.astype(int), DataError, "images: got dtype int64"),
    "bool": (X > 9, DataError, "images: got dtype bool"),
    "complex": (X * 1j, DataError, "images: got dtype complex128"),
    "objects": (X.astype(object), DataError, "images: got dtype object"),
    "nothing": (None, (ShapeError, DataError), "images: got shape"),
}


@pytest.mark.parametrize("case", WRONG_IMAGES)
@pytest.mark.parametrize("use", ["fit", "predict", "predict_classes", "evaluate"])
def test_wrong_images_are_refused_by_name(use, case):
    minicnn.use_backend("numpy")
    x, error, message = WRONG_IMAGES[case]
    labels = [] if use.startswith("predict") else [Y[: len(x) if np.ndim(x) else 0]]
    model = net()
    with pytest.raises(error, match=message) as caught:
        getattr(model, use)(x, *labels)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (Y.astype(float), "labels: got float64"),
        (Y[:8], r"targets: got shape \(8,\), expected as many as images: 9"),
        (Y + 1, "labels: got 3 at index 2"),
        (Y - 1, "labels: got -1 at index 0"),
        (Y.astype(bool), "labels: got bool"),
        (np.full((9, 3), np.nan), "targets: got NaN"),
        (np.eye(3)[Y] * 2, "targets: expected probabilities"),
        (None, r"targets: got shape \(\)"),
    ],
)
def test_evaluate_refuses_wrong_labels_by_name(y, message):
    minicnn.use_backend("numpy")
    with pytest.raises(DataError, match=message):
        net().evaluate(X, y)


# ---------------------------------------------------------------------------------------------------------------
# Batches


@BACKENDS
@pytest.mark.parametrize(
    "recipe", ["default", *(pytest.param(name, marks=pytest.mark.slow) for name in ("seed", "record"))]
)
def test_predictions_do_not_depend_on_the_batch_they_came_in(recipe, backend):
    """To the bit on kernels; NumPy's matrix product adds up in an order that depends on the number of rows."""
    minicnn.use_backend(backend)
    model = RECIPES[recipe].model()
    x = load_fashion_mnist("sample", verbose=False).test_images[: 256 if backend == "numba" else 21]
    correct = model.outputs(x, batch_size=256)
    for batch_size in (1, 7):
        n = 3 * batch_size
        found = model.outputs(x[:n], batch_size=batch_size)
        if backend == "numba":
            np.testing.assert_array_equal(found, correct[:n])
        else:
            np.testing.assert_allclose(found, correct[:n], rtol=1e-4, atol=1e-5)


def too_large_then_small(x, y):
    """What a model that has run out of memory predicts afterwards, after each kind of use."""
    model, found = net(), []
    model.scale.learn(x[:9])  # else it depends on how much memory is left whether fit comes to learn it before it fails
    model.predict(x[:9])
    for use in (
        lambda: model.predict(x, batch_size=len(x)),
        lambda: model.evaluate(x, y, batch_size=len(x)),
        lambda: model.fit(x, y, batch_size=len(x), verbose=False),
    ):
        try:
            use()
            found.append("no MemoryError")
        except MemoryError:
            found.append(model.predict(x[:9]))
    return found


@BACKENDS
def test_a_batch_too_large_for_memory_leaves_the_model_usable(backend):
    minicnn.use_backend(backend)
    minicnn.set_threads(1)
    try:
        model = net()
        model.scale.learn(X)
        correct = model.predict(X)
        many = np.broadcast_to(X[:1], (200_000, *X.shape[1:])).copy()
        many[:9] = X
        found = measured(too_large_then_small, many, np.zeros(len(many), int), memory=60_000_000)
    finally:
        minicnn.set_threads(minicnn.engine.threads.MAX_THREADS)
    assert found.error is None, found.error
    predictions = 2 if backend == "numba" else 0  # of a launch, which takes the images where they lie
    assert found.value[:predictions] == ["no MemoryError"] * predictions
    assert len(found.value) == 3
    for y in found.value[predictions:]:
        np.testing.assert_array_equal(y, correct)


def test_a_model_of_no_images_at_all_is_still_a_model():
    minicnn.use_backend("numpy")
    model = Sequential([Flatten(), Dense(3)], (8, 6, 2))
    with pytest.raises(DataError, match="images: got none"):
        model.fit(X[:0], Y[:0], verbose=False)
    assert model.scale.mean is None
    assert np.isfinite(model.predict(X)).all()


# ---------------------------------------------------------------------------------------------------------------
# What is nearly right


MASKED = {
    "fit": lambda model, x, y: model.fit(np.ma.masked_greater(x, 100), y, verbose=False),
    "fit, labels": lambda model, x, y: model.fit(x, np.ma.masked_greater(y, 1), verbose=False),
    "predict": lambda model, x, y: model.predict(np.ma.masked_greater(x, 100)),
    "evaluate, labels": lambda model, x, y: model.evaluate(x, np.ma.masked_greater(y, 1)),
    "forward": lambda model, x, y: model.forward(np.ma.masked_greater(x.astype(np.float32), 100)),
    "class_weight": lambda model, x, y: model.fit(x, y, class_weight=np.ma.array([1.0] * 3, mask=[1, 0, 0])),
    "accuracy": lambda model, x, y: minicnn.metrics.accuracy(np.ma.masked_greater(y, 1), y),
    "calibration": lambda model, x, y: minicnn.metrics.calibration(y, np.ma.masked_less(model.predict(x), 0.1)),
    "set_weights": lambda model, x, y: model.set_weights([np.ma.masked_greater(w, 0) for w in model.get_weights()]),
}


@pytest.mark.parametrize("way", MASKED)
def test_a_masked_array_is_refused_and_not_laid_bare(way):
    model = net()
    before = model.get_weights()
    named = r"(images|targets|labels|probabilities|conv2d_1/w): got a masked|(forward|class_weight): got .*mask"
    with pytest.raises(ValueError, match=rf"(?is){named}"):
        MASKED[way](model, X, Y)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_a_single_image_is_told_how_to_become_a_batch():
    with pytest.raises(
        ShapeError, match=r"got shape \(8, 6, 2\), expected \(n, 8, 6, 2\): for a single image x\[None\]"
    ):
        net().outputs(X[0])
    with pytest.raises(ShapeError, match=r"forward: got .*\(8, 6, 2\), expected .*: for a single image x\[None\]"):
        net().forward(X[0].astype(np.float32))
    grey = Sequential([Flatten(), Dense(3)], (8, 6, 1))
    with pytest.raises(ShapeError, match=r"got shape \(8, 6\), expected \(n, 8, 6, 1\): for a single image x\[None\]"):
        grey.evaluate(X[0, :, :, 0], Y)
    assert grey.predict(X[:1, :, :, 0]).shape == (1, 3)


def test_a_single_image_is_predicted_alone():
    model = net()
    np.testing.assert_array_equal(model.predict(X[3]), model.predict(X[3:4])[0])
    assert model.predict_classes(X[3]) == model.predict_classes(X)[3]
    grey = Sequential([Flatten(), Dense(3)], (8, 6, 1))
    for one in (X[0, :, :, :1], X[0, :, :, 0]):
        np.testing.assert_array_equal(grey.predict(one), grey.predict(X[:1, :, :, :1])[0])
    assert grey.predict(X[:8, :, :, 0]).shape == (8, 3)


def test_labels_may_be_a_column():
    np.testing.assert_array_equal(used(X, Y[:, None])[-1], used(X, Y)[-1])


def test_a_warning_of_the_scale_points_at_the_users_line():
    model = net()
    model.fit(X / 255, Y, verbose=False)
    frozen = model.frozen()
    calls = [lambda: net().fit(X * 300.0 * (X > X.min()), Y, verbose=False), lambda: model.evaluate(X * 1.0, Y)]
    calls += [lambda asked=asked: asked(X * 1.0) for asked in (model.predict, model.outputs, frozen.predict_classes)]
    for call in calls:
        with pytest.warns(UserWarning, match="images: got floats") as told:
            call()
        assert [(warning.filename, warning.lineno) for warning in told] == [(__file__, call.__code__.co_firstlineno)]


def test_images_on_another_scale_than_in_training_are_told_of():
    model = net()
    with pytest.warns(UserWarning, match="images: got floats from 0 to 255; numbers as large train badly"):
        model.fit(X * (255.0 / X.max()) * (X > X.min()), Y, verbose=False)
    model.fit(X / 255 - 0.5, Y, verbose=False)
    model.predict(X / 255 - 0.5)
    for x, got in ((X, "uint8, which is taken as 0 to 1"), (X / 255, "floats from 0"), (X / 1.0, "floats from 0")):
        with pytest.warns(UserWarning, match=f"images: got {got}.*; the model was trained on floats from -0.5 to "):
            model.predict(x)
    model.fit(X / 255, Y, verbose=False)
    np.testing.assert_allclose(model.predict(X), model.predict(X / 255), rtol=1e-4)  # as uint8 is taken
    with pytest.warns(UserWarning, match="images: got floats from 0 to .*; the model was trained on floats from 0 to "):
        model.predict(X / 1.0)
    model = net()
    model.fit(X, Y, verbose=False)
    for x in (X / 255, X.astype(np.float32), X / 32 - 4):
        with pytest.warns(UserWarning, match="the model was trained on uint8 and takes floats as standardised"):
            model.predict(x)
    standardised = (X / 255 - model.scale.mean) / model.scale.std
    np.testing.assert_allclose(model.predict(standardised), model.predict(X), rtol=1e-4)


@BACKENDS
def test_outputs_that_are_no_numbers_are_no_prediction(backend):
    minicnn.use_backend(backend)
    model = net()
    model.layers[0].w.value[...] = 3e38
    for ask in (model.outputs, model.predict, model.predict_classes, lambda x: model.evaluate(x, Y)):
        with np.errstate(all="ignore"), pytest.raises(DivergedError, match=r"^outputs: got NaN or infinity"):
            ask(X)


@BACKENDS
def test_nan_passes_the_gate_of_a_relu_in_both_directions(backend):
    """As in PyTorch: a NaN that became a gradient of 0 would hide."""
    minicnn.use_backend(backend)
    for stack in ([ReLU()], [Dense(3, activation="relu")], [Dense(3), BatchNorm(activation="relu")]):
        model = Sequential([Flatten(), Dense(3), *stack, Dense(2)], (2, 2, 1))
        x = np.ones((2, 2, 2, 1), np.float32)
        x[0, 0, 0] = np.nan
        assert np.isnan(model.forward(x, training=True)).any()
        model.backward(np.ones((2, 2), np.float32))
        assert np.isnan(model.parameters.grads).any()


METHODS = {
    "fit": lambda model, x: model.fit(x, Y, verbose=False),
    "fit, validation": lambda model, x: model.fit(X, Y, validation_data=(x, Y), verbose=False),
    "evaluate": lambda model, x: model.evaluate(x, Y),
    "outputs": lambda model, x: model.outputs(x),
    "predict": lambda model, x: model.predict(x, tta="flip"),
    "predict_classes": lambda model, x: model.predict_classes(x),
    "profile": lambda model, x: model.profile(x, Y, steps=1),
    "forward": lambda model, x: model.forward(x),
    "forward in training": lambda model, x: model.forward(x, training=True),
    "backward": lambda model, x: (model.forward(X.astype(np.float32), training=True), model.backward(x)),
    "set_weights": lambda model, x: model.set_weights([x, *model.get_weights()[1:]]),
}
WRONG = {
    "a row less": X[:, :-1],
    "a channel less": X[..., :1],
    "an axis more": X[..., None],
    "flat": X.reshape(len(X), -1),
    "no image": X[:0],
    "one number": np.float32(3),
    "text": X.astype(str),
    "complex": X.astype(complex),
    "objects": X.astype(object),
    "truth values": X > 3,
    "int64": X.astype(np.int64) + 300,
    "NaN": np.where(X > 3, np.nan, 1.0),
    "infinity": np.where(X > 3, np.inf, 1.0),
    "too large for float32": X * 1e300,
    "dates": X.astype("datetime64[s]"),
    "fields": np.zeros(9, [("a", "f4"), ("b", "f4")]),
    "nothing": None,
    "uneven lists": [[1.0], [2.0, 3.0]],
    "a path": "images.npy",
}


@BACKENDS
@pytest.mark.parametrize("method", METHODS)
def test_what_is_no_batch_of_images_is_refused_by_every_method(method, backend):
    minicnn.use_backend(backend)
    for name, x in WRONG.items():
        model = net()
        before = model.parameters.values.copy()
        with np.errstate(all="ignore"), pytest.raises((ValueError, TypeError)) as caught:
            METHODS[method](model, x)
            pytest.fail(f"{name} was taken")
        assert len(str(caught.value).splitlines()) == 1, name
        np.testing.assert_array_equal(model.parameters.values, before, err_msg=name)
