"""Activations: the bend between two linear layers, without which a deep network would be one matrix.

Each keeps the input or the result, whichever its derivative is written in.
"""

from __future__ import annotations

import numpy as np

from minicnn import ops
from minicnn.layers.base import Layer


class ReLU(Layer):
    """max(0, x). Where the result is 0 no gradient flows back."""

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        y = ops.relu(x, out=self.buffer("y", x.shape, x.dtype))
        if training:
            self.save(y)
        return y

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        (y,) = self.restore()
        return ops.relu_backward(dy, y, out=self.buffer("dx", dy.shape, dy.dtype))


class LeakyReLU(Layer):
    """x where x > 0, slope * x elsewhere (Maas, Hannun and Ng, 2013)."""

    def __init__(self, slope: float = 0.01):
        self.slope = slope

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        if training:
            self.save(x)
        return ops.leaky_relu(x, self.slope, out=self.buffer("y", x.shape, x.dtype))

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        (x,) = self.restore()
        return ops.leaky_relu_backward(dy, x, self.slope, out=self.buffer("dx", dy.shape, dy.dtype))


class Sigmoid(Layer):
    """1 / (1 + exp(-x))."""

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        y = ops.sigmoid(x, out=self.buffer("y", x.shape, x.dtype))
        if training:
            self.save(y)
        return y

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        (y,) = self.restore()
        return ops.sigmoid_backward(dy, y, out=self.buffer("dx", dy.shape, dy.dtype))


class Tanh(Layer):
    """The hyperbolic tangent."""

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        y = ops.tanh(x, out=self.buffer("y", x.shape, x.dtype))
        if training:
            self.save(y)
        return y

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        (y,) = self.restore()
        return ops.tanh_backward(dy, y, out=self.buffer("dx", dy.shape, dy.dtype))


class GELU(Layer):
    """x times the normal distribution's probability of a number below x, in its tanh form (Hendrycks and Gimpel, 2016)."""

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        if training:
            self.save(x)
        return ops.gelu(x, out=self.buffer("y", x.shape, x.dtype))

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        (x,) = self.restore()
        return ops.gelu_backward(dy, x, out=self.buffer("dx", dy.shape, dy.dtype))


class SiLU(Layer):
    """x * sigmoid(x), also called swish (Elfwing, Uchibe and Doya, 2017)."""

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        if training:
            self.save(x)
        return ops.silu(x, out=self.buffer("y", x.shape, x.dtype))

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        (x,) = self.restore()
        return ops.silu_backward(dy, x, out=self.buffer("dx", dy.shape, dy.dtype))


class Softmax(Layer):
    """Probabilities along the last axis. A classifier trains on logits and needs none: `predict` applies it."""

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        y = ops.softmax(x, out=self.buffer("y", x.shape, x.dtype))
        if training:
            self.save(y)
        return y

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        (y,) = self.restore()
        return ops.softmax_backward(dy, y, out=self.buffer("dx", dy.shape, dy.dtype))


BY_NAME = {
    "relu": ReLU,
    "leaky_relu": LeakyReLU,
    "sigmoid": Sigmoid,
    "tanh": Tanh,
    "gelu": GELU,
    "silu": SiLU,
    "softmax": Softmax,
}


class WithActivation(Layer):
    """The base of layers that end in an activation: ReLU is folded into their own pass, any other runs after it."""

    def set_activation(self, activation: str | None) -> None:
        """Take the activation by name; None is none."""
        if activation is not None and activation not in BY_NAME:
            raise ValueError(f"activation: got {activation!r}, expected None or one of {', '.join(BY_NAME)}")
        self.activation = activation
        self.relu = activation == "relu"
        self.activation_layer = BY_NAME[activation]() if activation and not self.relu else None

    def activate(self, y: np.ndarray, training: bool) -> np.ndarray:
        """The end of forward."""
        return y if self.activation_layer is None else self.activation_layer.forward(y, training)

    def activate_backward(self, dy: np.ndarray) -> np.ndarray:
        """The beginning of backward."""
        return dy if self.activation_layer is None else self.activation_layer.backward(dy)
