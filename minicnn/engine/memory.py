"""Memory that is used again and again, and begins at a cache line.

Fresh memory costs a page fault for every 4 KiB, more than many a kernel does with it; and where an array begins in the
middle of a cache line, every vector of 64 bytes lies across two.
"""

from __future__ import annotations

import math
import threading

import numpy as np

LINE = 64
_local = threading.local()


def empty(shape: tuple[int, ...], dtype) -> np.ndarray:
    """As np.empty: uninitialised and contiguous, but its first number lies at a multiple of 64 bytes."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + LINE, np.uint8)
    first = -memory.ctypes.data % LINE
    return memory[first : first + size].view(dtype).reshape(shape)


class Turns:
    """Two pieces of memory used in turn, for results that only the next step reads.

    A pass through the steps then stays in as much memory as two of them need, and much of that in the cache.
    """

    def __init__(self):
        self.memory, self.turn = [np.empty(0, np.uint8), np.empty(0, np.uint8)], 0

    def next(self, shape: tuple[int, ...], dtype: np.dtype, anew: bool) -> np.ndarray:
        """An uninitialised array, good until the call after the next; `anew` at the start of a pass.

        Each step then gets the same memory at every pass, which the cache rewards.
        """
        size = math.prod(shape) * dtype.itemsize
        turn = 0 if anew else self.turn
        self.turn = 1 - turn
        if self.memory[turn].size < size:
            self.memory[turn] = empty((size,), np.uint8)
        return self.memory[turn][:size].view(dtype).reshape(shape)


def scratch(slot: str, shape: tuple[int, ...], dtype) -> np.ndarray:
    """An uninitialised array, good until the same thread asks for the same slot again.

    Each Python thread has scratch of its own, and what lies in it is dead when the step that asked for it returns.
    """
    slots = _local.__dict__
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if slot not in slots or slots[slot].size < size + LINE:
        slots[slot] = empty((size + LINE,), np.uint8)  # a vector may reach a little past the end
    return slots[slot][:size].view(dtype).reshape(shape)
