"""Convolution on wide vectors: see `reference.conv2d` for what it computes.

Faster because the im2col matrix is never made. An image is copied once into a padded scratch that stays in the cache;
a row of the matrix is then `places[q] + runs[r]`: the offset of output pixel q's window, plus the offset of each
contiguous run of numbers within a window. Both tables are the same for every image, and with them the small kernels of
products.py serve any stride, dilation, groups and padding.

Three products: forward is (rows of windows) x weights; the gradient of the input is (rows of dy) x turned weights, one
set of taps for each residue of the stride; the gradient of the weights is an outer product over all pixels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import prange

from minicnn.ops.kernels.lanes import Width, lanes, load, maximum0, store, wide, zeros
from minicnn.ops.kernels.products import ROWS, outer_product, rows_by_panel, seven
from minicnn.ops.kernels.threads import kernel, parallel
from minicnn.ops.kernels.workspace import result, scratch
from minicnn.ops.shapes import output_size


class Windows(NamedTuple):
    """Where the windows of one padded image lie; offsets count numbers, not bytes."""

    padded: tuple  # (rows, columns, channels) of the padded image
    corner: tuple  # (row, column) of the image's own first pixel in it
    places: np.ndarray  # of each output pixel's window
    runs: np.ndarray  # of each contiguous run within a window
    length: int  # of a run
    columns: np.ndarray  # of each single number within a window: the im2col matrix's columns


@lru_cache(maxsize=256)
def forward_windows(x_shape, kernel_size, stride, padding, dilation, groups) -> Windows:
    """The tables of a convolution's windows over its padded input."""
    h, w, c = x_shape
    kh, kw = kernel_size
    (top, bottom), (left, right) = padding
    hp, wp = top + h + bottom, left + w + right
    oh, ow = output_size((h, w), kernel_size, stride, padding, dilation)
    row, column = wp * c, c
    places = np.add.outer(np.arange(oh) * stride[0] * row, np.arange(ow) * stride[1] * column).ravel()
    taps = np.add.outer(np.arange(kh) * dilation[0] * row, np.arange(kw) * dilation[1] * column)
    columns = np.add.outer(taps, np.arange(c // groups)).ravel()
    if dilation[1] == 1 and groups == 1:
        return Windows((hp, wp, c), (top, left), places, np.ascontiguousarray(taps[:, 0]), kw * c, columns)
    return Windows((hp, wp, c), (top, left), places, taps.ravel(), c // groups, columns)


class Backward(NamedTuple):
    """How dx is gathered from a padded dy: one set of taps for each residue of the stride ('phase')."""

    padded: tuple  # (rows, columns, channels) of the padded dy
    corner: tuple
    dy_places: np.ndarray  # of each pixel of dy itself in it
    places: np.ndarray  # of each pixel of dx: where its window of dy begins, phase by phase
    targets: np.ndarray  # of each pixel of dx: where it lies in dx
    runs: np.ndarray  # of each tap
    taps: np.ndarray  # which tap of the kernel each run meets
    phases: np.ndarray  # (phases, 4): begin and end in places, begin and end in runs


@lru_cache(maxsize=256)
def backward_windows(x_shape, y_shape, kernel_size, stride, padding, dilation) -> Backward:
    """Pixel i of x was row p of window m where i + top = m*stride + p*dilation; so it gathers dy[m] * w[p]."""
    h, w, c = x_shape
    oh, ow, f = y_shape
    before, after, by_phase = [], [], []
    for size, o, k, s, (begin, _), d in zip((h, w), (oh, ow), kernel_size, stride, padding, dilation, strict=True):
        lowest, highest = (begin - (k - 1) * d) // s, (size - 1 + begin) // s
        before.append(max(0, -lowest))
        after.append(max(0, highest - (o - 1)))
        by_phase.append(
            [
                (
                    np.arange(a, size, s),
                    [(p, (a + begin - p * d) // s) for p in range(k) if (a + begin - p * d) % s == 0],
                )
                for a in range(min(s, size))
            ]
        )
    hp, wp = before[0] + oh + after[0], before[1] + ow + after[1]
    row, column = wp * f, f
    places, targets, runs, taps, phases = [], [], [], [], []
    for rows, row_taps in by_phase[0]:
        for columns, column_taps in by_phase[1]:
            begin = len(places), len(runs)
            places += [m * row + q * column for m in range(len(rows)) for q in range(len(columns))]
            targets += [(i * w + j) * c for i in rows for j in columns]
            runs += [(m + before[0]) * row + (q + before[1]) * column for _, m in row_taps for _, q in column_taps]
            taps += [p * kernel_size[1] + q for p, _ in row_taps for q, _ in column_taps]
            phases.append((begin[0], len(places), begin[1], len(runs)))
    dy_places = np.add.outer((np.arange(oh) + before[0]) * row, (np.arange(ow) + before[1]) * column).ravel()
    tables = [np.array(t, np.int64) for t in (places, targets, runs, taps, phases)]
    return Backward((hp, wp, f), tuple(before), dy_places, *tables)


def panel_width(outputs: int, dtype) -> int:
    """The vector's width that wastes least on `outputs` channels; of equals the widest."""
    widest = wide(dtype)
    widths = [widest, widest // 2]
    cost = {width: -(-outputs // width) * (width + 8) for width in widths}  # 8: a row's loads are not free either
    return min(widths, key=cost.get)


# ---------------------------------------------------------------------------------------------------------------
# Preparation: padding and packing


@kernel
def pad_image(image, padded, padded_width, top, left):
    """Copy an image (h, w, c) into the middle of a flat, zeroed, padded one."""
    h, w, c = image.shape
    flat = image.reshape(h, w * c)
    for i in range(h):
        at = ((top + i) * padded_width + left) * c
        for k in range(w * c):
            padded[at + k] = flat[i, k]


@kernel
def pad_gated(dy, y, relu, padded, padded_width, top, left, db):
    """Copy dy into the middle of a padded one, shut where relu gave 0; add its pixels to db."""
    h, w, c = dy.shape
    for i in range(h):
        for j in range(w):
            at = ((top + i) * padded_width + left + j) * c
            for k in range(c):
                v = dy[i, j, k]
                if relu and not y[i, j, k] > 0:
                    v = v * 0
                padded[at + k] = v
                db[k] += v


@kernel
def pack(w, panels):
    """Weights (rows, groups * f) to panels (groups, panels, rows, lanes); lanes beyond f are 0."""
    groups, count, rows, width = panels.shape
    f = w.shape[1] // groups
    for g in range(groups):
        for p in range(count):
            for k in range(rows):
                for l in range(width):
                    column = p * width + l
                    panels[g, p, k, l] = w[k, g * f + column] if column < f else 0


@kernel
def pack_turned(w, taps, panels):
    """Weights (taps, c, groups * f) to panels (groups, panels, taps * f, lanes) of w transposed, in order of taps."""
    groups, count, _, width = panels.shape
    c, f = w.shape[1], w.shape[2] // groups
    for g in range(groups):
        for p in range(count):
            for t in range(taps.shape[0]):
                for l in range(width):
                    channel = p * width + l
                    for k in range(f):
                        panels[g, p, t * f + k, l] = w[taps[t], channel, g * f + k] if channel < c else 0


# ---------------------------------------------------------------------------------------------------------------
# The three products


@kernel
def product(zero, x, x0, places, runs, length, panels, panel0, bias, b0, relu, y, y0, targets, columns, block):
    """y[targets[q] + y0 ...] = the windows at places[q], times one panel, plus bias, for every q.

    Of the panel's lanes `columns` are real; where that is not all of them, rows go by way of `block`.
    """
    width = lanes(zero)
    count = places.shape[0]
    first = load(zero, bias, b0)
    for t in range(0, count, ROWS):
        sums = (first, first, first, first, first, first, first)
        sums = rows_by_panel(x, seven(places, t, count), runs, length, panels, panel0, sums, x0)
        a0, a1, a2, a3, a4, a5, a6 = sums
        if relu:
            a0, a1, a2, a3 = maximum0(a0), maximum0(a1), maximum0(a2), maximum0(a3)
            a4, a5, a6 = maximum0(a4), maximum0(a5), maximum0(a6)
        q = seven(targets, t, count)
        if columns == width:
            store(y, y0 + q[0], a0)
            store(y, y0 + q[1], a1)
            store(y, y0 + q[2], a2)
            store(y, y0 + q[3], a3)
            store(y, y0 + q[4], a4)
            store(y, y0 + q[5], a5)
            store(y, y0 + q[6], a6)
        else:
            store(block, 0, a0)
            store(block, width, a1)
            store(block, 2 * width, a2)
            store(block, 3 * width, a3)
            store(block, 4 * width, a4)
            store(block, 5 * width, a5)
            store(block, 6 * width, a6)
            for i in range(ROWS):
                for l in range(columns):
                    y[y0 + q[i] + l] = block[i * width + l]


@parallel
def _forward(width, x, windows, panels, bias, relu, y, targets, scratches, blocks):
    padded, corner, places, runs, length, _ = windows
    n, h, w, c = x.shape
    groups, count, rows, lanes_ = panels.shape
    f = y.shape[3] // groups
    flat_x, flat_y, flat_panels = x.reshape(-1), y.reshape(-1), panels.reshape(-1)
    tasks = scratches.shape[0]
    for task in prange(tasks):
        zero = zeros(x, width)
        frame = scratches[task]
        is_padded = padded[0] != h or padded[1] != w
        frame[:] = 0
        for image in range(task * n // tasks, (task + 1) * n // tasks):
            source, x0 = flat_x, image * h * w * c
            if is_padded:
                pad_image(x[image], frame, padded[1], corner[0], corner[1])
                source, x0 = frame, 0
            y0 = image * y.shape[1] * y.shape[2] * y.shape[3]
            for g in range(groups):
                for p in range(count):
                    column = p * lanes_
                    product(
                        zero, source, x0 + g * (c // groups), places, runs, length, flat_panels,
                        (g * count + p) * rows * lanes_, bias, (g * count + p) * lanes_, relu,
                        flat_y, y0 + g * f + column, targets, min(lanes_, f - column), blocks[task],
                    )  # fmt: skip


def conv2d(x, w, b, stride, padding, dilation, groups, relu=False, out=None):
    """See `reference.conv2d`; faster because no im2col matrix is made and the sums stay in registers."""
    x, w = np.ascontiguousarray(x), np.ascontiguousarray(w)
    kh, kw, c, f = w.shape
    windows = forward_windows(x.shape[1:], (kh, kw), stride, padding, dilation, groups)
    n, oh, ow = len(x), *output_size(x.shape[1:3], (kh, kw), stride, padding, dilation)
    y = result(out, (n, oh, ow, f), x.dtype)
    if y.size == 0:
        return y
    width = panel_width(f // groups, x.dtype)
    panels = scratch("panels", (groups, -(-(f // groups) // width), kh * kw * c, width), x.dtype)
    pack(w.reshape(kh * kw * c, f), panels)
    bias = scratch("bias", (*panels.shape[:2], 1, width), x.dtype)
    pack(np.zeros((1, f), x.dtype) if b is None else b.reshape(1, f), bias)
    tasks = min(n, 16)
    scratches = scratch("x", (tasks, int(np.prod(windows.padded))), x.dtype)
    targets = _pixels(oh * ow, f)
    blocks = scratch("blocks", (tasks, ROWS * width), x.dtype)
    _forward(Width(width), x, windows, panels, bias.reshape(-1), relu, y, targets, scratches, blocks)
    return y


@lru_cache(maxsize=256)
def _pixels(count, f):
    return np.arange(count) * f


@parallel
def _backward(width, dy, x, y, relu, windows, partial, db, xs, need_dx, dx_width, back, turned, dx, dys, blocks):
    padded, corner, places, _, _, columns = windows
    back_padded, back_corner, dy_places, back_places, targets, runs, _, phases = back
    n, h, w, c = x.shape
    tasks, groups, count, rows, lanes_ = partial.shape
    f = dy.shape[3] // groups
    dx_groups, dx_count, _, dx_lanes = turned.shape
    flat_turned, flat_dx = turned.reshape(-1), dx.reshape(-1)
    no_bias = np.zeros(dx_lanes, x.dtype)
    row_places = np.arange(rows) * lanes_
    for task in prange(tasks):
        zero, dx_zero = zeros(x, width), zeros(x, dx_width)
        frame, gated, dw = xs[task], dys[task], partial[task].reshape(-1)
        frame[:] = 0
        gated[:] = 0
        dw[:] = 0
        db[task, :] = 0
        for image in range(task * n // tasks, (task + 1) * n // tasks):
            pad_image(x[image], frame, padded[1], corner[0], corner[1])
            gate = y[image] if relu else dy[image]
            pad_gated(dy[image], gate, relu, gated, back_padded[1], back_corner[0], back_corner[1], db[task])
            for g in range(groups):
                for p in range(count):
                    panel0 = (g * count + p) * rows * lanes_
                    for k in range(0, rows, ROWS):
                        outer_product(
                            frame, g * (c // groups), seven(columns, k, rows), places,
                            gated, (g * f + p * lanes_, zero), dy_places,
                            dw[panel0:], seven(row_places, k, rows),
                        )  # fmt: skip
            if need_dx:
                dx0 = image * h * w * c
                for phase in range(phases.shape[0]):
                    q0, q1, r0, r1 = phases[phase]
                    for g in range(dx_groups):
                        for p in range(dx_count):
                            column = p * dx_lanes
                            panel0 = ((g * dx_count + p) * runs.shape[0] + r0) * f * dx_lanes
                            product(
                                dx_zero, gated, g * f, back_places[q0:q1], runs[r0:r1], f, flat_turned, panel0,
                                no_bias, 0, False, flat_dx, dx0 + g * (c // groups) + column, targets[q0:q1],
                                min(dx_lanes, c // groups - column), blocks[task],
                            )  # fmt: skip


@parallel
def _reduce(partial, dw):
    """Add the tasks' sums in the order of the tasks, whoever computed them."""
    tasks, groups, count, rows, width = partial.shape
    f = dw.shape[1] // groups
    for k in prange(rows):
        for g in range(groups):
            for p in range(count):
                used = min(width, f - p * width)
                row = dw[k, g * f + p * width : g * f + p * width + used]
                row[:] = 0
                for task in range(tasks):
                    for l in range(used):
                        row[l] += partial[task, g, p, k, l]


def conv2d_backward(dy, x, w, y, dw, db, stride, padding, dilation, groups, relu=False, need_dx=True, out=None):
    """See `reference.conv2d_backward`; faster because both products of an image run while it is in the cache.

    The images are dealt into a fixed number of parts, each with its own sum of dw, and the parts are added in
    order: the result does not depend on the number of threads.
    """
    x, w, dy = np.ascontiguousarray(x), np.ascontiguousarray(w), np.ascontiguousarray(dy)
    y = np.ascontiguousarray(y) if relu else dy
    kh, kw, c, f = w.shape
    dtype = x.dtype
    windows = forward_windows(x.shape[1:], (kh, kw), stride, padding, dilation, groups)
    back = backward_windows(x.shape[1:], dy.shape[1:], (kh, kw), stride, padding, dilation)
    width = panel_width(f // groups, dtype)
    dx_width = panel_width(c, dtype) if need_dx else width
    tasks = min(len(x), 16 if w.nbytes <= 2**18 else 8)
    partial = scratch("partial", (tasks, groups, -(-(f // groups) // width), kh * kw * c, width), dtype)
    sums = scratch("db", (tasks, f), dtype)
    xs = scratch("x", (tasks, int(np.prod(windows.padded))), dtype)
    dys = scratch("dy", (tasks, int(np.prod(back.padded)) + width), dtype)  # a vector may read past the last pixel
    dx = result(out, x.shape if need_dx else (0,) * 4, dtype)
    turned = scratch("panels", (groups, -(-c // dx_width), len(back.taps) * (f // groups), dx_width), dtype)
    if need_dx:
        pack_turned(w.reshape(kh * kw, c, f), back.taps, turned)
    blocks = scratch("blocks", (tasks, ROWS * dx_width), dtype)
    _backward(
        Width(width),
        dy,
        x,
        y,
        relu,
        windows,
        partial,
        sums,
        xs,
        need_dx,
        Width(dx_width),
        back,
        turned,
        dx,
        dys,
        blocks,
    )
    flat = result(dw, dw.shape, dtype).reshape(kh * kw * c, f)
    _reduce(partial, flat)
    if not np.shares_memory(flat, dw):
        dw[...] = flat.reshape(dw.shape)
    if db is not None:
        db[...] = sums.sum(axis=0)
    return dx if need_dx else None
