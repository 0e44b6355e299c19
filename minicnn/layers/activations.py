"""Activations: the bend between two linear layers, without which a deep network would be one matrix.

Each works number by number, on any shape; only softmax looks at a whole row.
"""

from __future__ import annotations

import math

import numpy as np

from minicnn.arguments import choice, number
from minicnn.layers.base import Layer


class Activation(Layer):
    """y = f(x), number by number: the base of those that give `f` and its `derivative`. Then dx = dy * f'(x)."""

    def f(self, x: np.ndarray) -> np.ndarray:
        """The function."""
        raise NotImplementedError(f"{self.title}: f is missing")

    def derivative(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Its derivative at x, where its value is y: some are shorter to write in terms of the one, some of the other."""
        raise NotImplementedError(f"{self.title}: derivative is missing")

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        y = self.f(x)
        if training:
            self.save_for_backward(x, y)
        return y

    def backward(self, dy: np.ndarray) -> np.ndarray:
        return dy * self.derivative(*self.saved)


class ReLU(Activation):
    """max(0, x): slope 1 where x > 0 and 0 where x <= 0. At NaN the slope is 1 too, so that no NaN is hidden."""

    def f(self, x):
        return np.maximum(x, 0)

    def derivative(self, x, y):
        return ~(y <= 0)


class LeakyReLU(Activation):
    """x where x > 0, negative_slope * x elsewhere (Maas, Hannun and Ng, 2013)."""

    def __init__(self, negative_slope: float = 0.01):
        self.negative_slope = number(negative_slope, "negative_slope", least=-1e30, most=1e30)

    def f(self, x):
        return np.where(x > 0, x, self.negative_slope * x)

    def derivative(self, x, y):
        return np.where(x > 0, 1, self.negative_slope).astype(x.dtype)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), written with tanh, which cannot overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


class Sigmoid(Activation):
    """1 / (1 + exp(-x))."""

    def f(self, x):
        return sigmoid(x)

    def derivative(self, x, y):
        return y * (1 - y)


class Tanh(Activation):
    """The hyperbolic tangent."""

    def f(self, x):
        return np.tanh(x)

    def derivative(self, x, y):
        return 1 - y * y


class GELU(Activation):
    """x times the probability that a standard normal number is below x, in the tanh form of Hendrycks and Gimpel (2016).

    y = 0.5 * x * (1 + tanh(u))        u = sqrt(2/pi) * (x + 0.044715 * x**3)
    """

    def f(self, x):
        return 0.5 * x * (1 + np.tanh(self._u(x)))

    def derivative(self, x, y):
        t = np.tanh(self._u(x))
        du = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
        return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du  # the product rule

    def _u(self, x):
        return math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)


class SiLU(Activation):
    """x * sigmoid(x), also called swish (Elfwing, Uchibe and Doya, 2017)."""

    def f(self, x):
        return x * sigmoid(x)

    def derivative(self, x, y):
        s = sigmoid(x)
        return s + x * s * (1 - s)  # the product rule


class Identity(Activation):
    """y = x: the activation of a layer that has none."""

    def f(self, x):
        return x

    def derivative(self, x, y):
        return x.dtype.type(1)


def softmax(x: np.ndarray) -> np.ndarray:
    """exp(x) / sum(exp(x)) along the last axis; the largest x is subtracted first so that exp cannot overflow."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


class Softmax(Layer):
    """Probabilities along the last axis. A classifier trains on logits and needs none: `predict` applies it.

    dx = y * (dy - sum(dy * y))        raising one logit raises its own share at the cost of all others
    """

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        y = softmax(x)
        if training:
            self.save_for_backward(y)
        return y

    def backward(self, dy: np.ndarray) -> np.ndarray:
        (y,) = self.saved
        return y * (dy - (dy * y).sum(axis=-1, keepdims=True))


BY_NAME = {
    "relu": ReLU,
    "leaky_relu": LeakyReLU,
    "sigmoid": Sigmoid,
    "tanh": Tanh,
    "gelu": GELU,
    "silu": SiLU,
    "softmax": Softmax,
}


def get(name: str | None) -> Layer:
    """The activation of that name, a layer that another one ends in; None is none."""
    return Identity() if name is None else choice(name, "activation", BY_NAME, "None or ")()
