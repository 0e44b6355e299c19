"""Residual blocks: layers that learn what to add to their input (He et al., 2015)."""

from __future__ import annotations

import numpy as np

from minicnn.layers import activations, sequence
from minicnn.layers.base import Layer
from minicnn.parameters import Parameters

DEEPEST = 20


class Residual(Layer):
    """y = activation(layers(x) + projection(x)), the shortcut being x itself where projection is None.

    `branch` is the list of the constructor's layers; `layers()` gives those inside them too. `projection` is one layer,
    such as Conv2D(filters, 1, stride=2, use_bias=False), for blocks that change the shape.
    A sum hands its dy to both terms, and x was read by both: dx is the sum of what comes back through them.
    """

    def __init__(self, *layers: Layer, projection: Layer | None = None, activation: str | None = None):
        self.branch, self.projection = list(layers), projection
        self.shortcut = [] if projection is None else [projection]
        for layer in self.branch + self.shortcut:
            if not isinstance(layer, Layer):
                raise ValueError(f"Residual: got {layer!r}, expected layers: Residual(Conv2D(8, 3), ReLU())")
        self.depth = 1 + max((getattr(layer, "depth", 0) for layer in self.layers()[1:]), default=0)
        if self.depth > DEEPEST:
            raise ValueError(f"Residual: got {self.depth} of them one in another, expected at most {DEEPEST}")
        self.activation, self.activate = activation, activations.get(activation)

    def build(self, input_shape: tuple[int, ...], parameters: Parameters) -> tuple[int, ...]:
        for i, layer in enumerate(self.layers()[1:], 1):
            layer.name = f"{self.name or 'residual'}/{type(layer).__name__.lower()}_{i}"
        shape = sequence.build(self.branch, input_shape, parameters)
        shortcut = sequence.build(self.shortcut, input_shape, parameters)
        if shape != shortcut:
            raise self.shape_error(input_shape, f"branch {shape} and shortcut {shortcut} to give one shape")
        self.macs = sum(layer.macs for layer in self.branch + self.shortcut)
        return shape

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        y = sequence.forward(self.branch, x, training) + sequence.forward(self.shortcut, x, training)
        return self.activate.forward(y, training)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        dy = self.activate.backward(dy)
        return sequence.backward(self.branch, dy) + sequence.backward(self.shortcut, dy)

    def layers(self) -> list[Layer]:
        return [self, *(found for layer in self.branch + self.shortcut for found in layer.layers())]

    def config(self) -> dict:
        return {"layers": self.branch, "projection": self.projection, "activation": self.activation}

    def __repr__(self) -> str:
        told = [repr(layer) for layer in self.branch]
        told += [f"{k}={v!r}" for k, v in self.config().items() if k != "layers" and v is not None]
        return f"Residual({', '.join(told)})"
