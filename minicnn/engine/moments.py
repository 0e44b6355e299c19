"""Mean and variance of every channel, gathered in one pass.

They are gathered together, from the squares of the differences from the mean of the rows before, which are then put right
for the mean that all rows have (as Welford, 1962, and Chan, Golub and LeVeque, 1979): no outlier and no large mean swallows
a small variance. The images, or of few images the pixels, are dealt into a fixed number of parts, and the parts' sums joined
in order. A convolution that has just written a part's y gathers them itself: y is in the cache then.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from minicnn.engine.calls import MOVED, parallel
from minicnn.engine.compiling import helper
from minicnn.engine.lanes import fma, load, load_prefetching, one_row, store, zeros
from minicnn.engine.memory import scratch
from minicnn.engine.threads import PARTS, chunk

TILE = 128  # rows that are joined to those before them
START = 16  # rows at the start, of which the mean is taken first


def two_of_each_part(c: int, dtype) -> tuple[np.ndarray, np.ndarray]:
    """Memory for two numbers of each part and each channel."""
    return scratch("means", (PARTS, c), dtype), scratch("squares", (PARTS, c), dtype)


@cache
def not_asked_for(dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """In place of that memory."""
    return np.empty((0, 0), dtype), np.empty((0, 0), dtype)


def units(x: np.ndarray) -> tuple[int, int]:
    """What is dealt into parts: how many images, and the pixels of each; of few images pixels, lest a sum be long."""
    n, pixels = len(x), x[:1].size // x.shape[-1]
    return (n, pixels) if by_images(n) else (n * pixels, 1)


def by_images(n: int) -> bool:
    """Whether so many images are dealt as whole ones, as they must be where a convolution gathers their moments."""
    return n >= PARTS


@helper
def moments_of_part(nothing, part, x, rows, sums):
    """Of some rows of x, a flat (m, c): every channel's mean, and the sum of the squared differences from it."""
    (means, squares), one = sums, x.dtype.type(1)
    c = means.shape[1]
    end = min(rows.start + START, rows.stop)
    for k in range(0, c, len(nothing)):
        mean, square = nothing, nothing
        if rows.start < end:
            first, total = load(nothing, x, rows.start * c + k), nothing
            for i in range(rows.start, end):
                total = total + (load(nothing, x, i * c + k) - first)
            mean = first + (one / x.dtype.type(end - rows.start)) * total
            for i in range(rows.start, end):
                v = load(nothing, x, i * c + k) - mean
                square = fma(v, v, square)
        for start in range(end, rows.stop, TILE):
            stop = min(start + TILE, rows.stop)
            total, squared = nothing, nothing  # of the differences from the mean so far
            for i in range(start, stop):
                v = load_prefetching(nothing, x, i * c + k) - mean
                total, squared = total + v, fma(v, v, squared)
            # the mean moves, and around it the sum of squares is smaller
            move = (one / x.dtype.type(stop - rows.start)) * total
            square, mean = (square + squared) - move * total, mean + move
        store(means[part], k, mean)
        store(squares[part], k, square)


@helper
def moments_of_images(nothing, part, n, pixels, x, sums):
    """The same of a part of n images of so many pixels, where there is memory for them."""
    if sums[0].shape[0]:
        images = chunk(part, n)
        moments_of_part(nothing, part, x, range(images.start * pixels, images.stop * pixels), sums)


@parallel
def _moments(part, block, x, sums):
    moments_of_images(zeros(x, block)[0], part, x.shape[0], x.shape[1], x.reshape(-1), sums)


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of x (n, .., c) the parts' means and squares, for `join`."""
    c = x.shape[-1]
    sums = two_of_each_part(c, x.dtype)
    _moments(MOVED * x.size, one_row(c, x.dtype), x.reshape(*units(x), c), sums)
    return sums


@helper
def join(means, squares, n, pixels, mean, variance):
    """Mean and variance of each channel of n units, in float64, from those of the parts."""
    parts, c = means.shape
    mean[:] = 0
    variance[:] = 0
    for part in range(parts):
        share = np.float64(len(chunk(part, n))) / n
        for k in range(c):
            mean[k] += share * means[part, k]
    for part in range(parts):
        rows = len(chunk(part, n)) * pixels
        for k in range(c):
            away = means[part, k] - mean[k]
            variance[k] += squares[part, k] + rows * away * away
    for k in range(c):
        variance[k] /= n * pixels
