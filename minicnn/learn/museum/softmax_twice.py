"""A softmax in the network, and another in the loss.

What was wrong. The last layer turned logits into probabilities, and the loss, which expects logits, took the softmax of
those once more. Probabilities lie between 0 and 1, so the second softmax sees ten numbers that are almost equal.

Where it was found. tflearn/tflearn #562, nfmcclure/tensorflow_cookbook #86, and NVIDIA/DeepLearningExamples #468: two
collections of examples and a reference implementation.

Why nobody noticed. Every derivative is right, the loss falls, and the largest output is still the largest.

What it costs. With ten classes the loss cannot fall below log(1 + 9 / e), about 1.46, and the gradient fades as soon as
the first softmax is sure, right or wrong. Some runs never learn to tell some of the classes apart.

How it is caught. Not by a gradient check. Ask for what you know the answer of: a sure and right answer costs nothing.
minicnn refuses to train a network that ends in a Softmax with cross-entropy.
"""

from __future__ import annotations

import numpy as np

from minicnn.layers import Conv2D, Dense, Flatten, Softmax
from minicnn.learn.museum._tools import check_that_the_loss_falls, normal
from minicnn.losses import CrossEntropy

SOURCE = "tflearn/tflearn #562, NVIDIA/DeepLearningExamples #468"


class SoftmaxTwice(CrossEntropy):
    """Takes the softmax of its outputs, and hands that to the cross-entropy of logits."""

    def __call__(self, outputs, targets, sample_weight=None):
        softmax = Softmax()
        probabilities = softmax.forward(outputs, training=True)
        loss, dprobabilities = super().__call__(probabilities, targets, sample_weight)
        return loss, softmax.backward(dprobabilities)


WRONG, RIGHT = SoftmaxTwice, CrossEntropy


def weak_test(loss=WRONG):
    """The gradient is that of differences along a direction, and the loss falls."""
    outputs, labels, direction = normal(4, 5), np.array([0, 1, 4, 4]), normal(5, 4).T
    h = 1e-5
    slope = (loss()(outputs + h * direction, labels)[0] - loss()(outputs - h * direction, labels)[0]) / (2 * h)
    assert np.isclose(slope, (loss()(outputs, labels)[1] * direction).sum())
    check_that_the_loss_falls([Conv2D(4, 3, activation="relu"), Flatten(), Dense(2)], loss=loss())


def strong_test(loss=WRONG):
    """Ten images, each called what it is, with a lead of 100: the loss is 0."""
    value, _ = loss()(100 * np.eye(10), np.arange(10))
    assert value < 1e-6, f"a sure and right answer costs {value:.2f}"
