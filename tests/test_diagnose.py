"""Each planted mistake raises its own verdict, and what is right raises none."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest

from minicnn import BatchNorm, Conv2D, Dense, Flatten, Layer, MaxPool2D, ReLU, Sequential, Tanh, initializers
from minicnn.data import load_fashion_mnist
from minicnn.errors import DataError, ShapeError
from minicnn.learn.museum.flatten_disconnected import DisconnectedFlatten
from minicnn.optimizers import SGD, Adam
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
    "weights of 0": (
        "updates",
        lambda: Sequential(
            [Flatten(), Dense(9, kernel_initializer="zeros"), ReLU(), Dense(10, kernel_initializer="zeros")]
        ),
        *(X, Y, "adam"),
    ),
    "a gradient that is not passed on": (
        "updates",
        lambda: Sequential([Conv2D(8, 3, stride=2), ReLU(), DisconnectedFlatten(), Dense(10)]),
        *(X, Y, "adam"),
    ),
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


@pytest.mark.parametrize("zeros", ["all", "last"])
def test_weights_that_begin_at_0_and_can_move_raise_no_verdict(zeros):
    """A linear classifier may begin at 0, and so may the last layer of a network."""
    first = [] if zeros == "all" else [Dense(32, activation="relu")]
    found = Sequential([Flatten(), *first, Dense(10, kernel_initializer="zeros")]).diagnose(X, Y)
    assert found.ok, found
    assert "there is no Tanh or Sigmoid" in str(found)


@pytest.mark.parametrize("n", [1, 5, 20, 79])
def test_few_images_raise_no_false_alarm_and_no_warning(n):
    several = np.concatenate([np.flatnonzero(Y == k)[:8] for k in range(10)]).reshape(10, 8).T.ravel()[:n]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = network().diagnose(X[several], Y[several])
    assert set(found.wrong) <= {"labels"}, found
    assert "nan" not in str(found)
    assert "cannot be told with fewer than 80 images" in str(found)


def test_one_class_is_told_as_that_and_nothing_else():
    assert network().diagnose(X, np.zeros_like(Y)).wrong == ["labels"]


def test_a_network_that_did_not_learn_at_all_is_not_said_to_have_scrambled_labels():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = network().diagnose(X, Y, SGD(1000.0))
    assert "scrambled" in found.wrong
    assert "first see to what is said above" in str(found)
    assert "shuffled" not in str(found)
    assert "shuffled" in str(network().diagnose(X, Y[order(len(Y))]))


@pytest.mark.parametrize(
    ("last", "y", "error", "told"),
    [
        (Dense(10, activation="softmax"), Y, ValueError, "leave out the last Softmax"),
        (
            Dense(1),
            np.zeros_like(Y),
            ShapeError,
            r"dense_1: got output shape \(1,\), expected \(classes,\), at least 2",
        ),
        (Dense(10), Y.astype(float), DataError, "got float64 of shape"),
        (Dense(9), Y, DataError, "labels: got 9 at index"),
    ],
)
def test_what_cannot_be_diagnosed_is_refused(last, y, error, told):
    with pytest.raises(error, match=told):
        Sequential([Flatten(), last]).diagnose(X, y)


def test_an_image_to_image_network_is_refused():
    with pytest.raises(ShapeError, match="diagnose is for classifiers"):
        Sequential([Conv2D(1, 3, padding="same")]).diagnose(X, Y)


def test_the_readme_tells_of_it_what_it_does(capsys):
    text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    [block] = [b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "diagnose" in b]
    space = {"model": network(), "data": DATA}
    exec(block, space)
    assert capsys.readouterr().out.count("\n") == 10
    assert (space["pixels"].shape, space["places"].shape) == ((8, 28, 28, 1), (8, 28, 28))
    [printed] = re.findall(r"    LOOK  scrambled .*\n.*\n", text)
    found = str(network().diagnose(X, Y[order(len(Y))])).splitlines()[-2:]
    without_figures = [re.sub(r"\d+%", "N%", line).strip() for line in found]
    assert without_figures == [re.sub(r"\d+%", "N%", line).strip() for line in printed.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("recipe", RECIPES)
def test_no_recipe_raises_a_verdict(recipe, seed):
    found = (
        RECIPES[recipe].model(seed=seed).diagnose(X, Y, next(iter(RECIPES[recipe].optimizers.values()))(), seed=seed)
    )
    assert found.ok, found
