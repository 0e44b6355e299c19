"""The layers: what each computes, and its chain rule, in plain NumPy. Begin here to learn how a network works inside.

Backpropagation in five lines. A network is a chain of functions that ends in one number, the loss. We want to know how
the loss changes when any number in the chain does: its derivative. Say a piece of the chain is a convolution of three
pixels with two weights, y0 = a*x0 + b*x1 and y1 = a*x1 + b*x2, and we know dy0 and dy1, how the loss changes with y0 and
y1. A change of a moves y0 by x0 and y1 by x1, so da = x0*dy0 + x1*dy1: contributions add. And x1 was read twice, by y0
with weight b and by y1 with weight a, so dx1 = b*dy0 + a*dy1. All that follows is this, with more indices.

Conventions. Activations are NHWC: (n images, h rows, w columns, c channels), channels side by side in memory. A gradient
is named after what it belongs to: `dy` is dLoss/dy, an array of the shape of y. `forward` gives y for x; `backward` gets
dy, writes the gradients of the layer's weights, and gives dx. Neither changes what it is given.

What you read here is what runs with `minicnn.use_backend("numpy")`. The engine (minicnn/engine) runs the same layers
faster, several as one where it can, and the tests hold its numbers equal to these, up to rounding.

Read base.py first, then dense.py, activations.py, windows.py, convolution.py, pooling.py, normalization.py, dropout.py and
residual.py; sequence.py says how layers run one after another.
"""

from minicnn.layers.activations import GELU, LeakyReLU, ReLU, Sigmoid, SiLU, Softmax, Tanh
from minicnn.layers.base import Layer
from minicnn.layers.convolution import Conv2D, DepthwiseConv2D
from minicnn.layers.dense import Dense, Flatten
from minicnn.layers.dropout import Dropout
from minicnn.layers.normalization import BatchNorm
from minicnn.layers.pooling import AveragePool2D, GlobalAveragePool2D, GlobalMaxPool2D, MaxPool2D
from minicnn.layers.residual import Residual

__all__ = [
    "GELU",
    "AveragePool2D",
    "BatchNorm",
    "Conv2D",
    "Dense",
    "DepthwiseConv2D",
    "Dropout",
    "Flatten",
    "GlobalAveragePool2D",
    "GlobalMaxPool2D",
    "Layer",
    "LeakyReLU",
    "MaxPool2D",
    "ReLU",
    "Residual",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
]
