"""Convolutions that are not connected on the way back.

What was wrong. Backward did not pass through the flatten layer: what came out of the dense layer was not handed to the
convolutions. Their gradients stayed 0, and their filters what they were at random.

Where it was found. modern-fortran/neural-fortran #142: only the dense layer at the end was trained.

Why nobody noticed. The network reached about 93% on MNIST all the same. That looks like success until one knows, as
#141 notes, that this network should easily get above 98%. Random filters followed by one trained layer go far.

What it costs. Everything the convolutions could have learnt; on images as small as these, some points of accuracy.

How it is caught. A gradient check of a whole network, not only of each layer: the report names all that lies before the
gap. Or, with no calculus: after one step every weight must have moved.
"""

from __future__ import annotations

import numpy as np

from minicnn.layers import Conv2D, Dense, Flatten
from minicnn.learn.museum._tools import check_gradient, check_that_the_loss_falls, normal

SOURCE = "modern-fortran/neural-fortran #142"


class DisconnectedFlatten(Flatten):
    """Backward returns zeros of the right shape."""

    def backward(self, dy):
        (x_shape,) = self.saved
        return np.zeros(x_shape, dy.dtype)


WRONG, RIGHT = DisconnectedFlatten, Flatten


def weak_test(layer=WRONG):
    """The loss falls."""
    check_that_the_loss_falls([Conv2D(4, 3, activation="relu"), layer(), Dense(2)])


def strong_test(layer=WRONG):
    """The gradient reaches the convolution."""
    check_gradient([Conv2D(2, 3), layer(), Dense(3)], normal(2, 4, 4, 1))
