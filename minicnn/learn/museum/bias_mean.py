"""A bias whose gradient is the mean over the images.

What was wrong. The bias is added for every image, so its gradient is the sum of dy over the images. It was their mean.
Where dy comes from a loss that is a mean already, the images are then divided by twice.

Where it was found. kvfrans/notes #5, notes on backpropagation, where the reader who found it compared the two with a
framework's gradient: the sum agrees, the mean does not. andersbll/nnet, nnet/layers.py, also takes the mean.

Why nobody noticed. Only the bias is wrong, and only its length, not its sign. With a batch of one image both are the same.

What it costs. With SGD, biases learn as many times too slowly as a batch has images: hardly at all. With Adam, which
divides each gradient by its own size, nothing. We measured with SGD, and found no difference beyond chance: the weights
make up for the biases. So no training run would ever have shown this bug.

How it is caught. A gradient check with more than one image.
"""

from __future__ import annotations

from minicnn.layers import Dense
from minicnn.learn.museum._tools import check_gradient, normal

SOURCE = "kvfrans/notes #5"


class MeanBiasDense(Dense):
    """db is the mean of dy over the images."""

    def backward(self, dy):
        dx = super().backward(dy)
        self.b.grad[...] = self.activate.backward(dy).mean(axis=0)
        return dx


WRONG, RIGHT = MeanBiasDense, Dense


def weak_test(layer=WRONG):
    """One image."""
    check_gradient(layer(4), normal(1, 5))


def strong_test(layer=WRONG):
    """Three images."""
    check_gradient(layer(4), normal(3, 5))
