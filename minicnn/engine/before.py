"""What a convolution does in passing before it begins: scale, shift and ReLU of the batch norm in front of it.

Faster because batch norm's result is never written: it takes a multiplication and an addition for each number, and the
convolution reads each number of its x anyway, to copy it to where its windows lie.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from minicnn.engine.compiling import helper
from minicnn.engine.lanes import fma, load, load_rows, maximum0, store


class Before(NamedTuple):
    """What becomes of x before a convolution takes it."""

    norm: bool
    relu: bool
    line: np.ndarray  # of each channel centre, scale and shift, one kind after the other; not read without norm


@cache
def nothing(dtype: np.dtype) -> Before:
    """Where x is taken as it is."""
    return Before(norm=False, relu=False, line=np.empty(0, dtype))


@helper
def scaled(x, centre, scale, shift, relu):
    """A vector of batch norm's y, and the ReLU behind it."""
    v = fma(scale, x - centre, shift)
    if relu:
        return maximum0(v)
    return v


@helper
def pad_image(like, before, x, image, padded, padded_width, top, left):
    """Copy an image of x (n, h, w, c), scaled and shifted, into the middle of a flat, zeroed, padded one."""
    _, h, w, c = x.shape
    if before.norm:
        flat, x0 = x.reshape(-1), image * h * w * c
        for k in range(0, c, len(like)):
            centre, scale, shift = load_rows(like, before.line, (0, c, 2 * c), k)
            for i in range(h):
                source, target = x0 + i * w * c + k, ((top + i) * padded_width + left) * c + k
                for j in range(w):
                    v = load(like, flat, source + j * c)
                    store(padded, target + j * c, scaled(v, centre, scale, shift, before.relu))
        return
    rows = x[image].reshape(h, w * c)
    for i in range(h):
        row, target = rows[i], padded[((top + i) * padded_width + left) * c :]
        for k in range(w * c):  # from 0 on: an index that could be negative would keep the loop from vectors
            target[k] = row[k]


@helper
def scaled_window(like, before, x, shape, image, row, column, points, k, pixels):
    """A vector of channels, from k on, of a window of n x n pixels, scaled and shifted; beside the image it is 0."""
    (h, w, c), n, count = shape, len(like), len(points)
    rows, columns = range(max(0, -row), min(count, h - row)), range(max(0, -column), min(count, w - column))
    if len(rows) * len(columns) < count * count:
        for pixel in range(count * count):
            store(pixels, pixel * n, like)
    centre, scale, shift = load_rows(like, before.line, (0, c, 2 * c), k)
    for i in rows:
        at = ((image * h + row + i) * w + column) * c + k
        for j in columns:
            v = scaled(load(like, x, at + j * c), centre, scale, shift, before.relu)
            store(pixels, (i * count + j) * n, v)
