"""Memory for arrays that are used again and again.

Fresh memory costs a page fault for every 4 KiB, more than many a kernel does with it. Each Python thread has scratch of
its own, and what lies in it is dead when the operation that asked for it returns.
"""

from __future__ import annotations

import math
import threading

import numpy as np

from minicnn.memory import empty

_local = threading.local()


def scratch(slot: str, shape, dtype) -> np.ndarray:
    """An uninitialised array, good until the same thread asks for the same slot again."""
    slots = _local.__dict__
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if slot not in slots or slots[slot].size < size:
        slots[slot] = empty(size + 64, np.uint8)  # a vector may reach a little past the end
    return slots[slot][:size].view(dtype).reshape(shape)


def result(out, shape, dtype) -> np.ndarray:
    """`out` where it fits, else a new array: every public kernel writes its result here."""
    if out is not None and out.shape == tuple(shape) and out.dtype == dtype and out.flags.c_contiguous:
        return out
    return empty(shape, dtype)
