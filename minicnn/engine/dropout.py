"""Dropout: see minicnn/layers/dropout.py for what it computes. Faster because it is one pass, with no mask in between."""

from __future__ import annotations

import math

import numpy as np

from minicnn import layers
from minicnn.engine.activations import flat
from minicnn.engine.calls import MOVED, parallel
from minicnn.engine.compiling import helper
from minicnn.engine.step import Step
from minicnn.engine.threads import chunk


@helper
def _splitmix64(state):
    z = state * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@parallel
def _dropout(part, x, limit, key, scale, y):
    for i in chunk(part, x.size):
        keep = (_splitmix64(key + np.uint64(i)) >> np.uint64(40)) >= limit
        y[i] = x[i] * (scale if keep else scale * 0)


class Dropout(Step):
    """The mask of one key, applied to x and to dy."""

    layer: layers.Dropout

    def forward(self, x, training=False):
        if not training:
            return x
        key = self.layer.next_key()
        self.save_for_backward(key)
        return self._masked(x, key, self.y(x, training))

    def backward(self, dy):
        (key,) = self.saved
        return self._masked(dy, key, self.dx(dy.shape, dy.dtype)) if self.needs_dx else dy

    def _masked(self, x, key, y):
        rate = self.layer.rate
        limit = np.uint64(math.ceil(rate * 2**24))
        with np.errstate(over="ignore"):  # SplitMix64 counts on integers that wrap; plain Python would warn
            _dropout(MOVED * x.size, flat(x), limit, np.uint64(key), x.dtype.type(1 / (1 - rate)), flat(y))
        return y
