"""Convolution of any shape on wide vectors: see layers/convolution.py for what it computes.

Faster because the im2col matrix is never made. An image is copied once into a padded scratch that stays in the cache;
a row of the matrix is then `offsets[q] + runs[r]`: the offset of output pixel q's window, plus the offset of each
contiguous run of numbers within a window. Both tables are the same for every image, and with them the small kernels of
products.py serve any stride, dilation, groups and padding.

Three products: forward is (rows of windows) x weights; the gradient of the input is (rows of dy) x transposed weights, one
set of taps for each residue of the stride; the gradient of the weights is an outer product over all pixels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from minicnn.engine.before import pad_image, sums_of_image
from minicnn.engine.behind import dy_at, pool_image
from minicnn.engine.calls import MOVED, parallel, whole
from minicnn.engine.compiling import helper
from minicnn.engine.lanes import (
    gather,
    load,
    load_rows,
    maximum0,
    multiply_add,
    one_row,
    repeat,
    store,
    store_rows,
    store_rows_prefetching,
    strided,
    zeros,
)
from minicnn.engine.memory import scratch
from minicnn.engine.moments import moments_of_images
from minicnn.engine.products import Sums, add_up, outer_product, panel_block, rows_by_panel, weights_block
from minicnn.engine.threads import PARTS, chunk, most_splits, share_of, tasks_of_parts
from minicnn.layers.windows import Window

ROWS = 7  # of a block: it divides the pixels of images whose size is a multiple of 7, 14 or 28
DW_ROWS = 8  # of a block of dw: it divides most numbers of channels


class Windows(NamedTuple):
    """Where the windows of one padded image lie; offsets count numbers, not bytes."""

    rows: int  # of the padded image
    columns: int
    channels: int
    top: int  # where the image's own first pixel lies in it
    left: int
    offsets: np.ndarray  # of each output pixel's window
    down: int  # from a window to the one below
    right: int  # and to the one beside it
    oh: int  # of the output
    ow: int
    runs: np.ndarray  # of each contiguous run within a window
    length: int  # of a run
    taps: np.ndarray  # of each single number within a window: the im2col matrix's columns


@lru_cache(maxsize=256)
def forward_windows(x_shape: tuple[int, ...], window: Window, groups: int) -> Windows:
    """The tables of a convolution's windows over its padded input."""
    h, w, c = x_shape
    (kh, kw), stride, ((top, bottom), (left, right)), dilation = window
    hp, wp = top + h + bottom, left + w + right
    oh, ow = window.positions(x_shape)
    down, right = stride[0] * wp * c, stride[1] * c
    offsets = np.add.outer(np.arange(oh) * down, np.arange(ow) * right).ravel()
    pixels = np.add.outer(np.arange(kh) * dilation[0] * wp * c, np.arange(kw) * dilation[1] * c)
    taps = np.add.outer(pixels, np.arange(c // groups)).ravel()
    runs, length = pixels.ravel(), c // groups
    if dilation[1] == 1 and groups == 1:
        runs, length = np.ascontiguousarray(pixels[:, 0]), kw * c
    return Windows(hp, wp, c, top, left, offsets, down, right, oh, ow, runs, length, taps)


class Blocks(NamedTuple):
    """How many rows and lanes a kernel's blocks have: see lanes.Block."""

    sums: np.dtype  # of y in forward, of dw in backward
    dx: np.dtype  # in forward it is not read
    row: np.dtype  # of y's channels
    row_in: np.dtype  # of x's channels


class Scratch(NamedTuple):
    """What a unit of work keeps of an image meanwhile, a row for each unit."""

    x: np.ndarray  # the image in its frame of zeros
    y: np.ndarray  # in forward y before a pool, in backward dy in its frame of zeros
    rows: np.ndarray  # a block of sums of which not all lanes are real


class Rows(NamedTuple):
    """The rows of an im2col matrix, and where their products with a panel go."""

    offsets: np.ndarray  # of each row's window
    targets: np.ndarray  # of each row's result
    runs: np.ndarray  # of each contiguous run within a row
    length: int  # of a run


class Backward(NamedTuple):
    """How dx is gathered from a padded dy: one set of taps for each residue of the stride ('phase')."""

    rows: int  # of the padded dy
    columns: int
    channels: int
    top: int  # where dy's own first pixel lies in it
    left: int
    offsets: np.ndarray  # of each pixel of dx: where its window of dy begins, phase by phase
    targets: np.ndarray  # of each pixel of dx: where it lies in dx
    runs: np.ndarray  # of each tap
    taps: np.ndarray  # which tap of the kernel each run meets
    phases: np.ndarray  # (phases, 4): begin and end in offsets, begin and end in runs


@lru_cache(maxsize=256)
def backward_windows(x_shape: tuple[int, ...], y_shape: tuple[int, ...], window: Window) -> Backward:
    """Pixel i of x was row p of window m where i + top = m*stride + p*dilation; so it gathers dy[m] * w[p]."""
    h, w, c = x_shape
    oh, ow, f = y_shape
    before, after, by_phase = [], [], []
    for size, o, k, s, (begin, _), d in zip((h, w), (oh, ow), *window, strict=True):
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
    offsets: list[int] = []
    runs: list[int] = []
    targets, taps, phases = [], [], []
    for rows, row_taps in by_phase[0]:
        for columns, column_taps in by_phase[1]:
            begin = len(offsets), len(runs)
            offsets += [m * row + q * column for m in range(len(rows)) for q in range(len(columns))]
            targets += [(i * w + j) * c for i in rows for j in columns]
            runs += [(m + before[0]) * row + (q + before[1]) * column for _, m in row_taps for _, q in column_taps]
            taps += [p * window.size[1] + q for p, _ in row_taps for q, _ in column_taps]
            phases.append((begin[0], len(offsets), begin[1], len(runs)))
    tables = [np.array(t, np.int64) for t in (offsets, targets, runs, taps, phases)]
    return Backward(hp, wp, f, *before, *tables)


# ---------------------------------------------------------------------------------------------------------------
# Preparation: padding and packing


@helper
def pad_gated(like, number, behind, image, shape, padded, padded_width, top, left, db):
    """Copy an image's dy, come back through what is behind, into the middle of a padded one; add its pixels to db."""
    h, w, c = shape
    for k in range(0, c, len(like)):
        total = load(like, db, k)
        for i in range(h):
            for j in range(w):
                v = dy_at(like, number, behind, image * h + i, j, w, c, k)
                total = total + v
                store(padded, ((top + i) * padded_width + left + j) * c + k, v)
        store(db, k, total)


@whole
def _pack_panels(w, panels):
    """Weights (rows, groups * f) to panels (groups, panels, rows, lanes); lanes beyond f are 0."""
    groups, count, rows, width = panels.shape
    f = w.shape[1] // groups
    for g in range(groups):
        for p in range(count):
            first, used = g * f + p * width, min(width, f - p * width)
            for k in range(rows):
                row, target = w[k, first : first + used], panels[g, p, k]
                for l in range(used):
                    target[l] = row[l]
                for l in range(used, width):
                    target[l] = 0


@whole
def _pack_transposed(w, taps, panels):
    """Weights (taps, c, groups * f) to panels (groups, panels, taps * f, lanes) of w transpose, in order of taps."""
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


@helper
def product(start, x, x0, rows, panels, panel0, relu, y, y0, columns, block):
    """y[y0 + targets[q] ...] = `start` + row q times one panel, for every q.

    Of the panel's lanes `columns` are real; where that is not all of them, sums go by way of `block`.
    """
    count, together, lanes = len(rows.offsets), len(start), len(start[0])
    for t in range(0, count, together):
        sums, at, offsets = start, panel0, gather(rows.offsets, t, count, start)
        for run in range(len(rows.runs)):
            sums = rows_by_panel(x, offsets, x0 + rows.runs[run], rows.length, panels, at, sums)
            at += rows.length * lanes
        if relu:
            sums = maximum0(sums)
        if columns == lanes:
            store_rows_prefetching(y, gather(rows.targets, t, count, start), y0, sums)
        else:
            store_rows(block, strided(lanes, 0, together, start), 0, sums)
            for i in range(min(together, count - t)):
                for l in range(columns):
                    y[y0 + rows.targets[t + i] + l] = block[i * lanes + l]


@helper
def _forward_image(block, source, x0, windows, panels, bias, relu, y, y0, f, targets, spill):
    """The image (padded, from x0 on) times every panel of every group."""
    groups, count, size, lanes = panels.shape
    depth, flat, like = windows.channels // groups, panels.reshape(-1), zeros(source, block)
    rows = Rows(windows.offsets, targets, windows.runs, windows.length)
    for g in range(groups):
        for p in range(count):
            panel, column = g * count + p, p * lanes
            start, panel0, y0_here = repeat(load(like[0], bias, panel * lanes), like), panel * size * lanes, y0 + g * f
            product(
                *(start, source, x0 + g * depth, rows, flat, panel0),
                *(relu, y, y0_here + column, min(lanes, f - column), spill),
            )


@parallel
def _forward(part, blocks, before, x, windows, panels, bias, behind, f, targets, own, sums):
    """Where a pool follows, an image's own result goes to memory of the task's and only its pooled one to y."""
    n, h, w, c = x.shape
    tasks, flat_x, pixels, share = own.x.shape[0], x.reshape(-1), windows.oh * windows.ow, f // panels.shape[0]
    like, like_in, number = zeros(x, blocks.row)[0], zeros(x, blocks.row_in)[0], zeros(behind.winner, blocks.row)[0]
    for task in chunk(part, tasks):
        frame = own.x[task]
        frame[:] = 0
        for piece in share_of(PARTS, task, tasks):
            for image in chunk(piece, n):
                source, x0, y, y0 = flat_x, image * h * w * c, behind.y, image * pixels * f
                if before.norm or windows.rows != h or windows.columns != w:
                    pad_image(like_in, before, x, image, frame, windows.columns, windows.top, windows.left)
                    source, x0 = frame, 0
                if behind.pool:
                    y, y0 = own.y[task], 0
                _forward_image(
                    *(blocks.sums, source, x0, windows, panels, bias),
                    *(behind.relu, y, y0, share, targets, own.rows[task]),
                )
                if behind.pool:
                    shape, y0 = (windows.oh, windows.ow, f), image * (pixels // 4) * f
                    pool_image(like, number, y, shape, behind.y, behind.winner, y0, f)
            moments_of_images(like, piece, n, pixels, behind.y, sums)


def convolve(before, x, w, b, window, groups, behind, sums):
    """y, for any convolution."""
    (kh, kw, c, f), dtype = w.shape, x.dtype
    if behind.y.size == 0:
        return
    windows = forward_windows(x.shape[1:], window, groups)
    size, block = windows.oh * windows.ow * f, panel_block(f // groups, dtype, ROWS)
    count = -(-(f // groups) // block.shape[1])
    panels = scratch("panels", (groups, count, kh * kw * c, block.shape[1]), dtype)
    _pack_panels(w.reshape(-1, f), panels)
    bias = scratch("bias", (groups, count, 1, block.shape[1]), dtype)
    _pack_panels(np.zeros((1, f), dtype) if b is None else b.reshape(1, f), bias)
    tasks = tasks_of_parts(len(x))
    own = Scratch(
        scratch("x", (tasks, windows.rows * windows.columns * x.shape[3]), dtype),
        scratch("y", (tasks, size if behind.pool else 0), dtype),
        scratch("blocks", (tasks, ROWS * block.shape[1]), dtype),
    )
    _forward(
        len(x) * size * panels.shape[2] if len(x) > 1 else 0,
        *(_blocks(block, block, before, x, f), before, x, windows, panels, bias.reshape(-1), behind, f),
        *(_pixels(windows.oh * windows.ow, f), own, sums),
    )


def _blocks(sums, dx, before, x, f) -> Blocks:
    """Where a row of x's channels is not needed it is y's, so that no kernel is compiled for it alone."""
    return Blocks(sums, dx, one_row(f, x.dtype), one_row(x.shape[3] if before.norm else f, x.dtype))


@lru_cache(maxsize=256)
def _pixels(count, f):
    return np.arange(count) * f


@helper
def _backward_weights(block, frame, windows, dy, back, f, dw, fresh, split, splits):
    """dw (groups, panels, rows, lanes) += one image's outer products, for a share of its blocks; = where it is `fresh`."""
    groups, count, rows, lanes = dw.shape
    depth, flat, like = windows.channels // groups, dw.reshape(-1), zeros(frame, block)
    dy_steps = back.columns * back.channels, back.channels
    dy0 = (back.top * back.columns + back.left) * back.channels
    of_panel = (rows + len(like) - 1) // len(like)
    for number in share_of(groups * count * of_panel, split, splits):
        panel, k = number // of_panel, number % of_panel * len(like)
        g, p = panel // count, panel % count
        targets, at, sums = strided(lanes, k, rows, like), panel * rows * lanes, like
        if not fresh:
            sums = load_rows(like[0], flat, targets, at)
        sums = outer_product(
            *(frame, g * depth, (windows.down, windows.right), gather(windows.taps, k, rows, like)),
            *(dy, dy0 + g * f + p * lanes, dy_steps, (windows.oh, windows.ow), sums),
        )
        store_rows(flat, targets, at, sums)


@helper
def _backward_pixels(block, dy, back, transposed, f, dx, dx0, c, spill):
    """One image's dx: for each residue of the stride, rows of dy times the weights of the taps that meet it."""
    groups, count, _, lanes = transposed.shape
    flat, start = transposed.reshape(-1), zeros(dy, block)
    for phase in range(back.phases.shape[0]):
        q0, q1, r0, r1 = back.phases[phase]
        rows = Rows(back.offsets[q0:q1], back.targets[q0:q1], back.runs[r0:r1], f)
        for g in range(groups):
            for p in range(count):
                panel0, column = ((g * count + p) * len(back.runs) + r0) * f * lanes, p * lanes
                x0, columns = dx0 + g * c + column, min(lanes, c - column)
                product(start, dy, g * f, rows, flat, panel0, False, dx, x0, columns, spill)


@parallel
def _backward(part, blocks, behind, before, x, windows, back, transposed, sums, dx, own):
    """A unit of work is a task, some of the images, and one of `splits` shares of its dw, and of the images' dx."""
    n, h, w, c = x.shape
    tasks, groups = sums.dw.shape[:2]
    splits = sums.db.shape[0] // max(tasks, 1)
    flat_dx, f, like_in = dx.reshape(-1), back.channels, zeros(x, blocks.row_in)[0]
    like, number = zeros(x, blocks.row)[0], zeros(behind.winner, blocks.row)[0]
    for unit in chunk(part, tasks * splits):
        task, split, frame, dy = unit // splits, unit % splits, own.x[unit], own.y[unit]
        frame[:] = 0
        dy[:] = 0
        sums.db[unit, :] = 0
        images = share_of(n, task, tasks)
        for image in images:
            fresh, mine = image == images.start, image % splits == split
            pad_image(like_in, before, x, image, frame, windows.columns, windows.top, windows.left)
            shape = windows.oh, windows.ow, f
            pad_gated(like, number, behind, image, shape, dy, back.columns, back.top, back.left, sums.db[unit])
            _backward_weights(blocks.sums, frame, windows, dy, back, f // groups, sums.dw[task], fresh, split, splits)
            if mine and dx.size:
                x0, c_share = image * h * w * c, c // groups
                _backward_pixels(blocks.dx, dy, back, transposed, f // groups, flat_dx, x0, c_share, own.rows[unit])
                sums_of_image(like_in, before, x.reshape(-1), flat_dx, image, h * w, c)


@parallel
def _backward_weights_alone(part, blocks, behind, before, x, windows, sums, frames):
    """dw and db where nobody needs dx: every image's dy is read once, and goes straight into the outer products."""
    n, f, oh, ow = x.shape[0], sums.db.shape[1], windows.oh, windows.ow
    tasks, _, count, rows, lanes = sums.dw.shape
    for task in chunk(part, tasks):
        frame, flat, like = frames[task], sums.dw[task].reshape(-1), zeros(x, blocks.sums)
        number, like_in, db = zeros(behind.winner, blocks.sums)[0], zeros(x, blocks.row_in)[0], sums.db[task]
        frame[:] = 0
        flat[:] = 0
        db[:] = 0
        for image in share_of(n, task, tasks):
            pad_image(like_in, before, x, image, frame, windows.columns, windows.top, windows.left)
            for p in range(count):
                for k in range(0, rows, len(like)):
                    taps, targets = gather(windows.taps, k, rows, like), strided(lanes, k, rows, like)
                    total = load(like[0], db, p * lanes)
                    block = load_rows(like[0], flat, targets, p * rows * lanes)
                    for i in range(oh):
                        for j in range(ow):
                            v = dy_at(like[0], number, behind, image * oh + i, j, ow, f, p * lanes)
                            total = total + v
                            block = multiply_add(frame, taps, i * windows.down + j * windows.right, v, block)
                    store_rows(flat, targets, p * rows * lanes, block)
                    if k == 0:
                        store(db, p * lanes, total)


@parallel
def _reduce(part, partial, dw):
    """Add the tasks' sums in the order of the tasks, whoever computed them."""
    tasks, groups, count, rows, width = partial.shape
    f = dw.shape[1] // groups
    for k in chunk(part, rows):
        for g in range(groups):
            for p in range(count):
                used = min(width, f - p * width)
                row = dw[k, g * f + p * width : g * f + p * width + used]
                row[:] = 0
                for task in range(tasks):
                    for l in range(used):
                        row[l] += partial[task, g, p, k, l]


def convolve_backward(behind, before, x, w, dw, db, window, groups, dx):
    """dx, where there is memory for it, dw and db, for any convolution."""
    kh, kw, c, f = w.shape
    dtype, rows, needs_dx = x.dtype, kh * kw * c, dx.size > 0
    windows = forward_windows(x.shape[1:], window, groups)
    block = weights_block(rows, f, dtype)
    alone = not needs_dx and groups == 1 and f % block.shape[1] == 0
    alone = alone and not (behind.norm and rows > block.shape[0])  # norm's dx is made anew for each block of dw's rows
    if not alone:
        block = panel_block(f // groups, dtype, DW_ROWS)
    blocks = _blocks(block, panel_block(c, dtype, ROWS) if needs_dx else block, before, x, f)
    many = PARTS if alone and w.nbytes <= 2**14 else 16 if w.nbytes <= 2**18 else 8
    tasks = min(len(x), many)
    splits = 1 if alone else most_splits(len(x), tasks)
    partial = scratch("partial", (tasks, groups, -(-(f // groups) // block.shape[1]), rows, block.shape[1]), dtype)
    sums = Sums(partial, scratch("db", (tasks * splits, f), dtype))
    frames = scratch("x", (tasks * splits, windows.rows * windows.columns * x.shape[3]), dtype)
    work = len(x) * windows.oh * windows.ow * f * rows
    if alone:
        _backward_weights_alone(work, blocks, behind, before, x, windows, sums, frames)
    else:
        _backward_all(work, blocks, behind, before, x, w, windows, sums, frames, dx, window)
    _reduce(MOVED * partial.size, partial, dw.reshape(rows, f))
    if db is not None:
        add_up(sums.db, db, splits)


def _backward_all(work, blocks, behind, before, x, w, windows, sums, frames, dx, window):
    """Both products of an image run while it is in the cache."""
    (kh, kw, c, f), dtype, units, groups = w.shape, x.dtype, len(sums.db), sums.dw.shape[1]
    back, lanes = backward_windows(x.shape[1:], (windows.oh, windows.ow, f), window), blocks.dx.shape[1]
    # a vector may reach past the last pixel
    dys = scratch("dy", (units, back.rows * back.columns * f + blocks.sums.shape[1]), dtype)
    transposed = scratch("panels", (groups, -(-c // lanes), len(back.taps) * (f // groups), lanes), dtype)
    if dx.size:
        _pack_transposed(w.reshape(kh * kw, c, f), back.taps, transposed)
    own = Scratch(frames, dys, scratch("blocks", (units, ROWS * lanes), dtype))
    _backward(2 * work, blocks, behind, before, x, windows, back, transposed, sums, dx, own)
