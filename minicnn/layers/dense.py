"""Dense layers: every output sees every input."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from minicnn import initializers, ops
from minicnn.layers.activations import WithActivation
from minicnn.layers.base import Layer, positive
from minicnn.parameters import Parameters


class Flatten(Layer):
    """(h, w, c) to (h*w*c,): the same numbers in the same order."""

    def build(self, input_shape: tuple[int, ...], parameters: Parameters) -> tuple[int, ...]:
        return (math.prod(input_shape),)

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        if training:
            self.save(x.shape)
        return x.reshape(len(x), -1)

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        (x_shape,) = self.restore()
        return dy.reshape(x_shape)


class Dense(WithActivation):
    """y = x @ w + b: (c,) to (units,), weights w (c, units) and b (units,)."""

    def __init__(
        self,
        units: int,
        use_bias: bool = True,
        activation: str | None = None,
        kernel_initializer: str | Callable = "glorot",
    ):
        self.units = positive(units, "units")
        self.use_bias, self.kernel_initializer = use_bias, kernel_initializer
        self.set_activation(activation)

    def build(self, input_shape: tuple[int, ...], parameters: Parameters) -> tuple[int, ...]:
        if len(input_shape) != 1:
            raise self.shape_error(input_shape, "(c,): put a Flatten or a global pooling layer before it")
        self.w = parameters.add("w", (input_shape[0], self.units), initializers.get(self.kernel_initializer))
        self.b = parameters.add("b", (self.units,), initializers.zeros) if self.use_bias else None
        self.macs = input_shape[0] * self.units
        return (self.units,)

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        b = self.b.value if self.b else None
        y = ops.dense(x, self.w.value, b, self.relu, out=self.buffer("y", (len(x), self.units), x.dtype))
        if training:
            self.save(x, y)
        return self.activate(y, training)

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        x, y = self.restore()
        return ops.dense_backward(
            *(self.activate_backward(dy), x, self.w.value, y, self.w.grad, self.b.grad if self.b else None),
            relu=self.relu,
            need_dx=self.needs_dx,
            out=self.buffer("dx", x.shape, x.dtype) if self.needs_dx else None,
        )
