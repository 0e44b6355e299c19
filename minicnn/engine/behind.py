"""What a step does in passing behind its layer: ReLU, and the usual pool, of 2 x 2 pixels side by side; in backward also
batch norm.

Faster because the layer's own result is never written: what goes on is a quarter as large, and what comes back in backward
is spread over its windows where it is read. Batch norm's dx, which takes one multiplication each of its dy and its x, is
made where the layer before it reads it, and never written either.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minicnn.engine.compiling import helper
from minicnn.engine.lanes import fill, fma, gate, larger, load, load_prefetching, load_rows, only_where, store


class Behind(NamedTuple):
    """What backward needs to come through pool, ReLU and batch norm, as flat arrays; dy comes back from behind them."""

    dy: np.ndarray
    y: np.ndarray  # the step's own, behind ReLU and pool: where it is not above 0, ReLU is shut; with norm, its x
    winner: np.ndarray  # which of its window's pixels, counted row by row, each number of y is; empty without a pool
    relu: bool
    pool: bool
    norm: bool
    line: np.ndarray  # five numbers for each channel, with which norm's dx is made; not read without


@helper
def pool_image(like, number, x, shape, y, winner, y0, f):
    """The windows of one image (h, w, c), which lies at the beginning of x; c of y's and winner's f channels from y0 on."""
    h, w, c = shape
    for i in range(h // 2):
        for j in range(w // 2):
            for k in range(0, c, len(like)):
                v0, v1, v2, v3 = load_rows(like, x, (0, c, w * c, w * c + c), (2 * i * w + 2 * j) * c + k)
                pool_window(number, v0, v1, v2, v3, y, winner, y0 + (i * (w // 2) + j) * f + k)


@helper
def pool_window(number, v0, v1, v2, v3, y, winner, at):
    """The largest of a window's four vectors, the first of equals, and which it was."""
    best, won = larger(v1, v0, 1, fill(number, 0))
    best, won = larger(v2, best, 2, won)
    best, won = larger(v3, best, 3, won)
    store(y, at, best)
    store(winner, at, won)


@helper
def through_norm(like, behind, v, x, c, k):
    """dx = scale * dy + by_x * (x - centre) + constant, where ReLU(scale * (x - centre) + shift) came behind."""
    centre, scale, shift, by_x, constant = load_rows(like, behind.line, (0, c, 2 * c, 3 * c, 4 * c), k)
    from_centre = x - centre
    if behind.relu:
        v = gate(v, fma(scale, from_centre, shift))
    return fma(scale, v, fma(by_x, from_centre, constant))


@helper
def _gated(like, behind, at):
    v = load_prefetching(like, behind.dy, at)
    if behind.relu and not behind.norm:
        v = gate(v, load_prefetching(like, behind.y, at))
    return v


@helper
def dy_at(like, number, behind, row, column, width, c, k):
    """A vector of channels, from k on, of the layer's own dy; `row` counts the rows of pixels of all images."""
    pixel = (row * width + column) * c + k
    if behind.pool:
        at = (row // 2 * (width // 2) + column // 2) * c + k
        v = only_where(load(number, behind.winner, at), row % 2 * 2 + column % 2, _gated(like, behind, at))
    else:
        v = _gated(like, behind, pixel)
    if behind.norm:
        v = through_norm(like, behind, v, load_prefetching(like, behind.y, pixel), c, k)
    return v
