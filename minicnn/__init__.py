"""minicnn: convolutional networks from scratch in Python, NumPy and Numba.

The public names. To read how it works, begin with minicnn/layers/__init__.py.
"""

from minicnn import versions  # noqa: I001  (first of all: it refuses what is too old)
from minicnn import callbacks, data, initializers, losses, metrics, names, optimizers, schedules
from minicnn.checkpoint import Checkpoint
from minicnn.data import Augment, load_fashion_mnist
from minicnn.engine import get_threads, set_threads, use_backend
from minicnn.gradcheck import gradcheck
from minicnn.layers import (
    GELU,
    AveragePool2D,
    BatchNorm,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePool2D,
    GlobalMaxPool2D,
    Layer,
    LeakyReLU,
    MaxPool2D,
    ReLU,
    Residual,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from minicnn.model import Sequential, load

__version__ = "0.2.0"

__all__ = [
    "GELU",
    "Augment",
    "AveragePool2D",
    "BatchNorm",
    "Checkpoint",
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
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "callbacks",
    "data",
    "get_threads",
    "gradcheck",
    "initializers",
    "load",
    "load_fashion_mnist",
    "losses",
    "metrics",
    "optimizers",
    "plots",
    "schedules",
    "set_threads",
    "use_backend",
]


def __getattr__(name: str):
    """plots, which brings matplotlib, when it is first asked for; and an error for what has another name here."""
    if name == "plots":
        import minicnn.plots

        return minicnn.plots
    if name in names.PUBLIC:  # no AttributeError: `from minicnn import Conv2d` would not show it
        raise ImportError(names.told(f"minicnn: got {name}", names.PUBLIC[name]))
    raise AttributeError(f"module 'minicnn' has no attribute {name!r}")
