"""Arrays that begin at a cache line, so that no vector of 64 bytes lies across two, and arrays used in turn."""

from __future__ import annotations

import math

import numpy as np

LINE = 64


def empty(shape, dtype) -> np.ndarray:
    """As np.empty: uninitialised and contiguous, but its first number lies at a multiple of 64 bytes."""
    shape, dtype = (shape,) if isinstance(shape, int) else tuple(shape), np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + LINE, np.uint8)
    first = -memory.ctypes.data % LINE
    return memory[first : first + size].view(dtype).reshape(shape)


def zeros(shape, dtype) -> np.ndarray:
    """`empty`, filled with 0."""
    array = empty(shape, dtype)
    array[...] = 0
    return array


class Turns:
    """Two pieces of memory used in turn, for results that only the next layer reads.

    A walk through the layers then stays in as much memory as two of them need, and much of that in the cache.
    """

    def __init__(self):
        self.memory = [np.empty(0, np.uint8), np.empty(0, np.uint8)]
        self.turn = 0

    def start(self) -> None:
        """Begin a walk: the next array is the same as at the beginning of the walk before."""
        self.turn = 0

    def next(self, shape, dtype) -> np.ndarray:
        """An uninitialised array, good until the call after the next."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        turn, self.turn = self.turn, 1 - self.turn
        if self.memory[turn].size < size:
            self.memory[turn] = empty(size, np.uint8)
        return self.memory[turn][:size].view(dtype).reshape(shape)
