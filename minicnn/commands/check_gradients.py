"""`minicnn check-gradients`: the gradient of every layer against differences, on both backends: the layers as they are
written in minicnn/layers ("numpy"), and the compiled steps that the engine makes of them ("numba"), several layers as one
where it can.

Prints the worst relative error for the input and for each parameter. In float64 a correct gradient differs from the
difference quotient by about 1e-9; a wrong one by about 1.
"""

from __future__ import annotations

import argparse

import numpy as np

import minicnn
from minicnn import (
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
    LeakyReLU,
    MaxPool2D,
    ReLU,
    Residual,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from minicnn.say import say


def cases() -> list:
    """(layer, input shape) of every kind of layer and of its less usual settings, and of layers one after another."""
    image, flat = (2, 6, 5, 4), (3, 7)
    return [
        (Conv2D(3, 3), image),
        (Conv2D(3, (3, 2), stride=(2, 1), padding="valid", activation="relu"), image),
        (Conv2D(4, 2, padding=(2, 1), dilation=2, groups=2, use_bias=False), image),
        (DepthwiseConv2D(3, stride=2, activation="silu"), image),
        (Dense(5, activation="tanh"), flat),
        (MaxPool2D(2), image),
        (MaxPool2D(3, stride=2, padding="same"), image),
        (AveragePool2D(3, stride=2, padding="same"), image),
        (GlobalAveragePool2D(), image),
        (GlobalMaxPool2D(), image),
        (Flatten(), image),
        (BatchNorm(), image),
        (BatchNorm(activation="relu"), image),
        (Dropout(0.5), image),
        (ReLU(), image),
        (LeakyReLU(0.1), image),
        (Sigmoid(), image),
        (Tanh(), image),
        (GELU(), image),
        (SiLU(), image),
        (Softmax(), flat),
        (Residual(Conv2D(4, 3), BatchNorm(), activation="relu"), image),
        (Residual(Conv2D(6, 3, stride=2), projection=Conv2D(6, 1, stride=2)), image),
        # the engine applies ReLU in passing, as a part of the step before it
        ([Conv2D(4, 3, use_bias=False), BatchNorm(), ReLU()], image),
        ([BatchNorm(), ReLU()], image),
        ([Conv2D(4, 3), ReLU(), MaxPool2D(), DepthwiseConv2D(3), ReLU()], image),
        ([Residual(Conv2D(4, 3), BatchNorm(), ReLU(), Dropout(0.3), Conv2D(4, 3)), ReLU(), GlobalMaxPool2D()], image),
        ([Flatten(), Dense(6), ReLU(), Dropout(0.3), Dense(5), Softmax()], image),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Check them all; the exit code, 1 where one is wrong."""
    argparse.ArgumentParser(
        prog="minicnn check-gradients",
        description="Check the gradient of every layer against differences, on both backends.",
    ).parse_args(arguments)
    wrong = 0
    for backend in ("numpy", "numba"):
        minicnn.use_backend(backend)
        say(f"\n{backend + ': layer':<100} worst error of each array")
        for layer, shape in cases():
            # distinct, well spaced numbers: no two of a pool's window are so close that a step would change the winner
            rng = np.random.default_rng(0)
            x = rng.permutation(np.linspace(-2, 2, int(np.prod(shape)))).reshape(shape)
            report = minicnn.gradcheck(layer, x)
            own = f"{type(layer).__name__}/"  # a single layer need not be named before each of its arrays
            errors = "  ".join(f"{check.name.removeprefix(own)} {check.error:.0e}" for check in report.checks)
            say(f"{layer!s:<100.100} {errors}{'' if report.ok else '  <-- WRONG'}")
            wrong += not report.ok
    say(f"\n{wrong} wrong" if wrong else "\nall correct")
    return min(wrong, 1)
