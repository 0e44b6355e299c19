"""A convolution that forgets its stride on the way back.

What was wrong. Forward puts window (i, j) at pixel (i * stride, j * stride). Backward looked for it at pixel (i, j), so
the gradients of x and w were taken from the wrong pixels.

Where it was found. Kulbear/deep-learning-coursera #34, a pull request of January 2018, merged; and again, in 2019, in
enggen/Deep-Learning-Coursera #7: solutions to the same exercise.

Why nobody noticed. Shapes are right, and at stride 1 so is everything else.

What it costs. The layer itself still learns something, as neighbouring pixels are alike. What lies before it receives
the gradient of another place.

How it is caught. A gradient check at stride 2. Try each argument at a value other than its default.
"""

from __future__ import annotations

import numpy as np

from minicnn.layers import Conv2D
from minicnn.layers.convolution import convolve_dw, convolve_dx
from minicnn.learn.museum._tools import check_gradient, normal

SOURCE = "Kulbear/deep-learning-coursera #34"


class StridelessConv(Conv2D):
    """Backward puts window (i, j) at pixel (i, j), whatever the stride."""

    def backward(self, dy):
        (x,) = self.saved
        dy = self.activate.backward(dy)
        self.b.grad[...] = dy.sum(axis=(0, 1, 2))
        window = self.window._replace(stride=(1, 1))
        n, oh, ow, f = dy.shape
        dense = np.zeros((n, *window.positions(x.shape[1:]), f), dy.dtype)
        dense[:, :oh, :ow] = dy
        self.w.grad[...] = convolve_dw(dense, x, window)
        dx = convolve_dx(dense, self.w.value, x.shape, window)
        return dx


WRONG, RIGHT = StridelessConv, Conv2D


def weak_test(layer=WRONG):
    """Stride 1."""
    check_gradient(layer(3, 3), normal(2, 6, 6, 2))


def strong_test(layer=WRONG):
    """Stride 2."""
    check_gradient(layer(3, 3, stride=2), normal(2, 6, 6, 2))
