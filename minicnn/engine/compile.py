"""From a list of layers to the list of steps that the engine runs, what as one and in which memory; and a pass through it.

A layer's activation is a layer behind it, whether written as `activation=` or as a layer of its own. ReLU behind a layer
that can apply it in passing becomes part of that layer's step, and so does a pool of 2 x 2, with the same bits. A layer that
the engine does not know, such as a user's own, is its own step, and so stands in the middle of the others as it is.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterator
from itertools import groupby

import numpy as np

from minicnn import inputs, layers, losses, optimizers
from minicnn.engine import compiling
from minicnn.engine.activations import KERNELS, Activation, add, relu_backward
from minicnn.engine.calls import waiting
from minicnn.engine.convolution import Convolution
from minicnn.engine.dense import Dense
from minicnn.engine.depthwise import Depthwise
from minicnn.engine.dropout import Dropout
from minicnn.engine.memory import Turns
from minicnn.engine.normalization import BatchNorm, Normalized
from minicnn.engine.pooling import AveragePool, GlobalAveragePool, GlobalMaxPool, MaxPool
from minicnn.engine.step import Step
from minicnn.engine.training import FastAdam, FastAdamW, FastCrossEntropy, FastRMSprop, FastScale, FastSGD
from minicnn.engine.widened import Widened, runs_wider
from minicnn.layers import sequence
from minicnn.layers.activations import Identity, ReLU
from minicnn.layers.base import Layer
from minicnn.layers.description import LAYERS, describe_layer
from minicnn.layers.windows import Window


class Residual(Step):
    """The branch's steps, then the sum with the shortcut, and ReLU in passing."""

    layer: layers.Residual
    fuses = (ReLU,)

    def __init__(self, layer: Layer, activation: Layer | None, pool: Layer | None, turns: Turns | None):
        super().__init__(layer, activation, pool, turns)
        # Their results lie in memory of their own: dy is still needed when the branch's backward has run.
        self.branch, self.shortcut = _compile(self.layer.branch, None), _compile(self.layer.shortcut, None)

    def inside(self) -> list[Layer]:
        return self.branch + self.shortcut

    def forward(self, x, training=False):
        branch, shortcut = (forward(part, x, training) for part in (self.branch, self.shortcut))
        y = self.y(x, training)
        add(branch, shortcut, self.relu, y)
        if training:
            self.save_for_backward(y)
        return y

    def backward(self, dy):
        (y,) = self.saved
        if self.relu:
            dy = relu_backward(dy, y, self.buffer("dy", dy.shape, dy.dtype))
        branch, shortcut = (backward(part, dy) for part in (self.branch, self.shortcut))
        dx = self.dx(branch.shape, dy.dtype)
        if self.needs_dx:
            add(branch, shortcut, False, dx)
        return dx


STEPS: dict[type[Layer], type[Step]] = {
    layers.Conv2D: Convolution,
    layers.DepthwiseConv2D: Depthwise,
    layers.Dense: Dense,
    layers.BatchNorm: BatchNorm,
    layers.Residual: Residual,
    layers.Dropout: Dropout,
    layers.MaxPool2D: MaxPool,
    layers.AveragePool2D: AveragePool,
    layers.GlobalMaxPool2D: GlobalMaxPool,
    layers.GlobalAveragePool2D: GlobalAveragePool,
    **dict.fromkeys(KERNELS, Activation),
}
TWINS = {
    losses.CrossEntropy: FastCrossEntropy,
    optimizers.SGD: FastSGD,
    optimizers.RMSprop: FastRMSprop,
    optimizers.Adam: FastAdam,
    optimizers.AdamW: FastAdamW,
    inputs.Scale: FastScale,
}


def compile(layers: list[Layer], bfloat16: bool = False) -> list[Layer]:
    """The steps of a network's layers, in order; the first that learns computes no dx, for which nobody asks.

    With bfloat16 those that multiply matrices do it in that precision.
    """
    compiling.describe = describer(layers, bfloat16)
    compiled = _compile(layers, Turns())
    for step in _all(compiled):
        step.bfloat16 = bfloat16
    first = compiled[sequence.first_that_learns(compiled)]
    if isinstance(first, Step):
        first.needs_dx = False
    ours = [getattr(step, "convolution", step) for step in compiled if isinstance(step, Step)]
    for step, a_pass in zip(ours[:1] + ours[-1:], ("y in use", "dx"), strict=False):
        step.opens += (a_pass,)
    return compiled


def describer(layers: list[Layer], bfloat16: bool) -> Callable[[], str]:
    """A function that describes the network for ahead.py, as JSON; "" where it is gone, has a layer of the user's own or is
    not of float32."""
    weak = [weakref.ref(layer) for layer in layers]

    def describe() -> str:
        alive = [layer for reference in weak if (layer := reference()) is not None]
        inner = [one for layer in alive for one in layer.layers()]
        known = all(type(one) in LAYERS.values() for one in inner if not isinstance(one, Identity))
        dtypes = {w.value.dtype for one in inner for w in one.weights()}
        if len(alive) < len(weak) or not known or dtypes != {np.dtype(np.float32)}:
            return ""
        return json.dumps([[describe_layer(layer) for layer in alive], alive[0].input_shape, bfloat16])

    return describe


def forward(steps: list[Layer], x: np.ndarray, training: bool) -> np.ndarray:
    """`sequence.forward`; the kernels of steps that follow each other run when Python is done with them all."""
    for wait, run in groupby(steps, _may_wait):
        with waiting(wait):
            x = sequence.forward(list(run), x, training)
    return x


def backward(steps: list[Layer], dy: np.ndarray) -> np.ndarray:
    """`sequence.backward`, likewise."""
    for wait, run in groupby(reversed(steps), _may_wait):
        with waiting(wait):
            dy = sequence.backward(list(run)[::-1], dy)
    return dy


def learn(steps: list[Layer], dy: np.ndarray) -> None:
    """`sequence.learn`, likewise."""
    first, *others = steps
    with waiting(_may_wait(first)):
        first.backward(backward(others, dy))


def _may_wait(step: Layer) -> bool:
    """Whether only kernels read what kernels write: in steps of the engine's, and where an array gets another shape."""
    return isinstance(step, Step) or type(step) is layers.Flatten


def _all(steps: list[Layer]) -> Iterator[Step]:
    """The engine's own steps, those inside others too."""
    for step in steps:
        if isinstance(step, Step):
            yield from (step, *_all(step.inside()))


def _compile(layers: list[Layer], turns: Turns | None) -> list[Layer]:
    parts = [part for layer in layers for part in _parts(layer)]
    compiled: list[Layer] = []
    while parts:
        layer = parts.pop(0)
        kind = STEPS.get(type(layer))
        if runs_wider(layer):
            kind = Widened
        if kind is None:
            compiled.append(layer)
            continue
        activation = parts.pop(0) if parts and type(parts[0]) in kind.fuses else None
        pool = parts.pop(0) if kind.fuses_pool and parts and _halves(parts[0]) else None
        step = kind(layer, activation, pool, turns)
        last = compiled[-1] if compiled else None
        if isinstance(last, BatchNorm | Normalized) and isinstance(step, Convolution | Depthwise):
            last.leave_to(step)
        if isinstance(step, BatchNorm) and last is not None:
            compiled[-1:] = step.follow(last)
        else:
            compiled.append(step)
    return compiled


def _halves(layer: Layer) -> bool:
    """Whether it is the usual pool: the largest of windows of 2 x 2, side by side, that leave no pixel over."""
    plain = type(layer) is layers.MaxPool2D and layer.window == Window((2, 2), (2, 2))
    return plain and all(size % 2 == 0 for size in layer.input_shape[:2])


def _parts(layer: Layer) -> list[Layer]:
    """A layer, and the activation that it ends in."""
    activate = getattr(layer, "activate", None)
    if type(layer) not in STEPS or activate is None or type(activate) is Identity:
        return [layer]
    return [layer, activate]


def fast(thing):
    """The twin of a loss, an optimizer or a scale of exactly these types, or the thing itself."""
    kind = TWINS.get(type(thing))
    return thing if kind is None else kind(thing)
