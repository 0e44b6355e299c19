"""The twins of inputs.Scale, losses.CrossEntropy and the optimizers: see there for what they compute.

Faster because each is one pass over memory: an image is gathered, moved, standardised and erased while it is in the
cache, and an optimizer reads and writes each number of its vectors once.
"""

from __future__ import annotations

import math

import numpy as np

from minicnn import inputs, losses, optimizers
from minicnn.engine.calls import MOVED, parallel
from minicnn.engine.compiling import helper, kernel
from minicnn.engine.lanes import fill, fma, load_prefetching, sqrt, store, wide_and_single, zeros
from minicnn.engine.memory import Piece, contiguous
from minicnn.engine.threads import chunk, vectors


def _same_attributes(twin, thing) -> None:
    """A twin is the same thing with another arithmetic: it has the thing's own attributes, not copies of them."""
    twin.__dict__ = thing.__dict__


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
    for b in chunk(part, index.shape[0]):
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


class FastScale:
    """The twin of `inputs.Scale`."""

    def __init__(self, scale: inputs.Scale):
        self.scale, self.piece = scale, Piece()

    def batch(self, images, index, dtype, matrix=None, holes=None):
        """See `inputs.Scale.batch`; the result lies in the same memory each time."""
        if images.ndim != 4:
            return self.scale.batch(images, index, dtype, matrix, holes)
        y = self.piece.array((len(index), *images.shape[1:]), dtype)
        factor, shift = (v.astype(dtype) for v in self.scale.factors(images.dtype, images.shape[-1]))
        matrix = np.empty((0, 2, 3), dtype) if matrix is None else matrix.astype(dtype)
        holes = np.empty((0, 4), np.int64) if holes is None else holes
        _make_batch(MOVED * y.size, images, index, matrix, holes, factor, shift, y)
        return y


@kernel
def _cross_entropy(logits, targets, weights, dlogits):
    n, classes = logits.shape
    loss = 0.0
    for i in range(n):
        largest, sum_exp = logits[i, 0], 0.0
        for k in range(1, classes):
            largest = max(largest, logits[i, k])
        for k in range(classes):
            dlogits[i, k] = math.exp(logits[i, k] - largest)
            sum_exp += dlogits[i, k]
        weight, log_sum = weights[i], largest + math.log(sum_exp)
        for k in range(classes):
            loss -= weight * targets[i, k] * (logits[i, k] - log_sum)
            dlogits[i, k] = weight * (dlogits[i, k] / sum_exp - targets[i, k])
    return loss


class FastCrossEntropy(losses.CrossEntropy):
    """The twin of `losses.CrossEntropy`: the same object's settings, another formula."""

    __init__ = _same_attributes

    def formula(self, logits, truth, weights):
        dlogits = np.empty_like(logits, order="C")
        return _cross_entropy(contiguous(logits), contiguous(truth), weights, dlogits), dlogits


# An optimizer's formula is written once, for vectors: wide ones, and for the rest of a part vectors of one number.


@helper
def _sgd_range(like, first, last, w, dw, velocity, numbers):
    rate, momentum, nesterov, keep = numbers
    for i in range(first, last, len(like)):
        g = load_prefetching(like, dw, i)
        v = fma(momentum, load_prefetching(like, velocity, i), g)
        store(velocity, i, v)
        if nesterov:
            v = fma(momentum, v, g)
        store(w, i, keep * load_prefetching(like, w, i) - rate * v)


@parallel
def _sgd(part, wide, single, w, dw, velocity, numbers):
    like, one = zeros(w, wide)[0], zeros(w, single)[0]
    first, rest, last = vectors(part, w.size, like)
    _sgd_range(like, first, rest, w, dw, velocity, numbers)
    _sgd_range(one, rest, last, w, dw, velocity, numbers)


class FastSGD(optimizers.SGD):
    """The twin of `optimizers.SGD`."""

    __init__ = _same_attributes

    def update(self, w, dw, velocity, rate, keep):
        numbers = w.dtype.type(rate), w.dtype.type(self.momentum), bool(self.nesterov), w.dtype.type(keep)
        _update(_sgd, (w, dw, velocity), numbers)


@helper
def _rmsprop_range(like, first, last, w, dw, square, numbers):
    rate, rho, fresh, epsilon, keep = numbers
    for i in range(first, last, len(like)):
        g = load_prefetching(like, dw, i)
        s = fma(rho, load_prefetching(like, square, i), fresh * g * g)
        store(square, i, s)
        store(w, i, keep * load_prefetching(like, w, i) - rate * g / (sqrt(s) + fill(like, epsilon)))


@parallel
def _rmsprop(part, wide, single, w, dw, square, numbers):
    like, one = zeros(w, wide)[0], zeros(w, single)[0]
    first, rest, last = vectors(part, w.size, like)
    _rmsprop_range(like, first, rest, w, dw, square, numbers)
    _rmsprop_range(one, rest, last, w, dw, square, numbers)


class FastRMSprop(optimizers.RMSprop):
    """The twin of `optimizers.RMSprop`."""

    __init__ = _same_attributes

    def update(self, w, dw, square, rate, keep):
        numbers = rate, self.rho, 1 - self.rho, self.epsilon, keep
        _update(_rmsprop, (w, dw, square), tuple(map(w.dtype.type, numbers)))


@helper
def _adam_range(like, first, last, w, dw, mean, square, numbers):
    beta1, fresh1, beta2, fresh2, rate, inverse_root, epsilon, keep = numbers
    for i in range(first, last, len(like)):
        g = load_prefetching(like, dw, i)
        m = fma(beta1, load_prefetching(like, mean, i), fresh1 * g)
        s = fma(beta2, load_prefetching(like, square, i), fresh2 * g * g)
        store(mean, i, m)
        store(square, i, s)
        store(w, i, keep * load_prefetching(like, w, i) - rate * m / fma(inverse_root, sqrt(s), fill(like, epsilon)))


@parallel
def _adam(part, wide, single, w, dw, mean, square, numbers):
    like, one = zeros(w, wide)[0], zeros(w, single)[0]
    first, rest, last = vectors(part, w.size, like)
    _adam_range(like, first, rest, w, dw, mean, square, numbers)
    _adam_range(one, rest, last, w, dw, mean, square, numbers)


class FastAdam(optimizers.Adam):
    """The twin of `optimizers.Adam`."""

    __init__ = _same_attributes

    def update(self, w, dw, mean, square, rate, keep):
        inverse_root = 1 / math.sqrt(1 - self.beta2**self.steps)
        corrected = rate / (1 - self.beta1**self.steps)
        numbers = self.beta1, 1 - self.beta1, self.beta2, 1 - self.beta2, corrected, inverse_root, self.epsilon, keep
        _update(_adam, (w, dw, mean, square), tuple(map(w.dtype.type, numbers)))


class FastAdamW(FastAdam):
    """The twin of `optimizers.AdamW`."""


def _update(formula, vectors, numbers):
    w = vectors[0]
    formula(MOVED * w.size, *wide_and_single(w.dtype), *vectors, numbers)
