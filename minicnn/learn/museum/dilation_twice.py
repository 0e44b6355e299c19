"""A dilated convolution that is dilated twice.

What was wrong. A kernel of 3 pixels with dilation 2 spans 5 pixels. The code replaced the kernel's size by its span, and
further down computed the span of that once more, as if nothing had been dilated yet.

Where it was found. ddbourgin/numpy-ml #32, in its convolution by loops. There windows and kernel then disagree in size;
our version spreads the kernel out as well, so that it runs, with its pixels 4 apart where 2 were asked for.

Why nobody noticed. Without dilation, the usual case, the span is the size, and computing it twice does no harm.

What it costs. Another network than the one that was asked for, with gaps twice as wide. It trains, and here it is even
better: it sees more of the image. So what was written about it, in a report or a paper, is not what was run.

How it is caught. Not by a gradient check! Backward is the true derivative of this forward; it is forward that is not
what was meant. Compare it with its definition: light one pixel, and see at which distance it is seen.
"""

from __future__ import annotations

import numpy as np

from minicnn.layers import Conv2D
from minicnn.layers.convolution import convolve, convolve_dw, convolve_dx
from minicnn.layers.windows import make_window
from minicnn.learn.museum._tools import check_gradient, normal
from minicnn.network import Network

SOURCE = "ddbourgin/numpy-ml #32"


class TwiceDilatedConv(Conv2D):
    """The kernel is spread out to its span, and the window, of that size, is dilated again."""

    def build(self, input_shape, parameters):
        super().build(input_shape, parameters)
        size = self.window.span
        self.wide = make_window(self, input_shape, size, self.stride, self.padding, self.dilation)
        return (*self.wide.positions(input_shape), self.filters)

    def spread(self):
        """The kernel with zeros in its gaps."""
        w = np.zeros((*self.window.span, *self.w.shape[2:]), self.w.value.dtype)
        w[:: self.dilation[0], :: self.dilation[1]] = self.w.value
        return w

    def forward(self, x, training=False):
        if training:
            self.save_for_backward(x)
        return convolve(x, self.spread(), self.wide) + self.b.value

    def backward(self, dy):
        (x,) = self.saved
        dw = convolve_dw(dy, x, self.wide)
        dx = convolve_dx(dy, self.spread(), x.shape, self.wide)
        self.w.grad[...] = dw[:: self.dilation[0], :: self.dilation[1]]
        self.b.grad[...] = dy.sum(axis=(0, 1, 2))
        return dx


WRONG, RIGHT = TwiceDilatedConv, Conv2D


def weak_test(layer=WRONG):
    """The gradient is right, with and without dilation."""
    check_gradient(layer(2, 3), normal(2, 6, 6, 2))
    check_gradient(layer(2, 3, dilation=2), normal(2, 6, 6, 2))


def strong_test(layer=WRONG):
    """With weights of 1, a pixel in the middle is seen from itself and from 2 pixels to each side."""
    conv = layer(1, 3, dilation=2)
    network = Network([conv], (9, 9, 1), dtype="float64")
    conv.w.value[...] = 1
    x = np.zeros((1, 9, 9, 1))
    x[0, 4, 4] = 1
    lit = np.flatnonzero(network.forward(x)[0, :, 4, 0]).tolist()
    assert lit == [2, 4, 6], f"the pixel in row 4 is seen from rows {lit}, expected 2, 4 and 6"
