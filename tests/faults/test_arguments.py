"""Every argument of every constructor, with values of every kind: refused in one line that names it, or taken, and then
what was trained and saved is what is loaded."""

from __future__ import annotations

import inspect
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest

import minicnn
from minicnn import callbacks, layers, losses, optimizers
from minicnn.data import Augment
from minicnn.errors import DivergedError, ModelFileError, ShapeError

VALUES = [
    *(True, np.bool_(False), None, -1, 0, 1, 2, 10**30, np.int64(2), np.uint8(3), 10**400),
    *(0.25, 1.5, -0.5, math.nan, math.inf, np.float32(0.25), np.float64(1e-3), Fraction(1, 4), 1e-320, 1e300),
    *("relu", "same", "he", "2", b"same", "", [1, 1], (2, 2), (1, 2, 3), (1.0, 1), ["relu"], np.array([1, 2])),
    *({"class": "ReLU"}, {}, object(), np.array(2), 1j, print, layers.ReLU, layers.ReLU()),
]
USUAL = {
    layers.Conv2D: {"filters": 2, "kernel_size": 3},
    layers.DepthwiseConv2D: {"kernel_size": 3},
    layers.Dense: {"units": 3},
    layers.Dropout: {"rate": 0.5},
    layers.Residual: {},
}
LAYERS = [getattr(layers, name) for name in layers.__all__ if name not in ("Layer", "Activation")]
ARGUMENTS = [(kind, name) for kind in LAYERS for name in inspect.signature(kind).parameters]
OTHERS = [
    *(optimizers.SGD, optimizers.RMSprop, optimizers.Adam, optimizers.AdamW, losses.CrossEntropy, Augment),
    *(callbacks.EarlyStopping, callbacks.ReduceLROnPlateau),
]
FREE = {"class_weight", "monitor"}  # checked by fit, which knows the classes and the metrics


def construct(kind, name, value):
    """One of the layers with this argument, or None where it is refused, as it should be."""
    try:
        if kind is layers.Residual and name == "layers":
            return kind(value)
        return kind(**USUAL.get(kind, {}) | {name: value})
    except ValueError as error:
        assert len(str(error).splitlines()) == 1
        assert name in str(error) or "initializer" in str(error) or kind is layers.Residual
        return None


def network(layer):
    """A classifier of images (6, 6, 2) with this layer in it; None where it does not fit there."""
    behind = [] if isinstance(layer, layers.Flatten | layers.Dense) else [layers.Flatten()]
    before = [layers.Flatten()] if isinstance(layer, layers.Dense) else []
    try:
        return minicnn.Sequential([*before, layer, *behind, layers.Dense(3)], input_shape=(6, 6, 2))
    except (ShapeError, ValueError) as error:
        assert len(str(error).splitlines()) == 1
        return None
    except MemoryError:  # more units than fit
        return None


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # a slope of 1e300 overflows
@pytest.mark.parametrize(("kind", "name"), ARGUMENTS, ids=lambda v: getattr(v, "__name__", v))
def test_what_a_layer_takes_is_saved_and_loaded_and_the_rest_refused(kind, name, tmp_path):
    minicnn.use_backend("numpy")
    x, y = np.random.default_rng(0).standard_normal((4, 6, 6, 2)).astype(np.float32), np.array([0, 1, 2, 0])
    taken = 0
    for value in VALUES:
        layer = construct(kind, name, value)
        model = None if layer is None else network(layer)
        if model is None:
            continue
        taken += 1
        try:
            model.fit(x, y, verbose=False)
            model.save(tmp_path / "model.npz")
        except DivergedError:
            continue
        except ModelFileError as error:
            assert "too many" in str(error)
            continue
        loaded = minicnn.load(tmp_path / "model.npz")
        if not callable(value):  # a function is not kept: the weights are
            assert str(loaded.layers) == str(model.layers)
        np.testing.assert_array_equal(loaded.outputs(x), model.outputs(x))
    assert taken


@pytest.mark.parametrize("kind", OTHERS, ids=lambda kind: kind.__name__)
def test_optimizers_losses_callbacks_and_augment_take_plain_numbers_or_refuse(kind):
    for name in set(inspect.signature(kind).parameters) - FREE:
        taken = []
        for value in VALUES:
            try:
                taken.append((value, vars(kind(**{name: value}))[name]))
            except ValueError as error:
                assert str(error).startswith(f"{name}: got"), error
        assert taken
        for given, kept in taken:
            assert kept == pytest.approx(given) and (
                kept is None or isinstance(kept, bool | int | float | np.generic | Fraction)
            )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(seed=-1), "seed: got -1, expected a whole number of at least 0"),
        (dict(seed=1.5), "seed: got 1.5"),
        (dict(seed=True), "seed: got True"),
        (dict(seed=None), "seed: got None"),
        (dict(input_shape=6), "input_shape: got 6"),
        (dict(input_shape="abc"), "input_shape: got 'abc'"),
        (dict(input_shape=()), r"input_shape: got \(\)"),
        (dict(input_shape=(6, 6, 0)), r"input_shape: got \(6, 6, 0\)"),
        (dict(input_shape=[1] * 33), r"input_shape: got \[1, "),
        (dict(dtype="float16"), "dtype: got 'float16'"),
        (dict(layers=[]), r"layers: got \[\], expected a list of at least one Layer"),
        (dict(layers=layers.Dense(3)), r"layers: got Dense\(units=3\), expected a list"),
        (dict(layers=layers.Dense), "layers: got <class .*Dense'>, expected a list"),
        (dict(layers=[layers.Flatten(), layers.Dense]), "layers: got <class .*Dense'>, expected a list"),
        (dict(layers=None), "layers: got None, expected a list"),
        (dict(layers=[layers.ReLU() for _ in range(5001)]), "layers: got 5,001, expected at most 5,000"),
    ],
)
def test_what_a_model_cannot_be_is_refused_when_it_is_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        minicnn.Sequential(**{"layers": [layers.Flatten(), layers.Dense(3)]} | arguments)


def test_layers_may_come_from_a_generator():
    model = minicnn.Sequential(kind() for kind in (layers.Flatten, layers.ReLU))
    assert [layer.name for layer in model.layers] == ["flatten_1", "relu_1"]


def test_a_layer_whose_argument_is_an_array_can_be_printed():
    class Scaled(layers.Layer):
        def __init__(self, by=None):
            self.by = by

    assert repr(Scaled(np.array([1, 2]))) == "Scaled(by=array([1, 2]))"
    assert repr(Scaled()) == "Scaled()"


def test_a_shape_may_be_a_list_or_an_array_and_a_seed_any_whole_number(tmp_path):
    for shape, seed in (([6, 6, 2], np.int64(3)), (np.array([6, 6, 2]), 2**70)):
        model = minicnn.Sequential([layers.Flatten(), layers.Dropout(0.5), layers.Dense(3)], shape, seed=seed)
        model.save(tmp_path / "model.npz")
        loaded = minicnn.load(tmp_path / "model.npz")
        assert loaded.input_shape == (6, 6, 2) and loaded.seed == seed


def nested(n):
    layer = layers.Dense(3)
    for _ in range(n):
        layer = layers.Residual(layer)
    return layer


def test_as_many_residuals_in_residuals_as_can_be_made_can_be_loaded(tmp_path):
    model = minicnn.Sequential([layers.Flatten(), layers.Dense(3), nested(20)], input_shape=(2, 2, 1))
    model.save(tmp_path / "model.npz")
    x = np.ones((1, 2, 2, 1), np.float32)
    np.testing.assert_array_equal(minicnn.load(tmp_path / "model.npz").outputs(x), model.outputs(x))
    with pytest.raises(ValueError, match="Residual: got 21 of them one in another, expected at most 20"):
        nested(21)


def test_as_many_layers_as_can_be_made_can_be_loaded(tmp_path):
    model = minicnn.Sequential([layers.Flatten()] + [layers.ReLU() for _ in range(4999)], input_shape=(2, 1, 1))
    model.save(tmp_path / "model.npz")
    assert len(minicnn.load(tmp_path / "model.npz").layers) == 5000


def test_a_pickled_model_holds_its_numbers_once():
    model = minicnn.Sequential([layers.Conv2D(8, 3), layers.BatchNorm(), layers.Flatten(), layers.Dense(10)])
    x = np.zeros((64, 28, 28, 1), np.uint8)
    model.fit(x, np.arange(64) % 10, verbose=False)
    content = pickle.dumps(model)
    assert len(content) < model.parameters.values.nbytes + 20_000
    again = pickle.loads(content)
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    again.fit(x, np.arange(64) % 10, verbose=False)
