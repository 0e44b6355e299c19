"""A step: a layer as the engine runs it, with what is done in passing behind it, activation and pool, and its memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from minicnn.engine.before import Before, nothing
from minicnn.engine.behind import Behind
from minicnn.engine.memory import Turns, contiguous, empty
from minicnn.layers.activations import ReLU
from minicnn.layers.base import Layer


class Step(Layer):
    """The base of the engine's steps: a layer's two methods, on the weights of the layer it stands for.

    Results that backward will read lie in memory of the step's own, the same at every pass; what only the next step reads
    (dx, and y when nothing is trained) lies in the network's two `turns`, or in the step's own where it has none. Batch
    norm's dx may lie where its x was.
    """

    fuses: tuple[type[Layer], ...] = ()  # the activations that it applies in passing
    fuses_pool = False
    needs_dx = True
    bfloat16 = False  # whether its products are of numbers in bfloat16
    carried: Before | None = None  # what the batch norm in front of it has left to it
    opens: tuple[str, ...] = ()  # the passes, "y in use" or "dx", of which this is the first step

    def __init__(self, layer: Layer, activation: Layer | None, pool: Layer | None, turns: Turns | None):
        self.layer, self.turns = layer, turns
        self.fused = [one for one in (layer, activation, pool) if one is not None]
        self.relu, self.pool = type(activation) is ReLU, pool is not None
        self.name, self.macs = "+".join(one.name for one in self.fused), layer.macs
        self.input_shape, self.output_shape = layer.input_shape, self.fused[-1].output_shape
        self.buffers: dict[str, np.ndarray] = {}

    def layers(self) -> list[Layer]:
        return [inner for layer in self.fused for inner in layer.layers()]

    def inside(self) -> list[Layer]:
        """The steps that this one consists of, where it does."""
        return []

    def buffer(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        """An uninitialised array of this step's own; a smaller batch than before gets the front part of it."""
        have = self.buffers.get(name)
        if have is None or have.dtype != dtype or have.shape[1:] != shape[1:] or len(have) < shape[0]:
            have = self.buffers[name] = empty(shape, dtype)
        return have[: shape[0]]

    def y(self, x: np.ndarray, training: bool) -> np.ndarray:
        """Memory for the result."""
        shape = (len(x), *self.output_shape)
        return self.buffer("y", shape, x.dtype) if training else self._passing("y in use", shape, x.dtype)

    def winner(self, y: np.ndarray) -> np.ndarray:
        """Flat memory for which of its window's pixels each number of a pooled y is; empty where nothing pools."""
        return self.buffer("winner", (y.size if self.pool else 0,), np.uint8)

    def behind(self, dy: np.ndarray, y: np.ndarray, winner: np.ndarray) -> Behind:
        """What backward reads in place of its layer's own dy."""
        flat = contiguous(dy).reshape(-1), y.reshape(-1)
        return Behind(*flat, winner, self.relu, self.pool, norm=False, line=np.empty(0, y.dtype))

    def before(self, dtype: np.dtype) -> Before:
        """What becomes of x before the layer takes it."""
        return self.carried or nothing(dtype)

    def dx(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Memory for dx, or an empty array where nobody needs it."""
        return self._passing("dx", shape, dtype) if self.needs_dx else np.empty((0,) * len(shape), dtype)

    def _passing(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        if self.turns is None:
            return self.buffer(name, shape, dtype)
        return self.turns.next(shape, dtype, anew=name in self.opens)
