"""Convolution with 18, 25 or 16% of the multiplications (Winograd, 1980; Lavin and Gray, 2016): see layers/convolution.py.

Faster because m outputs of a window of r weights are a product of two polynomials, of degrees m - 1 and r - 1, and a
polynomial of degree m + r - 2 is as well known by its values at n = m + r - 1 points. At points, a product is a product of
numbers: n multiplications where the sum over the window takes m * r. In two dimensions, a tile of 4 x 4 outputs of a 3 x 3
window takes 6 x 6 = 36 multiplications and not 144, and one of a 5 x 5 window 8 x 8 = 64, not 400.

A tile of 7 x 7 outputs of a 3 x 3 window takes 9 x 9 = 81, not 441. Images are often 7, 14, 28, 56 .. pixels high and wide:
there tiles of 4 x 4 take 1.4 times as many multiplications, and 1.8 times where some of them are partly empty, as at 7 and
14. The price is ten times the error (see points.py).

    v = B^T d B              a window of n x n pixels d, at the points        (gather_pixels)
    u = G g G^T              the weights g, at the points                     (transform_weights)
    m = sum over channels of u * v, number by number: n * n matrix products   (products.py)
    y = A^T m A              from the points to a tile of outputs             (scatter_outputs)

All three transforms are linear, so the chain rule runs through them by their transposes:

    dm = A dy A^T,    du = sum over tiles of v * dm,    dg = G^T du G,    dv = dm * u,    dd = B dv B^T, added where
    windows overlap.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import NamedTuple

import numpy as np
from numba import get_thread_id

from minicnn.engine.before import scaled_window, sums_of_image
from minicnn.engine.behind import pool_image, pool_window
from minicnn.engine.bfloat16 import paired_rows
from minicnn.engine.calls import MOVED, parallel
from minicnn.engine.compiling import helper, kernel
from minicnn.engine.lanes import (
    PAIR,
    Block,
    add_inside,
    best_block,
    compiled,
    fill,
    fma,
    fma_rows,
    gate,
    load,
    load_inside,
    load_rows,
    maximum0,
    only_where,
    prefetch,
    repeat,
    store,
    store_inside,
    store_rows,
    strided,
    transpose,
    zeros,
)
from minicnn.engine.memory import scratch
from minicnn.engine.points import (
    EIGHT,
    NINE,
    SIX,
    SIZES,
    apart,
    column_of_outputs,
    columns_to_points,
    matrices,
    outputs_to_points,
    pixels_to_points,
    points_to_pixels,
    rows_to_outputs,
)
from minicnn.engine.products import Sums, add_up, outer_product, rows_by_panel
from minicnn.engine.threads import MAX_THREADS, PARTS, chunk, get_threads, most_splits, share_of

# How many tiles, of so many points, go through the products together: their numbers stay in the second cache meanwhile. In
# backward each group reads and writes all of du: of a large one there should be few.
GROUPS, LARGE_GROUPS = {6: 32, 8: 32, 9: 16}, {6: 128, 8: 64, 9: 32}


class Tiles(NamedTuple):
    """How an image is cut into tiles of outputs; each reads a window of n x n pixels."""

    points: tuple[int, ...]  # SIX, EIGHT or NINE
    outputs: tuple[int, ...]  # as many numbers as a tile has rows and columns
    rows: int
    columns: int
    top: int  # how far the first window reaches over the image's edge
    left: int
    group: int  # how many go through the n * n products together, and stay in the cache meanwhile


class Scratch(NamedTuple):
    """What a thread keeps of a group of tiles meanwhile, a row for each thread."""

    v: np.ndarray  # x at the points
    dm: np.ndarray  # dy at the points
    pairs: np.ndarray  # the same in bfloat16, or dm itself
    m: np.ndarray  # the product with a panel: m in forward, dv in backward
    window: np.ndarray  # two windows of n x n vectors
    plane: np.ndarray  # an image before its pool


def fits(w_shape, window, groups, dtype) -> bool:
    """Whether this algorithm takes such a convolution: 3 x 3 or 5 x 5, in steps of one, whole vectors of channels."""
    kh, kw, c, f = w_shape
    lanes = best_block(dtype).shape[1] // 2
    plain = window.stride == window.dilation == (1, 1) and groups == 1
    return plain and kh == kw and kh in (3, 5) and c % lanes == 0 and f % lanes == 0


# ---------------------------------------------------------------------------------------------------------------
# Weights: to the points, and their gradient back


@parallel
def _transform_weights(part, block, g, w, u, halves):
    """u = G g G^T: weights (r, r, c, f) to panels (panels, n * n, c, lanes)."""
    (r, _, c, f), points = w.shape, g.shape[0]
    nothing, flat_w, flat_u = zeros(w, block)[0], w.reshape(-1), u.reshape(-1)
    n, half = len(nothing), halves[part]
    for k in chunk(part, c):
        for panel in range(u.shape[0]):
            for i in range(points):
                for q in range(r):
                    total = nothing
                    for p in range(r):
                        total = fma(g[i, p], load(total, flat_w, ((p * r + q) * c + k) * f + panel * n), total)
                    store(half, q * n, total)
                for j in range(points):
                    total = nothing
                    for q in range(r):
                        total = fma(g[j, q], load(total, half, q * n), total)
                    store(flat_u, (((panel * points + i) * points + j) * c + k) * n, total)


@parallel
def _swap(part, square, w, swapped):
    """Weights (windows, c, f) to (windows, f, c), a square of them at a time: c and f are multiples of its side."""
    (windows, c, f), flat, target, like = w.shape, w.reshape(-1), swapped.reshape(-1), zeros(w, square)
    n = len(like)
    for number in chunk(part, windows * (c // n)):
        window, k = number // (c // n), number % (c // n) * n
        for l in range(0, f, n):
            rows = load_rows(like[0], flat, strided(f, 0, n, like), (window * c + k) * f + l)
            store_rows(target, strided(c, 0, n, like), (window * f + l) * c + k, transpose(rows))


@parallel
def _transform_du(part, block, g, partial, dw, sums, halves):
    """dw = G^T du G, du being the sum of the tasks' parts, added in their order, a row of each after another."""
    (r, _, c, f), points, thread = dw.shape, g.shape[0], get_thread_id()
    nothing, flat, du, half = zeros(dw, block)[0], dw.reshape(-1), sums[thread], halves[thread]  # du of a channel; du G
    n = len(nothing)
    for k in chunk(part, c):
        for point in range(points**2):
            for l in range(0, f, n):
                total = nothing
                for task in range(partial.shape[0]):
                    total = total + load(total, partial[task], (point * f + l) * c + k * n)
                store(du, point * f + l, total)
        for l in range(0, f, n):
            for i in range(points):
                for q in range(r):
                    total = nothing
                    for j in range(points):
                        total = fma(g[j, q], load(total, du, (i * points + j) * f + l), total)
                    store(half, (i * r + q) * n, total)
            for p in range(r):
                for q in range(r):
                    total = nothing
                    for i in range(points):
                        total = fma(g[i, p], load(total, half, (i * r + q) * n), total)
                    store(flat, ((p * r + q) * c + k) * f + l, total)


# ---------------------------------------------------------------------------------------------------------------
# The convolution


@helper
def locate(tile, tiles):
    """The image a tile belongs to, and its first output's row and column."""
    per, size = tiles.rows * tiles.columns, len(tiles.outputs)
    return tile // per, tile % per // tiles.columns * size, tile % per % tiles.columns * size


@kernel
def span(tiles, depth):
    """How far the n * n matrices (group, depth) lie apart: not a power of two, which would put all in one cache set."""
    return tiles.group * depth + 16


@helper
def gather_pixels(like, before, x, shape, tiles, first, count, depth, v, window):
    """v = B^T d B (n * n, group, depth) of the tiles from `first` on; pixels outside the image are 0.

    depth is c, or half of it where v is of pairs.
    """
    (h, w, c), points, n = shape, tiles.points, len(like)
    pixels = window[len(points) ** 2 * n :]
    for t in range(count):
        image, row, column = locate(first + t, tiles)
        row, column = row - tiles.top, column - tiles.left
        for k in range(0, c, n):
            if before.norm:
                scaled_window(like, before, x, shape, image, row, column, points, k, pixels)
            for i in range(len(points)):
                if before.norm:
                    d = load_rows(like, pixels, apart(n, points), i * len(points) * n)
                else:
                    start, width = ((image * h + row + i) * w + column) * c + k, w if 0 <= row + i < h else 0
                    d = load_inside(like, x, start, c, column, width, points)
                store_rows(window, apart(n, points), i * len(points) * n, pixels_to_points(points, d))
            columns_to_points(like, points, window, v, t * depth + k * depth // c, span(tiles, depth))


@helper
def region(array, shape, tiles, first, count, channel, width):
    """The part of a flat image array that the tiles first .. first + count - 1 will read or write, for `fetch`.

    It is (array, index of the first number, pixels, numbers from pixel to pixel, numbers of each pixel): `width` channels
    from `channel` on. Only about: tiles overlap, and a prefetch that misses a pixel costs time and nothing else.
    """
    h, w, c = shape
    per = tiles.rows * tiles.columns
    return array, first * h * w // per * c + channel, count * h * w // per, c, width


@helper
def fetch(region, part, parts):
    """Ask for a part of a region's cache lines, so that they arrive while the processor multiplies."""
    array, start, pixels, step, width = region
    for i in range(part * pixels // parts, (part + 1) * pixels // parts):
        for k in range(0, width, 64 // array.itemsize):
            prefetch(array, start + i * step + k)


@helper
def times_panel(block, tiles, a, depth, u, u0, count, m, soon, later):
    """m (n * n, group, lanes) = a (n * n, group, depth) times the panel of u at u0, for each of the n * n."""
    start, parts = zeros(m, block), len(tiles.points) ** 2
    lanes = len(start[0])
    for point in range(parts):
        fetch(soon, point, parts)
        fetch(later, point, parts)
        for t in range(0, count, len(start)):
            rows, at = strided(depth, t, count, start), u0 + point * depth * lanes
            sums = rows_by_panel(a, rows, point * span(tiles, depth), depth, u, at, start)
            store_rows(m, strided(lanes, t, count, start), point * span(tiles, lanes), sums)


@helper
def finished_column(like, points, window, j, add, relu):
    """A column of outputs, with bias and ReLU."""
    outputs = column_of_outputs(like, points, window, j)
    outputs = fma_rows(outputs, fill(like, 1.0), repeat(add, outputs))
    if relu:
        outputs = maximum0(outputs)
    return outputs


@helper
def scatter_outputs(like, number, m, bias, behind, shape, channel, tiles, first, count, window, plane):
    """A vector of channels of y = A^T m A from the tiles' m (n * n, group, lanes).

    With a pool a tile of 4 x 4 is four windows; those of 7 x 7 go into a plane, which is pooled when the image is whole.
    """
    (oh, ow, f), (_, y, winner, relu, pool, _, _), points, n = shape, behind, tiles.points, len(like)
    add, size = load(like, bias, channel), len(tiles.outputs)
    for t in range(count):
        image, row, column = locate(first + t, tiles)
        rows_to_outputs(like, points, m, t * n, span(tiles, n), window)
        if pool and size == 4:
            for j in range(0, min(size, ow - column), 2):
                a = finished_column(like, points, window, j, add, relu)
                b = finished_column(like, points, window, j + 1, add, relu)
                at = ((image * oh + row) // 2 * (ow // 2) + (column + j) // 2) * f + channel
                pool_window(number, a[0], b[0], a[1], b[1], y, winner, at)
                if row + 2 < oh:
                    pool_window(number, a[2], b[2], a[3], b[3], y, winner, at + ow // 2 * f)
            continue
        for j in range(min(size, ow - column)):
            column_of_y = finished_column(like, points, window, j, add, relu)
            if pool:
                store_inside(plane, (row * ow + column + j) * n, ow * n, 0, oh - row, column_of_y)
            else:
                at = ((image * oh + row) * ow + column + j) * f + channel
                store_inside(y, at, ow * f, 0, oh - row, column_of_y)
        if pool and row + size >= oh and column + size >= ow:
            at = image * (oh // 2) * (ow // 2) * f + channel
            pool_image(like, number, plane, (oh, ow, n), y, winner, at, f)


@helper
def row_of_dy(like, number, behind, outputs, image, shape, row, column, k, pixels):
    """Pixels of dy that follow each other in a row, come back through pool and ReLU; 0 outside the image."""
    (oh, ow, f), (dy, y, winner, relu, pool, _, _), n = shape, behind, len(like)
    line, width = image * oh + row, ow if row < oh else 0
    if pool:
        left = row % 2 * 2
        for j in range(column // 2, (column + len(outputs) + 1) // 2):
            at, here = (line // 2 * (ow // 2) + j) * f + k, 2 * (j - column // 2) * n
            a, b = like, like  # zeros
            if 2 * j < width:
                v, which = load(like, dy, at), load(number, winner, at)
                if relu:
                    v = gate(v, load(like, y, at))
                a, b = only_where(which, left, v), only_where(which, left + 1, v)
            store(pixels, here, a)
            store(pixels, here + n, b)
        return load_rows(like, pixels, apart(n, outputs), column % 2 * n)
    start = (line * ow + column) * f + k
    d = load_inside(like, dy, start, f, column, width, outputs)
    if relu:
        d = gate(d, load_inside(like, y, start, f, column, width, outputs))
    return d


added = compiled(lambda points, rows, plus, *_: (reduce(plus, rows),))  # all of a block's rows, as a block of one


@helper
def gather_dy(like, number, behind, shape, tiles, first, count, dm, depth, pairs, db, window):
    """dm = A dy A^T (n * n, group, f) of the tiles; dy's pixels are added to db. Where depth is f / 2, as `pairs` too."""
    f, points, outputs, n = shape[2], tiles.points, tiles.outputs, len(like)
    pixels = window[len(points) ** 2 * n :]
    for t in range(count):
        image, row, column = locate(first + t, tiles)
        for k in range(0, f, n):
            total = load(like, db, k)
            for i in range(len(outputs)):
                d = row_of_dy(like, number, behind, outputs, image, shape, row + i, column, k, pixels)
                total = total + added(outputs, d)[0]
                store_rows(window, apart(n, points), i * len(points) * n, outputs_to_points(points, d))
            store(db, k, total)
            for j in range(len(points)):
                column_of_dy = load_rows(like, window, apart(len(points) * n, outputs), j * n)
                column_of_dm = outputs_to_points(points, column_of_dy)
                at, step = t * f + k + j * span(tiles, f), len(points) * span(tiles, f)
                store_rows(dm, apart(step, points), at, column_of_dm)
                if depth < f:
                    at, step = t * depth + k // 2 + j * span(tiles, depth), len(points) * span(tiles, depth)
                    store_rows(pairs, apart(step, points), at, column_of_dm)


@helper
def add_outer_products(block, tiles, v, c, some, dm, f, count, du, fresh, later):
    """du (n * n, panels, c, lanes) += v^T dm, for some of the n * n; = where it is `fresh`.

    Three regions are asked for meanwhile.
    """
    like, parts = zeros(v, block), len(tiles.points) ** 2
    for point in some:
        fetch(later[0], point, parts)
        fetch(later[1], point, parts)
        fetch(later[2], point, parts)
        for p in range(0, f, len(like[0])):
            for k in range(0, c, len(like)):
                targets, at = strided(len(like[0]), k, c, like), (point * f + p) * c
                sums = like
                if not fresh:
                    sums = load_rows(like[0], du, targets, at)
                sums = outer_product(
                    *(v, point * span(tiles, c), (0, c), strided(1, k, c, like)),
                    *(dm, point * span(tiles, f) + p, (0, f), (1, count), sums),
                )
                store_rows(du, targets, at, sums)


@helper
def scatter_dx(like, dv, dx, shape, channel, tiles, first, count, window):
    """A vector of channels of dx += B dv B^T, of the tiles' dv (n * n, group, lanes); an image begins as zeros."""
    (h, w, c), n, points = shape, len(like), tiles.points
    for t in range(count):
        image, row, column = locate(first + t, tiles)
        if row == column == 0:
            for pixel in range(image * h * w, (image + 1) * h * w):
                store(dx, pixel * c + channel, like)
        row, column = row - tiles.top, column - tiles.left
        for i in range(len(points)):
            v = load_rows(like, dv, apart(span(tiles, n), points), t * n + i * len(points) * span(tiles, n))
            store_rows(window, apart(n, points), i * len(points) * n, points_to_pixels(points, v))
        for j in range(max(0, -column), min(len(points), w - column)):
            v = load_rows(like, window, apart(len(points) * n, points), j * n)
            at = ((image * h + row) * w + column + j) * c + channel
            add_inside(dx, at, w * c, row, h, points_to_pixels(points, v))


@parallel
def _forward(part, block, before, x, tiles, u, bias, behind, y_shape, own):
    (n, h, w, c), f, parts, depth = x.shape, y_shape[2], len(tiles.points) ** 2, u.shape[2]
    total, thread = n * tiles.rows * tiles.columns, get_thread_id()
    shape, x, u = (h, w, c), x.reshape(-1), u.reshape(-1)
    v, m, window, plane = own.v[thread], own.m[thread], own.window[thread], own.plane[thread]
    like, number = zeros(x, block)[0], zeros(behind.winner, block)[0]
    for group in chunk(part, (total + tiles.group - 1) // tiles.group):
        first = group * tiles.group
        count = min(tiles.group, total - first)
        gather_pixels(like, before, x, shape, tiles, first, count, depth, v, window)
        for p in range(0, f, len(like)):
            soon = region(behind.y, y_shape, tiles, first, 0 if behind.pool else count, p, len(like))
            later = region(x, shape, tiles, first + count, tiles.group if p == 0 else 0, 0, c)
            times_panel(block, tiles, v, depth, u, p * parts * depth, count, m, soon, later)
            scatter_outputs(like, number, m, bias, behind, y_shape, p, tiles, first, count, window, plane)


@parallel
def _backward(part, block, behind, y_shape, before, x, tiles, u, sums, dx, own):
    """A unit of work is a task, some of the images, and one of `splits` shares of what comes of them: of dw some of the
    points, of dx some of the images. Both are summed in the same order whatever the shares.
    """
    (n, h, w, c), f, parts, depth, tasks = x.shape, y_shape[2], len(tiles.points) ** 2, u.shape[2], len(sums.dw)
    splits, shape, x, u, dx = len(sums.db) // max(tasks, 1), (h, w, c), x.reshape(-1), u.reshape(-1), dx.reshape(-1)
    dy_shape = (y_shape[0] // 2, y_shape[1] // 2, f) if behind.pool else y_shape
    for unit in chunk(part, tasks * splits):
        task, split, thread = unit // splits, unit % splits, get_thread_id()
        v, dm, pairs, dv = own.v[thread], own.dm[thread], own.pairs[thread], own.m[thread]
        window, du, db = own.window[thread], sums.dw[task], sums.db[unit]
        like, number = zeros(x, block)[0], zeros(behind.winner, block)[0]
        db[:] = 0
        images, some, of_image = share_of(n, task, tasks), share_of(parts, split, splits), tiles.rows * tiles.columns
        for share in range(splits):
            its = share_of(len(images), share, splits)
            start, end = (images.start + its.start) * of_image, (images.start + its.stop) * of_image
            for first in range(start, end, tiles.group):
                count = min(tiles.group, end - first)
                gather_pixels(like, before, x, shape, tiles, first, count, c, v, window)
                gather_dy(like, number, behind, y_shape, tiles, first, count, dm, depth, pairs, db, window)
                after, of_y = first + count, tiles.group if behind.relu else 0
                later = (
                    region(x, shape, tiles, after, tiles.group, 0, c),
                    region(behind.dy, dy_shape, tiles, after, tiles.group, 0, f),
                    region(behind.y, dy_shape, tiles, after, of_y, 0, f),
                )
                add_outer_products(block, tiles, v, c, some, dm, f, count, du, share == 0 and first == start, later)
                if dx.size and share == split:
                    for p in range(0, c, len(like)):
                        soon = region(dx, shape, tiles, first, count, p, len(like))
                        times_panel(block, tiles, pairs, depth, u, p * parts * depth, count, dv, soon, soon)
                        scatter_dx(like, dv, dx, shape, p, tiles, first, count, window)
                    for image in range(first // of_image, (first + count) // of_image):
                        sums_of_image(like, before, x, dx, image, h * w, c)


def _block(c: int, f: int, dtype) -> np.dtype:
    rows, lanes = best_block(dtype).shape
    return Block(rows, lanes if c % lanes == f % lanes == 0 else lanes // 2)


def points_for(r: int, y_shape, pool: bool) -> tuple[int, ...]:
    """At how many points: 9, where that saves a quarter of the multiplications or more.

    Not before a pool where a group of tiles cannot be whole images. The size of a batch is not asked, so that an image gives
    the same numbers in each.
    """
    if r == 5:
        return EIGHT
    six, nine = (math.prod(n * -(-size // SIZES[n]) for size in y_shape[:2]) for n in (6, 9))
    whole = GROUPS[9] % (nine // 81) == 0
    return NINE if 4 * nine <= 3 * six and (whole or not pool) else SIX


def tiles_of(y_shape, points, padding) -> Tiles:
    """The tiles of outputs (h, w, f), in groups of the usual size."""
    size = SIZES[len(points)]
    rows, columns = (-(-n // size) for n in y_shape[:2])
    return Tiles(points, tuple(range(size)), rows, columns, padding[0][0], padding[1][0], GROUPS[len(points)])


def takes_bfloat16(points) -> bool:
    """Whether its products may be in bfloat16: 6 points make its rounding five times as large, 8 points twenty times, 9
    still more; and by 9 points float32 is as fast."""
    return points == SIX


def packed(w, points, bfloat16) -> np.ndarray:
    """The weights (r, r, c, f) at the points, in panels (panels, n * n, c, lanes) as wide as a vector; or those of pairs."""
    r, _, c, f = w.shape
    block, g = _block(c, f, w.dtype), matrices(len(points))[2].astype(w.dtype)
    lanes = block.shape[1]
    u = scratch("panels", (f // lanes, len(points) ** 2, c, lanes), w.dtype)
    halves = scratch("halves", (PARTS, r * lanes), w.dtype)
    _transform_weights(8 * u.size, block, g, w, u, halves)
    if bfloat16:
        return paired_rows(u.reshape(-1, lanes), "pairs of panels").reshape(f // lanes, len(points) ** 2, c // 2, lanes)
    return u


def _at_points(slot: str, tiles: Tiles, depth: int, dtype) -> np.ndarray:
    """Memory for numbers at the points, so many for each tile of a group and for each thread."""
    return scratch(slot, (MAX_THREADS, len(tiles.points) ** 2 * span(tiles, depth)), dtype)


def _own(tiles: Tiles, v: np.ndarray, dm: np.ndarray, pairs: np.ndarray, lanes: int, dtype) -> Scratch:
    """The scratch of all threads, without a plane."""
    window, plane = scratch("blocks", (MAX_THREADS, 2 * len(tiles.points) ** 2 * lanes), dtype), np.empty((0, 0), dtype)
    return Scratch(v, dm, pairs, _at_points("y", tiles, lanes, dtype), window, plane)


def convolve(before, x, w, b, padding, y_shape, behind, bfloat16):
    """y of a convolution that `fits`; y_shape is that before a pool."""
    (r, _, c, f), dtype = w.shape, x.dtype
    points = points_for(r, y_shape, behind.pool)
    bfloat16 = bfloat16 and takes_bfloat16(points)
    block, tiles = _block(c, f, dtype), tiles_of(y_shape, points, padding)
    of_image, lanes = tiles.rows * tiles.columns, block.shape[1]
    planes = points == NINE and behind.pool
    least = max(8, of_image) if planes else 8
    while len(x) * of_image < 2 * get_threads() * tiles.group and tiles.group > least:
        tiles = tiles._replace(group=tiles.group // 2)  # every thread has two groups or more, if they are not too small
    bias, work = np.zeros(f, dtype) if b is None else b, len(x) * math.prod(y_shape) * r * r * c
    u, no_dm = packed(w, points, bfloat16), np.empty((0, 0), dtype)
    own = _own(tiles, _at_points("x", tiles, u.shape[2], u.dtype), no_dm, no_dm, lanes, dtype)
    own = own._replace(plane=scratch("plane", (MAX_THREADS, planes * math.prod(y_shape[:2]) * lanes), dtype))
    _forward(work if len(x) > 1 else 0, block, before, x, tiles, u, bias, behind, y_shape, own)


def convolve_backward(behind, y_shape, before, x, w, dw, db, padding, dx, bfloat16):
    """dx, where there is memory for it, dw and db of a convolution that `fits`; of the products only dx's in bfloat16."""
    r, _, c, f = w.shape
    n, dtype, block = len(x), x.dtype, _block(c, f, x.dtype)
    points = points_for(r, y_shape, behind.pool)
    bfloat16 = bfloat16 and takes_bfloat16(points)
    tasks, tiles = 8, tiles_of(y_shape, points, padding)
    if c * f >= 8192:
        tasks, tiles = 4, tiles._replace(group=LARGE_GROUPS[len(points)])
    # Each task has a du of its own, at 9 points a large one; threads that share a task each transform all of its images.
    tasks = min(n, tasks, max(tasks // 2, n * tasks // 64) if points == NINE else tasks)
    kind, depth = (PAIR, f // 2) if bfloat16 else (dtype, f)
    many, lanes = len(points) ** 2, block.shape[1]
    u = np.empty((0, many, depth, lanes), kind)
    if dx.size:
        swapped, square = scratch("swapped", (r, r, f, c), dtype), best_block(dtype).shape[1] // 2
        _swap(MOVED * w.size, Block(square, square), w.reshape(r * r, c, f), swapped)
        u = packed(swapped, points, bfloat16)
    splits = most_splits(n, tasks)
    sums = Sums(scratch("partial", (tasks, many * c * f), dtype), scratch("db", (tasks * splits, f), dtype))
    dm = _at_points("dy", tiles, f, dtype)
    pairs = _at_points("pairs", tiles, depth, PAIR) if bfloat16 else dm
    own = _own(tiles, _at_points("x", tiles, c, dtype), dm, pairs, lanes, dtype)
    _backward(2 * n * math.prod(y_shape) * r * r * c, block, behind, y_shape, before, x, tiles, u, sums, dx, own)
    g, halves = matrices(len(points))[2].astype(dtype), scratch("halves", (MAX_THREADS, len(points) * r * lanes), dtype)
    du = scratch("du", (MAX_THREADS, many * f), dtype)
    _transform_du(MOVED * sums.dw.size, block, g, sums.dw, dw, du, halves)
    if db is not None:
        add_up(sums.db, db, splits)
