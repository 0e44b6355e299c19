"""Batch normalisation over the images only.

What was wrong. After a convolution, mean and variance belong to a channel: they are taken over images, rows and columns.
Taken over axis 0 alone, they belong to one pixel of one channel, and each pixel is shifted and scaled in its own way.

Where it was found. borgwang/tinynn, tinynn/core/layer.py: the axes (0, 1, 2) stand in a comment above the line that
takes (0,). jefkine/zeta-learn does so too, and uses it behind convolutions in examples/cifar_10/cifar_10_cnn.py.

Why nobody noticed. Behind a dense layer there is no other axis. And every channel still comes out with mean 0 and
variance 1, since each of its pixels does.

What it costs. A convolution treats all positions alike, and this layer undoes it. The statistics come from 32 numbers in
place of thousands, and there are hundreds of times as many of them to keep. In our small measurement accuracy hardly
changes: these images are all centred, so that a pixel of its own statistics does no harm.

How it is caught. Not by a gradient check: backward fits forward. Test what the layer is for: within a channel, equal
numbers must become equal numbers, wherever they stand.
"""

from __future__ import annotations

import math

import numpy as np

from minicnn.layers import BatchNorm
from minicnn.learn.museum._tools import check_gradient, normal
from minicnn.network import Network

SOURCE = "borgwang/tinynn, jefkine/zeta-learn"


class BatchNormOverImages(BatchNorm):
    """Laid out as (n, h*w*c), "all axes but the last" is axis 0, and every pixel is a channel of its own."""

    def build(self, input_shape, parameters):
        super().build((math.prod(input_shape),), parameters)
        return input_shape

    def forward(self, x, training=False):
        return super().forward(x.reshape(len(x), -1), training).reshape(x.shape)

    def backward(self, dy):
        return super().backward(dy.reshape(len(dy), -1)).reshape(dy.shape)


WRONG, RIGHT = BatchNormOverImages, BatchNorm


def weak_test(layer=WRONG):
    """The gradient is right, and each channel has mean 0 and variance 1."""
    x = 3 + 2 * normal(8, 4, 4, 2)
    check_gradient(layer(), x)
    y = Network([layer()], (4, 4, 2), dtype="float64").forward(x, training=True)
    assert np.allclose(y.mean(axis=(0, 1, 2)), 0)
    assert np.allclose(y.var(axis=(0, 1, 2)), 1, atol=1e-3)


def strong_test(layer=WRONG):
    """The same number at two places of a channel becomes the same number."""
    x = normal(8, 4, 4, 2)
    x[0, 0, 0, 1] = x[5, 2, 3, 1] = 1.5
    y = Network([layer()], (4, 4, 2), dtype="float64").forward(x, training=True)
    assert np.isclose(y[0, 0, 0, 1], y[5, 2, 3, 1]), f"1.5 became {y[0, 0, 0, 1]:.3f} and {y[5, 2, 3, 1]:.3f}"
