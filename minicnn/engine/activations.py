"""Activations and sums, number by number: see minicnn/layers/activations.py for what they compute.

Faster because each is one pass over memory, dealt out to the threads, with no array in between.
"""

from __future__ import annotations

import math

import numpy as np

from minicnn import layers
from minicnn.engine.compiling import helper
from minicnn.engine.memory import Turns, contiguous
from minicnn.engine.step import Step
from minicnn.engine.threads import MOVED, chunk, parallel
from minicnn.layers.base import Layer

SLOPE = math.sqrt(2 / math.pi)
TANH = 400  # multiply-adds that take as long as a hyperbolic tangent


def flat(x: np.ndarray) -> np.ndarray:
    """All numbers of an array, one after another."""
    return contiguous(x).reshape(-1)


@helper
def _logistic(v):
    return type(v)(0.5) * (type(v)(1) + math.tanh(type(v)(0.5) * v))


# Each forward is a function of (part, x, y), each backward of (part, dy, x or y, dx).


@parallel
def _relu(part, x, y):
    for i in chunk(part, x.size):
        y[i] = x.dtype.type(0) if x[i] < 0 else x[i]


@parallel
def _relu_backward(part, dy, y, dx):
    for i in chunk(part, dy.size):
        dx[i] = dy[i] * 0 if y[i] <= 0 else dy[i]


@parallel
def _sigmoid(part, x, y):
    for i in chunk(part, x.size):
        y[i] = _logistic(x[i])


@parallel
def _sigmoid_backward(part, dy, y, dx):
    for i in chunk(part, dy.size):
        dx[i] = dy[i] * y[i] * (1 - y[i])


@parallel
def _tanh(part, x, y):
    for i in chunk(part, x.size):
        y[i] = math.tanh(x[i])


@parallel
def _tanh_backward(part, dy, y, dx):
    for i in chunk(part, dy.size):
        dx[i] = dy[i] * (1 - y[i] * y[i])


@parallel
def _gelu(part, x, y):
    for i in chunk(part, x.size):
        v = x[i]
        y[i] = 0.5 * v * (1 + math.tanh(SLOPE * (v + 0.044715 * v * v * v)))


@parallel
def _gelu_backward(part, dy, x, dx):
    for i in chunk(part, dy.size):
        v = x[i]
        t = math.tanh(SLOPE * (v + 0.044715 * v * v * v))
        dx[i] = dy[i] * (0.5 * (1 + t) + 0.5 * v * (1 - t * t) * SLOPE * (1 + 3 * 0.044715 * v * v))


@parallel
def _silu(part, x, y):
    for i in chunk(part, x.size):
        y[i] = x[i] * _logistic(x[i])


@parallel
def _silu_backward(part, dy, x, dx):
    for i in chunk(part, dy.size):
        s = _logistic(x[i])
        dx[i] = dy[i] * (s + x[i] * s * (1 - s))


@parallel
def _leaky_relu(part, x, slope, y):
    for i in chunk(part, x.size):
        y[i] = x[i] if x[i] > 0 else slope * x[i]


@parallel
def _leaky_relu_backward(part, dy, x, slope, dx):
    for i in chunk(part, dy.size):
        dx[i] = dy[i] if x[i] > 0 else slope * dy[i]


# Forward, backward, which of x and y backward reads, and the work of one number.
KERNELS = {
    layers.ReLU: (_relu, _relu_backward, "y", MOVED),
    layers.LeakyReLU: (_leaky_relu, _leaky_relu_backward, "x", MOVED),
    layers.Sigmoid: (_sigmoid, _sigmoid_backward, "y", TANH),
    layers.Tanh: (_tanh, _tanh_backward, "y", TANH),
    layers.GELU: (_gelu, _gelu_backward, "x", TANH),
    layers.SiLU: (_silu, _silu_backward, "x", TANH),
}


class Activation(Step):
    """An activation of the table above."""

    def __init__(self, layer: Layer, relu: Layer | None, turns: Turns | None):
        super().__init__(layer, relu, turns)
        self.kernel, self.kernel_backward, self.reads, self.cost = KERNELS[type(layer)]
        self.arguments = tuple(layer.config().values())

    def forward(self, x, training=False):
        y = self.y(x, training)
        self.kernel(self.cost * x.size, flat(x), *self._numbers(x.dtype), flat(y))
        if training:
            self.save_for_backward(x if self.reads == "x" else y)
        return y

    def backward(self, dy):
        (kept,) = self.saved
        dx = self.dx(dy.shape, dy.dtype)
        if self.needs_dx:
            self.kernel_backward(self.cost * dy.size, flat(dy), flat(kept), *self._numbers(dy.dtype), flat(dx))
        return dx

    def _numbers(self, dtype: np.dtype) -> list:
        """The layer's own arguments, as the kernels take them."""
        return [dtype.type(number) for number in self.arguments]


def relu_backward(dy: np.ndarray, y: np.ndarray, dx: np.ndarray) -> np.ndarray:
    """dx = 0 where y <= 0, else dy."""
    _relu_backward(MOVED * dy.size, flat(dy), flat(y), flat(dx))
    return dx


@parallel
def _add(part, a, b, relu, y):
    for i in chunk(part, a.size):
        v = a[i] + b[i]
        y[i] = a.dtype.type(0) if relu and v < 0 else v


def add(a: np.ndarray, b: np.ndarray, relu: bool, y: np.ndarray) -> None:
    """y = a + b, or where `relu` max(0, a + b): where a residual branch joins its shortcut."""
    _add(MOVED * y.size, flat(a), flat(b), relu, flat(y))
