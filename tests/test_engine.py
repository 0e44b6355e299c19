"""The engine beside its numbers: what it promises of algorithms, vectors, processors, threads, memory and cold starts.

test_steps.py holds every step to its layer, in shapes that rarely are Winograd's. Here are that algorithm, the vectors
that kernels are made of, and everything around a kernel. What needs a process of its own is a function of this file that
`run` calls there; it starts from this process's environment, with some variables changed.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import hashlib
import itertools
import multiprocessing
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit
from numba.core import event
from numba.core.caching import FunctionCache
from numba.core.errors import TypingError
from test_steps import assert_close, assert_same_bits, pairs, quick, using_threads

import minicnn
from minicnn import (
    GELU,
    Augment,
    AveragePool2D,
    BatchNorm,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePool2D,
    GlobalMaxPool2D,
    LeakyReLU,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    SiLU,
    Tanh,
    engine,
    gradcheck,
    inputs,
    losses,
    optimizers,
)
from minicnn.callbacks import Callback
from minicnn.engine import ahead, calls, compile, compiling, exponentials, lanes, threads, winograd
from minicnn.engine import points as at_points
from minicnn.engine.atomics import add, look
from minicnn.engine.lanes import Block, best_block
from minicnn.layers import sequence
from minicnn.layers.windows import Window
from minicnn.network import Network
from minicnn.parameters import Parameter
from minicnn.recipes import RECIPES

PACKAGE = Path(minicnn.__file__).parent
AVX2 = "+avx2,+fma,+avx,+sse4.2,+sse4.1,+ssse3,+sse3,+bmi,+bmi2,+lzcnt,+popcnt,+f16c,+movbe"
AVX2_ONLY = dict(NUMBA_CPU_NAME="haswell", NUMBA_CPU_FEATURES=AVX2)
PATIENCE = 120  # seconds, after which something hangs

# Of every kind of step one or more; the engine makes two steps of some. 32 filters, as the default recipe has: no other
# kernels are compiled for them than for it.
OF_IMAGES = [
    *(Conv2D(32, 3), Conv2D(32, 5, activation="relu"), Conv2D(32, 3, stride=2, use_bias=False)),
    *(Conv2D(12, 3, dilation=2, groups=4), Conv2D(32, 1, activation="gelu"), Conv2D(6, 3, activation="relu")),
    *(DepthwiseConv2D(3, activation="relu"), BatchNorm(), BatchNorm(activation="relu"), Dropout(0.3)),
    *(MaxPool2D(), MaxPool2D(3, stride=2, padding="same"), AveragePool2D(), GlobalMaxPool2D(), GlobalAveragePool2D()),
    *(ReLU(), LeakyReLU(0.1), Sigmoid(), Tanh(), GELU(), SiLU()),
    *(Residual(Conv2D(32, 3), activation="relu"), Residual(Conv2D(12, 3), projection=Conv2D(12, 1))),
]
OF_ROWS = [Dense(units, activation=activation) for units in (256, 300, 1000) for activation in (None, "relu")]


@pytest.fixture(autouse=True)
def kernels_run():
    minicnn.use_backend("numba")


@pytest.fixture
def nothing_is_small(monkeypatch):
    """Threads share the work on any array, in this process."""
    monkeypatch.setattr(calls, "SMALL", 0)


def start(function, *arguments, path=PACKAGE.parent, **changes):
    """Call a function of a test file in a process of its own, which prints the result; a change to None unsets."""
    settings = os.environ | {"PYTHONPATH": os.pathsep.join([str(path), str(Path(__file__).parent)])} | changes
    settings = {name: str(value) for name, value in settings.items() if value is not None}
    file = Path(function.__code__.co_filename).stem
    code = f"import {file}; print({file}.{function.__name__}(*{arguments!r}))"
    pipes = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-c", code], cwd=path, env=settings, text=True, **pipes)


def finish(process, timeout=300):
    """What a process printed, on either stream, after it ended well."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert process.returncode == 0, f"exit code {process.returncode}\n{out}{err}"
    return out.strip(), err.strip()


def run(function, *arguments, **changes):
    return finish(start(function, *arguments, **changes))[0]


# ---------------------------------------------------------------------------------------------------------------
# Layers and their steps


def new(layer):
    """Another one with the same arguments, for another network."""
    return eval(repr(layer), vars(minicnn))


def network_of(layer, shape, dtype, padding=None):
    """A network of one layer with random weights, all of whose steps give dx; on request each side has its own padding."""
    network = Network([new(layer)], shape, dtype=str(np.dtype(dtype)))
    network.parameters.values[...] = np.random.default_rng(1).standard_normal(network.parameter_count)
    (layer,) = network.layers
    if padding is not None:
        layer.window = layer.window._replace(padding=padding)
        layer.output_shape = network.output_shape = (*layer.window.positions(shape), layer.filters)
        layer.activate.output_shape = layer.output_shape
    for step in network.steps:
        step.needs_dx = True
    return network


def numbers(n, network):
    """Random x and dy for n images."""
    rng, shapes = np.random.default_rng(0), [(n, *shape) for shape in (network.input_shape, network.output_shape)]
    return [rng.standard_normal(shape).astype(network.dtype) for shape in shapes]


def gradients(parts):
    weights = [w for part in parts for layer in part.layers() for w in layer.weights()]
    return [w.grad.copy() for w in weights if isinstance(w, Parameter)]


def passes(parts, x, dy):
    """Copies of y, dx and the weights' gradients, of steps or of layers."""
    y = sequence.forward(parts, x, True).copy()
    return [y, sequence.backward(parts, dy).copy(), *gradients(parts)]


# ---------------------------------------------------------------------------------------------------------------
# Winograd's convolution

WHOLE, HALVES = [(2, 2), (4, 2)], [(1, 2), (2, 1), (1, 3)]  # channels and filters, in halves of the widest vector
FLOATS = pytest.mark.parametrize(
    ("dtype", "tolerance", "channels"),
    [  # for each row kernels of its own are compiled
        (np.float32, 1e-5, WHOLE),
        pytest.param(np.float32, 1e-5, HALVES, marks=pytest.mark.slow),
        pytest.param(np.float64, 1e-11, WHOLE, marks=pytest.mark.slow),
        pytest.param(np.float64, 1e-11, HALVES, marks=pytest.mark.slow),
    ],
    ids=["float32-whole", "float32-halves", "float64-whole", "float64-halves"],
)
SIZES = pytest.mark.parametrize("r", [3, 5])
TIMES = {6: 1, 8: 2, 9: 10}  # so much larger may an error be at so many points


def vectors(dtype, *counts):
    """So many halves of the widest vector, in numbers."""
    return [count * best_block(dtype).shape[1] // 2 for count in counts]


@st.composite
def convolutions(draw, dtype, channels):
    """A network of one convolution, in shapes that this algorithm takes, and a number of images."""
    r, (c, f) = draw(st.sampled_from([3, 5])), vectors(dtype, *draw(st.sampled_from(channels)))
    padding = draw(st.tuples(pairs(0, 4), pairs(0, 4)))
    h, w = (draw(st.integers(max(1, r - sum(p)), 13)) for p in padding)
    layer = Conv2D(f, r, padding=4, use_bias=draw(st.booleans()), activation=draw(st.sampled_from([None, "relu"])))
    return network_of(layer, (h, w, c), dtype, padding), draw(st.sampled_from([1, 2, 5, 17]))


def in_numpy(layer, y, x, dy):
    """What `passes` gives of a convolution in plain NumPy and float64, ReLU being shut where y is 0."""
    expected = layer.forward(x.astype(float), True)
    layer.activate.save_for_backward(y, y)
    return [expected, layer.backward(dy.astype(float)), *gradients([layer])]


def assert_near(got, expected, tolerance):
    """Equal up to so much of the largest number."""
    for g, e in zip(got, expected, strict=True):
        assert g.shape == e.shape
        assert np.abs(g - e).max() <= tolerance * np.abs(e).max(initial=1)


@FLOATS
@given(data=st.data())
@quick(40)
def test_winograd_agrees_with_the_layer_in_numpy(dtype, tolerance, channels, data):
    network, n = data.draw(convolutions(dtype, channels))
    (layer,), (step,), (x, dy) = network.layers, network.steps, numbers(n, network)
    assert winograd.fits(layer.w.shape, layer.window, 1, np.dtype(dtype))
    found, points = passes([step], x, dy), winograd.points_for(layer.kernel_size[0], layer.output_shape, False)
    if data.draw(st.booleans()):
        step.needs_dx = False
        step.backward(dy)
        assert_same_bits(gradients([step]), found[2:])
    assert_near(found, in_numpy(layer, found[0], x, dy), tolerance * TIMES[len(points)])


def test_tiles_are_of_7x7_where_that_saves_a_quarter_of_the_multiplications():
    def sizes(pool):
        return [size for size in range(1, 50) if winograd.points_for(3, (size, size, 8), pool) == at_points.NINE]

    assert sizes(False) == [5, 6, 7, 13, 14, 21, 25, 26, 27, 28, 33, 34, 35, 41, 42, 49]
    assert [size for size in sizes(True) if size % 2 == 0] == [6, 14, 26, 28]  # a group of tiles is whole images
    assert winograd.points_for(5, (14, 14, 8), False) == at_points.EIGHT


@pytest.mark.parametrize("shape", [(14, 14), (6, 28), (28, 28)], ids=str)
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-4), (np.float64, 1e-11)], ids=["float32", "float64"])
def test_a_pool_behind_tiles_of_7x7_is_that_of_the_layers(dtype, tolerance, activation, shape):
    c, f = vectors(dtype, 2, 2)
    layers, n = [Conv2D(f, 3, activation=activation), MaxPool2D()], 19
    network = Network(layers, (*shape, c), dtype=str(np.dtype(dtype)))
    (step,), (x, dy) = network.steps, numbers(n, network)
    step.needs_dx = True
    found, expected = passes([step], x, dy), passes(network.layers, x, dy)
    assert_near(found[:1], expected[:1], tolerance)
    if dtype == np.float64:  # in float32 another number of a window may be the largest
        assert_near(found, expected, tolerance)
    assert_same_bits(passes([step], x[[7]], dy[[7]])[:2], [found[0][[7]], found[1][[7]]])


@FLOATS
@SIZES
def test_winograd_agrees_with_the_direct_algorithm(dtype, tolerance, channels, r, monkeypatch):
    c, f = vectors(dtype, *channels[1])
    network = network_of(Conv2D(f, r, padding=4, activation="relu"), (14, 11, c), dtype, ((2, 1), (0, 3)))
    (step,), (x, dy) = network.steps, numbers(19, network)
    found = passes([step], x, dy)
    monkeypatch.setattr(winograd, "fits", lambda *arguments: False)
    dx = step.backward(dy).copy()  # from the same y, whose zeros shut the gate
    dw, db = gradients([step])
    assert_near(found, [step.forward(x, True), dx, dw, db], tolerance)
    assert dx.tobytes() != found[1].tobytes()  # it was another algorithm


@njit
def all_transforms(points, outputs, block, x, out):
    """B^T, B, A^T and A times rows of x, to out."""
    v = lanes.zeros(x, block)[0]
    rows, some, n = at_points.apart(len(v), points), at_points.apart(len(v), outputs), len(points) * len(v)
    whole, tile = lanes.load_rows(v, x, rows, 0), lanes.load_rows(v, x, some, 0)
    lanes.store_rows(out, rows, 0, at_points.pixels_to_points(points, whole))
    lanes.store_rows(out, rows, n, at_points.points_to_pixels(points, whole))
    lanes.store_rows(out, some, 2 * n, at_points.points_to_outputs(points, whole))
    lanes.store_rows(out, rows, 3 * n, at_points.outputs_to_points(points, tile))


@pytest.mark.parametrize(
    ("points", "outputs"),
    [
        (points, tuple(range(at_points.SIZES[len(points)])))
        for points in (at_points.SIX, at_points.EIGHT, at_points.NINE)
    ],
    ids=[6, 8, 9],
)
def test_winograds_matrices_compute_a_convolution_and_its_transforms_are_their_products(points, outputs):
    n, size, rng = len(points), len(outputs), np.random.default_rng(0)
    b, a, g = at_points.matrices(n)
    assert all((matrix.astype(np.float32) == matrix).all() for matrix in (a, b))  # exact
    d, weights = rng.standard_normal(n), rng.standard_normal(n + 1 - size)
    np.testing.assert_allclose(a.T @ ((g @ weights) * (b @ d)), np.correlate(d, weights), rtol=1e-12)
    x, out = rng.standard_normal((n, 8)), np.zeros((4, n, 8))
    all_transforms(points, outputs, Block(1, 8), x.reshape(-1), out.reshape(-1))
    for found, expected in zip(out, (b @ x, b.T @ x, a.T @ x, a @ x[:size]), strict=True):
        np.testing.assert_allclose(found[: len(expected)], expected, rtol=1e-12, atol=1e-12)


def test_winograd_leaves_all_other_shapes_to_the_direct_algorithm():
    c, f = vectors(np.float32, 2, 2)
    usual = dict(w_shape=(3, 3, c, f), window=Window((3, 3)), groups=1, dtype=np.dtype(np.float32))
    windows = [dict(stride=(2, 2)), dict(stride=(1, 2)), dict(dilation=(2, 2)), dict(dilation=(2, 1))]
    shapes = [(3, 5, c, f), (1, 1, c, f), (7, 7, c, f), (3, 3, 12, f), (3, 3, c, 12)]
    changes = [
        *(dict(window=Window((3, 3), **window)) for window in windows),
        *(dict(w_shape=shape, window=Window(shape[:2])) for shape in shapes),
        dict(w_shape=(3, 3, c // 2, f), groups=2),
    ]
    assert winograd.fits(**usual)
    for change in changes:
        assert not winograd.fits(**usual | change), change
    network = network_of(Conv2D(f, 3), (9, 8, c), np.float32)
    y, dx, dw, db = passes(network.steps, *numbers(0, network))
    assert (y.shape, dx.shape, dw.any(), db.any()) == ((0, 9, 8, f), (0, 9, 8, c), False, False)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_winograd_takes_vectors_that_divide_channels_and_filters_the_widest_there_are(dtype):
    widest = best_block(dtype).shape[1]
    for halves in itertools.product((1, 2, 3, 4), repeat=2):
        c, f = vectors(dtype, *halves)
        lanes = winograd.packed(np.zeros((3, 3, c, f), dtype), at_points.SIX, False).shape[-1]
        assert lanes == (widest if c % widest == f % widest == 0 else widest // 2)


@SIZES
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_image_and_leaves_nothing_behind(r, poison):
    c, f = vectors(np.float32, 2, 2)
    network = network_of(Conv2D(f, r, use_bias=False), (7, 9, c), np.float32)
    given = numbers(5, network)
    clean = passes(network.steps, *given)
    for k in (0, 1):  # x, and with it y; dy, and with it dx
        poisoned = [array.copy() for array in given]
        poisoned[k][2, 3, 8, 1] = poison
        found = passes(network.steps, *poisoned)[k]
        assert not np.isfinite(found[2]).all()
        assert_same_bits([np.delete(found, 2, axis=0)], [np.delete(clean[k], 2, axis=0)])
        assert_same_bits(passes(network.steps, *given), clean)


@SIZES
def test_an_image_gives_the_same_bits_in_any_batch(r):
    c, f = vectors(np.float32, 2, 2)
    network = network_of(Conv2D(f, r, activation="relu"), (11, 6, c), np.float32)
    x, dy = numbers(7, network)
    y, dx, *_ = passes(network.steps, x, dy)
    for images in ([0], [1], [6], [6, 5, 4, 3, 2, 1, 0], [2, 2]):
        assert_same_bits(passes(network.steps, x[images], dy[images])[:2], [y[images], dx[images]])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("r", "shape"),  # small ones for every entry, large ones in random directions
    [(3, (1, 3, 4)), (5, (1, 2, 2)), (3, (2, 9, 6)), (5, (3, 5, 9))],
)
def test_winograd_in_float64_has_the_gradient_that_differences_give(r, shape):
    assert winograd.fits((r, r, 8, 8), Window((r, r)), 1, np.dtype(float))
    x = np.random.default_rng(0).standard_normal((*shape, 8))
    report = gradcheck(Conv2D(8, r), x)
    assert report.ok, f"\n{report}"


# ---------------------------------------------------------------------------------------------------------------
# The operations on vectors

OPERATIONS = [
    *(
        "load",
        "load_prefetching",
        "fill",
        "fill by a number of the array",
        "v + w",
        "v - w",
        "constant * v",
        "number * v",
    ),
    *("v * w", "v / w", "sqrt"),
    *("clamp", "rint", "power_of_two"),
    *(
        "maximum0",
        "maximum",
        "largest",
        "gate",
        "larger",
        "larger again",
        "only_where of bytes",
        "only_where of ints",
        "store_prefetching",
    ),
    *(
        "maximum0 of a block",
        "repeat",
        "load_rows of gather",
        "load_rows of strided",
        "load_inside",
        "zeros",
        "store_rows_prefetching",
        "add_inside",
        "store_inside",
        "gate, of a block",
    ),
    *("fma, constant", "fma, number", "fma, vector", "multiply_add", "exp_series", "fma_rows", "compiled"),
]
ROUNDED_ONCE = OPERATIONS.index("fma, constant")  # and all after it
SHAPES = [(1, 1), (3, 8), (8, 32)]
TRIALS = 20


def special_numbers(rng, size, dtype):
    """Numbers of all sizes, a third of them NaN, infinite, zero, minus zero, or equal to another."""
    x = rng.standard_normal(size) * 10 ** rng.uniform(-3, 3, size)
    x[rng.permutation(size)[: size // 3]] = rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0], size // 3)
    return x.astype(dtype)


@lanes.compiled
def first_and_last(count, rows, plus, minus, multiply_add):
    """As many rows as `count`: sums and products of two rows, then rows as they are."""
    a, b = rows[0], rows[-1]
    return (multiply_add(0.7, a, b), plus(a, b), minus(a, b), multiply_add(-3, a, None), *rows)[:count]


@njit
def every_operation(block, x, table, small, large, out):
    """A row of numbers to out for each of OPERATIONS, in their order; returns `len` of a vector and of a block."""
    none = lanes.zeros(x, block)
    rows, n = len(none), len(none[0])
    like, row = none[0], rows * n
    a, b, c = lanes.load(like, x, 0), lanes.load_prefetching(like, x, n), lanes.load(like, x, 2 * n)
    lanes.prefetch(x, 0)
    best, bytes_ = lanes.larger(b, a, 7, lanes.zeros(small, block)[0])
    best, bytes_ = lanes.larger(c, best, 200, bytes_)
    again, ints = lanes.larger(a, c, 7, lanes.zeros(large, block)[0])
    offsets = lanes.gather(table, 1, 1 + (rows + 1) // 2, none)
    loaded = lanes.load_rows(like, x, offsets, 3)
    spread = lanes.load_rows(like, x, lanes.strided(13, 1, 1 + (rows + 1) // 2, none), 3)
    inside = lanes.load_inside(like, x, 3 - n, n, -1, 2, none)  # the second row and the third
    vectors = (
        *(a, b, lanes.fill(a, 1.5), lanes.fill(a, x[5]), a + b, a - b, 0.7 * b, x[3] * b),
        *(a * b, a / b, lanes.sqrt(a)),
        *(lanes.clamp(a, -2, 0.5), lanes.rint(a), lanes.power_of_two(lanes.rint(b))),
        *(lanes.maximum0(a), lanes.maximum(a, b), lanes.largest(loaded), lanes.gate(a, b), best, again),
        *(lanes.only_where(bytes_, 200, c), lanes.only_where(ints, 7, a)),
    )
    at = 0
    for v in vectors:
        lanes.store(out, at, v)
        at += row
    lanes.store_prefetching(out, at, c)
    targets = lanes.gather(np.arange(rows) * n, 0, rows, none)
    for result in (lanes.maximum0(loaded), lanes.repeat(c, none), loaded, spread, inside, none):
        at += row
        lanes.store_rows(out, targets, at, result)
    lanes.store_rows_prefetching(out, targets, at + row, loaded)
    lanes.add_inside(out, at + 2 * row, n, 1, rows, loaded)  # all but the last row
    lanes.store_inside(out, at + 3 * row, n, 0, rows - 1, loaded)
    lanes.store_rows(out, targets, at + 4 * row, lanes.gate(loaded, spread))
    lanes.store(out, at + 5 * row, lanes.fma(0.7, a, b))
    lanes.store(out, at + 6 * row, lanes.fma(x[3], a, b))
    lanes.store(out, at + 7 * row, lanes.fma(c, a, b))
    lanes.store_rows(out, targets, at + 8 * row, lanes.multiply_add(x, offsets, 2, c, loaded))
    lanes.store(out, at + 9 * row, lanes.exp_series(a))
    lanes.store_rows(out, targets, at + 10 * row, lanes.fma_rows(loaded, c, spread))
    lanes.store_rows(out, targets, at + 11 * row, first_and_last(none, loaded))
    return n, rows


def results_on_vectors(shape, dtype):
    """What every operation gives for a shape of block: (trials, operations, numbers)."""
    rows, n = shape
    rng, table = np.random.default_rng(0), np.array([7, 90, 33, 200, 61, 4, 150, 18, 260])
    small, large = np.zeros(1, np.uint8), np.zeros(1, np.int32)
    out = np.full((TRIALS, len(OPERATIONS), rows * n), 77, dtype)
    for trial in out:
        x = special_numbers(rng, 300, dtype)
        x[n : 2 * n : 3] = x[:n:3]  # some that are equal
        assert every_operation(Block(rows, n), x, table, small, large, trial.reshape(-1)) == (n, rows)
    return out


def save_results_on_vectors(path):
    with np.errstate(all="ignore"):
        np.savez(path, *(results_on_vectors(shape, dtype) for shape in SHAPES for dtype in (np.float32, np.float64)))


@pytest.fixture(scope="module")
def in_plain_python(tmp_path_factory):
    path = tmp_path_factory.mktemp("vectors") / "results.npz"
    run(save_results_on_vectors, str(path), NUMBA_DISABLE_JIT=1)
    with np.load(path) as file:
        return dict(zip(itertools.product(SHAPES, (np.float32, np.float64)), file.values(), strict=True))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_operations_on_vectors_give_the_same_compiled_and_in_plain_python(shape, dtype, in_plain_python):
    found, plain = results_on_vectors(shape, dtype), in_plain_python[shape, dtype]
    for i, name in enumerate(OPERATIONS):
        got, expected = found[:, i], plain[:, i]
        if i >= ROUNDED_ONCE:  # plain Python rounds the product too, which shows where the sum is near 0
            np.testing.assert_allclose(got, expected, rtol=1e4 * np.finfo(dtype).eps, err_msg=name)
        else:
            np.testing.assert_array_equal(got, expected, err_msg=name)
            signs = [np.signbit(v[~np.isnan(v)]) for v in (got, expected)]
            np.testing.assert_array_equal(*signs, err_msg=f"{name}: sign of zero")


@njit
def turn(square, x, out):
    """The square block at x, transposed, to out."""
    none = lanes.zeros(x, square)
    offsets = lanes.strided(len(none), 0, len(none), none)
    lanes.store_rows(out, offsets, 0, lanes.transpose(lanes.load_rows(none[0], x, offsets, 0)))


@pytest.mark.parametrize("n", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_transposed_block_has_its_rows_for_lanes(n, dtype):
    x, out = np.arange(n * n).astype(dtype), np.full(n * n, 77, dtype)
    turn(Block(n, n), x, out)
    np.testing.assert_array_equal(out.reshape(n, n), x.reshape(n, n).T)


@njit
def upper_half(block, x, out):
    """The rows of the block at x, the upper half of them, to out."""
    none = lanes.zeros(x, block)
    rows = lanes.strided(len(none[0]), 0, len(none), none)
    half = lanes.half(lanes.load_rows(none[0], x, rows, 0))
    lanes.store_rows(out, lanes.strided(len(none[0]), 0, len(half), half), 0, half)


@pytest.mark.parametrize("rows", [2, 5, 8])
def test_half_a_block_is_its_upper_rows(rows):
    x, out = np.arange(rows * 4).astype(np.float32), np.full((rows, 4), -1, np.float32)
    upper_half(Block(rows, 4), x, out.reshape(-1))
    np.testing.assert_array_equal(out[: rows // 2], x.reshape(rows, 4)[: rows // 2])
    assert (out[rows // 2 :] == -1).all()


def test_the_table_of_operations_on_vectors_holds_none_that_is_not_tried():
    left = [line[4:43] for line in lanes.__doc__.splitlines() if line.startswith("    ")]
    names = set(re.findall(r"(\w+)\(", " ".join(left)))
    assert len(names) > 15
    names -= {"pair"}  # tests/test_bfloat16.py tries it, where a processor has the numbers
    assert names <= {name for tried in (every_operation, turn, upper_half) for name in tried.py_func.__code__.co_names}


def test_fma_rounds_once():
    rng = np.random.default_rng(0)
    x, out = rng.standard_normal(24), np.empty(8)
    x[16:] = -x[:8] * x[8:16]  # the product, rounded: what is left over is the rounding error

    @njit
    def fused(block, x, out):
        like = lanes.zeros(x, block)[0]
        lanes.store(out, 0, lanes.fma(lanes.load(like, x, 0), lanes.load(like, x, 8), lanes.load(like, x, 16)))

    fused(Block(1, 8), x, out)
    assert out.tolist() == [float(Fraction(a) * Fraction(b) + Fraction(c)) for a, b, c in x.reshape(3, 8).T]
    assert out.any()


# ---------------------------------------------------------------------------------------------------------------
# The exponential functions

REFERENCE = {  # in more digits than the result has
    "exp": np.exp,
    "tanh": np.tanh,
    "sigmoid": lambda x: np.exp(np.minimum(x, 0)) / (1 + np.exp(-np.abs(x))),
}
UNITS = {(name, dtype): 2 for name in REFERENCE for dtype in ("float32", "float64")} | {("tanh", "float64"): 2.5}


@njit
def every_exponential(block, x, out):
    like = lanes.zeros(x, block)[0]
    for i in range(0, x.size, len(like)):
        v = lanes.load(like, x, i)
        lanes.store(out[0], i, exponentials.exp(v))
        lanes.store(out[1], i, exponentials.tanh(v))
        lanes.store(out[2], i, exponentials.sigmoid(v))


def numbers_of_all_sizes(dtype, count):
    """So many numbers evenly over all bit patterns, and more where results reach an end of what the dtype holds."""
    rng, bits = np.random.default_rng(0), f"u{np.dtype(dtype).itemsize}"
    patterns = np.linspace(0, 1, count, endpoint=False) * float(np.iinfo(bits).max)
    ends = np.log(np.finfo(dtype).max), np.log(float(np.finfo(dtype).smallest_subnormal)), 20, 0.35, 1e-3
    around = [sign * end * (1 + rng.uniform(-0.05, 0.05, count // 10)) for end in ends for sign in (1, -1)]
    exact = [0.0, -0.0, np.nan, np.inf, -np.inf, np.finfo(dtype).max, np.finfo(dtype).tiny, -np.finfo(dtype).max]
    return np.concatenate([patterns.astype(bits).view(dtype), *(a.astype(dtype) for a in around), exact]).astype(dtype)


def errors_of_exponentials(dtype, count):
    """{name: the largest error of each, in units in the last place of the correct result}, on wide vectors."""
    x = numbers_of_all_sizes(dtype, count)
    x = x[: len(x) // 64 * 64]
    single, wide = (np.full((3, x.size), 77, dtype) for _ in range(2))
    with np.errstate(all="ignore"):
        every_exponential(Block(1, 1), x, single)
        every_exponential(Block(1, best_block(dtype).shape[1]), x, wide)
        assert_same_bits([single], [wide])
        return {
            name: error(y, REFERENCE[name](x.astype(np.longdouble))) for name, y in zip(REFERENCE, wide, strict=True)
        }


def error(y, exact):
    """The largest error in units in the last place; infinite where NaN or infinity is not what it should be."""
    correct = exact.astype(y.dtype)
    units = np.abs(y - exact) / np.spacing(np.minimum(np.abs(correct), np.finfo(y.dtype).max))
    units = np.where((y == correct) & ~np.isfinite(y) | np.isnan(y) & np.isnan(correct), 0, units)
    return float(np.nan_to_num(units, nan=np.inf).max())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("how", [{}, AVX2_ONLY, dict(NUMBA_DISABLE_JIT=1)], ids=["here", "avx2", "python"])
def test_exponential_functions_are_exact_to_two_units_wherever_a_number_lies(dtype, how, tmp_path):
    if how is AVX2_ONLY and platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("AVX2 is an x86-64 processor's")
    count = 2_000 if "NUMBA_DISABLE_JIT" in how else 300_000
    found = eval(run(errors_of_exponentials, dtype, count, XDG_CACHE_HOME=tmp_path, **how), dict(inf=np.inf))
    for name, units in found.items():
        assert units <= UNITS[name, dtype], name


# ---------------------------------------------------------------------------------------------------------------
# Plain Python, and another processor


def check_every_step():
    """Each kind of step agrees with its layer, in whatever way kernels run here; returns how many there are."""
    tried = set()
    for layer in [*OF_IMAGES, *OF_ROWS[2:4]]:
        shape = (7,) if isinstance(layer, Dense) else (5, 6, 32)
        ours, plain = (network_of(layer, shape, float) for _ in range(2))
        steps, (x, dy) = ours.steps, numbers(3, ours)
        assert not set(steps) & set(ours.layers), layer
        assert_close(passes(steps, x, dy), passes(plain.layers, x, dy), float)
        assert_close([sequence.forward(steps, x, False)], [sequence.forward(plain.layers, x, False)], float)
        tried |= {type(step.layer) for step in steps}
    assert tried == set(compile.STEPS)
    return len(tried)


def check_every_twin():
    """Each twin agrees with what it is the twin of; returns how many there are."""
    rng, tried = np.random.default_rng(0), set()

    def both(thing):
        twin = engine.fast(thing)
        tried.add(type(twin))
        return thing, twin

    logits, labels = rng.standard_normal((5, 7)), rng.integers(0, 7, 5)
    plain, fast = (loss(logits, labels) for loss in both(losses.CrossEntropy(0.1, rng.uniform(1, 2, 7))))
    assert_close(fast, plain, float)
    images, scale = rng.integers(0, 256, (4, 6, 5, 2)).astype(np.uint8), inputs.Scale()
    scale.learn(images)
    matrix, holes = np.eye(2, 3) + 0.3 * rng.standard_normal((3, 2, 3)), [[0, 2, 1, 4], [3, 9, 0, 2], [1, 1, 0, 5]]
    for more in [(), (matrix, np.array(holes))]:
        plain, fast = (one.batch(images, np.array([3, 0, 3]), np.dtype(float), *more) for one in both(scale))
        assert_close([fast], [plain], float)
    for kind in (optimizers.SGD, optimizers.RMSprop, optimizers.Adam, optimizers.AdamW):
        found = []
        for k in (0, 1):
            parameters = network_of(Dense(9), (5,), float).parameters
            optimizer = both(kind(0.1, weight_decay=0.2, clip_norm=5.0))[k]
            for step in range(3):
                parameters.grads[...] = np.random.default_rng(step).standard_normal(parameters.grads.size)
                optimizer.step(parameters)
            found.append([parameters.values, *optimizer.vectors.values()])
        assert_close(found[1], found[0], float)
    assert tried == set(compile.TWINS.values())
    return len(tried)


def test_every_kernel_runs_as_plain_python():
    assert run(check_every_step, NUMBA_DISABLE_JIT=1) == str(len(compile.STEPS))
    assert run(check_every_twin, NUMBA_DISABLE_JIT=1) == str(len(compile.TWINS))


def images(n=96, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 12, 12, 1)).astype(np.uint8), rng.integers(0, 10, n)


def small(seed=0):
    """Both sizes of Winograd's convolution, a direct one, and some of the rest."""
    layers = [
        Conv2D(32, 3, activation="relu"),
        MaxPool2D(),
        Conv2D(32, 3, use_bias=False),
        BatchNorm(activation="relu"),
    ]
    return Sequential([*layers, Conv2D(32, 5), Dropout(0.2), Flatten(), Dense(10)], (12, 12, 1), seed=seed)


def trained(seed=0, augment=None, optimizer="adam"):
    """The small model after three steps."""
    x, y = images(seed=seed)
    model = small(seed)
    model.fit(x, y, batch_size=32, augment=augment, optimizer=optimizer, verbose=False)
    return model


def weights_of(model):
    return b"".join(w.tobytes() for w in model.get_weights())


def save_trained(path):
    """Trains on one thread, and says for which vector registers."""
    minicnn.set_threads(1)
    np.savez(path, *trained(optimizer=optimizers.SGD(0.05)).get_weights())
    block = best_block(np.float32)
    return block.shape


@pytest.mark.slow
@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="AVX2 is an x86-64 processor's")
def test_a_processor_with_avx2_only_learns_the_same(tmp_path):
    forced = AVX2_ONLY | dict(XDG_CACHE_HOME=tmp_path / "cache")
    assembly, _, block = run(save_trained, str(tmp_path / "avx2.npz"), NUMBA_DUMP_ASSEMBLY=1, **forced).rpartition("\n")
    assert block == "(6, 16)"
    assert "ymm" in assembly
    assert "zmm" not in assembly
    run(save_trained, str(tmp_path / "native.npz"))
    with np.load(tmp_path / "avx2.npz") as avx2, np.load(tmp_path / "native.npz") as native:
        assert len(avx2.files) == 11
        for name in avx2.files:
            np.testing.assert_allclose(avx2[name], native[name], rtol=0, atol=1e-4)


# ---------------------------------------------------------------------------------------------------------------
# Threads


def bits_of_training():
    """How many threads there are, and how many different things one, two and more of them learn."""
    found = []
    for count, small_work in ((1, 0), (2, 0), (4, 0), (16, 0), (16, calls.SMALL)):
        calls.SMALL = small_work
        with using_threads(count):
            augment = Augment(rotation=10, zoom=0.1, shift=0.1, horizontal_flip=True, erase=4)
            found.append(hashlib.sha256(weights_of(trained(augment=augment))).hexdigest())
    return minicnn.get_threads(), len(set(found))


@pytest.mark.slow
def test_one_two_four_and_sixteen_threads_learn_the_same_bits():
    assert run(bits_of_training, NUMBA_NUM_THREADS=16) == "(16, 1)"


def bits_of_backward():
    """The number of different gradients that 1 to 64 threads find, for each convolution that shares tasks out."""
    calls.SMALL, found = 0, []
    shape, rng = (70, 8, 8, 32), np.random.default_rng(0)
    for layer in Conv2D(32, 3), Conv2D(64, 1), Conv2D(32, 3, 2), DepthwiseConv2D(3), DepthwiseConv2D(3, stride=2):
        network, x = network_of(layer, shape[1:], np.float32), rng.standard_normal(shape).astype(np.float32)
        dy, bits = rng.standard_normal((len(x), *network.output_shape)).astype(np.float32), set()
        for count in (1, 2, 16, 24, 64):
            with using_threads(count):
                bits.add(b"".join(array.tobytes() for array in passes(network.steps, x, dy)))
        found.append(len(bits))
    return found


@pytest.mark.slow
def test_sixty_four_threads_share_the_tasks_of_a_backward_and_find_the_same_bits():
    assert run(bits_of_backward, NUMBA_NUM_THREADS=64) == "[1, 1, 1, 1, 1]"


def test_tasks_of_whole_parts_are_two_for_each_thread_and_at_most_one_for_each_part(monkeypatch):
    for n, tasks in ((1, 16), (2, 16), (8, 16), (9, 32), (16, 32), (17, 64), (64, 64)):
        monkeypatch.setattr(threads, "_threads", n)
        assert threads.tasks_of_parts(128) == tasks and threads.PARTS % tasks == 0
    assert [threads.tasks_of_parts(n) for n in (0, 1, 3, 8, 20, 70)] == [1, 1, 2, 8, 16, 64]


def test_there_is_a_share_for_each_of_sixty_four_threads(monkeypatch):
    monkeypatch.setattr(threads, "_threads", 64)
    assert [threads.most_splits(128, tasks) for tasks in (4, 8, 16)] == [16, 8, 4]
    assert [threads.most_splits(n, min(n, 8)) for n in (0, 1, 3, 8, 20, 70)] == [1, 1, 1, 1, 2, 8]
    monkeypatch.setattr(threads, "_threads", 2)
    assert threads.most_splits(128, 8) == 1


@calls.parallel
def _the_first_waits(part, done):
    """Count the parts that are done in done[0]; the first one notes in done[1] how many it has seen, and waits for all."""
    if part == 0:
        for _ in range(10**10):
            done[1] = look(done, 0)
            if done[1] == threads.PARTS - 1:
                break
    add(done, 0, 1)


def parts_seen():
    done = np.zeros(2, np.int64)
    _the_first_waits(calls.SMALL, done)
    return done.tolist()


def test_a_thread_that_is_done_takes_the_parts_of_one_that_is_late():
    assert run(parts_seen, NUMBA_NUM_THREADS=2) == "[64, 63]"


class Pool:
    """The lock of the thread pool, counting the calls that ask for it."""

    def __init__(self):
        self.lock, self.calls = threading.Lock(), 0

    def acquire(self, blocking):
        self.calls += 1
        return self.lock.acquire(blocking)

    def release(self):
        self.lock.release()


def calls_of_the_pool():
    """Whether one image enters the thread pool, and whether many do, and one where nothing is small, with the same bits."""
    entered, bits = [], []
    for count, small_work in ((1, calls.SMALL), (512, calls.SMALL), (1, 0)):
        calls.SMALL, calls._pool = small_work, Pool()
        model, (x, y) = small(), images(count)
        predicted = model.predict(x)
        model.fit(x, y, verbose=False)
        entered.append(calls._pool.calls > 0)
        bits.append([predicted.tobytes(), weights_of(model)])
    return entered, bits[0] == bits[2]


def test_one_image_does_not_enter_the_thread_pool():
    assert run(calls_of_the_pool, NUMBA_NUM_THREADS=2) == "([False, True, True], True)"


def count_threads():
    return len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 0


def threads_started(n):
    """How many threads of the system a training step starts."""
    calls.SMALL = 0
    minicnn.set_threads(n)
    model, (x, _) = small(), images()
    before = count_threads()
    y = model.forward(model.batch(x, np.arange(32)), training=True)
    model.backward(np.ones_like(y))
    return count_threads() - before


@pytest.fixture(scope="module")
def three_processes(tmp_path_factory):
    """What a training step prints in a process that has to compile, with one thread, and in two that need not."""
    changes = dict(XDG_CACHE_HOME=tmp_path_factory.mktemp("cache"), NUMBA_NUM_THREADS=4, OPENBLAS_NUM_THREADS=1)
    return [finish(start(threads_started, n, **changes)) for n in (1, 1, 2)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc, which is Linux's")
def test_no_more_threads_start_than_were_asked_for(three_processes):
    assert [out for out, _ in three_processes] == ["0", "0", "1"]


@pytest.mark.slow
def test_only_the_first_process_compiles(three_processes):
    first, *later = [said for _, said in three_processes]
    assert "Compiling kernels" in first
    assert later == ["", ""]


def one_kernel(name, n):
    calls.SMALL = 0
    minicnn.set_threads(n)
    (step,) = Network([getattr(minicnn, name)()], (3,)).steps
    return float(step.forward(np.ones((1, 3), np.float32))[0, 0])


@pytest.mark.slow
@pytest.mark.parametrize("threads", [(1, 1, 1), (2, 2, 1), (1, 2, 2)])
def test_a_cache_that_several_processes_have_filled_serves_the_next(threads, tmp_path):
    changes = dict(XDG_CACHE_HOME=tmp_path, NUMBA_NUM_THREADS=2)
    found = [run(one_kernel, *job, **changes) for job in zip(("ReLU", "SiLU", "SiLU"), threads, strict=True)]
    assert found[0] == "1.0"
    assert found[1] == found[2]


def at_once(*jobs):
    """What the jobs give, each in a thread of its own, all starting at the same moment."""
    barrier = threading.Barrier(len(jobs))
    with ThreadPoolExecutor(len(jobs)) as pool:
        return [f.result() for f in [pool.submit(lambda job=job: (barrier.wait(), job())[1]) for job in jobs]]


def often(job, times=5):
    return lambda: [job() for _ in range(times)]


def test_two_threads_that_train_two_models_learn_what_each_learns_alone(nothing_is_small):
    jobs = [often(lambda seed=seed: weights_of(trained(seed))) for seed in (0, 1)]
    alone = [job() for job in jobs]
    assert alone[0] != alone[1]
    assert at_once(*jobs) == alone


def test_two_threads_that_predict_with_one_model_get_what_each_gets_alone(nothing_is_small):
    model = small()
    jobs = [often(lambda x=x: model.predict(x, batch_size=20).tobytes(), 20) for x in (images()[0], images(seed=1)[0])]
    alone = [job() for job in jobs]
    assert alone[0] != alone[1]
    assert at_once(*jobs) == alone


def test_one_thread_may_train_one_model_while_another_predicts_with_another(nothing_is_small):
    model, x = trained(seed=1), images()[0]
    jobs = often(lambda: weights_of(trained())), often(lambda: model.predict(x, batch_size=20).tobytes(), 50)
    alone = [job() for job in jobs]
    assert at_once(*jobs) == alone


def wait_until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@contextlib.contextmanager
def in_another_thread(job):
    """The list of what the job gives, called again and again while the block runs, and once before."""
    found, done = [], threading.Event()

    def again_and_again():
        while not done.is_set():
            found.append(job())

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(again_and_again)
        try:
            wait_until(lambda: found or other.done())
            yield found
        finally:
            done.set()
        other.result()


class Weights(Callback):
    """The weights after each step, which ends when two more predictions are there: one at least is all of this step."""

    def __init__(self, predictions):
        self.all, self.predictions = [], predictions

    def on_step_end(self, run):
        self.all.append(run.model.get_weights())
        count = len(self.predictions) + 2
        wait_until(lambda: len(self.predictions) >= count)


def test_predictions_amid_training_are_those_of_its_steps(nothing_is_small):
    model, twin, (x, y) = small(), small(), images()
    options = dict(epochs=2, batch_size=32, verbose=False)
    model.scale.learn(x)
    twin.scale.learn(x)
    with in_another_thread(lambda: model.outputs(x).tobytes()) as predictions:
        weights = Weights(predictions)
        model.fit(x, y, optimizer=optimizers.SGD(0.05), callbacks=[weights], **options)
    expected = {twin.outputs(x).tobytes()}
    for arrays in weights.all:
        twin.set_weights(arrays)
        expected.add(twin.outputs(x).tobytes())
    assert len(expected) == 7
    assert set(predictions) == expected
    alone = small()
    alone.fit(x, y, optimizer=optimizers.SGD(0.05), **options)
    assert weights_of(model) == weights_of(alone)


class Again(Callback):
    """Trains the model in training once more, here and in another thread."""

    def __init__(self):
        self.refused = 0

    def on_step_end(self, run):
        def fit():
            with pytest.raises(RuntimeError, match="fit: this model is in training already"):
                run.model.fit(*images(), verbose=False)
            self.refused += 1

        fit()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(fit).result()


class Fail(Callback):
    def on_step_end(self, run):
        raise ZeroDivisionError


def test_a_model_in_training_is_not_trained_by_a_second_call():
    model, (x, y), again = small(), images(), Again()
    model.fit(x, y, batch_size=32, callbacks=[again], verbose=False)
    assert again.refused == 6
    assert weights_of(model) == weights_of(trained())
    with pytest.raises(ZeroDivisionError):
        model.fit(x, y, callbacks=[Fail()], verbose=False)
    model.fit(x, y, verbose=False)  # neither the end of a run nor an error in it keeps the next one out


# ---------------------------------------------------------------------------------------------------------------
# Forks


def send_results(pipe, model):
    calls.SMALL = 0
    x, y = images()
    pipe.send_bytes(model.predict(x).tobytes())
    model.fit(x, y, batch_size=32, verbose=False)
    pipe.send_bytes(weights_of(model))


def results_of_child(method, model):
    """What a child process predicts and then learns, as far as it gets."""
    context, found = multiprocessing.get_context(method), []
    mine, its = context.Pipe()
    child = context.Process(target=send_results, args=(its, model))
    child.start()
    its.close()
    while len(found) < 2 and mine.poll(PATIENCE):
        found.append(mine.recv_bytes())
    child.kill()
    child.join()
    return found


def results_of(model):
    """What a copy of the model predicts and then learns here."""
    model, (x, y) = copy.deepcopy(model), images()
    predicted = model.predict(x).tobytes()
    model.fit(x, y, batch_size=32, verbose=False)
    return [predicted, weights_of(model)]


def child_agrees(method):
    """Whether a child of a process that has run kernels predicts and learns what its parent does."""
    calls.SMALL, model = 0, trained()
    return results_of_child(method, model) == results_of(model)


@pytest.mark.slow
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_a_child_process_gives_the_same_bits(method):
    assert run(child_agrees, method) == "True"


def children_agree_amid_predictions():
    """Whether children are right that are forked while another thread predicts with the same model."""
    calls.SMALL, model, (x, _) = 0, trained(), images()
    expected = results_of(model)
    with in_another_thread(lambda: model.predict(x)):
        return all(results_of_child("fork", model) == expected for _ in range(5))


class Fork(Callback):
    """After each step, whether a child that is forked then predicts and learns as a copy of the model does."""

    def __init__(self):
        self.agreed = []

    def on_step_end(self, run):
        self.agreed.append(results_of_child("fork", run.model) == results_of(run.model))


def children_agree_amid_training():
    calls.SMALL, model, fork = 0, small(), Fork()
    model.fit(*images(), batch_size=32, callbacks=[fork], verbose=False)
    return fork.agreed == [True] * 3


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("amid", [children_agree_amid_predictions, children_agree_amid_training])
def test_a_fork_amid_other_work_does_not_hang(amid):
    assert run(amid) == "True"


# ---------------------------------------------------------------------------------------------------------------
# Memory

BATCH, ALLOWED = 64, 64 * 1024  # bytes; nearly all activations of a batch below are larger


def allocated(function):
    """How much memory Python and NumPy took at most while the function ran, in bytes."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


BEHIND_A_CONVOLUTION = [*([layer] for layer in OF_IMAGES), [ReLU(), MaxPool2D()], [MaxPool2D(), ReLU(), ReLU()]]


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        *(([Conv2D(32, 1), *layers], (14, 14, 4)) for layers in BEHIND_A_CONVOLUTION),
        *(([Dense(320), layer], (400,)) for layer in OF_ROWS),
    ],
    ids=repr,
)
def test_layers_allocate_nothing_after_their_first_step(layers, shape):
    network = Network([new(layer) for layer in layers], shape)
    x, dy = numbers(BATCH, network)

    def step():
        network.forward(x, training=True)
        network.backward(dy)

    for walk in (step, lambda: network.forward(x)):
        walk()
        walk()  # the first time that weights in use are compared, the kernel for it may have to be compiled
        assert allocated(walk) < ALLOWED


class Peaks(Callback):
    """How much memory each step took on top of what was there before it, in bytes."""

    def __init__(self):
        self.steps = []

    def on_train_begin(self, run):
        tracemalloc.start()
        self.before = 0

    def on_step_end(self, run):
        now, peak = tracemalloc.get_traced_memory()
        self.steps.append(peak - self.before)
        self.before = now
        tracemalloc.reset_peak()

    def on_train_end(self, run):
        tracemalloc.stop()


def blocks():
    """The benchmarks' net B: convolution without bias, batch norm and ReLU, five times over."""

    def block(filters):
        return Conv2D(filters, 3, use_bias=False), BatchNorm(activation="relu")

    first, second = [*block(32), *block(32), MaxPool2D()], [*block(64), *block(64), MaxPool2D()]
    return Sequential([*first, *second, *block(128), GlobalAveragePool2D(), Dense(10)])


def test_training_and_predicting_allocate_no_activation_after_the_first_step():
    rng, model, peaks = np.random.default_rng(0), blocks(), Peaks()
    x, y = rng.integers(0, 256, (3 * BATCH + 20, 28, 28, 1)).astype(np.uint8), rng.integers(0, 10, 3 * BATCH + 20)
    options = dict(batch_size=BATCH, augment=Augment(rotation=10, shift=0.1, erase=5), verbose=False)
    model.fit(x[:BATCH], y[:BATCH], **options)  # compiles
    model.fit(x, y, epochs=2, callbacks=[peaks], **options)
    smallest = 4 * BATCH * min(np.prod(layer.output_shape) for layer in model.layers if len(layer.output_shape) == 3)
    assert len(peaks.steps) == 8
    assert max(peaks.steps[1:]) < smallest
    model.predict(x[:BATCH], BATCH)
    assert allocated(lambda: model.predict(x, BATCH)) < ALLOWED


# ---------------------------------------------------------------------------------------------------------------
# Cold starts


def tiny_prediction():
    """A digest of what a model predicts that is quickly compiled."""
    minicnn.set_threads(1)
    model = Sequential([Conv2D(4, 3, stride=2, activation="relu"), Flatten(), Dense(10)], (12, 12, 1))
    return hashlib.sha256(model.predict(images(20)[0]).tobytes()).hexdigest()


@pytest.fixture(scope="module")
def filled_cache(tmp_path_factory):
    """A cache in which all is that tiny_prediction needs."""
    cache = tmp_path_factory.mktemp("filled cache")
    run(tiny_prediction, XDG_CACHE_HOME=cache)
    return cache


@pytest.fixture(scope="module")
def expected():
    with using_threads(1):
        return tiny_prediction()


@pytest.mark.slow
@pytest.mark.parametrize("xdg", ["unset", "empty", "impossible"])
def test_without_a_folder_to_write_to_kernels_run_all_the_same(xdg, tmp_path, expected):
    (tmp_path / "a file").touch()
    nowhere = tmp_path / "a file" / "folder"  # cannot be made, not even by root
    settings = dict(HOME=nowhere, XDG_CACHE_HOME={"unset": None, "empty": "", "impossible": nowhere}[xdg])
    assert run(tiny_prediction, TMPDIR=tmp_path, **settings) == expected


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    """Asks where the kernels of a source of two files are kept."""
    monkeypatch.setattr(compiling, "__file__", str(tmp_path / "compiling.py"))
    monkeypatch.setattr(compiling.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("compiling.py", "lanes.py"):
        (tmp_path / name).touch()
    return compiling._cache_folder.__wrapped__


def test_each_state_of_the_source_has_a_folder_of_its_own_and_what_nobody_ran_for_a_month_goes(cache_folder, tmp_path):
    ages = {}
    for days in (29, 31, 32):
        (tmp_path / "lanes.py").write_text(f"# {days}")
        ages[days] = cache_folder()
    assert len(set(ages.values())) == 3
    for days, folder in ages.items():
        os.utime(folder, (time.time() - days * 24 * 3600,) * 2)
    assert cache_folder() == ages[32]  # in use again
    assert [os.path.exists(folder) for folder in ages.values()] == [True, False, True]


def test_a_folder_for_caches_that_depends_on_where_a_program_starts_is_not_used(cache_folder, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "caches")
    assert cache_folder() is None


def cut(data):
    return data[: len(data) // 2]


def emptied(data):
    return b""


def garbled(data):
    return np.random.default_rng(0).bytes(len(data))


def one_bit(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.slow
@pytest.mark.parametrize("damage", [cut, emptied, garbled, one_bit])
@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_a_damaged_cache_does_no_harm(kind, damage, filled_cache, tmp_path, expected):
    cache = shutil.copytree(filled_cache, tmp_path / "cache")
    files = list(cache.rglob(f"*.{kind}"))
    assert files
    for file in files:
        file.write_bytes(damage(file.read_bytes()))
    assert run(tiny_prediction, XDG_CACHE_HOME=cache) == expected


def plus_one(x):
    return x + 1


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """A folder in which kernels that are declared from here on are kept."""
    folder = tmp_path / "kernels"
    folder.mkdir()
    monkeypatch.setattr(compiling, "_cache_folder", lambda: str(folder))
    return folder


def is_compiled(kernel):
    """Whether a kernel, once it has run, had to be compiled."""
    assert kernel(1) == 2
    return bool(kernel.stats.cache_misses)


def no_kernel(x):
    return x.there_is_no_such_thing


@pytest.mark.parametrize("on", [True, False])
def test_compiling_leaves_the_collection_of_garbage_as_it_was(on, empty_cache):
    (gc.enable if on else gc.disable)()
    try:
        assert is_compiled(compiling.kernel(plus_one))
        assert gc.isenabled() == on
        with pytest.raises(TypingError):
            compiling.kernel(no_kernel)(1)
        assert gc.isenabled() == on
    finally:
        gc.enable()


def test_a_kernel_with_a_flipped_bit_is_compiled_again_and_its_file_replaced(empty_cache):
    assert is_compiled(compiling.kernel(plus_one))
    assert not is_compiled(compiling.kernel(plus_one))
    for file in empty_cache.rglob("*.nb?"):
        content = file.read_bytes()
        for place in range(0, len(content), len(content) // 20):
            damaged = bytearray(content)
            damaged[place] ^= 1 << place % 8
            file.write_bytes(damaged)
            assert is_compiled(compiling.kernel(plus_one)), f"byte {place} of {file.name}"
            assert not is_compiled(compiling.kernel(plus_one))
    assert sorted(file.suffix for file in empty_cache.rglob("*.*")) == [".nbc", ".nbi"]


def test_a_kernel_that_lies_where_another_process_has_put_one_for_other_types_is_compiled_again(empty_cache):
    compiling.kernel(plus_one)(1)
    (file,) = empty_cache.rglob("*.nbc")
    of_integers = file.read_bytes()
    for index in empty_cache.rglob("*.nbi"):
        index.unlink()
    compiling.kernel(plus_one)(1.5)
    assert file.read_bytes() != of_integers
    file.write_bytes(of_integers)
    kernel = compiling.kernel(plus_one)
    assert kernel(1.5) == 2.5
    assert kernel.stats.cache_misses


@pytest.mark.parametrize("gone", ["the folder", "the folder within it"])
@pytest.mark.parametrize("is_a_file_now", [False, True])
def test_a_cache_whose_folder_vanishes_under_a_process_does_no_harm(gone, is_a_file_now, empty_cache):
    kernel = compiling.kernel(plus_one)
    folder = empty_cache if gone == "the folder" else next(empty_cache.iterdir())
    shutil.rmtree(folder)
    if is_a_file_now:
        folder.touch()
    assert is_compiled(kernel)
    assert is_compiled(compiling.kernel(plus_one)) == is_a_file_now


def test_on_a_full_disk_kernels_are_compiled_and_not_kept(empty_cache):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # to a program like a full disk, and no root is needed
    try:
        kernels = [compiling.kernel(plus_one) for _ in range(2)]
        assert [is_compiled(kernel) for kernel in kernels] == [True, True]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(empty_cache.rglob("*.*")) == []
    assert [is_compiled(compiling.kernel(plus_one)) for _ in range(2)] == [True, False]


@pytest.mark.skipif(not hasattr(os, "posix_spawn"), reason="nothing is compiled ahead without")
def test_a_process_that_compiles_ahead_is_not_waited_for_and_leaves_no_zombie(monkeypatch):
    instead = compiling.AHEAD.replace("ahead.compile_ahead(*{arguments!r})", "import time; time.sleep(600)")
    assert instead != compiling.AHEAD
    monkeypatch.setattr(compiling, "AHEAD", instead)
    monkeypatch.setattr(compiling, "_ahead_processes", [])
    monkeypatch.setattr(compiling.Announcer, "helped", True)  # training starts no other one
    monkeypatch.setattr(compiling.config, "NUMBA_NUM_THREADS", 3)
    network = network_of(Dense(3), (5,), np.float32)
    assert network.steps and compiling.describe()
    compiling._start_ahead()
    processes = compiling._ahead_processes[:]
    assert len(processes) == 2
    assert [os.getsid(process) for process in processes] == [os.getsid(0)] * 2  # else a priority would be of no effect
    assert [os.getpgid(process) for process in processes] == processes  # no Ctrl-C at the terminal reaches them
    if hasattr(os, "SCHED_IDLE"):  # then each yields to all others, from its start on
        end = time.monotonic() + 60
        while {os.sched_getscheduler(process) for process in processes} != {os.SCHED_IDLE}:
            assert time.monotonic() < end
            time.sleep(0.01)
    trained()
    assert compiling._ahead_processes == processes
    for process in processes:
        os.kill(process, signal.SIGKILL)
        os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)  # it has ended, and is a zombie
    trained()
    assert compiling._ahead_processes == []
    for process in processes:
        with pytest.raises(ChildProcessError):
            os.waitpid(process, os.WNOHANG)


class Mine(Dense):
    """A user's own layer."""


def test_nothing_is_compiled_ahead_for_a_users_own_layer_in_float64_or_for_a_network_that_is_gone(monkeypatch):
    monkeypatch.setattr(compiling, "_ahead_processes", [])
    monkeypatch.setattr(compiling.config, "NUMBA_NUM_THREADS", 3)
    own, double, gone = Network([Mine(3)], (5,)), Network([Dense(3)], (5,), dtype="float64"), Network([Dense(3)], (5,))
    for network in own, double:
        assert network.steps
        compiling._start_ahead()
    assert gone.steps
    del gone, network
    gc.collect()
    compiling._start_ahead()
    assert compiling._ahead_processes == []


def test_what_goes_wrong_with_compiling_ahead_reaches_nobody(monkeypatch):
    monkeypatch.setattr(compiling, "describe", lambda: 1 / 0)
    first = SimpleNamespace(__module__=None, __qualname__=compiling.FIRST[0])  # a module is None where code was exec'd
    announcer = compiling.Announcer()
    announcer.helped = False
    announcer.on_start(SimpleNamespace(data={"dispatcher": SimpleNamespace(py_func=first)}))
    assert announcer.helped == bool(compiling._cache_folder())


def test_threads_that_reap_at_once_are_not_in_each_others_way(monkeypatch):
    class Reaped(list):
        def remove(self, process):
            super().remove(process)
            super().remove(process)  # as a second thread does

    monkeypatch.setattr(compiling, "_ahead_processes", Reaped([2**22 + 1]))  # nobody's child
    compiling.reap_ahead()
    assert compiling._ahead_processes == []


def test_a_kernel_that_another_process_compiles_is_waited_for_while_that_process_lives(monkeypatch, tmp_path):
    monkeypatch.setattr(compiling.config, "CACHE_DIR", str(tmp_path))
    cache = compiling.KernelCache(compiling.kernel)
    assert not cache._is_being_made()
    with cache.marked(), cache.marked():  # for arrays of two types at once
        assert not cache._is_being_made()  # by no process that was started here
        monkeypatch.setattr(compiling, "_ahead_processes", [os.getpid()])
        monkeypatch.setattr(compiling, "reap_ahead", lambda: None)
        monkeypatch.setattr(compiling, "LONGEST_WAIT", 0.05)
        began = time.monotonic()
        assert cache.load_overload(None, None) is None
        assert time.monotonic() - began >= 0.05
    assert not cache._is_being_made()
    with contextlib.suppress(ValueError), cache.marked():
        assert cache._is_being_made()
        raise ValueError
    assert not cache._is_being_made()


def compile_ahead(part, parts):
    model = RECIPES["default"].model()
    assert model.steps
    ahead.compile_ahead(compiling.describe(), part, parts)


def compiled_by_a_training_step():
    """The kernels, of those that are kept on disk, that a step of the default recipe has to compile."""
    names = set()

    class Listener(event.Listener):
        def on_start(self, event):
            dispatcher = event.data["dispatcher"]
            if isinstance(dispatcher._cache, FunctionCache):
                names.add(dispatcher.py_func.__qualname__.removesuffix(".launch"))

        def on_end(self, event):
            pass

    compiling.Announcer.helped = True
    with event.install_listener("numba:compile", Listener()):
        blank = np.zeros((8, 28, 28, 1), np.uint8), np.arange(8)
        RECIPES["default"].fit(RECIPES["default"].model(), blank, None, epochs=1)
    return " ".join(sorted(names))


@pytest.mark.slow
def test_compiling_ahead_leaves_only_the_batch_and_the_loss(tmp_path):
    for part in range(2):
        run(compile_ahead, part, 2, XDG_CACHE_HOME=tmp_path)
    left = run(compiled_by_a_training_step, XDG_CACHE_HOME=tmp_path).splitlines()[-1].split()
    assert left == ["_cross_entropy", "training._make_batch"]


def test_a_read_only_array_needs_no_kernel_of_its_own():
    (step,) = network_of(LeakyReLU(), (5,), np.float32).steps
    x = np.ones((2, 5), np.float32)
    expected = passes([step], x, x)
    x.flags.writeable = False
    with event.install_recorder("numba:compile") as compiled:
        assert_same_bits(passes([step], x, x), expected)
    assert compiled.buffer == []


@pytest.mark.slow
def test_two_cold_processes_at_once_share_a_cache(tmp_path, expected):
    both = [start(tiny_prediction, XDG_CACHE_HOME=tmp_path) for _ in range(2)]
    assert [finish(process)[0] for process in both] == [expected] * 2
    assert run(tiny_prediction, XDG_CACHE_HOME=tmp_path) == expected


def where_and_what():
    return minicnn.__file__, tiny_prediction()


@pytest.mark.slow
def test_a_read_only_install_works_and_is_left_alone(tmp_path, expected):
    site, cache = tmp_path / "read only", tmp_path / "cache"
    shutil.copytree(PACKAGE, site / "minicnn", ignore=shutil.ignore_patterns("__pycache__"))
    everything = sorted(site.rglob("*"))
    for path in [site, *everything]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    found = run(where_and_what, path=site, XDG_CACHE_HOME=cache, PYTHONDONTWRITEBYTECODE=None)
    for path in [site, *everything]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert found == str((str(site / "minicnn" / "__init__.py"), expected))
    assert sorted(path for path in site.rglob("*") if "__pycache__" not in path.parts) == everything
    assert list(cache.rglob("*.nbc"))
