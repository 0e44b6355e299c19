"""Residual blocks: layers that learn what to add to their input (He et al., 2015)."""

from __future__ import annotations

import numpy as np

from minicnn import ops
from minicnn.layers.activations import WithActivation
from minicnn.layers.base import Layer
from minicnn.parameters import Parameters


class Residual(WithActivation):
    """y = layers(x) + projection(x), the shortcut being x itself where projection is None.

    `projection` is one layer, such as Conv2D(filters, 1, stride=2, use_bias=False), for blocks that change the shape.
    """

    def __init__(self, *layers: Layer, projection: Layer | None = None, activation: str | None = None):
        self.branch, self.projection = list(layers), projection
        self.set_activation(activation)

    def config(self) -> dict:
        return {"layers": self.branch, "projection": self.projection, "activation": self.activation}

    def __repr__(self):
        told = [repr(layer) for layer in self.branch]
        told += [f"{k}={v!r}" for k, v in self.config().items() if k != "layers" and v is not None]
        return f"Residual({', '.join(told)})"

    def layers(self) -> list[Layer]:
        inner = [*self.branch, *([self.projection] if self.projection else [])]
        return [self, *(found for layer in inner for found in layer.layers())]

    def build(self, input_shape: tuple[int, ...], parameters: Parameters) -> tuple[int, ...]:
        for i, layer in enumerate(self.layers()[1:], 1):
            layer.name = f"{self.name or 'residual'}/{type(layer).__name__.lower()}_{i}"
        shape = input_shape
        for layer in self.branch:
            shape = layer.build(shape, parameters)
        shortcut = self.projection.build(input_shape, parameters) if self.projection else input_shape
        if shape != shortcut:
            raise self.shape_error(input_shape, f"branch {shape} and shortcut {shortcut} to give one shape")
        self.macs = sum(layer.macs for layer in [*self.branch, *([self.projection] if self.projection else [])])
        return shape

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        y = x
        for layer in self.branch:
            y = layer.forward(y, training)
        shortcut = self.projection.forward(x, training) if self.projection else x
        y = ops.add(y, shortcut, self.relu, out=self.buffer("y", y.shape, y.dtype))
        if training:
            self.save(y)
        return self.activate(y, training)

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        (y,) = self.restore()
        dy = self.activate_backward(dy)
        if self.relu:
            dy = ops.relu_backward(dy, y, out=self.buffer("dy", dy.shape, dy.dtype))
        dx = dy
        for layer in reversed(self.branch):
            dx = layer.backward(dx)
        shortcut = self.projection.backward(dy) if self.projection else dy
        return ops.add(dx, shortcut, out=self.buffer("dx", dx.shape, dx.dtype))
