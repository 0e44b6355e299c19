"""Convolution: which of two algorithms runs it. See minicnn/layers/convolution.py for what it computes.

direct.py takes every shape. winograd.py takes 3 x 3 and 5 x 5 windows in steps of one pixel over whole vectors of channels,
with 16 to 25% of the multiplications. Both add the bias and apply ReLU before they store a result, and set dy to 0 where
the ReLU gave 0 when they read it. In backward the images are dealt into a fixed number of chunks, each with its own sum of
dw; the sums are added in order, so that the result does not depend on the number of threads.
"""

from __future__ import annotations

from minicnn import layers
from minicnn.engine import direct, winograd
from minicnn.engine.memory import contiguous
from minicnn.engine.moments import not_asked_for
from minicnn.engine.step import Step


class Convolution(Step):
    """Conv2D, and the ReLU and the pool behind it."""

    layer: layers.Conv2D
    fuses, fuses_pool = (layers.ReLU,), True

    def forward(self, x, training=False, sums=None):
        """`sums` is memory for the moments of y, where the batch norm behind asks for them."""
        layer, x, y, before = self.layer, contiguous(x), self.y(x, training), self.before(x.dtype)
        sums = sums or not_asked_for(x.dtype)
        w, b, behind = layer.w.value, layer.b.value if layer.use_bias else None, self.behind(y, y, self.winner(y))
        if self.takes_winograd() and len(x) > 0:
            winograd.convolve(before, x, w, b, layer.window.padding, layer.output_shape, behind, self.bfloat16)
        else:
            direct.convolve(before, x, w, b, layer.window, layer.groups, behind, sums)
        if training:
            self.save_for_backward(x, behind, before)
        return y

    def backward(self, dy):
        return self.backward_from(self.saved[1]._replace(dy=contiguous(dy).reshape(-1)))

    def backward_from(self, behind):
        """backward, with all that is behind the convolution."""
        (x, _, before), layer = self.saved, self.layer
        w, dw, db = layer.w.value, layer.w.grad, layer.b.grad if layer.use_bias else None
        window, dx = layer.window, self.dx(x.shape, x.dtype)
        if self.takes_winograd() and len(x) > 0:
            given = behind, layer.output_shape, before, x, w, dw, db, window.padding
            winograd.convolve_backward(*given, dx, self.bfloat16)
        else:
            direct.convolve_backward(behind, before, x, w, dw, db, window, layer.groups, dx)
        return dx

    def takes_before(self) -> bool:
        """Whether it can scale and shift its x for the batch norm in front of it."""
        return True

    def takes_winograd(self) -> bool:
        return winograd.fits(self.layer.w.shape, self.layer.window, self.layer.groups, self.layer.w.value.dtype)
