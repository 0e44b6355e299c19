"""What a convolution does in passing for the batch norm in front of it: scale, shift and ReLU, and the sums of its backward.

Faster because batch norm's result is never written: it takes a multiplication and an addition for each number, and the
convolution reads each number of its x anyway, to copy it to where its windows lie. In backward an image's x and dx are in
the cache when its dx is complete, and batch norm's dy is that dx (as in forward: Jung et al., 2019).
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from minicnn.engine.compiling import helper
from minicnn.engine.lanes import fma, gate, load, load_prefetching, load_rows, maximum0, store


class Before(NamedTuple):
    """What becomes of x before a convolution takes it."""

    norm: bool
    relu: bool
    line: np.ndarray  # of each channel centre, scale and shift, one kind after the other; not read without norm
    sums: np.ndarray  # (2, images, c), for `sums_of_image`; without images where they are not asked for


@cache
def nothing(dtype: np.dtype) -> Before:
    """Where x is taken as it is."""
    return Before(norm=False, relu=False, line=np.empty(0, dtype), sums=np.empty((2, 0, 0), dtype))


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


@helper
def sums_of_image(like, before, x, dx, image, pixels, c):
    """Of an image's dx, come back through the ReLU: each channel's sum, and that of dx * (x - centre), into before.sums
    where there is room; the bits of normalization.py's _sums_backward."""
    if before.sums.shape[1] == 0:
        return
    for k in range(0, c, len(like)):
        total, product = like, like
        centre, scale, shift = load_rows(like, before.line, (0, c, 2 * c), k)
        for pixel in range(image * pixels, (image + 1) * pixels):
            v = load_prefetching(like, dx, pixel * c + k)
            from_centre = load_prefetching(like, x, pixel * c + k) - centre
            if before.relu:
                v = gate(v, fma(scale, from_centre, shift))
            total, product = total + v, fma(v, from_centre, product)
        store(before.sums[0, image], k, total)
        store(before.sums[1, image], k, product)
