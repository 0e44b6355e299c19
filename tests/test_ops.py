"""The same operations three times: plain loops (naive.py), NumPy to be read (reference), Numba to run (kernels).

One family of tests runs over all of them. GIVEN says how to draw what an operation is called with; the arguments of a
backward pass follow from its forward pass, because a gradient is named after what it belongs to. `call` gives all that
an operation returns and writes, and sees to it that nothing else was touched.

A kernel is compiled for each dtype, vector width, layout and permission to write that it meets, in seconds. So float32
runs on read-only arrays and many channels, float64 on few channels and any order of memory, two threads on neither.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import subprocess
import sys

import naive
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numba import config

from minicnn import ops
from minicnn.ops import kernels, reference
from minicnn.ops.kernels import lanes

BACKWARD = [name for name in ops.OPERATIONS if name.endswith("_backward")]
FUSED = [name for name in ops.OPERATIONS if "relu" in inspect.signature(getattr(reference, name)).parameters]
VERSIONS = pytest.mark.parametrize("version", [reference, kernels], ids=["reference", "kernels"])
SPREAD = ["conv2d", "depthwise_conv2d", "dense", "max_pool2d", "average_pool2d", "global_average_pool2d",
          "global_max_pool2d", "relu", "leaky_relu", "sigmoid", "tanh", "softmax", "scale_shift", "add"]  # fmt: skip
OFFERED = dict(max_pool2d=[0, 1], global_max_pool2d=[0, 1], softmax_cross_entropy=[1])  # which results `out` is for
LAYOUTS = ["C", "Fortran", "channels first", "reversed", "strided"]

FEW = [(1, 1), (1, 3), (3, 1), (3, 6), (6, 3)]  # (channels, filters) of a group: vectors of one width
MANY = [*FEW, (1, 16), (64, 64), (3, 130), (300, 130)]  # every width, and more channels than a block of weights
BATCHES = st.sampled_from([2, 1, 3, 19, 0])


def quick(examples):
    return settings(deadline=None, derandomize=True, database=None, max_examples=examples)


# ---------------------------------------------------------------------------------------------------------------
# Numbers and shapes


def normal(rng, shape):
    return rng.standard_normal(shape)


def whole(rng, shape):
    """Small whole numbers: their sums are exact, and many are equal."""
    return rng.integers(-2, 3, shape).astype(float)


def spaced(rng, shape):
    """Numbers from -2 to 2 that lie apart from each other and from 0, so that no step over a kink is taken."""
    size = int(np.prod(shape))
    return (rng.permutation(size).reshape(shape) - size / 2 + 0.3) * 4 / max(size, 1)


def pairs(least, most):
    return st.tuples(st.integers(least, most), st.integers(least, most))


def window_arguments(draw, dilations=1, empty=True):
    """An image's size and the windows over it; where `empty`, some may lie wholly in the padding."""
    size, stride, dilation = draw(pairs(1, 4)), draw(pairs(1, 4)), draw(pairs(1, dilations))
    padding = tuple(draw(pairs(0, 5 if empty else k - 1)) for k in size)
    spans = [d * (k - 1) + 1 for k, d in zip(size, dilation, strict=True)]
    least = [max(1, span - sum(p)) for span, p in zip(spans, padding, strict=True)]
    image = tuple(draw(st.integers(k, k + 4)) for k in least)
    return image, dict(size=size, stride=stride, padding=padding, dilation=dilation)


def conv2d(draw, numbers, channels):
    image, windows = window_arguments(draw, dilations=3)
    (c, f), n = draw(st.sampled_from(channels)), draw(BATCHES)
    groups = draw(st.integers(1, 3)) if c * f < 100 else 1
    size = windows.pop("size")
    x, w, b = numbers(n, *image, groups * c), numbers(*size, c, groups * f), numbers(groups * f)
    return dict(x=x, w=w, b=draw(st.sampled_from([b, None])), groups=groups, relu=draw(st.booleans()), **windows)


def depthwise_conv2d(draw, numbers, channels):
    image, windows = window_arguments(draw, dilations=3)
    (c, _), n = draw(st.sampled_from(channels)), draw(BATCHES)
    x, w, b = numbers(n, *image, c), numbers(*windows.pop("size"), c), numbers(c)
    return dict(x=x, w=w, b=draw(st.sampled_from([b, None])), relu=draw(st.booleans()), **windows)


def dense(draw, numbers, channels):
    (c, f), n = draw(st.sampled_from(channels)), draw(BATCHES)
    b = draw(st.sampled_from([numbers(f), None]))
    return dict(x=numbers(n, c), w=numbers(c, f), b=b, relu=draw(st.booleans()))


def pool(draw, numbers, channels, empty=True):
    image, windows = window_arguments(draw, empty=empty)
    del windows["dilation"]
    if draw(st.booleans()):
        windows["stride"] = windows["size"]
    return dict(x=numbers(draw(BATCHES), *image, draw(st.sampled_from(channels))[0]), **windows)


def average_pool2d(draw, numbers, channels):
    return pool(draw, numbers, channels, empty=False)


def whole_image(draw, numbers, channels):
    return dict(x=numbers(draw(BATCHES), *draw(pairs(1, 6)), draw(st.sampled_from(channels))[0]))


def any_shape(draw, numbers, channels):
    shape = *draw(st.lists(st.integers(0, 5), max_size=3)), draw(st.sampled_from(channels))[0]
    return dict(x=numbers(*shape))


def leaky_relu(draw, numbers, channels):
    return any_shape(draw, numbers, channels) | dict(slope=draw(st.sampled_from([0.01, 0.3, 0.0])))


def dropout(draw, numbers, channels):
    rate, key = st.sampled_from([0.0, 0.25, 0.5, 0.9]), st.integers(0, 2**64 - 1)
    return any_shape(draw, numbers, channels) | dict(rate=draw(rate), key=draw(key))


def add(draw, numbers, channels):
    a = any_shape(draw, numbers, channels)["x"]
    return dict(a=a, b=numbers(*a.shape), relu=draw(st.booleans()))


def batch_norm(draw, numbers, channels):
    shape = *draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)), draw(st.sampled_from(channels))[0]
    c, epsilon = shape[-1], draw(st.sampled_from([1e-3, 1e-2]))
    return dict(x=numbers(*shape), gamma=numbers(c), beta=numbers(c), epsilon=epsilon, relu=draw(st.booleans()))


def scale_shift(draw, numbers, channels):
    x = any_shape(draw, numbers, channels)["x"]
    return dict(x=x, scale=numbers(x.shape[-1]), shift=numbers(x.shape[-1]), relu=draw(st.booleans()))


def make_batch(draw, numbers, channels):
    count, n, (h, w) = draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(pairs(1, 6))
    c = draw(st.sampled_from([1, 3]))
    images = numbers(count, h, w, c)
    dtype = images.dtype
    if dtype == np.float32 and draw(st.booleans()):
        images = (100 + 10 * images).astype(np.uint8)
    index = np.array(draw(st.lists(st.integers(0, count - 1), min_size=n, max_size=n)), np.int64)
    moved = np.eye(2, 3) + numbers(n, 2, 3).astype(float) * draw(st.sampled_from([0.0, 0.5, 100.0]))
    edges = st.tuples(*(st.integers(0, most + 2) for most in (h, h, w, w)))
    holes = np.array(draw(st.lists(edges, min_size=n, max_size=n)), np.int64)
    arguments = dict(images=images, index=index, scale=numbers(c), shift=numbers(c), dtype=dtype)
    return arguments | dict(matrix=draw(st.sampled_from([moved, None])), holes=draw(st.sampled_from([holes, None])))


def softmax_cross_entropy(draw, numbers, channels):
    n, classes = draw(st.integers(1, 6)), draw(st.integers(2, 12))
    targets = np.abs(numbers(n, classes)) + 1
    targets /= targets.sum(axis=1, keepdims=True)
    return dict(logits=numbers(n, classes), targets=targets, weights=np.abs(numbers(n)) + 1)


def sum_of_squares(draw, numbers, channels):
    return dict(g=numbers(draw(st.sampled_from([0, 1, 63, 64, 1000, 8192, 20000]))))


def step(draw, numbers, **more):
    """What the optimizers' steps share, and a vector for each of `more`."""
    size = draw(st.integers(0, 70))
    rates = dict(rate=0.1, decay=draw(st.sampled_from([0.0, 0.3])), clip=draw(st.sampled_from([1.0, 0.5])))
    state = {name: np.abs(numbers(size)) for name in more.pop("state")}
    return dict(w=numbers(size), dw=numbers(size), **state, **rates, **more)


def sgd_step(draw, numbers, channels):
    momentum, nesterov = draw(st.sampled_from([0.0, 0.9])), draw(st.booleans())
    return step(draw, numbers, state=["velocity"], momentum=momentum, nesterov=nesterov)


def rmsprop_step(draw, numbers, channels):
    return step(draw, numbers, state=["square"], rho=0.9, epsilon=1e-3)


def adam_step(draw, numbers, channels):
    count = draw(st.sampled_from([1, 2, 1000]))
    return step(draw, numbers, state=["mean", "square"], beta1=0.9, beta2=0.99, epsilon=1e-3, step=count)


GIVEN = dict(
    conv2d=conv2d, depthwise_conv2d=depthwise_conv2d, dense=dense, max_pool2d=pool, average_pool2d=average_pool2d,
    global_average_pool2d=whole_image, global_max_pool2d=whole_image, batch_norm=batch_norm, scale_shift=scale_shift,
    relu=any_shape, leaky_relu=leaky_relu, sigmoid=any_shape, tanh=any_shape, gelu=any_shape, silu=any_shape,
    softmax=any_shape, dropout=dropout, add=add, make_batch=make_batch, softmax_cross_entropy=softmax_cross_entropy,
    sum_of_squares=sum_of_squares, sgd_step=sgd_step, rmsprop_step=rmsprop_step, adam_step=adam_step,
)  # fmt: skip


@st.composite
def arguments(draw, name, dtype=np.float64, channels=FEW, kinds=(normal, whole)):
    """What to call an operation with, by the names of its parameters."""
    rng, kind = np.random.default_rng(draw(st.integers(0, 2**32 - 1))), draw(st.sampled_from(kinds))

    def numbers(*shape):
        return kind(rng, shape).astype(dtype)

    forward = name.removesuffix("_backward")
    drawn = GIVEN[forward](draw, numbers, channels)
    return drawn if forward == name else backward_arguments(name, drawn, numbers)


def backward_arguments(name, drawn, numbers):
    """What to call a backward pass with, after a forward pass that was called with `drawn`."""
    forward = name.removesuffix("_backward")
    known = drawn | dict(zip(result_names(forward), call(reference, forward, drawn), strict=True))
    known |= {"d" + k: np.full_like(v, np.nan) for k, v in drawn.items() if isinstance(v, np.ndarray)}
    known |= {"x_shape": drawn["x"].shape, "dy": numbers(*known["y"].shape)}
    if drawn.get("b") is None:
        known["db"] = None
    return {k: known[k] for k in inspect.signature(getattr(reference, name)).parameters if k in known}


# ---------------------------------------------------------------------------------------------------------------
# Calling and comparing


def result_names(forward):
    pools = ("y", "where")
    return dict(max_pool2d=pools, global_max_pool2d=pools, batch_norm=("y", "mean", "var")).get(forward, ("y",))


def written(name):
    """The parameters that an operation writes to."""
    return {"w", "velocity", "mean", "square"} if name.endswith("_step") else {"dw", "db", "dgamma", "dbeta"}


def laid_out(array, layout, read_only=False):
    """A copy of the array in another order of memory; tables of indices (int64) are always contiguous."""
    layout = "C" if array.dtype == np.int64 else layout
    array = np.array(array, order="F" if layout == "Fortran" else "C")
    if layout == "channels first" and array.ndim > 1:
        array = np.moveaxis(np.moveaxis(array, -1, 0).copy(), 0, -1)
    elif layout == "reversed":
        array = np.flip(np.flip(array).copy())
    elif layout == "strided":
        array = np.repeat(array, 2, axis=-1)[..., ::2]
    array.flags.writeable = not read_only
    return array


def call(version, name, drawn, layout="C", read_only=False, **more):
    """All that an operation returns and writes, called with copies of what was drawn, which it must not modify."""
    writable = written(name) | {"b", "holes"}  # may be None, for which a kernel makes a writable array
    copies = {
        k: laid_out(v, layout, read_only and k not in writable) if isinstance(v, np.ndarray) else v
        for k, v in drawn.items()
    }
    returned = getattr(version, name)(**copies, **more)
    results = list(returned) if isinstance(returned, tuple) else [returned]
    for k, v in copies.items():
        if k in written(name):
            results.append(v)
        elif isinstance(v, np.ndarray):
            np.testing.assert_array_equal(v, drawn[k], err_msg=f"{name} modified {k}")
    return [v for v in results if v is not None]


def assert_close(got, expected, dtype):
    """Equal but for rounding: within 256 units in the last place, in dtype, of the largest number."""
    assert len(got) == len(expected)
    for g, e in zip(got, expected, strict=True):
        g, e = np.asarray(g), np.asarray(e)
        assert (g.shape, g.dtype) == (e.shape, e.dtype)
        largest = np.abs(e[np.isfinite(e)]).max(initial=1)
        exact = g.dtype.kind != "f"
        np.testing.assert_allclose(g, e, rtol=0, atol=0 if exact else 256 * np.finfo(dtype).eps * largest)


def assert_same(got, expected):
    """The same numbers, to the last bit but for the sign of zero."""
    assert [np.asarray(v).dtype for v in got] == [np.asarray(v).dtype for v in expected]
    for g, e in zip(got, expected, strict=True):
        np.testing.assert_array_equal(g, e)


def assert_same_bits(got, expected):
    assert [np.asarray(v).tobytes() for v in got] == [np.asarray(v).tobytes() for v in expected]


@contextlib.contextmanager
def using_threads(n):
    before = ops.get_threads()
    ops.set_threads(min(n, config.NUMBA_NUM_THREADS))
    try:
        yield
    finally:
        ops.set_threads(before)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Unless a test says otherwise: arrays as small as these are computed before a second thread has woken up."""
    with using_threads(1):
        yield


# ---------------------------------------------------------------------------------------------------------------
# The three agree


@pytest.mark.parametrize("name", ops.OPERATIONS)
def test_every_version_has_the_same_parameters_and_defaults(name):
    of_reference, *others = (
        [(p.name, p.kind, p.default) for p in inspect.signature(getattr(version, name)).parameters.values()]
        for version in (reference, kernels, naive)
    )
    assert others == [of_reference, of_reference]


@pytest.mark.parametrize("name", ops.OPERATIONS)
@given(data=st.data())
@quick(25)
def test_reference_agrees_with_naive(name, data):
    drawn = data.draw(arguments(name))
    assert_close(call(reference, name, drawn), call(naive, name, drawn), np.float64)


@pytest.mark.parametrize("name", ops.OPERATIONS)
@given(data=st.data())
@quick(25)
def test_kernels_agree_with_reference_on_many_channels_and_read_only_input(name, data):
    drawn = data.draw(arguments(name, np.float32, MANY))
    assert_close(call(kernels, name, drawn, read_only=True), call(reference, name, drawn), np.float32)


@pytest.mark.parametrize("name", ops.OPERATIONS)
@given(data=st.data())
@quick(25)
def test_kernels_agree_with_reference_in_any_order_of_memory(name, data):
    drawn = data.draw(arguments(name, np.float64))
    layout = data.draw(st.sampled_from(["C", "reversed"] if name == "make_batch" else LAYOUTS))
    assert_close(call(kernels, name, drawn, layout), call(reference, name, drawn), np.float64)


def test_kernels_agree_with_reference_on_more_images_and_weights_than_tasks_have_room_for():
    rng = np.random.default_rng(0)
    windows = dict(stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1), groups=1)
    x, w = (rng.standard_normal(shape, np.float32) for shape in [(19, 5, 5, 130), (3, 3, 130, 130)])
    drawn = dict(x=x, w=w, b=None, **windows)
    backward = backward_arguments("conv2d_backward", drawn, lambda *shape: rng.standard_normal(shape, np.float32))
    for name, arguments in ("conv2d", drawn), ("conv2d_backward", backward):
        assert_close(call(kernels, name, arguments, read_only=True), call(reference, name, arguments), np.float32)


@pytest.mark.parametrize("halves", [1, 3, 5, 7])
def test_a_first_layers_weights_and_bias_for_any_number_of_half_vectors(halves):
    f = halves * lanes.best_block(np.float32).shape[1] // 2
    rng = np.random.default_rng(0)
    x, dy, w = (rng.standard_normal(s, np.float32) for s in [(19, 6, 5, 2), (19, 6, 5, f), (3, 3, 2, f)])
    found = []
    for module in kernels, reference:
        dw, db = np.empty_like(w), np.empty(f, np.float32)
        plain = (1, 1), ((1, 1), (1, 1)), (1, 1), 1
        assert module.conv2d_backward(dy, x, w, dy, dw, db, *plain, relu=True, need_dx=False) is None
        found.append((dw, db))
    for got, expected in zip(*found, strict=True):
        assert_close(got, expected, np.float32)


@pytest.mark.parametrize("name", ops.OPERATIONS)
@given(data=st.data())
@quick(15)
def test_neither_threads_nor_read_only_input_nor_offered_memory_change_a_bit(name, data):
    drawn = data.draw(arguments(name, np.float32))
    expected = call(kernels, name, drawn, read_only=True)
    with using_threads(2):
        assert_same_bits(call(kernels, name, drawn), expected)
    if "out" in inspect.signature(getattr(kernels, name)).parameters:
        offered = [np.full_like(v, 77) if isinstance(v, np.ndarray) else None for v in expected]
        mine = OFFERED.get(name, [0])
        out = tuple(offered[k] for k in mine) if len(mine) > 1 else offered[mine[0]]
        got = call(kernels, name, drawn, read_only=True, out=out)
        assert_same_bits(got, expected)
        assert [k for k, (g, o) in enumerate(zip(got, offered, strict=True)) if g is o] == mine


@VERSIONS
@pytest.mark.parametrize("name", ["conv2d_backward", "depthwise_conv2d_backward", "dense_backward"])
@given(data=st.data())
@quick(15)
def test_without_need_dx_backward_writes_the_same_and_returns_none(version, name, data):
    drawn = data.draw(arguments(name, np.float32))
    _, *expected = call(version, name, drawn, read_only=True)
    assert_same_bits(call(version, name, drawn, read_only=True, need_dx=False), expected)


@VERSIONS
@pytest.mark.parametrize("name", [name for name in FUSED if name not in BACKWARD])
@given(data=st.data())
@quick(15)
def test_fused_relu_is_relu_of_the_result(version, name, data):
    drawn = data.draw(arguments(name))
    y, *others = call(version, name, drawn | {"relu": False})
    assert_same(call(version, name, drawn | {"relu": True}), [np.maximum(y, 0), *others])


@VERSIONS
@pytest.mark.parametrize("name", [name for name in FUSED if name in BACKWARD])
@given(data=st.data())
@quick(15)
def test_fused_relu_shuts_the_gate_where_the_result_is_not_positive(version, name, data):
    drawn = data.draw(arguments(name))
    gated = drawn | {"dy": drawn["dy"] * (drawn["y"] > 0), "relu": False, "y": None}
    assert_same(call(version, name, drawn | {"relu": True}), call(version, name, gated))


@VERSIONS
@pytest.mark.parametrize("name", ["conv2d", "depthwise_conv2d", "dense"])
@given(data=st.data())
@quick(15)
def test_no_bias_is_a_bias_of_zeros(version, name, data):
    drawn = data.draw(arguments(name))
    drawn["b"] = np.zeros(drawn["w"].shape[-1])
    assert_same(call(version, name, drawn | {"b": None}), call(version, name, drawn))
    name += "_backward"
    backward = backward_arguments(name, drawn, lambda *shape: np.ones(shape))
    assert_same(call(version, name, backward | {"db": None}), call(version, name, backward)[:-1])


@pytest.mark.parametrize("name", SPREAD)
@given(data=st.data())
@quick(25)
def test_nan_and_infinity_spread_alike(name, data):
    drawn = data.draw(arguments(name))
    x = drawn["a" if name == "add" else "x"].reshape(-1)
    if x.size:
        for place in data.draw(st.lists(st.integers(0, x.size - 1), max_size=4)):
            x[place] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    with np.errstate(all="ignore"):
        expected = call(reference, name, drawn)
        assert_close(call(kernels, name, drawn), expected, np.float64)
        if name != "softmax":  # which has no plain meaning there
            assert_close(call(naive, name, drawn), expected, np.float64)


# ---------------------------------------------------------------------------------------------------------------
# Gradients: every backward pass against the slope of its forward pass


def assert_slope(gradient, function, x, step=1e-5):
    """The gradient of the scalar function(), which reads x, agrees with central differences at up to 25 places of x."""
    assert gradient.shape == x.shape
    for place in np.random.default_rng(0).permutation(x.size)[:25]:
        at = np.unravel_index(place, x.shape)
        before = x[at]
        x[at] = before + step
        above = function()
        x[at] = before - step
        slope = (above - function()) / (2 * step)
        x[at] = before
        assert abs(gradient[at] - slope) <= 1e-6 * max(1, abs(slope)), (at, gradient[at], slope)


@VERSIONS
@pytest.mark.parametrize("name", BACKWARD)
@given(data=st.data())
@quick(15)
def test_backward_is_the_slope_of_forward(version, name, data):
    forward = name.removesuffix("_backward")
    drawn = data.draw(arguments(forward, kinds=[spaced]))
    if drawn.get("relu"):  # stay away from its kink
        assume(np.abs(call(reference, forward, drawn | {"relu": False})[0]).min(initial=1) > 1e-3)
    rng = np.random.default_rng(0)
    backward = backward_arguments(name, drawn, lambda *shape: rng.standard_normal(shape))

    def loss():
        y = getattr(version, forward)(**drawn)
        y = y[0] if isinstance(y, tuple) else y
        return (y * backward["dy"])[np.isfinite(y)].sum()  # a maximum of no pixels is -inf

    written_to = [k for k in backward if k in written(name) and backward[k] is not None]
    for k, gradient in zip(["dx", *written_to], call(version, name, backward), strict=True):
        assert_slope(gradient, loss, drawn[k[1:]])


@VERSIONS
@given(arguments("softmax_cross_entropy", kinds=[spaced]))
@quick(15)
def test_cross_entropy_returns_its_slope(version, drawn):
    _, dlogits = version.softmax_cross_entropy(**drawn)
    assert_slope(dlogits, lambda: version.softmax_cross_entropy(**drawn)[0], drawn["logits"])


@VERSIONS
@given(arguments("dropout", kinds=[spaced]))
@quick(15)
def test_dropout_with_the_same_key_is_its_own_backward(version, drawn):
    dy = np.random.default_rng(0).standard_normal(drawn["x"].shape)
    dx = version.dropout(**drawn | {"x": dy})
    assert_slope(dx, lambda: (version.dropout(**drawn) * dy).sum(), drawn["x"])


# ---------------------------------------------------------------------------------------------------------------
# Edges


@pytest.mark.parametrize("version", [reference, kernels, naive], ids=["reference", "kernels", "naive"])
def test_a_window_without_a_pixel_gives_nothing_back(version):
    x, windows = np.ones((1, 1, 1, 1)), ((1, 1), (1, 1), ((1, 2), (1, 2)))
    y, where = version.max_pool2d(x, *windows)
    dx = version.max_pool2d_backward(np.ones_like(y), where, x.shape, *windows)
    assert y.max() == 1 and np.isneginf(y).sum() == 15 and dx.item() == 1
    with np.errstate(all="ignore"):
        y = version.average_pool2d(x, *windows)
        dx = version.average_pool2d_backward(np.ones_like(y), x.shape, *windows)
    assert np.isnan(y).sum() == 15 and dx.item() == 1


@VERSIONS
def test_padding_never_wins_even_over_minus_infinity(version):
    x, windows = np.full((1, 2, 2, 1), -np.inf), ((2, 2), (2, 2), ((1, 1), (1, 1)))
    y, where = version.max_pool2d(x, *windows)
    dx = version.max_pool2d_backward(np.ones_like(y), where, x.shape, *windows)
    np.testing.assert_array_equal(dx, np.ones_like(x))


@pytest.mark.parametrize("size, dtype", [(16, np.uint8), (17, np.int32)])
@VERSIONS
def test_where_is_wide_enough_for_the_last_place_of_a_window(version, size, dtype):
    x = np.arange(size * size, dtype=float).reshape(1, size, size, 1)
    y, where = version.max_pool2d(x, (size, size), (1, 1), ((0, 0), (0, 0)))
    assert (y.item(), where.item(), where.dtype) == (size * size - 1, size * size - 1, dtype)


@pytest.mark.parametrize("shape, dtype", [((3, 2), np.float32), ((3, 3), np.float32), ((2, 3), np.float64)])
def test_memory_that_does_not_fit_is_left_alone(shape, dtype):
    x, out = np.ones((2, 3), np.float32), np.full(shape, 7, dtype)
    np.testing.assert_array_equal(kernels.relu(x, out=out), x)
    assert (out == 7).all()


def test_dropout_drops_its_rate_and_keeps_the_mean():
    y = reference.dropout(np.ones(100_000), 0.3, 5)
    assert abs((y == 0).mean() - 0.3) < 0.01 and abs(y.mean() - 1) < 0.01


def test_use_backend_says_which_arithmetic_runs():
    assert ops.backend() == "numba" and ops.conv2d is kernels.conv2d
    try:
        ops.use_backend("numpy")
        assert ops.backend() == "numpy" and ops.conv2d is reference.conv2d
    finally:
        ops.use_backend("numba")
    with pytest.raises(ValueError, match=r"backend: got 'torch', expected \"numba\" or \"numpy\""):
        ops.use_backend("torch")


@pytest.mark.parametrize("n", [0, -1, 10_000, 1.5, "2"])
def test_set_threads_refuses_what_is_no_number_of_threads(n):
    with pytest.raises(ValueError, match="threads: got"):
        ops.set_threads(n)


def test_kernels_can_be_stepped_through_as_plain_python():
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    chosen = ["-k", "any_order_of_memory and (conv2d or dense or max_pool2d or batch_norm)"]
    done = subprocess.run(run + chosen, env=os.environ | {"NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
