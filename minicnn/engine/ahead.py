"""Compiling ahead on other cores: what a training step needs last, while its first kernels are being compiled.

The first run of all compiles for seconds, and Numba compiles one kernel at a time. So the process that has to compile the
first of them starts others, which run this file. Each makes the network anew from its description, goes through a training
step in which every kernel notes its arguments' types and does nothing, and compiles what was noted, from the end to the
beginning, into the same cache, where the first process finds it. Nothing depends on it: what is not there in time is
compiled as usual, and where a layer is a user's own, nobody compiles ahead.
"""

from __future__ import annotations

import json
import os

import numpy as np

from minicnn import engine
from minicnn.engine import compiling, program, threads, training
from minicnn.export.known import check_layers
from minicnn.model import Sequential
from minicnn.model_files import declare, describe
from minicnn.network import Network
from minicnn.optimizers import Adam


def description(network: Network) -> str:
    """All that another process needs to know of a network, as JSON; TypeError where a layer is a user's own."""
    check_layers(network)
    return json.dumps([describe(network), network.precision])


def compile_ahead(text: str, part: int, parts: int) -> None:
    """Compile every `parts`-th kernel, and in the end, for predictions, what a program needs."""
    compiling.Announcer.said = compiling.Announcer.helped = True
    os.nice(10)  # a container may have fewer cores than it shows: then the process that waits goes first
    config, precision = json.loads(text)
    model = declare(Sequential, config)
    engine.check_precision(precision)
    model.precision = precision
    model.parameters.allocate(None)
    for launch, signature in needed(model)[::-1][part::parts]:
        launch.compile(signature)
    dtype, bfloat16 = np.dtype(model.dtype), precision == "bfloat16"
    for one in program.in_use(model.layers, model.scale, dtype, model.input_shape, bfloat16):
        if isinstance(one, program.Program):
            one.get_ready()


def needed(model: Network) -> list[tuple]:
    """The kernels of a training step with Adam, in their order: what compiles each, and for which types."""
    threads.noted = {}
    with np.errstate(all="ignore"):  # no kernel computes, so whatever lies in memory is taken for its result
        y = model.forward(np.zeros((8, *model.input_shape), model.dtype), training=True)
        model.backward(y)
        training.FastAdam(Adam()).step(model.parameters)
    noted, threads.noted = threads.noted, None
    return list(noted)
