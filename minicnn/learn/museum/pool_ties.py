"""Max pooling that pays every winner in full.

What was wrong. Where several pixels of a window are equally large, each of them received the window's whole gradient.
A window of four equal pixels sent back four times what it had received.

Where it was found. The code quoted in riccardoandreoni0/CNN-from-scratch #1 does it. A note in cs231n/fast_layers.py, the
fast pool that Stanford's CS231n hands out, warns of it, and calls ties unlikely in practice (we read it in the copy of
hwalsuklee/numpy-neuralnet-exercise); there, a line that divides by the number of winners prevents it.

Why nobody noticed. Random numbers are never equal, and gradient checks are made of random numbers. Images are not
random: a convolution gives one and the same number all over a black background.

What it costs. Biases and filters are driven by the background, more than they should be. Little accuracy, here.

How it is caught. At a tie the derivative does not exist, so gradcheck leaves such entries out as kinks. It must be
asked about a function that has ties and is smooth all the same: repeat every pixel in a 2x2 square and pool these
squares. That is y = x, and its gradient must be dy, not 4 * dy.
"""

from __future__ import annotations

import numpy as np

from minicnn.layers import Layer, MaxPool2D
from minicnn.layers.windows import add_windows, windows
from minicnn.learn.museum._tools import check_gradient, normal

SOURCE = "riccardoandreoni0/CNN-from-scratch #1, CS231n's fast pool"


class GenerousMaxPool(MaxPool2D):
    """Every pixel that equals the maximum receives all of dy."""

    def forward(self, x, training=False):
        y = super().forward(x, training)
        if training:
            self.save_for_backward(x, y)
        return y

    def backward(self, dy):
        x, y = self.saved
        largest = windows(x, self.window, fill=-np.inf) == y[:, :, :, None, None]
        return add_windows(np.where(largest, dy[:, :, :, None, None], 0), x.shape, self.window)


class Repeat(Layer):
    """Every pixel becomes a square of 2x2 equal ones; its gradient is the sum of theirs."""

    def build(self, input_shape, parameters):
        h, w, c = input_shape
        return (2 * h, 2 * w, c)

    def forward(self, x, training=False):
        return x.repeat(2, axis=1).repeat(2, axis=2)

    def backward(self, dy):
        n, h, w, c = dy.shape
        return dy.reshape(n, h // 2, 2, w // 2, 2, c).sum(axis=(2, 4))


WRONG, RIGHT = GenerousMaxPool, MaxPool2D


def weak_test(layer=WRONG):
    """Random numbers: no two are equal."""
    check_gradient(layer(2), normal(2, 6, 6, 2))


def strong_test(layer=WRONG):
    """Ties everywhere, in a function that is smooth."""
    check_gradient([Repeat(), layer(2)], normal(2, 3, 3, 2))
