"""Dense layers on wide vectors: see `reference.dense` for what they compute.

Faster because weights pass through the cache in blocks that all rows of the batch use before the next block comes, and
the sums stay in registers meanwhile.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from minicnn.ops.kernels.convolution import panel_width
from minicnn.ops.kernels.lanes import Width, load, store, zeros
from minicnn.ops.kernels.products import ROWS, outer_product, rows_by_panel, seven
from minicnn.ops.kernels.threads import kernel, parallel
from minicnn.ops.kernels.workspace import result, scratch

DEPTH = 256  # of a block of weights: with 64 lanes of 4 bytes it fills 64 KiB


@kernel
def _pack_block(w, transposed, k0, depth, column, width, panel):
    """Rows k0.. and columns column.. of w, or of its transpose, side by side; 0 beyond w's edge."""
    edge = w.shape[0] if transposed else w.shape[1]
    for k in range(depth):
        for l in range(width):
            j = column + l
            v = w.dtype.type(0)
            if j < edge:
                v = w[j, k0 + k] if transposed else w[k0 + k, j]
            panel[k * width + l] = v


@parallel
def _product(width, a, w, transposed, bias, relu, y, panels, blocks):
    """y = a @ w + bias, or a @ w.T + bias; a task is one panel of y's columns and a share of its rows."""
    n, depth = a.shape
    lanes_ = panels.shape[1] // DEPTH
    count = (y.shape[1] + lanes_ - 1) // lanes_
    shares = panels.shape[0] // count
    flat = a.reshape(-1)
    here = np.zeros(1, np.int64)
    for task in prange(panels.shape[0]):
        zero = zeros(a, width)
        panel, block = panels[task], blocks[task]
        column = (task // shares) * lanes_
        first, last = (task % shares) * n // shares, (task % shares + 1) * n // shares
        places, targets = np.arange(first, last) * depth, np.arange(last - first) * lanes_
        block[:] = 0
        for k0 in range(0, depth, DEPTH):
            used = min(DEPTH, depth - k0)
            _pack_block(w, transposed, k0, used, column, lanes_, panel)
            for t in range(0, last - first, ROWS):
                q = seven(targets, t, last - first)
                sums = (
                    load(zero, block, q[0]), load(zero, block, q[1]), load(zero, block, q[2]), load(zero, block, q[3]),
                    load(zero, block, q[4]), load(zero, block, q[5]), load(zero, block, q[6]),
                )  # fmt: skip
                rows = seven(places, t, last - first)
                a0, a1, a2, a3, a4, a5, a6 = rows_by_panel(flat, rows, here, used, panel, 0, sums, k0)
                store(block, q[0], a0)
                store(block, q[1], a1)
                store(block, q[2], a2)
                store(block, q[3], a3)
                store(block, q[4], a4)
                store(block, q[5], a5)
                store(block, q[6], a6)
        for i in range(last - first):
            for j in range(column, min(column + lanes_, y.shape[1])):
                v = block[i * lanes_ + j - column] + bias[j]
                y[first + i, j] = a.dtype.type(0) if relu and v < 0 else v


def _matmul(a, w, transposed, bias, relu, width, out):
    n, columns = len(a), w.shape[0] if transposed else w.shape[1]
    y = result(out, (n, columns), a.dtype)
    if n == 0:
        return y
    count = -(-columns // width)
    shares = max(1, min(8 // count, n // ROWS))  # few panels: the rows are shared out as well
    panels = scratch("panels", (count * shares, DEPTH * width), a.dtype)
    blocks = scratch("blocks", (count * shares, -(-n // shares) * width), a.dtype)
    _product(Width(width), a, w, transposed, bias, relu, y, panels, blocks)
    return y


@parallel
def _weights(width, x, dy, dw, blocks):
    """dw = x.T @ dy; a task is a share of dw's rows, so every sum runs over the batch in order."""
    n, rows = x.shape
    f = dw.shape[1]
    tasks = blocks.shape[0]
    lanes_ = blocks.shape[1] // ROWS
    flat_x, flat_dy, flat_dw = x.reshape(-1), dy.reshape(-1), dw.reshape(-1)
    padded = dy.shape[1]
    places, dy_places, columns, targets = (
        np.arange(n) * rows,
        np.arange(n) * padded,
        np.arange(rows),
        np.arange(ROWS) * lanes_,
    )
    for task in prange(tasks):
        zero = zeros(x, width)
        block = blocks[task]
        first, last = task * rows // tasks, (task + 1) * rows // tasks
        for k in range(first, last, ROWS):
            used = min(ROWS, last - k)
            for column in range(0, f, lanes_):
                block[:] = 0
                outer_product(
                    flat_x, 0, seven(columns, k, last), places, flat_dy, (column, zero), dy_places,
                    block, seven(targets, 0, ROWS),
                )  # fmt: skip
                for i in range(used):
                    for j in range(column, min(column + lanes_, f)):
                        flat_dw[(k + i) * f + j] = block[i * lanes_ + j - column]


@kernel
def _gate(dy, y, relu, padded, db):
    """Copy dy, shut where relu gave 0, into rows padded to whole vectors; db gets the sum of the rows."""
    n, f = dy.shape
    db[:] = 0
    padded[:] = 0
    for i in range(n):
        for j in range(f):
            v = dy[i, j]
            if relu and not y[i, j] > 0:
                v = v * 0
            padded[i, j] = v
            db[j] += v


def dense(x, w, b, relu=False, out=None):
    """See `reference.dense`; faster because BLAS does not know every CPU, and its threads would fight with ours."""
    x, w = np.ascontiguousarray(x), np.ascontiguousarray(w)
    bias = np.zeros(w.shape[1], x.dtype) if b is None else b
    return _matmul(x, w, False, bias, relu, panel_width(w.shape[1], x.dtype), out)


def dense_backward(dy, x, w, y, dw, db, relu=False, need_dx=True, out=None):
    """See `reference.dense_backward`."""
    x, w, dy = np.ascontiguousarray(x), np.ascontiguousarray(w), np.ascontiguousarray(dy)
    n, f = dy.shape
    width = panel_width(f, x.dtype)
    padded = scratch("dy", (n, -(-f // width) * width), x.dtype)
    sums = scratch("db", (f,), x.dtype)
    _gate(dy, np.ascontiguousarray(y) if relu else dy, relu, padded, sums)
    if db is not None:
        db[...] = sums
    target = result(dw, dw.shape, x.dtype)
    _weights(Width(width), x, padded, target, scratch("blocks", (min(16, len(w)), ROWS * width), x.dtype))
    if target is not dw:
        dw[...] = target
    if not need_dx:
        return None
    gated = padded if padded.shape[1] == f else np.ascontiguousarray(padded[:, :f])
    return _matmul(gated, w, True, np.zeros(len(w), x.dtype), False, width, out)
