"""Depthwise convolution: see `reference.depthwise_conv2d` for what it computes.

Faster because the channels, side by side in memory, are the vector: every tap is one multiply-add of whole pixels.
"""

from __future__ import annotations

import numpy as np

from minicnn.ops.kernels.threads import parallel, share
from minicnn.ops.kernels.workspace import result, scratch
from minicnn.ops.shapes import output_size


@parallel
def _forward(part, x, w, bias, stride, corner, dilation, relu, y):
    n, h, width, c = x.shape
    _, oh, ow, _ = y.shape
    for image in share(part, n):
        for i in range(oh):
            for j in range(ow):
                total = y[image, i, j]
                total[:] = bias
                for p in range(w.shape[0]):
                    row = i * stride[0] + p * dilation[0] - corner[0]
                    for q in range(w.shape[1]):
                        column = j * stride[1] + q * dilation[1] - corner[1]
                        if 0 <= row < h and 0 <= column < width:
                            for k in range(c):
                                total[k] += x[image, row, column, k] * w[p, q, k]
                if relu:
                    for k in range(c):
                        if total[k] < 0:
                            total[k] = 0


def depthwise_conv2d(x, w, b, stride, padding, dilation, relu=False, out=None):
    """See `reference.depthwise_conv2d`."""
    x, w = np.ascontiguousarray(x), np.ascontiguousarray(w)
    n, h, width, c = x.shape
    oh, ow = output_size((h, width), w.shape[:2], stride, padding, dilation)
    y = result(out, (n, oh, ow, c), x.dtype)
    bias = np.zeros(c, x.dtype) if b is None else b
    _forward(x, w, bias, stride, (padding[0][0], padding[1][0]), dilation, relu, y)
    return y


@parallel
def _backward(part, dy, x, w, y, stride, corner, dilation, relu, need_dx, dx, dws, dbs):
    n, h, width, c = x.shape
    _, oh, ow, _ = dy.shape
    tasks = dws.shape[0]
    for task in share(part, tasks):
        dw, db = dws[task], dbs[task]
        dw[:] = 0
        db[:] = 0
        gated = np.empty(c, dy.dtype)
        for image in range(task * n // tasks, (task + 1) * n // tasks):
            if need_dx:
                dx[image] = 0
            for i in range(oh):
                for j in range(ow):
                    for k in range(c):
                        v = dy[image, i, j, k]
                        gated[k] = v * 0 if relu and not y[image, i, j, k] > 0 else v
                        db[k] += gated[k]
                    for p in range(w.shape[0]):
                        row = i * stride[0] + p * dilation[0] - corner[0]
                        for q in range(w.shape[1]):
                            column = j * stride[1] + q * dilation[1] - corner[1]
                            if 0 <= row < h and 0 <= column < width:
                                for k in range(c):
                                    dw[p, q, k] += x[image, row, column, k] * gated[k]
                                if need_dx:
                                    for k in range(c):
                                        dx[image, row, column, k] += w[p, q, k] * gated[k]


def depthwise_conv2d_backward(dy, x, w, y, dw, db, stride, padding, dilation, relu=False, need_dx=True, out=None):
    """See `reference.depthwise_conv2d_backward`; dw is summed in a fixed number of parts, added in order."""
    x, w, dy = np.ascontiguousarray(x), np.ascontiguousarray(w), np.ascontiguousarray(dy)
    tasks = min(len(x), 16)
    dws, dbs = scratch("dw", (tasks, *w.shape), x.dtype), scratch("db", (tasks, w.shape[2]), x.dtype)
    dx = result(out, x.shape if need_dx else (0,) * 4, x.dtype)
    gate = np.ascontiguousarray(y) if relu else dy
    corner = padding[0][0], padding[1][0]
    _backward(dy, x, w, gate, stride, corner, dilation, relu, need_dx, dx, dws, dbs)
    dw[...] = dws.sum(axis=0)
    if db is not None:
        db[...] = dbs.sum(axis=0)
    return dx if need_dx else None
