"""Dropout that goes on when training has ended.

What was wrong. Dropout is noise for training. In use it must let everything through; here it did not know the two apart.

Where it was found. karpathy/nanoGPT #240: its attention, called as a function, had no notion of training and use, and
dropped out at evaluation too. In a course, dlsyscourse/hw2 #13 reports that students who forget the difference pass the
homework's test of dropout, and meet it later as accuracies they cannot explain.

Why nobody noticed. A test of dropout looks at a pass in training: the share of zeros, and the mean. Both are right. And
the predictions are noisy, but not absurd.

What it costs. Predictions from half of the network, and other ones each time.

How it is caught. Not by a gradient check, which looks at training only. Two lines: in use, y is x.
"""

from __future__ import annotations

import numpy as np

from minicnn.layers import Dropout
from minicnn.learn.museum._tools import check_gradient, normal
from minicnn.network import Network

SOURCE = "karpathy/nanoGPT #240, dlsyscourse/hw2 #13"


class RestlessDropout(Dropout):
    """Drops out whether it is told `training` or not."""

    def forward(self, x, training=False):
        return super().forward(x, training=True)


WRONG, RIGHT = RestlessDropout, Dropout


def weak_test(layer=WRONG):
    """In training, half of the numbers are 0, the mean stays, and the gradient passes where they are not."""
    y = Network([layer(0.5)], (10_000,)).forward(np.ones((1, 10_000), "float32"), training=True)
    assert abs((y == 0).mean() - 0.5) < 0.05
    assert abs(y.mean() - 1) < 0.1
    check_gradient(layer(0.5), normal(3, 5))


def strong_test(layer=WRONG):
    """In use, nothing happens."""
    x = normal(3, 50)
    y = Network([layer(0.5)], (50,), dtype="float64").forward(x, training=False)
    assert np.array_equal(y, x), f"in use, {(y == 0).mean():.0%} of the numbers became 0"
