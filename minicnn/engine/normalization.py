"""Batch normalisation: see minicnn/layers/normalization.py for what it computes.

Faster because each pass reads x once. The batch's mean and variance are gathered together, from the squares of the
differences from the mean of the rows before, which are then put right for the mean that all rows have (as Welford, 1962, and
Chan, Golub and LeVeque, 1979): no outlier and no large mean swallows a small variance. x is taken from the rounded mean
before it is scaled, and what rounding took from the mean is in the shift, so that a large mean costs no digits there
either. The rows are dealt into a fixed number of parts, and the parts' sums joined in order.
"""

from __future__ import annotations

import numpy as np

from minicnn import layers
from minicnn.engine.behind import Behind, dy_at, pool_window
from minicnn.engine.compiling import helper
from minicnn.engine.exponentials import silu, silu_backward
from minicnn.engine.lanes import (
    fma,
    gate,
    load,
    load_prefetching,
    maximum0,
    one_row,
    store,
    store_prefetching,
    zeros,
)
from minicnn.engine.memory import contiguous, scratch
from minicnn.engine.step import Step
from minicnn.engine.threads import MOVED, PARTS, chunk, parallel

TILE = 128  # rows that are joined to those before them
START = 16  # rows at the start, of which the mean is taken first


@parallel
def _moments(part, block, x, means, squares):
    """Of a part of the rows: every channel's mean, and the sum of the squared differences from it."""
    c, flat, rows = x.shape[1], x.reshape(-1), chunk(part, x.shape[0])
    nothing, one = zeros(x, block)[0], x.dtype.type(1)
    end = min(rows.start + START, rows.stop)
    for k in range(0, c, len(nothing)):
        mean, square = nothing, nothing
        if rows.start < end:
            first, total = load(nothing, flat, rows.start * c + k), nothing
            for i in range(rows.start, end):
                total = total + (load(nothing, flat, i * c + k) - first)
            mean = first + (one / x.dtype.type(end - rows.start)) * total
            for i in range(rows.start, end):
                v = load(nothing, flat, i * c + k) - mean
                square = fma(v, v, square)
        for start in range(end, rows.stop, TILE):
            stop = min(start + TILE, rows.stop)
            total, squared = nothing, nothing  # of the differences from the mean so far
            for i in range(start, stop):
                v = load_prefetching(nothing, flat, i * c + k) - mean
                total, squared = total + v, fma(v, v, squared)
            # the mean moves, and around it the sum of squares is smaller
            move = (one / x.dtype.type(stop - rows.start)) * total
            square, mean = (square + squared) - move * total, mean + move
        store(means[part], k, mean)
        store(squares[part], k, square)


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each column of x (m, c), in float64."""
    m, c = x.shape
    means, squares = scratch("means", (PARTS, c), x.dtype), scratch("squares", (PARTS, c), x.dtype)
    _moments(MOVED * x.size, one_row(c, x.dtype), x, means, squares)
    bounds = np.arange(PARTS + 1) * m // PARTS
    rows, means = np.diff(bounds)[:, None], means.astype(np.float64)
    mean = (rows * means).sum(axis=0) / m
    means -= mean
    means *= means
    means *= rows
    return mean, (squares.sum(axis=0, dtype=np.float64) + means.sum(axis=0)) / m


NONE, RELU, SILU = range(3)


@helper
def _y_at(like, x, at, scale, centre, shift, activation):
    """A vector of the result, from one of x."""
    v = fma(scale, load_prefetching(like, x, at) - centre, shift)
    if activation == SILU:
        return silu(v)
    if activation == RELU:
        return maximum0(v)
    return v


@parallel
def _scale_shift(part, block, x, centre, scale, shift, activation, y):
    """y = scale * (x - centre) + shift, channel by channel, and the activation."""
    m, c = x.shape
    flat_x, flat_y = x.reshape(-1), y.reshape(-1)
    like = zeros(x, block)[0]
    for k in range(0, c, len(like)):
        a, b, middle = load(like, scale, k), load(like, shift, k), load(like, centre, k)
        for i in chunk(part, m):
            store_prefetching(flat_y, i * c + k, _y_at(like, flat_x, i * c + k, a, middle, b, activation))


@parallel
def _scale_shift_pool(part, block, x, centre, scale, shift, activation, y, winner):
    """As _scale_shift, then the largest of each window of 2 x 2 pixels, and which it was; x is (rows, w, c)."""
    rows, w, c = x.shape
    flat, like, number = x.reshape(-1), zeros(x, block)[0], zeros(winner, block)[0]
    for k in range(0, c, len(like)):
        a, b, middle = load(like, scale, k), load(like, shift, k), load(like, centre, k)
        for i in chunk(part, rows // 2):
            for j in range(w // 2):
                top = (2 * i * w + 2 * j) * c + k
                v0 = _y_at(like, flat, top, a, middle, b, activation)
                v1 = _y_at(like, flat, top + c, a, middle, b, activation)
                v2 = _y_at(like, flat, top + w * c, a, middle, b, activation)
                v3 = _y_at(like, flat, top + w * c + c, a, middle, b, activation)
                pool_window(number, v0, v1, v2, v3, y, winner, (i * (w // 2) + j) * c + k)


@helper
def _dy_and_x(like, number, behind, x, row, column, width, c, k, activation, scale, shift, centre):
    """A pixel's dy, come back through pool and activation, and its x - centre."""
    v = dy_at(like, number, behind, row, column, width, c, k)
    from_centre = load_prefetching(like, x, (row * width + column) * c + k) - centre
    if activation == RELU:
        v = gate(v, fma(scale, from_centre, shift))
    if activation == SILU:
        v = silu_backward(v, fma(scale, from_centre, shift))
    return v, from_centre


@parallel
def _sums_backward(part, block, behind, x, activation, centre, scale, shift, sums, products):
    """Of a part of the rows of all images: each channel's sum of dy, and of dy * (x - centre)."""
    rows, w, c = x.shape
    flat, like, number = x.reshape(-1), zeros(x, block)[0], zeros(behind.winner, block)[0]
    for k in range(0, c, len(like)):
        total, product = like, like
        a, b, middle = load(like, scale, k), load(like, shift, k), load(like, centre, k)
        for i in chunk(part, rows):
            for j in range(w):
                v, from_centre = _dy_and_x(like, number, behind, flat, i, j, w, c, k, activation, a, b, middle)
                total, product = total + v, fma(v, from_centre, product)
        store(sums[part], k, total)
        store(products[part], k, product)


@parallel
def _dx(part, block, behind, x, activation, centre, scale, shift, by_x, constant, dx):
    """dx = scale * dy + by_x * (x - centre) + constant, channel by channel."""
    rows, w, c = x.shape
    flat, like, number = x.reshape(-1), zeros(x, block)[0], zeros(behind.winner, block)[0]
    for k in range(0, c, len(like)):
        a, b, middle = load(like, scale, k), load(like, shift, k), load(like, centre, k)
        factor, rest = load(like, by_x, k), load(like, constant, k)
        for i in chunk(part, rows):
            for j in range(w):
                v, from_centre = _dy_and_x(like, number, behind, flat, i, j, w, c, k, activation, a, b, middle)
                store_prefetching(dx, (i * w + j) * c + k, fma(a, v, fma(factor, from_centre, rest)))


class BatchNorm(Step):
    """BatchNorm, and the ReLU or SiLU and the pool of 2 x 2 behind it."""

    layer: layers.BatchNorm
    fuses, fuses_pool = (layers.ReLU, layers.SiLU), True

    def forward(self, x, training=False):
        layer, dtype, c, x = self.layer, x.dtype, x.shape[-1], contiguous(x)
        y, rows = self.y(x, training), x.reshape(-1, c)
        mean, variance = layer.mean.value, layer.variance.value
        if training:
            mean, variance = moments(rows)
            layer.update_running(mean.astype(dtype), variance.astype(dtype), len(rows))
        inverse_std = 1 / np.sqrt(variance + layer.epsilon)
        scale, centre = layer.gamma.value * inverse_std, mean.astype(dtype)
        shift = layer.beta.value + (centre - mean) * scale  # what rounding took from the mean
        line = centre, scale.astype(dtype, copy=False), shift.astype(dtype, copy=False)
        winner, work, block, activation = self.winner(y), MOVED * x.size, one_row(c, dtype), self._activation()
        if self.pool:
            _scale_shift_pool(work, block, _lines(x), *line, activation, y.reshape(-1), winner)
        else:
            _scale_shift(work, block, rows, *line, activation, y.reshape(-1, c))
        if training:
            self.save_for_backward(x, winner, mean, inverse_std, line)
        return y

    def _activation(self) -> int:
        silu = any(type(layer) is layers.SiLU for layer in self.fused)
        return SILU if silu else RELU if self.relu else NONE

    def backward(self, dy):
        """The layer's formula for dx, collected into one number each for dy, x - mean and 1."""
        (x, winner, mean, inverse_std, line), layer, (dtype, c) = self.saved, self.layer, (dy.dtype, dy.shape[-1])
        centre = line[0]
        block, m = one_row(c, dtype), x.size // c
        sums, products = scratch("means", (PARTS, c), dtype), scratch("squares", (PARTS, c), dtype)
        dy = contiguous(dy).reshape(-1)
        given = Behind(dy, dy, winner, False, self.pool), _lines(x), self._activation(), *line
        _sums_backward(MOVED * x.size, block, *given, sums, products)
        total = sums.sum(axis=0, dtype=np.float64)
        product = (products.sum(axis=0, dtype=np.float64) + (centre - mean) * total) * inverse_std
        layer.beta.grad[...], layer.gamma.grad[...] = total, product
        a = layer.gamma.value * inverse_std
        b = -a * product * inverse_std / m
        by_x, constant = (number.astype(dtype) for number in (b, b * (centre - mean) - a * total / m))
        dx = self.dx(x.shape, dtype)
        if self.needs_dx:
            _dx(MOVED * x.size, block, *given, by_x, constant, dx.reshape(-1))
        return dx


def _lines(x: np.ndarray) -> np.ndarray:
    """All images' rows of pixels, (rows, w, c); of what is no image, rows of one pixel."""
    return x.reshape(-1, *x.shape[-2:]) if x.ndim == 4 else x.reshape(-1, 1, x.shape[-1])
