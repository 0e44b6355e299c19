"""Memory that is used again and again, begins at a cache line, and lies in huge pages where there are some.

Fresh memory costs a page fault for every 4 KiB, more than many a kernel does with it; and where an array begins in the
middle of a cache line, every vector of 64 bytes lies across two. A processor remembers where some thousand pages lie: of
4 KiB each, less than one layer of a batch takes; of 2 MiB, all.
"""

from __future__ import annotations

import math
import mmap
import threading
from contextlib import suppress

import numpy as np

LINE, HUGE_PAGE = 64, 2**21
_local = threading.local()


def empty(shape: tuple[int, ...], dtype) -> np.ndarray:
    """As np.empty: uninitialised and contiguous, but its first number lies at a multiple of 64 bytes."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    memory, first = _memory(size)
    return memory[first : first + size].view(dtype).reshape(shape)


def _memory(size: int) -> tuple[np.ndarray, int]:
    """So many bytes and some more, and which is the first to use; what fills a huge page, or half of one, lies in it."""
    huge = (size + HUGE_PAGE // 2) // HUGE_PAGE * HUGE_PAGE
    if huge and hasattr(mmap, "MADV_HUGEPAGE"):  # on Linux
        with suppress(OSError):  # where its kernel has none, or memory is short
            pages = mmap.mmap(-1, size + 2 * HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            memory = np.frombuffer(pages, np.uint8)
            first = -memory.ctypes.data % HUGE_PAGE
            pages.madvise(mmap.MADV_HUGEPAGE, first, huge)
            return memory, first
    memory = np.empty(size + LINE, np.uint8)
    return memory, -memory.ctypes.data % LINE


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
