"""Memory that is used again and again.

Fresh memory costs a page fault for every 4 KiB, more than many a kernel does with it.
"""

from __future__ import annotations

import math
import threading

import numpy as np

from minicnn.memory import LINE, empty

_local = threading.local()


def contiguous(x: np.ndarray) -> np.ndarray:
    """The array, or a copy of one that is not contiguous or is read-only: for each such type a kernel would be compiled."""
    return np.ascontiguousarray(x) if x.flags.writeable else np.array(x, order="C")


class Piece:
    """A piece of memory for one array at a time, as large as the largest that it was asked for."""

    def __init__(self):
        self.memory, self.views = np.empty(0, np.uint8), {}

    def array(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An uninitialised array, good until the next one is asked for."""
        view = self.views.get((shape, dtype))
        if view is None:
            size = math.prod(shape) * np.dtype(dtype).itemsize
            if self.memory.size < size + LINE:  # a vector may reach a little past the end
                self.memory, self.views = empty((size + LINE,), np.uint8), {}
            view = self.views[shape, dtype] = self.memory[:size].view(dtype).reshape(shape)
        return view[...]  # a user's layer may change the shape of what it gets


class Turns:
    """Two pieces of memory used in turn, for results that only the next step reads.

    A pass through the steps then stays in as much memory as two of them need, and much of that in the cache.
    """

    def __init__(self):
        self.pieces, self.turn = [Piece(), Piece()], 0

    def next(self, shape: tuple[int, ...], dtype: np.dtype, anew: bool) -> np.ndarray:
        """An uninitialised array, good until the call after the next; `anew` at the start of a pass.

        Each step then gets the same memory at every pass, which the cache rewards.
        """
        turn = 0 if anew else self.turn
        self.turn = 1 - turn
        return self.pieces[turn].array(shape, dtype)


def scratch(slot: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array, good until the same thread asks for the same slot again.

    Each Python thread has scratch of its own, and what lies in it is dead when the step that asked for it returns.
    """
    slots = _local.__dict__
    if slot not in slots:
        slots[slot] = Piece()
    return slots[slot].array(shape, dtype)
