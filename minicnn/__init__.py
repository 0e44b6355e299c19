"""minicnn: convolutional networks from scratch in Python, NumPy and Numba.

The public names. To read how it works, begin with minicnn/ops/reference.py.
"""

from minicnn import callbacks, data, initializers, losses, metrics, optimizers, schedules
from minicnn.checkpoint import Checkpoint
from minicnn.data import Augment, load_fashion_mnist
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
from minicnn.model import Sequential
from minicnn.model_files import load
from minicnn.ops import get_threads, set_threads, use_backend

__version__ = "0.1.0"
