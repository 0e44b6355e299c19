"""Convolution with a quarter of the multiplications (Winograd, 1980; Lavin and Gray, 2016): see layers/convolution.py.

Faster because m outputs of a window of r weights are a product of two polynomials, of degrees m - 1 and r - 1, and a
polynomial of degree n = m + r - 2 is as well known by its values at n + 1 points. At points, a product is a product of
numbers: n + 1 multiplications where the sum over the window takes m * r. In two dimensions, with 6 points, a tile of
4 x 4 outputs of a 3 x 3 window takes 36 multiplications and not 144, and one of 2 x 2 outputs of 5 x 5 takes 36, not 100.

    v = B^T d B              a window of 6 x 6 pixels d, at the points        (transform_pixels)
    u = G g G^T              the weights g, at the points                     (transform_weights)
    m = sum over channels of u * v, number by number: 36 matrix products      (products.py)
    y = A^T m A              from the points to a tile of outputs             (transform_outputs)

All three transforms are linear, so the chain rule runs through them by their transposes:

    dm = A dy A^T,    du = sum over tiles of v * dm,    dg = G^T du G,    dv = dm * u,    dd = B dv B^T, added where
    windows overlap.

The points are 0, +-5/8, +-3/2 and infinity (as in oneDNN, 2018): all numbers below are exact in binary, and the error
in float32 is about five times that of the plain sum, a quarter of that of the textbook's 0, +-1, +-2.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import get_thread_id

from minicnn.engine.compiling import helper, kernel
from minicnn.engine.lanes import (
    Block,
    best_block,
    fma,
    gate,
    half,
    load,
    load_rows,
    maximum0,
    prefetch,
    store,
    store_rows,
    strided,
    zeros,
)
from minicnn.engine.memory import scratch
from minicnn.engine.products import outer_product, rows_by_panel
from minicnn.engine.threads import MAX_THREADS, MOVED, chunk, parallel

P, Q = 5 / 8, 3 / 2  # the points are 0, P, -P, Q, -Q and infinity
P2, Q2, PQ = P * P, Q * Q, P * P * Q * Q
POINTS = 6


class Tiles(NamedTuple):
    """How an image is cut into tiles of outputs; each reads a window of 6 x 6 pixels."""

    size: int  # of a tile: 4 or 2 outputs
    rows: int
    columns: int
    top: int  # how far the first window reaches over the image's edge
    left: int
    group: int  # how many go through the 36 products together, and stay in the cache meanwhile


def fits(w_shape, window, groups, dtype) -> bool:
    """Whether this algorithm takes such a convolution: 3 x 3 or 5 x 5, in steps of one, whole vectors of channels."""
    kh, kw, c, f = w_shape
    lanes = best_block(dtype).shape[1] // 2
    plain = window.stride == window.dilation == (1, 1) and groups == 1
    return plain and kh == kw and kh in (3, 5) and c % lanes == 0 and f % lanes == 0


@lru_cache
def weight_transform(r: int, dtype) -> np.ndarray:
    """G, 6 x r: the values of a polynomial of r weights at the points, each divided by its Lagrange denominator."""
    points = [0, P, -P, Q, -Q]
    rows = [[p**k / np.prod([p - q for q in points if q != p]) for k in range(r)] for p in points]
    return np.array([*rows, [0] * (r - 1) + [1]], dtype)


# ---------------------------------------------------------------------------------------------------------------
# One-dimensional transforms, of six vectors or four


@helper
def pixels_to_points(d):
    """B^T d: row i is the product of (x - p) over the other points p, in powers of x."""
    d0, d1, d2, d3, d4, d5 = d
    even_p, odd_p = fma(-Q2, d2, d4), P * fma(-Q2, d1, d3)
    even_q, odd_q = fma(-P2, d2, d4), Q * fma(-P2, d1, d3)
    first, last = fma(PQ, d0, fma(-P2 - Q2, d2, d4)), fma(PQ, d1, fma(-P2 - Q2, d3, d5))
    return first, even_p + odd_p, even_p - odd_p, even_q + odd_q, even_q - odd_q, last


@helper
def points_to_pixels(v):
    """B v, the transpose of pixels_to_points."""
    v0, v1, v2, v3, v4, v5 = v
    even_p, odd_p, even_q, odd_q = v1 + v2, P * (v1 - v2), v3 + v4, Q * (v3 - v4)
    d1 = fma(PQ, v5, fma(-Q2, odd_p, -P2 * odd_q))
    d2 = fma(-P2 - Q2, v0, fma(-Q2, even_p, -P2 * even_q))
    return PQ * v0, d1, d2, fma(-P2 - Q2, v5, odd_p + odd_q), v0 + even_p + even_q, v5


@helper
def points_to_outputs(m, size):
    """A^T m: a sum of the points' powers. For tiles of two the last two of the four mean nothing."""
    m0, m1, m2, m3, m4, m5 = m
    even_p, odd_p, even_q, odd_q = m1 + m2, P * (m1 - m2), m3 + m4, Q * (m3 - m4)
    y1 = odd_p + odd_q
    if size == 2:
        y1 = y1 + m5
    return m0 + even_p + even_q, y1, fma(P2, even_p, Q2 * even_q), fma(P2, odd_p, fma(Q2, odd_q, m5))


@helper
def outputs_to_points(y, size):
    """A y, the transpose of points_to_outputs."""
    y0, y1, y2, y3 = y
    last = y3
    if size == 2:
        last, y2, y3 = y1, y0 - y0, y0 - y0
    even_p, odd_p = fma(P2, y2, y0), P * fma(P2, y3, y1)
    even_q, odd_q = fma(Q2, y2, y0), Q * fma(Q2, y3, y1)
    return y0, even_p + odd_p, even_p - odd_p, even_q + odd_q, even_q - odd_q, last


# ---------------------------------------------------------------------------------------------------------------
# Two-dimensional transforms of one tile, a vector of channels at a time. `window` is scratch of 6 x 6 vectors


@helper
def six(step):
    """Six offsets a step apart."""
    return 0, step, 2 * step, 3 * step, 4 * step, 5 * step


@helper
def four(step):
    """Four offsets a step apart."""
    return 0, step, 2 * step, 3 * step


@helper
def read(like, image, start, shape, row, column, size, window):
    """The size x size pixels from (row, column) on, 0 where they are not in the image."""
    h, w, c = shape
    n = len(like)
    nothing = like - like
    for i in range(size):
        for j in range(size):
            v = nothing
            if 0 <= row + i < h and 0 <= column + j < w:
                v = load(like, image, start + ((row + i) * w + column + j) * c)
            store(window, (i * POINTS + j) * n, v)


@helper
def transform_pixels(like, window, v, v0, step):
    """v = B^T d B, written a step apart for each of the 36."""
    n = len(like)
    for i in range(POINTS):
        store_rows(window, six(n), i * 6 * n, pixels_to_points(load_rows(like, window, six(n), i * 6 * n)))
    for j in range(POINTS):
        store_rows(v, six(6 * step), v0 + j * step, pixels_to_points(load_rows(like, window, six(6 * n), j * n)))


@helper
def transform_outputs(like, m, m0, step, size, window):
    """y = A^T m A, into the corner of the window."""
    n = len(like)
    for i in range(POINTS):
        rows = load_rows(like, m, six(step), m0 + i * 6 * step)
        store_rows(window, four(n), i * 6 * n, points_to_outputs(rows, size))
    for j in range(size):
        columns = load_rows(like, window, six(6 * n), j * n)
        store_rows(window, four(6 * n), j * n, points_to_outputs(columns, size))


@helper
def transform_dy(like, window, size, dm, dm0, step):
    """dm = A dy A^T, of the corner of the window; its other pixels are 0 or anything where size is 2."""
    n = len(like)
    for i in range(size):
        rows = load_rows(like, window, four(n), i * 6 * n)
        store_rows(window, six(n), i * 6 * n, outputs_to_points(rows, size))
    for j in range(POINTS):
        columns = load_rows(like, window, four(6 * n), j * n)
        store_rows(dm, six(6 * step), dm0 + j * step, outputs_to_points(columns, size))


@helper
def transform_dv(like, dv, dv0, step, window):
    """dd = B dv B^T, into the window."""
    n = len(like)
    for i in range(POINTS):
        rows = load_rows(like, dv, six(step), dv0 + i * 6 * step)
        store_rows(window, six(n), i * 6 * n, points_to_pixels(rows))
    for j in range(POINTS):
        columns = load_rows(like, window, six(6 * n), j * n)
        store_rows(window, six(6 * n), j * n, points_to_pixels(columns))


@parallel
def _transform_weights(part, block, g, w, u):
    """u = G g G^T: weights (r, r, c, f) to panels (panels, 36, c, lanes)."""
    r, _, c, f = w.shape
    nothing, flat_w, flat_u = zeros(w, block)[0], w.reshape(-1), u.reshape(-1)
    n, half = len(nothing), np.empty(r * len(nothing), w.dtype)
    for k in chunk(part, c):
        for panel in range(u.shape[0]):
            for i in range(POINTS):
                for q in range(r):
                    total = nothing
                    for p in range(r):
                        total = fma(g[i, p], load(total, flat_w, ((p * r + q) * c + k) * f + panel * n), total)
                    store(half, q * n, total)
                for j in range(POINTS):
                    total = nothing
                    for q in range(r):
                        total = fma(g[j, q], load(total, half, q * n), total)
                    store(flat_u, ((panel * 36 + i * POINTS + j) * c + k) * n, total)


@parallel
def _transform_du(part, block, g, partial, dw):
    """dw = G^T du G, du being the sum of the tasks' parts, added in their order."""
    r, _, c, f = dw.shape
    nothing, flat = zeros(dw, block)[0], dw.reshape(-1)
    n = len(nothing)
    sums, half = np.empty(POINTS * n, dw.dtype), np.empty(POINTS * r * n, dw.dtype)  # a row of du; du G
    for k in chunk(part, c):
        for l in range(0, f, n):
            for i in range(POINTS):
                for j in range(POINTS):
                    total = nothing
                    for task in range(partial.shape[0]):
                        total = total + load(total, partial[task], ((i * POINTS + j) * c + k) * f + l)
                    store(sums, j * n, total)
                for q in range(r):
                    total = nothing
                    for j in range(POINTS):
                        total = fma(g[j, q], load(total, sums, j * n), total)
                    store(half, (i * r + q) * n, total)
            for p in range(r):
                for q in range(r):
                    total = nothing
                    for i in range(POINTS):
                        total = fma(g[i, p], load(total, half, (i * r + q) * n), total)
                    store(flat, ((p * r + q) * c + k) * f + l, total)


# ---------------------------------------------------------------------------------------------------------------
# The convolution


@helper
def locate(tile, tiles):
    """The image a tile belongs to, and its first output's row and column."""
    image, rest = tile // (tiles.rows * tiles.columns), tile % (tiles.rows * tiles.columns)
    return image, rest // tiles.columns * tiles.size, rest % tiles.columns * tiles.size


@kernel
def span(tiles, depth):
    """How far the 36 matrices (group, depth) lie apart: not a power of two, which would put all 36 in one cache set."""
    return tiles.group * depth + 16


@helper
def gather_pixels(like, x, shape, tiles, first, count, v, window):
    """v (36, group, c) of the tiles from `first` on."""
    h, w, c = shape
    for t in range(count):
        image, row, column = locate(first + t, tiles)
        for k in range(0, c, len(like)):
            read(like, x, image * h * w * c + k, shape, row - tiles.top, column - tiles.left, POINTS, window)
            transform_pixels(like, window, v, t * c + k, span(tiles, c))


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
def fetch(region, part):
    """Ask for a 36th of a region's cache lines, so that they arrive while the processor multiplies."""
    array, start, pixels, step, width = region
    for i in range(part * pixels // 36, (part + 1) * pixels // 36):
        for k in range(0, width, 64 // array.itemsize):
            prefetch(array, start + i * step + k)


@helper
def times_panel(block, tiles, a, depth, u, u0, count, m, soon, later):
    """m (36, group, lanes) = a (36, group, depth) times the panel of u at u0, for each of the 36."""
    start = zeros(a, block)
    few = half(start)
    if count > len(few):
        products(start, tiles, a, depth, u, u0, count, m, soon, later)
    else:
        products(few, tiles, a, depth, u, u0, count, m, soon, later)


@helper
def products(start, tiles, a, depth, u, u0, count, m, soon, later):
    """The 36 products, as many rows at a time as `start`, a block of zeros, has."""
    lanes = len(start[0])
    for point in range(36):
        fetch(soon, point)
        fetch(later, point)
        for t in range(0, count, len(start)):
            rows, at = strided(depth, t, count, start), u0 + point * depth * lanes
            sums = rows_by_panel(a, rows, point * span(tiles, depth), depth, u, at, start)
            store_rows(m, strided(lanes, t, count, start), point * span(tiles, lanes), sums)


@helper
def scatter_outputs(like, m, bias, relu, y, shape, channel, tiles, first, count, window):
    """A vector of channels of y from the tiles' m (36, group, lanes)."""
    oh, ow, f = shape
    n = len(like)
    add = load(like, bias, channel)
    for t in range(count):
        image, row, column = locate(first + t, tiles)
        transform_outputs(like, m, t * n, span(tiles, n), tiles.size, window)
        for i in range(min(tiles.size, oh - row)):
            for j in range(min(tiles.size, ow - column)):
                v = load(like, window, (i * POINTS + j) * n) + add
                if relu:
                    v = maximum0(v)
                store(y, ((image * oh + row + i) * ow + column + j) * f + channel, v)


@helper
def gather_dy(like, dy, y, relu, shape, tiles, first, count, dm, db, window):
    """dm (36, group, f) of the tiles, dy being shut where relu gave 0; dy's pixels are added to db."""
    oh, ow, f = shape
    n = len(like)
    for t in range(count):
        image, row, column = locate(first + t, tiles)
        for k in range(0, f, n):
            start = image * oh * ow * f + k
            read(like, dy, start, shape, row, column, tiles.size, window)
            total = load(like, db, k)
            for i in range(min(tiles.size, oh - row)):
                for j in range(min(tiles.size, ow - column)):
                    here = (i * POINTS + j) * n
                    v = load(like, window, here)
                    if relu:
                        v = gate(v, load(like, y, start + ((row + i) * ow + column + j) * f))
                        store(window, here, v)
                    total = total + v
            store(db, k, total)
            transform_dy(like, window, tiles.size, dm, t * f + k, span(tiles, f))


@helper
def add_outer_products(block, tiles, v, c, dm, f, count, du, fresh, x_region, dy_region, y_region):
    """du (36, c, f) += v^T dm, for each of the 36; = where it is `fresh`."""
    like = zeros(v, block)
    for point in range(36):
        fetch(x_region, point)
        fetch(dy_region, point)
        fetch(y_region, point)
        for p in range(0, f, len(like[0])):
            for k in range(0, c, len(like)):
                targets, at = strided(f, k, c, like), point * c * f + p
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
    """Add the tiles' dv (36, group, lanes) to a vector of channels of dx; each image begins with zeros, like `like`."""
    h, w, c = shape
    n = len(like)
    for t in range(count):
        image, row, column = locate(first + t, tiles)
        if row == column == 0:
            for pixel in range(image * h * w, (image + 1) * h * w):
                store(dx, pixel * c + channel, like)
        row, column = row - tiles.top, column - tiles.left
        transform_dv(like, dv, t * n, span(tiles, n), window)
        for i in range(max(0, -row), min(POINTS, h - row)):
            for j in range(max(0, -column), min(POINTS, w - column)):
                at = ((image * h + row + i) * w + column + j) * c + channel
                store(dx, at, load(like, dx, at) + load(like, window, (i * POINTS + j) * n))


@parallel
def _forward(part, block, x, shape, tiles, u, bias, relu, y, y_shape, tasks, vs, ms, windows):
    c, f = shape[2], y_shape[2]
    total = x.size // (shape[0] * shape[1] * c) * tiles.rows * tiles.columns
    for task in chunk(part, tasks):
        thread = get_thread_id()
        v, m, window = vs[thread], ms[thread], windows[thread]
        like = zeros(x, block)[0]
        end = (task + 1) * total // tasks
        for first in range(task * total // tasks, end, tiles.group):
            count = min(tiles.group, end - first)
            gather_pixels(like, x, shape, tiles, first, count, v, window)
            for p in range(0, f, len(like)):
                soon = region(y, y_shape, tiles, first, count, p, len(like))
                later = region(x, shape, tiles, first + count, tiles.group if p == 0 else 0, 0, c)
                times_panel(block, tiles, v, c, u, p * 36 * c, count, m, soon, later)
                scatter_outputs(like, m, bias, relu, y, y_shape, p, tiles, first, count, window)


@parallel
def _backward(part, block, dy, y_shape, x, shape, y, relu, tiles, u, partial, db, needs_dx, dx, vs, dms, dvs, windows):
    c, f = shape[2], y_shape[2]
    tasks, n = partial.shape[0], x.size // (shape[0] * shape[1] * c)
    for task in chunk(part, tasks):
        thread = get_thread_id()
        v, dm, dv, window, du = vs[thread], dms[thread], dvs[thread], windows[thread], partial[task]
        like = zeros(x, block)[0]
        db[task, :] = 0
        start = task * n // tasks * tiles.rows * tiles.columns
        end = (task + 1) * n // tasks * tiles.rows * tiles.columns
        for first in range(start, end, tiles.group):
            count = min(tiles.group, end - first)
            gather_pixels(like, x, shape, tiles, first, count, v, window)
            gather_dy(like, dy, y, relu, y_shape, tiles, first, count, dm, db[task], window)
            after, rest = first + count, tiles.group if relu else 0
            x_later = region(x, shape, tiles, after, tiles.group, 0, c)
            dy_later = region(dy, y_shape, tiles, after, tiles.group, 0, f)
            y_later = region(y, y_shape, tiles, after, rest, 0, f)
            add_outer_products(block, tiles, v, c, dm, f, count, du, first == start, x_later, dy_later, y_later)
            if needs_dx:
                for p in range(0, c, len(like)):
                    soon = region(dx, shape, tiles, first, count, p, len(like))
                    times_panel(block, tiles, dm, f, u, p * 36 * f, count, dv, soon, soon)
                    scatter_dx(like, dv, dx, shape, p, tiles, first, count, window)


def _block(c: int, f: int, dtype) -> np.dtype:
    rows, lanes = best_block(dtype).shape
    return Block(rows, lanes if c % lanes == f % lanes == 0 else lanes // 2)


def _tiles(y_shape, r, padding, group=32) -> Tiles:
    size = POINTS + 1 - r
    return Tiles(size, -(-y_shape[0] // size), -(-y_shape[1] // size), padding[0][0], padding[1][0], group)


def packed_shape(w_shape, dtype) -> tuple[int, ...]:
    """The shape of weights (r, r, c, f) at the points, in panels as wide as a vector."""
    _, _, c, f = w_shape
    lanes = _block(c, f, dtype).shape[1]
    return f // lanes, 36, c, lanes


def pack(w, u) -> None:
    """Transform the weights w into u, of their `packed_shape`."""
    r, _, c, f = w.shape
    _transform_weights(8 * u.size, _block(c, f, w.dtype), weight_transform(r, w.dtype), w, u)


def _scratch(tiles, c, f, lanes, dtype):
    """For each thread: the tiles' pixels and outputs at the points, a vector of either, and a window of 6 x 6 vectors."""
    depths = {"x": c, "dy": f, "y": lanes}
    at_points = [scratch(slot, (MAX_THREADS, 36 * span(tiles, depth)), dtype) for slot, depth in depths.items()]
    return *at_points, scratch("blocks", (MAX_THREADS, 36 * lanes), dtype)


def convolve(x, u, b, r, padding, relu, y):
    """y of a convolution that `fits`, of an r x r window with the packed weights u."""
    c, f, dtype = x.shape[3], y.shape[3], x.dtype
    block = _block(c, f, dtype)
    tiles = _tiles(y.shape[1:], r, padding)
    pixels, _, outputs, windows = _scratch(tiles, c, f, block.shape[1], dtype)
    bias = np.zeros(f, dtype) if b is None else b
    x_flat, y_flat, u, tasks = x.reshape(-1), y.reshape(-1), u.reshape(-1), min(len(x), 16)
    _forward(
        y.size * r * r * c if tasks > 1 else 0,
        *(block, x_flat, x.shape[1:], tiles, u, bias, relu, y_flat, y.shape[1:], tasks, pixels, outputs, windows),
    )


def convolve_backward(dy, x, w, y, dw, db, padding, relu, needs_dx, dx):
    """dx, dw and db of a convolution that `fits`."""
    r, _, c, f = w.shape
    n, dtype, block = len(x), x.dtype, _block(c, f, x.dtype)
    # Each group reads and writes all of du, and each task has a du of its own: of large ones there should be few.
    large = c * f >= 8192
    tasks, tiles = min(n, 4 if large else 8), _tiles(dy.shape[1:], r, padding, 128 if large else 32)
    u = np.empty(0, dtype)
    if needs_dx:
        turned = scratch("turned", (r, r, f, c), dtype)
        turned[...] = w.swapaxes(2, 3)
        u = scratch("panels", packed_shape(turned.shape, dtype), dtype)
        pack(turned, u)
    partial, sums = scratch("partial", (tasks, 36 * c * f), dtype), scratch("db", (tasks, f), dtype)
    _backward(
        2 * dy.size * r * r * c,
        *(block, dy.reshape(-1), dy.shape[1:], x.reshape(-1), x.shape[1:], y.reshape(-1), relu),
        *(tiles, u.reshape(-1), partial, sums, needs_dx, dx.reshape(-1), *_scratch(tiles, c, f, block.shape[1], dtype)),
    )
    _transform_du(MOVED * partial.size, block, weight_transform(r, dtype), partial, dw)
    if db is not None:
        db[...] = sums.sum(axis=0)
