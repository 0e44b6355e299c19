"""The layers: what each is, and its chain rule. One file a family; base.py says what a layer is."""

from minicnn.layers.activations import GELU, LeakyReLU, ReLU, Sigmoid, SiLU, Softmax, Tanh
from minicnn.layers.base import Layer
from minicnn.layers.convolution import Conv2D, DepthwiseConv2D
from minicnn.layers.dense import Dense, Flatten
from minicnn.layers.normalization import BatchNorm, Dropout
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
