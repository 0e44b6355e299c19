"""precision="bfloat16": what is rounded, how far it is from float32, and what stays float32 to the bit.

The same checks run on compiled kernels and in plain Python. Where a processor has no bfloat16, the compiled half of a test
is that a network says so.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import pickle
import platform

import numpy as np
import pytest
from numba import njit
from test_engine import AVX2_ONLY, run
from test_steps import assert_same_bits, using_backend, using_threads

import minicnn
from minicnn import (
    BatchNorm,
    Checkpoint,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    MaxPool2D,
    Residual,
    Sequential,
    optimizers,
)
from minicnn.callbacks import Callback
from minicnn.engine import calls, compile, lanes
from minicnn.engine.lanes import PAIR, Block, has_bfloat16
from minicnn.errors import CheckpointError
from minicnn.layers import sequence
from minicnn.parameters import Parameter

LACKING = 'precision: got "bfloat16", which takes a processor with AVX512_BF16 and Numba 0.62; expected "float32"'
ON_NUMPY = 'precision: got "bfloat16" with backend "numpy", which has none; expected "float32"'
UNIT = 2.0**-8  # a number that is rounded changes by half of it at most, as a share of itself
# Of the results' root mean square, that of their errors. One product: two roundings, each of up to UNIT / 2, of evenly
# spread errors; Winograd's transforms make them five times as large.
DENSE, WINOGRAD = UNIT, 5 * UNIT


@pytest.fixture(autouse=True)
def kernels_run():
    minicnn.use_backend("numba")


def message_of(function):
    """What an error says that is one line, or "none"."""
    try:
        function()
    except ValueError as error:
        return str(error)
    return "none"


def tiny():
    return Sequential([Dense(4)], (6,), precision="bfloat16")


def compiled(check):
    """A test on compiled kernels; where the processor has no bfloat16 for them, that a network says so."""

    @functools.wraps(check)
    def test(*arguments, **fixtures):
        if has_bfloat16():
            check(*arguments, **fixtures)
        else:
            assert message_of(tiny) == LACKING

    return test


# ---------------------------------------------------------------------------------------------------------------
# Pairs

WIDTHS = [2, 8, 16, 32]  # of vectors
SUMS = [(1, 16), (4, 32), (8, 32)]  # rows and lanes


@njit
def store_pairs(block, x, pairs, neighbours):
    """Pairs of x's first vector and its second; and of neighbours in the first."""
    like = lanes.zeros(x, block)[0]
    v, w = lanes.load(like, x, 0), lanes.load(like, x, len(like))
    lanes.store(pairs, 0, lanes.pair(v, w))
    lanes.store(neighbours, 0, v)


@njit
def add_products(block, a, b, sums, out):
    """Row i of out = row i of sums + a[i + 1] * b."""
    none = lanes.zeros(sums, block)
    rows = lanes.strided(len(none[0]), 0, len(none), none)
    total, ones = lanes.load_rows(none[0], sums, rows, 0), lanes.strided(1, 0, len(none), none)
    lanes.store_rows(out, rows, 0, lanes.multiply_add(a, ones, 1, lanes.load(none[0], b, 0), total))


def numbers_to_round():
    """All kinds of float32 numbers, many halfway between two bfloat16 ones or next to that; a multiple of 64."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 2048, dtype=np.uint32)
    halfway = (bits[:1024] & np.uint32(0xFFFF0000)) + rng.choice([0x7FFF, 0x8000, 0x8001], 1024).astype(np.uint32)
    least = np.finfo(np.float32).tiny
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, least, np.nextafter(least, 0), 1e-45, -1e-40, 3.4e38, -3.4e38]
    special = np.resize(np.array(special, np.float32), 64).view(np.uint32)
    return np.concatenate([bits, halfway, special]).view(np.float32)


def to_bfloat16(x):
    """The nearest number of 8 bits, of two the even one; 0 where x is smaller than a normal number, infinite beyond all."""
    with np.errstate(all="ignore"):
        fraction, exponent = np.frexp(x.astype(float))
        near = np.ldexp(np.rint(fraction * 256), exponent - 8).astype(np.float32)
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), x), near)


def halves(pairs):
    """The two numbers of each pair."""
    return (pairs << 16).view(np.float32), (pairs & np.uint32(0xFFFF0000)).view(np.float32)


def rounded_numbers():
    """For each width the pairs (2, numbers / 2) of vectors, and of neighbours."""
    found, x = [], numbers_to_round()
    for width in WIDTHS:
        out = np.zeros((2, x.size // 2), PAIR)
        for i in range(0, x.size, 2 * width):
            pairs, neighbours = np.zeros(width, PAIR), np.zeros((2, width // 2), PAIR)
            store_pairs(Block(1, width), x[i : i + 2 * width], pairs, neighbours[0])
            store_pairs(Block(1, width), np.roll(x[i : i + 2 * width], -width), np.zeros(width, PAIR), neighbours[1])
            out[:, i // 2 : i // 2 + width] = pairs, neighbours.reshape(-1)
        found.append(out)
    return found


def factors(kind, rows, n):
    """Pairs a and b, and sums (rows, n), of small whole numbers, of normal ones, or some of which are not finite."""
    rng = np.random.default_rng(rows * n)
    shapes = (2, rows + 1), (2, n), (rows, n)
    if kind == "whole":
        a, b, sums = (rng.integers(-9, 10, shape).astype(np.float32) for shape in shapes)
    else:
        a, b, sums = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    if kind == "not finite":
        for array in (a, b, sums):
            array.reshape(-1)[1::5] = np.resize(np.array([np.nan, np.inf, -np.inf], np.float32), array.size)[1::5]
    a, b = (to_bfloat16(v).view(np.uint32) >> 16 for v in (a, b))
    return *(v[0] | v[1] << 16 for v in (a, b)), sums


KINDS = ["whole", "normal", "not finite"]


def sums_of_products():
    """The sums of each kind and shape."""
    found = []
    for kind in KINDS:
        for rows, n in SUMS:
            a, b, sums = factors(kind, rows, n)
            out = np.full((rows, n), 77, np.float32)
            add_products(Block(rows, n), a, b, sums.reshape(-1), out.reshape(-1))
            found.append(out)
    return found


def save_results(path):
    with np.errstate(all="ignore"):
        np.savez(path, *rounded_numbers(), *sums_of_products())


@pytest.fixture(scope="module")
def in_plain_python(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "results.npz"
    run(save_results, str(path), NUMBA_DISABLE_JIT=1)
    with np.load(path) as file:
        found = list(file.values())
    return found[: len(WIDTHS)], found[len(WIDTHS) :]


def assert_same_numbers(got, expected):
    """The same bits, but of NaN."""
    np.testing.assert_array_equal(got, expected)
    there = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(got[there]), np.signbit(expected[there]))


def check_rounding(found):
    x = numbers_to_round()
    expected = to_bfloat16(x)
    assert np.isnan(expected).any() and np.isinf(expected[np.isfinite(x)]).any()
    assert (expected[:2048] != x[:2048]).mean() > 0.9
    for width, (pairs, neighbours) in zip(WIDTHS, found, strict=True):
        first_and_second = np.stack(halves(pairs)).reshape(2, -1, width).swapaxes(0, 1)
        assert_same_numbers(first_and_second.reshape(-1), expected)
        assert_same_numbers(np.stack(halves(neighbours), axis=1).reshape(-1), expected)


def check_sums(found):
    cases = [(kind, *shape) for kind in KINDS for shape in SUMS]
    for (kind, rows, n), got in zip(cases, found, strict=True):
        a, b, sums = factors(kind, rows, n)
        with np.errstate(all="ignore"):
            products = [np.outer(v[1:], w) for v, w in zip(*(np.float64(halves(v)) for v in (a, b)), strict=True)]
            exact, size = sums + products[0] + products[1], abs(sums) + abs(products[0]) + abs(products[1])
        finite = np.isfinite(exact)
        assert finite.all() == (kind != "not finite")
        assert_same_numbers(got[~finite], exact[~finite].astype(np.float32))
        allowed = 0 if kind == "whole" else 2.0**-23 * size[finite]
        assert (np.abs(got[finite] - exact[finite]) <= allowed).all()
        if kind == "whole":
            assert len(np.unique(got)) > 9


@compiled
def test_numbers_are_rounded_to_the_nearest_or_the_even_one_and_stay_nan_and_infinite():
    check_rounding(rounded_numbers())


@compiled
def test_two_products_are_added_to_each_sum():
    check_sums(sums_of_products())


def test_plain_python_rounds_and_adds_so_too(in_plain_python):
    rounded, sums = in_plain_python
    check_rounding(rounded)
    check_sums(sums)


@compiled
def test_pairs_are_the_same_compiled_and_in_plain_python(in_plain_python):
    for got, expected in zip(rounded_numbers(), in_plain_python[0], strict=True):
        for one, other in zip(halves(got), halves(expected), strict=True):
            assert_same_numbers(one, other)
    for got, expected in zip(sums_of_products(), in_plain_python[1], strict=True):
        assert_same_numbers(got, expected)


# ---------------------------------------------------------------------------------------------------------------
# Layers


def network(precision, layers, shape):
    """Random weights, the same in both precisions; every step gives dx."""
    made = Sequential(eval(repr(layers), vars(minicnn)), shape, precision=precision)
    made.parameters.values[...] = np.random.default_rng(1).standard_normal(made.parameter_count) / 8
    for step in made.steps:
        step.needs_dx = True
    return made


def numbers(n, network):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((n, *s)).astype(np.float32) for s in (network.input_shape, network.output_shape)]


def backward(network, dy):
    """dx, and the gradients of weights."""
    dx = sequence.backward(network.steps, dy.copy()).copy()
    return dx, [w.grad.copy() for w in network.arrays().values() if isinstance(w, Parameter)]


def error(got, expected):
    """The root mean square of the errors, as a share of that of what is expected."""
    got, expected = got.astype(float), expected.astype(float)
    return float(np.sqrt(np.square(got - expected).sum() / np.square(expected).sum()))


def in_float32_from_here(network):
    """The same forward pass, with its gates and its largest numbers, and from it the backward pass in float32."""
    for step in compile._all(network.steps):
        step.bfloat16 = False


def check_convolution(layers, shape, n):
    low, full = (network(precision, layers, shape) for precision in ("bfloat16", "float32"))
    x, dy = numbers(n, low)
    y, expected = (sequence.forward(one.steps, x.copy(), True).copy() for one in (low, full))
    dx, gradients = backward(low, dy)
    again = backward(low, dy)
    assert_same_bits([again[0], *again[1]], [dx, *gradients])  # so that nothing but the precision changes below
    in_float32_from_here(low)
    expected_dx, expected_gradients = backward(low, dy)
    if n == 0:
        assert (y.shape, dx.shape) == ((0, *low.output_shape), (0, *shape))
        assert not any(gradient.any() for gradient in gradients)
        return
    assert 0 < error(y, expected) < WINOGRAD
    assert 0 < error(dx, expected_dx) < WINOGRAD
    if len(layers) == 1 and not isinstance(layers[0], Residual):
        assert_same_bits(gradients, expected_gradients)  # their x and dy are the same
    else:
        for got, gradient in zip(gradients, expected_gradients, strict=True):
            assert error(got, gradient) < WINOGRAD


CONVOLUTIONS = [
    ([Conv2D(32, 3)], (9, 4, 32)),
    pytest.param([Conv2D(16, 3, use_bias=False)], (4, 8, 48), marks=pytest.mark.slow),  # kernels of their own
    ([Conv2D(64, 3, activation="relu")], (8, 4, 32)),
    ([Conv2D(32, 3), MaxPool2D()], (7, 8, 64)),
    ([Conv2D(32, 3, activation="relu"), MaxPool2D()], (8, 8, 32)),
    ([Residual(Conv2D(32, 3))], (3, 8, 32)),
    ([Residual(Conv2D(32, 3, activation="relu"), Conv2D(32, 3), activation="relu")], (3, 8, 32)),
    ([Residual(Conv2D(32, 3), projection=Conv2D(32, 1))], (4, 3, 64)),
    ([Conv2D(32, 3, activation="relu"), MaxPool2D(), Conv2D(32, 3), Flatten(), Dense(10)], (8, 8, 32)),
]


@compiled
@pytest.mark.parametrize("n", [9, 1, 0])
@pytest.mark.parametrize(("layers", "shape"), CONVOLUTIONS, ids=repr)
def test_a_3x3_convolution_is_as_near_to_float32_as_its_rounding_and_its_dw_is_the_same(layers, shape, n):
    check_convolution(layers, shape, n)


@compiled
@pytest.mark.parametrize("size", [7, 14])
def test_tiles_of_7x7_stay_in_float32(size):
    low, full = (network(precision, [Conv2D(32, 3)], (size, size, 32)) for precision in ("bfloat16", "float32"))
    x, dy = numbers(3, low)
    found, expected = ([sequence.forward(one.steps, x.copy(), True).copy(), *backward(one, dy)] for one in (low, full))
    assert_same_bits([*found[:2], *found[2]], [*expected[:2], *expected[2]])


def check_dense(d, units, activation, n):
    """Of exactly rounded factors the product, where they make pairs; else what float32 gives."""
    low, full = (
        network(precision, [Dense(units, activation=activation)], (d,)) for precision in ("bfloat16", "float32")
    )
    x, dy = numbers(n, low)
    y, expected = (sequence.forward(one.steps, x.copy(), True).copy() for one in (low, full))
    dx, gradients = backward(low, dy)
    w, b = (array.value for array in low.arrays().values())
    if d % 2 == 0:
        exact = to_bfloat16(x).astype(float) @ to_bfloat16(w).astype(float) + b
        exact = np.maximum(exact, 0) if activation else exact
        np.testing.assert_allclose(y, exact, rtol=0, atol=1e-6 * max(d, 16))
        if y.size > 50:
            assert 0 < error(y, expected) < DENSE
    else:
        assert_same_bits([y], [expected])
    gated = np.where(y > 0, dy, 0) if activation else dy
    in_float32_from_here(low)
    expected_dx, expected_gradients = backward(low, dy)
    assert_same_bits(gradients, expected_gradients)
    if units % 2 == 0:
        exact = to_bfloat16(gated).astype(float) @ to_bfloat16(w).astype(float).T
        np.testing.assert_allclose(dx, exact, rtol=0, atol=1e-6 * max(units, 16))
        if dx.size > 50:
            assert 0 < error(dx, expected_dx) < DENSE
    else:
        assert_same_bits([dx], [expected_dx])
    assert dx.shape == (n, d)


SIZES = [(100, 256), (101, 256), (600, 64), (100, 33), (33, 7), (2, 10), (7, 2), (2, 1), (1, 2), (1, 1)]


@compiled
@pytest.mark.parametrize("n", [0, 1, 2, 40])
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize(("d", "units"), SIZES)
def test_a_dense_layer_multiplies_rounded_numbers_where_they_make_pairs(d, units, activation, n):
    check_dense(d, units, activation, n)


def check_all():
    for case in CONVOLUTIONS:
        layers, shape = getattr(case, "values", case)
        check_convolution(layers, shape, 2)
    for d, units in ((100, 32), (101, 33), (6, 5)):
        for n in (0, 1, 3):
            check_dense(d, units, "relu", n)
    return "all"


def test_all_of_it_runs_as_plain_python_on_any_processor():
    assert run(check_all, NUMBA_DISABLE_JIT=1) == "all"


@compiled
@pytest.mark.parametrize(
    "layer", [Conv2D(32, 5), Conv2D(32, 3, stride=2), Conv2D(32, 1), Conv2D(6, 3), BatchNorm()], ids=repr
)
def test_every_other_layer_trains_in_float32(layer):
    found = []
    for precision in ("float32", "bfloat16"):
        one = network(precision, [layer], (7, 6, 32))
        x, dy = numbers(5, one)
        y = sequence.forward(one.steps, x, True).copy()
        dx, gradients = backward(one, dy)
        found.append([y, dx, *gradients])
    assert_same_bits(*found)


# ---------------------------------------------------------------------------------------------------------------
# Models


def images(n=96):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, 12, 12, 1)).astype(np.uint8), rng.integers(0, 10, n)


def model(precision="bfloat16"):
    first = [Conv2D(32, 3, activation="relu"), Conv2D(32, 3, use_bias=False), MaxPool2D(), BatchNorm(activation="relu")]
    rest = [Residual(Conv2D(32, 3)), Flatten(), Dense(64, activation="relu"), Dropout(0.2), Dense(10)]
    return Sequential([*first, *rest], (12, 12, 1), precision=precision)


def trained(precision="bfloat16", **options):
    made, (x, y) = model(precision), images()
    made.fit(x, y, batch_size=32, optimizer=optimizers.SGD(0.05), verbose=False, **options)
    return made


def weights_of(model):
    return b"".join(w.tobytes() for w in model.get_weights())


@compiled
def test_a_model_learns_and_predicts_nearly_what_it_does_in_float32_and_not_the_same():
    low, full = trained(), trained("float32")
    learnt, start = (np.frombuffer(weights_of(one), np.float32) for one in (low, model()))
    expected = np.frombuffer(weights_of(full), np.float32)
    assert 0 < error(learnt - start, expected - start) < 0.1
    full.set_weights(low.get_weights())
    x, _ = images()
    assert 0 < error(low.outputs(x), full.outputs(x)) < WINOGRAD
    assert 0 < error(low.frozen().outputs(x), full.frozen().outputs(x)) < WINOGRAD


@compiled
def test_a_models_answer_is_the_same_in_any_batch():
    made, (x, _) = trained(), images()
    together = made.outputs(x)
    for part in (x[:1], x[5:8], x[::-1]):
        at = {1: slice(1), 3: slice(5, 8)}.get(len(part), slice(None, None, -1))
        assert_same_bits([made.outputs(part, batch_size=7)], [together[at]])


def bits_of_threads():
    """How many threads there are, and how many different things one, two, four and eight learn and predict."""
    found = []
    for count in (1, 2, 4, 8):
        calls.SMALL = 0
        with using_threads(count):
            made = trained()
            found.append(hashlib.sha256(weights_of(made) + made.outputs(images()[0]).tobytes()).hexdigest())
    return minicnn.get_threads(), len(set(found))


@compiled
def test_one_two_four_and_eight_threads_learn_and_predict_the_same_bits():
    assert run(bits_of_threads, NUMBA_NUM_THREADS=8) == "(8, 1)"


@compiled
def test_a_copy_and_a_pickle_keep_the_precision_and_a_file_does_not(tmp_path):
    made, (x, _) = trained(), images()
    expected = made.outputs(x)
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made)), eval(repr(made), vars(minicnn))):
        assert other.precision == "bfloat16"
        other.set_weights(made.get_weights())
        other.scale.learn(x)
        assert_same_bits([other.outputs(x), other.steps[1].bfloat16], [expected, True])
    assert_same_bits([pickle.loads(pickle.dumps(made.frozen())).outputs(x)], [made.frozen().outputs(x)])
    made.save(tmp_path / "model.npz")
    loaded, again = minicnn.load(tmp_path / "model.npz"), model()
    again.load_weights(tmp_path / "model.npz")
    assert (loaded.precision, again.precision) == ("float32", "bfloat16")
    assert loaded.outputs(x).tobytes() != expected.tobytes()
    assert_same_bits([again.outputs(x)], [expected])


class Dies(Callback):
    """Ends a run after so many steps."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, run):
        if run.step == self.step:
            raise ZeroDivisionError


@compiled
@pytest.mark.parametrize(("begun", "goes_on"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_a_run_goes_on_in_its_own_precision_only(begun, goes_on, tmp_path):
    def run_in(precision, dies):
        checkpoint = Checkpoint(tmp_path / "run.npz", every=1)
        return weights_of(trained(precision, checkpoint=checkpoint, epochs=2, callbacks=[Dies(dies)]))

    with pytest.raises(ZeroDivisionError):
        run_in(begun, dies=4)
    with pytest.raises(CheckpointError, match=f"precision: got {goes_on}, the run had {begun}") as caught:
        run_in(goes_on, dies=None)
    assert len(str(caught.value).splitlines()) == 1
    assert run_in(begun, dies=None) == weights_of(trained(begun, epochs=2))


# ---------------------------------------------------------------------------------------------------------------
# Errors


def test_another_precision_is_an_error():
    message = """precision: got 'float16', expected "float32" or "bfloat16\""""
    assert message_of(lambda: Sequential([Dense(4)], (6,), precision="float16")) == message


def test_numpy_has_no_bfloat16():
    with using_backend("numpy"):
        assert message_of(tiny) == ON_NUMPY


@compiled
def test_a_network_in_bfloat16_is_refused_by_numpy_each_time_and_runs_again_with_numba():
    made, x = tiny(), np.ones((2, 6), np.float32)
    expected = made.forward(x).copy()
    with using_backend("numpy"):
        for _ in range(2):
            assert message_of(lambda: made.forward(x)) == ON_NUMPY
            assert message_of(lambda: made.outputs(x)) == ON_NUMPY
            assert message_of(lambda: made.fit(x, np.array([0, 1]), verbose=False)) == ON_NUMPY
    assert_same_bits([made.forward(x)], [expected])


@compiled
def test_float64_is_an_error():
    message = 'precision: got "bfloat16" for a network of dtype "float64", expected dtype "float32"'
    assert message_of(lambda: Sequential([Dense(4)], (6,), dtype="float64", precision="bfloat16")) == message


def messages_of_a_lesser_processor(pickled):
    """What a network says that is made here, and one that was made elsewhere when it is to run."""
    made, x = pickle.loads(pickled), np.ones((2, 6), np.float32)
    told = [message_of(function) for function in (tiny, lambda: made.forward(x), lambda: made.outputs(x))]
    return len(told), *set(told)


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="AVX2 is an x86-64 processor's")
def test_a_processor_without_bfloat16_is_an_error_also_to_a_network_that_was_made_elsewhere():
    made = Sequential([Dense(4)], (6,))
    made.precision = "bfloat16"
    assert run(messages_of_a_lesser_processor, pickle.dumps(made), **AVX2_ONLY) == str((3, LACKING))
