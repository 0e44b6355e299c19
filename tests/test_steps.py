"""The same layers three times: plain loops (naive.py), NumPy to be read (minicnn/layers), and the engine's steps.

DRAWN says how to draw a layer of each type and the shape of its input; `passes` gives all that a forward and a backward
pass compute, and sees to it that nothing else was touched. One family of tests then runs over all types, and over whole
networks, where the engine runs several layers as one.

A kernel is compiled for each dtype and vector width that it meets, in seconds. So float32 runs on many channels, and
float64 on few channels, in any order of memory.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import config

import minicnn
from minicnn import engine, gradcheck, initializers, inputs, layers, losses, optimizers
from minicnn.engine import calls, lanes, normalization
from minicnn.engine.compile import STEPS, backward, compile, forward
from minicnn.engine.lanes import best_block
from minicnn.engine.step import Step
from minicnn.engine.widened import Widened
from minicnn.errors import ShapeError
from minicnn.layers import (
    BatchNorm,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    Layer,
    MaxPool2D,
    ReLU,
    Residual,
    sequence,
)
from minicnn.layers.activations import BY_NAME, SiLU
from minicnn.network import Network
from minicnn.parameters import Parameters

FEW = [(1, 1), (1, 3), (3, 1), (3, 6), (6, 3)]  # (channels, filters) of a group: vectors of one width
MANY = [*FEW, (1, 16), (64, 64), (3, 130), (300, 130)]  # every width, and more channels than a block of weights
BATCHES = [2, 1, 3, 19, 0]
LAYOUTS = ["C", "Fortran", "channels first", "reversed", "strided", "read-only"]


def quick(examples):
    return settings(deadline=None, derandomize=True, database=None, max_examples=examples)


# ---------------------------------------------------------------------------------------------------------------
# Numbers and layers


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


def image_and_padding(draw, size, padding, dilation=(1, 1)):
    """An image's rows and columns, at most four more than a window needs, and the padding."""
    padding = draw(st.sampled_from(["same", "valid", padding]))
    spans = [d * (k - 1) + 1 for k, d in zip(size, dilation, strict=True)]
    around = {"same": spans, "valid": (0, 0)}.get(padding, padding)
    sides = [max(1, span - 2 * p) for span, p in zip(spans, around, strict=True)]
    return tuple(draw(st.integers(side, side + 4)) for side in sides), padding


def activation(draw):
    return draw(st.sampled_from([None, "relu", "relu", "relu", *BY_NAME]))


def convolution(draw):
    size, dilation = draw(pairs(1, 4)), draw(pairs(1, 3))
    image, padding = image_and_padding(draw, size, draw(pairs(0, 5)), dilation)
    windows = dict(kernel_size=size, stride=draw(pairs(1, 4)), padding=padding, dilation=dilation)
    return image, windows | dict(use_bias=draw(st.booleans()), activation=activation(draw))


def conv2d(draw, channels):
    (image, arguments), (c, f) = convolution(draw), draw(st.sampled_from(channels))
    groups = draw(st.integers(1, 3)) if c * f < 100 else 1
    return Conv2D(groups * f, groups=groups, **arguments), (*image, groups * c)


def depthwise_conv2d(draw, channels):
    image, arguments = convolution(draw)
    return DepthwiseConv2D(**arguments), (*image, draw(st.sampled_from(channels))[0])


def dense(draw, channels):
    c, f = draw(st.sampled_from(channels))
    return Dense(f, use_bias=draw(st.booleans()), activation=activation(draw)), (c,)


def batch_norm(draw, channels):
    epsilon, momentum = draw(st.sampled_from([1e-3, 1e-2])), draw(st.sampled_from([0.9, 0.0, 1.0]))
    return BatchNorm(momentum, epsilon, activation(draw)), any_shape(draw, channels)


def residual(draw, channels):
    (c, f), stride = draw(st.sampled_from(channels)), draw(st.integers(1, 2))
    projection = Conv2D(f, 1, stride, use_bias=False) if stride > 1 or f != c else None
    branch = [Conv2D(f, 3, stride, activation=activation(draw)), BatchNorm(epsilon=1e-2), Dropout(0.2)]
    block = Residual(*branch[: draw(st.integers(1, 3))], projection=projection, activation=activation(draw))
    return block, (*draw(pairs(2, 5)), c)


def pool(draw, channels, kind):
    size, stride = draw(pairs(1, 4)), draw(st.one_of(st.none(), pairs(1, 4)))
    image, padding = image_and_padding(draw, size, tuple(draw(st.integers(0, k - 1)) for k in size))
    return kind(size, stride, padding), (*image, draw(st.sampled_from(channels))[0])


def whole_image(draw, channels, kind):
    return kind(), (*draw(pairs(1, 6)), draw(st.sampled_from(channels))[0])


def any_shape(draw, channels):
    return (*draw(st.lists(st.integers(1, 5), max_size=2)), draw(st.sampled_from(channels))[0])


def number_by_number(draw, channels, kind):
    return kind(), any_shape(draw, channels)


def leaky_relu(draw, channels):
    return layers.LeakyReLU(draw(st.sampled_from([0.01, 0.3, 0.0]))), any_shape(draw, channels)


def dropout(draw, channels):
    return Dropout(draw(st.sampled_from([0.0, 0.25, 0.5, 0.9]))), any_shape(draw, channels)


def of(drawn, kind):
    return lambda draw, channels: drawn(draw, channels, kind)


ACTIVATIONS = [ReLU, layers.Sigmoid, layers.Tanh, layers.GELU, SiLU, layers.Softmax]
DRAWN = {
    **{Conv2D: conv2d, DepthwiseConv2D: depthwise_conv2d, Dense: dense, BatchNorm: batch_norm, Residual: residual},
    **{Dropout: dropout, layers.LeakyReLU: leaky_relu},
    **{kind: of(number_by_number, kind) for kind in (Flatten, *ACTIVATIONS)},
    **{kind: of(pool, kind) for kind in (MaxPool2D, layers.AveragePool2D)},
    **{kind: of(whole_image, kind) for kind in (layers.GlobalMaxPool2D, layers.GlobalAveragePool2D)},
}


@st.composite
def networks_of(draw, kind, dtype=np.float64, channels=FEW, kinds=(normal, whole), batches=BATCHES):
    """A network of one layer of this type, and x and dy for it."""
    return fill(draw, *DRAWN[kind](draw, channels), dtype, kinds, batches)


def fill(draw, layer, shape, dtype=np.float64, kinds=(normal,), batches=BATCHES):
    """A network of the layer, or of several, with numbers in all its arrays, and x and dy for it."""
    rng, kind, n = (
        np.random.default_rng(draw(st.integers(0, 2**32 - 1))),
        *map(draw, map(st.sampled_from, (kinds, batches))),
    )
    network = Network([layer] if isinstance(layer, Layer) else layer, shape, dtype=np.dtype(dtype).name)
    network.parameters.values[...] = kind(rng, network.parameters.values.shape)
    norms = [one for one in network.all_layers() if isinstance(one, BatchNorm)]
    for norm in norms:
        for w in norm.weights():
            w.value[...] = rng.standard_normal(w.shape)
        norm.variance.value[...] = np.abs(norm.variance.value) + 0.5
    n = max(n, 1) if norms else n
    return network, *(kind(rng, (n, *s)).astype(dtype) for s in (shape, network.output_shape))


# ---------------------------------------------------------------------------------------------------------------
# Running and comparing


def engine_steps(network):
    """The engine's steps for a network's layers, or for one layer; the first one too computes dx."""
    steps = compile([network] if isinstance(network, Layer) else network.layers)
    for step in steps:
        step.needs_dx = True
    return steps


def start_again(network):
    """Let dropout draw the same masks again."""
    for layer in network.all_layers():
        layer.restore({name: 0 for name in layer.state()})


def passes(network, steps, x, dy):
    """What the steps compute: y in training, y in use, dx, and each weight's gradient and each running statistic."""
    parameters, before, copies = network.parameters, network.parameters.state(), (x.copy(), dy.copy())
    parameters.grads[...] = np.nan
    start_again(network)
    y = forward(steps, x, True).copy()
    dx = backward(steps, dy).copy()
    found = [p.grad.copy() for p in parameters.parameters] + [s.value.copy() for s in parameters.all_statistics]
    parameters.statistics[...] = before["statistics"]
    in_use = forward(steps, x, False).copy()
    for given_to, was in zip((x, dy, *parameters.state().values()), (*copies, *before.values()), strict=True):
        np.testing.assert_array_equal(given_to, was, err_msg=f"{network.layers} modified what it was given")
    return [y, in_use, dx, *found]


def laid_out(array, layout):
    """A copy of the array in another order of memory."""
    array = np.array(array, order="F" if layout == "Fortran" else "C")
    if layout == "channels first" and array.ndim > 1:
        array = np.moveaxis(np.moveaxis(array, -1, 0).copy(), 0, -1)
    elif layout == "reversed":
        array = np.flip(np.flip(array).copy())
    elif layout == "strided":
        array = np.repeat(array, 2, axis=-1)[..., ::2]
    array.flags.writeable = layout != "read-only"
    return array


def assert_close(got, expected, dtype, units=1024):
    """Equal but for rounding: within 1,024 units in the last place, in dtype, of the largest number."""
    assert len(got) == len(expected)
    for g, e in zip(got, expected, strict=True):
        g, e = np.asarray(g), np.asarray(e)
        assert (g.shape, g.dtype) == (e.shape, e.dtype)
        largest = np.abs(e[np.isfinite(e)]).max(initial=1)
        exact = g.dtype.kind != "f"
        np.testing.assert_allclose(g, e, rtol=0, atol=0 if exact else units * np.finfo(dtype).eps * largest)


def assert_same(got, expected):
    """The same numbers, to the last bit but for the sign of zero."""
    assert [np.asarray(v).dtype for v in got] == [np.asarray(v).dtype for v in expected]
    for g, e in zip(got, expected, strict=True):
        np.testing.assert_array_equal(g, e)


def assert_same_bits(got, expected):
    assert [np.asarray(v).tobytes() for v in got] == [np.asarray(v).tobytes() for v in expected]


@contextlib.contextmanager
def using_threads(n):
    before = minicnn.get_threads()
    minicnn.set_threads(min(n, config.NUMBA_NUM_THREADS))
    try:
        yield
    finally:
        minicnn.set_threads(before)


@contextlib.contextmanager
def using_backend(name):
    minicnn.use_backend(name)
    try:
        yield
    finally:
        minicnn.use_backend("numba")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Unless a test says otherwise: arrays as small as these are computed before a second thread has woken up."""
    with using_threads(1):
        yield


def name_of(kind):
    return kind.__name__


KINDS = pytest.mark.parametrize("kind", DRAWN, ids=name_of)
STEPPED = pytest.mark.parametrize("kind", STEPS, ids=name_of)  # those that the engine has a step for
BACKENDS = pytest.mark.parametrize("backend", ["numpy", "numba"])


# ---------------------------------------------------------------------------------------------------------------
# Layers agree with plain loops


PLAIN = {  # a function of naive.py, its backward pass having the name + "_backward", and what it takes after x and weights
    Conv2D: ("conv2d", lambda layer, x: (layer.window, layer.groups)),
    DepthwiseConv2D: ("depthwise_conv2d", lambda layer, x: (layer.window,)),
    Dense: ("dense", lambda layer, x: ()),
    BatchNorm: ("batch_norm", lambda layer, x: (*naive.moments(x), layer.epsilon)),
    Dropout: ("dropout", lambda layer, x: (layer.rate, *layer.saved)),
    MaxPool2D: ("max_pool2d", lambda layer, x: (layer.window,)),
    layers.AveragePool2D: ("average_pool2d", lambda layer, x: (layer.window,)),
    layers.GlobalMaxPool2D: ("global_max_pool2d", lambda layer, x: ()),
    layers.GlobalAveragePool2D: ("global_average_pool2d", lambda layer, x: ()),
    layers.LeakyReLU: ("each", lambda layer, x: (naive.leaky_relu, layer.negative_slope)),
    ReLU: ("each", lambda layer, x: (naive.relu,)),
    layers.Sigmoid: ("each", lambda layer, x: (naive.sigmoid,)),
    layers.Tanh: ("each", lambda layer, x: (naive.tanh,)),
    layers.GELU: ("each", lambda layer, x: (naive.gelu,)),
    layers.SiLU: ("each", lambda layer, x: (naive.silu,)),
    layers.Softmax: ("softmax", lambda layer, x: ()),
}
PLAIN_KINDS = pytest.mark.parametrize("kind", PLAIN, ids=name_of)


def plain(layer, x, dy):
    """y, dx and the weights' gradients by naive.py, for a layer that has just run forward on x."""
    name, more = PLAIN[type(layer)]
    learnt = [w.value for w in layer.weights()[:2]]
    arguments = *learnt, *([None] if getattr(layer, "use_bias", True) is False else []), *more(layer, x)
    y = getattr(naive, name)(x, *arguments)
    if getattr(layer, "activation", None):
        y, dy = plain(layer.activate, y, dy)
    return [y, *getattr(naive, f"{name}_backward")(dy, x, *arguments)[: 1 + len(learnt)]]


def test_every_layer_is_drawn_and_has_plain_loops_and_a_step():
    kinds = {getattr(layers, name) for name in layers.__all__} - {Layer}
    assert set(DRAWN) == kinds
    assert set(PLAIN) == kinds - {Flatten, Residual}  # gradcheck and test_layers.py see to these
    assert set(STEPS) == kinds - {Flatten, layers.Softmax}


@PLAIN_KINDS
@given(data=st.data())
@quick(25)
def test_a_layer_agrees_with_plain_loops(kind, data):
    network, x, dy = data.draw(networks_of(kind, batches=[2, 1, 3, 0]))
    y, _, dx, *more = passes(network, network.layers, x, dy)
    gradients = more[: len(network.parameters.parameters)]
    assert_close([y, dx, *gradients], plain(network.layers[0], x, dy), np.float64)


# ---------------------------------------------------------------------------------------------------------------
# Steps agree with layers


@STEPPED
@given(data=st.data())
@quick(50)
def test_a_step_agrees_with_its_layer_in_any_order_of_memory(kind, data):
    network, *given_to = data.draw(networks_of(kind))
    x, dy = (laid_out(array, data.draw(st.sampled_from(LAYOUTS))) for array in given_to)
    assert_close(passes(network, engine_steps(network), x, dy), passes(network, network.layers, x, dy), np.float64)


@STEPPED
@given(data=st.data())
@quick(25)
def test_a_step_agrees_with_its_layer_in_float32_on_many_channels(kind, data):
    network, x, dy = data.draw(networks_of(kind, np.float32, FEW if kind is Residual else MANY))
    steps = engine_steps(network)
    assert_alike(network, steps, x, dy)


def assert_alike(network, steps, x, dy):
    """The steps agree with the layers in float32, but for whether rounding opens a last ReLU, where dy is 0 then."""
    y, expected = (passes(network, run, x, dy)[0] for run in (steps, network.layers))
    dy[(y > 0) != (expected > 0)] = 0
    assert_close(passes(network, steps, x, dy), passes(network, network.layers, x, dy), np.float32)


def test_convolution_agrees_on_more_images_and_weights_than_tasks_have_room_for():
    network = Network([Conv2D(130, 3, use_bias=False)], (4, 4, 130))
    x, dy = np.random.default_rng(0).standard_normal((2, 19, 4, 4, 130), np.float32)
    assert_alike(network, engine_steps(network), x, dy)


@pytest.mark.parametrize(("halves", "groups"), [(1, 1), (3, 1), (5, 1), (7, 1), (2, 2)])
def test_a_first_layers_weights_and_bias_for_any_number_of_half_vectors(halves, groups):
    f, rng = halves * lanes.best_block(np.float32).shape[1] // 2, np.random.default_rng(0)
    network = Network([Conv2D(f, 3, groups=groups, activation="relu")], (6, 5, 2))
    x, dy = (rng.standard_normal(shape, np.float32) for shape in [(19, 6, 5, 2), (19, 6, 5, f)])
    *_, dw, db = passes(network, network.layers, x, dy)
    network.forward(x, True)
    network.backward(dy)
    assert_close([w.grad for w in network.parameters.parameters], [dw, db], np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("kernel", "channels", "options"),
    [
        (5, 40, dict(stride=2)),  # more taps than a block of dw has rows, and half a vector of channels left over
        ((4, 3), 33, dict(dilation=2, activation="relu")),
        (3, 1, dict(stride=(1, 3), dilation=(2, 1), padding="valid")),
        (1, 64, dict(stride=2, padding=1)),  # dx that no window meets
        (3, 64, dict(activation="relu")),  # windows side by side, of which the last few are taken twice
        (3, 33, dict(padding=4)),  # windows that meet no pixel at all
        (3, 40, dict(padding=(0, 3), activation="relu")),
    ],
)
def test_depthwise_agrees_for_any_number_of_taps_and_channels(kernel, channels, options, dtype):
    rng = np.random.default_rng(6)
    network = Network([DepthwiseConv2D(kernel, **options)], (11, 13, channels), dtype=dtype)
    x, dy = (whole(rng, (19, *shape)).astype(dtype) for shape in (network.input_shape, network.output_shape))
    network.parameters.values[...] = whole(rng, network.parameters.values.shape)
    assert_same(passes(network, engine_steps(network), x, dy), passes(network, network.layers, x, dy))


@STEPPED
@given(data=st.data())
@quick(15)
def test_the_number_of_threads_changes_no_bit(kind, data):
    network, x, dy = data.draw(networks_of(kind, np.float32))
    expected = passes(network, engine_steps(network), x, dy)
    with using_threads(2), pytest.MonkeyPatch.context() as patch:
        patch.setattr(calls, "SMALL", 0)  # so that the second thread has its share of so little
        assert_same_bits(passes(network, engine_steps(network), x, dy), expected)


@STEPPED
@given(data=st.data())
@quick(15)
def test_a_first_layer_computes_no_dx_and_the_same_gradients(kind, data):
    network, x, dy = data.draw(networks_of(kind))
    _, _, _, *expected = passes(network, engine_steps(network), x, dy)
    start_again(network)
    network.forward(x, True)
    first, *others = network.steps
    dy = sequence.backward(others, dy)
    dx = first.backward(dy)
    assert dx is dy or dx.size == 0
    learnt = [w.grad for w in network.parameters.parameters]
    assert_same_bits(learnt, expected[: len(learnt)])


@BACKENDS
@pytest.mark.parametrize("kind", [Conv2D, DepthwiseConv2D, Dense], ids=name_of)
@given(data=st.data())
@quick(15)
def test_no_bias_is_a_bias_of_zeros(kind, backend, data):
    network, x, dy = data.draw(networks_of(kind))
    found, (layer,) = [], network.layers
    for use_bias in False, True:
        same = type(layer)(**layer.config() | {"use_bias": use_bias})
        other = Network([same], network.input_shape, dtype="float64")
        same.w.value[...] = layer.w.value
        steps = engine_steps(other) if backend == "numba" else other.layers
        found.append(passes(other, steps, x, dy)[:4])
    assert_same(*found)


@STEPPED
@given(data=st.data())
@quick(50)
def test_nan_and_infinity_spread_alike(kind, data):
    network, x, _ = data.draw(networks_of(kind))
    flat = x.reshape(-1)
    for place in data.draw(st.lists(st.integers(0, flat.size - 1), max_size=4)) if x.size else ():
        flat[place] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    with np.errstate(all="ignore"):
        expected = sequence.forward(network.layers, x, False)
        assert_close([sequence.forward(engine_steps(network), x, False)], [expected], np.float64)
        layer = network.layers[0]
        if kind in PLAIN and kind not in (BatchNorm, Dropout, layers.GELU, layers.SiLU):
            if getattr(layer, "activation", None) in (None, "relu"):
                assert_close([plain(layer, x, np.zeros_like(expected))[0]], [expected], np.float64)


# ---------------------------------------------------------------------------------------------------------------
# Several layers as one


class Own(Layer):
    """A user's own layer, y = w * x, whose results lie in another order of memory than the engine's."""

    def build(self, input_shape, parameters):
        self.w = parameters.add("w", input_shape[-1:], initializers.ones)
        return input_shape

    def forward(self, x, training=False):
        if training:
            self.save_for_backward(x)
        return np.asfortranarray(x * self.w.value)

    def backward(self, dy):
        (x,) = self.saved
        self.w.grad[...] = (dy * x).reshape(-1, x.shape[-1]).sum(axis=0)
        return np.asfortranarray(dy * self.w.value)


class OwnConv2D(Conv2D):
    """A subclass, of which the engine cannot know what it changes."""


def image_layers(draw, c, depth=0):
    """Some layers that leave an image, and how many channels it has then."""
    found = []
    kinds = [
        Conv2D,
        BatchNorm,
        Conv2D,
        OwnConv2D,
        DepthwiseConv2D,
        BatchNorm,
        MaxPool2D,
        layers.AveragePool2D,
        Dropout,
        Own,
        Residual,
    ]
    for _ in range(draw(st.integers(1, 5 - 2 * depth))):
        kind, name = draw(st.sampled_from(kinds[: 11 - depth])), activation(draw)
        size, stride, end = draw(pairs(1, 3)), draw(st.integers(1, 2 - depth)), name if draw(st.booleans()) else None
        if kind is Residual:
            branch, f = image_layers(draw, c, depth=1)
            projection = None if f == c else Conv2D(f, 1, use_bias=False)
            layer, c = Residual(*branch, projection=projection, activation=end), f
        elif issubclass(kind, Conv2D):
            c = draw(st.sampled_from([1, 3, 5]))
            layer = kind(c, size, stride, activation=end)
        elif kind is DepthwiseConv2D:
            layer = kind(size, stride, activation=end)
        elif kind is BatchNorm:
            layer = kind(epsilon=1e-2, activation=end)
        else:
            layer = Own() if kind is Own else Dropout(0.3) if kind is Dropout else kind(size, stride, "same")
        found.append(layer)
        if name and end is None:
            found.append(BY_NAME[name]())
    return found, c


MISTAKES = {
    "a batch more": lambda y: np.concatenate([y, y]),
    "a number less": lambda y: y[..., :-1],
    "an axis more": lambda y: y[..., None],
    "flat": lambda y: y.reshape(len(y), -1),
    "float32": lambda y: y.astype(np.float32),
    "nothing": lambda y: None,
    "a list": lambda y: y.tolist(),
    "a number": lambda y: y.sum(),
    "no mistake": lambda y: y,
}


class Mistaken(Own):
    """A user's layer that may make a mistake in forward or in backward."""

    def __init__(self, way="forward", mistake="no mistake"):
        self.way, self.mistake = way, mistake

    def forward(self, x, training=False):
        y = super().forward(x, training)
        return MISTAKES[self.mistake](y) if self.way == "forward" else y

    def backward(self, dy):
        dx = super().backward(dy)
        return MISTAKES[self.mistake](dx) if self.way == "backward" else dx


@st.composite
def networks(draw, mistaken=0):
    """Layers in any order, with activations as `activation=` and as layers, and x and dy for them.

    Up to so many layers among them may be mistaken.
    """
    shape = (*draw(pairs(1, 6)), draw(st.sampled_from([1, 3])))
    found, _ = image_layers(draw, shape[2])
    if draw(st.booleans()):
        flat = draw(st.sampled_from([Flatten, layers.GlobalMaxPool2D, layers.GlobalAveragePool2D]))
        found += [
            flat(),
            Dense(5, activation=activation(draw)),
            *draw(st.sampled_from([[], [Own()], [ReLU()]])),
            Dense(3),
        ]
    for _ in range(draw(st.integers(0, mistaken))):
        wrong = Mistaken(draw(st.sampled_from(["forward", "backward"])), draw(st.sampled_from([*MISTAKES])))
        found.insert(draw(st.integers(0, len(found))), wrong)
    return fill(draw, found, shape, batches=[3, 1, 2, 17])


def steps_one_by_one(network):
    """A step for each layer, and one for each activation: nothing fused, and no memory shared."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in {*STEPS.values(), Widened}:
            patch.setattr(kind, "fuses", ())
            patch.setattr(kind, "fuses_pool", False)
        patch.setattr(normalization.BatchNorm, "follow", lambda norm, before: [before, norm])
        return [step for layer in network.layers for step in engine_steps(layer)]


@given(networks())
@quick(300)
def test_a_network_agrees_with_its_layers(drawn):
    network, x, dy = drawn
    assert_close(
        passes(network, engine_steps(network), x, dy), passes(network, network.layers, x, dy), np.float64, units=2**16
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("use_bias, behind", [(True, [ReLU, MaxPool2D]), (False, []), (True, [BatchNorm, ReLU])])
def test_a_convolution_of_channels_that_fill_no_vector_runs_as_a_wider_one(dtype, use_bias, behind):
    lanes, rng = best_block(dtype).shape[1] // 2, np.random.default_rng(0)
    for c, f, size in (2 * lanes - 3, lanes - 1, 3), (lanes - 1, lanes + lanes // 2, 5), (1, lanes - 2, 3):
        network = Network(
            [Conv2D(f, size, use_bias=use_bias), *(kind() for kind in behind)], (8, 6, c), dtype=dtype.__name__
        )
        network.parameters.values[...] = rng.standard_normal(network.parameters.values.size)
        x, dy = (
            rng.standard_normal((5, *shape)).astype(dtype) for shape in (network.input_shape, network.output_shape)
        )
        steps = engine_steps(network)
        assert type(steps[0]) is Widened
        found = passes(network, steps, x, dy)
        assert_close(found, passes(network, network.layers, x, dy), dtype, units=2**10)
        passes(network, steps, x[:2], dy[:2])
        assert_same_bits(passes(network, steps, x, dy), found)
        first, *others = steps
        first.needs_dx = False
        sequence.forward(steps, x, True)
        assert first.backward(sequence.backward(others, dy)).size == 0
        learnt = [parameter.grad for parameter in network.parameters.parameters]
        assert_same_bits(learnt, found[3 : 3 + len(learnt)])


def test_what_is_not_finite_stays_in_its_image_where_a_convolution_is_wider():
    network = Network([Conv2D(20, 3), Conv2D(20, 3)], (8, 8, 20))
    x = np.random.default_rng(0).standard_normal((4, 8, 8, 20)).astype(np.float32)
    steps = engine_steps(network)
    assert [type(step) for step in steps] == [Widened, Widened]
    y = sequence.forward(steps, x, True).copy()
    dx = sequence.backward(steps, y).copy()
    x[1, 2, 3, 4], x[2, 0, 0, 19] = np.nan, np.inf
    broken = sequence.forward(steps, x, True).copy()
    assert [bool(np.isfinite(image).all()) for image in broken] == [True, False, False, True]
    assert_same_bits(broken[[0, 3]], y[[0, 3]])
    assert_same_bits(sequence.backward(steps, broken)[[0, 3]], dx[[0, 3]])


@given(networks())
@quick(300)
def test_fused_steps_give_the_bits_of_each_layer_on_its_own_whatever_ran_before(drawn):
    network, x, dy = drawn
    fused, alone = engine_steps(network), steps_one_by_one(network)
    assert len(alone) - len(fused) == sum(len(step.fused) - 1 for step in fused if isinstance(step, Step))
    expected = passes(network, alone, x, dy)
    assert_same_bits(passes(network, fused, x, dy), expected)
    passes(network, fused, x[:1], dy[:1])
    assert_same_bits(passes(network, fused, x, dy), expected)


def outcome(network, x, dy):
    """What a network as a whole computes, or the error that it ends in."""
    start_again(network)
    network.parameters.statistics[...] = 1
    try:
        y = network.forward(x, training=True).copy()
        network.backward(dy)
        return [y, *(p.grad.copy() for p in network.parameters.parameters), network.parameters.statistics.copy()], None
    except ShapeError as error:
        return [], str(error)


@pytest.mark.slow
@given(networks(mistaken=2))
@quick(2000)
def test_networks_with_layers_of_a_user_agree_or_end_in_the_same_error(drawn):
    network, x, dy = drawn
    (found, error), (expected, same_error) = (run_on(name, outcome, network, x, dy) for name in ("numba", "numpy"))
    assert error == same_error
    wrong = [layer for layer in network.layers if isinstance(layer, Mistaken) and layer.mistake != "no mistake"]
    if error is None:
        assert_close(found, expected, np.float64, units=2**16)
    else:
        assert any(error.startswith(f"{layer.name}: {layer.way} returned") for layer in wrong)


def run_on(name, function, *arguments):
    with using_backend(name):
        return function(*arguments)


@given(networks())
@quick(100)
def test_kernels_that_wait_for_others_give_the_bits_of_those_that_run_at_once(drawn):
    network, x, dy = drawn
    steps = engine_steps(network)
    start_again(network)
    at_once = [sequence.forward(steps, x, True).copy(), sequence.backward(steps, dy).copy()]
    assert_same_bits(passes(network, steps, x, dy)[::2][:2], at_once)


@pytest.fixture
def runs(monkeypatch):
    """How many of a step's calls of kernels ran in one go, each time."""
    found, run = [], calls._run
    monkeypatch.setattr(calls, "_run", lambda *given: found.append(len(calls._mine().kept)) or run(*given))
    return found


def batch_for(network, n=3):
    rng = np.random.default_rng(0)
    shapes = network.input_shape, network.output_shape
    return (rng.standard_normal((n, *shape)).astype(np.float32) for shape in shapes)


def test_kernels_wait_until_python_is_done_with_a_pass_or_a_users_layer_comes(runs):
    network = Network([Conv2D(8, 3), BatchNorm(), ReLU(), MaxPool2D(), Flatten(), Dense(4)], (6, 6, 1))
    x, dy = batch_for(network)
    network.forward(x, training=True)
    assert len(runs) == 1 and runs[0] > 5
    network.backward(dy)
    assert len(runs) == 2 and runs[1] > 5
    network = Network([Conv2D(8, 3), ReLU(), Own(), Conv2D(8, 3), Residual(Conv2D(8, 3), Own())], (6, 6, 1))
    x, dy = batch_for(network)
    runs.clear()
    network.forward(x, training=True)
    assert len(runs) == 3 and min(runs) > 0
    network.backward(dy)
    assert len(runs) == 5 and min(runs) > 0


def test_more_calls_than_there_is_room_for_run_in_several_goes(runs):
    network = Network([layer for _ in range(200) for layer in (Dense(8), BatchNorm(), ReLU())], (8,))
    x, dy = batch_for(network)
    found = [network.forward(x, training=True).copy(), network.backward(dy), network.parameters.grads.copy()]
    assert 3 <= len(runs) < 20
    y = sequence.forward(network.steps, x, True).copy()
    sequence.learn(network.steps, dy)
    assert_same_bits(found[::2], [y, network.parameters.grads])


def test_what_waits_when_a_pass_is_interrupted_never_runs(runs, monkeypatch):
    network = Network([Dense(8), BatchNorm(), Dense(4)], (8,))
    x, dy = batch_for(network)
    expected = outcome(network, x, dy)[0]
    network.parameters.statistics[...] = 1
    last, before = network.steps[-1], network.parameters.statistics.copy()
    runs.clear()
    for passed, step in ("forward", last), ("backward", network.steps[0]):
        if passed == "backward":
            network.forward(x, training=True)
            before = network.parameters.statistics.copy()
            runs.clear()
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setitem(vars(step), passed, interrupted)
            network.forward(x, training=True) if passed == "forward" else network.backward(dy)
        assert runs == [] and network.parameters.statistics.tobytes() == before.tobytes()
    assert_same_bits(outcome(network, x, dy)[0], expected)


def interrupted(*given):
    raise KeyboardInterrupt


def test_a_relu_is_fused_into_the_step_before_it():
    block = Residual(Conv2D(4, 3), BatchNorm(activation="relu"), Conv2D(4, 3, activation="tanh"), activation="relu")
    head = [Conv2D(4, 3, activation="relu"), BatchNorm(), ReLU(), DepthwiseConv2D(3, activation="gelu"), ReLU(), block]
    tail = [ReLU(), OwnConv2D(4, 3, activation="relu"), ReLU(), Own(), MaxPool2D(), ReLU(), Flatten(), Dense(4), ReLU()]
    network = Network(head + tail, (6, 6, 1))
    assert [step.title for step in network.steps] == [
        *("conv2d_1+conv2d_1/relu", "batchnorm_1+relu_1", "depthwiseconv2d_1", "depthwiseconv2d_1/gelu", "relu_2"),
        *("residual_1+residual_1/relu", "relu_3", "ownconv2d_1", "relu_4", "own_1", "maxpool2d_1", "relu_5"),
        *("flatten_1", "dense_1+relu_6"),
    ]
    own = [step for step in network.steps if not isinstance(step, Step)]
    assert own == [layer for layer in network.layers if type(layer) in (OwnConv2D, Own, Flatten)]
    inside = next(step for step in network.steps if step.relu and type(step.layer) is Residual).branch
    assert [step.title.replace("residual_1/", "") for step in inside] == [
        *("conv2d_1+batchnorm_2+batchnorm_2/relu", "conv2d_3", "conv2d_3/tanh")
    ]


def test_batch_norm_takes_silu_and_the_usual_pool_and_a_convolution_its_pool():
    layers = [Conv2D(4, 3), ReLU(), MaxPool2D(), BatchNorm(), SiLU(), MaxPool2D(), Conv2D(4, 3), SiLU(), MaxPool2D(3)]
    network = Network([*layers, Flatten(), Dense(2)], (16, 16, 1))
    assert [step.title for step in network.steps] == [
        *("conv2d_1+relu_1+maxpool2d_1", "batchnorm_1+silu_1+maxpool2d_2", "conv2d_2", "silu_2", "maxpool2d_3"),
        *("flatten_1", "dense_1"),
    ]
    assert all("maxpool" not in step.title for step in Network([Conv2D(4, 3), MaxPool2D()], (7, 8, 1)).steps[:1])


def name_of_all(kinds):
    return "+".join(map(name_of, kinds))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("behind", [[ReLU, MaxPool2D], [MaxPool2D], [SiLU, MaxPool2D], [SiLU]], ids=name_of_all)
@pytest.mark.parametrize(
    "first",
    [lambda: Conv2D(32, 3), lambda: Conv2D(16, 5), lambda: Conv2D(6, 3, stride=2), BatchNorm],
    ids=["3x3", "5x5", "stride 2", "batch norm"],
)
def test_what_is_done_in_passing_gives_the_bits_of_each_layer_on_its_own(first, behind, dtype):
    rng = np.random.default_rng(0)
    network = Network([first(), *(kind() for kind in behind)], (12, 8, 16), dtype=np.dtype(dtype).name)
    for kind in (normal, whole):  # whole numbers tie, in a window and at 0
        x, dy = (kind(rng, (5, *shape)).astype(dtype) for shape in (network.input_shape, network.output_shape))
        fused = passes(network, engine_steps(network), x, dy)
        assert_same_bits(fused, passes(network, steps_one_by_one(network), x, dy))


AFTER = {
    "3x3": lambda: Conv2D(32, 3, padding=1),
    "5x5": lambda: Conv2D(16, 5, padding="same"),
    "3x3 without padding": lambda: Conv2D(16, 3),
    "wide padding": lambda: Conv2D(8, 3, padding=3),
    "stride 2": lambda: Conv2D(6, 3, stride=2, padding=1),
    "1x1": lambda: Conv2D(6, 1),
    "groups": lambda: Conv2D(32, 3, padding=1, groups=4),
    "dilation": lambda: Conv2D(8, 3, padding=2, dilation=2),
    "with ReLU and pool": lambda: [Conv2D(16, 3, padding=1), ReLU(), MaxPool2D()],
    "depthwise": lambda: DepthwiseConv2D(3, padding=1),
    "depthwise 5x5": lambda: DepthwiseConv2D(5, padding=2),
    "depthwise, stride 2": lambda: DepthwiseConv2D(3, stride=2, padding=1),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", [None, "relu", "silu"])
@pytest.mark.parametrize("before", [lambda: Conv2D(16, 1), lambda: Conv2D(16, 3), lambda: DepthwiseConv2D(3)])
@pytest.mark.parametrize("after", AFTER.values(), ids=AFTER)
def test_a_convolution_makes_of_x_what_batch_norm_would_have_written(before, after, activation, dtype):
    """The bits of each layer on its own; 70 images, so that some parts of the batch have two and others one."""
    last = after() if isinstance(after(), list) else [after()]
    network = Network([before(), BatchNorm(activation=activation), *last], (10, 8, 16), dtype=np.dtype(dtype).name)
    rng = np.random.default_rng(0)
    for n in (70, 1):
        x, dy = (normal(rng, (n, *shape)).astype(dtype) for shape in (network.input_shape, network.output_shape))
        with using_threads(1):
            alone = passes(network, steps_one_by_one(network), x, dy)
        assert_same_bits(passes(network, engine_steps(network), x, dy), alone)


def test_batch_norm_leaves_its_scale_and_shift_to_a_convolution_but_not_silu_nor_a_pool():
    def left(*layers):
        norms = [inner for step in Network(list(layers), (8, 8, 4)).steps for inner in (step, *step.inside())]
        return [norm.then is not None for norm in norms if type(norm) is normalization.BatchNorm]

    assert left(Conv2D(16, 3), BatchNorm(), ReLU(), Conv2D(4, 3)) == [True]
    assert left(BatchNorm(), DepthwiseConv2D(3), BatchNorm(activation="relu"), Conv2D(4, 1)) == [True, True]
    assert left(BatchNorm(), SiLU(), Conv2D(4, 3)) == left(BatchNorm(), MaxPool2D(), Conv2D(4, 3)) == [False]
    assert left(BatchNorm(), DepthwiseConv2D(5)) == left(BatchNorm(), ReLU(), MaxPool2D(3)) == [False]
    assert left(Conv2D(4, 3), BatchNorm(), Residual(Conv2D(4, 3))) == [False]


def test_one_large_image_has_as_exact_a_mean_and_variance_as_many_small_ones():
    network, rng = Network([Conv2D(8, 1), BatchNorm()], (512, 512, 8), seed=0), np.random.default_rng(0)
    network.layers[0].w.value[0, 0], network.layers[1].momentum = np.eye(8), 0.0
    x = rng.standard_normal((1, 512, 512, 8)) + 100 + np.linspace(-1, 1, 512)[:, None, None]
    x = x.astype(np.float32)
    network.forward(x, training=True)
    norm, exact = network.layers[1], x.astype(np.float64).reshape(-1, 8)
    np.testing.assert_allclose(norm.mean.value, exact.mean(axis=0), rtol=2e-7)
    np.testing.assert_allclose(norm.variance.value, exact.var(axis=0, ddof=1), rtol=2e-5)


def test_a_second_backward_without_a_forward_is_an_error_and_no_wrong_number():
    network = Network([Conv2D(32, 3, padding=1), BatchNorm(), ReLU(), MaxPool2D()], (8, 8, 32), dtype="float64")
    steps, rng = engine_steps(network), np.random.default_rng(0)
    sequence.forward(steps, rng.standard_normal((3, 8, 8, 32)), True)
    dy = rng.standard_normal((3, *network.output_shape))
    sequence.backward(steps, dy)
    with pytest.raises(RuntimeError, match=r"batchnorm_1.*: backward needs a forward with training=True first"):
        sequence.backward(steps, dy)


# ---------------------------------------------------------------------------------------------------------------
# Gradients: every backward pass against the slope of its forward pass


@BACKENDS
@KINDS
@given(data=st.data())
@quick(10)
def test_backward_is_the_slope_of_forward(kind, backend, data):
    network, x, _ = data.draw(networks_of(kind, kinds=[spaced], batches=[1, 2, 3]))
    with using_backend(backend):
        report = gradcheck(network, x)
    assert report.ok, f"{network.layers}\n{report}"


@BACKENDS
@pytest.mark.parametrize(
    "stack",
    [
        lambda: [Conv2D(3, 3, use_bias=False), BatchNorm(epsilon=1e-2), ReLU()],
        lambda: [Conv2D(3, 3, activation="relu"), MaxPool2D(2, 1), DepthwiseConv2D(2), ReLU(), Conv2D(1, 2)],
        lambda: [Residual(Conv2D(3, 3), BatchNorm(epsilon=1e-2, activation="relu"), Own(), Conv2D(1, 1)), ReLU()],
        lambda: [Own(), Flatten(), Dense(4, activation="relu"), Own(), Dropout(0.3), Dense(3), ReLU()],
    ],
)
def test_backward_through_several_layers_is_the_slope_of_forward(stack, backend):
    with using_backend(backend):
        report = gradcheck(stack(), np.random.default_rng(0).standard_normal((3, 4, 3, 1)))
    assert report.ok, f"\n{report}"


@given(data=st.data())
@quick(15)
@BACKENDS
def test_cross_entropy_returns_its_slope(backend, data):
    logits, truth, weights = data.draw(predictions([spaced]))
    with using_backend(backend):
        formula = engine.fast(losses.CrossEntropy()).formula
    _, dlogits = formula(logits, truth, weights)
    for at in np.ndindex(logits.shape):
        step = np.zeros(logits.shape)
        step[at] = 1e-5
        slope = (formula(logits + step, truth, weights)[0] - formula(logits - step, truth, weights)[0]) / 2e-5
        assert abs(dlogits[at] - slope) <= 1e-6 * max(1, abs(slope))


# ---------------------------------------------------------------------------------------------------------------
# Batches, the loss and the optimizers


@st.composite
def batches(draw, kind):
    """Images, the indices of some, where to read them, and what to erase."""
    rng, count, n = np.random.default_rng(draw(st.integers(0, 2**32 - 1))), *draw(pairs(1, 4))
    (h, w), c = draw(pairs(1, 6)), draw(st.sampled_from([1, 3]))
    images = (
        rng.integers(0, 256, (count, h, w, c)).astype(np.uint8) if kind == np.uint8 else normal(rng, (count, h, w, c))
    )
    index = np.array(draw(st.lists(st.integers(0, count - 1), min_size=n, max_size=n)), np.int64)
    numbers = draw(st.sampled_from([normal, whole]))(rng, (n, 2, 3)) * draw(st.sampled_from([0.0, 0.5, 1.0, 100.0]))
    edges = st.tuples(*(st.integers(0, most + 2) for most in (h, h, w, w)))
    holes = np.array(draw(st.lists(edges, min_size=n, max_size=n)), np.int64)
    matrix, holes = draw(st.sampled_from([np.eye(2, 3) + numbers, None])), draw(st.sampled_from([holes, None]))
    return images.astype(kind), index, matrix, holes, normal(rng, (2, c))


@given(data=st.data())
@quick(50)
@pytest.mark.parametrize("kind", [np.uint8, np.float64])
def test_batches_agree_with_plain_loops(kind, data):
    images, index, matrix, holes, (factor, shift) = data.draw(batches(kind))
    got = inputs.make_batch(images, index, factor, shift, np.dtype(float), matrix, holes)
    assert_close([got], [naive.make_batch(images, index, factor, shift, matrix, holes)], np.float64)


@given(data=st.data())
@quick(50)
@pytest.mark.parametrize(
    ("kind", "dtype"), [(np.uint8, np.float32), (np.float32, np.float32), (np.float64, np.float64)]
)
def test_fast_batches_agree(kind, dtype, data):
    images, index, matrix, holes, (mean, deviation) = data.draw(batches(kind))
    images = laid_out(
        images, data.draw(st.sampled_from(["C", "reversed", "read-only"])) if dtype == np.float64 else "C"
    )
    scale = inputs.Scale()
    if data.draw(st.booleans()):
        scale.mean, scale.std = mean, np.abs(deviation) + 0.1
    expected = scale.batch(images, index, np.dtype(dtype), matrix, holes)
    fast = engine.fast(scale)
    assert_close([fast.batch(images, index, np.dtype(dtype), matrix, holes)], [expected], dtype)
    with using_threads(2), pytest.MonkeyPatch.context() as patch:
        patch.setattr(calls, "SMALL", 0)
        first = fast.batch(images, index, np.dtype(dtype), matrix, holes).copy()
    assert_same_bits([first], [fast.batch(images, index, np.dtype(dtype), matrix, holes)])


@st.composite
def predictions(draw, kinds=(normal, whole), dtype=np.float64):
    """Logits, the truth and the images' weights."""
    rng, n, classes = (
        np.random.default_rng(draw(st.integers(0, 2**32 - 1))),
        *draw(st.tuples(*map(st.integers, (1, 2), (6, 12)))),
    )
    logits = draw(st.sampled_from(kinds))(rng, (n, classes)) * draw(st.sampled_from([1, 30]))
    truth, weights = rng.uniform(0, 1, (n, classes)), rng.uniform(0.1, 1, n)
    truth, weights = truth / truth.sum(axis=1, keepdims=True), weights / weights.sum()
    return [array.astype(dtype) for array in (logits, truth, weights)]


@given(predictions())
@quick(25)
def test_cross_entropy_agrees_with_plain_loops(drawn):
    assert_close(losses.CrossEntropy().formula(*drawn), naive.cross_entropy(*drawn), np.float64)


@given(data=st.data())
@quick(25)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fast_cross_entropy_agrees(dtype, data):
    logits, truth, weights = data.draw(predictions(dtype=dtype))
    layout = data.draw(st.sampled_from(LAYOUTS if dtype == np.float64 else ["C"]))
    given_to = laid_out(logits, layout), laid_out(truth, layout), weights
    loss = losses.CrossEntropy(label_smoothing=0.1, class_weight=np.arange(1, 1 + logits.shape[1]))
    assert_close(engine.fast(loss).formula(*given_to), loss.formula(logits, truth, weights), dtype)
    labels = np.arange(len(logits)) % 2
    assert_close(engine.fast(loss)(logits, labels), loss(logits, labels), dtype)
    assert_same_bits(given_to, (logits, truth, weights))


OPTIMIZERS = [
    optimizers.SGD(0.1),
    optimizers.SGD(0.1, momentum=0.9, weight_decay=0.3),
    optimizers.SGD(0.1, momentum=0.9, nesterov=True, clip_norm=0.5),
    optimizers.RMSprop(0.1, epsilon=1e-3, weight_decay=0.3, clip_norm=1e9),
    optimizers.Adam(0.1, beta2=0.99, epsilon=1e-3, clip_norm=0.5),
    optimizers.AdamW(0.1, epsilon=1e-3, weight_decay=0.3),
]


def vectors(data, dtype):
    """Parameters with numbers in them, some of which are decayed, and gradients for a few steps."""
    rng, parameters = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))), Parameters(np.dtype(dtype).name)
    for shape in (data.draw(st.integers(1, 70)), 1), (data.draw(st.integers(1, 70)),):
        parameters.add("w", shape, initializers.zeros)
    parameters.allocate(None)
    parameters.values[...] = normal(rng, parameters.values.shape)
    return parameters, normal(rng, (3, parameters.values.size)).astype(dtype)


def after_steps(optimizer, parameters, gradients):
    """The weights and the moments after some steps; the weights are put back."""
    before, optimizer.parameters = parameters.values.copy(), None
    for gradient in gradients:
        parameters.grads[...] = gradient
        optimizer.step(parameters)
    after, parameters.values[...] = parameters.values.copy(), before
    return [after, *(optimizer.vectors[name] for name in optimizer.moments)]


def plain_step(optimizer, *numbers, decay):
    """naive.py's step of one weight."""
    rate, given_to = optimizer.learning_rate, vars(optimizer)
    if isinstance(optimizer, optimizers.SGD):
        return naive.sgd(*numbers, rate, decay, optimizer.momentum, optimizer.nesterov)
    if isinstance(optimizer, optimizers.RMSprop):
        return naive.rmsprop(*numbers, rate, decay, optimizer.rho, optimizer.epsilon)
    more = (given_to[name] for name in ("beta1", "beta2", "epsilon", "steps"))
    return naive.adam(*numbers, rate, decay, *more)


@given(data=st.data())
@quick(15)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda one: type(one).__name__)
def test_an_optimizer_agrees_with_plain_loops(optimizer, data):
    parameters, gradients = vectors(data, np.float64)
    got = after_steps(optimizer, parameters, gradients)
    expected = np.array([parameters.values, *np.zeros((len(optimizer.moments), parameters.values.size))])
    for optimizer.steps, gradient in enumerate(gradients, 1):
        norm = sum(g * g for g in gradient) ** 0.5
        clip = min(1, (optimizer.clip_norm or np.inf) / norm)
        for k in range(len(gradient)):
            decay = optimizer.weight_decay if k < parameters.decayed else 0
            w, *moments = expected[:, k]
            expected[:, k] = plain_step(optimizer, w, clip * gradient[k], *moments, decay=decay)
    assert_close(got, list(expected), np.float64)


@given(data=st.data())
@quick(15)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda one: type(one).__name__)
def test_a_fast_optimizer_agrees(optimizer, dtype, data):
    parameters, gradients = vectors(data, dtype)
    expected = after_steps(optimizer, parameters, gradients)
    found = after_steps(engine.fast(optimizer), parameters, gradients)
    assert_close(found, expected, dtype)
    with using_threads(2), pytest.MonkeyPatch.context() as patch:
        patch.setattr(calls, "SMALL", 0)
        assert_same_bits(after_steps(engine.fast(optimizer), parameters, gradients), found)


def test_twins_stand_for_exactly_their_types_and_share_their_settings():
    class Mine(optimizers.Adam):
        pass

    mine, adam = Mine(), optimizers.Adam()
    assert engine.fast(mine) is mine and vars(engine.fast(adam)) is vars(adam)
    with using_backend("numpy"):
        assert engine.fast(adam) is adam


# ---------------------------------------------------------------------------------------------------------------
# Edges


def both(layer, x, dy):
    """What a layer gives on either backend: (y in training, y in use, dx, ...)."""
    network = Network([layer], x.shape[1:], dtype=x.dtype.name)
    return [passes(network, steps, x, dy) for steps in (network.layers, engine_steps(network))]


def test_padding_never_wins_even_over_minus_infinity():
    x = np.full((1, 2, 2, 1), -np.inf)
    for y, _, dx in both(MaxPool2D(2, padding=1), x, np.ones_like(x)):
        assert np.isneginf(y).all()
        np.testing.assert_array_equal(dx, np.ones_like(x))


@pytest.mark.parametrize("size, dtype", [(16, np.uint8), (17, np.int32)])
@pytest.mark.parametrize("kind", [lambda size: MaxPool2D(size), lambda size: layers.GlobalMaxPool2D()])
def test_winners_are_wide_enough_for_the_last_place_of_a_window(kind, size, dtype):
    x = np.arange(size * size, dtype=float).reshape(1, size, size, 1)
    network = Network([kind(size)], x.shape[1:], dtype="float64")
    (step,) = steps = engine_steps(network)
    y, _, dx = passes(network, steps, x, np.ones((1, *network.output_shape)))
    winner = step.buffers["winner"]
    assert (y.item(), winner.item(), winner.dtype) == (size * size - 1, size * size - 1, dtype)
    np.testing.assert_array_equal(dx, x == y.item())


@pytest.mark.parametrize("pool_size", [40_000, 100_000, (100_000, 3), (3, 2**40)])
def test_a_window_larger_than_its_image_has_the_right_winner_however_large(pool_size):
    rng, layer = np.random.default_rng(0), MaxPool2D(pool_size, padding="same")
    fits = MaxPool2D([min(sides) for sides in zip(layer.pool_size, (5, 4), strict=True)], padding="same")
    large, small = (Network([one], (5, 4, 3), dtype="float64") for one in (layer, fits))
    x, dy = rng.standard_normal((2, 5, 4, 3)), rng.standard_normal((2, *small.output_shape))
    assert_same(passes(large, engine_steps(large), x, dy), passes(small, small.layers, x, dy))


@BACKENDS
def test_dropout_drops_its_rate_and_keeps_the_mean(backend):
    network = Network([Dropout(0.3)], (100_000,), dtype="float64")
    with using_backend(backend):
        y = network.forward(np.ones((1, 100_000)), True)
    assert abs((y == 0).mean() - 0.3) < 0.01 and abs(y.mean() - 1) < 0.01


HARD = {
    "an outlier among zeros": lambda normal: np.where(np.arange(128 * 28 * 28 * 8) == 0, 58.31, 0).reshape(
        128, 28, 28, 8
    ),
    "a large mean": lambda normal: 1000 + 0.1 * normal((64, 14, 14, 8)),
    "a large mean in few rows": lambda normal: 1000 + 0.1 * normal((33, 8)),
    "all equal": lambda normal: np.full((64, 7, 7, 8), 3.7),
    "all equal and large": lambda normal: np.full((64, 7, 7, 8), 1e30),
    "large": lambda normal: 1e15 * normal((64, 7, 7, 8)),
    "small": lambda normal: 1e-15 * normal((64, 7, 7, 8)),
    **{f"{n} rows": lambda normal, n=n: normal((n, 8)) for n in (1, 2, 33)},
}


@pytest.mark.parametrize("hard", HARD)
def test_batch_norm_in_float32_is_that_in_float64(hard):
    rng, found = np.random.default_rng(0), []
    x = HARD[hard](rng.standard_normal).astype(np.float32)
    dy = rng.standard_normal(x.shape, np.float32)
    for dtype in "float32", "float64":
        network = Network([BatchNorm(momentum=0.0)], x.shape[1:], dtype=dtype)
        steps = engine_steps(network) if dtype == "float32" else network.layers
        found.append(passes(network, steps, x.astype(dtype), dy.astype(dtype)))
    inverse_std, largest, eps = 1 / np.sqrt(found[1][-1].min() + 1e-5), np.abs(x).max(), np.finfo(np.float32).eps
    close = 4 * eps * (1 + largest * inverse_std)  # what rounding the mean, as the running one is, alone does to xhat
    of_dy = np.abs(dy).sum(axis=tuple(range(x.ndim - 1))).max()
    mean = 0 if x.min() == x.max() else eps / 8 * largest * inverse_std  # what its parts are rounded by
    xhat = 40 * eps * (1 + np.abs(found[1][0]).max()) + mean
    bounds = [xhat, close, xhat * inverse_std * np.abs(dy).max(), xhat * of_dy, xhat * of_dy, 4 * eps * largest, 0]
    for got, expected, bound in zip(*found, bounds, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=bound)


def test_batch_norm_of_numbers_whose_squares_overflow_gives_no_nan():
    x = 1e30 * np.random.default_rng(0).standard_normal((64, 3, 8)).astype(np.float32)
    with np.errstate(over="ignore"):
        for y, in_use, *_ in both(BatchNorm(), x, np.ones_like(x)):
            assert np.isfinite(y).all() and np.isfinite(in_use).all()


def test_use_backend_says_which_arithmetic_runs():
    network = Network([Dense(2)], (3,))
    assert engine.backend() == "numba" and isinstance(network.steps[0], Step)
    with using_backend("numpy"):
        assert engine.backend() == "numpy" and network.steps is network.layers
    with pytest.raises(ValueError, match=r"backend: got 'torch', expected \"numba\" or \"numpy\""):
        minicnn.use_backend("torch")


@pytest.mark.parametrize("n", [0, -1, 10_000, 1.5, "2"])
def test_set_threads_refuses_what_is_no_number_of_threads(n):
    with pytest.raises(ValueError, match="threads: got"):
        minicnn.set_threads(n)


def test_steps_can_be_stepped_through_as_plain_python():
    run = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", __file__]
    chosen = [
        "-k",
        "(any_order_of_memory or computes_no_dx) and (Conv2D or Dense or MaxPool2D or BatchNorm or Residual)",
    ]
    done = subprocess.run(run + chosen, env=os.environ | {"NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
