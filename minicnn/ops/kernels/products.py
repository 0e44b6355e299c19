"""The two small kernels that carry every multiplication of a convolution or a dense layer.

Both keep a block of 7 rows by one wide vector (see lanes.py) of sums in registers while the operands stream past, so
that each number loaded serves many multiplications. They are long in lines because each of the seven sums is a variable
of its own: that is what makes the compiler keep it in a register.
"""

from __future__ import annotations

from minicnn.ops.kernels.lanes import fma, lanes, load, pick, store
from minicnn.ops.kernels.threads import kernel

ROWS = 7


@kernel
def seven(table, first, count):
    """table[first], .., table[first + 6]; beyond count - 1 the last entry again: its result is computed twice."""
    last = count - 1
    return (
        table[min(first, last)],
        table[min(first + 1, last)],
        table[min(first + 2, last)],
        table[min(first + 3, last)],
        table[min(first + 4, last)],
        table[min(first + 5, last)],
        table[min(first + 6, last)],
    )


@kernel
def rows_by_panel(x, places, runs, length, panel, start, sums, x0):
    """Seven rows of an (implicit) im2col matrix times a panel of weights, as wide as a vector.

    Row i consists of the runs x[x0 + places[i] + runs[r]:][:length] one after another; the panel's rows follow each
    other in memory from panel[start]. `sums` is a tuple of seven vectors to add to; so is the result.
    """
    a0, a1, a2, a3, a4, a5, a6 = sums
    step = lanes(a0)
    w = start
    for r in range(runs.shape[0]):
        at = x0 + runs[r]
        p0, p1, p2, p3 = places[0] + at, places[1] + at, places[2] + at, places[3] + at
        p4, p5, p6 = places[4] + at, places[5] + at, places[6] + at
        for k in range(length):
            v = load(a0, panel, w)
            a0 = fma(pick(x, p0 + k), v, a0)
            a1 = fma(pick(x, p1 + k), v, a1)
            a2 = fma(pick(x, p2 + k), v, a2)
            a3 = fma(pick(x, p3 + k), v, a3)
            a4 = fma(pick(x, p4 + k), v, a4)
            a5 = fma(pick(x, p5 + k), v, a5)
            a6 = fma(pick(x, p6 + k), v, a6)
            w += step
    return a0, a1, a2, a3, a4, a5, a6


@kernel
def outer_product(x, x0, columns, places, dy, dy0, dy_places, dw, rows):
    """Seven rows of dw, as wide as a vector, += the sum over all places of x's pixel times dy's vector.

    At place q the seven factors are x[x0 + places[q] + columns[i]] and the vector is dy[dy0 + dy_places[q]:];
    row i of the block lies at dw[rows[i]:]. `dy0` carries the vector's width: a pair (offset, vector of zeros).
    """
    offset, like = dy0
    a0, a1, a2 = load(like, dw, rows[0]), load(like, dw, rows[1]), load(like, dw, rows[2])
    a3, a4, a5 = load(like, dw, rows[3]), load(like, dw, rows[4]), load(like, dw, rows[5])
    a6 = load(like, dw, rows[6])
    c0, c1, c2, c3, c4, c5, c6 = columns
    for q in range(places.shape[0]):
        v = load(like, dy, offset + dy_places[q])
        p = x0 + places[q]
        a0 = fma(pick(x, p + c0), v, a0)
        a1 = fma(pick(x, p + c1), v, a1)
        a2 = fma(pick(x, p + c2), v, a2)
        a3 = fma(pick(x, p + c3), v, a3)
        a4 = fma(pick(x, p + c4), v, a4)
        a5 = fma(pick(x, p + c5), v, a5)
        a6 = fma(pick(x, p + c6), v, a6)
    store(dw, rows[0], a0)
    store(dw, rows[1], a1)
    store(dw, rows[2], a2)
    store(dw, rows[3], a3)
    store(dw, rows[4], a4)
    store(dw, rows[5], a5)
    store(dw, rows[6], a6)
