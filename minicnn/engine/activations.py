"""Activations and sums, number by number: see minicnn/layers/activations.py for what they compute.

Faster because each is one pass over memory, dealt out to the threads, with no array in between.
"""

from __future__ import annotations

import math
from types import FunctionType

import numpy as np

from minicnn import layers
from minicnn.engine.calls import MOVED, parallel
from minicnn.engine.compiling import helper
from minicnn.engine.exponentials import sigmoid, silu, silu_backward, tanh
from minicnn.engine.lanes import fill, fma, gate, load, maximum0, store, wide_and_single, zeros
from minicnn.engine.memory import Turns, contiguous
from minicnn.engine.step import Step
from minicnn.engine.threads import chunk, vectors
from minicnn.layers.base import Layer

EXP = 60  # multiply-adds that take as long as an exponential function
A, B = 2 * math.sqrt(2 / math.pi), 2 * math.sqrt(2 / math.pi) * 0.044715  # GELU is x * sigmoid(A * x + B * x**3)


def flat(x: np.ndarray) -> np.ndarray:
    """All numbers of an array, one after another."""
    return contiguous(x).reshape(-1)


def _forward(part, wide, single, x, y):
    like, one = zeros(x, wide)[0], zeros(x, single)[0]
    first, rest, last = vectors(part, x.size, like)
    for i in range(first, rest, len(like)):
        store(y, i, _formula(load(like, x, i)))  # noqa: F821  (_formula: see of_vectors)
    for i in range(rest, last):
        store(y, i, _formula(load(one, x, i)))  # noqa: F821


def _backward(part, wide, single, dy, kept, dx):
    like, one = zeros(dy, wide)[0], zeros(dy, single)[0]
    first, rest, last = vectors(part, dy.size, like)
    for i in range(first, rest, len(like)):
        store(dx, i, _formula(load(like, dy, i), load(like, kept, i)))  # noqa: F821
    for i in range(rest, last):
        store(dx, i, _formula(load(one, dy, i), load(one, kept, i)))  # noqa: F821


def of_vectors(formula):
    """A kernel that applies a formula of vectors, of x or of dy and what was kept, to arrays: (work, *arrays)."""
    loop = _forward if formula.__code__.co_argcount == 1 else _backward
    name = formula.__name__
    code = loop.__code__.replace(co_name=name)  # of its own: Numba would take equal code for the same function
    body = FunctionType(code, {**globals(), "_formula": helper(formula)}, name)
    body.__qualname__ = name
    run = parallel(body)
    return lambda work, *arrays: run(work, *wide_and_single(arrays[0].dtype), *arrays)


@of_vectors
def _relu(x):
    return maximum0(x)


@of_vectors
def _relu_backward(dy, y):
    return gate(dy, y)


@of_vectors
def _sigmoid(x):
    return sigmoid(x)


@of_vectors
def _sigmoid_backward(dy, y):
    return dy * (y * (fill(y, 1.0) - y))


@of_vectors
def _tanh(x):
    return tanh(x)


@of_vectors
def _tanh_backward(dy, y):
    return dy * fma(fill(y, -1.0) * y, y, fill(y, 1.0))


@of_vectors
def _gelu(x):
    return x * sigmoid(x * fma(B * x, x, fill(x, A)))


@of_vectors
def _gelu_backward(dy, x):
    s = sigmoid(x * fma(B * x, x, fill(x, A)))
    slope = x * fma(3 * B * x, x, fill(x, A))  # times x
    return dy * fma(s * slope, fill(s, 1.0) - s, s)


@of_vectors
def _silu(x):
    return silu(x)


@of_vectors
def _silu_backward(dy, x):
    return silu_backward(dy, x)


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
    layers.Sigmoid: (_sigmoid, _sigmoid_backward, "y", EXP),
    layers.Tanh: (_tanh, _tanh_backward, "y", EXP),
    layers.GELU: (_gelu, _gelu_backward, "x", EXP),
    layers.SiLU: (_silu, _silu_backward, "x", EXP),
}


class Activation(Step):
    """An activation of the table above."""

    def __init__(self, layer: Layer, activation: Layer | None, pool: Layer | None, turns: Turns | None):
        super().__init__(layer, activation, pool, turns)
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
