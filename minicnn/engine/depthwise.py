"""Depthwise convolution: see minicnn/layers/convolution.py for what it computes.

Faster because the channels, side by side in memory, are the vector: every tap is one multiply-add of whole pixels. Where
windows of 3x3 lie side by side, some of them are taken at once, five to eight, for they share all but two pixels.
These and backward copy an image's x and dy into padded ones, as direct.py does, so that no tap asks where the edge is. In
backward a block of pixels of dx gathers dy times the weights, and a block of taps of dw stays in registers over all windows
of the image.
"""

from __future__ import annotations

import numpy as np

from minicnn import layers
from minicnn.engine.before import pad_image, sums_of_image
from minicnn.engine.calls import parallel
from minicnn.engine.compiling import helper
from minicnn.engine.direct import ROWS, backward_windows, forward_windows, pad_gated
from minicnn.engine.lanes import (
    Block,
    best_block,
    fma,
    fma_rows,
    gather,
    load,
    load_rows,
    maximum0,
    one_row,
    repeat,
    store,
    store_rows,
    strided,
    zeros,
)
from minicnn.engine.memory import contiguous, scratch
from minicnn.engine.moments import moments_of_images, not_asked_for
from minicnn.engine.products import Sums, add_up, panel_block, weights_block
from minicnn.engine.step import Step
from minicnn.engine.threads import PARTS, chunk, most_splits, share_of, tasks_of_parts
from minicnn.layers.windows import Window


def side_by_side(window: Window, columns: int, dtype) -> int:
    """How many of a row's windows of 3x3 are taken at once, so that few are taken twice; 0 where none lie side by side."""
    rows = best_block(dtype).shape[0]
    fits = [n for n in (rows, rows - 1) if n <= columns]
    plain = window == Window((3, 3), padding=window.padding)
    return min(fits, key=lambda n: -(-columns // n) * n, default=0) if plain else 0


@helper
def nine_taps(like, w, at, c):
    """The weights of a window of 3x3, from w[at] on, each c numbers from the one before."""
    zero = like, like, like
    return load_rows(like, w, strided(c, 0, 9, zero + zero + zero), at)


@helper
def three_taps(pixels, taps, sums):
    """sums, one of each window, + three pixels times three weights: windows side by side share all but two pixels."""
    sums = fma_rows(pixels[:-2], taps[0], sums)
    sums = fma_rows(pixels[1:-1], taps[1], sums)
    return fma_rows(pixels[2:], taps[2], sums)


@helper
def row_of_windows(start, x, p, row, c, taps, bias, relu, y, q, f, ow):
    """A vector of channels of a row of y, from three rows of a padded x; the last windows end where the row does."""
    like, together = start[0], len(start)
    pixels, results = strided(c, 0, together + 2, start + start[:2]), strided(f, 0, together, start)
    for first in range(0, ow, together):
        j = min(first, ow - together)
        at = p + j * c
        sums = three_taps(load_rows(like, x, pixels, at), taps[:3], repeat(bias, start))
        sums = three_taps(load_rows(like, x, pixels, at + row), taps[3:6], sums)
        sums = three_taps(load_rows(like, x, pixels, at + 2 * row), taps[6:], sums)
        if relu:
            sums = maximum0(sums)
        store_rows(y, results, q + j * f, sums)


@parallel
def _forward(part, row, x, w, bias, stride, corner, dilation, relu, y, sums):
    n, h, width, c = x.shape
    _, oh, ow, _ = y.shape
    flat_x, flat_w, flat_y, like = x.reshape(-1), w.reshape(-1), y.reshape(-1), zeros(x, row)[0]
    for image in chunk(part, n):
        for i in range(oh):
            for j in range(ow):
                for k in range(0, c, len(like)):
                    total = load(like, bias, k)
                    for p in range(w.shape[0]):
                        down = i * stride[0] + p * dilation[0] - corner[0]
                        if not 0 <= down < h:
                            continue
                        for q in range(w.shape[1]):
                            right = j * stride[1] + q * dilation[1] - corner[1]
                            if 0 <= right < width:
                                at = ((image * h + down) * width + right) * c + k
                                total = fma(
                                    load(like, flat_x, at), load(like, flat_w, (p * w.shape[1] + q) * c + k), total
                                )
                    if relu:
                        total = maximum0(total)
                    store(flat_y, ((image * oh + i) * ow + j) * c + k, total)
    moments_of_images(like, part, n, oh * ow, flat_y, sums)


@parallel
def _forward_3x3(part, block, before, x, windows, w, bias, relu, y, frames, sums):
    """The same for windows that `side_by_side` takes together, from images copied into padded ones."""
    n, _, _, c = x.shape
    _, oh, ow, _ = y.shape
    flat_w, flat_y, start, tasks = w.reshape(-1), y.reshape(-1), zeros(x, block), frames.shape[0]
    like, row = start[0], windows.columns * c
    for task in chunk(part, tasks):
        frame = frames[task]
        frame[:] = 0
        for piece in share_of(PARTS, task, tasks):
            for image in chunk(piece, n):
                pad_image(like, before, x, image, frame, windows.columns, windows.top, windows.left)
                for k in range(0, c, len(like)):
                    bias_k, taps = load(like, bias, k), nine_taps(like, flat_w, k, c)
                    for i in range(oh):
                        p, q = i * row + k, (image * oh + i) * ow * c + k
                        row_of_windows(start, frame, p, row, c, taps, bias_k, relu, flat_y, q, c, ow)
            moments_of_images(like, piece, n, oh * ow, flat_y, sums)


@helper
def _backward_weights(block, frame, windows, dy, back, dw, fresh, split, splits):
    """dw (taps, c) += one image's: for each tap, the sum over all windows of the pixel that it meets, times dy.

    Of its blocks a share, as in direct.py; = where it is `fresh`.
    """
    taps, c = dw.shape
    flat, like = dw.reshape(-1), zeros(frame, block)
    vectors = c // len(like[0])
    for number in share_of((taps + len(like) - 1) // len(like) * vectors, split, splits):
        t, k = number // vectors * len(like), number % vectors * len(like[0])
        runs, targets, sums = gather(windows.taps, t, taps, like), strided(c, t, taps, like), like
        if not fresh:
            sums = load_rows(like[0], flat, targets, k)
        for i in range(windows.oh):
            p, q = i * windows.down + k, ((back.top + i) * back.columns + back.left) * c + k
            for _ in range(windows.ow):
                sums = fma_rows(load_rows(like[0], frame, runs, p), load(like[0], dy, q), sums)
                p += windows.right
                q += c
        store_rows(flat, targets, k, sums)


@helper
def _backward_pixels(block, dy, back, w, dx, dx0):
    """One image's dx: for each residue of the stride, pixels of dy times the weights of the taps that meet them."""
    c, flat, like = back.channels, w.reshape(-1), zeros(dy, block)
    for phase in range(back.phases.shape[0]):
        q0, q1, r0, r1 = back.phases[phase]
        for t in range(q0, q1, len(like)):
            offsets, targets = gather(back.offsets, t, q1, like), gather(back.targets, t, q1, like)
            for k in range(0, c, len(like[0])):
                sums = like
                for r in range(r0, r1):
                    pixels = load_rows(like[0], dy, offsets, back.runs[r] + k)
                    sums = fma_rows(pixels, load(like[0], flat, back.taps[r] * c + k), sums)
                store_rows(dx, targets, dx0 + k, sums)


@helper
def _backward_pixels_3x3(block, dy, back, w, dx, dx0, h, width):
    """The same where windows lie side by side: then dx is dy convolved with the weights in reverse."""
    c, row, flat, start = back.channels, back.columns * back.channels, w.reshape(-1), zeros(dy, block)
    like, begin = start[0], back.runs[-1]
    for i in range(h):
        for k in range(0, c, len(like)):
            p, q, taps = begin + i * row + k, dx0 + i * width * c + k, nine_taps(like, flat, 8 * c + k, -c)
            row_of_windows(start, dy, p, row, c, taps, like, False, dx, q, c, width)


@parallel
def _backward(part, block, dx_block, behind, before, x, w, windows, back, together, sums, dx, frames, dys):
    """A unit of work is a task, some of the images, and one of `splits` shares of its dw, and of the images' dx."""
    n, h, width, c = x.shape
    tasks, like, number, flat_dx = len(sums.dw), zeros(x, block)[0], zeros(behind.winner, block)[0], dx.reshape(-1)
    splits = len(sums.db) // max(tasks, 1)
    for unit in chunk(part, tasks * splits):
        task, split, frame, dy, db = unit // splits, unit % splits, frames[unit], dys[unit], sums.db[unit]
        frame[:] = 0
        dy[:] = 0
        db[:] = 0
        images = share_of(n, task, tasks)
        for image in images:
            fresh, mine = image == images.start, image % splits == split
            pad_image(like, before, x, image, frame, windows.columns, windows.top, windows.left)
            shape = windows.oh, windows.ow, c
            pad_gated(like, number, behind, image, shape, dy, back.columns, back.top, back.left, db)
            _backward_weights(block, frame, windows, dy, back, sums.dw[task], fresh, split, splits)
            if mine and dx.size:
                if together:
                    _backward_pixels_3x3(dx_block, dy, back, w, flat_dx, image * h * width * c, h, width)
                else:
                    _backward_pixels(dx_block, dy, back, w, flat_dx, image * h * width * c)
                sums_of_image(like, before, x.reshape(-1), flat_dx, image, h * width, c)


class Depthwise(Step):
    """DepthwiseConv2D, and the ReLU behind it; dw is summed in a fixed number of chunks, added in order."""

    layer: layers.DepthwiseConv2D
    fuses = (layers.ReLU,)

    def forward(self, x, training=False, sums=None):
        """`sums` is memory for the moments of y, where the batch norm behind asks for them."""
        layer, x, y, before = self.layer, contiguous(x), self.y(x, training), self.before(x.dtype)
        sums = sums or not_asked_for(x.dtype)
        w, (_, stride, ((top, _), (left, _)), dilation) = layer.w.value[..., 0], layer.window
        bias = layer.b.value if layer.use_bias else np.zeros(len(w[0, 0]), x.dtype)
        row, work = one_row(len(bias), x.dtype), 4 * y.size * w[..., 0].size
        if together := self.together():
            windows, tasks = forward_windows(x.shape[1:], layer.window, len(bias)), tasks_of_parts(len(x))
            frames = scratch("x", (tasks, windows.rows * windows.columns * len(bias)), x.dtype)
            block = Block(together, row.shape[1])
            _forward_3x3(work, block, before, x, windows, w, bias, self.relu, y, frames, sums)
        else:
            _forward(work, row, x, w, bias, stride, (top, left), dilation, self.relu, y, sums)
        if training:
            self.save_for_backward(x, y, before)
        return y

    def takes_before(self) -> bool:
        """Whether it can scale and shift its x for the batch norm in front of it."""
        return self.together() > 0

    def together(self) -> int:
        """How many windows are taken at once."""
        return side_by_side(self.layer.window, self.layer.output_shape[1], self.layer.w.value.dtype)

    def backward(self, dy):
        y = self.saved[1]
        return self.backward_from(self.behind(dy, y, self.winner(y)))

    def backward_from(self, behind):
        """backward, with all that is behind the convolution."""
        (x, y, before), layer = self.saved, self.layer
        w, dtype, c = layer.w.value[..., 0].reshape(-1, x.shape[3]), x.dtype, x.shape[3]
        windows = forward_windows(x.shape[1:], layer.window, c)
        back = backward_windows(x.shape[1:], y.shape[1:], layer.window)
        tasks, dx = min(len(x), 16), self.dx(x.shape, dtype)
        splits = most_splits(len(x), tasks)
        frames = scratch("x", (tasks * splits, windows.rows * windows.columns * c), dtype)
        dys = scratch("dy", (tasks * splits, back.rows * back.columns * c), dtype)
        sums = Sums(scratch("dw", (tasks, *w.shape), dtype), scratch("db", (tasks * splits, c), dtype))
        lanes = one_row(c, dtype).shape[1]
        block = Block(weights_block(len(w), c, dtype).shape[0], lanes)
        together = side_by_side(layer.window, x.shape[2], dtype)
        dx_block = Block(together or panel_block(c, dtype, ROWS).shape[0], lanes)
        _backward(
            2 * y.size * len(w),
            *(block, dx_block, behind, before, x, w, windows, back, together > 0, sums, dx, frames, dys),
        )
        add_up(sums.dw, layer.w.grad)
        if layer.use_bias:
            add_up(sums.db, layer.b.grad, splits)
        return dx
