"""Batches, the loss and the optimizers' steps: see the functions of the same names in reference.py.

Faster because each is one pass over memory: an image is gathered, moved, standardised and erased while it is in the
cache, and an optimizer reads and writes each number of its vectors once.
"""

from __future__ import annotations

import math

import numpy as np

from minicnn.ops.kernels.compiling import helper, kernel
from minicnn.ops.kernels.lanes import Block, best_block, fill, fma, sqrt, store, stream, zeros
from minicnn.ops.kernels.threads import parallel, share
from minicnn.ops.kernels.workspace import result, scratch


@helper
def _pixel(image, i, j, k):
    inside = 0 <= i < image.shape[0] and 0 <= j < image.shape[1]
    return image[i, j, k] if inside else image.dtype.type(0)


@helper
def _warp(image, m, y):
    h, w, c = y.shape
    number = y.dtype.type
    for i in range(h):
        for j in range(w):
            row = min(max(m[0, 0] * number(i) + m[0, 1] * number(j) + m[0, 2], number(-1)), number(h))
            column = min(max(m[1, 0] * number(i) + m[1, 1] * number(j) + m[1, 2], number(-1)), number(w))
            top, left = math.floor(row), math.floor(column)
            down, right = row - number(top), column - number(left)
            for k in range(c):
                if down == 0 and right == 0:  # as in flips and moves by whole pixels
                    y[i, j, k] = _pixel(image, top, left, k)
                    continue
                upper = _pixel(image, top, left, k) * (number(1) - right) + _pixel(image, top, left + 1, k) * right
                lower = _pixel(image, top + 1, left, k) * (number(1) - right)
                lower += _pixel(image, top + 1, left + 1, k) * right
                y[i, j, k] = upper * (number(1) - down) + lower * down


@parallel
def _make_batch(part, images, index, matrix, holes, scale, shift, y):
    _, h, w, c = y.shape
    for b in share(part, index.shape[0]):
        image, target = images[index[b]], y[b]
        if matrix.shape[0]:
            _warp(image, matrix[b], target)
        else:
            for i in range(h):
                for j in range(w):
                    for k in range(c):
                        target[i, j, k] = image[i, j, k]
        for i in range(h):
            for j in range(w):
                for k in range(c):
                    target[i, j, k] = target[i, j, k] * scale[k] + shift[k]
        if holes.shape[0]:
            for i in range(max(holes[b, 0], 0), min(holes[b, 1], h)):
                for j in range(max(holes[b, 2], 0), min(holes[b, 3], w)):
                    for k in range(c):
                        target[i, j, k] = 0


def make_batch(images, index, matrix, holes, scale, shift, dtype, out=None):
    """See `reference.make_batch`."""
    dtype = np.dtype(dtype)
    y = result(out, (len(index), *images.shape[1:]), dtype)
    matrix = np.empty((0, 2, 3), dtype) if matrix is None else matrix.astype(dtype)
    holes = np.empty((0, 4), np.int64) if holes is None else holes
    _make_batch(images, index, matrix, holes, scale.astype(dtype), shift.astype(dtype), y)
    return y


@kernel
def _cross_entropy(logits, targets, weights, dlogits):
    n, classes = logits.shape
    total = loss = 0.0
    for i in range(n):
        total += weights[i]
    for i in range(n):
        largest, sum_exp = logits[i, 0], 0.0
        for k in range(1, classes):
            largest = max(largest, logits[i, k])
        for k in range(classes):
            dlogits[i, k] = math.exp(logits[i, k] - largest)
            sum_exp += dlogits[i, k]
        weight, log_sum = weights[i] / total, largest + math.log(sum_exp)
        for k in range(classes):
            loss -= weight * targets[i, k] * (logits[i, k] - log_sum)
            dlogits[i, k] = weight * (dlogits[i, k] / sum_exp - targets[i, k])
    return loss


def softmax_cross_entropy(logits, targets, weights, out=None):
    """See `reference.softmax_cross_entropy`."""
    dlogits = result(out, logits.shape, logits.dtype)
    loss = _cross_entropy(np.ascontiguousarray(logits), np.ascontiguousarray(targets), weights, dlogits)
    return float(loss), dlogits


BLOCK = 8192


@parallel
def _sum_of_squares(part, g, totals):
    for block in share(part, totals.shape[0]):
        a, b, c, d = 0.0, 0.0, 0.0, 0.0  # four sums, so that each addition need not wait for the one before
        first, last = block * BLOCK, min((block + 1) * BLOCK, g.shape[0])
        whole = first + (last - first) // 4 * 4
        for i in range(first, whole, 4):
            a += np.float64(g[i]) ** 2
            b += np.float64(g[i + 1]) ** 2
            c += np.float64(g[i + 2]) ** 2
            d += np.float64(g[i + 3]) ** 2
        for i in range(whole, last):
            a += np.float64(g[i]) ** 2
        totals[block] = (a + b) + (c + d)


def sum_of_squares(g):
    """See `reference.sum_of_squares`; in blocks of 8192 numbers, whose sums are added in order."""
    totals = scratch("totals", (-(-g.size // BLOCK),), np.float64)
    _sum_of_squares(np.ascontiguousarray(g).reshape(-1), totals)
    return float(totals.sum())


# An optimizer's formula is written once, for vectors: wide ones, and for the rest of a part vectors of one number.


@helper
def _vectors(part, n, like):
    """One part of the numbers from 0 to n - 1: where it begins, where its whole vectors end, and where it ends."""
    span = share(part, n)
    return span.start, span.stop - (span.stop - span.start) % len(like), span.stop


@helper
def _sgd_range(like, first, last, w, dw, velocity, numbers):
    rate, momentum, nesterov, keep, clip = numbers
    for i in range(first, last, len(like)):
        g = clip * stream(like, dw, i)
        v = fma(momentum, stream(like, velocity, i), g)
        store(velocity, i, v)
        if nesterov:
            v = fma(momentum, v, g)
        store(w, i, keep * stream(like, w, i) - rate * v)


@parallel
def _sgd(part, wide, single, w, dw, velocity, numbers):
    like, one = zeros(w, wide)[0], zeros(w, single)[0]
    first, rest, last = _vectors(part, w.size, like)
    _sgd_range(like, first, rest, w, dw, velocity, numbers)
    _sgd_range(one, rest, last, w, dw, velocity, numbers)


def sgd_step(w, dw, velocity, rate, momentum, nesterov, decay, clip):
    """See `reference.sgd_step`."""
    number = w.dtype.type
    numbers = number(rate), number(momentum), nesterov, number(1 - rate * decay), number(clip)
    _run(_sgd, (w, dw, velocity), numbers)


@helper
def _rmsprop_range(like, first, last, w, dw, square, numbers):
    rate, rho, fresh, epsilon, keep, clip = numbers
    for i in range(first, last, len(like)):
        g = clip * stream(like, dw, i)
        s = fma(rho, stream(like, square, i), fresh * g * g)
        store(square, i, s)
        store(w, i, keep * stream(like, w, i) - rate * g / (sqrt(s) + fill(like, epsilon)))


@parallel
def _rmsprop(part, wide, single, w, dw, square, numbers):
    like, one = zeros(w, wide)[0], zeros(w, single)[0]
    first, rest, last = _vectors(part, w.size, like)
    _rmsprop_range(like, first, rest, w, dw, square, numbers)
    _rmsprop_range(one, rest, last, w, dw, square, numbers)


def rmsprop_step(w, dw, square, rate, rho, epsilon, decay, clip):
    """See `reference.rmsprop_step`."""
    numbers = rate, rho, 1 - rho, epsilon, 1 - rate * decay, clip
    _run(_rmsprop, (w, dw, square), tuple(map(w.dtype.type, numbers)))


@helper
def _adam_range(like, first, last, w, dw, mean, square, numbers):
    beta1, fresh1, beta2, fresh2, rate, inverse_root, epsilon, keep, clip = numbers
    for i in range(first, last, len(like)):
        g = clip * stream(like, dw, i)
        m = fma(beta1, stream(like, mean, i), fresh1 * g)
        s = fma(beta2, stream(like, square, i), fresh2 * g * g)
        store(mean, i, m)
        store(square, i, s)
        store(w, i, keep * stream(like, w, i) - rate * m / fma(inverse_root, sqrt(s), fill(like, epsilon)))


@parallel
def _adam(part, wide, single, w, dw, mean, square, numbers):
    like, one = zeros(w, wide)[0], zeros(w, single)[0]
    first, rest, last = _vectors(part, w.size, like)
    _adam_range(like, first, rest, w, dw, mean, square, numbers)
    _adam_range(one, rest, last, w, dw, mean, square, numbers)


def adam_step(w, dw, mean, square, rate, beta1, beta2, epsilon, decay, clip, step):
    """See `reference.adam_step`."""
    inverse_root = 1 / math.sqrt(1 - beta2**step)
    corrected = rate / (1 - beta1**step)
    numbers = (beta1, 1 - beta1, beta2, 1 - beta2, corrected, inverse_root, epsilon, 1 - rate * decay, clip)
    _run(_adam, (w, dw, mean, square), tuple(map(w.dtype.type, numbers)))


def _run(step, arrays, numbers):
    """A step on arrays in any order of memory."""
    straight, dtype = [np.ascontiguousarray(a) for a in arrays], arrays[0].dtype
    step(Block(1, best_block(dtype).shape[1]), Block(1, 1), *straight, numbers)
    for array, changed in zip(arrays, straight, strict=True):
        if changed is not array and array is not arrays[1]:
            array[...] = changed
