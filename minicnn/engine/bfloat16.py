"""Arrays of float32 numbers as pairs of bfloat16 ones: see lanes.py for what these are.

A product of two matrices takes pairs of neighbours in the sums that it makes: those of a row of the left one, and in the
right one those of a column, which lie in two rows.
"""

from __future__ import annotations

import numpy as np

from minicnn.engine.calls import MOVED, parallel
from minicnn.engine.lanes import PAIR, Block, best_block, load, one_row, pair, store, zeros
from minicnn.engine.memory import scratch
from minicnn.engine.threads import chunk, vectors


@parallel
def _neighbours(part, wide, two, a, pairs):
    """Numbers that lie side by side become pairs."""
    like, last = zeros(a, wide)[0], zeros(a, two)[0]
    first, rest, end = vectors(part, a.size, like)
    for i in range(first, rest, len(like)):
        store(pairs, i // 2, load(like, a, i))
    for i in range(rest, end, 2):
        store(pairs, i // 2, load(last, a, i))


@parallel
def _rows(part, row, a, pairs):
    """Rows that follow each other become one of pairs."""
    count, columns = pairs.shape
    like, flat, flat_pairs = zeros(a, row)[0], a.reshape(-1), pairs.reshape(-1)
    for i in chunk(part, count):
        for k in range(0, columns, len(like)):
            at = 2 * i * columns + k
            store(flat_pairs, i * columns + k, pair(load(like, flat, at), load(like, flat, at + columns)))


def paired_columns(a: np.ndarray, slot: str) -> np.ndarray:
    """A matrix (n, 2 * m) as pairs (n, m), in the scratch of that name."""
    n, m = a.shape
    pairs = scratch(slot, (n, m // 2), PAIR)
    _neighbours(MOVED * a.size, Block(1, best_block(a.dtype).shape[1]), Block(1, 2), a.reshape(-1), pairs.reshape(-1))
    return pairs


def paired_rows(a: np.ndarray, slot: str) -> np.ndarray:
    """A matrix (2 * n, m) as pairs (n, m), in the scratch of that name."""
    n, m = a.shape
    pairs = scratch(slot, (n // 2, m), PAIR)
    _rows(MOVED * a.size, one_row(m, a.dtype), a, pairs)
    return pairs
