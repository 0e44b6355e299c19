"""Memory for images: an array, or from MAPPED bytes on a file that the system pages in and out as it is used."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable

import numpy as np

from minicnn.errors import DataError

MAPPED = 1 << 30  # bytes from which images are kept in, or read from, a file


def empty(shape: tuple[int, ...]) -> np.ndarray:
    """A uint8 array of any content; from MAPPED bytes a np.memmap of a file in TMPDIR that goes with the array."""
    if math.prod(shape) < MAPPED:
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.uint8, "w+", shape=shape)


def stack(chunks: Iterable[np.ndarray]) -> np.ndarray:
    """uint8 arrays of equal rows one under another, in memory of that kind; DataError where there are none."""
    held, rows = [], 0
    with tempfile.TemporaryFile() as file:
        for chunk in chunks:
            held.append(chunk)
            rows += len(chunk)
            if rows * math.prod(chunk.shape[1:]) >= MAPPED:
                while held:
                    file.write(held.pop(0).data)
        if not rows:
            raise DataError("no rows")
        if not file.tell():
            return np.concatenate(held)
        while held:
            file.write(held.pop(0).data)
        file.flush()
        return np.memmap(file, np.uint8, "r+", shape=(rows, *chunk.shape[1:]))


def take(images: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """images[chosen] in memory of that kind, `chosen` being a mask or indices: mapped images are copied piece by piece."""
    if images.dtype != np.uint8:
        return images[chosen]
    index = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
    taken = empty((len(index), *images.shape[1:]))
    for i in range(0, len(index), 1000):
        taken[i : i + 1000] = images[index[i : i + 1000]]
    return taken
