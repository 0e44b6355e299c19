"""Batch normalisation: see minicnn/layers/normalization.py for what it computes.

Faster because each pass reads x once. The batch's mean and variance are gathered together, from the squares of the
differences from the mean of the rows before, which are then put right for the mean that all rows have (as Welford, 1962, and
Chan, Golub and LeVeque, 1979): no outlier and no large mean swallows a small variance. x is taken from the rounded mean
before it is scaled, and what rounding took from the mean is in the shift, so that a large mean costs no digits there
either. The rows are dealt into a fixed number of parts, and the parts' sums joined in order.
"""

from __future__ import annotations

import numpy as np

from minicnn.engine.lanes import fma, gate, load, load_prefetching, maximum0, one_row, store, store_prefetching, zeros
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
    return mean, (squares.sum(axis=0, dtype=np.float64) + (rows * (means - mean) ** 2).sum(axis=0)) / m


@parallel
def _scale_shift(part, block, x, centre, scale, shift, relu, y):
    """y = scale * (x - centre) + shift, channel by channel, and ReLU."""
    m, c = x.shape
    flat_x, flat_y = x.reshape(-1), y.reshape(-1)
    like = zeros(x, block)[0]
    for k in range(0, c, len(like)):
        a, b, middle = load(like, scale, k), load(like, shift, k), load(like, centre, k)
        for i in chunk(part, m):
            v = fma(a, load_prefetching(like, flat_x, i * c + k) - middle, b)
            if relu:
                v = maximum0(v)
            store_prefetching(flat_y, i * c + k, v)


@parallel
def _sums_backward(part, block, dy, x, y, mean, relu, sums, products):
    m, c = x.shape
    flat_dy, flat_x, flat_y = dy.reshape(-1), x.reshape(-1), y.reshape(-1)
    for k in range(0, c, len(zeros(x, block)[0])):
        total, product = zeros(x, block)[0], zeros(x, block)[0]
        centre = load(total, mean, k)
        for i in chunk(part, m):
            v = load_prefetching(total, flat_dy, i * c + k)
            if relu:
                v = gate(v, load_prefetching(total, flat_y, i * c + k))
            total = total + v
            product = fma(v, load_prefetching(total, flat_x, i * c + k) - centre, product)
        store(sums[part], k, total)
        store(products[part], k, product)


@parallel
def _dx(part, block, dy, x, y, relu, centre, a, b, d, dx):
    """dx = a * dy + b * (x - centre) + d, channel by channel."""
    m, c = x.shape
    flat_dy, flat_x, flat_y, flat_dx = dy.reshape(-1), x.reshape(-1), y.reshape(-1), dx.reshape(-1)
    like = zeros(x, block)[0]
    for k in range(0, c, len(like)):
        by_dy, by_x, shift, middle = load(like, a, k), load(like, b, k), load(like, d, k), load(like, centre, k)
        for i in chunk(part, m):
            v = load_prefetching(like, flat_dy, i * c + k)
            if relu:
                v = gate(v, load_prefetching(like, flat_y, i * c + k))
            from_middle = load_prefetching(like, flat_x, i * c + k) - middle
            store_prefetching(flat_dx, i * c + k, fma(by_dy, v, fma(by_x, from_middle, shift)))


class BatchNorm(Step):
    """BatchNorm, and the ReLU behind it."""

    fuses_relu = True

    def forward(self, x, training=False):
        layer, dtype, c, x = self.layer, x.dtype, x.shape[-1], contiguous(x)
        y, rows = self.y(x, training), x.reshape(-1, c)
        mean, variance = layer.mean.value, layer.variance.value
        if training:
            mean, variance = moments(rows)
            layer.update_running(mean.astype(dtype), variance.astype(dtype), len(rows))
        inverse_std = 1 / np.sqrt(variance + layer.epsilon)
        scale = layer.gamma.value * inverse_std
        centre = mean.astype(dtype)
        shift = layer.beta.value + (centre - mean) * scale  # what rounding took from the mean
        scale, shift = scale.astype(dtype, copy=False), shift.astype(dtype, copy=False)
        _scale_shift(MOVED * x.size, one_row(c, dtype), rows, centre, scale, shift, self.relu, y.reshape(-1, c))
        if training:
            self.save_for_backward(x, y, mean, inverse_std)
        return y

    def backward(self, dy):
        """The layer's formula for dx, collected into one number each for dy, x - mean and 1."""
        (x, y, mean, inverse_std), layer, (dtype, c) = self.saved, self.layer, (dy.dtype, dy.shape[-1])
        dy, x, y = (array.reshape(-1, c) for array in (contiguous(dy), x, y))
        block, m = one_row(c, dtype), len(x)
        sums, products = scratch("means", (PARTS, c), dtype), scratch("squares", (PARTS, c), dtype)
        centre = mean.astype(dtype)
        _sums_backward(MOVED * x.size, block, dy, x, y, centre, self.relu, sums, products)
        total = sums.sum(axis=0, dtype=np.float64)
        product = (products.sum(axis=0, dtype=np.float64) + (centre - mean) * total) * inverse_std
        layer.beta.grad[...], layer.gamma.grad[...] = total, product
        a = layer.gamma.value * inverse_std
        b = -a * product * inverse_std / m
        numbers = (number.astype(dtype) for number in (a, b, b * (centre - mean) - a * total / m))
        dx = self.dx((len(self.saved[0]), *self.input_shape), dtype)
        if self.needs_dx:
            _dx(MOVED * x.size, block, dy, x, y, self.relu, centre, *numbers, dx.reshape(-1, c))
        return dx
