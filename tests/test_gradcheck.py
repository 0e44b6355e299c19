"""The gradient checker: it must pass what is right, catch what is wrong, and know a kink from a mistake.

Each test of a mistake runs twice: on a small input, where every entry of the Jacobian is checked, and on a larger one,
where random directions are.
"""

from __future__ import annotations

import re

import numpy as np
import pytest

import minicnn
from minicnn import (
    BatchNorm,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool2D,
    Layer,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
    Tanh,
    gradcheck,
)
from minicnn.errors import ShapeError

BACKENDS = pytest.mark.parametrize("backend", ["numpy", "numba"], indirect=True)


@pytest.fixture(autouse=True)
def backend(request):
    """NumPy, the layers as they are to be read, unless a test asks for both."""
    minicnn.use_backend(getattr(request, "param", "numpy"))
    yield
    minicnn.use_backend("numba")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


SMALL, LARGE = normal(2, 5, 4, 2), normal(4, 12, 12, 3)
BOTH_MODES = pytest.mark.parametrize("x", [SMALL, LARGE], ids=["every entry", "directions"])


def check(report, array):
    """The finding for one array."""
    return next(c for c in report.checks if c.name.split("/")[-1] == array)


class ScaledBias(Conv2D):
    """A bias gradient that is 1% too large."""

    def backward(self, dy):
        dx = super().backward(dy)
        self.b.grad[...] *= 1.01
        return dx


class OneWrongWeight(Conv2D):
    """One wrong entry in the weights' gradient."""

    def backward(self, dy):
        dx = super().backward(dy)
        self.w.grad[1, 2, 0, 1] += 0.1
        return dx


class NotANumber(Conv2D):
    """One NaN in the weights' gradient."""

    def backward(self, dy):
        dx = super().backward(dy)
        self.w.grad[1, 0, 1, 2] = np.nan
        return dx


class WrongInput(Conv2D):
    """One wrong entry in dx."""

    def backward(self, dy):
        dx = super().backward(dy)
        dx[1, 3, 2, 0] += 0.1
        return dx


class Forgets(Conv2D):
    """A bias whose gradient is never written."""

    def backward(self, dy):
        dx = super().backward(dy)
        self.b.grad[...] = 0
        return dx


class Transposes(Dense):
    """dx by w instead of w transposed: every entry is wrong, no shape is."""

    def backward(self, dy):
        super().backward(dy)
        return dy @ self.w.value


@BOTH_MODES
@pytest.mark.parametrize(
    "layer",
    [
        Conv2D(4, 3),
        Conv2D(4, 3, stride=2, padding="valid", activation="tanh"),
        BatchNorm(),
        Dropout(0.5),
        Residual(Conv2D(5, 3), Tanh(), projection=Conv2D(5, 1)),
    ],
    ids=str,
)
def test_right_gradients_pass(x, layer):
    report = gradcheck(layer, x)
    assert report.ok, f"\n{report}"
    assert report.error < 1e-7
    assert "wrong" not in str(report)


@BOTH_MODES
@pytest.mark.parametrize(
    ("layer", "array", "index"),
    [
        (ScaledBias(4, 3), "b", None),
        (Forgets(4, 3), "b", None),
        (OneWrongWeight(4, 3), "w", (1, 2, 0, 1)),
        (NotANumber(4, 3), "w", (1, 0, 1, 2)),
        (WrongInput(4, 3), "input", (1, 3, 2, 0)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Layer) else None,
)
def test_a_wrong_gradient_is_caught_and_named(x, layer, array, index):
    report = gradcheck(layer, x)
    wrong = check(report, array)
    assert not report.ok
    assert report.error == wrong.error > 1e-4
    assert wrong.index == index if index else len(wrong.index) == 1
    assert all(c.error < 1e-6 for c in report.checks if c is not wrong), f"\n{report}"
    [line] = [line for line in str(report).splitlines() if line.endswith("<-- wrong")]
    assert line.startswith(wrong.name)
    assert str(wrong.index) in line


def test_the_pair_says_what_backward_claims_and_what_is_so():
    layer = OneWrongWeight(4, 3)
    claimed, slope = check(gradcheck(layer, SMALL), "w").worst
    assert claimed - slope == pytest.approx(0.1, abs=1e-6)


def test_a_gradient_wrong_everywhere_is_caught():
    report = gradcheck(Transposes(6), normal(3, 6))
    assert [c.name.split("/")[-1] for c in report.checks if c.error > 1e-6] == ["input"]


def test_an_infinite_gradient_is_caught():
    class Infinite(Dense):
        def backward(self, dy):
            dx = super().backward(dy)
            self.b.grad[1] = np.inf
            return dx

    assert check(gradcheck(Infinite(3), normal(2, 4)), "b").index == (1,)


def test_a_forward_that_gives_nan_does_not_pass():
    class Root(Layer):
        def forward(self, x, training=False):
            self.save_for_backward(x)
            with np.errstate(invalid="ignore"):
                return np.sqrt(x)

        def backward(self, dy):
            (x,) = self.saved
            return dy / (2 * np.sqrt(np.abs(x)))

    x = np.array([[1.0, 4, -1, 9]])
    assert not gradcheck(Root(), x).ok
    assert gradcheck(Root(), np.abs(x)).ok


# ---------------------------------------------------------------------------------------------------------------
# Kinks


@pytest.mark.parametrize("beside", [0, 1e-8, 1e-6, 2e-6, 2.5e-6, 5e-6, -9e-6])
def test_a_relu_at_or_beside_0_is_a_kink_and_not_a_mistake(beside):
    x = normal(2, 3, 3, 2)
    x[0, 1, 1, 0] = x[1, 2, 0, 1] = beside
    [found] = gradcheck(ReLU(), x).checks
    assert found.error < 1e-6
    assert found.kinks == 2


def test_a_tie_in_a_max_pool_is_a_kink_and_not_a_mistake():
    x = normal(1, 4, 4, 1)
    x[0, 0, 0, 0] = x[0, 1, 1, 0] = 5
    report = gradcheck(MaxPool2D(2), x)
    assert report.ok
    assert report.checks[0].kinks == 2


def test_a_mistake_is_seen_beside_a_kink():
    class Doubled(ReLU):
        def backward(self, dy):
            return 2 * super().backward(dy)

    x = np.array([[1.0, 0, -1]])
    report = gradcheck(Doubled(), x)
    assert not report.ok
    assert report.checks[0].kinks == 1
    assert report.checks[0].index == (0, 0)


def test_nothing_but_kinks_is_no_pass():
    report = gradcheck(ReLU(), np.zeros((2, 3)))
    assert not report.ok
    assert "only kinks" in str(report)


def test_a_smooth_curve_is_no_kink_however_sharp():
    class Exponential(Layer):
        def forward(self, x, training=False):
            self.save_for_backward(x)
            return np.exp(5 * x)

        def backward(self, dy):
            (x,) = self.saved
            return dy * 5 * np.exp(5 * x)

    report = gradcheck(Exponential(), normal(3, 8))
    assert report.ok
    assert report.checks[0].kinks == 0


# ---------------------------------------------------------------------------------------------------------------
# Mistakes that no difference shows, and that are errors with the layer's name and the remedy


class Times(Layer):
    """y = t * x, with a weight t for each channel: right, and the base of those that are not."""

    def build(self, input_shape, parameters):
        self.t = parameters.add("t", input_shape[-1:], lambda shape, rng: np.full(shape, 1.5))
        return input_shape

    def forward(self, x, training=False):
        if training:
            self.save_for_backward(x)
        return x * self.t.value

    def backward(self, dy):
        self.t.grad[...] = self.dt(dy)
        return dy * self.t.value

    def dt(self, dy):
        (x,) = self.saved
        return (dy * x).reshape(-1, x.shape[-1]).sum(axis=0)


class Replaces(Times):
    def backward(self, dy):
        self.t.grad = self.dt(dy)
        return dy * self.t.value


class Accumulates(Times):
    def backward(self, dy):
        self.t.grad += self.dt(dy)
        return dy * self.t.value


class BuildsAnotherShape(Times):
    def build(self, input_shape, parameters):
        return (*super().build(input_shape, parameters)[:-1], 9)


class BuildsNothing(Times):
    def build(self, input_shape, parameters):
        super().build(input_shape, parameters)


class ReturnsPartOfDx(Times):
    def backward(self, dy):
        return super().backward(dy)[:, :5]


class ReturnsNoDx(Times):
    def backward(self, dy):
        super().backward(dy)


class ReturnsNoY(Times):
    def forward(self, x, training=False):
        super().forward(x, training)


class ReturnsSingleY(Times):
    def forward(self, x, training=False):
        return super().forward(x, training).astype("float32")


class ReturnsSingleDx(Times):
    def backward(self, dy):
        return super().backward(dy).astype("float32")


class ReturnsDoubleY(Times):
    """Right in float64, in which gradients are checked, and not in float32, in which one trains."""

    def forward(self, x, training=False):
        return super().forward(x, training) * np.ones(x.shape[-1])

    def backward(self, dy):
        return super().backward(dy).astype(dy.dtype)


class ReturnsDoubleDx(Times):
    def backward(self, dy):
        return super().backward(dy) * np.ones(dy.shape[-1])


class ReturnsAMask(Times):
    def forward(self, x, training=False):
        return np.ma.masked_less(super().forward(x, training), 0)


class ReturnsLessInUse(Times):
    def forward(self, x, training=False):
        return super().forward(x, training)[:, : None if training else 5]


class ScalesItsInputInUse(Times):
    def forward(self, x, training=False):
        if not training:
            x *= 2
        return super().forward(x, training)


class ScalesItsInput(Times):
    def forward(self, x, training=False):
        y = super().forward(x.copy(), training)
        x *= 2
        return y


class ClipsItsInput(ReLU):
    def forward(self, x, training=False):
        x[x < 0] = 0
        return super().forward(x, training)


class ScalesItsInputInBackward(Times):
    def backward(self, dy):
        dx = super().backward(dy)
        self.saved[0][...] *= 2
        return dx


class ScalesDy(Times):
    def backward(self, dy):
        self.t.grad[...] = self.dt(dy)
        dy *= self.t.value
        return dy


class ShutsDy(Layer):
    """A ReLU; a second pass over the same dy finds it shut already, so that both give the same dx."""

    def forward(self, x, training=False):
        self.save_for_backward(x)
        return np.maximum(x, 0)

    def backward(self, dy):
        dy[self.saved[0] <= 0] = 0
        return dy


class ForgetsAnArgument(Times):
    def __init__(self, rate=1):
        pass


MISTAKES = [
    (Replaces, ValueError, r"write self\.t\.grad\[\.\.\.\] = "),
    (Accumulates, ValueError, r"t\.grad.* write = and not \+="),
    (BuildsAnotherShape, ShapeError, r"forward returned float32 of shape \(3, 8\), expected float32 of shape \(3, 9\)"),
    (BuildsNothing, ShapeError, r"build returned None, expected the output's shape, such as"),
    (ReturnsPartOfDx, ShapeError, r"backward returned float32 of shape \(3, 5\), expected float32 of shape \(3, 8\)"),
    (ReturnsNoDx, ShapeError, r"backward returned NoneType, expected an array of shape \(3, 8\)"),
    (ReturnsNoY, ShapeError, r"forward returned NoneType, expected an array of shape \(3, 8\)"),
    (ReturnsSingleY, ShapeError, r"forward returned float32 of shape \(3, 8\), expected float64"),
    (ReturnsSingleDx, ShapeError, r"backward returned float32 of shape \(3, 8\), expected float64"),
    (ReturnsDoubleY, ShapeError, r"forward returned float64 of shape \(3, 8\), expected float32 .*astype\(x.dtype\)"),
    (ReturnsDoubleDx, ShapeError, r"backward returned float64 of shape \(3, 8\), expected float32 .*astype\(x.dtype\)"),
    (ReturnsAMask, ShapeError, r"forward returned MaskedArray, expected an array of shape \(3, 8\)"),
    (ReturnsLessInUse, ShapeError, r"forward returned float32 of shape \(3, 5\), expected float32 of shape \(3, 8\)"),
    (ScalesItsInputInUse, ValueError, r"input .*in place.* copy"),
    (ScalesItsInput, ValueError, r"input .*in place.* copy"),
    (ClipsItsInput, ValueError, r"input .*in place.* copy"),
    (ScalesItsInputInBackward, ValueError, r"input .*in place.* copy"),
    (ScalesDy, ValueError, r"dy .*in place.* copy"),
    (ShutsDy, ValueError, r"dy .*in place.* copy"),
    (ForgetsAnArgument, (TypeError, ValueError), r"expected self\.rate = rate in __init__"),
]


@BACKENDS
@pytest.mark.parametrize("surroundings", ["alone", "in a list", "in a block", "in a network"])
@pytest.mark.parametrize(("wrong", "kind", "message"), MISTAKES, ids=[wrong.__name__ for wrong, *_ in MISTAKES])
def test_a_mistake_that_no_difference_shows_is_told_in_one_line(wrong, kind, message, surroundings, backend):
    name = wrong.__name__.lower()
    list_of_layers = [Times(), wrong(), Dense(8), Tanh()]
    with pytest.raises(kind) as caught:
        if surroundings == "alone":
            gradcheck(wrong(), normal(3, 8))
        elif surroundings == "in a list":
            gradcheck(list_of_layers, normal(3, 8))
        elif surroundings == "in a block":
            gradcheck(Residual(*list_of_layers), normal(3, 8))
        else:
            gradcheck(Sequential(list_of_layers, (8,), dtype="float64"), normal(3, 8))
    names = {"alone": f"({wrong.__name__}|{name}_1)", "in a block": f"(residual_1/)?{name}_2"}
    assert re.match(rf"{names.get(surroundings, f'{name}_1')}\b.*{message}", str(caught.value)), caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("layer", "x", "message"),
    [
        (Dense, normal(3, 8), "gradcheck: got <class .*Dense'>, expected a layer, a list of layers or a network"),
        ([Dense(3), None], normal(3, 8), "gradcheck: got None, expected a layer"),
        (Dense(3), normal(8), r"gradcheck: got an input of shape \(8,\), expected \(n, ...\)"),
        (Dense(3), np.ma.masked_less(normal(3, 8), 0), "gradcheck: got a masked array, expected a plain one"),
    ],
)
def test_what_is_no_layer_or_no_batch_is_refused(layer, x, message):
    with pytest.raises(ValueError, match=message):
        gradcheck(layer, x)


def test_what_these_mistakes_were_made_from_is_right():
    assert gradcheck(Times(), normal(3, 8)).ok


# ---------------------------------------------------------------------------------------------------------------
# Models


def small_model(dtype="float64", wrong=False):
    dense = Transposes(6) if wrong else Dense(6)
    block = Residual(Conv2D(4, 3), BatchNorm(activation="relu"), activation="relu")
    head = [Dropout(0.3), GlobalAveragePool2D(), Dense(6), dense, Dense(3)]
    return Sequential([Conv2D(4, 3), BatchNorm(), MaxPool2D(2), block, *head], (8, 8, 1), dtype=dtype)


@BACKENDS
@pytest.mark.parametrize("n", [2, 40], ids=["every entry", "directions"])
def test_whole_models_are_checked(n, backend):
    report = gradcheck(small_model(), normal(n, 8, 8, 1))
    assert report.ok, f"\n{report}"
    names = [c.name for c in report.checks]
    assert names[:3] == ["input", "conv2d_1/w", "conv2d_1/b"]
    assert "residual_1/conv2d_1/w" in names
    assert len(names) == 1 + len(small_model().parameters.parameters)


@pytest.mark.parametrize("seed", range(5))
def test_a_model_with_kinks_everywhere_passes(seed):
    layers = [Conv2D(8, 3, activation="relu"), MaxPool2D(), Residual(Conv2D(8, 3), activation="relu")]
    model = Sequential([*layers, GlobalAveragePool2D(), Dense(10)], (28, 28, 1), dtype="float64")
    report = gradcheck(model, normal(4, 28, 28, 1, seed=seed), seed=seed)
    assert report.ok, f"\n{report}"


@BACKENDS
@pytest.mark.parametrize("n", [2, 40], ids=["every entry", "directions"])
def test_a_wrong_layer_spoils_all_that_lies_before_it_and_nothing_behind(n, backend):
    report = gradcheck(small_model(wrong=True), normal(n, 8, 8, 1))
    wrong = {c.name for c in report.checks if c.error > 1e-6}
    assert {"input", "dense_1/w", "dense_1/b", "conv2d_1/w"} <= wrong
    assert not wrong & {"transposes_1/w", "transposes_1/b", "dense_2/w", "dense_2/b"}


def test_a_bias_that_batch_norm_takes_away_again_has_gradient_0():
    model = Sequential([Conv2D(3, 3), BatchNorm()], (5, 5, 2), dtype="float64")
    assert gradcheck(model, normal(2, 5, 5, 2)).ok


@BACKENDS
def test_a_list_of_layers_is_checked_as_one(backend):
    layers = [Conv2D(4, 3, use_bias=False), BatchNorm(), ReLU(), MaxPool2D(2), Flatten(), Dense(3, activation="tanh")]
    report = gradcheck(layers, normal(3, 6, 6, 2))
    assert report.ok, f"\n{report}"
    arrays = ["conv2d_1/w", "batchnorm_1/gamma", "batchnorm_1/beta", "dense_1/w", "dense_1/b"]
    assert [c.name for c in report.checks] == ["input", *arrays]
    assert all(not layer.name and not layer.weights() for layer in layers)  # copies were built
    wrong = gradcheck([*layers[:-1], Dense(6), Transposes(6), Dense(2)], normal(3, 6, 6, 2))
    assert {c.name for c in wrong.checks if c.error <= 1e-6} == {
        "transposes_1/w",
        "transposes_1/b",
        "dense_2/w",
        "dense_2/b",
    }


def test_a_mistake_in_a_step_of_the_engine_is_caught(monkeypatch):
    minicnn.use_backend("numba")
    model = Sequential([Conv2D(4, 3, activation="relu"), Flatten(), Dense(3)], (5, 5, 2), dtype="float64")
    assert gradcheck(model, normal(2, 5, 5, 2)).ok
    step = type(model.steps[-1])
    right = step.backward

    def forgets_the_bias(self, dy):
        dx = right(self, dy)
        self.layer.b.grad[...] = 0
        return dx

    monkeypatch.setattr(step, "backward", forgets_the_bias)
    assert {c.name for c in gradcheck(model, normal(2, 5, 5, 2)).checks if c.error > 1e-6} == {"dense_1/b"}
    minicnn.use_backend("numpy")
    assert gradcheck(model, normal(2, 5, 5, 2)).ok


def test_a_float32_model_is_refused():
    with pytest.raises(ValueError, match='got a model of dtype float32, expected dtype="float64"'):
        gradcheck(small_model("float32"), normal(2, 8, 8, 1))


# ---------------------------------------------------------------------------------------------------------------
# What is checked stays as it was


def state(model):
    needs = [getattr(step, "needs_dx", None) for step in model.steps]
    told = [(layer.name, layer.input_shape, layer.state(), layer._saved) for layer in model.all_layers()]
    arrays = model.parameters.values, model.parameters.grads, model.parameters.statistics
    return needs, told, [a.tobytes() for a in arrays]


@BACKENDS
def test_a_model_stays_as_it_was(backend):
    model = small_model()
    x = normal(2, 8, 8, 1)
    before, kept = state(model), x.copy()
    gradcheck(model, x)
    assert state(model) == before
    np.testing.assert_array_equal(x, kept)


@BACKENDS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_layer_of_a_model_stays_in_it(dtype, backend):
    model = Sequential([Residual(Conv2D(2, 3), BatchNorm()), Flatten(), Dense(3)], (4, 4, 2), dtype=dtype)
    before = state(model)
    assert gradcheck(model.layers[0], normal(2, 4, 4, 2)).ok
    assert gradcheck(model.layers[2], normal(2, 32)).ok
    assert state(model) == before
    for w in model.arrays().values():
        assert np.shares_memory(w.value, model.parameters.values) or np.shares_memory(
            w.value, model.parameters.statistics
        )


def test_a_built_layer_is_checked_with_the_weights_it_has():
    class RightAtZero(Dense):
        def backward(self, dy):
            return super().backward(dy) + (self.w.value != 0).any()

    model = Sequential([Tanh(), Residual(RightAtZero(3, kernel_initializer="zeros"))], (3,), dtype="float64")
    assert gradcheck(model.layers[1], normal(2, 3)).ok
    assert not gradcheck(Residual(RightAtZero(3)), normal(2, 3)).ok


def test_an_error_in_the_layer_leaves_it_as_it_was():
    class Fails(Dense):
        calls = 0

        def forward(self, x, training=False):
            Fails.calls += 1
            if Fails.calls == 5:
                raise KeyboardInterrupt
            return super().forward(x, training)

    model = Sequential([Fails(3)], (4,), dtype="float64")
    before = model.parameters.values.copy()
    with pytest.raises(KeyboardInterrupt):
        gradcheck(model.layers[0], normal(2, 4))
    np.testing.assert_array_equal(model.parameters.values, before)


def test_the_same_seed_gives_the_same_report():
    assert str(gradcheck(Conv2D(4, 3), LARGE, seed=1)) == str(gradcheck(Conv2D(4, 3), LARGE, seed=1))
