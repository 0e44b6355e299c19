"""Batch normalisation: see `reference.batch_norm` for what it computes.

Faster because each pass reads x once: the sums of x and x**2 are gathered together, in a fixed number of parts that are
added in order. They are taken of x minus the first pixel, so that a large mean does not swallow a small variance.
"""

from __future__ import annotations

import numpy as np

from minicnn.ops.kernels.lanes import fma, gate, load, maximum0, one_row, store, stream, stream_out, zeros
from minicnn.ops.kernels.threads import PARTS, parallel, share
from minicnn.ops.kernels.workspace import result, scratch


@parallel
def _moments(part, block, x, sums, squares):
    m, c = x.shape
    flat = x.reshape(-1)
    for k in range(0, c, len(zeros(x, block)[0])):
        total, square = zeros(x, block)[0], zeros(x, block)[0]
        first = load(total, flat, k)
        for i in share(part, m):
            v = stream(total, flat, i * c + k) - first
            total = total + v
            square = fma(v, v, square)
        store(sums[part], k, total)
        store(squares[part], k, square)


@parallel
def _scale_shift(part, block, x, scale, shift, relu, y):
    m, c = x.shape
    flat_x, flat_y = x.reshape(-1), y.reshape(-1)
    like = zeros(x, block)[0]
    for k in range(0, c, len(like)):
        a, b = load(like, scale, k), load(like, shift, k)
        for i in share(part, m):
            v = fma(a, stream(like, flat_x, i * c + k), b)
            if relu:
                v = maximum0(v)
            stream_out(flat_y, i * c + k, v)


def scale_shift(x, scale, shift, relu=False, out=None):
    """See `reference.scale_shift`."""
    y = result(out, x.shape, x.dtype)
    c = x.shape[-1]
    scale, shift = np.ascontiguousarray(scale, x.dtype), np.ascontiguousarray(shift, x.dtype)
    _scale_shift(one_row(c, x.dtype), np.ascontiguousarray(x).reshape(-1, c), scale, shift, relu, y.reshape(-1, c))
    return y


def batch_norm(x, gamma, beta, epsilon, relu=False, out=None):
    """See `reference.batch_norm`."""
    x = np.ascontiguousarray(x)
    flat = x.reshape(-1, x.shape[-1])
    m, c = flat.shape
    sums, squares = scratch("sums", (PARTS, c), x.dtype), scratch("squares", (PARTS, c), x.dtype)
    _moments(one_row(c, x.dtype), flat, sums, squares)
    shifted = sums.sum(axis=0, dtype=np.float64) / m
    var = np.maximum(squares.sum(axis=0, dtype=np.float64) / m - shifted**2, 0)
    mean = shifted + flat[0]
    scale = gamma / np.sqrt(var + epsilon)
    y = scale_shift(x, scale, beta - mean * scale, relu, out)
    return y, mean.astype(x.dtype), var.astype(x.dtype)


@parallel
def _sums_backward(part, block, dy, x, y, mean, relu, sums, products):
    m, c = x.shape
    flat_dy, flat_x, flat_y = dy.reshape(-1), x.reshape(-1), y.reshape(-1)
    for k in range(0, c, len(zeros(x, block)[0])):
        total, product = zeros(x, block)[0], zeros(x, block)[0]
        centre = load(total, mean, k)
        for i in share(part, m):
            v = stream(total, flat_dy, i * c + k)
            if relu:
                v = gate(v, stream(total, flat_y, i * c + k))
            total = total + v
            product = fma(v, stream(total, flat_x, i * c + k) - centre, product)
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
        for i in share(part, m):
            v = stream(like, flat_dy, i * c + k)
            if relu:
                v = gate(v, stream(like, flat_y, i * c + k))
            stream_out(flat_dx, i * c + k, fma(by_dy, v, fma(by_x, stream(like, flat_x, i * c + k), shift)))


def batch_norm_backward(dy, x, y, mean, var, gamma, epsilon, dgamma, dbeta, relu=False, out=None):
    """See `reference.batch_norm_backward`; its formula for dx, collected into one number each for dy, x and 1."""
    x, dy = np.ascontiguousarray(x), np.ascontiguousarray(dy)
    y = np.ascontiguousarray(y) if relu else dy
    c = x.shape[-1]
    flat_dy, flat_x, flat_y = dy.reshape(-1, c), x.reshape(-1, c), y.reshape(-1, c)
    m = len(flat_x)
    sums, products = scratch("sums", (PARTS, c), x.dtype), scratch("squares", (PARTS, c), x.dtype)
    block, mean = one_row(c, x.dtype), np.ascontiguousarray(mean, x.dtype)
    _sums_backward(block, flat_dy, flat_x, flat_y, mean, relu, sums, products)
    inverse_std = 1 / np.sqrt(var.astype(np.float64) + epsilon)
    total, product = sums.sum(axis=0, dtype=np.float64), products.sum(axis=0, dtype=np.float64) * inverse_std
    dbeta[...], dgamma[...] = total, product
    a = gamma * inverse_std
    b = -a * product * inverse_std / m
    d = -a * total / m - b * mean
    dx = result(out, x.shape, x.dtype)
    _dx(block, flat_dy, flat_x, flat_y, relu, *(v.astype(x.dtype) for v in (a, b, d)), dx.reshape(-1, c))
    return dx
