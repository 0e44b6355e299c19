"""Max pooling that assigns in backward where it must add.

What was wrong. Where windows overlap, one pixel can win several of them, and its gradient is the sum of what they send.
With `=` in place of `+=` the last window overwrites what the others sent.

Where it was found. 0809zheng/CS231n-assignment2019 #19, solutions to a Stanford course. jmschrei/tangermeme #95 mends
the same mistake in a tool that explains networks; there, windows of 3x3, one pixel apart, lost about 93% of the value.

Why nobody noticed. The course's own gradient check pools with windows of 2 and stride 2. These do not overlap, and then
both lines do the same. The issue gives a check with windows of 3 and stride 1; there the old answer fails.

What it costs. Training goes on: most pixels win one window or none, so most of the gradient is right.

How it is caught. A gradient check with windows that overlap. Check a layer at settings where its parts interact.
"""

from __future__ import annotations

import numpy as np

from minicnn.layers import MaxPool2D
from minicnn.learn.museum._tools import check_gradient, normal

SOURCE = "0809zheng/CS231n-assignment2019 #19"


class AssigningMaxPool(MaxPool2D):
    """The gradient is put onto the winner, over what another window had put there."""

    def backward(self, dy):
        winner, x_shape = self.saved
        dx = np.zeros(x_shape, dy.dtype)
        image, channel = np.ogrid[: x_shape[0], : x_shape[3]]
        for i, j in np.ndindex(dy.shape[1:3]):
            row, column = np.divmod(winner[:, i, j], self.pool_size[1])  # within window (i, j)
            dx[image, i * self.stride[0] + row, j * self.stride[1] + column, channel] = dy[:, i, j]
        return dx


WRONG, RIGHT = AssigningMaxPool, MaxPool2D


def weak_test(layer=WRONG):
    """Windows side by side."""
    check_gradient(layer(2, stride=2), normal(2, 6, 6, 2))


def strong_test(layer=WRONG):
    """Windows that overlap."""
    check_gradient(layer(3, stride=1), normal(2, 6, 6, 2))
