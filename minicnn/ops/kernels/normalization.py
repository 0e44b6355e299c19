"""Batch normalisation: see `reference.batch_norm` for what it computes.

Faster because each pass reads x once: the sums of x and x**2 are gathered together, in a fixed number of parts that are
added in order. They are taken of x minus the first pixel, so that a large mean does not swallow a small variance.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from minicnn.ops.kernels.threads import parallel
from minicnn.ops.kernels.workspace import result, scratch

PARTS = 32


@parallel
def _moments(x, sums, squares):
    m, c = x.shape
    parts = sums.shape[0]
    for part in prange(parts):
        total, square = sums[part], squares[part]
        total[:] = 0
        square[:] = 0
        for i in range(part * m // parts, (part + 1) * m // parts):
            for k in range(c):
                v = x[i, k] - x[0, k]
                total[k] += v
                square[k] += v * v


@parallel
def _scale_shift(x, scale, shift, relu, y):
    m, c = x.shape
    for i in prange(m):
        for k in range(c):
            v = x[i, k] * scale[k] + shift[k]
            y[i, k] = x.dtype.type(0) if relu and v < 0 else v


def scale_shift(x, scale, shift, relu=False, out=None):
    """See `reference.scale_shift`."""
    y = result(out, x.shape, x.dtype)
    c = x.shape[-1]
    scale, shift = np.ascontiguousarray(scale, x.dtype), np.ascontiguousarray(shift, x.dtype)
    _scale_shift(np.ascontiguousarray(x).reshape(-1, c), scale, shift, relu, y.reshape(-1, c))
    return y


def batch_norm(x, gamma, beta, epsilon, relu=False, out=None):
    """See `reference.batch_norm`."""
    x = np.ascontiguousarray(x)
    flat = x.reshape(-1, x.shape[-1])
    m, c = flat.shape
    sums, squares = scratch("sums", (PARTS, c), x.dtype), scratch("squares", (PARTS, c), x.dtype)
    _moments(flat, sums, squares)
    shifted = sums.sum(axis=0, dtype=np.float64) / m
    var = np.maximum(squares.sum(axis=0, dtype=np.float64) / m - shifted**2, 0)
    mean = shifted + flat[0]
    scale = gamma / np.sqrt(var + epsilon)
    y = scale_shift(x, scale, beta - mean * scale, relu, out)
    return y, mean.astype(x.dtype), var.astype(x.dtype)


@parallel
def _sums_backward(dy, x, y, mean, relu, sums, products):
    m, c = x.shape
    parts = sums.shape[0]
    for part in prange(parts):
        total, product = sums[part], products[part]
        total[:] = 0
        product[:] = 0
        for i in range(part * m // parts, (part + 1) * m // parts):
            for k in range(c):
                v = dy[i, k]
                if relu and not y[i, k] > 0:
                    v = v * 0
                total[k] += v
                product[k] += v * (x[i, k] - mean[k])


@parallel
def _dx(dy, x, y, relu, a, b, d, dx):
    """dx = a * dy + b * x + d, channel by channel."""
    m, c = x.shape
    for i in prange(m):
        for k in range(c):
            v = dy[i, k]
            if relu and not y[i, k] > 0:
                v = v * 0
            dx[i, k] = a[k] * v + b[k] * x[i, k] + d[k]


def batch_norm_backward(dy, x, y, mean, var, gamma, epsilon, dgamma, dbeta, relu=False, out=None):
    """See `reference.batch_norm_backward`; its formula for dx, collected into one number each for dy, x and 1."""
    x, dy = np.ascontiguousarray(x), np.ascontiguousarray(dy)
    y = np.ascontiguousarray(y) if relu else dy
    c = x.shape[-1]
    flat_dy, flat_x, flat_y = dy.reshape(-1, c), x.reshape(-1, c), y.reshape(-1, c)
    m = len(flat_x)
    sums, products = scratch("sums", (PARTS, c), x.dtype), scratch("squares", (PARTS, c), x.dtype)
    _sums_backward(flat_dy, flat_x, flat_y, mean, relu, sums, products)
    inverse_std = 1 / np.sqrt(var.astype(np.float64) + epsilon)
    total, product = sums.sum(axis=0, dtype=np.float64), products.sum(axis=0, dtype=np.float64) * inverse_std
    dbeta[...], dgamma[...] = total, product
    a = gamma * inverse_std
    b = -a * product * inverse_std / m
    d = -a * total / m - b * mean
    dx = result(out, x.shape, x.dtype)
    _dx(flat_dy, flat_x, flat_y, relu, *(v.astype(x.dtype) for v in (a, b, d)), dx.reshape(-1, c))
    return dx
