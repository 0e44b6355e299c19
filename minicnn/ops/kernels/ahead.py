"""Compiling ahead on another core: what a training step needs last, while its first kernels are being compiled.

The first run of all compiles for twenty seconds, and Numba compiles one kernel at a time. So the process that has to compile
the large kernel of the forward pass starts another one, which compiles those of the backward pass into the same cache, where
the first finds them. Nothing depends on it: what is not there in time is compiled as usual.
"""

from __future__ import annotations

import os
import sys

import numpy as np

PROGRAM = "import sys; sys.path[:] = {path!r}; from minicnn.ops.kernels import ahead; ahead.compile_backward()"


def start() -> None:
    """Start the other process, where there is a Python to start; it ends by itself, and says nothing."""
    if not hasattr(os, "posix_spawn") or not sys.executable or getattr(sys, "frozen", False):
        return
    quiet = [(os.POSIX_SPAWN_OPEN, handle, os.devnull, os.O_RDWR, 0) for handle in (0, 1, 2)]
    command = [sys.executable, "-c", PROGRAM.format(path=sys.path)]
    try:
        os.posix_spawn(sys.executable, command, os.environ, file_actions=quiet, setsid=True)
    except (OSError, NotImplementedError):
        pass


def compile_backward() -> None:
    """Call the kernels on the smallest arrays that have the types of a network's."""
    from minicnn import ops
    from minicnn.ops.kernels import compiling

    compiling.Announcer.said = compiling.Announcer.helped = True
    plain = (1, 1), ((1, 1), (1, 1)), (1, 1), 1

    def zeros(*shape):
        return np.zeros(shape, np.float32)

    x32, w = zeros(1, 4, 4, 32), zeros(3, 3, 32, 32)
    ops.conv2d_backward(x32, x32, w, x32, zeros(*w.shape), None, *plain, False)
    ops.dense_backward(zeros(1, 10), zeros(1, 32), zeros(32, 10), zeros(1, 10), zeros(32, 10), zeros(10))
    w = zeros(3, 3, 1, 32)
    ops.conv2d_backward(x32, zeros(1, 4, 4, 1), w, x32, zeros(*w.shape), None, *plain, False, need_dx=False)
    channels = zeros(32)
    ops.batch_norm_backward(x32, x32, x32, channels, channels, channels, 1e-5, channels, channels, True)
    ops.global_max_pool2d_backward(zeros(1, 32), np.zeros((1, 32), np.uint8), (1, 4, 4, 32))
    pooled = zeros(1, 2, 2, 32)
    ops.max_pool2d_backward(pooled, pooled.astype(np.uint8), (1, 4, 4, 32), (2, 2), (2, 2), ((0, 0), (0, 0)))
    ops.adam_step(*(zeros(8) for _ in range(4)), 1e-3, 0.9, 0.999, 1e-8, 0.0, 1.0, 1)
