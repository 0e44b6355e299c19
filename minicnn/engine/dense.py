"""Dense layers on wide vectors: see minicnn/layers/dense.py for what they compute.

Faster because weights pass through the cache in blocks that all rows of the batch use before the next block comes, and
the sums stay in registers meanwhile.
"""

from __future__ import annotations

from minicnn import layers
from minicnn.engine.bfloat16 import paired_columns, paired_rows
from minicnn.engine.calls import parallel, whole
from minicnn.engine.compiling import helper
from minicnn.engine.copying import copied
from minicnn.engine.lanes import (
    Block,
    best_block,
    load,
    load_rows,
    maximum0,
    prefetch,
    store,
    store_prefetching,
    store_rows,
    strided,
    transpose,
    zeros,
)
from minicnn.engine.memory import contiguous, scratch
from minicnn.engine.products import outer_product, rows_by_matrix, rows_by_panel
from minicnn.engine.step import Step
from minicnn.engine.threads import chunk, get_threads, share_of

DEPTH = 256  # of a block of weights: with 64 lanes of 4 bytes it fills 64 KiB


@helper
def _pack_block(like, square, w, transposed, k0, depth, column, panel):
    """Rows k0.. and a vector of columns of w, or of its transpose, side by side; 0 beyond w's edge."""
    lanes, flat, size, step = len(like), w.reshape(-1), len(square), w.shape[1]
    used = min(lanes, (w.shape[0] if transposed else w.shape[1]) - column)
    if used < lanes:
        panel[:] = 0
    whole = depth // size * size if used == lanes else 0
    if transposed:
        for k in range(0, whole, size):
            for l in range(0, lanes, size):
                rows = load_rows(square[0], flat, strided(step, 0, size, square), (column + l) * step + k0 + k)
                store_rows(panel, strided(lanes, 0, size, square), k * lanes + l, transpose(rows))
        for k in range(whole, depth):
            for l in range(used):
                panel[k * lanes + l] = w[column + l, k0 + k]
    elif used == lanes:
        for k in range(depth):
            store(panel, k * lanes, load(like, flat, (k0 + k) * step + column))
    else:
        for k in range(depth):
            for l in range(used):
                panel[k * lanes + l] = w[k0 + k, column + l]


@helper
def _ask_for(array, row, rows, column, width):
    """Ask for a block of an array's rows while the processor is busy with another."""
    c = array.shape[1]
    flat = array.reshape(-1)
    for i in range(row, min(row + rows, array.shape[0])):
        for k in range(column, min(column + width, c), 64 // array.itemsize):
            prefetch(flat, i * c + k)


@helper
def _product_of_panel(shape, square, a, first, last, w, transposed, column, panel, block):
    """block (last - first, lanes) = rows of a times some columns of w, one block of w's rows after the other."""
    depth, like = a.shape[1], zeros(block, shape)
    rows, lanes, flat = last - first, len(like[0]), a.reshape(-1)
    if rows <= len(like) and not transposed and column + lanes <= w.shape[1]:  # each weight is needed once
        offsets, step = strided(depth, 0, rows, like), w.shape[1]
        sums = rows_by_matrix(flat, offsets, first * depth, depth, w.reshape(-1), column, step, like)
        store_rows(block, strided(lanes, 0, rows, like), 0, sums)
        return
    for k0 in range(0, depth, DEPTH):
        used = min(DEPTH, depth - k0)
        _pack_block(like[0], zeros(a, square), w, transposed, k0, used, column, panel)
        slice_ = used * len(like) // rows + 1
        for t in range(0, rows, len(like)):
            _ask_for(a, first + t, len(like), k0 + DEPTH, DEPTH)
            if transposed:
                _ask_for(w, column + lanes + t * lanes // rows, len(like) * lanes // rows + 1, k0, DEPTH)
            else:
                _ask_for(w, k0 + DEPTH + t // len(like) * slice_, slice_, column, lanes)
            here, offsets = strided(lanes, t, rows, like), strided(depth, t, rows, like)
            sums = like
            if k0 > 0:
                sums = load_rows(like[0], block, here, 0)
            sums = rows_by_panel(flat, offsets, first * depth + k0, used, panel, 0, sums)
            store_rows(block, here, 0, sums)


@helper
def _finish(like, block, rows, used, bias, relu, y, y0, step):
    """Write the block's `used` lanes plus the bias, if there is one, to y; whole vectors where all are used."""
    lanes = len(like)
    for i in range(rows):
        v = load(like, block, i * lanes)
        if bias.size:
            v = v + load(like, bias, 0)
        if relu:
            v = maximum0(v)
        if used == lanes:
            store_prefetching(y, y0 + i * step, v)
        else:
            store(block, i * lanes, v)
            for j in range(used):
                y[y0 + i * step + j] = block[i * lanes + j]


@parallel
def _product(part, shape, square, a, w, transposed, bias, relu, y, panels, blocks):
    """y = a @ w + bias, or a @ w.T + bias; a task is one panel of y's columns and a chunk of its rows."""
    n, f = y.shape
    lanes, flat = panels.shape[1] // DEPTH, y.reshape(-1)
    chunks = panels.shape[0] // ((f + lanes - 1) // lanes)
    for task in chunk(part, panels.shape[0]):
        column, slot = task // chunks * lanes, task % chunks
        mine = share_of(n, slot, chunks)
        _product_of_panel(shape, square, a, mine.start, mine.stop, w, transposed, column, panels[task], blocks[task])
        like, used = zeros(y, shape)[0], min(lanes, f - column)
        _finish(like, blocks[task], len(mine), used, bias[column:], relu, flat, mine.start * f + column, f)


def _matmul(a, w, transposed, bias, relu, y, bfloat16):
    """y = a @ w + bias, or a @ w.T + bias where w is transposed; a and w in bfloat16 where that is asked for, and fits."""
    (n, columns), block = y.shape, best_block(y.dtype)
    if bfloat16 and a.shape[1] % 2 == 0:
        a, w = paired_columns(a, "a"), paired_columns(w, "w") if transposed else paired_rows(w, "w")
    rows, lanes = block.shape
    square = Block(lanes // 2, lanes // 2)
    if n == 0:
        return
    if n == 1 and columns % (4 * lanes) == 0 and not transposed:  # one row streams past long pieces of the weights
        rows, lanes = 1, 4 * lanes
        block = Block(rows, lanes)
    count = -(-columns // lanes)
    chunks = max(1, min(get_threads() // count, n // rows))  # fewer panels than threads: the rows are shared out
    padded = scratch("bias", (0 if bias is None else count * lanes,), y.dtype)
    if bias is not None:
        copied(bias.reshape(1, -1), padded.reshape(1, -1))
    panels = scratch("panels", (count * chunks, DEPTH * lanes), a.dtype)
    blocks = scratch("blocks", (count * chunks, -(-n // chunks) * lanes), y.dtype)
    _product(a.size * columns, block, square, a, w, transposed, padded, relu, y, panels, blocks)


@helper
def _rows_of_dw(shape, x, dy, first, last, f, dw, block):
    """dw[first:last] = x[:, first:last].T @ dy, dy's rows being padded to whole vectors."""
    (n, c), like = x.shape, zeros(x, shape)
    rows, lanes = len(like), len(like[0])
    flat_x, flat_dy, flat_dw = x.reshape(-1), dy.reshape(-1), dw.reshape(-1)
    x_steps, dy_steps = (0, c), (0, dy.shape[1])
    nothing = flat_x[:0]
    for k in range(first, last, rows):
        _ask_for(x, 0, n, k + 2 * rows, rows)
        for p in range(0, f, lanes):
            sums = outer_product(flat_x, 0, x_steps, strided(1, k, last, like), flat_dy, p, dy_steps, (1, n), like)
            store_rows(block, strided(lanes, 0, rows, like), 0, sums)
            _finish(like[0], block, min(rows, last - k), min(lanes, f - p), nothing, False, flat_dw, k * f + p, f)


@parallel
def _weights(part, shape, x, dy, dw, blocks):
    """dw = x.T @ dy; a task is a chunk of dw's rows, so every sum runs over the batch in order."""
    tasks, rows = blocks.shape[0], dw.shape[0]
    for task in chunk(part, tasks):
        mine = share_of(rows, task, tasks)
        _rows_of_dw(shape, x, dy, mine.start, mine.stop, dw.shape[1], dw, blocks[task])


@whole
def _gate(dy, y, relu, padded, db):
    """Copy dy, shut where relu gave 0, into rows padded to whole vectors; db gets the sum of the rows."""
    n, f = dy.shape
    db[:] = 0
    padded[:] = 0
    for i in range(n):
        for j in range(f):
            v = dy[i, j]
            if relu and y[i, j] <= 0:
                v = v * 0
            padded[i, j] = v
            db[j] += v


class Dense(Step):
    """Dense, and the ReLU behind it."""

    layer: layers.Dense
    fuses = (layers.ReLU,)

    def forward(self, x, training=False):
        layer, x, y = self.layer, contiguous(x), self.y(x, training)
        _matmul(x, layer.w.value, False, layer.b.value if layer.use_bias else None, self.relu, y, self.bfloat16)
        if training:
            self.save_for_backward(x, y)
        return y

    def backward(self, dy):
        (x, y), layer, dy = self.saved, self.layer, contiguous(dy)
        (n, f), (rows, lanes), w = dy.shape, best_block(x.dtype).shape, layer.w
        padded = scratch("dy", (n, -(-f // lanes) * lanes), x.dtype)
        _gate(dy, y, self.relu, padded, layer.b.grad if layer.use_bias else scratch("db", (f,), x.dtype))
        blocks = scratch("blocks", (min(16, len(w.value)), rows * lanes), x.dtype)
        _weights(x.size * f, best_block(x.dtype), x, padded, w.grad, blocks)
        dx = self.dx(x.shape, x.dtype)
        if self.needs_dx:
            gated = padded
            if padded.shape[1] != f:
                gated = copied(padded, scratch("gated", (n, f), x.dtype))
            _matmul(gated, w.value, True, None, False, dx, self.bfloat16)
        return dx
