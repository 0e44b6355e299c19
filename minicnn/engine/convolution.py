"""Convolution: which of two algorithms runs it. See minicnn/layers/convolution.py for what it computes.

direct.py takes every shape. winograd.py takes 3 x 3 and 5 x 5 windows in steps of one pixel over whole vectors of channels,
with a quarter to 40% of the multiplications. Both add the bias and apply ReLU before they store a result, and shut dy where
the ReLU was shut when they read it. In backward the images are dealt into a fixed number of chunks, each with its own sum of
dw; the sums are added in order, so that the result does not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np

from minicnn.engine import direct, winograd
from minicnn.engine.step import Step


class Convolution(Step):
    """Conv2D, and the ReLU behind it."""

    fuses_relu = True

    def forward(self, x, training=False):
        layer, x, y = self.layer, np.ascontiguousarray(x), self.y(x, training)
        b = layer.b.value if layer.use_bias else None
        if self._takes_winograd(x):
            winograd.convolve(x, layer.w.value, b, layer.window.padding, self.relu, y)
        else:
            direct.convolve(x, layer.w.value, b, layer.window, layer.groups, self.relu, y)
        if training:
            self.save_for_backward(x, y)
        return y

    def backward(self, dy):
        (x, y), layer, dy = self.saved, self.layer, np.ascontiguousarray(dy)
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
