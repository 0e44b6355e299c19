"""Batch normalisation: see minicnn/layers/normalization.py for what it computes.

Faster because each pass reads x once from memory. The batch's mean and variance are gathered tile by tile: while some rows
are in the nearest cache their mean is taken, and then the squares of the differences from it; two tiles' results are joined
by the formula of Chan, Golub and LeVeque (1979), in a fixed order. So no outlier and no large mean swallows a small
variance.
"""

from __future__ import annotations

import numpy as np

from minicnn.engine.lanes import fma, gate, load, load_prefetching, maximum0, one_row, store, store_prefetching, zeros
from minicnn.engine.memory import scratch
from minicnn.engine.step import Step
from minicnn.engine.threads import PARTS, chunk, parallel

TILE = 128  # rows: with vectors of 128 bytes, half of the nearest cache


@parallel
def _moments(part, block, x, means, squares):
    """Of a part of the rows: every channel's mean, and the sum of the squared differences from it."""
    c, flat, rows = x.shape[1], x.reshape(-1), chunk(part, x.shape[0])
    nothing = zeros(x, block)[0]
    one = x.dtype.type(1)
    for k in range(0, c, len(nothing)):
        mean, square = nothing, nothing
        for start in range(rows.start, rows.stop, TILE):
            stop = min(start + TILE, rows.stop)
            first, total, squared = load(nothing, flat, start * c + k), nothing, nothing
            for i in range(start, stop):
                total = total + (load_prefetching(nothing, flat, i * c + k) - first)
            shift = (one / x.dtype.type(stop - start)) * total  # the tile's mean is first + shift
            for i in range(start, stop):
                v = (load(nothing, flat, i * c + k) - first) - shift
                squared = fma(v, v, squared)
            weight = x.dtype.type(stop - start) / x.dtype.type(stop - rows.start)
            between = (first - mean) + shift
            square = square + squared + (x.dtype.type(start - rows.start) * weight) * (between * between)
            mean = fma(weight, between, mean)
        store(means[part], k, mean)
        store(squares[part], k, square)


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each column of x (m, c), in float64."""
    m, c = x.shape
    means, squares = scratch("means", (PARTS, c), x.dtype), scratch("squares", (PARTS, c), x.dtype)
    _moments(2 * x.size, one_row(c, x.dtype), x, means, squares)
    bounds = np.arange(PARTS + 1) * m // PARTS
    rows, means = np.diff(bounds)[:, None], means.astype(np.float64)
    mean = (rows * means).sum(axis=0) / m
    return mean, (squares.sum(axis=0, dtype=np.float64) + (rows * (means - mean) ** 2).sum(axis=0)) / m


@parallel
def _scale_shift(part, block, x, scale, shift, relu, y):
    m, c = x.shape
    flat_x, flat_y = x.reshape(-1), y.reshape(-1)
    like = zeros(x, block)[0]
    for k in range(0, c, len(like)):
        a, b = load(like, scale, k), load(like, shift, k)
        for i in chunk(part, m):
            v = fma(a, load_prefetching(like, flat_x, i * c + k), b)
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
def _dx(part, block, dy, x, y, relu, a, b, d, dx):
    """dx = a * dy + b * x + d, channel by channel."""
    m, c = x.shape
    flat_dy, flat_x, flat_y, flat_dx = dy.reshape(-1), x.reshape(-1), y.reshape(-1), dx.reshape(-1)
    like = zeros(x, block)[0]
    for k in range(0, c, len(like)):
        by_dy, by_x, shift = load(like, a, k), load(like, b, k), load(like, d, k)
        for i in chunk(part, m):
            v = load_prefetching(like, flat_dy, i * c + k)
            if relu:
                v = gate(v, load_prefetching(like, flat_y, i * c + k))
            store_prefetching(
                flat_dx, i * c + k, fma(by_dy, v, fma(by_x, load_prefetching(like, flat_x, i * c + k), shift))
            )


class BatchNorm(Step):
    """BatchNorm, and the ReLU behind it."""

    fuses_relu = True

    def forward(self, x, training=False):
        layer, dtype, c, x = self.layer, x.dtype, x.shape[-1], np.ascontiguousarray(x)
        y, rows = self.y(x, training), x.reshape(-1, c)
        mean, variance = layer.mean.value, layer.variance.value
        if training:
            mean, variance = moments(rows)
            layer.update_running(mean.astype(dtype), variance.astype(dtype), len(rows))
        inverse_std = 1 / np.sqrt(variance + layer.epsilon)
        scale = layer.gamma.value * inverse_std
        shift = layer.beta.value - mean * scale
        scale, shift = scale.astype(dtype, copy=False), shift.astype(dtype, copy=False)
        _scale_shift(2 * x.size, one_row(c, dtype), rows, scale, shift, self.relu, y.reshape(-1, c))
        if training:
            self.save_for_backward(x, y, mean, inverse_std)
        return y

    def backward(self, dy):
        """The layer's formula for dx, collected into one number each for dy, x and 1."""
        (x, y, mean, inverse_std), layer, (dtype, c) = self.saved, self.layer, (dy.dtype, dy.shape[-1])
        dy, x, y = (array.reshape(-1, c) for array in (np.ascontiguousarray(dy), x, y))
        block, m = one_row(c, dtype), len(x)
        sums, products = scratch("means", (PARTS, c), dtype), scratch("squares", (PARTS, c), dtype)
        _sums_backward(2 * x.size, block, dy, x, y, mean.astype(dtype), self.relu, sums, products)
        total = sums.sum(axis=0, dtype=np.float64)
        product = products.sum(axis=0, dtype=np.float64) * inverse_std
        layer.beta.grad[...], layer.gamma.grad[...] = total, product
        a = layer.gamma.value * inverse_std
        b = -a * product * inverse_std / m
        numbers = (number.astype(dtype) for number in (a, b, -a * total / m - b * mean))
        dx = self.dx((len(self.saved[0]), *self.input_shape), dtype)
        if self.needs_dx:
            _dx(3 * x.size, block, dy, x, y, self.relu, *numbers, dx.reshape(-1, c))
        return dx
