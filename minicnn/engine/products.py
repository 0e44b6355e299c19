"""The two small loops that carry every multiplication of a convolution or a dense layer.

Both keep a block of sums (see lanes.py) in registers while the operands stream past, so that each number loaded serves
many multiplications: a row of 8 x 32 sums takes one vector and eight factors, and does 256 multiply-adds with them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minicnn.engine.calls import MOVED, parallel
from minicnn.engine.compiling import helper
from minicnn.engine.lanes import Block, best_block, load, load_prefetching, multiply_add
from minicnn.engine.threads import chunk


def panel_block(outputs: int, dtype, most_rows: int) -> np.dtype:
    """The block whose lanes waste least on so many output channels: all lanes, or half; of equals all."""
    rows, lanes = best_block(dtype).shape
    cost = {n: -(-outputs // n) * (n + 8) for n in (lanes, lanes // 2)}  # 8: a row's factors are not free either
    return Block(min(rows, most_rows), min(cost, key=cost.__getitem__))


def weights_block(rows: int, outputs: int, dtype) -> np.dtype:
    """The block for all rows of a small dw at once, or for equal chunks of them; three more vectors fit beside it."""
    lanes = panel_block(outputs, dtype, 1).shape[1]
    most = 10 if best_block(dtype).shape[0] == 8 else 4
    return Block(-(-rows // -(-rows // most)), lanes)


class Sums(NamedTuple):
    """What the tasks of a convolution's backward add up, each its own; they are joined in the order of the tasks."""

    dw: np.ndarray  # (tasks, ..), in winograd.py at the points
    db: np.ndarray  # (tasks * splits, f), of which each task's first counts: each split of a task adds all of its dy up


@parallel
def _add_up(part, partial, step, total):
    rows, numbers = partial.shape
    for k in chunk(part, numbers):
        total[k] = 0
        for row in range(0, rows, step):
            total[k] += partial[row, k]


def add_up(partial: np.ndarray, total: np.ndarray, step: int = 1) -> None:
    """total = the sum of every `step`-th of partial (tasks, ..), in the order of the tasks, whoever computed them."""
    _add_up(MOVED * partial.size // step, partial.reshape(len(partial), total.size), step, total.reshape(-1))


@helper
def rows_by_panel(x, offsets, start, length, panel, at, sums):
    """sums += some rows of a matrix, times a panel of weights that is as wide as a vector.

    Row i is x[offsets[i] + start:][:length]; the panel's rows follow each other in memory from panel[at].
    """
    for k in range(start, start + length):
        sums = multiply_add(x, offsets, k, load(sums[0], panel, at), sums)
        at += len(sums[0])
    return sums


@helper
def rows_by_matrix(x, offsets, start, length, w, at, step, sums):
    """As rows_by_panel, with the weights where they lie: row k begins at w[at + k * step]."""
    for k in range(start, start + length):
        sums = multiply_add(x, offsets, k, load_prefetching(sums[0], w, at), sums)
        at += step
    return sums


@helper
def outer_product(x, x0, x_steps, columns, dy, dy0, dy_steps, shape, sums):
    """sums += some rows of dw, as wide as a vector: over all pixels (i, j) of `shape`, x's numbers times dy's vector.

    Each pixel's factors are x[columns[i] + x0:] and its vector is dy[dy0:], both moved on by their steps: one for a row
    of pixels and one for a pixel.
    """
    for i in range(shape[0]):
        p, q = x0 + i * x_steps[0], dy0 + i * dy_steps[0]
        for _ in range(shape[1]):
            sums = multiply_add(x, columns, p, load(sums[0], dy, q), sums)
            p += x_steps[1]
            q += dy_steps[1]
    return sums
