"""Dropout: noise in training, nothing in use."""

from __future__ import annotations

import math

import numpy as np

from minicnn.arguments import number
from minicnn.layers.base import Layer
from minicnn.seeds import generator


class Dropout(Layer):
    """In training, each number becomes 0 with probability `rate` and the others grow by 1 / (1 - rate); in use, nothing.

    So the mean stays what it was (Srivastava et al., 2014). dx is dy under the same mask.

    The mask depends on the layer's `seed` (set by the network) and on `calls`, how many training passes there were: a run
    that goes on from a checkpoint draws the masks that it would have drawn.
    """

    seed: tuple[int, ...] = (0,)
    calls = 0

    def __init__(self, rate: float):
        self.rate = number(rate, "rate", least=0, below=1)

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        if not training:
            return x
        key = self.next_key()
        self.save_for_backward(key)
        return x * keep_mask(x.shape, self.rate, key) * (1 / (1 - self.rate))

    def backward(self, dy: np.ndarray) -> np.ndarray:
        (key,) = self.saved
        return dy * keep_mask(dy.shape, self.rate, key) * (1 / (1 - self.rate))

    def next_key(self) -> int:
        """The number that this pass's mask is made from."""
        key = int(generator("dropout", *self.seed, self.calls).integers(2**63))
        self.calls += 1
        return key

    def state(self) -> dict:
        return {"calls": self.calls}


def keep_mask(shape: tuple[int, ...], rate: float, key: int) -> np.ndarray:
    """Which numbers are kept: True with probability 1 - rate, depending on nothing but `key` and the number's index.

    So no mask need be stored: backward makes it again. The random bits are SplitMix64 (Steele, Lea and Flood, 2014) of
    key + index.
    """
    z = np.uint64(key) + np.arange(math.prod(shape), dtype=np.uint64)
    z = z * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(40)) >= np.uint64(math.ceil(rate * 2**24))).reshape(shape)
