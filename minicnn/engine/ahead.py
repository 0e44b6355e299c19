"""Compiling ahead on other cores: what a training step needs last, while its first kernels are being compiled.

The first run of all compiles for seconds, and Numba compiles one kernel at a time. So the process that has to compile the
first of them starts others, which run this file. Each makes the network anew from its description, goes through a training
step in which every kernel that is spread over threads notes its arguments' types and does nothing, and compiles what was
noted, from the end to the beginning, into the same cache, where the first process finds it. Nothing depends on it: what is
not there in time is compiled as usual.
"""

from __future__ import annotations

import json
import os

import numpy as np

from minicnn import inputs, optimizers
from minicnn.engine import calls, compile, compiling, program
from minicnn.layers import BatchNorm, Dropout, Layer, sequence
from minicnn.layers.description import LAYERS, construct_layer
from minicnn.parameters import Parameters


def compile_ahead(text: str, part: int, parts: int) -> None:
    """Compile every `parts`-th kernel, and in the end what predictions need."""
    compiling.Announcer.said = compiling.Announcer.helped = True
    described, input_shape, bfloat16 = json.loads(text)
    network = [construct_layer(item, LAYERS, "layers") for item in described]
    parameters = Parameters()
    sequence.build(network, input_shape, parameters)
    parameters.allocate(None)
    for launch, signature in needed(network, parameters, bfloat16)[::-1][part::parts]:
        with launch._cache.marked():
            launch.compile(signature)
    folded = [layer for layer in network if not isinstance(layer, BatchNorm | Dropout)]
    for one in program.in_use(folded, inputs.Scale(), np.dtype(np.float32), input_shape, bfloat16):
        if isinstance(one, program.Program):
            one.get_ready()


def stand_back() -> None:
    """Run only where a core is idle. The first process may be training by now: at the end of each kernel all its threads
    wait for the last, and one that shares its core would be late by more than most kernels take."""
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.nice(19)


def needed(network: list[Layer], parameters: Parameters, bfloat16: bool) -> list[tuple]:
    """The kernels of a training step with Adam, in their order: what compiles each, and for which types."""
    steps, calls.noted = compile.compile(network, bfloat16), {}
    with np.errstate(all="ignore"):  # what was not computed is whatever lies in memory
        dy = sequence.forward(steps, np.zeros((8, *network[0].input_shape), np.float32), training=True)
        sequence.learn(steps[sequence.first_that_learns(steps) :], dy)
        compile.fast(optimizers.Adam()).step(parameters)
    noted, calls.noted = calls.noted, None
    return list(noted)
