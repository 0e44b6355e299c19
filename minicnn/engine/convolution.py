"""Convolution: which of two algorithms runs it. See minicnn/layers/convolution.py for what it computes.

direct.py takes every shape. winograd.py takes 3 x 3 and 5 x 5 windows in steps of one pixel over whole vectors of channels,
with 25% and 16% of the multiplications. Both add the bias and apply ReLU before they store a result, and set dy to 0 where
the ReLU gave 0 when they read it. In backward the images are dealt into a fixed number of chunks, each with its own sum of
dw; the sums are added in order, so that the result does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minicnn import layers
from minicnn.engine import direct, winograd
from minicnn.engine.memory import contiguous, scratch
from minicnn.engine.step import Step


class Convolution(Step):
    """Conv2D, and the ReLU and the pool behind it."""

    layer: layers.Conv2D
    fuses_relu = fuses_pool = True

    def forward(self, x, training=False):
        layer, x, y = self.layer, contiguous(x), self.y(x, training)
        w, b, behind = layer.w.value, layer.b.value if layer.use_bias else None, self.behind(y, y, self.winner(y))
        if self._takes_winograd(x):
            panels = self._packed(winograd.packed_shape(w.shape, x.dtype), winograd.pack)
            winograd.convolve(x, panels, b, layer.kernel_size[0], layer.window.padding, layer.output_shape, behind)
        else:
            panels = self._packed(direct.packed_shape(w.shape, layer.groups, x.dtype), direct.pack)
            direct.convolve(x, panels, b, layer.window, layer.groups, w.shape[-1], behind)
        if training:
            self.save_for_backward(x, behind)
        return y

    def _packed(self, shape: tuple[int, ...], pack: Callable) -> np.ndarray:
        """The weights as the kernels read them."""
        packed = scratch("panels", shape, self.layer.w.value.dtype)
        pack(self.layer.w.value, packed)
        return packed

    def backward(self, dy):
        (x, behind), layer = self.saved, self.layer
        behind = behind._replace(dy=contiguous(dy).reshape(-1))
        w, dw = layer.w.value, layer.w.grad
        db = layer.b.grad if layer.use_bias else None
        dx = self.dx(x.shape, x.dtype)
        if self._takes_winograd(x):
            padding = layer.window.padding
            winograd.convolve_backward(behind, layer.output_shape, x, w, dw, db, padding, self.needs_dx, dx)
        else:
            direct.convolve_backward(behind, x, w, dw, db, layer.window, layer.groups, self.needs_dx, dx)
        return dx

    def _takes_winograd(self, x: np.ndarray) -> bool:
        return winograd.fits(self.layer.w.shape, self.layer.window, self.layer.groups, x.dtype) and len(x) > 0
