"""One compiled function that runs any network in use: an interpreter of the tables that program.py makes.

Faster because a thread takes a few images through all operations while they are in its cache (as BrainSlug, 2018), and
because a network is one launch: no operation is called from Python. An operation is a row of numbers, named below: the
kernel that it calls, where its images and weights lie, and its shapes. All read and write one piece of memory, the thread's
own, in which an image of h x w x c may have a frame of zeros around it, as wide as the next convolution's padding.

Each kernel is compiled by itself, when a program first needs it, and is known to the interpreter by its address.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from llvmlite import ir
from numba import config, get_thread_id, types
from numba.extending import intrinsic

from minicnn.engine.activations import A, B
from minicnn.engine.assistant import ASSISTANT, CALLER, CLAIMED, CUT, DONE
from minicnn.engine.atomics import add, claim, look, put
from minicnn.engine.calls import parallel
from minicnn.engine.compiling import helper, kernel
from minicnn.engine.depthwise import nine_taps, row_of_windows
from minicnn.engine.exponentials import sigmoid, tanh
from minicnn.engine.lanes import (
    PAIR,
    fill,
    fma,
    fma_rows,
    gather,
    half,
    largest,
    load,
    load_rows,
    maximum,
    maximum0,
    repeat,
    store,
    store_inside,
    store_rows,
    strided,
    zeros,
)
from minicnn.engine.points import (
    EIGHT,
    SIX,
    apart,
    column_of_outputs,
    columns_to_points,
    four,
    pixels_to_points,
    rows_to_outputs,
)
from minicnn.engine.products import rows_by_panel
from minicnn.engine.threads import chunk, share_of

MAX, MEAN = range(2)  # how a window becomes a number
COPY, ADD, RELU, LEAKY, SIGMOID, TANH, GELU, SILU = range(8)  # how a number becomes another

# Where an image lies: its first number, how far it is to the next image, for how many there is room, and how far it is to
# the next row; its shape; and the frame's rows and columns, and how many of them are above and left of the image.
AT, IMAGE, ROOM, ROW, H, W, C, FRAME_ROWS, FRAME_COLUMNS, TOP, LEFT = range(11)
X, OTHER, Y = 0, 11, 22  # the three places of an operation
ADDRESS, HOW, WITH_RELU, WITH_POOL, WEIGHTS, FRAME = range(33, 39)
TABLE, TARGETS, COUNT, GROUPS, DEPTH, PANELS, RUN, RUNS, LENGTH = range(39, 48)  # of rows and tiles
# of a window: its size, stride, dilation and padding
KH, KW, DOWN, RIGHT, ROW_STEP, COLUMN_STEP, ABOVE, BEFORE = range(48, 56)
FIELDS = 56
TILE_GROUP = 32
MANY_BLOCKS = 8  # of rows, for each piece: then it is of little weight that one has a block more
SCRATCH = 2048  # numbers at the beginning of a thread's own memory

BAD_IMAGE, BAD_OUTPUT = 1, 2  # what is told of numbers that are not finite

# ---------------------------------------------------------------------------------------------------------------
# Kernels: functions of (block, op, begin, count, piece, tables, weights, m, own) that do a piece of an operation on `count`
# images, from the task's image number `begin` on. `block` says how many rows and lanes a vector block has; m is the memory
# of the task's values, `own` the thread's, for what is dead when a kernel returns. A piece is (which, of how many).

_called: list = []  # by their numbers, with NUMBA_DISABLE_JIT=1


def address(function, block, op, tables, weights) -> int:
    """Where a kernel for arrays of these types lies in memory; it is compiled, or read from the disk, where need be."""
    if config.DISABLE_JIT:
        _called.append((function, block))
        return len(_called) - 1
    signature = tuple(map(numba.typeof, (block, op, 0, 0, (0, 1), tables, weights, weights, weights)))
    function.compile(signature)
    compiled = function.overloads[signature]
    return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name)


@intrinsic
def _invoke(typing, at, op, begin, count, piece, tables, weights, m, own):
    """Call the kernel at an address. A block is a type; as a value it is nothing."""

    def codegen(context, builder, signature, args):
        kinds = [context.get_value_type(kind) for kind in signature.args[1:]]
        nothing = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(context.get_value_type(types.none), [nothing, *kinds])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [nothing(None), *args[1:]])
        return context.get_dummy_value()

    return types.void(types.intp, op, types.intp, types.intp, piece, tables, weights, m, own), codegen


def _invoke_plain(at, *arguments):
    function, block = _called[at]
    function(block, *arguments)


if config.DISABLE_JIT:
    _invoke = _invoke_plain


@helper
def _at(op, place, image):
    """Where an image begins."""
    return op[place + AT] + image % op[place + ROOM] * op[place + IMAGE]


@helper
def _share(piece, n):
    """A piece of the numbers from 0 to n - 1."""
    return share_of(n, piece[0], piece[1])


@helper
def _clear_frame(op, piece, m, y):
    """Zeros around the result that begins at y."""
    top, left, columns, c = op[Y + TOP], op[Y + LEFT], op[Y + FRAME_COLUMNS], op[Y + C]
    first = y - (top * columns + left) * c
    for i in _share(piece, op[Y + FRAME_ROWS]):
        inside, row = top <= i < top + op[Y + H], first + i * columns * c
        m[row : row + (left if inside else columns) * c] = 0
        if inside:
            m[row + (left + op[Y + W]) * c : row + columns * c] = 0


# ---------------------------------------------------------------------------------------------------------------
# Rows of numbers times panels of weights: convolutions as in direct.py, and dense layers, whose rows are images


@kernel
def rows(block, op, begin, count, piece, tables, weights, m, own):
    """Convolutions of any shape and dense layers, by `_rows`."""
    places = _at(op, X, begin), _at(op, Y, begin)
    _some_rows(zeros(m, block), op, count, piece, m, places, tables, weights, weights, m, own)


@kernel
def rows_in_bfloat16(block, op, begin, count, piece, tables, weights, m, own):
    """The images, with their frames, are made pairs first; offsets and lengths in the tables count pairs."""
    start, x, pairs = zeros(m, block), _at(op, X, begin), own.view(PAIR)
    like = start[0]
    inside = (op[X + TOP] * op[X + FRAME_COLUMNS] + op[X + LEFT]) * op[X + C]  # how far x is from its frame's beginning
    for i in range(0, count * op[X + IMAGE], len(like)):
        store(pairs, SCRATCH + i // 2, load(like, m, x - inside + i))
    places = SCRATCH + inside // 2, _at(op, Y, begin)
    _some_rows(start, op, count, piece, pairs, places, tables, weights, weights.view(PAIR), m, own)


@helper
def _some_rows(start, op, count, piece, given, places, tables, weights, panels, m, own):
    """Rows times panels; few rows are not filled up to a whole block."""
    few, count = half(start), count * op[COUNT]
    if count > len(few):
        _rows(start, op, count, piece, given, places, tables, weights, panels, m, own)
    else:
        _rows(few, op, count, piece, given, places, tables, weights, panels, m, own)


@helper
def _rows(start, op, count, piece, given, places, tables, weights, numbers, m, own):
    """`count` rows times every panel, len(start) at a time; a panel begins with its biases, and `numbers` has the rest.

    The tables have each row's offset from x, each result's from y, and each contiguous run's within a row. With a pool,
    four rows that follow each other are one window of it. A piece is some of the blocks of rows, which the thread that made
    them has in its cache, or of few blocks some of the panels.
    """
    n, length, run0, runs, panels = len(start[0]), op[LENGTH], op[RUN], op[RUNS], op[PANELS]
    relu, pool, f, (x, y) = op[WITH_RELU], op[WITH_POOL], op[Y + C] // op[GROUPS], places
    offsets, targets = tables[op[TABLE] : op[TABLE] + count], tables[op[TARGETS] : op[TARGETS] + count]
    blocks = (count + len(start) - 1) // len(start)
    by_rows = blocks >= MANY_BLOCKS * piece[1]
    share = _share((0, 1) if by_rows else piece, op[GROUPS] * panels * blocks)
    mine = _share(piece if by_rows else (0, 1), blocks)
    for panel in range(share.start // blocks, (share.stop + blocks - 1) // blocks):
        group, column = panel // panels, panel % panels * n
        x0, y0, columns = x + group * op[DEPTH], y + group * f + column, min(n, f - column)
        at = op[WEIGHTS] + panel * (1 + runs * length) * n
        biases = repeat(load(start[0], weights, at), start)
        first, last = max(share.start - panel * blocks, mine.start), min(share.stop - panel * blocks, mine.stop)
        for t in range(first * len(start), last * len(start), len(start)):
            sums, w, here = biases, at + n, gather(offsets, t, count, start)
            for run in range(run0, run0 + runs):
                sums = rows_by_panel(given, here, x0 + tables[run], length, numbers, w, sums)
                w += length * n
            if relu:
                sums = maximum0(sums)
            if columns == n and not pool:
                store_rows(m, gather(targets, t, count, start), y0, sums)
                continue
            if columns == n and t + len(start) <= count:  # one window or two
                store(m, y0 + targets[t], largest(sums[:4]))
                store(m, y0 + targets[t + len(start) - 4], largest(sums[-4:]))
                continue
            store_rows(own, strided(n, 0, len(start), start), 0, sums)
            for i in range(0, min(len(start), count - t), 4 if pool else 1):
                v = largest(load_rows(sums[0], own, four(n), i * n)) if pool else load(sums[0], own, i * n)
                _store_some(v, m, y0 + targets[t + i], columns, own, len(start) * n)


@helper
def _store_some(v, m, at, columns, own, free):
    """The first `columns` numbers of a vector, by way of the thread's own memory, where it is free."""
    if columns == len(v):
        store(m, at, v)
    else:
        store(own, free, v)
        for l in range(columns):
            m[at + l] = own[free + l]


# ---------------------------------------------------------------------------------------------------------------
# Convolutions by tiles: as winograd.py


@kernel
def tiles_of_3x3(block, op, begin, count, piece, tables, weights, m, own):
    """Convolutions of 3x3 by `_tiles`, at 6 points."""
    _tiles(zeros(m, block), SIX, op, begin, count, piece, tables, weights, m, own, op[X + C], weights, own)


@kernel
def tiles_of_3x3_in_bfloat16(block, op, begin, count, piece, tables, weights, m, own):
    """The same with pixels and weights at the points as pairs."""
    start, depth, u, vs = zeros(m, block), op[X + C] // 2, weights.view(PAIR), own.view(PAIR)
    _tiles(start, SIX, op, begin, count, piece, tables, weights, m, own, depth, u, vs)


@kernel
def tiles_of_5x5(block, op, begin, count, piece, tables, weights, m, own):
    """Convolutions of 5x5, at 8 points."""
    _tiles(zeros(m, block), EIGHT, op, begin, count, piece, tables, weights, m, own, op[X + C], weights, own)


TILES = {3: tiles_of_3x3, 5: tiles_of_5x5}


@helper
def _tiles(start, points, op, begin, count, piece, tables, weights, m, own, depth, u, vs):
    """Tiles times panels; the table has each tile's window, its outputs, and how many rows and columns these have.

    The panels behind their biases are read from u, and pixels at the points are kept in vs: weights and `own` themselves,
    or as pairs, of which a row of c numbers has `depth`. A piece is some of the tiles, or of few tiles some of the panels.
    """
    x, y, c, f = _at(op, X, begin), _at(op, Y, begin), op[X + C], op[Y + C]
    table, count = op[TABLE], count * op[COUNT]
    few, like, n, parts = half(start), start[0], len(start[0]), len(points) ** 2
    step, sums_step, sums = TILE_GROUP * depth + 16, TILE_GROUP * n + 16, SCRATCH
    v = sums + parts * sums_step
    by_tile = count >= len(start) * piece[1]
    tiles, panels = _share(piece if by_tile else (0, 1), count), _share((0, 1) if by_tile else piece, f // n)
    for first in range(tiles.start, tiles.stop, TILE_GROUP):
        here = min(TILE_GROUP, tiles.stop - first)
        for t in range(here):
            pixels = x + tables[table + 4 * (first + t)]
            for k in range(0, c, n):
                at = v + t * depth + k * depth // c
                _pixels_to_points(like, points, m, own, pixels + k, op[X + ROW], c, vs, at, step)
        for p in panels:
            panel = op[WEIGHTS] + p * (parts * depth + 1) * n
            _products(start, few, parts, vs, v, depth, step, here, u, panel + n, own, sums, sums_step)
            for t in range(here):
                at = table + 4 * (first + t)
                shape, target = (tables[at + 2], tables[at + 3]), y + tables[at + 1] + p * n
                _points_to_outputs(like, points, m, own, sums + t * n, sums_step, weights, panel, op, target, shape)


@helper
def _pixels_to_points(like, points, m, own, x, row, c, vs, v, step):
    """v = B^T d B of the window at x: rows first, then columns."""
    n, count = len(like), len(points)
    for i in range(count):
        pixels = load_rows(like, m, apart(c, points), x + i * row)
        store_rows(own, apart(n, points), i * count * n, pixels_to_points(points, pixels))
    columns_to_points(like, points, own, vs, v, step)


@helper
def _products(start, few, parts, vs, v, c, step, count, u, u0, own, sums, sums_step):
    """The n * n matrix products of tiles and a panel, as many tiles at a time as `start` has rows, at the end a `few`."""
    n = len(start[0])
    for point in range(parts):
        at, x, y = u0 + point * c * n, v + point * step, sums + point * sums_step
        for t in range(0, count, len(start)):
            if count - t > len(few):
                total = rows_by_panel(vs, strided(c, t, count, start), x, c, u, at, start)
                store_rows(own, strided(n, t, count, start), y, total)
            else:
                total = rows_by_panel(vs, strided(c, t, count, few), x, c, u, at, few)
                store_rows(own, strided(n, t, count, few), y, total)


@helper
def _points_to_outputs(like, points, m, own, sums, step, weights, bias, op, y, shape):
    """A^T m A, its pool's maxima where there is one, plus the bias, ReLU: the tile's rows and columns at y."""
    (rows, columns), relu, pool = shape, op[WITH_RELU], op[WITH_POOL]
    add, row, f = load(like, weights, bias), op[Y + ROW], op[Y + C]
    rows_to_outputs(like, points, own, sums, step, own)
    for j in range(columns):
        if pool:
            a, b = column_of_outputs(like, points, own, 2 * j), column_of_outputs(like, points, own, 2 * j + 1)
            y0, y1 = largest(a[:2] + b[:2]), largest(a[2:] + b[2:])
            y2, y3 = y0, y0
        else:
            y0, y1, y2, y3 = column_of_outputs(like, points, own, j)
        block = y0 + add, y1 + add, y2 + add, y3 + add
        if relu:
            block = maximum0(block)
        store_inside(m, y + j * f, row, 0, rows, block)


# ---------------------------------------------------------------------------------------------------------------
# All others


@kernel
def depthwise(block, op, begin, count, piece, tables, weights, m, own):
    """Depthwise convolutions, and batch norm that has no layer to be folded into: then a window is one pixel.

    A block of pixels at a time, and of channels a vector, of which the last one begins where it still fits. The tables are
    those of `_rows`, with a run for each tap; the taps' weights follow the biases.
    """
    start, x, y, c, count = zeros(m, block), _at(op, X, begin), _at(op, Y, begin), op[X + C], count * op[COUNT]
    like, n, relu, run0, at = start[0], len(start[0]), op[WITH_RELU], op[RUN], op[WEIGHTS]
    offsets, targets = tables[op[TABLE] : op[TABLE] + count], tables[op[TARGETS] : op[TARGETS] + count]
    for block_of_pixels in _share(piece, (count + len(start) - 1) // len(start)):
        t = block_of_pixels * len(start)
        pixels, results = gather(offsets, t, count, start), gather(targets, t, count, start)
        for k in range(0, c, n):
            channel = min(k, c - n)
            sums = repeat(load(like, weights, at + channel), start)
            for run in range(op[RUNS]):
                v = load(like, weights, at + (1 + run) * c + channel)
                sums = fma_rows(load_rows(like, m, pixels, x + tables[run0 + run] + channel), v, sums)
            if relu:
                sums = maximum0(sums)
            store_rows(m, results, y + channel, sums)


@kernel
def depthwise_3x3(block, op, begin, count, piece, tables, weights, m, own):
    """The same for 3x3 whose windows lie side by side, row by row of the image. A piece is some of the rows."""
    start, x, y, c, f, ow = zeros(m, block), _at(op, X, begin), _at(op, Y, begin), op[X + C], op[Y + C], op[Y + W]
    like, at, offsets, targets, relu = start[0], op[WEIGHTS], op[TABLE], op[TARGETS], op[WITH_RELU]
    for row in _share(piece, count * op[COUNT] // ow):
        p, q = x + tables[offsets + row * ow], y + tables[targets + row * ow]
        for k in range(0, c, len(like)):
            channel = min(k, c - len(like))
            bias, taps = load(like, weights, at + channel), nine_taps(like, weights, at + c + channel, c)
            row_of_windows(start, m, p + channel, op[X + ROW], c, taps, bias, relu, m, q + channel, f, ow)


@kernel
def window(block, op, begin, count, piece, tables, weights, m, own):
    """The kernel of an operation on windows, for `count` images from `begin` on: see `_window`."""
    for image in range(begin, begin + count):
        _window(zeros(m, block)[0], op, piece, m, _at(op, X, image), _at(op, Y, image))


@helper
def _window(like, op, piece, m, x, y):
    """Pools: a vector of channels at a time; the last one begins where it still fits."""
    n, c, how, relu = len(like), op[X + C], op[HOW], op[WITH_RELU]
    for i in _share(piece, op[Y + H]):
        top = i * op[DOWN] - op[ABOVE]
        for j in range(op[Y + W]):
            left = j * op[RIGHT] - op[BEFORE]
            for k in range(0, c, n):
                channel, pixels = min(k, c - n), 0
                total = fill(like, -np.inf) if how == MAX else like
                for p in range(op[KH]):
                    row = top + p * op[ROW_STEP]
                    if row < 0 or row >= op[X + H]:
                        continue
                    for q in range(op[KW]):
                        column = left + q * op[COLUMN_STEP]
                        if column < 0 or column >= op[X + W]:
                            continue
                        pixels += 1
                        v = load(like, m, x + row * op[X + ROW] + column * c + channel)
                        total = maximum(total, v) if how == MAX else total + v
                if how == MEAN:
                    total = total / fill(like, pixels)
                if relu:
                    total = maximum0(total)
                store(m, y + i * op[Y + ROW] + j * c + channel, total)


@helper
def _number(how, v, other, slope):
    if how == COPY:
        return v
    if how == ADD:
        return v + other
    if how == RELU:
        return maximum0(v)
    if how == LEAKY:
        return maximum0(v) - slope * maximum0(-1.0 * v)
    if how == TANH:
        return tanh(v)
    if how == GELU:
        return v * sigmoid(v * fma(B * v, v, fill(v, A)))
    share = sigmoid(v)
    return share if how == SIGMOID else v * share


@kernel
def numbers(block, op, begin, count, piece, tables, weights, m, own):
    """Activations, sums, and copies that leave the frame behind; a row's last vector begins where it still fits."""
    like, slope, how, relu = zeros(m, block)[0], weights[op[WEIGHTS]], op[HOW], op[WITH_RELU]
    n, row = len(like), op[X + W] * op[X + C]
    for image in range(begin, begin + count):
        x, other, y = _at(op, X, image), _at(op, OTHER, image), _at(op, Y, image)
        for i in _share(piece, op[X + H]):
            for k in range(0, row, n):
                at = min(k, row - n)
                second = load(like, m, other + i * op[OTHER + ROW] + at)
                v = _number(how, load(like, m, x + i * op[X + ROW] + at), second, slope)
                if relu:
                    v = maximum0(v)
                store(m, y + i * op[Y + ROW] + at, v)


@kernel
def softmax(block, op, begin, count, piece, tables, weights, m, own):
    """The kernel of a softmax of each pixel's channels, for `count` images from `begin` on."""
    for image in range(begin, begin + count):
        _softmax(m, _at(op, X, image), _share(piece, op[X + H] * op[X + W]), op[X + C], m, _at(op, Y, image))


@helper
def _softmax(x, at, rows, c, y, to):
    """exp(x) / sum(exp(x)) of some rows of c numbers."""
    for row in rows:
        begin = at + row * c
        largest, total = x[begin], x.dtype.type(0)
        for k in range(1, c):
            largest = max(largest, x[begin + k])
        for k in range(c):
            y[to + row * c + k] = math.exp(x[begin + k] - largest)
            total += y[to + row * c + k]
        for k in range(c):
            y[to + row * c + k] /= total


@helper
def _load(op, images, floats, image, m, y, weights):
    """An image's numbers, bytes on the scale of the training images; whether all of them are finite."""
    n, finite = op[Y + W] * op[Y + C], True
    scale, shift = weights[op[WEIGHTS] : op[WEIGHTS] + n], weights[op[WEIGHTS] + n : op[WEIGHTS] + 2 * n]
    for i in range(op[Y + H]):
        first, at = (image * op[Y + H] + i) * n, y + i * op[Y + ROW]
        row = m[at : at + n]
        if images.size:
            given = images[first : first + n]
            for k in range(n):
                row[k] = weights.dtype.type(given[k]) * scale[k] + shift[k]
        else:
            as_given = floats[first : first + n]
            for k in range(n):
                row[k] = as_given[k]
                finite &= row[k] - row[k] == 0
    return finite


@helper
def _save(op, m, x, image, probabilities, y):
    """The program's result; whether all of it is finite."""
    size, finite = op[X + H] * op[X + W] * op[X + C], True
    for k in range(size):
        v = m[x + k]
        finite &= v - v == 0
        y[image * size + k] = v
    if probabilities:
        _softmax(m, x, range(op[X + H] * op[X + W]), op[X + C], y, image * size)
    return finite


@helper
def _load_some(op, images, floats, first, begin, count, m, weights, told):
    """Some of the task's images, whose first one is number `first` of all, and the frames around them."""
    for image in range(begin, begin + count):
        _clear_frame(op, (0, 1), m, _at(op, Y, image))
        if not _load(op, images, floats, first + image, m, _at(op, Y, image), weights):
            told[0] |= BAD_IMAGE


@helper
def _save_some(op, m, first, begin, count, probabilities, y, told):
    """The results for some of the task's images."""
    for image in range(begin, begin + count):
        if not _save(op, m, _at(op, X, image), first + image, probabilities, y):
            told[0] |= BAD_OUTPUT


@helper
def _do(op, begin, count, piece, tables, weights, m, own):
    """A piece of an operation and of the frame around its result."""
    if op[FRAME]:
        for image in range(begin, begin + count):
            _clear_frame(op, piece, m, _at(op, Y, image))
    _invoke(op[ADDRESS], op, begin, count, piece, tables, weights, m, own)


@parallel
def run(part, schedule, ops, tables, weights, images, floats, memory, owns, tasks, probabilities, y, told):
    """The program on all images, bytes or floats. A task takes its images through the whole schedule."""
    last_op = ops[ops.shape[0] - 1]
    n = y.size // (last_op[X + H] * last_op[X + W] * last_op[X + C])
    for task in chunk(part, tasks):
        thread, mine = get_thread_id(), share_of(n, task, tasks)
        m, own = memory[thread], owns[thread]
        for step in range(schedule.shape[0]):
            op, begin = ops[schedule[step, 0]], schedule[step, 1]
            count = min(schedule[step, 2], len(mine) - begin)
            if schedule[step, 0] == 0:
                _load_some(op, images, floats, mine.start, begin, count, m, weights, told)
            elif schedule[step, 0] == ops.shape[0] - 1:
                _save_some(op, m, mine.start, begin, count, probabilities, y, told)
            elif count > 0:
                _do(op, begin, count, (0, 1), tables, weights, m, own)


# ---------------------------------------------------------------------------------------------------------------
# One image on two threads: see assistant.py


@helper
def _walk(side, ops, tables, weights, m, own, claims):
    """Claim halves of operations in their order and do them, the own side's first, until none is left."""
    while True:
        mine, other = look(claims, CLAIMED[side]), look(claims, CLAIMED[1 - side])
        which = side if mine <= other else 1 - side
        before = min(mine, other)
        if before >= claims[CUT]:
            return
        if claim(claims, CLAIMED[which], before):
            while look(claims, DONE) < 2 * before:
                pass
            _do(ops[before + 1], 0, 1, (which, 2), tables, weights, m, own)
            add(claims, DONE, 1)


@kernel
def run_together(ops, tables, weights, images, floats, m, own, claims, probabilities, y):
    """The program on one image, which the assistant may help with; what is to be told."""
    last, cut = ops.shape[0] - 1, claims[CUT]
    claims[0] = 0
    _load_some(ops[0], images, floats, 0, 0, 1, m, weights, claims)
    put(claims, DONE, 0)
    put(claims, CLAIMED[ASSISTANT], 0)
    put(claims, CLAIMED[CALLER], 0)
    _walk(CALLER, ops, tables, weights, m, own, claims)
    while look(claims, DONE) < 2 * cut:
        pass
    for number in range(cut + 1, last):
        _do(ops[number], 0, 1, (0, 1), tables, weights, m, own)
    _save_some(ops[last], m, 0, 0, 1, probabilities, y, claims)
    return claims[0]


@kernel
def assist(ops, tables, weights, m, own, claims, patience):
    """Help with one image after another, until none has come for so many looks."""
    looks = 0
    while looks < patience:
        looks += 1
        if look(claims, CLAIMED[ASSISTANT]) < claims[CUT]:
            _walk(ASSISTANT, ops, tables, weights, m, own, claims)
            looks = 0
