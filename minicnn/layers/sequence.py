"""Layers one after another: built, run forward, and run backward.

A *step* is whatever has a layer's `forward(x, training)` and `backward(dy)`. A layer is its own step; the engine makes
steps that stand for several layers. Between two steps shape and dtype are checked, so that no step ever sees what does
not fit, and a mistake is told by the name of the layer that made it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minicnn.errors import ShapeError
from minicnn.layers.base import Layer
from minicnn.parameters import Parameter, Parameters


def build(layers: Sequence[Layer], input_shape: tuple[int, ...], parameters: Parameters) -> tuple[int, ...]:
    """Build each layer for the output of the one before it; returns the last one's output shape."""
    shape = tuple(input_shape)
    for layer in layers:
        layer.input_shape, output = shape, layer.build(shape, parameters)
        if not isinstance(output, tuple) or not all(isinstance(n, int | np.integer) and n > 0 for n in output):
            raise ShapeError(
                f"{layer.title}: build returned {output!r}, expected the output's shape, such as (28, 28, 1)"
            )
        layer.output_shape = shape = tuple(int(n) for n in output)
        if isinstance(ending := getattr(layer, "activate", None), Layer):  # the activation that it ends in
            written = getattr(layer, "activation", None)
            ending.name = f"{layer.name}/{written}" if written else layer.name
            ending.input_shape = ending.output_shape = shape
    return shape


def forward(steps: Sequence[Layer], x: np.ndarray, training: bool) -> np.ndarray:
    """Each step's result is the next one's input."""
    for step in steps:
        y = step.forward(x, training)
        x = check(step, "forward", y, (len(x), *step.output_shape), x.dtype)
    return x


def backward(steps: Sequence[Layer], dy: np.ndarray) -> np.ndarray:
    """The same chain in reverse: each step's dx is the dy of the one before it."""
    for step in reversed(steps):
        dx = step.backward(dy)
        dy = check(step, "backward", dx, (len(dy), *step.input_shape), dy.dtype)
    return dy


def learn(steps: Sequence[Layer], dy: np.ndarray) -> None:
    """From dLoss/doutputs to the gradients of the steps' weights; nobody asks for the first one's dx."""
    first, *others = steps
    first.backward(backward(others, dy))


def check(step: Layer, method: str, result: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The result, if it is an array of this shape and dtype; else an error that names the layer."""
    if not isinstance(result, np.ndarray) or isinstance(result, np.ma.MaskedArray):
        raise ShapeError(f"{step.title}: {method} returned {type(result).__name__}, expected an array of shape {shape}")
    if result.shape != shape or result.dtype != dtype:
        got = f"{result.dtype} of shape {result.shape}"
        hint = "; write .astype(x.dtype)" if result.shape == shape else ""
        raise ShapeError(f"{step.title}: {method} returned {got}, expected {dtype} of shape {shape}{hint}")
    return result


def first_that_learns(steps: Sequence[Layer]) -> int:
    """The index of the first step with something to learn, or 0: nothing before it needs a gradient."""
    for i, step in enumerate(steps):
        if any(isinstance(w, Parameter) for layer in step.layers() for w in layer.weights()):
            return i
    return 0
