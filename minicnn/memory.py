"""Arrays that begin at a cache line, and lie in huge pages where the system has some.

Where an array begins in the middle of a cache line, every vector of 64 bytes lies across two. And a processor remembers
where some thousand pages of memory lie: of 4 KiB each, less than one layer of a batch takes; of 2 MiB, all.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable
from contextlib import suppress

import numpy as np

LINE, HUGE_PAGE = 64, 2**21


def empty(shape: tuple[int, ...], dtype) -> np.ndarray:
    """As np.empty: uninitialised and contiguous, but its first number lies at a multiple of 64 bytes."""
    return _array(shape, np.dtype(dtype), np.empty)


def zeros(shape: tuple[int, ...], dtype) -> np.ndarray:
    """As np.zeros: what is never touched takes no memory; but its first number lies at a multiple of 64 bytes."""
    return _array(shape, np.dtype(dtype), np.zeros)


def _array(shape: tuple[int, ...], dtype: np.dtype, make: Callable) -> np.ndarray:
    size = math.prod(shape) * dtype.itemsize
    memory, first = _memory(size, make)
    return memory[first : first + size].view(dtype).reshape(shape)


def _memory(size: int, make: Callable) -> tuple[np.ndarray, int]:
    """So many bytes and some more, and which is the first to use; what fills a huge page, or half of one, lies in it."""
    huge = (size + HUGE_PAGE // 2) // HUGE_PAGE * HUGE_PAGE
    if huge and hasattr(mmap, "MADV_HUGEPAGE"):  # on Linux
        with suppress(OSError, OverflowError):  # where its kernel has none, or memory is short
            pages = mmap.mmap(-1, size + 2 * HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # of zeros
            memory = np.frombuffer(pages, np.uint8)
            first = -memory.ctypes.data % HUGE_PAGE
            pages.madvise(mmap.MADV_HUGEPAGE, first, huge)
            return memory, first
    memory = make(size + LINE, np.uint8)
    return memory, -memory.ctypes.data % LINE
