"""Batch normalisation: see minicnn/layers/normalization.py for what it computes.

Faster because each pass reads x once, and beside a convolution some passes need not be: see Normalized and before.py. x is
taken from the rounded mean before it is scaled, and what rounding took from the mean is in the shift, so that a large mean
costs no digits there (nor where it is computed: see moments.py). In backward the rows are dealt into shares, whose sums are
joined in order: each of many images is one, and of few images, or of rows that are none, there is a fixed number.
"""

from __future__ import annotations

import math

import numpy as np

from minicnn import layers
from minicnn.engine.before import Before, scaled
from minicnn.engine.behind import Behind, dy_at, pool_window
from minicnn.engine.calls import MOVED, parallel, whole
from minicnn.engine.compiling import helper
from minicnn.engine.convolution import Convolution
from minicnn.engine.depthwise import Depthwise
from minicnn.engine.exponentials import silu, silu_backward
from minicnn.engine.lanes import (
    fma,
    gate,
    load_prefetching,
    load_rows,
    one_row,
    store,
    store_prefetching,
    zeros,
)
from minicnn.engine.memory import Turns, contiguous, scratch
from minicnn.engine.moments import by_images, join, moments, two_of_each_part, units
from minicnn.engine.step import Step
from minicnn.engine.threads import PARTS, chunk, share_of


@whole
def _learn_statistics(sums, n, pixels, unbiased, momentum, fresh, running_mean, running_variance, statistics):
    """Mean and variance of each channel, towards which the running ones move."""
    means, squares = sums
    join(means, squares, n, pixels, statistics[0], statistics[1])
    for k in range(means.shape[1]):
        mean, variance = means.dtype.type(statistics[0, k]), means.dtype.type(statistics[1, k])
        running_mean[k] = momentum * running_mean[k] + fresh * mean
        running_variance[k] = momentum * running_variance[k] + fresh * (unbiased * variance)


@whole
def _line_forward(statistics, epsilon, gamma, beta, line):
    """From mean and variance 1 / standard deviation, then centre, scale and shift."""
    mean, variance, inverse_std = statistics[:3]
    for k in range(gamma.shape[0]):
        inverse_std[k] = 1 / math.sqrt(variance[k] + epsilon)
        scale, line[0, k] = gamma[k] * inverse_std[k], mean[k]
        line[1, k], line[2, k] = scale, beta[k] + (line[0, k] - mean[k]) * scale  # what rounding took from the mean


@whole
def _line_backward(sums, products, m, statistics, gamma, dbeta, dgamma, line):
    """The gradients of beta and gamma from the shares' sums; and the layer's formula for dx, collected into one number
    each for x and 1."""
    (mean, _, inverse_std, totals, of_products), (shares, c) = statistics, sums.shape
    totals[:] = 0
    of_products[:] = 0
    for share in range(shares):
        for k in range(c):
            totals[k] += sums[share, k]
            of_products[k] += products[share, k]
    for k in range(c):
        total, off = totals[k], line[0, k] - mean[k]
        product = (of_products[k] + off * total) * inverse_std[k]
        dbeta[k], dgamma[k] = total, product
        scale = gamma[k] * inverse_std[k]
        by_x = -scale * product * inverse_std[k] / m
        line[3, k], line[4, k] = by_x, by_x * off - scale * total / m


NONE, RELU, SILU = range(3)


@helper
def _y_at(like, x, at, centre, scale, shift, activation):
    """A vector of the result, from one of x."""
    v = scaled(load_prefetching(like, x, at), centre, scale, shift, activation == RELU)
    if activation == SILU:
        return silu(v)
    return v


@parallel
def _scale_shift(part, block, x, line, activation, y):
    """y = scale * (x - centre) + shift, channel by channel, and the activation."""
    m, c = x.shape
    flat_x, flat_y = x.reshape(-1), y.reshape(-1)
    like = zeros(x, block)[0]
    for k in range(0, c, len(like)):
        centre, scale, shift = load_rows(like, line, (0, c, 2 * c), k)
        for i in chunk(part, m):
            store_prefetching(flat_y, i * c + k, _y_at(like, flat_x, i * c + k, centre, scale, shift, activation))


@parallel
def _scale_shift_pool(part, block, x, line, activation, y, winner):
    """As _scale_shift, then the largest of each window of 2 x 2 pixels, and which it was; x is (rows, w, c)."""
    rows, w, c = x.shape
    flat, like, number = x.reshape(-1), zeros(x, block)[0], zeros(winner, block)[0]
    for k in range(0, c, len(like)):
        centre, scale, shift = load_rows(like, line, (0, c, 2 * c), k)
        for i in chunk(part, rows // 2):
            for j in range(w // 2):
                top = (2 * i * w + 2 * j) * c + k
                v0 = _y_at(like, flat, top, centre, scale, shift, activation)
                v1 = _y_at(like, flat, top + c, centre, scale, shift, activation)
                v2 = _y_at(like, flat, top + w * c, centre, scale, shift, activation)
                v3 = _y_at(like, flat, top + w * c + c, centre, scale, shift, activation)
                pool_window(number, v0, v1, v2, v3, y, winner, (i * (w // 2) + j) * c + k)


@helper
def _dy_and_x(like, number, behind, x, row, column, width, c, k, activation, centre, scale, shift):
    """A pixel's dy, come back through pool and activation, and its x - centre."""
    v = dy_at(like, number, behind, row, column, width, c, k)
    from_centre = load_prefetching(like, x, (row * width + column) * c + k) - centre
    if activation == RELU:
        v = gate(v, fma(scale, from_centre, shift))
    if activation == SILU:
        v = silu_backward(v, fma(scale, from_centre, shift))
    return v, from_centre


@parallel
def _sums_backward(part, block, behind, x, line, activation, sums, products):
    """Of each share of the rows of all images: each channel's sum of dy, and of dy * (x - centre)."""
    (rows, w, c), shares = x.shape, sums.shape[0]
    flat, like, number = x.reshape(-1), zeros(x, block)[0], zeros(behind.winner, block)[0]
    for k in range(0, c, len(like)):
        centre, scale, shift = load_rows(like, line, (0, c, 2 * c), k)
        for share in chunk(part, shares):
            total, product = like, like
            for i in share_of(rows, share, shares):
                for j in range(w):
                    v, x_ = _dy_and_x(like, number, behind, flat, i, j, w, c, k, activation, centre, scale, shift)
                    total, product = total + v, fma(v, x_, product)
            store(sums[share], k, total)
            store(products[share], k, product)


@parallel
def _dx(part, block, behind, x, line, activation, dx):
    """dx = scale * dy + by_x * (x - centre) + constant, channel by channel."""
    rows, w, c = x.shape
    flat, like, number = x.reshape(-1), zeros(x, block)[0], zeros(behind.winner, block)[0]
    for k in range(0, c, len(like)):
        centre, scale, shift, by_x, constant = load_rows(like, line, (0, c, 2 * c, 3 * c, 4 * c), k)
        for i in chunk(part, rows):
            for j in range(w):
                v, x_ = _dy_and_x(like, number, behind, flat, i, j, w, c, k, activation, centre, scale, shift)
                store_prefetching(dx, (i * w + j) * c + k, fma(scale, v, fma(by_x, x_, constant)))


class BatchNorm(Step):
    """BatchNorm, and the ReLU or SiLU and the pool of 2 x 2 behind it.

    Of each channel `line` holds five numbers: centre, scale and shift, from which y is made, then by_x and constant, with
    which dx is.
    """

    layer: layers.BatchNorm
    then: Convolution | Depthwise | None = None  # the step that it leaves its scale and shift to
    last_to_read_x = False  # whether no step before it reads x again in backward, so that dx may be written over it
    fuses, fuses_pool = (layers.ReLU, layers.SiLU), True

    def __init__(
        self, layer: layers.Layer, activation: layers.Layer | None, pool: layers.Layer | None, turns: Turns | None
    ):
        super().__init__(layer, activation, pool, turns)
        self.activation = SILU if type(activation) is layers.SiLU else RELU if self.relu else NONE

    def follow(self, before: layers.Layer) -> list[layers.Layer]:
        """The step before and this one, or the step that both are together. With SiLU dx takes more than two
        multiplications; and in winograd.py it would push other numbers out of the registers, and cost what it saves."""
        if not isinstance(before, Convolution | Depthwise) or len(before.fused) > 1:
            return [before, self]
        self.last_to_read_x = True
        tiled = isinstance(before, Convolution) and before.takes_winograd()
        return [before, self] if tiled or self.activation == SILU else [Normalized(before, self)]

    def leave_to(self, then: Convolution | Depthwise) -> None:
        """Let the step behind apply scale, shift and ReLU where it reads its x; SiLU takes too long for that, as some
        numbers are read several times."""
        if not self.pool and self.activation != SILU and then.takes_before():
            self.then = then

    def forward(self, x, training=False):
        x = contiguous(x)
        return self.normalize(x, training, moments(x) if training else None)

    def normalize(self, x, training, sums):
        """forward, once the parts' means and squares are known."""
        layer, c = self.layer, x.shape[-1]
        statistics, line = np.empty((5, c)), np.empty((5, c), x.dtype)
        if training:
            m, number = x.size // c, x.dtype.type
            numbers = number(m / max(1, m - 1)), number(layer.momentum), number(1 - layer.momentum)
            _learn_statistics(sums, *units(x), *numbers, layer.mean.value, layer.variance.value, statistics)
        else:
            statistics[0], statistics[1] = layer.mean.value, layer.variance.value
        _line_forward(statistics, layer.epsilon, layer.gamma.value, layer.beta.value, line)
        images = len(x) if self.then is not None and by_images(len(x)) else 0
        sums_backward = np.empty((2, images, c), x.dtype)
        y = self._write(x, line.reshape(-1), sums_backward, training)
        if training:
            self.save_for_backward(x, self.winner(y), statistics, line, sums_backward)
        return y

    def _write(self, x, line, sums_backward, training):
        """y, or x where the step behind makes y of it, and in backward the sums."""
        if self.then is not None:
            self.then.carried = Before(True, self.relu, line, sums_backward)
            return x
        c, y = x.shape[-1], self.y(x, training)
        given = MOVED * x.size, one_row(c, x.dtype)
        if self.pool:
            _scale_shift_pool(*given, _lines(x), line, self.activation, y.reshape(-1), self.winner(y))
        else:
            _scale_shift(*given, x.reshape(-1, c), line, self.activation, y.reshape(-1, c))
        return y

    def backward(self, dy):
        x, given = self.saved[0], self._given(dy)
        dx = x if self.needs_dx and self.last_to_read_x else self.dx(x.shape, x.dtype)
        self._learn(given)
        if self.needs_dx:
            _dx(MOVED * x.size, one_row(x.shape[-1], x.dtype), *given, dx.reshape(-1))
            if dx is x:
                self._saved = None
        return dx

    def _learn(self, given) -> None:
        """The gradients of gamma and beta, and what dx is made with."""
        (x, _, statistics, line, sums), layer = self.saved, self.layer
        c, gamma, beta = line.shape[1], layer.gamma, layer.beta
        if sums.size == 0:
            shares = len(x) if x.ndim == 4 and by_images(len(x)) else PARTS
            sums = scratch("sums", (2, shares, c), line.dtype)
            _sums_backward(MOVED * x.size, one_row(c, line.dtype), *given, *sums)
        _line_backward(*sums, x.size // c, statistics, gamma.value, beta.grad, gamma.grad, line)

    def _given(self, dy) -> tuple:
        """What the kernels of backward read."""
        x, winner, _, line, _ = self.saved
        dy, line = contiguous(dy).reshape(-1), line.reshape(-1)
        return Behind(dy, dy, winner, False, self.pool, norm=False, line=line), _lines(x), line, self.activation

    def behind_convolution(self, dy) -> Behind:
        """What the layer before needs to make dx itself, once the gradients are learnt."""
        behind, x, *_ = given = self._given(dy)
        self._learn(given)
        return behind._replace(y=x.reshape(-1), relu=self.relu, norm=True)


class Normalized(Step):
    """A convolution and the batch norm behind it. The moments are gathered while the convolution's y is in the cache; dx is
    made where the convolution's backward reads it, and never written (Jung et al., 2019)."""

    def __init__(self, convolution: Convolution | Depthwise, norm: BatchNorm):
        self.convolution, self.norm, self.layer = convolution, norm, convolution.layer
        self.fused, self.macs = convolution.fused + norm.fused, convolution.macs
        self.name = "+".join(one.name for one in self.fused)
        self.input_shape, self.output_shape, self.buffers = convolution.input_shape, norm.output_shape, {}

    def inside(self) -> list[layers.Layer]:
        return [self.convolution, self.norm]

    def leave_to(self, then: Convolution | Depthwise) -> None:
        """See BatchNorm."""
        self.norm.leave_to(then)

    def forward(self, x, training=False):
        if not training or not by_images(len(x)):
            return self.norm.forward(self.convolution.forward(x, training), training)
        sums = two_of_each_part(self.convolution.output_shape[-1], x.dtype)
        return self.norm.normalize(self.convolution.forward(x, training, sums), training, sums)

    def backward(self, dy):
        self.convolution.needs_dx = self.needs_dx
        return self.convolution.backward_from(self.norm.behind_convolution(dy))


def _lines(x: np.ndarray) -> np.ndarray:
    """All images' rows of pixels, (rows, w, c); of what is no image, rows of one pixel."""
    return x.reshape(-1, *x.shape[-2:]) if x.ndim == 4 else x.reshape(-1, 1, x.shape[-1])
