"""From the layers of a network in use to a program for the interpreter: operations, weights, memory, and their order.

ReLU and a 2x2 pool behind a convolution are done before it stores, and padding is written by the operation before. A value,
an image between two operations, lies where one that nobody needs any more has lain. A few images at a time go through the
operations whose images are large, more where they are small: as many as stay in the cache, so that weights serve several.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numba import config

from minicnn import inputs, layers
from minicnn.engine import assistant, winograd
from minicnn.engine import interpreter as does
from minicnn.engine.bfloat16 import paired_rows
from minicnn.engine.depthwise import side_by_side
from minicnn.engine.lanes import Block, best_block
from minicnn.engine.memory import contiguous, empty, scratch
from minicnn.engine.points import EIGHT, SIX, SIZES, matrices
from minicnn.engine.products import panel_block
from minicnn.engine.threads import MAX_THREADS, get_threads
from minicnn.layers import sequence
from minicnn.layers.activations import Identity, ReLU
from minicnn.layers.base import Layer
from minicnn.layers.windows import Window

# Of tiles of 7 x 7 a single image has few, and each reads twice as many weights.
POINTS, TILE = {3: SIX, 5: EIGHT}, SIZES[6]
MOST = 16  # images that go together through the dense layers
CACHED = 2**19  # bytes between two operations: half of a usual second-level cache
LITTLE = 2**13  # numbers and multiply-adds of an operation that one thread does sooner than two agree on it
NUMBERS = {
    layers.Flatten: does.COPY,
    layers.ReLU: does.RELU,
    layers.LeakyReLU: does.LEAKY,
    layers.Sigmoid: does.SIGMOID,
    layers.Tanh: does.TANH,
    layers.GELU: does.GELU,
    layers.SiLU: does.SILU,
}
CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense, layers.BatchNorm)
POOLS = {
    layers.MaxPool2D: does.MAX,
    layers.GlobalMaxPool2D: does.MAX,
    layers.AveragePool2D: does.MEAN,
    layers.GlobalAveragePool2D: does.MEAN,
}
ROWS = does.rows, does.rows_in_bfloat16
TILES = *does.TILES.values(), does.tiles_of_3x3_in_bfloat16
KNOWN = {*NUMBERS, *CONVOLUTIONS, *POOLS, Identity, layers.Softmax, layers.Residual}


def in_use(
    network: list[Layer], scale: inputs.Scale, dtype: np.dtype, input_shape: tuple[int, ...], bfloat16: bool = False
) -> list[Layer]:
    """The programs of these layers, in order, and between them the layers of a user's own; the first takes images."""
    compiled: list[Layer] = []
    known: list[Layer] = []
    for layer in [*network, None]:
        if layer is not None and all(type(one) in KNOWN for one in _inside(layer)):
            known.append(layer)
            continue
        if known or not compiled:
            compiled.append(Program(known, scale, dtype, known[0].input_shape if known else input_shape, bfloat16))
        if layer is not None:
            compiled.append(_Around(layer, scale, dtype, bfloat16) if type(layer) is layers.Residual else layer)
        known = []
    return compiled


def _inside(layer: Layer) -> list[Layer]:
    """A layer, those inside it, and the activations that they end in."""
    found = layer.layers()
    activations = (getattr(one, "activate", None) for one in found)
    return found + [one for one in activations if one is not None]


class _Around(Layer):
    """A residual block around a layer of a user's own."""

    def __init__(self, layer: layers.Residual, scale, dtype, bfloat16):
        self.name, self.input_shape, self.output_shape = layer.name, layer.input_shape, layer.output_shape
        branches = layer.branch, layer.shortcut
        self.branches = [in_use(branch, scale, dtype, self.input_shape, bfloat16) for branch in branches]
        self.activate = layer.activate

    def forward(self, x, training=False):
        branch, shortcut = (sequence.forward(steps, x, False) for steps in self.branches)
        return self.activate.forward(branch + shortcut)


class _Value:
    """An image between two operations: its shape, the frame that its readers need, and its place in memory."""

    def __init__(self, shape: tuple[int, ...]):
        self.shape = math.prod(shape[:-2]), *((1,) * (2 - len(shape))), *shape[-2:]
        self.frame, self.room, self.at = [0, 0, 0, 0], 1, 0  # pixels above, below, before, behind
        self.readers: list[_Operation] = []

    def needs(self, *frame: int) -> None:
        self.frame = [max(pair) for pair in zip(self.frame, frame, strict=True)]

    @property
    def rows(self) -> int:
        return self.frame[0] + self.shape[0] + self.frame[1]

    @property
    def columns(self) -> int:
        return self.frame[2] + self.shape[1] + self.frame[3]

    @property
    def row(self) -> int:
        return self.columns * self.shape[2]

    @property
    def size(self) -> int:
        return -(-self.rows * self.row // 16) * 16

    def fields(self) -> list[int]:
        begin = self.at + self.frame[0] * self.row + self.frame[2] * self.shape[2]
        place = [begin, self.size, self.room, self.row, *self.shape]
        return [*place, self.rows, self.columns, self.frame[0], self.frame[2]]


class _Operation:
    """What an operation does, on which values; `group` is how many images go through it together."""

    def __init__(self, kind: int, layer: Layer | None, x: _Value, y: _Value, other: _Value | None = None, how: int = 0):
        self.kind, self.layer, self.x, self.y, self.other, self.how = kind, layer, x, y, other or x, how
        self.relu = self.pool = False
        self.tiled, self.of_rows, self.group = kind in TILES, kind in ROWS, 1
        self.pairs = kind in (does.rows_in_bfloat16, does.tiles_of_3x3_in_bfloat16)
        self.block: np.dtype | None = None
        for value in {x, self.other}:
            value.readers.append(self)


class Program(Layer):
    """Layers as one launch: `forward` takes images (bytes or floats), or what a layer before it gave."""

    def __init__(
        self,
        network: list[Layer],
        scale: inputs.Scale,
        dtype: np.dtype,
        input_shape: tuple[int, ...],
        bfloat16: bool,
    ):
        self.bfloat16, self.ready = bfloat16, False
        self.name, self.dtype, self.macs = "program", np.dtype(dtype), sum(layer.macs for layer in network)
        self.input_shape = input_shape
        self.output_shape = network[-1].output_shape if network else input_shape
        self.scale = scale
        self.operations: list[_Operation] = []
        block = best_block(dtype)
        self.blocks = block, Block(block.shape[0], block.shape[1] // 2), Block(1, 1)
        images = _Value(input_shape)
        value = self._add(None, None, images, input_shape)
        value = self._trace(network, value)
        self._add(None, None, value, self.output_shape)
        self._choose_groups()
        self._place()
        self._emit()

    # -- operations and values -----------------------------------------------------------------------------------

    def _add(self, kind, layer, x, shape, other=None, how=0) -> _Value:
        operation = _Operation(kind, layer, x, _Value(shape), other, how)
        self.operations.append(operation)
        return operation.y

    def _trace(self, network: list[Layer], x: _Value) -> _Value:
        parts = [part for layer in network for part in (layer, getattr(layer, "activate", None)) if part is not None]
        parts, begin = [part for part in parts if type(part) is not Identity], x
        while parts:
            layer = parts.pop(0)
            if type(layer) is layers.Flatten and x is not begin and parts and type(parts[0]) is layers.Dense:
                continue  # nobody else reads x, so it lies without a frame
            x = self._one(layer, x)
            last = self.operations[-1]
            if isinstance(layer, (*CONVOLUTIONS, layers.Residual)) and parts and type(parts[0]) is ReLU:
                last.relu = bool(parts.pop(0))
            if (last.of_rows or last.tiled) and parts and self._takes_pool(last, parts[0]):
                last.pool, last.y = True, _Value(parts.pop(0).output_shape)
                x = last.y
        return x

    def _one(self, layer: Layer, x: _Value) -> _Value:
        kind, shape = type(layer), layer.output_shape
        if isinstance(layer, layers.Residual):
            branch, shortcut = self._trace(layer.branch, x), self._trace(layer.shortcut, x)
            return self._add(does.numbers, layer, branch, shape, shortcut, does.ADD)
        if isinstance(layer, layers.Conv2D):
            tiles = winograd.fits(layer.w.shape, layer.window, layer.groups, self.dtype)
            (above, below), (before, behind) = layer.window.padding
            if tiles:
                cut = winograd.tiles_of(shape, POINTS[layer.kernel_size[0]], layer.window.padding)
                below = cut.rows * TILE + layer.kernel_size[0] - 1 - above - x.shape[0]
                behind = cut.columns * TILE + layer.kernel_size[0] - 1 - before - x.shape[1]
            x.needs(above, below, before, behind)
            return self._add(self._tiles_kind(layer) if tiles else self._rows_kind(layer), layer, x, shape)
        if kind is layers.Dense:
            return self._add(self._rows_kind(layer), layer, x, shape)
        if kind is layers.Softmax:
            return self._add(does.softmax, layer, x, shape)
        if kind in NUMBERS:
            return self._add(does.numbers, layer, x, x.shape if kind is layers.Flatten else shape, how=NUMBERS[kind])
        if kind in POOLS:
            return self._add(does.window, layer, x, shape, how=POOLS[kind])
        if isinstance(layer, layers.DepthwiseConv2D):
            x.needs(*itertools.chain(*layer.window.padding))
            kind = does.depthwise_3x3 if side_by_side(layer.window, shape[1], self.dtype) else does.depthwise
            return self._add(kind, layer, x, shape)
        return self._add(does.depthwise, layer, x, shape)

    def _tiles_kind(self, layer: layers.Conv2D):
        r = layer.kernel_size[0]
        low = self.bfloat16 and winograd.takes_bfloat16(POINTS[r])
        return does.tiles_of_3x3_in_bfloat16 if low else does.TILES[r]

    def _rows_kind(self, layer):
        """In pairs where neighbours are of the same row and the same group."""
        low = self.bfloat16 and layer.w.shape[-2] % 2 == 0 and getattr(layer, "groups", 1) == 1
        return does.rows_in_bfloat16 if low else does.rows

    def _takes_pool(self, operation: _Operation, layer: Layer) -> bool:
        plain = Window((2, 2), (2, 2))
        fits = operation.tiled or self.blocks[0].shape[0] % 4 == 0
        return fits and type(layer) is layers.MaxPool2D and layer.window == plain

    # -- order and memory ----------------------------------------------------------------------------------------

    def _choose_groups(self) -> None:
        """How many images go through each operation together: never fewer than through the one before."""
        group = MOST
        for operation in reversed(self.operations):
            size = self.dtype.itemsize * (operation.x.size + operation.y.size)
            while group > 1 and group * size > CACHED:
                group //= 2
            operation.group = group
        self.schedule = np.array(self._order(), np.int64)

    def _order(self) -> list[tuple[int, int, int]]:
        """(operation, first image, images) for MOST images: an operation follows when as many as it takes are there."""
        order, groups = [], [operation.group for operation in self.operations]
        for done in range(groups[0], MOST + 1, groups[0]):
            order += [(i, done - group, group) for i, group in enumerate(groups) if done % group == 0]
        return order

    def _place(self) -> None:
        """Give each value room for as many images as its readers take, where nothing lies that is still needed."""
        # of each: its first and last operation, its first number and the one behind the last
        placed: list[tuple[int, int, int, int]] = []
        tiled = [one.layer.w.shape for one in self.operations if one.tiled and isinstance(one.layer, layers.Conv2D)]
        lanes = self.blocks[0].shape[1]
        at_points = [(r + TILE - 1) ** 2 * (does.TILE_GROUP * (c + lanes) + 32) for r, _, c, _ in tiled]
        low = [one.group * one.x.size // 2 + 16 for one in self.operations if one.of_rows and one.pairs]
        self.own, self.memory = does.SCRATCH + max(at_points + low, default=0), 0
        for i, operation in enumerate(self.operations[:-1]):
            value, first, last = operation.y, i, i
            value.room = max((reader.group for reader in value.readers), default=operation.group)
            if value.readers:
                last = max(self.operations.index(reader) for reader in value.readers)
            if value.room > operation.group:  # it is filled in several rounds of all operations before
                first = 0
            at = 0
            for begin, end in sorted((b, e) for f, l, b, e in placed if f <= last and first <= l):
                if at + value.room * value.size <= begin:
                    break
                at = max(at, end)
            value.at = at
            placed.append((first, last, at, at + value.room * value.size))
            self.memory = max(self.memory, placed[-1][3])

    # -- tables and weights --------------------------------------------------------------------------------------

    def _emit(self) -> None:
        self.written: list[np.ndarray] = []
        packed: list[np.ndarray] = []
        at = 0
        table = np.zeros((len(self.operations), does.FIELDS), np.int64)
        for row, operation in zip(table, self.operations, strict=True):
            for place, value in ((does.X, operation.x), (does.OTHER, operation.other), (does.Y, operation.y)):
                row[place : place + 11] = value.fields()
            row[does.HOW : does.WEIGHTS + 1] = operation.how, operation.relu, operation.pool, at
            row[does.FRAME] = any(operation.y.frame)
            parts = self._details(row, operation, operation.layer)
            parts = [np.ravel(part).astype(self.dtype) for part in parts]
            packed += [*parts, np.zeros(-sum(map(len, parts)) % 16, self.dtype)]
            at += sum(map(len, parts)) + len(packed[-1])
        numbers = np.concatenate([*packed, np.zeros(16, self.dtype)])
        self.packed = empty(numbers.shape, self.dtype)
        self.packed[...] = numbers
        # a vector may reach a little past the end
        self.values, self.owns = empty((self.memory + 16,), self.dtype), empty((2, self.own + 16), self.dtype)
        self.claims = empty((assistant.CLAIMS,), np.int64)
        self.claims[:] = assistant.NOTHING
        self.claims[assistant.CUT] = self._count_large()
        self.trial = assistant.Trial()
        self.tables, self.table = np.concatenate([np.zeros(1, np.int64), *self.written]), table
        for row, operation in zip(table, self.operations, strict=True):
            if operation.kind is not None:
                row[does.ADDRESS] = does.address(operation.kind, operation.block, row, self.tables, self.packed)

    def _count_large(self) -> int:
        """How many operations there are up to the last with much to do, without the one that loads an image."""
        work = [one.x.size + (one.layer.macs if one.layer else 0) for one in self.operations[:-1]]
        return max((i for i in range(1, len(work)) if work[i] > LITTLE), default=0)

    def _write(self, numbers) -> int:
        """Append numbers to the tables; where they begin."""
        at = 1 + sum(len(written) for written in self.written)
        self.written.append(np.ravel(numbers).astype(np.int64))
        return at

    def _block(self, lanes: int) -> np.dtype:
        return next(block for block in self.blocks if block.shape[1] <= lanes)

    def _details(self, row: np.ndarray, operation: _Operation, layer: Layer | None) -> list[np.ndarray]:
        """Fill in the fields that are an operation's own; its weights, in order."""
        kind, x, y = operation.kind, operation.x, operation.y
        row_of = x.shape[1] * x.shape[2] if kind is does.numbers else x.shape[2]
        operation.block = self.blocks[1] if row_of >= self.blocks[1].shape[1] else self.blocks[2]
        if operation is self.operations[0]:
            factors = self.scale.factors(np.dtype(np.uint8), y.shape[2])
            return [np.tile(factor, y.shape[1]) for factor in factors]
        if operation.of_rows:
            return self._rows(row, operation, layer)
        if operation.tiled:
            return self._tiles(row, operation, layer)
        if kind is does.numbers:
            if operation.how == does.COPY:
                row[does.Y + does.ROW] = x.shape[1] * x.shape[2]
            return [np.array([getattr(layer, "negative_slope", 0.0)])]
        if kind in (does.depthwise, does.depthwise_3x3):
            return self._depthwise(row, operation, layer)
        if kind is does.window:
            window = getattr(layer, "window", Window((x.shape[0], x.shape[1])))  # a global pool's is the image
            (above, _), (before, _) = window.padding
            row[does.KH : does.KH + 8] = *window.size, *window.stride, *window.dilation, above, before
        return []

    def _windows(self, row, operation, window: Window, of: int = 1, of_pair: int = 1) -> np.ndarray:
        """Write where each window of a group of images begins and where its result lies; the offsets of taps, (kh, kw).

        A pool's `of` x `of` windows follow each other; offsets count pairs where `of_pair` is 2.
        """
        x, y = operation.x, operation.y
        (kh, kw), (down, right), ((above, _), (before, _)), dilation = window
        p, q, a, b = np.indices((*y.shape[:2], of, of)).reshape(4, -1)
        offsets = ((of * p + a) * down - above) * x.row + ((of * q + b) * right - before) * x.shape[2]
        images = np.arange(operation.group)
        row[does.COUNT] = len(offsets)
        row[does.TABLE] = self._write(np.add.outer(images * x.size, offsets) // of_pair)
        row[does.TARGETS] = self._write(np.add.outer(images * y.size, p * y.row + q * y.shape[2]))
        return np.add.outer(np.arange(kh) * dilation[0] * x.row, np.arange(kw) * dilation[1] * x.shape[2])

    def _depthwise(self, row, operation, layer) -> list[np.ndarray]:
        if operation.kind is does.depthwise_3x3:
            together = side_by_side(layer.window, operation.y.shape[1], self.dtype)
            operation.block = Block(together, operation.block.shape[1])
        taps = self._windows(row, operation, getattr(layer, "window", Window((1, 1))))
        row[does.RUN], row[does.RUNS] = self._write(taps), taps.size
        if isinstance(layer, layers.BatchNorm):
            scale, shift = layer.in_use()
            return [shift, scale]
        return [layer.b.value if layer.use_bias else np.zeros(operation.x.shape[2]), layer.w.value]

    def _rows(self, row, operation, layer) -> list[np.ndarray]:
        w, groups, window = layer.w.value, getattr(layer, "groups", 1), getattr(layer, "window", Window((1, 1)))
        of, of_pair, (c, f) = 2 if operation.pool else 1, 2 if operation.pairs else 1, w.shape[-2:]
        taps = self._windows(row, operation, window, of, of_pair)
        kh, kw = taps.shape
        runs, length = (taps[:, 0], kw * c) if window.dilation[1] == 1 and groups == 1 else (taps.ravel(), c)
        lanes = panel_block(f // groups, self.dtype, 8).shape[1]
        row[does.RUN], row[does.RUNS] = self._write(runs // of_pair), len(runs)
        row[does.LENGTH] = length // of_pair
        count = -(-(f // groups) // lanes)
        row[[does.GROUPS, does.DEPTH, does.PANELS]] = groups, c, count
        operation.block = self._block(lanes)
        panels = np.zeros((1 + kh * kw * c, groups, count * lanes))
        matrix = np.concatenate([_bias(layer)[None], w.reshape(-1, f)])
        panels[:, :, : f // groups] = matrix.reshape(-1, groups, f // groups)
        return self._panels(operation, panels.reshape(-1, groups * count, lanes))

    def _tiles(self, row, operation, layer) -> list[np.ndarray]:
        x, y, w = operation.x, operation.y, layer.w.value
        (r, _, c, f), (above, before), of = w.shape, (p[0] for p in layer.window.padding), 2 if operation.pool else 1
        cut = winograd.tiles_of(layer.output_shape, POINTS[r], layer.window.padding)
        lanes = winograd._block(c, f, self.dtype).shape[1]
        i, j = np.indices((cut.rows, cut.columns)).reshape(2, -1) * TILE
        window = (i - above) * x.row + (j - before) * c
        target = i // of * y.row + j // of * f
        rows, columns = (np.clip(n - k // of, 0, TILE // of) for n, k in zip(y.shape[:2], (i, j), strict=True))
        images = np.arange(operation.group)[:, None]
        tiles = window + images * x.size, target + images * y.size, rows + 0 * images, columns + 0 * images
        row[does.TABLE], row[does.COUNT] = self._write(np.stack(tiles, axis=-1)), len(window)
        operation.block = self._block(lanes)
        g = matrices(len(POINTS[r]))[2]
        u = np.einsum("jq,iqcf->ijcf", g, np.einsum("ip,pqcf->iqcf", g, w)).reshape(-1, f)
        return self._panels(operation, np.concatenate([_bias(layer)[None], u]).reshape(-1, f // lanes, lanes))

    def _panels(self, operation: _Operation, rows: np.ndarray) -> list[np.ndarray]:
        """Biases and weights (1 + rows, panels, lanes) panel by panel; of pairs the bits of two rows are one number's."""
        panels = rows.transpose(1, 0, 2).astype(self.dtype)
        if operation.pairs:
            low = np.stack([paired_rows(np.ascontiguousarray(panel[1:]), "pairs").copy() for panel in panels])
            panels = np.concatenate([panels[:, :1], low.view(self.dtype)], axis=1)
        return [panels]

    # -- running it ----------------------------------------------------------------------------------------------

    def forward(self, x, training=False):
        return self.ask(x, False)[0]

    def ask(self, x: np.ndarray, probabilities: bool) -> tuple[np.ndarray, bool, bool]:
        """(y, whether x is finite, whether y is); with probabilities the softmax of y."""
        n, images, floats = len(x), contiguous(x).reshape(-1), NO_FLOATS[self.dtype]
        if x.dtype != np.uint8:
            images, floats = NO_BYTES, images.astype(self.dtype, copy=False)
        y = np.empty(n * math.prod(self.output_shape), self.dtype)
        given = self.table, self.tables, self.packed, images, floats
        beside = assistant.assistant
        if n == 1 and self.ready and beside.joins(self):
            try:
                if beside.helps:
                    told = does.run_together(*given, self.values, self.owns[0], self.claims, probabilities, y)
                else:
                    told = self._ask_all(n, given, probabilities, y)
            finally:
                beside.leaves()
        else:
            told = self._ask_all(n, given, probabilities, y)
            if n == 1:
                beside.left_out()
        return y.reshape(n, *self.output_shape), not told & does.BAD_IMAGE, not told & does.BAD_OUTPUT

    def _ask_all(self, n: int, given: tuple, probabilities: bool, y: np.ndarray) -> int:
        threads, told = get_threads(), np.zeros(1, np.int64)
        tasks = 1 if n == 1 else min(n, -(-n // (MOST * threads)) * threads)
        memory = scratch("program", (MAX_THREADS, self.memory), self.dtype)
        owns = scratch("program's own", (MAX_THREADS, self.own), self.dtype)
        work = n * (self.macs + 1) if n > 1 else 0
        does.run(work, self.schedule, *given, memory, owns, tasks, probabilities, y, told)
        return int(told[0])

    def get_ready(self) -> None:
        """Compile what single images need, so that none of them waits for it; before, nobody helps with one."""
        if config.DISABLE_JIT:
            return
        image, y = np.zeros((1, *self.input_shape), np.uint8), np.empty(math.prod(self.output_shape), self.dtype)
        self.forward(image)
        given = self.table, self.tables, self.packed, image.reshape(-1), NO_FLOATS[self.dtype]
        does.run_together(*given, self.values, self.owns[0], self.claims, True, y)
        self.help(patience=0)
        self.ready = self.claims[assistant.CUT] > 0

    def help(self, patience: int) -> None:
        """What an assistant does: see assistant.py."""
        does.assist(self.table, self.tables, self.packed, self.values, self.owns[1], self.claims, patience)


NO_BYTES = np.empty(0, np.uint8)
NO_FLOATS = {np.dtype(kind): np.empty(0, kind) for kind in (np.float32, np.float64)}


def _bias(layer: layers.Conv2D | layers.Dense) -> np.ndarray:
    return layer.b.value if layer.use_bias else np.zeros(layer.w.shape[-1])
