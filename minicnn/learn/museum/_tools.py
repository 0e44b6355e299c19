"""What the exhibits' tests share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minicnn.gradcheck import gradcheck
from minicnn.layers import Layer
from minicnn.model import Sequential
from minicnn.parameters import Parameters


def normal(*shape: int) -> np.ndarray:
    """Random numbers, the same at every call."""
    return np.random.default_rng(0).standard_normal(shape)


def check_gradient(layers: Layer | Sequence[Layer], x: np.ndarray) -> None:
    """AssertionError with gradcheck's table where backward is not the derivative of forward."""
    report = gradcheck(layers, x)
    assert report.ok, f"the gradient is wrong\n{report}"


def check_that_the_loss_falls(layers: Sequence[Layer], optimizer="adam", loss="cross_entropy") -> None:
    """Train on 60 small images, bright to the left or to the right: the test that every first network passes."""
    labels = np.arange(60) % 2
    images = 0.5 * normal(60, 6, 6, 1)
    images[labels == 0, :, :3] += 1
    images[labels == 1, :, 3:] += 1
    model = Sequential(layers, (6, 6, 1))
    history = model.fit(images, labels, 4, batch_size=10, optimizer=optimizer, loss=loss, verbose=False)
    assert history["loss"][-1] < history["loss"][0], f"the loss does not fall: {history['loss']}"


def one_weight() -> Parameters:
    """A single weight, 0, for an optimizer to move."""
    parameters = Parameters("float64")
    parameters.add("w", (1,), lambda shape, rng: np.zeros(shape))
    parameters.allocate(np.random.default_rng(0))
    return parameters


def moves(optimizer, gradients: Sequence[float]) -> list[float]:
    """How far the optimizer moves one weight at each step, given these gradients one after another."""
    parameters, found = one_weight(), []
    for gradient in gradients:
        before = float(parameters.values[0])
        parameters.grads[...] = gradient
        optimizer.step(parameters)
        found.append(float(parameters.values[0]) - before)
    return found
