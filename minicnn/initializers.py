"""The first values of weights: random, and of a size that neither swells nor dies on its way through the layers.

Each initializer is a function (shape, rng) -> array. A weight array's last axis counts outputs; all the others together
are the inputs of one output ('fan in').
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from minicnn.arguments import choice


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan in, fan out) of a weight array: (c, f) or (kh, kw, c, f)."""
    if len(shape) < 2:
        return math.prod(shape), math.prod(shape)
    window = math.prod(shape[:-2])
    return window * shape[-2], window * shape[-1]


def he(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Normal with variance 2 / fan in: keeps the variance through ReLU (He et al., 2015)."""
    return rng.standard_normal(shape) * math.sqrt(2 / fans(shape)[0])


def glorot(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Uniform in +-sqrt(6 / (fan in + fan out)) (Glorot and Bengio, 2010)."""
    limit = math.sqrt(6 / sum(fans(shape)))
    return rng.uniform(-limit, limit, shape)


def orthogonal(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Orthonormal columns (or rows, if there are fewer) of the (fan in, outputs) matrix (Saxe et al., 2013)."""
    rows, columns = math.prod(shape[:-1]), shape[-1]
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diag(r))  # makes the draw uniform over all orthogonal matrices
    return (q if rows >= columns else q.T).reshape(shape)


def zeros(shape: tuple[int, ...], rng: np.random.Generator | None = None) -> np.ndarray:
    """All 0: for biases."""
    return np.zeros(shape)


def ones(shape: tuple[int, ...], rng: np.random.Generator | None = None) -> np.ndarray:
    """All 1: for scales."""
    return np.ones(shape)


BY_NAME = {"he": he, "glorot": glorot, "orthogonal": orthogonal, "zeros": zeros, "ones": ones}


def get(initializer: str | Callable) -> Callable:
    """The initializer of that name, or the function itself."""
    if callable(initializer) and not isinstance(initializer, type):
        return initializer
    return choice(initializer, "initializer", BY_NAME, "a function or ")
