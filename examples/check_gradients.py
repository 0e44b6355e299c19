"""Check the gradient of every layer, in both versions of the arithmetic, against differences.

Prints the worst relative error for the input and for each parameter. In float64 a right gradient differs from the
difference quotient by about 1e-9; a wrong one by about 1.
"""

from __future__ import annotations

import sys

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


def cases() -> list:
    """(layer, input shape) of every kind of layer and of its less usual settings."""
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
    ]


def main() -> int:
    wrong = 0
    for backend in ("numpy", "numba"):
        minicnn.use_backend(backend)
        print(f"\n{backend + ': layer':<90} worst error of each array")
        for layer, shape in cases():
            # distinct, well spaced numbers: no two of a pool's window are so close that a step would change the winner
            rng = np.random.default_rng(0)
            x = rng.permutation(np.linspace(-2, 2, int(np.prod(shape)))).reshape(shape)
            report = minicnn.gradcheck(layer, x)
            errors = "  ".join(f"{check.name.split('/', 1)[-1]} {check.error:.0e}" for check in report.checks)
            print(f"{layer!s:<90.90} {errors}{'' if report.ok else '  <-- WRONG'}")
            wrong += not report.ok
    print(f"\n{wrong} wrong" if wrong else "\nall right")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
