"""Compiling ahead on another core: what a training step needs last, while its first kernels are being compiled.

The first run of all compiles for twenty seconds, and Numba compiles one kernel at a time. So the process that has to compile
the large kernel of the forward pass starts another one, which runs this file: it compiles the kernels of the backward pass,
and those of a program in use, into the same cache, where the first finds them. Nothing depends on it: what is not there in
time is compiled as usual.
"""

from __future__ import annotations

import numpy as np

from minicnn import inputs, layers
from minicnn.engine import compiling, normalization, pooling, program, training
from minicnn.engine.compile import compile
from minicnn.engine.convolution import Convolution
from minicnn.layers import sequence
from minicnn.optimizers import Adam
from minicnn.parameters import Parameters


def compile_backward() -> None:
    """Run backward, and nothing else, through a small network whose arrays have the types of a real one's."""
    compiling.Announcer.said = compiling.Announcer.helped = True
    head = [layers.Conv2D(32, 3, use_bias=False), layers.MaxPool2D(), layers.BatchNorm(activation="relu")]
    tail = [layers.Conv2D(32, 3, use_bias=False), layers.GlobalMaxPool2D(), layers.Dense(10)]
    parameters = Parameters()
    sequence.build(head + tail, (4, 4, 1), parameters)
    parameters.allocate(None)
    for step in compile(head + tail):
        x, y = (np.zeros((1, *shape), np.float32) for shape in (step.input_shape, step.output_shape))
        saved: tuple = (x, y)
        if isinstance(step, Convolution):
            saved = x, step.behind(y, y, step.winner(y))
        elif isinstance(step, normalization.BatchNorm):
            mean, line = np.zeros(y.shape[-1]), np.zeros((5, y.shape[-1]), np.float32)
            saved = x, step.winner(y), mean, mean + 1, line
        elif isinstance(step, pooling.GlobalMaxPool):
            saved = np.zeros(y.shape, np.uint8), x.shape
        step.save_for_backward(*saved)
        step.backward(y)
    training.FastAdam(Adam()).step(parameters)
    program.Program(head + tail, inputs.Scale(), np.dtype(np.float32), (4, 4, 1), bfloat16=False).get_ready()
