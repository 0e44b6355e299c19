"""Pooling, one pass over memory: see minicnn/layers/pooling.py for what it computes.

Faster because a window is read where it lies, and the images are dealt out to the threads.
"""

from __future__ import annotations

import math

import numpy as np

from minicnn import layers
from minicnn.engine.calls import MOVED, parallel
from minicnn.engine.compiling import helper
from minicnn.engine.lanes import fill, larger, load_prefetching, one_row, only_where, store, store_prefetching, zeros
from minicnn.engine.memory import contiguous
from minicnn.engine.step import Step
from minicnn.engine.threads import chunk


def _index_type(size: tuple[int, int]) -> np.dtype:
    """The smallest type that numbers the pixels of a window."""
    count = math.prod(size)
    return np.dtype(np.uint8 if count <= 256 else np.int32 if count < 2**31 else np.int64)


@helper
def _largest(best, number, x, at, p0, p1, q0, q1, down, right, width):
    """The largest numbers of one window, and winner in it they were; the first of equals, NaN above all."""
    best, number = fill(best, -np.inf), fill(number, p0 * width + q0 if p0 < p1 and q0 < q1 else 0)
    for p in range(p0, p1):
        for q in range(q0, q1):
            here = at + p * down + q * right
            best, number = larger(load_prefetching(best, x, here), best, p * width + q, number)
    return best, number


@parallel
def _max_pool(part, block, x, size, stride, corner, y, winner):
    n, h, w, c = x.shape
    _, oh, ow, _ = y.shape
    flat_x, flat_y, flat_winner = x.reshape(-1), y.reshape(-1), winner.reshape(-1)
    for image in chunk(part, n):
        best, number = zeros(x, block)[0], zeros(winner, block)[0]
        for i in range(oh):
            top = i * stride[0] - corner[0]
            p0, p1 = max(0, -top), min(size[0], h - top)
            for j in range(ow):
                left = j * stride[1] - corner[1]
                q0, q1 = max(0, -left), min(size[1], w - left)
                for k in range(0, c, len(best)):
                    at, target = ((image * h + top) * w + left) * c + k, ((image * oh + i) * ow + j) * c + k
                    best, number = _largest(best, number, flat_x, at, p0, p1, q0, q1, w * c, c, size[1])
                    store(flat_y, target, best)
                    store(flat_winner, target, number)


@parallel
def _max_pool_backward(part, dy, winner, size, stride, corner, dx):
    n, oh, ow, c = dy.shape
    _, h, w, _ = dx.shape
    for image in chunk(part, n):
        dx[image] = 0
        for i in range(oh):
            for j in range(ow):
                top, left = i * stride[0] - corner[0], j * stride[1] - corner[1]
                for k in range(c):
                    number = np.int64(winner[image, i, j, k])
                    row, column = top + number // size[1], left + number % size[1]
                    if 0 <= row < h and 0 <= column < w:  # else the window lies wholly in the padding
                        dx[image, row, column, k] += dy[image, i, j, k]


@parallel
def _max_pool_backward_apart(part, block, dy, winner, size, dx):
    """Windows side by side without overlap: every pixel has one window, and is written once."""
    n, oh, ow, c = dy.shape
    _, h, w, _ = dx.shape
    flat_dy, flat_winner, flat_dx = dy.reshape(-1), winner.reshape(-1), dx.reshape(-1)
    for image in chunk(part, n):
        like, number = zeros(dy, block)[0], zeros(winner, block)[0]
        for i in range(oh):
            for j in range(ow):
                for k in range(0, c, len(like)):
                    source = ((image * oh + i) * ow + j) * c + k
                    value, won = load_prefetching(like, flat_dy, source), load_prefetching(number, flat_winner, source)
                    at = ((image * h + i * size[0]) * w + j * size[1]) * c + k
                    for p in range(size[0]):
                        for q in range(size[1]):
                            store_prefetching(flat_dx, at + (p * w + q) * c, only_where(won, p * size[1] + q, value))
        dx[image, oh * size[0] :] = 0  # rows and columns that belong to no window
        dx[image, :, ow * size[1] :] = 0


class MaxPool(Step):
    """MaxPool2D; which pixel won a window is kept as its number, counted row by row."""

    layer: layers.MaxPool2D

    def forward(self, x, training=False):
        (size, stride, ((top, _), (left, _)), _), x = self.layer.window, contiguous(x)
        y = self.y(x, training)
        winner = self.buffer("winner", y.shape, _index_type(size))
        _max_pool(MOVED * x.size, one_row(x.shape[3], x.dtype), x, size, stride, (top, left), y, winner)
        if training:
            self.save_for_backward(winner, x.shape)
        return y

    def backward(self, dy):
        (winner, x_shape), dy = self.saved, contiguous(dy)
        size, stride, padding, _ = self.layer.window
        dx = self.dx(x_shape, dy.dtype)
        if not self.needs_dx:
            return dx
        if size == stride and padding == ((0, 0), (0, 0)):
            _max_pool_backward_apart(MOVED * dx.size, one_row(x_shape[3], dy.dtype), dy, winner, size, dx)
        else:
            _max_pool_backward(MOVED * dx.size, dy, winner, size, stride, (padding[0][0], padding[1][0]), dx)
        return dx


@parallel
def _average_pool(part, x, size, stride, corner, y):
    n, h, w, c = x.shape
    _, oh, ow, _ = y.shape
    for image in chunk(part, n):
        for i in range(oh):
            top = i * stride[0] - corner[0]
            rows = range(max(0, top), min(h, top + size[0]))
            for j in range(ow):
                left = j * stride[1] - corner[1]
                columns = range(max(0, left), min(w, left + size[1]))
                total = y[image, i, j]
                total[:] = 0
                for row in rows:
                    for column in columns:
                        for k in range(c):
                            total[k] += x[image, row, column, k]
                for k in range(c):
                    total[k] /= x.dtype.type(len(rows) * len(columns))


@parallel
def _average_pool_backward(part, dy, size, stride, corner, dx):
    n, oh, ow, c = dy.shape
    _, h, w, _ = dx.shape
    for image in chunk(part, n):
        dx[image] = 0
        for i in range(oh):
            top = i * stride[0] - corner[0]
            rows = range(max(0, top), min(h, top + size[0]))
            for j in range(ow):
                left = j * stride[1] - corner[1]
                columns = range(max(0, left), min(w, left + size[1]))
                weight = dy.dtype.type(1 / (len(rows) * len(columns)))
                for row in rows:
                    for column in columns:
                        for k in range(c):
                            dx[image, row, column, k] += dy[image, i, j, k] * weight


class AveragePool(Step):
    """AveragePool2D."""

    layer: layers.AveragePool2D

    def forward(self, x, training=False):
        (size, stride, ((top, _), (left, _)), _), x = self.layer.window, contiguous(x)
        y = self.y(x, training)
        _average_pool(MOVED * x.size, x, size, stride, (top, left), y)
        if training:
            self.save_for_backward(x.shape)
        return y

    def backward(self, dy):
        (x_shape,), (size, stride, ((top, _), (left, _)), _) = self.saved, self.layer.window
        dx = self.dx(x_shape, dy.dtype)
        if self.needs_dx:
            _average_pool_backward(MOVED * dx.size, contiguous(dy), size, stride, (top, left), dx)
        return dx


@parallel
def _global_average(part, x, y):
    n, pixels, c = x.shape
    for image in chunk(part, n):
        total = y[image]
        total[:] = 0
        for i in range(pixels):
            for k in range(c):
                total[k] += x[image, i, k]
        for k in range(c):
            total[k] /= x.dtype.type(pixels)


@parallel
def _global_average_backward(part, dy, dx):
    n, pixels, c = dx.shape
    weight = dy.dtype.type(1 / pixels)
    for image in chunk(part, n):
        for i in range(pixels):
            for k in range(c):
                dx[image, i, k] = dy[image, k] * weight


class GlobalAveragePool(Step):
    """GlobalAveragePool2D."""

    def forward(self, x, training=False):
        n, h, w, c = x.shape
        y = self.y(x, training)
        _global_average(MOVED * x.size, contiguous(x).reshape(n, h * w, c), y)
        if training:
            self.save_for_backward(x.shape)
        return y

    def backward(self, dy):
        ((n, h, w, c),) = self.saved
        dx = self.dx((n, h, w, c), dy.dtype)
        if self.needs_dx:
            _global_average_backward(MOVED * dx.size, contiguous(dy), dx.reshape(n, h * w, c))
        return dx


@parallel
def _global_max_backward(part, dy, winner, dx):
    for image in chunk(part, dx.shape[0]):
        dx[image] = 0
        for k in range(dx.shape[2]):
            dx[image, winner[image, k], k] = dy[image, k]


class GlobalMaxPool(Step):
    """GlobalMaxPool2D: one window as large as the image."""

    def forward(self, x, training=False):
        n, h, w, c = x.shape
        y, winner = self.y(x, training), self.buffer("winner", (n, c), _index_type((h, w)))
        shape, image = (n, 1, 1, c), ((h, w), (1, 1), (0, 0))
        block, x = one_row(c, x.dtype), contiguous(x)
        _max_pool(MOVED * x.size, block, x, *image, y.reshape(shape), winner.reshape(shape))
        if training:
            self.save_for_backward(winner, x.shape)
        return y

    def backward(self, dy):
        winner, (n, h, w, c) = self.saved
        dx = self.dx((n, h, w, c), dy.dtype)
        if self.needs_dx:
            _global_max_backward(MOVED * dx.size, contiguous(dy), winner, dx.reshape(n, h * w, c))
        return dx
