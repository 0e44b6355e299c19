"""The layers: shapes, refusals, what each does in training and in use, every gradient, and the checks between layers."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minicnn
from minicnn import (
    GELU,
    AveragePool2D,
    BatchNorm,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePool2D,
    GlobalMaxPool2D,
    Layer,
    LeakyReLU,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
    gradcheck,
    initializers,
)
from minicnn.errors import ShapeError
from minicnn.parameters import Parameters

IMAGE, FLAT = (
    (4, 3, 4),
    (12,),
)  # nearly all channels here are multiples of 4: for other widths other kernels are compiled
EVERY = [
    (Conv2D(3, 2), IMAGE),
    (Conv2D(4, (3, 2), stride=(2, 1), padding="valid", activation="relu"), IMAGE),
    (Conv2D(4, 2, padding=(2, 1), dilation=(1, 2), groups=2, use_bias=False), IMAGE),
    (Conv2D(4, 1, stride=2, activation="gelu", kernel_initializer="glorot"), IMAGE),
    (DepthwiseConv2D(2), IMAGE),
    (DepthwiseConv2D((2, 3), stride=2, padding=1, dilation=(2, 1), use_bias=False, activation="tanh"), IMAGE),
    (Dense(3), FLAT),
    (Dense(4, use_bias=False, activation="softmax"), FLAT),
    (Flatten(), IMAGE),
    (MaxPool2D(2), IMAGE),
    (MaxPool2D((3, 2), stride=(1, 2), padding="same"), IMAGE),
    (AveragePool2D(2, stride=1), IMAGE),
    (AveragePool2D(3, stride=2, padding=(1, 1)), IMAGE),
    (GlobalAveragePool2D(), IMAGE),
    (GlobalMaxPool2D(), IMAGE),
    (BatchNorm(), IMAGE),
    (BatchNorm(momentum=0.5, epsilon=1e-3, activation="relu"), FLAT),
    (Dropout(0.4), IMAGE),
    (ReLU(), IMAGE),
    (LeakyReLU(0.2), IMAGE),
    (Sigmoid(), FLAT),
    (Tanh(), IMAGE),
    (GELU(), FLAT),
    (SiLU(), IMAGE),
    (Softmax(), FLAT),
    (Residual(Conv2D(4, 3), ReLU(), activation="relu"), IMAGE),
    (Residual(BatchNorm(), Conv2D(3, 3, stride=2), projection=Conv2D(3, 1, stride=2), activation="silu"), IMAGE),
    (Residual(Residual(Dropout(0.5)), Tanh()), FLAT),
]
EVERY_LAYER = pytest.mark.parametrize(("layer", "shape"), EVERY, ids=[str(layer) for layer, _ in EVERY])


BACKENDS = pytest.mark.parametrize("backend", ["numpy", "numba"], indirect=True)


@pytest.fixture(autouse=True)
def backend(request):
    """NumPy, the layers as they are to be read, unless a test asks for both."""
    minicnn.use_backend(getattr(request, "param", "numpy"))
    yield
    minicnn.use_backend("numba")


def again(layer: Layer) -> Layer:
    """A fresh layer with the same arguments, so that no test sees what another did."""
    return eval(repr(layer), vars(minicnn))


def spaced(shape, seed=0):
    """Numbers of both signs, no two alike and none near 0."""
    size = math.prod(shape)
    return ((np.random.default_rng(seed).permutation(size) - size / 2 + 0.3) / size * 4).reshape(shape)


def output_shape(layer, shape):
    return Sequential([layer], shape).output_shape


def run(layer, x, training=False, dtype="float64"):
    return Sequential([layer], x.shape[1:], dtype=dtype).forward(np.asarray(x, dtype), training).copy()


# ---------------------------------------------------------------------------------------------------------------
# Every layer


@EVERY_LAYER
@BACKENDS
def test_gradient_is_that_of_the_forward_pass(layer, shape, backend):
    report = gradcheck(again(layer), spaced((2, *shape)))
    assert report.ok, f"\n{report}"
    assert all(check.kinks == 0 for check in report.checks)


class Watch(Layer):
    """Hands everything on, with a weight so that it is asked for its gradient, and keeps what came back: the next dx."""

    def build(self, input_shape, parameters):
        self.w = parameters.add("w", (1,), initializers.zeros)
        return input_shape

    def forward(self, x, training=False):
        return x

    def backward(self, dy):
        self.w.grad[...] = 0
        self.dx = dy.copy()
        return dy


@EVERY_LAYER
@BACKENDS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_layer_keeps_shape_and_dtype_and_neither_changes_its_input_nor_adds_to_gradients(
    layer, shape, dtype, backend
):
    model = Sequential([Watch(), again(layer)], shape, dtype=dtype)
    x, dy = (spaced((3, *s), seed).astype(dtype) for seed, s in enumerate((shape, model.output_shape)))
    kept = x.copy(), dy.copy()
    for training in (False, True):
        y = model.forward(x, training)
        assert (y.shape, y.dtype) == ((3, *model.output_shape), dtype)
    results = []
    for before in (7, -3):
        model.parameters.grads[:] = before
        model.backward(dy)
        results.append((model.layers[0].dx, model.parameters.grads.copy()))
        assert (model.layers[0].dx.shape, model.layers[0].dx.dtype) == (x.shape, dtype)
    for first, second in zip(*results, strict=True):
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(x, kept[0])
    np.testing.assert_array_equal(dy, kept[1])


@EVERY_LAYER
def test_a_layer_without_a_training_forward_says_so_by_its_name(layer, shape):
    model = Sequential([again(layer)], shape, dtype="float64")
    model.forward(spaced((3, *shape)))
    with pytest.raises(RuntimeError, match=f"^{model.layers[0].name}.*: backward needs a forward with training=True"):
        model.layers[0].backward(np.ones((3, *model.output_shape)))


@EVERY_LAYER
def test_repr_and_config_make_the_layer_again(layer, shape):
    twin = again(layer)
    assert repr(twin) == repr(layer)
    assert repr(twin.config()) == repr(layer.config())
    assert output_shape(twin, shape) == output_shape(again(layer), shape)


@EVERY_LAYER
@BACKENDS
def test_a_smaller_batch_after_a_larger_one_gives_the_same_numbers(layer, shape, backend):
    model = Sequential([again(layer)], shape, dtype="float64")
    x = spaced((5, *shape))
    whole = model.forward(x).copy()
    np.testing.assert_allclose(model.forward(x[:2]), whole[:2], rtol=1e-13)
    np.testing.assert_allclose(model.forward(x), whole, rtol=1e-13)


@BACKENDS
@pytest.mark.parametrize(
    "first", [Conv2D(2, 3), DepthwiseConv2D(2), Conv2D(2, 3, activation="tanh"), Dense(5)], ids=str
)
def test_what_lies_before_the_first_weights_is_never_asked_for_dx(first, backend):
    class Before(Layer):
        def forward(self, x, training=False):
            return x

    flat = isinstance(first, Dense)
    model = Sequential([Before(), again(first), Flatten(), Dense(3)], FLAT if flat else IMAGE, dtype="float64")
    model.forward(spaced((2, *model.input_shape)), training=True)
    model.backward(np.ones((2, 3)))
    assert np.abs(model.layers[1].w.grad).max() > 0
    needs = [step.needs_dx for step in model.steps if hasattr(step, "needs_dx")]
    assert needs == ([False, *[True] * (len(needs) - 1)] if minicnn.engine.backend() == "numba" else [])


def test_a_residual_block_may_stand_first():
    """In a process of its own: when nobody told the block's step that its dx is not needed, it wrote past its memory."""
    code = """
import numpy as np
from minicnn import Conv2D, Dense, Flatten, Residual, Sequential
models = [Sequential([Residual(Conv2D(8, 3))] + more, (40, 40, 8)) for more in ([], [Flatten(), Dense(3)])]
for model in models:
    for _ in range(3):
        model.forward(np.ones((64, 40, 40, 8), "f4"), training=True)
        model.backward(np.ones((64, *model.output_shape), "f4"))
    assert model.parameters.grads.any()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"


# ---------------------------------------------------------------------------------------------------------------
# Shapes


def keras_places(n, k, stride, dilation, padding):
    """Keras' rule for the places of a window along one axis."""
    if padding == "same":
        return math.ceil(n / stride)
    return math.ceil((n - dilation * (k - 1)) / stride)


pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))


@settings(max_examples=60, deadline=None)
@given(pairs, pairs, st.sampled_from(["same", "valid"]), st.data())
def test_convolution_has_keras_shapes(kernel, stride, padding, data):
    dilation = data.draw(pairs if stride == (1, 1) else st.just((1, 1)))  # Keras has one or the other
    least = [d * (k - 1) + 1 if padding == "valid" else 1 for k, d in zip(kernel, dilation, strict=True)]
    h, w = (data.draw(st.integers(n, n + 9)) for n in least)
    expected = tuple(map(keras_places, (h, w), kernel, stride, dilation, (padding, padding)))
    options = dict(stride=stride, padding=padding, dilation=dilation)
    assert output_shape(Conv2D(5, kernel, **options), (h, w, 2)) == (*expected, 5)
    assert output_shape(DepthwiseConv2D(kernel, **options), (h, w, 2)) == (*expected, 2)


@settings(max_examples=40, deadline=None)
@given(pairs, st.one_of(st.none(), pairs), st.sampled_from(["same", "valid"]), st.data())
def test_pooling_has_keras_shapes(size, stride, padding, data):
    h, w = (data.draw(st.integers(n if padding == "valid" else 1, n + 9)) for n in size)
    expected = tuple(map(keras_places, (h, w), size, stride or size, (1, 1), (padding, padding)))
    for layer in (MaxPool2D, AveragePool2D):
        assert output_shape(layer(size, stride, padding), (h, w, 3)) == (*expected, 3)


@settings(max_examples=40, deadline=None)
@given(pairs, pairs, pairs, pairs)
def test_padding_in_pixels_goes_on_both_sides(kernel, stride, dilation, padding):
    h, w = 13, 14
    expected = tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, d, p in zip((h, w), kernel, stride, dilation, padding, strict=True)
    )
    assert output_shape(Conv2D(1, kernel, stride, padding, dilation), (h, w, 1)) == (*expected, 1)


def test_an_int_means_the_same_for_rows_and_columns():
    one = Conv2D(2, 3, stride=2, padding=1, dilation=2)
    two = Conv2D(2, (3, 3), stride=(2, 2), padding=(1, 1), dilation=(2, 2))
    x = spaced((1, 7, 8, 2))
    np.testing.assert_array_equal(run(one, x), run(two, x))


def test_same_puts_the_odd_pixel_behind():
    """[1 2 3 4] under a window of three ones and stride 2: Keras gives 1+2+3 and 3+4."""
    x = np.array([1.0, 2, 3, 4]).reshape(1, 1, 4, 1)
    y = run(Conv2D(1, (1, 3), stride=2, kernel_initializer="ones"), x)
    assert y.ravel().tolist() == [6, 7]


def test_same_average_pool_counts_no_padding():
    x = np.array([1.0, 2, 6]).reshape(1, 1, 3, 1)
    assert run(AveragePool2D((1, 2), stride=1, padding="same"), x).ravel().tolist() == [1.5, 4, 6]


def test_same_max_pool_never_takes_the_padding():
    assert run(MaxPool2D(3, stride=1, padding="same"), np.full((1, 2, 2, 1), -5.0)).ravel().tolist() == [-5] * 4


def test_flat_layers_have_the_obvious_shapes():
    assert output_shape(Flatten(), (4, 5, 6)) == (120,)
    assert output_shape(Dense(7), (120,)) == (7,)
    assert output_shape(GlobalAveragePool2D(), (4, 5, 6)) == output_shape(GlobalMaxPool2D(), (4, 5, 6)) == (6,)


@pytest.mark.parametrize(
    ("layers", "shape", "message"),
    [
        ([Conv2D(1, 3)], (784,), r"conv2d_1: got input shape \(784,\), expected \(h, w, c\)"),
        ([Conv2D(4, 3, groups=2)], (8, 8, 3), r"conv2d_1: got .*\(8, 8, 3\), expected .* multiple of groups=2"),
        ([Conv2D(1, 1), Conv2D(1, 5, padding="valid")], (4, 9, 1), r"conv2d_2: got .*\(4, 9, 1\), .*at least 5x5"),
        ([Conv2D(1, 3, padding=1, dilation=4)], (6, 9, 1), r"conv2d_1: got .*\(6, 9, 1\), .*at least 9x9 pixels after"),
        ([DepthwiseConv2D(3)], (5,), r"depthwiseconv2d_1: got .*\(5,\), expected \(h, w, c\)"),
        ([Conv2D(2, 1), Dense(3)], (4, 4, 1), r"dense_1: got .*\(4, 4, 2\), expected \(c,\): put a Flatten"),
        ([MaxPool2D(3)], (2, 8, 1), r"maxpool2d_1: got .*\(2, 8, 1\), expected at least 3x3"),
        ([Flatten(), AveragePool2D()], (4, 4, 1), r"averagepool2d_1: got .*\(16,\), expected \(h, w, c\)"),
        (
            [GlobalAveragePool2D(), GlobalMaxPool2D()],
            (4, 4, 2),
            r"globalmaxpool2d_1: got .*\(2,\), expected \(h, w, c\)",
        ),
        ([Residual(Conv2D(3, 3))], (4, 4, 2), r"residual_1: .*branch \(4, 4, 3\) and shortcut \(4, 4, 2\)"),
        (
            [Residual(Conv2D(3, 3), projection=Conv2D(3, 1, stride=2))],
            (4, 4, 2),
            r"\(4, 4, 3\) and shortcut \(2, 2, 3\)",
        ),
        ([Residual(Flatten(), Conv2D(3, 3))], (4, 4, 2), r"residual_1/conv2d_2: got .*\(32,\), expected"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_when_the_model_is_built(layers, shape, message):
    with pytest.raises(ShapeError, match=message):
        Sequential(layers, shape)


def test_a_pool_whose_padding_would_leave_an_empty_window_is_refused():
    with pytest.raises(ValueError, match=r"maxpool2d_1: padding \(2, 2\) leaves windows of \(2, 2\) without a pixel"):
        Sequential([MaxPool2D(2, padding=2)], (8, 8, 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Conv2D(0, 3), "filters: got 0"),
        (lambda: Conv2D(2.0, 3), "filters: got 2.0"),
        (lambda: Conv2D(True, 3), "filters: got True"),
        (lambda: Conv2D(3, 0), "kernel_size: got 0"),
        (lambda: Conv2D(3, (3, 3, 3)), r"kernel_size: got \(3, 3, 3\)"),
        (lambda: Conv2D(3, 3, stride=0), "stride: got 0"),
        (lambda: Conv2D(3, 3, stride=1.5), "stride: got 1.5"),
        (lambda: Conv2D(3, 3, dilation=(1, 0)), r"dilation: got \(1, 0\)"),
        (lambda: Conv2D(3, 3, padding="full"), "padding: got 'full', expected \"same\""),
        (lambda: Conv2D(3, 3, padding=-1), "padding: got -1"),
        (lambda: Conv2D(3, 3, padding=None), "padding: got None"),
        (lambda: Conv2D(3, 3, groups=2), "filters: got 3, expected a multiple of groups=2"),
        (lambda: Conv2D(3, 3, activation="relu6"), "activation: got 'relu6', expected None or one of relu"),
        (lambda: DepthwiseConv2D("3"), "kernel_size: got '3'"),
        (lambda: Dense(-1), "units: got -1"),
        (lambda: MaxPool2D(0), "pool_size: got 0"),
        (lambda: AveragePool2D(2, stride=0), "stride: got 0"),
        (lambda: MaxPool2D(2, padding="all"), "padding: got 'all'"),
        (lambda: Dropout(1.0), "rate: got 1.0, expected a finite number, at least 0 and below 1"),
        (lambda: Dropout(-0.1), "rate: got -0.1"),
        (lambda: BatchNorm(momentum=1.5), "momentum: got 1.5, expected a finite number, at least 0 and at most 1"),
        (lambda: BatchNorm(epsilon=0), "epsilon: got 0, expected a finite number, above 0"),
        (lambda: Sequential([Dense(2, kernel_initializer="xavier")], (3,)), "initializer: got 'xavier', expected"),
        (lambda: Sequential([DepthwiseConv2D(2, kernel_initializer="xavier")], IMAGE), "initializer: got 'xavier'"),
        (lambda: Sequential([]), "layers: got .*, expected a list of at least one Layer"),
        (lambda: Sequential([Dense]), "layers: got <class .*Dense.>, expected a list"),
        (lambda: Sequential([Flatten()], dtype="float16"), "dtype: got 'float16'"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_one_layer_object_cannot_stand_in_two_places():
    shared = Conv2D(2, 3)
    for layers in ([shared, shared], [shared, Residual(shared)]):
        with pytest.raises(ValueError, match="one layer object stands in two places"):
            Sequential(layers, IMAGE)


# ---------------------------------------------------------------------------------------------------------------
# What the layers do


BENDS = {
    "relu": ReLU,
    "leaky_relu": LeakyReLU,
    "sigmoid": Sigmoid,
    "tanh": Tanh,
    "gelu": GELU,
    "silu": SiLU,
    "softmax": Softmax,
}


@pytest.mark.parametrize("name", BENDS)
@pytest.mark.parametrize(
    "make", [lambda a: Conv2D(3, 2, activation=a), lambda a: Dense(3, activation=a), lambda a: BatchNorm(activation=a)]
)
def test_an_activation_by_name_is_the_layer_behind(make, name):
    shape = FLAT if isinstance(make(None), Dense) else IMAGE
    one = Sequential([Tanh(), make(name)], shape, dtype="float64")
    two = Sequential([Tanh(), make(None), BENDS[name]()], shape, dtype="float64")
    x = spaced((3, *shape))
    np.testing.assert_allclose(one.forward(x), two.forward(x), rtol=1e-12)
    y = one.forward(x, training=True)
    np.testing.assert_allclose(y, two.forward(x, training=True), rtol=1e-12)
    for model in (one, two):
        model.backward(spaced(y.shape, seed=1))
    np.testing.assert_allclose(one.parameters.grads, two.parameters.grads, rtol=1e-9, atol=1e-12)


def test_batch_norm_in_training_takes_the_batchs_statistics():
    x = 5 + 3 * spaced((4, 3, 2, 2))
    y = run(BatchNorm(epsilon=1e-12), x, training=True)
    np.testing.assert_allclose(y.mean(axis=(0, 1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(y.var(axis=(0, 1, 2)), 1, rtol=1e-9)


def test_batch_norm_running_statistics_by_hand():
    layer = BatchNorm(momentum=0.75)
    model = Sequential([layer], (2, 3, 2), dtype="float64")
    mean, variance = np.zeros(2), np.ones(2)
    for seed in range(3):
        x = 2 + spaced((5, 2, 3, 2), seed)
        model.forward(x, training=True)
        mean = 0.75 * mean + 0.25 * x.mean(axis=(0, 1, 2))
        variance = 0.75 * variance + 0.25 * x.var(axis=(0, 1, 2), ddof=1)  # unbiased, as in PyTorch
    np.testing.assert_allclose(layer.mean.value, mean, rtol=1e-12)
    np.testing.assert_allclose(layer.variance.value, variance, rtol=1e-12)


def test_batch_norm_in_use_takes_the_running_statistics_and_leaves_them():
    layer = BatchNorm(epsilon=0.01)
    model = Sequential([layer], (2,), dtype="float64")
    gamma, beta, mean, variance = np.array([[2, 3], [0.5, -1], [10, 20], [4, 9]], float)
    model.set_weights([gamma, beta, mean, variance])
    x = spaced((3, 2))
    np.testing.assert_allclose(model.forward(x), gamma * (x - mean) / np.sqrt(variance + 0.01) + beta, rtol=1e-12)
    assert layer.mean.value.tolist() == [10, 20]
    assert layer.variance.value.tolist() == [4, 9]


def test_batch_norm_of_a_single_number_stays_finite():
    layer = BatchNorm()
    assert run(layer, np.full((1, 2), 7.0), training=True).tolist() == [[0, 0]]
    assert np.isfinite(layer.variance.value).all()


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.9])
def test_dropout_drops_its_rate_and_keeps_the_mean(rate):
    y = run(Dropout(rate), np.ones((100, 1000)), training=True)
    assert (y == 0).mean() == pytest.approx(rate, abs=0.01)
    assert y[y > 0] == pytest.approx(1 / (1 - rate))


def test_dropout_in_use_is_the_identity():
    x = spaced((3, 6))
    np.testing.assert_array_equal(run(Dropout(0.9), x), x)


def test_dropout_drops_in_backward_what_it_dropped_in_forward():
    model = Sequential([Dropout(0.5)], (50,), dtype="float64")
    x = np.ones((4, 50))
    for _ in range(2):
        y = model.forward(x, training=True).copy()
        np.testing.assert_array_equal(model.layers[0].backward(x), y)


def masks(seed, layers=1, calls=2):
    model = Sequential([Dropout(0.5) for _ in range(layers)], (200,), seed=seed)
    x = np.ones((2, 200), np.float32)
    return [layer.forward(x, training=True) != 0 for _ in range(calls) for layer in model.layers]


def test_dropout_masks_follow_the_models_seed():
    assert np.array_equal(masks(seed=3), masks(seed=3))
    assert not np.array_equal(masks(seed=3), masks(seed=4))


def test_dropout_masks_differ_from_layer_to_layer_and_from_step_to_step():
    drawn = masks(seed=0, layers=2, calls=2)
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert (one == other).mean() == pytest.approx(0.5, abs=0.15)


def test_residual_adds_its_input_to_the_branch():
    x = spaced((2, 4))
    branch = Dense(4)
    expected = x + x @ np.eye(4) * 3
    model = Sequential([Residual(branch)], (4,), dtype="float64")
    model.set_weights([3 * np.eye(4), np.zeros(4)])
    np.testing.assert_allclose(model.forward(x), expected, rtol=1e-12)


def test_residual_adds_the_projection_where_there_is_one():
    x = spaced((2, 4))
    model = Sequential(
        [Residual(Dense(2), projection=Dense(2, use_bias=False), activation="relu")], (4,), dtype="float64"
    )
    w, b, p = model.get_weights()
    np.testing.assert_allclose(model.forward(x), np.maximum(x @ w + b + x @ p, 0), rtol=1e-12)


def test_inner_layers_of_blocks_have_names_of_their_own():
    blocks = [Residual(Dense(4), Residual(Dense(4)), projection=Dense(4)) for _ in range(2)]
    for block in blocks:
        gradcheck(block, spaced((2, 4)))
    model = Sequential(blocks, (4,))
    names = [layer.name for layer in model.all_layers()]
    assert len(set(names)) == len(names)
    assert {name.split("/")[0] for name in names} == {"residual_1", "residual_2"}


# ---------------------------------------------------------------------------------------------------------------
# Weights and their first values


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (Conv2D(8, (5, 3)), (9, 9, 4), [(5, 3, 4, 8), (8,)]),
        (Conv2D(8, 3, groups=2, use_bias=False), (9, 9, 4), [(3, 3, 2, 8)]),
        (DepthwiseConv2D((5, 3)), (9, 9, 4), [(5, 3, 4, 1), (4,)]),
        (Dense(8), (5,), [(5, 8), (8,)]),
        (BatchNorm(), (9, 9, 4), [(4,), (4,), (4,), (4,)]),
        (
            Residual(Conv2D(4, 3), projection=Conv2D(4, 1, use_bias=False)),
            (9, 9, 4),
            [(3, 3, 4, 4), (4,), (1, 1, 4, 4)],
        ),
        (MaxPool2D(), (9, 9, 4), []),
    ],
)
def test_weights_have_keras_order_and_shapes(layer, shape, expected):
    assert [w.shape for w in Sequential([layer], shape).get_weights()] == expected


def test_batch_norm_lists_gamma_beta_mean_variance():
    model = Sequential([Conv2D(2, 1), BatchNorm(), Flatten(), Dense(3)], IMAGE)
    arrays = ["conv2d_1/w", "conv2d_1/b", *(f"batchnorm_1/{k}" for k in ("gamma", "beta", "mean", "variance"))]
    assert list(model.arrays()) == [*arrays, "dense_1/w", "dense_1/b"]
    assert [w.tolist() for w in model.get_weights()[2:6]] == [[1, 1], [0, 0], [0, 0], [1, 1]]


def test_weights_are_views_of_the_flat_vectors_with_the_decayed_ones_first():
    model = Sequential([Conv2D(3, 2), BatchNorm(), Flatten(), Dense(4)], IMAGE)
    parameters = model.parameters
    kernels = [model.layers[0].w, model.layers[3].w]
    assert parameters.decayed == sum(w.value.size for w in kernels)
    for w in kernels:
        assert np.shares_memory(w.value, parameters.values[: parameters.decayed])
    for w in [model.layers[0].b, model.layers[1].gamma, model.layers[1].beta, model.layers[3].b]:
        assert np.shares_memory(w.value, parameters.values[parameters.decayed :])
        assert np.shares_memory(w.grad, parameters.grads)
    assert np.shares_memory(model.layers[1].mean.value, parameters.statistics)
    assert model.parameter_count == sum(p.value.size for p in parameters.parameters)


@pytest.mark.parametrize("shape", [(400, 300), (3, 3, 100, 200)])
def test_initialisers_have_the_variance_they_promise(shape):
    rng = np.random.default_rng(0)
    window = math.prod(shape[:-2])
    fan_in, fan_out = window * shape[-2], window * shape[-1]
    he, glorot = initializers.he(shape, rng), initializers.glorot(shape, rng)
    assert he.mean() == pytest.approx(0, abs=0.001)
    assert he.var() == pytest.approx(2 / fan_in, rel=0.02)
    assert glorot.var() == pytest.approx(2 / (fan_in + fan_out), rel=0.02)
    assert np.abs(glorot).max() <= math.sqrt(6 / (fan_in + fan_out))


@pytest.mark.parametrize("shape", [(50, 20), (20, 50), (3, 3, 4, 8)])
def test_the_orthogonal_initialiser_gives_orthonormal_columns_or_rows(shape):
    w = initializers.orthogonal(shape, np.random.default_rng(0)).reshape(-1, shape[-1])
    product = w.T @ w if len(w) >= shape[-1] else w @ w.T
    np.testing.assert_allclose(product, np.eye(len(product)), atol=1e-12)


def test_layers_know_how_many_inputs_an_output_sees():
    layers = [
        (Conv2D(256, 3, groups=4), (5, 5, 64), 2 / (9 * 16)),
        (DepthwiseConv2D(5), (5, 5, 512), 2 / 25),
        (Dense(300), (400,), 2 / 700),
        (Dense(300, kernel_initializer="he"), (400,), 2 / 400),
    ]
    for layer, shape, variance in layers:
        w, b = Sequential([layer], shape).get_weights()
        assert w.var() == pytest.approx(variance, rel=0.05)
        assert not b.any()


def test_an_initialiser_may_be_a_function():
    layer = Dense(3, kernel_initializer=lambda shape, rng: np.full(shape, 0.5))
    assert (Sequential([layer], (4,)).get_weights()[0] == 0.5).all()


def test_the_seed_decides_the_first_weights():
    weights = [Sequential([Dense(30)], (40,), seed=seed).get_weights()[0] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


# ---------------------------------------------------------------------------------------------------------------
# The model's table, and layers of one's own


def test_summary_counts_parameters_macs_and_memory(capsys):
    layers = [Conv2D(8, 3, stride=2), BatchNorm(), Residual(DepthwiseConv2D(3)), MaxPool2D(), Flatten(), Dense(10)]
    model = Sequential(layers, (28, 28, 1))
    macs = 14 * 14 * 9 * 8 + 14 * 14 * 9 * 8 + 7 * 7 * 8 * 10
    parameters = (9 * 8 + 8) + 2 * 8 + (9 * 8 + 8) + (7 * 7 * 8 * 10 + 10)
    assert (model.macs, model.parameter_count) == (macs, parameters)
    model.summary()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:8]] == [layer.name for layer in model.layers]
    assert "(14, 14, 8)" in lines[2]
    assert lines[2].endswith("6.1 KiB")  # 14 * 14 * 8 numbers of 4 bytes
    assert f"{parameters + 16:,}" in lines[-2]
    assert f"{macs:,}" in lines[-2]
    assert lines[-1] == f"{parameters:,} learnt, 16 running statistics; input (28, 28, 1)"


class Scale(Layer):
    """One factor for each channel, from a starting value."""

    def __init__(self, start: float = 1.0):
        self.start = start

    def build(self, input_shape, parameters):
        self.factor = parameters.add("factor", input_shape[-1:], lambda shape, rng: np.full(shape, self.start))
        return input_shape

    def forward(self, x, training=False):
        if training:
            self.save_for_backward(x)
        return x * self.factor.value

    def backward(self, dy):
        (x,) = self.saved
        self.factor.grad[...] = (dy * x).reshape(-1, x.shape[-1]).sum(axis=0)
        return dy * self.factor.value


def test_a_layer_of_ones_own_works_among_the_others():
    assert gradcheck(Scale(2.0), spaced((2, 3, 3, 2))).ok
    model = Sequential([Conv2D(2, 3), Scale(2.0), Flatten(), Dense(3)], IMAGE, dtype="float64")
    assert model.layers[1].name == "scale_1"
    assert model.get_weights()[2].tolist() == [2, 2]
    assert gradcheck(model, spaced((2, *IMAGE))).ok


def test_a_layer_that_hides_its_weights_is_refused():
    class Hides(Scale):
        def build(self, input_shape, parameters):
            super().build(input_shape, parameters)
            self.several = [parameters.add("other", (2,), initializers.zeros)]
            return input_shape

    with pytest.raises(ValueError, match="each weight to be an attribute of its layer"):
        Sequential([Hides()], IMAGE)


def test_parameters_by_themselves_hand_out_views():
    parameters = Parameters("float64")
    a, b = parameters.add("a", (2,), initializers.ones), parameters.add("b", (2, 2), initializers.ones)
    statistic = parameters.add_statistic("s", (3,), 4.0)
    parameters.allocate(np.random.default_rng(0))
    b.value[0, 0], a.value[1] = 5, 6
    assert parameters.values.tolist() == [5, 1, 1, 1, 1, 6]
    assert statistic.value.tolist() == [4, 4, 4]
    assert parameters.finite()
    statistic.value[0] = np.nan
    assert not parameters.finite()


# ---------------------------------------------------------------------------------------------------------------
# Between layers: what does not fit is refused by the name of the layer that made it


class Breaks(Layer):
    """Hands everything on, but for what `forward`, `predict` and `backward` make of it in the methods of that name."""

    def __init__(self, **breaks):
        self.breaks = breaks

    def config(self):
        return self.breaks

    def forward(self, x, training=False):
        return self.breaks.get("forward" if training else "predict", lambda x: x)(x)

    def backward(self, dy):
        return self.breaks.get("backward", lambda dy: dy)(dy)


WRONG = {
    "fewer channels": (lambda a: a[..., :1].copy(), r"float32 of shape \(6, .*1\), expected float32 of shape \(6, "),
    "more images": (lambda a: np.concatenate([a, a]), r"float32 of shape \(12, .*, expected float32 of shape \(6, "),
    "flat": (lambda a: a.reshape(len(a), -1)[:, :-1].copy(), r"float32 of shape \(6, \d+\), expected float32 of shape"),
    "a number": (lambda a: a.sum(), r"float32, expected an array of shape \(6, "),
    "float64": (lambda a: a.astype("float64"), r"float64 of shape \(6, .*, expected float32 of shape"),
    "integers": (lambda a: a.astype("int32"), r"int32 of shape \(6, .*, expected float32 of shape"),
    "None": (lambda a: None, r"NoneType, expected an array of shape \(6, "),
    "a masked array": (lambda a: np.ma.masked_less(a, 0), r"MaskedArray, expected an array of shape \(6, "),
    "a list": (lambda a: a.tolist(), r"list, expected an array of shape \(6, "),
}


def between(breaks, inside):
    """(model, name of the layer that breaks): it stands between layers that learn, of themselves or in a block."""
    middle = Breaks(**breaks)
    block = Residual(Conv2D(3, 3), middle, DepthwiseConv2D(3)) if inside else middle
    model = Sequential([Conv2D(3, 3), BatchNorm(), block, Conv2D(3, 3), Flatten(), Dense(4)], (6, 5, 2))
    return model, "residual_1/breaks_2" if inside else "breaks_1"


def never_called(model, breaking, method, monkeypatch):
    """From here on it is an error if the step that would get the wrong array runs."""

    def parts(steps):
        yield steps
        for step in steps:
            for part in (getattr(step, "branch", []), getattr(step, "shortcut", [])):
                yield from parts(part)

    [steps] = [part for part in parts(model.steps) if any(step.title == breaking for step in part)]
    at = [step.title for step in steps].index(breaking)
    reader = steps[at + 1 if method == "forward" else at - 1]
    monkeypatch.setattr(reader, method, lambda *_: pytest.fail(f"{reader.title} got what does not fit"))


@BACKENDS
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a block"])
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("method", ["forward", "predict", "backward"])
def test_a_layers_wrong_result_is_refused_by_its_name_before_the_next_one_sees_it(
    method, wrong, inside, backend, monkeypatch
):
    make, message = WRONG[wrong]
    model, name = between({method: make}, inside)
    called = "backward" if method == "backward" else "forward"
    never_called(model, name, called, monkeypatch)
    x, y = spaced((6, 6, 5, 2)).astype("float32"), np.arange(6) % 4
    with pytest.raises(ShapeError, match=f"^{name}: {called} returned {message}"):
        if method == "predict":
            model.predict(x)
        else:
            model.fit(x, y, epochs=1, batch_size=6, verbose=False)


@BACKENDS
@pytest.mark.parametrize("wrong", ["fewer channels", "float64", "None"])
@pytest.mark.parametrize("method", ["forward", "backward"])
def test_a_profile_too_refuses_a_wrong_result_before_the_next_layer_sees_it(method, wrong, backend, monkeypatch):
    model, name = between({method: WRONG[wrong][0]}, inside=False)
    never_called(model, name, method, monkeypatch)
    with pytest.raises(ShapeError, match=f"^{name}: {method} returned {WRONG[wrong][1]}"):
        model.profile(spaced((6, 6, 5, 2)).astype("float32"), np.arange(6) % 4, steps=1)


@BACKENDS
def test_what_is_right_but_lies_otherwise_in_memory_is_taken(backend):
    views = {
        "forward": lambda x: np.asfortranarray(x),
        "predict": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
        "backward": lambda dy: np.asfortranarray(dy),
    }
    (model, _), (plain, _) = between(views, inside=False), between({}, inside=False)
    x = spaced((6, 6, 5, 2)).astype("float32")
    assert model.forward(x).tobytes() == plain.forward(x).tobytes()
    for one in (model, plain):
        one.backward(np.ones_like(one.forward(x, training=True)))
    np.testing.assert_allclose(model.parameters.grads, plain.parameters.grads, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("built", [None, 4, [4], (4, 0), (4, 2.5), (4, None)], ids=str)
def test_a_build_that_returns_no_shape_is_refused_by_its_name(built):
    class Built(Layer):
        def build(self, input_shape, parameters):
            return built

    for layers, name in (([Flatten(), Built()], "built_1"), ([Residual(Tanh(), Built())], "residual_1/built_2")):
        with pytest.raises(ShapeError, match=f"^{name}: build returned .*, expected the output's shape, such as"):
            Sequential(layers, IMAGE)


@BACKENDS
@pytest.mark.parametrize(
    ("layers", "shape", "x", "got"),
    [
        ([Dense(3)], (20,), np.zeros((2, 40), "f4"), r"float32 of shape \(2, 40\)"),
        ([Dense(3)], (20,), np.zeros((2, 100_000), "f4"), r"float32 of shape \(2, 100000\)"),
        ([Dense(3)], (20,), np.zeros((2, 10), "f4"), r"float32 of shape \(2, 10\)"),
        ([Dense(3)], (20,), np.zeros(20, "f4"), r"float32 of shape \(20,\)"),
        ([Dense(3)], (20,), np.zeros((2, 20)), r"float64 of shape \(2, 20\)"),
        ([Dense(3)], (20,), np.zeros((2, 20), "uint8"), r"uint8 of shape \(2, 20\)"),
        ([Dense(3)], (20,), [[0.0] * 20], "list"),
        (
            [Conv2D(4, 3), GlobalMaxPool2D()],
            (8, 8, 1),
            np.zeros((2, 9, 8, 1), "f4"),
            r"float32 of shape \(2, 9, 8, 1\)",
        ),
        (
            [Conv2D(4, 3), GlobalMaxPool2D()],
            (8, 8, 1),
            np.zeros((2, 4, 4, 1), "f4"),
            r"float32 of shape \(2, 4, 4, 1\)",
        ),
        (
            [Conv2D(4, 3), GlobalMaxPool2D()],
            (8, 8, 1),
            np.zeros((2, 8, 8, 3), "f4"),
            r"float32 of shape \(2, 8, 8, 3\)",
        ),
        ([Conv2D(4, 3), GlobalMaxPool2D()], (8, 8, 1), np.zeros((2, 8, 8), "f4"), r"float32 of shape \(2, 8, 8\)"),
        ([Conv2D(4, 3), GlobalMaxPool2D()], (8, 8, 1), np.zeros((8, 8, 1), "f4"), r"float32 of shape \(8, 8, 1\)"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_a_network_refuses_an_input_of_another_shape_or_dtype(layers, shape, x, got, backend):
    model = Sequential([again(layer) for layer in layers], shape)
    expected = ", ".join(map(str, shape)) + ",?"
    for training in (False, True):
        with pytest.raises(ShapeError, match=rf"^forward: got {got}, expected float32 of shape \(n, {expected}\)"):
            model.forward(x, training)
    with pytest.raises(RuntimeError, match="needs a forward with training=True"):
        model.backward(np.zeros((2, *model.output_shape), "f4"))


@BACKENDS
@EVERY_LAYER
def test_backward_needs_a_training_forward_just_before_it(layer, shape, backend):
    model = Sequential([Watch(), again(layer)], shape)
    x, dy = spaced((3, *shape)).astype("float32"), np.ones((3, *model.output_shape), "float32")

    def refused():
        with pytest.raises(RuntimeError, match=r"^backward: needs a forward with training=True just before it$"):
            model.backward(dy)

    refused()
    model.forward(x)
    refused()
    model.forward(x, training=True)
    model.backward(dy)
    model.forward(x, training=True)
    model.forward(x)
    refused()
    model.forward(x, training=True)
    with pytest.raises(ShapeError):
        model.forward(x.astype("float64"), training=True)
    model.forward(x, training=True)
    model.predict(x[:1])
    refused()


@BACKENDS
def test_backward_after_a_forward_that_ended_in_an_error_is_refused(backend):
    model, _ = between({"forward": lambda x: None}, inside=False)
    with pytest.raises(ShapeError):
        model.forward(spaced((6, 6, 5, 2)).astype("float32"), training=True)
    with pytest.raises(RuntimeError, match="needs a forward with training=True"):
        model.backward(np.ones((6, 4), "float32"))


@BACKENDS
@pytest.mark.parametrize(
    "dy",
    [
        np.ones((6, 3), "f4"),
        np.ones((5, 4), "f4"),
        np.ones((12, 4), "f4"),
        np.ones(6, "f4"),
        np.ones((6, 4)),
        np.float32(1),
        None,
        [[1.0] * 4] * 6,
    ],
    ids=lambda dy: f"{getattr(dy, 'dtype', type(dy).__name__)} {getattr(dy, 'shape', '')}",
)
def test_backward_refuses_a_dy_of_another_shape_or_dtype(dy, backend):
    model, _ = between({}, inside=False)
    model.forward(spaced((6, 6, 5, 2)).astype("float32"), training=True)
    model.parameters.grads[:] = 7
    with pytest.raises(ShapeError, match=r"expected .*of shape \(6, 4\)"):
        model.backward(dy)
    assert (model.parameters.grads == 7).all()


def test_a_constructor_argument_that_is_no_attribute_is_told_with_what_to_write():
    class Forgetful(Layer):
        def __init__(self, rate, times=2):
            self.times = times

    with pytest.raises(TypeError, match=r"^Forgetful: no attribute 'rate', expected self.rate = rate in __init__$"):
        Forgetful(0.5).config()


# ---------------------------------------------------------------------------------------------------------------
# One network used in unusual ways


def ones(n, *shape):
    return np.ones((n, *shape), np.float32)


@BACKENDS
def test_no_image_between_two_batches_changes_nothing(backend):
    model = Sequential([Conv2D(64, 3), Flatten(), Dense(2)], (4, 4, 64))
    x = np.random.default_rng(0).standard_normal((3, 4, 4, 64)).astype(np.float32)
    expected = model.forward(x).copy()
    assert model.forward(x[:0]).shape == (0, 2)
    np.testing.assert_array_equal(model.forward(x), expected)


@BACKENDS
def test_weights_that_are_changed_in_place_count_at_once(backend):
    model = Sequential([Conv2D(64, 3, use_bias=False), Flatten(), Dense(2)], (4, 4, 64))
    model.forward(ones(1, 4, 4, 64))
    model.layers[0].w.value[...] = 0
    assert (model.forward(ones(1, 4, 4, 64)) == 0).all()


def test_a_backward_pass_does_not_cross_a_change_of_the_backend():
    minicnn.use_backend("numba")
    model = Sequential([Dense(2)], (3,))
    model.forward(ones(1, 3), training=True)
    minicnn.use_backend("numpy")
    with pytest.raises(RuntimeError, match="backward: needs a forward with training=True just before it"):
        model.steps, model.backward(ones(1, 2))


class Careless(Layer):
    """A user's own layer that makes rows of what it gets, and does not put the shape back."""

    def forward(self, x, training=False):
        x.shape = len(x), -1
        return (2 * x).reshape(len(x), *self.output_shape)

    backward = forward


@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")
@BACKENDS
def test_a_layer_may_change_the_shape_of_what_it_gets(backend):
    model, found = Sequential([Conv2D(2, 3), Careless(), MaxPool2D(), Flatten(), Dense(2)], IMAGE), []
    for _ in range(2):
        found.append([model.forward(ones(5, *IMAGE), training).copy() for training in (False, True)])
        model.backward(ones(5, 2))
        found[-1].append(model.parameters.grads.copy())
    for first, second in zip(*found, strict=True):
        np.testing.assert_array_equal(first, second)


@BACKENDS
def test_an_output_may_be_fed_back_in(backend):
    model = Sequential([DepthwiseConv2D(3), Tanh()], (5, 5, 2), seed=1)
    x = np.random.default_rng(0).standard_normal((2, 5, 5, 2)).astype(np.float32)
    for training in (False, True):
        expected = model.forward(model.forward(x, training).copy(), training).copy()
        np.testing.assert_array_equal(model.forward(model.forward(x, training), training), expected)


def test_a_layer_without_weights_belongs_to_one_model_too():
    relu = ReLU()
    Sequential([relu], (3,))
    with pytest.raises(ValueError, match="belongs to another model"):
        Sequential([relu], (3,))


@BACKENDS
@pytest.mark.parametrize("layer", [BatchNorm, GlobalAveragePool2D])
def test_a_count_beyond_16_bits_keeps_float32_which_numpy_1_would_not(layer, backend):
    model = Sequential([layer()], (257, 257, 1))
    model.backward(np.ones_like(model.forward(ones(1, 257, 257, 1), training=True)))
    assert model.layers[0].forward(ones(1, 257, 257, 1), training=True).dtype == np.float32
    assert model.layers[0].backward(ones(1, *model.output_shape)).dtype == np.float32


@BACKENDS
@pytest.mark.parametrize("make", [lambda v: Dropout(v), lambda v: LeakyReLU(v), lambda v: BatchNorm(v, epsilon=v)])
def test_arguments_may_be_numbers_of_numpy(make, backend):
    model = Sequential([make(np.float64(0.5))], (3,))
    assert model.forward(ones(4, 3), training=True).dtype == np.float32


def test_what_is_no_list_of_layers_or_no_shape_is_refused():
    for layers, shape in ((Dense(2), (3,)), ([Dense(2)], 3), ([Dense(2)], (0,)), ([Dense(2)], ("3",))):
        with pytest.raises(ValueError, match="expected"):
            Sequential(layers, shape)
