"""Activations: the bend between two linear layers, without which a deep network would be one matrix.

Each works number by number on any shape (softmax along the last axis), and keeps its input or its result, whichever its
derivative is written in.
"""

from __future__ import annotations

import math

import numpy as np

from minicnn.layers.base import Layer


class ReLU(Layer):
    """y = max(0, x). The gate was open where the result is above 0: dx = dy there, else 0. NaN stays NaN."""

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        y = np.maximum(x, 0)
        if training:
            self.save_for_backward(y)
        return y

    def backward(self, dy: np.ndarray) -> np.ndarray:
        (y,) = self.saved
        return dy * (y > 0)


class LeakyReLU(Layer):
    """y = x where x > 0, negative_slope * x elsewhere, and dx likewise of dy (Maas, Hannun and Ng, 2013)."""

    def __init__(self, negative_slope: float = 0.01):
        self.negative_slope = negative_slope

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        if training:
            self.save_for_backward(x)
        return np.where(x > 0, x, self.negative_slope * x)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        (x,) = self.saved
        return np.where(x > 0, dy, self.negative_slope * dy)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), written with tanh, which cannot overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


class Sigmoid(Layer):
    """y = 1 / (1 + exp(-x)). The derivative in terms of the result is y * (1 - y)."""

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        y = sigmoid(x)
        if training:
            self.save_for_backward(y)
        return y

    def backward(self, dy: np.ndarray) -> np.ndarray:
        (y,) = self.saved
        return dy * y * (1 - y)


class Tanh(Layer):
    """The hyperbolic tangent. The derivative in terms of the result is 1 - y**2."""

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        y = np.tanh(x)
        if training:
            self.save_for_backward(y)
        return y

    def backward(self, dy: np.ndarray) -> np.ndarray:
        (y,) = self.saved
        return dy * (1 - y * y)


class GELU(Layer):
    """x times the probability that a standard normal number is below x, in the tanh form of Hendrycks and Gimpel (2016).

        y = 0.5 * x * (1 + tanh(u))        u = sqrt(2/pi) * (x + 0.044715 * x**3)

    The product rule gives dy/dx = 0.5 * (1 + tanh(u)) + 0.5 * x * (1 - tanh(u)**2) * du/dx.
    """

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        if training:
            self.save_for_backward(x)
        return 0.5 * x * (1 + np.tanh(self._u(x)))

    def backward(self, dy: np.ndarray) -> np.ndarray:
        (x,) = self.saved
        t = np.tanh(self._u(x))
        du = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
        return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du)

    def _u(self, x: np.ndarray) -> np.ndarray:
        return math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)


class SiLU(Layer):
    """y = x * s with s = sigmoid(x), also called swish (Elfwing, Uchibe and Doya, 2017).

    The product rule gives dy/dx = s + x * s * (1 - s).
    """

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        if training:
            self.save_for_backward(x)
        return x * sigmoid(x)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        (x,) = self.saved
        s = sigmoid(x)
        return dy * (s + x * s * (1 - s))


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


class Identity(Layer):
    """y = x: the activation of a layer that has none."""

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        return x

    def backward(self, dy: np.ndarray) -> np.ndarray:
        return dy


BY_NAME = {
    "relu": ReLU,
    "leaky_relu": LeakyReLU,
    "sigmoid": Sigmoid,
    "tanh": Tanh,
    "gelu": GELU,
    "silu": SiLU,
    "softmax": Softmax,
    None: Identity,
}


def get(name: str | None) -> Layer:
    """The activation of that name, a layer that another one ends in; None is none."""
    if name not in BY_NAME:
        raise ValueError(f"activation: got {name!r}, expected None or one of {', '.join(filter(None, BY_NAME))}")
    return BY_NAME[name]()
