"""The layers: shapes, refusals, what each does in training and in use, and every gradient."""

from __future__ import annotations

import math

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

IMAGE, FLAT = (4, 3, 2), (6,)
EVERY = [
    (Conv2D(3, 2), IMAGE),
    (Conv2D(2, (3, 2), stride=(2, 1), padding="valid", activation="relu"), IMAGE),
    (Conv2D(4, 2, padding=(2, 1), dilation=(1, 2), groups=2, use_bias=False), IMAGE),
    (Conv2D(2, 1, stride=2, activation="gelu", kernel_initializer="glorot"), IMAGE),
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
    (Residual(Conv2D(2, 3), ReLU(), activation="relu"), IMAGE),
    (Residual(BatchNorm(), Conv2D(3, 3, stride=2), projection=Conv2D(3, 1, stride=2), activation="silu"), IMAGE),
    (Residual(Residual(Dropout(0.5)), Tanh()), FLAT),
]
EVERY_LAYER = pytest.mark.parametrize(("layer", "shape"), EVERY, ids=[str(layer) for layer, _ in EVERY])


@pytest.fixture(autouse=True)
def numpy_backend():
    minicnn.use_backend("numpy")
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
    return Sequential([layer], shape).output_shapes[0]


def run(layer, x, training=False, dtype="float64"):
    return Sequential([layer], x.shape[1:], dtype=dtype).forward(np.asarray(x, dtype), training).copy()


# ---------------------------------------------------------------------------------------------------------------
# Every layer


@EVERY_LAYER
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_gradient_is_that_of_the_forward_pass(layer, shape, backend):
    minicnn.use_backend(backend)
    report = gradcheck(again(layer), spaced((2, *shape)))
    assert report.ok, f"\n{report}"
    assert all(check.kinks == 0 for check in report.checks)


@EVERY_LAYER
@pytest.mark.parametrize("training", [True, False])
def test_output_has_the_shape_that_build_announced(layer, shape, training):
    model = Sequential([again(layer)], shape, dtype="float64")
    assert model.forward(spaced((3, *shape)), training).shape == (3, *model.output_shapes[0])


@EVERY_LAYER
def test_backward_needs_a_training_forward_before_it(layer, shape):
    model = Sequential([again(layer)], shape, dtype="float64")
    x = spaced((3, *shape))
    dy = np.ones((3, *model.output_shapes[0]))
    with pytest.raises(RuntimeError, match=f"{model.layers[0].name}: backward needs a forward with training=True"):
        model.backward(dy)
    model.forward(x, training=True)
    model.backward(dy)
    model.forward(x)
    with pytest.raises(RuntimeError, match="backward needs a forward"):
        model.backward(dy)


@EVERY_LAYER
def test_backward_overwrites_gradients(layer, shape):
    model = Sequential([again(layer)], shape, dtype="float64")
    dy = spaced((3, *model.output_shapes[0]), seed=1)
    model.forward(spaced((3, *shape)), training=True)
    model.backward(dy)
    first = model.parameters.grads.copy()
    model.parameters.grads[:] = 7
    model.backward(dy)
    np.testing.assert_array_equal(model.parameters.grads, first)


@EVERY_LAYER
def test_repr_and_config_make_the_layer_again(layer, shape):
    twin = again(layer)
    assert repr(twin) == repr(layer)
    assert repr(twin.config()) == repr(layer.config())
    assert output_shape(twin, shape) == output_shape(again(layer), shape)


@EVERY_LAYER
def test_input_and_upstream_gradient_are_not_changed(layer, shape):
    model = Sequential([again(layer)], shape, dtype="float64")
    x = spaced((3, *shape))
    dy = spaced((3, *model.output_shapes[0]), seed=1)
    kept = x.copy(), dy.copy()
    model.forward(x, training=True)
    model.backward(dy)
    np.testing.assert_array_equal(x, kept[0])
    np.testing.assert_array_equal(dy, kept[1])


@EVERY_LAYER
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_smaller_batch_after_a_larger_one_gives_the_same_numbers(layer, shape, backend):
    minicnn.use_backend(backend)
    model = Sequential([again(layer)], shape, dtype="float64")
    x = spaced((5, *shape))
    whole = model.forward(x).copy()
    np.testing.assert_allclose(model.forward(x[:2]), whole[:2], rtol=1e-13)
    np.testing.assert_allclose(model.forward(x), whole, rtol=1e-13)


@pytest.mark.parametrize("first", [Conv2D(2, 3), DepthwiseConv2D(2), Conv2D(2, 3, activation="tanh")])
def test_the_first_layer_computes_no_dx(first):
    model = Sequential([again(first), Flatten(), Dense(3)], IMAGE, dtype="float64")
    model.forward(spaced((2, *IMAGE)), training=True)
    assert model.backward(np.ones((2, 3))) is None
    assert np.abs(model.layers[0].w.grad).max() > 0
    assert not model.layers[0].needs_dx
    assert all(layer.needs_dx for layer in model.layers[1:])


def test_dense_as_the_first_layer_computes_no_dx():
    model = Sequential([Dense(3)], FLAT, dtype="float64")
    model.forward(spaced((2, *FLAT)), training=True)
    assert model.backward(np.ones((2, 3))) is None


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
    with pytest.raises(ValueError, match=r"maxpool2d_1: padding \(2, 2\) leaves windows of size"):
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
        (lambda: MaxPool2D(0), "size: got 0"),
        (lambda: AveragePool2D(2, stride=0), "stride: got 0"),
        (lambda: MaxPool2D(2, padding="all"), "padding: got 'all'"),
        (lambda: Dropout(1.0), "rate: got 1.0, expected 0 <= rate < 1"),
        (lambda: Dropout(-0.1), "rate: got -0.1"),
        (lambda: BatchNorm(momentum=1.5), "momentum=1.5"),
        (lambda: BatchNorm(epsilon=0), "epsilon=0"),
        (lambda: Sequential([Dense(2, kernel_initializer="xavier")], (3,)), "initializer: got 'xavier', expected"),
        (lambda: Sequential([DepthwiseConv2D(2, kernel_initializer="xavier")], IMAGE), "initializer: got 'xavier'"),
        (lambda: Sequential([]), "layers: expected a list of at least one Layer"),
        (lambda: Sequential([Dense]), "layers: expected a list"),
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


def test_convolution_is_a_dot_product_at_each_place():
    layer = Conv2D(3, (2, 3), padding="valid")
    x = spaced((2, 4, 5, 2))
    y = run(layer, x)
    w, b = layer.w.value, layer.b.value
    for i in range(3):
        for j in range(3):
            expected = np.tensordot(x[:, i : i + 2, j : j + 3], w, 3) + b
            np.testing.assert_allclose(y[:, i, j], expected, rtol=1e-12)


def test_depthwise_is_convolution_with_as_many_groups_as_channels():
    x = spaced((2, 5, 6, 3))
    depthwise, grouped = DepthwiseConv2D(3, stride=2), Conv2D(3, 3, stride=2, groups=3)
    model = Sequential([depthwise], x.shape[1:], dtype="float64")
    twin = Sequential([grouped], x.shape[1:], dtype="float64")
    twin.set_weights([depthwise.w.value.reshape(3, 3, 1, 3), depthwise.b.value])
    np.testing.assert_allclose(model.forward(x), twin.forward(x), rtol=1e-12)


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
    assert np.shares_memory(model.layers[1].mean.value, parameters.states)
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
            self.save(x)
        return x * self.factor.value

    def backward(self, dy):
        (x,) = self.restore()
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
    state = parameters.add_state("s", (3,), 4.0)
    parameters.allocate(np.random.default_rng(0))
    b.value[0, 0], a.value[1] = 5, 6
    assert parameters.values.tolist() == [5, 1, 1, 1, 1, 6]
    assert state.value.tolist() == [4, 4, 4]
    assert parameters.finite()
    state.value[0] = np.nan
    assert not parameters.finite()
