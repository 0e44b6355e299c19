"""Each planted mistake raises its own verdict, and what is right raises none."""

from __future__ import annotations

import numpy as np
import pytest

from minicnn import BatchNorm, Conv2D, Dense, Flatten, Layer, MaxPool2D, ReLU, Sequential, Tanh, initializers
from minicnn.data import load_fashion_mnist
from minicnn.optimizers import Adam
from minicnn.recipes import RECIPES

DATA = load_fashion_mnist("sample", verbose=False)
X, Y = DATA.train_images, DATA.train_labels


def network(*more, **options):
    first = Conv2D(8, 3, stride=2, **options)
    return Sequential([first, BatchNorm(), ReLU(), *more, Conv2D(16, 3), ReLU(), MaxPool2D(), Flatten(), Dense(10)])


class Mixed(Layer):
    """Turns the batch around instead of the image."""

    def forward(self, x, training=False):
        return x[::-1].copy()

    def backward(self, dy):
        return dy[::-1].copy()


class Uphill(Dense):
    """A sign is wrong in its gradient."""

    def backward(self, dy):
        dx = super().backward(dy)
        self.w.grad[...] *= -1
        self.b.grad[...] *= -1
        return dx


def dead():
    model = network()
    model.layers[1].beta.value[...] = -100
    return model


def saturated():
    model = Sequential([Conv2D(8, 3, stride=2), Tanh(), Flatten(), Dense(10)])
    model.layers[0].w.value[...] *= 100
    return model


def large(shape, rng):
    return 30 * initializers.he(shape, rng)


def order(n):
    return np.random.default_rng(0).permutation(n)


PLANTED = {
    "one class": ("labels", network, X, np.zeros_like(Y), "adam"),
    "floats up to 255": ("scale", network, X.astype(np.float32), Y, "adam"),
    "large weights": ("start", lambda: Sequential([Flatten(), Dense(10, kernel_initializer=large)]), X, Y, "adam"),
    "a batch turned around": ("leak", lambda: network(Mixed()), X, Y, "adam"),
    "a bias of -100": ("dead", dead, X, Y, "adam"),
    "tanh at its ends": ("saturated", saturated, X, Y, "adam"),
    "uphill": ("overfit", lambda: Sequential([Flatten(), Uphill(10)]), X, Y, "adam"),
    "a rate of 10": ("updates", network, X, Y, Adam(10.0)),
    "a rate of 1e-9": ("updates", network, X, Y, Adam(1e-9)),
    "black images": ("blank", network, X // 255 * 0, Y, "adam"),
    "shuffled labels": ("scrambled", network, X, Y[order(len(Y))], "adam"),
    "shuffled images": ("scrambled", network, X[order(len(X))], Y, "adam"),
}


@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_mistake_raises_its_own_verdict(case):
    name, make, x, y, optimizer = PLANTED[case]
    found = make().diagnose(x, y, optimizer)
    assert name in found.wrong, found
    assert not found.ok
    assert str(found).count("->") == len(found.wrong)


@pytest.mark.parametrize("seed", range(3))
def test_a_network_that_learns_raises_no_verdict_and_stays_as_it_is(seed):
    model = network()
    before, scale = model.get_weights(), model.scale.mean
    found = model.diagnose(X, Y, seed=seed)
    assert found.ok, found
    assert model.scale.mean is scale
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("recipe", RECIPES)
def test_no_recipe_raises_a_verdict(recipe, seed):
    found = (
        RECIPES[recipe].model(seed=seed).diagnose(X, Y, next(iter(RECIPES[recipe].optimizers.values()))(), seed=seed)
    )
    assert found.ok, found
