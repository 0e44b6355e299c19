"""Convolution: which of two algorithms runs it. See minicnn/layers/convolution.py for what it computes.

direct.py takes every shape. winograd.py takes 3 x 3 and 5 x 5 windows in steps of one pixel over whole vectors of channels,
with 25% and 16% of the multiplications. Both add the bias and apply ReLU before they store a result, and set dy to 0 where
the ReLU gave 0 when they read it. In backward the images are dealt into a fixed number of chunks, each with its own sum of
dw; the sums are added in order, so that the result does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minicnn.engine import direct, winograd
from minicnn.engine.compiling import kernel
from minicnn.engine.memory import contiguous, empty, scratch
from minicnn.engine.step import Step


class Convolution(Step):
    """Conv2D, and the ReLU behind it."""

    fuses_relu = True

    def forward(self, x, training=False):
        layer, x, y = self.layer, contiguous(x), self.y(x, training)
        b = layer.b.value if layer.use_bias else None
        if self._takes_winograd(x):
            w = self._packed(winograd.packed_shape(layer.w.shape, x.dtype), winograd.pack, training)
            winograd.convolve(x, w, b, layer.kernel_size[0], layer.window.padding, self.relu, y)
        else:
            w = self._packed(direct.packed_shape(layer.w.shape, layer.groups, x.dtype), direct.pack, training)
            direct.convolve(x, w, b, layer.window, layer.groups, self.relu, y)
        if training:
            self.save_for_backward(x, y)
        return y

    def _packed(self, shape: tuple[int, ...], pack: Callable, training: bool) -> np.ndarray:
        """The weights as the kernels read them. In use they are packed again only when they have changed."""
        w = self.layer.w.value
        if training:
            packed = scratch("panels", shape, w.dtype)
            pack(w, packed)
            return packed
        packed, source = self.buffers.get("packed"), self.buffer("packed from", w.shape, w.dtype)
        if packed is None or packed.shape != shape or not same_bits(source.reshape(-1), w.reshape(-1)):
            packed, self.buffers["packed"] = empty(shape, w.dtype), None  # until all is packed there is nothing
            pack(w, packed)
            source[...] = w
            self.buffers["packed"] = packed
        return packed

    def backward(self, dy):
        (x, y), layer, dy = self.saved, self.layer, contiguous(dy)
        w, dw = layer.w.value, layer.w.grad
        db = layer.b.grad if layer.use_bias else None
        dx = self.dx(x.shape, x.dtype)
        if self._takes_winograd(x):
            winograd.convolve_backward(dy, x, w, y, dw, db, layer.window.padding, self.relu, self.needs_dx, dx)
        else:
            direct.convolve_backward(dy, x, w, y, dw, db, layer.window, layer.groups, self.relu, self.needs_dx, dx)
        return dx

    def _takes_winograd(self, x: np.ndarray) -> bool:
        return winograd.fits(self.layer.w.shape, self.layer.window, self.layer.groups, x.dtype) and len(x) > 0


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two flat arrays of numbers of the same type are the same to the bit."""
    bits = f"i{a.itemsize}"
    return no_difference(a.view(bits), b.view(bits))


@kernel
def no_difference(a, b):
    different = a[0] ^ b[0]
    for i in range(a.size):  # to the end: without a way out, the loop runs on vectors
        different |= a[i] ^ b[i]
    return different == 0
