"""Pooling, one pass over memory: see the functions of the same names in reference.py for what they compute.

Faster because a window is read where it lies, and the images are shared out among the threads.
"""

from __future__ import annotations

import numpy as np

from minicnn.ops.kernels.compiling import helper
from minicnn.ops.kernels.lanes import fill, larger, one_row, only_where, store, stream, stream_out, zeros
from minicnn.ops.kernels.threads import parallel, share
from minicnn.ops.kernels.workspace import result
from minicnn.ops.shapes import output_size


def _pooled_shape(x_shape, size, stride, padding):
    n, h, w, c = x_shape
    return n, *output_size((h, w), size, stride, padding), c


def _corner(padding):
    """Where the image begins in the padded one."""
    return padding[0][0], padding[1][0]


@helper
def _largest(best, place, x, at, p0, p1, q0, q1, down, right, width):
    """The largest numbers of one window, and where in it they were; the first of equals, NaN above all."""
    best, place = fill(best, -np.inf), fill(place, p0 * width + q0 if p0 < p1 and q0 < q1 else 0)
    for p in range(p0, p1):
        for q in range(q0, q1):
            here = at + p * down + q * right
            best, place = larger(stream(best, x, here), best, p * width + q, place)
    return best, place


@parallel
def _max_pool(part, block, x, size, stride, corner, y, where):
    n, h, w, c = x.shape
    _, oh, ow, _ = y.shape
    flat_x, flat_y, flat_where = x.reshape(-1), y.reshape(-1), where.reshape(-1)
    for image in share(part, n):
        best, place = zeros(x, block)[0], zeros(where, block)[0]
        for i in range(oh):
            top = i * stride[0] - corner[0]
            p0, p1 = max(0, -top), min(size[0], h - top)
            for j in range(ow):
                left = j * stride[1] - corner[1]
                q0, q1 = max(0, -left), min(size[1], w - left)
                for k in range(0, c, len(best)):
                    at, target = ((image * h + top) * w + left) * c + k, ((image * oh + i) * ow + j) * c + k
                    best, place = _largest(best, place, flat_x, at, p0, p1, q0, q1, w * c, c, size[1])
                    store(flat_y, target, best)
                    store(flat_where, target, place)


def max_pool2d(x, size, stride, padding, out=None):
    """See `reference.max_pool2d`."""
    x = np.ascontiguousarray(x)
    y_out, where_out = out if out is not None else (None, None)
    shape = _pooled_shape(x.shape, size, stride, padding)
    y = result(y_out, shape, x.dtype)
    where = result(where_out, shape, np.uint8 if size[0] * size[1] <= 256 else np.int32)
    _max_pool(one_row(shape[3], x.dtype), x, size, stride, _corner(padding), y, where)
    return y, where


@parallel
def _max_pool_backward(part, dy, where, size, stride, corner, dx):
    n, oh, ow, c = dy.shape
    _, h, w, _ = dx.shape
    for image in share(part, n):
        dx[image] = 0
        for i in range(oh):
            for j in range(ow):
                top, left = i * stride[0] - corner[0], j * stride[1] - corner[1]
                for k in range(c):
                    place = np.int64(where[image, i, j, k])
                    row, column = top + place // size[1], left + place % size[1]
                    if 0 <= row < h and 0 <= column < w:  # else the window lies wholly in the padding
                        dx[image, row, column, k] += dy[image, i, j, k]


@parallel
def _max_pool_backward_apart(part, block, dy, where, size, dx):
    """Windows side by side without overlap: every pixel has one window, and is written once."""
    n, oh, ow, c = dy.shape
    _, h, w, _ = dx.shape
    flat_dy, flat_where, flat_dx = dy.reshape(-1), where.reshape(-1), dx.reshape(-1)
    for image in share(part, n):
        like, place = zeros(dy, block)[0], zeros(where, block)[0]
        for i in range(oh):
            for j in range(ow):
                for k in range(0, c, len(like)):
                    source = ((image * oh + i) * ow + j) * c + k
                    value, won = stream(like, flat_dy, source), stream(place, flat_where, source)
                    at = ((image * h + i * size[0]) * w + j * size[1]) * c + k
                    for p in range(size[0]):
                        for q in range(size[1]):
                            stream_out(flat_dx, at + (p * w + q) * c, only_where(won, p * size[1] + q, value))
        dx[image, oh * size[0] :] = 0  # rows and columns that belong to no window
        dx[image, :, ow * size[1] :] = 0


def max_pool2d_backward(dy, where, x_shape, size, stride, padding, out=None):
    """See `reference.max_pool2d_backward`."""
    dy, where = np.ascontiguousarray(dy), np.ascontiguousarray(where)
    dx = result(out, x_shape, dy.dtype)
    if tuple(size) == tuple(stride) and padding == ((0, 0), (0, 0)):
        _max_pool_backward_apart(one_row(x_shape[3], dy.dtype), dy, where, size, dx)
    else:
        _max_pool_backward(dy, where, size, stride, _corner(padding), dx)
    return dx


@parallel
def _average_pool(part, x, size, stride, corner, y):
    n, h, w, c = x.shape
    _, oh, ow, _ = y.shape
    for image in share(part, n):
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


def average_pool2d(x, size, stride, padding, out=None):
    """See `reference.average_pool2d`."""
    x = np.ascontiguousarray(x)
    y = result(out, _pooled_shape(x.shape, size, stride, padding), x.dtype)
    _average_pool(x, size, stride, _corner(padding), y)
    return y


@parallel
def _average_pool_backward(part, dy, size, stride, corner, dx):
    n, oh, ow, c = dy.shape
    _, h, w, _ = dx.shape
    for image in share(part, n):
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


def average_pool2d_backward(dy, x_shape, size, stride, padding, out=None):
    """See `reference.average_pool2d_backward`."""
    dy = np.ascontiguousarray(dy)
    dx = result(out, x_shape, dy.dtype)
    _average_pool_backward(dy, size, stride, _corner(padding), dx)
    return dx


@parallel
def _global_average(part, x, y):
    n, pixels, c = x.shape
    for image in share(part, n):
        total = y[image]
        total[:] = 0
        for i in range(pixels):
            for k in range(c):
                total[k] += x[image, i, k]
        for k in range(c):
            total[k] /= x.dtype.type(pixels)


def global_average_pool2d(x, out=None):
    """See `reference.global_average_pool2d`."""
    n, h, w, c = x.shape
    y = result(out, (n, c), x.dtype)
    _global_average(np.ascontiguousarray(x).reshape(n, h * w, c), y)
    return y


@parallel
def _global_average_backward(part, dy, dx):
    n, pixels, c = dx.shape
    weight = dy.dtype.type(1 / pixels)
    for image in share(part, n):
        for i in range(pixels):
            for k in range(c):
                dx[image, i, k] = dy[image, k] * weight


def global_average_pool2d_backward(dy, x_shape, out=None):
    """See `reference.global_average_pool2d_backward`."""
    n, h, w, c = x_shape
    dx = result(out, x_shape, dy.dtype)
    _global_average_backward(np.ascontiguousarray(dy), dx.reshape(n, h * w, c))
    return dx


def global_max_pool2d(x, out=None):
    """See `reference.global_max_pool2d`: one window as large as the image."""
    n, h, w, c = x.shape
    y_out, where_out = out if out is not None else (None, None)
    y, where = result(y_out, (n, c), x.dtype), result(where_out, (n, c), np.uint8 if h * w <= 256 else np.int32)
    shape = n, 1, 1, c
    image = (h, w), (1, 1), (0, 0)
    _max_pool(one_row(c, x.dtype), np.ascontiguousarray(x), *image, y.reshape(shape), where.reshape(shape))
    return y, where


@parallel
def _global_max_backward(part, dy, where, dx):
    for image in share(part, dx.shape[0]):
        dx[image] = 0
        for k in range(dx.shape[2]):
            dx[image, where[image, k], k] = dy[image, k]


def global_max_pool2d_backward(dy, where, x_shape, out=None):
    """See `reference.global_max_pool2d_backward`."""
    n, h, w, c = x_shape
    dx = result(out, x_shape, dy.dtype)
    _global_max_backward(np.ascontiguousarray(dy), np.ascontiguousarray(where), dx.reshape(n, h * w, c))
    return dx
