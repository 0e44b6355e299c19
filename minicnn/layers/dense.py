"""Dense layers: every output sees every input."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from minicnn import initializers
from minicnn.arguments import flag, integer
from minicnn.layers import activations
from minicnn.layers.base import Layer
from minicnn.parameters import Parameters


class Dense(Layer):
    """y = activation(x @ w + b): (c,) to (units,), weights w (c, units) and b (units,).

    In y[n, u] = b[u] + sum over c of x[n, c] * w[c, u], the weight w[c, u] meets x[n, c] for every image n; b[u] is
    added for every image; and x[n, c] is read by every unit u, with weight w[c, u]. So

        dw = x.T @ dy        db = sum of dy over the images        dx = dy @ w.T
    """

    def __init__(
        self,
        units: int,
        use_bias: bool = True,
        activation: str | None = None,
        kernel_initializer: str | Callable = "glorot",
    ):
        self.units = integer(units, "units")
        self.use_bias = flag(use_bias, "use_bias")
        self.kernel_initializer, self.initialize = kernel_initializer, initializers.get(kernel_initializer)
        self.activation, self.activate = activation, activations.get(activation)

    def build(self, input_shape: tuple[int, ...], parameters: Parameters) -> tuple[int, ...]:
        if len(input_shape) != 1:
            raise self.shape_error(input_shape, "(c,): put a Flatten or a global pooling layer before it")
        self.w = parameters.add("w", (input_shape[0], self.units), self.initialize)
        if self.use_bias:
            self.b = parameters.add("b", (self.units,), initializers.zeros)
        self.macs = input_shape[0] * self.units
        return (self.units,)

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        if training:
            self.save_for_backward(x)
        y = x @ self.w.value
        if self.use_bias:
            y = y + self.b.value
        return self.activate.forward(y, training)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        (x,) = self.saved
        dy = self.activate.backward(dy)
        self.w.grad[...] = x.T @ dy
        if self.use_bias:
            self.b.grad[...] = dy.sum(axis=0)
        return dy @ self.w.value.T


class Flatten(Layer):
    """(h, w, c) to (h*w*c,): the same numbers in the same order, and so are their gradients."""

    def build(self, input_shape: tuple[int, ...], parameters: Parameters) -> tuple[int, ...]:
        return (math.prod(input_shape),)

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        if training:
            self.save_for_backward(x.shape)
        return x.reshape(len(x), *self.output_shape)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        (x_shape,) = self.saved
        return dy.reshape(x_shape)
