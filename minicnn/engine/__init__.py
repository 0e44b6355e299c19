"""The fast half: which arithmetic runs, and what it makes of a network.

    use_backend("numba")    layers run as the engine's steps: compiled, threaded, several layers as one (the default)
    use_backend("numpy")    layers run as they stand in minicnn/layers, to read and to step through

The network asks for `steps(layers)`, and for the fast twin of a loss, an optimizer or an input scale with `fast(thing)`;
it does not know which it gets. Numba is looked for only here, and loaded only when it is first needed.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from minicnn import versions
from minicnn.layers import sequence
from minicnn.layers.base import Layer
from minicnn.say import warn

Thing = TypeVar("Thing")


def use_backend(name: str) -> None:
    """Let every network run on "numba" or on "numpy" from here on, in the whole process."""
    global _backend
    if name not in ("numba", "numpy"):
        raise ValueError(f'backend: got {name!r}, expected "numba" or "numpy"')
    if name == "numba" and not _installed:
        raise ValueError('backend: Numba is not installed, expected "numpy" (or: pip install numba)')
    _backend = name


def backend() -> str:
    """The name of the arithmetic in use: "numba" or "numpy"."""
    return _backend


def check_precision(precision: str) -> None:
    """An error unless products can have that precision here."""
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f'precision: got {precision!r}, expected "float32" or "bfloat16"')
    if precision == "bfloat16":
        if _backend == "numpy":
            raise ValueError('precision: got "bfloat16" with backend "numpy", which has none; expected "float32"')
        from minicnn.engine.lanes import has_bfloat16

        if not has_bfloat16():
            raise ValueError(
                'precision: got "bfloat16", which takes a processor with AVX512_BF16 and Numba 0.62; expected "float32"'
            )


def steps(layers: list[Layer], precision: str = "float32") -> list[Layer]:
    """What runs instead of these layers, in order: the engine's steps, or with "numpy" the layers themselves."""
    check_precision(precision)
    if _backend == "numpy":
        return layers
    from minicnn.engine import compile  # loads Numba

    return compile.compile(layers, bfloat16=precision == "bfloat16")


def forward(steps: list[Layer], x: np.ndarray, training: bool) -> np.ndarray:
    """`sequence.forward` of what `steps` gave, faster."""
    return _passes().forward(steps, x, training)


def learn(steps: list[Layer], dy: np.ndarray) -> None:
    """`sequence.learn` of what `steps` gave, faster."""
    _passes().learn(steps, dy)


def _passes():
    if _backend == "numpy":
        return sequence
    from minicnn.engine import compile

    return compile


def in_use(
    layers: list[Layer], scale, dtype: str, input_shape: tuple[int, ...], precision: str = "float32"
) -> list[Layer]:
    """What runs instead of layers that only predict: programs, the first of which has an `ask` for images; or the layers."""
    check_precision(precision)
    if _backend == "numpy":
        return layers
    from minicnn.engine import program

    return program.in_use(layers, scale, np.dtype(dtype), input_shape, precision == "bfloat16")


def fast(thing: Thing) -> Thing:
    """The fast twin of a loss, an optimizer or a scale of inputs: what it computes, and its state; or the thing itself."""
    if _backend == "numpy":
        return thing
    from minicnn.engine import compile

    return compile.fast(thing)


def measured_peak(dtype) -> float:
    """The most floating-point operations a second that this machine's cores reach; 0 with "numpy", which has no measure."""
    if _backend == "numpy":
        return 0.0
    from minicnn.engine import peak

    return peak.peak(dtype)


def set_threads(n: int) -> None:
    """Use n threads for every kernel from here on: at most as many as there were cores at the start."""
    if _installed:
        from minicnn.engine import threads

        threads.set_threads(n)
    elif n != 1:
        raise ValueError(f"threads: got {n!r}, expected 1, for Numba is not installed")


def get_threads() -> int:
    """How many threads the kernels use."""
    if not _installed:
        return 1
    from minicnn.engine import threads

    return threads.get_threads()


_installed = versions.installed("numba")
_backend = "numba" if _installed else "numpy"
if not _installed:
    warn("minicnn: Numba is not installed; networks run on NumPy, many times slower")
