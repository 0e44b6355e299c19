"""Mean and variance of each channel, for batch norm: of parts first, then of all.

Faster because the rows are read once, or from the cache: a convolution gathers the moments of what it has just made. A
part's mean and variance are gathered together, from the squares of the differences from the mean of the rows before, which
are then put right for the mean that all rows have (as Welford, 1962, and Chan, Golub and LeVeque, 1979): no outlier and no
large mean swallows a small variance. What is a part does not depend on the number of threads, and parts are joined in order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minicnn.engine.compiling import helper, kernel
from minicnn.engine.lanes import fma, load, load_prefetching, one_row, store, zeros
from minicnn.engine.memory import scratch
from minicnn.engine.threads import MOVED, PARTS, chunk, parallel

TILE = 128  # rows that are joined to those before them
START = 16  # rows at the start, of which the mean is taken first


class Moments(NamedTuple):
    """Of each part of the rows: how many they are, each channel's mean, and the sum of squared differences from it."""

    rows: np.ndarray
    means: np.ndarray  # (parts, c)
    squares: np.ndarray


def moments_of(parts: int, c: int, dtype) -> Moments:
    """To be filled in."""
    rows = scratch("rows", (parts,), np.dtype(np.int64))
    return Moments(rows, scratch("means", (parts, c), dtype), scratch("squares", (parts, c), dtype))


@helper
def joined(mean, square, total, squared, share):
    """Mean and sum of squares, once there are rows more, `share` being 1 over the number of all: `total` and `squared` are
    of the differences from the mean before, around which a sum of squares is larger than around the new one."""
    move = share * total
    return mean + move, (square + squared) - move * total


@helper
def gather_moments(block, x, start, rows, c, moments, part):
    """The part's moments: of rows of c channels that follow each other in x from index `start` on."""
    nothing, one = zeros(x, block)[0], x.dtype.type(1)
    first_rows = min(START, rows)
    moments.rows[part] = rows
    for k in range(0, c, len(nothing)):
        mean, square = nothing, nothing
        if rows > 0:
            first, total = load(nothing, x, start + k), nothing
            for i in range(first_rows):
                total = total + (load(nothing, x, start + i * c + k) - first)
            mean = first + (one / x.dtype.type(first_rows)) * total
            for i in range(first_rows):
                v = load(nothing, x, start + i * c + k) - mean
                square = fma(v, v, square)
        for begin in range(first_rows, rows, TILE):
            end = min(begin + TILE, rows)
            total, squared = nothing, nothing
            for i in range(begin, end):
                v = load_prefetching(nothing, x, start + i * c + k) - mean
                total, squared = total + v, fma(v, v, squared)
            mean, square = joined(mean, square, total, squared, one / x.dtype.type(end))
        store(moments.means[part], k, mean)
        store(moments.squares[part], k, square)


@parallel
def _gather_all(part, block, x, moments):
    rows = chunk(part, x.shape[0])
    gather_moments(block, x.reshape(-1), rows.start * x.shape[1], len(rows), x.shape[1], moments, part)


def all_moments(x: np.ndarray) -> Moments:
    """Of rows x (m, c) that lie anywhere."""
    moments = moments_of(PARTS, x.shape[1], x.dtype)
    _gather_all(MOVED * x.size, one_row(x.shape[1], x.dtype), x, moments)
    return moments


@kernel
def _join(moments, mean, variance):
    rows, means, squares = moments
    m = 0
    for part in range(len(rows)):
        m += rows[part]
    for part in range(len(rows)):
        for k in range(len(mean)):
            mean[k] += rows[part] * np.float64(means[part, k]) / m
    for part in range(len(rows)):
        for k in range(len(mean)):
            difference = means[part, k] - mean[k]
            variance[k] += (squares[part, k] + rows[part] * difference * difference) / m


def mean_and_variance(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Of all rows, in float64."""
    mean, variance = np.zeros((2, moments.means.shape[1]))
    _join(moments, mean, variance)
    return mean, variance
