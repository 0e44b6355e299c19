"""Max pooling whose backward returns from within its loop.

What was wrong. The `return` was indented one step too far. It stood inside the loop over the windows, so backward ended
after the first window, and all other windows sent nothing.

Where it was found. riccardoandreoni0/CNN-from-scratch #1. Who reported it was debugging, and wondered why most of the
gradients that reached the convolution were 0.

Why nobody noticed. The report says it itself: the model as it is still converges. The dense layer behind the pool
learns well, from the random filters before it.

What it costs. The convolutions before the pool learn almost nothing, and that is a few points of accuracy. No error, no
warning.

How it is caught. Any gradient check, at any size. A loss that falls says that something learns, not that all of it does.
"""

from __future__ import annotations

import numpy as np

from minicnn.layers import Conv2D, Dense, Flatten, MaxPool2D
from minicnn.learn.museum._tools import check_gradient, check_that_the_loss_falls, normal

SOURCE = "riccardoandreoni0/CNN-from-scratch #1"


class HastyMaxPool(MaxPool2D):
    """The loop over the windows ends after the first one."""

    def backward(self, dy):
        winner, x_shape = self.saved
        dx = np.zeros(x_shape, dy.dtype)
        image, channel = np.ogrid[: x_shape[0], : x_shape[3]]
        for i, j in np.ndindex(dy.shape[1:3]):
            row, column = np.divmod(winner[:, i, j], self.pool_size[1])  # within window (i, j)
            dx[image, i * self.stride[0] + row, j * self.stride[1] + column, channel] += dy[:, i, j]
            return dx


WRONG, RIGHT = HastyMaxPool, MaxPool2D


def weak_test(layer=WRONG):
    """The loss falls."""
    check_that_the_loss_falls([Conv2D(4, 3, activation="relu"), layer(2), Flatten(), Dense(2)])


def strong_test(layer=WRONG):
    """Every pixel's gradient is that of differences."""
    check_gradient(layer(2), normal(2, 6, 6, 2))
