"""Winograd's transforms of one tile: from pixels, outputs and weights to points, and back. See winograd.py.

The points are pairs p, -p and infinity, and 0 where there are n = 6 or 8 of all (as in oneDNN, 2018). They are such that all
numbers in A and B are exact in binary, and otherwise those with the least error in float32: 6e-7 for the 6 points, 2.5e-6
for the 8 and 6e-6 for the 9, where the plain sum's is 3e-7 (of 32 channels, both the error and y as the root of their mean
square; see benchmarks/engine.md).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.polynomial.polynomial import polyfromroots

from minicnn.engine.compiling import helper
from minicnn.engine.lanes import compiled, load_rows, store_rows, strided

PAIRS = {6: (5 / 8, 3 / 2), 8: (1 / 2, 1.0, 2.0), 9: (1 / 4, 11 / 16, 9 / 8, 2.0)}  # p, where there are n points
SIZES = {6: 4, 8: 4, 9: 7}  # rows and columns of outputs of a tile, where there are n points
# A kernel is compiled for as many points as such a tuple has numbers.
SIX, EIGHT, NINE = (tuple(range(n)) for n in PAIRS)


@lru_cache
def matrices(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """B^T, A and G for n points, a row for each: 0 if n is even, each p and -p, infinity.

    A and G have the powers of p, G each divided by the Lagrange denominator, the product of p - q over the other points q;
    B^T has the product of x - q, in powers of x. At infinity only the highest power counts. Where 0 is no point, the rows
    of -p in B^T and G are negative, so that their even powers are those of p there, too.
    """
    zero = n % 2 == 0
    points = [0.0] * zero + [sign * p for p in PAIRS[n] for sign in (1, -1)]
    others = [[q for q in points if q != p] for p in points]
    b = np.array([[*polyfromroots(rest), 0.0] for rest in others] + [polyfromroots(points)])
    highest = [np.eye(1, columns, columns - 1) for columns in (SIZES[n], n + 1 - SIZES[n])]
    a, g = (np.concatenate([np.vander(points, last.size, increasing=True), last]) for last in highest)
    g[:-1] /= [[np.prod(np.subtract(p, rest))] for p, rest in zip(points, others, strict=True)]
    if not zero:
        b[1:-1:2] *= -1
        g[1:-1:2] *= -1
    return b, a, g


# ---------------------------------------------------------------------------------------------------------------
# One-dimensional transforms. p and -p have the same even powers, and odd ones that differ only in their sign: so one sum
# over even powers, and one over odd ones, serve both


def _sums(matrix, rows, multiply_add):
    """matrix @ rows, without what is multiplied by 0; what is multiplied by 1 comes first, and costs nothing."""
    sums = []
    for factors in matrix.tolist():
        total = None
        for factor, row in sorted(zip(factors, rows, strict=True), key=lambda term: term[0] != 1):
            if factor:
                total = multiply_add(factor, row, total)
        sums.append(total)
    return sums


def _without_negatives(matrix):
    """The row of 0, if that is a point; those of each p; that of infinity."""
    zero = 1 - len(matrix) % 2
    return matrix[:zero], matrix[zero:-1:2], matrix[-1:]


def _to_points(which):
    """matrix @ rows."""

    def formula(n, rows, plus, minus, multiply_add):
        first, pairs, last = _without_negatives(matrices(n)[which])
        even, odd = (_sums(pairs[:, i::2], rows[i::2], multiply_add) for i in (0, 1))
        pairs = (v for e, o in zip(even, odd, strict=True) for v in (plus(e, o), minus(e, o)))
        return *_sums(first, rows, multiply_add), *pairs, *_sums(last, rows, multiply_add)

    return formula


def _from_points(which):
    """matrix.T @ rows."""

    def formula(n, rows, plus, minus, multiply_add):
        columns = np.concatenate(_without_negatives(matrices(n)[which])).T
        first, pairs, last = rows[: 1 - n % 2], rows[1 - n % 2 : -1], rows[-1:]
        pairs = list(zip(pairs[::2], pairs[1::2], strict=True))
        folded = ([*first, *(both(*pair) for pair in pairs), *last] for both in (plus, minus))
        even, odd = (_sums(columns[i::2], terms, multiply_add) for i, terms in enumerate(folded))
        return tuple(even[k // 2] if k % 2 == 0 else odd[k // 2] for k in range(len(columns)))

    return formula


pixels_to_points, points_to_pixels = compiled(_to_points(0)), compiled(_from_points(0))  # B^T d; B v
outputs_to_points, points_to_outputs = compiled(_to_points(1)), compiled(_from_points(1))  # A y; A^T m


# ---------------------------------------------------------------------------------------------------------------
# Two-dimensional transforms of one tile, a vector of channels at a time. `window` is scratch of n x n vectors


@helper
def apart(step, rows):
    """Offsets a step apart, one for each of the rows."""
    return strided(step, 0, len(rows), rows)


@helper
def four(step):
    """Four offsets a step apart."""
    return 0, step, 2 * step, 3 * step


@helper
def columns_to_points(like, points, window, v, v0, step):
    """v = B^T of the window's columns, written a step apart for each of the n * n."""
    row = len(points) * len(like)
    for j in range(len(points)):
        column = pixels_to_points(points, load_rows(like, window, apart(row, points), j * len(like)))
        store_rows(v, apart(len(points) * step, points), v0 + j * step, column)


@helper
def rows_to_outputs(like, points, m, m0, step, window):
    """m A, into the window's first columns."""
    for i in range(len(points)):
        row = points_to_outputs(points, load_rows(like, m, apart(step, points), m0 + i * len(points) * step))
        store_rows(window, apart(len(like), row), i * len(points) * len(like), row)


@helper
def column_of_outputs(like, points, window, j):
    """A^T times a column of the window."""
    return points_to_outputs(points, load_rows(like, window, apart(len(points) * len(like), points), j * len(like)))
