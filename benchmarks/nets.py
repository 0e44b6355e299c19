"""The networks that everything is measured on, for ten classes, and their layers as plain data.

A network is a list of: ("conv", filters, kernel, stride, bias), ("depthwise", kernel), ("bn",), ("relu",), ("silu",),
("pool",), ("gap",), ("flatten",), ("dense", units), ("dropout", rate). Each contestant builds its own from it. Images are
padded by kernel // 2 pixels on each side, so that every library computes the same with a stride of two.

A has two convolutions and no batch norm; B is five of 3x3 with it; S is the network of the recipe `seed`; C takes 32x32x3
images and doubles B's depth; D is B with strides of two in place of pools; E is made of depthwise separable convolutions
(Howard et al., MobileNets, 2017); F is B with SiLU (Elfwing et al., 2017) in place of ReLU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np


class Net(NamedTuple):
    """Layers, the shape (h, w, c) of an image, and how many images a training step takes."""

    layers: list[tuple]
    shape: tuple[int, int, int]
    batch: int


class Placed(NamedTuple):
    """A layer in its network: what it is, the shape (h, w, c) that it gets, its own arrays."""

    kind: str
    options: tuple
    shape: tuple[int, int, int]
    arrays: list[np.ndarray]


def block(filters: int, stride: int = 1, activation: str = "relu") -> list[tuple]:
    """Convolution of 3x3, batch norm, activation."""
    return [("conv", filters, 3, stride, False), ("bn",), (activation,)]


def separable(filters: int) -> list[tuple]:
    """A depthwise convolution of 3x3 and one of 1x1, each with batch norm and ReLU."""
    return [("depthwise", 3), ("bn",), ("relu",), ("conv", filters, 1, 1, False), ("bn",), ("relu",)]


A = [
    *(("conv", 32, 3, 1, True), ("relu",), ("pool",), ("conv", 64, 3, 1, True), ("relu",), ("pool",)),
    *(("flatten",), ("dense", 128), ("relu",), ("dense", 10)),
]
END = [("gap",), ("dense", 10)]
B = [*block(32), *block(32), ("pool",), *block(64), *block(64), ("pool",), *block(128), *END]
S = [
    *(("conv", 32, 5, 1, True), ("relu",), ("conv", 32, 5, 1, True), ("relu",), ("pool",), ("dropout", 0.25)),
    *(("conv", 64, 3, 1, True), ("relu",), ("conv", 64, 3, 1, True), ("relu",), ("pool",), ("dropout", 0.25)),
    *(("flatten",), ("dense", 256), ("relu",), ("dropout", 0.5), ("dense", 10)),
]
C = [*block(32), *block(32), ("pool",), *block(64), *block(64), ("pool",), *block(128), *block(128), *END]
D = [*block(32), *block(32, 2), *block(64), *block(64, 2), *block(128), *END]
E = [*block(32), *separable(64), ("pool",), *separable(128), ("pool",), *separable(128), *END]
F = [("silu",) if layer == ("relu",) else layer for layer in B]
GREY, COLOUR = (28, 28, 1), (32, 32, 3)
NETS = {
    **{"A": Net(A, GREY, 128), "B": Net(B, GREY, 128), "S": Net(S, GREY, 86), "C": Net(C, COLOUR, 128)},
    **{"D": Net(D, GREY, 128), "E": Net(E, GREY, 128), "F": Net(F, GREY, 128)},
}
INFERENCE_BATCH = 256


def place(net: Net, arrays: Sequence[np.ndarray] = ()) -> Iterator[Placed]:
    """Each layer with the shape that it gets and its own of the arrays, which stand layer by layer in Keras' order.

    Keras' order is kernel and bias; gamma, beta, mean and variance. A flattened image keeps its shape (h, w, c) here, for
    libraries with channels first must know it; a vector's is (1, 1, c).
    """
    rest, (h, w, c) = list(arrays), net.shape
    for kind, *options in net.layers:
        count = {"conv": 1 + bool(options and options[-1]), "depthwise": 1, "dense": 2, "bn": 4}.get(kind, 0)
        yield Placed(kind, tuple(options), (h, w, c), rest[:count])
        rest = rest[count:]
        if kind == "conv":
            filters, _, stride, _ = options
            h, w, c = -(-h // stride), -(-w // stride), filters
        elif kind == "pool":
            h, w = h // 2, w // 2
        elif kind == "gap":
            h, w = 1, 1
        elif kind == "dense":
            h, w, c = 1, 1, options[0]


def channels_first(layer: Placed, array: np.ndarray) -> np.ndarray:
    """From Keras' axes to PyTorch's and ONNX's: kernels (f, c, kh, kw), matrices (units, c * h * w)."""
    if layer.kind == "dense" and array.ndim == 2:
        array = array.reshape(*layer.shape, -1).transpose(3, 2, 0, 1).reshape(array.shape[1], -1)
    elif array.ndim == 4:
        array = array.transpose((2, 3, 0, 1) if layer.kind == "depthwise" else (3, 2, 0, 1))
    return np.ascontiguousarray(array)


def channels_last(layer: Placed, array: np.ndarray) -> np.ndarray:
    """The way back from `channels_first`."""
    if layer.kind == "dense" and array.ndim == 2:
        h, w, c = layer.shape
        return array.reshape(-1, c, h, w).transpose(2, 3, 1, 0).reshape(h * w * c, -1)
    if array.ndim == 4:
        return array.transpose((2, 3, 0, 1) if layer.kind == "depthwise" else (2, 3, 1, 0))
    return array
