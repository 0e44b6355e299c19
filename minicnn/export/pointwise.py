"""Functions of single numbers, known by their values: what a graph spells out in several nodes, such as x * sigmoid(x).

A function is kept as its values at POINTS, (points, 1). One that differs from channel to channel is kept at the first LINE
of them, (LINE, c): enough for x * factor + shift, and no other such function is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from minicnn.layers import LeakyReLU, activations
from minicnn.layers.activations import Activation

FAR = np.logspace(1, 6, 26)
POINTS = np.concatenate([[-2, -1, 0, 1, 2], np.linspace(-8, 8, 101), FAR, -FAR])[:, None]
LINE = 5
LINEAR = {"Add", "Sub", "Mul", "Div"}
FUNCTIONS: dict[str, Callable] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Neg": np.negative,
    "Relu": lambda x: np.maximum(x, 0),
    "Sigmoid": activations.sigmoid,
    "Tanh": np.tanh,
    "Erf": np.vectorize(math.erf),
    "PRelu": lambda x, slope: np.where(x > 0, x, slope * x),
}


def apply(f: Callable, values: list[np.ndarray]) -> np.ndarray:
    """f of functions and of numbers (), at as many points as all of them have."""
    count = min(len(v) for v in values if v.ndim)
    for v in values:
        if v.ndim and len(v) > count and line(v) is None:
            raise ValueError(f"before it {unknown(v)}")
    with np.errstate(all="ignore"):
        return f(*(v[:count] if v.ndim else v for v in values))


def line(y: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """factor and shift of each channel, where the function is x * factor + shift."""
    with np.errstate(all="ignore"):
        factor, shift = (y[4] - y[0]) / 4, y[2]
        off = np.abs(POINTS[: len(y)] * factor + shift - y)
    return (factor, shift) if (off <= 1e-6 * (1 + np.abs(y))).all() else None


def activation(y: np.ndarray) -> Activation | None:
    """The activation that has these values."""
    found = [layer for layer, off in _distances(y).items() if off < 1e-5] if len(y) > LINE and line(y) is None else []
    return found[0] if found else None


def unknown(y: np.ndarray) -> str:
    """What to say of a function that is no activation, and which one it nearly is."""
    layer, off = min(_distances(y).items(), key=lambda pair: pair[1]) if len(y) > LINE else (None, 1)
    near = f"; nearest is {type(layer).__name__}, off by {off:.2g}" if off < 0.1 else ""
    return f"a function of single numbers that is no activation of minicnn's{near}"


def _distances(y: np.ndarray) -> dict[Activation, float]:
    """How far each activation is from these values."""
    slope = -float(y[1, 0])
    layers = [kind() for name, kind in activations.BY_NAME.items() if name != "softmax"]
    layers.append(LeakyReLU(slope if math.isfinite(slope) else 0.0))
    with np.errstate(all="ignore"):
        return {layer: float((np.abs(layer.f(POINTS) - y) / (1 + np.abs(y))).max()) for layer in layers}
