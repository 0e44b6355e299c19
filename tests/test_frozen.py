"""A frozen network gives what the layers give, up to rounding, and the same bits whatever the batch and the threads."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from test_steps import (
    BACKENDS,
    DRAWN,
    MANY,
    Own,
    OwnConv2D,
    assert_close,
    assert_same_bits,
    name_of,
    networks,
    networks_of,
    normal,
    quick,
    using_backend,
    using_threads,
)

from minicnn import BatchNorm, Conv2D, Dense, Dropout, Flatten, MaxPool2D, Residual, Sequential, layers
from minicnn.engine import program
from minicnn.errors import DataError, DivergedError, ShapeError
from minicnn.frozen import Frozen, folded
from minicnn.layers import sequence

KINDS = pytest.mark.parametrize("kind", DRAWN, ids=name_of)


def frozen(network):
    return Frozen(copy.deepcopy(network))


def small(seed=0, norm=True):
    """A model of every part that is done on the way: batch norm, ReLU and pools behind convolutions of both kinds."""
    block = Residual(Conv2D(32, 3), BatchNorm(activation="relu"), Conv2D(32, 3, use_bias=False), activation="relu")
    head = [Conv2D(32, 3, use_bias=False), BatchNorm(), MaxPool2D()] if norm else [Conv2D(32, 3), MaxPool2D()]
    tail = [block, MaxPool2D(), Conv2D(48, 3, activation="silu"), Dropout(0.5), Flatten(), Dense(10)]
    model = Sequential([*head, *tail], (14, 14, 1), seed=seed)
    rng = np.random.default_rng(seed)
    model.set_weights([w + 0.1 * np.abs(rng.standard_normal(w.shape)) * (w.ndim == 1) for w in model.get_weights()])
    return model


def images(n, kind=np.float32, seed=1):
    x = np.random.default_rng(seed).integers(0, 256, (n, 14, 14, 1))
    return x.astype(np.uint8) if kind is np.uint8 else (x / 128 - 1).astype(kind)


# ---------------------------------------------------------------------------------------------------------------
# The same numbers


@KINDS
@given(data=st.data())
@quick(20)
def test_a_frozen_layer_agrees_in_float32_on_many_channels(kind, data):
    network, x, _ = data.draw(networks_of(kind, np.float32, MANY, kinds=(normal,), batches=[2, 1, 19]))
    expected = sequence.forward(network.layers, x, False).copy()
    assert_close([frozen(network).outputs(x)], [expected], np.float32, units=512)


@given(networks())
@quick(200)
def test_a_frozen_network_agrees_with_its_layers_those_of_a_user_among_them(drawn):
    network, x, _ = drawn
    expected = sequence.forward(network.layers, x, False).copy()
    assert_close([frozen(network).outputs(x, batch_size=2)], [expected], np.float64, units=2**16)


@given(networks())
@quick(50)
def test_with_numpy_the_folded_layers_agree(drawn):
    network, x, _ = drawn
    with using_backend("numpy"):
        expected = sequence.forward(network.layers, x, False).copy()
        assert_close([frozen(network).outputs(x)], [expected], np.float64, units=2**16)


@given(networks())
@quick(50)
def test_a_frozen_network_gives_the_bits_of_each_image_alone(drawn):
    network, x, _ = drawn
    assume(not any(isinstance(layer, OwnConv2D) for layer in network.all_layers()))  # NumPy's product of its own
    ask = frozen(network)
    assert_same_bits([ask.outputs(x)], [np.concatenate([ask.outputs(x[i : i + 1]) for i in range(len(x))])])


def test_neither_the_batch_nor_the_threads_change_a_bit():
    ask, x = small().frozen(), images(70)
    alone = np.concatenate([ask.outputs(x[i : i + 1]) for i in range(70)])
    for threads in (1, 2, 4):
        with using_threads(threads):
            for n in (2, 3, 15, 16, 17, 33, 70):
                assert_same_bits([ask.outputs(x[:n])], [alone[:n]])


def test_batch_norm_is_folded_into_the_layer_before_it_and_dropout_is_gone():
    kinds = [type(layer) for layer in folded(small().layers)]
    assert kinds == [Conv2D, MaxPool2D, Residual, MaxPool2D, Conv2D, Flatten, Dense]
    model = Sequential([Conv2D(4, 3, activation="relu"), BatchNorm(), Flatten(), Dense(2)], (6, 6, 1))
    assert [type(layer) for layer in folded(model.layers)] == [Conv2D, BatchNorm, Flatten, Dense]  # ReLU is between


def test_known_layers_are_one_launch_and_a_users_own_splits_it():
    assert [type(step) for step in small().frozen().steps] == [program.Program]
    model = Sequential([Conv2D(4, 3), Own(), Flatten(), Dense(2)], (6, 6, 1))
    ask = model.frozen()
    assert [type(step) for step in ask.steps] == [program.Program, Own, program.Program]
    assert not np.shares_memory(ask.steps[1].w.value, model.layers[1].w.value)
    x = np.random.default_rng(0).standard_normal((5, 6, 6, 1)).astype(np.float32)
    before = ask.outputs(x)
    model.layers[1].w.value[...] = 7
    assert_same_bits([ask.outputs(x)], [before])


# ---------------------------------------------------------------------------------------------------------------
# What a model does, too


@BACKENDS
def test_predictions_are_those_of_the_model(backend):
    with using_backend(backend):
        model = small()
        model.scale.mean, model.scale.std = np.array([0.5]), np.array([0.5])
        ask = model.frozen()
        for kind in (np.uint8, np.float32, np.float64):
            x = images(9, kind)
            logits = model.forward(model.batch(x, np.arange(9))).copy()
            for told in (model, ask):
                np.testing.assert_allclose(told.outputs(x), logits, rtol=0, atol=1e-4)
                np.testing.assert_allclose(told.predict(x), layers.activations.softmax(logits), rtol=0, atol=1e-4)
                np.testing.assert_array_equal(told.predict_classes(x), logits.argmax(axis=1))
            both = (ask.outputs(x) + ask.outputs(np.ascontiguousarray(x[:, :, ::-1]))) / 2
            np.testing.assert_array_equal(ask.outputs(x, tta="flip"), both)
            np.testing.assert_allclose(ask.predict(x, tta="flip").sum(axis=1), 1, rtol=0, atol=1e-6)


@BACKENDS
def test_a_last_softmax_is_not_applied_twice(backend):
    with using_backend(backend):
        model = Sequential([Flatten(), Dense(3, activation="softmax")], (4, 4, 1))
        x = np.ones((2, 4, 4, 1), np.float32)
        np.testing.assert_array_equal(model.frozen().predict(x), model.frozen().outputs(x))


@BACKENDS
def test_errors_are_those_of_the_model(backend):
    with using_backend(backend):
        model = small()
        ask, x = model.frozen(), images(3)
        x[1, 2, 3, 0] = np.nan
        cases = [
            (x, {}, DataError),
            (np.full((2, 14, 14, 1), 1e300), {}, DataError),
            (np.full((2, 14, 14, 1), 3e38, np.float32), {}, DivergedError),
            (images(2)[:, :5], {}, ShapeError),
            (images(2, int), {}, DataError),
            (images(0), {}, DataError),
            (images(2), {"tta": "turn"}, ValueError),
            (images(2), {"batch_size": 0}, ValueError),
        ]
        for bad, arguments, kind in cases:
            told = []
            for asked in (model, ask):
                with pytest.raises(kind) as error, np.errstate(all="ignore"):
                    asked.outputs(bad, **arguments)
                told.append(str(error.value))
            assert told[0] == told[1]


def test_images_are_not_changed_and_any_order_of_memory_will_do():
    ask, x = small().frozen(), images(5)
    expected, read_only = ask.outputs(x), x.copy()
    read_only.flags.writeable = False
    for other in (read_only, np.asfortranarray(x), x[::-1][::-1], x[..., 0]):
        assert_same_bits([ask.outputs(other)], [expected])
    np.testing.assert_array_equal(x, read_only)


def test_a_frozen_model_is_a_copy_and_the_model_is_never_stale():
    model, x = small(), images(4)
    ask = model.frozen()
    before = ask.outputs(x)
    assert_same_bits([model.outputs(x)], [before])
    for array in model.arrays().values():  # by the user's own hand
        array.value.ravel()[-1] += 1
        changed = model.outputs(x)
        assert not np.array_equal(changed, before), array.name
        assert_same_bits([model.frozen().outputs(x)], [changed])
        array.value.ravel()[-1] -= 1
    assert_same_bits([ask.outputs(x)], [before])
    model.set_weights(small(seed=1).get_weights())
    assert_same_bits([model.outputs(x), ask.outputs(x)], [small(seed=1).frozen().outputs(x), before])
    norm = next(layer for layer in model.layers if isinstance(layer, BatchNorm))
    was, norm.epsilon = model.outputs(x), 1.0
    assert not np.array_equal(model.outputs(x), was)


def test_it_can_be_pickled_and_asked_from_several_threads_at_once():
    ask, x = small().frozen(), images(40)
    expected = ask.outputs(x)
    assert_same_bits([pickle.loads(pickle.dumps(ask)).outputs(x), copy.deepcopy(ask).outputs(x)], [expected] * 2)
    found = []
    some = [threading.Thread(target=lambda: found.append(ask.outputs(x))) for _ in range(4)]
    for thread in some:
        thread.start()
    for thread in some:
        thread.join()
    assert_same_bits(found, [expected] * 4)


def test_it_goes_on_with_another_backend():
    ask, x = small().frozen(), images(4)
    expected = ask.outputs(x)
    with using_backend("numpy"):
        np.testing.assert_allclose(ask.outputs(x), expected, rtol=0, atol=1e-4)
    assert_same_bits([ask.outputs(x)], [expected])


def test_it_says_what_it_is():
    model = Sequential([Flatten(), Dense(2)], (4, 4, 1))
    assert repr(model.frozen()) == "Frozen(Flatten, Dense: (4, 4, 1) to (2,))"
