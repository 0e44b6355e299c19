"""All weights of a model in one flat vector, all their gradients in another.

A layer asks for its arrays while the model is built; when every layer has asked, two vectors are made, and each layer's
`value` and `grad` become views into them. An optimizer's step, clipping, averaging, a check for NaN, a checkpoint: each is
then one line on one vector, whatever the layers are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from minicnn.memory import zeros


class Array:
    """A named part of a model's vectors; a copy or a file holds the vectors, and not their parts once more."""

    value: np.ndarray  # from `allocate` on; None in a copy of a layer, which is in no network
    least = -math.inf  # no number of it is below

    def __init__(self, name: str, shape: tuple[int, ...]):
        self.name, self.shape = name, tuple(shape)

    def __getstate__(self) -> dict:
        return vars(self) | dict.fromkeys({"value", "grad"} & set(vars(self)))


class Parameter(Array):
    """An array that is learnt: `value`, its gradient `grad`, and whether weight decay applies to it."""

    grad: np.ndarray

    def __init__(self, name: str, shape: tuple[int, ...], initialize: Callable, decay: bool):
        super().__init__(name, shape)
        self.initialize, self.decay = initialize, decay


class Statistic(Array):
    """An array that is kept with the weights but not learnt by gradients, such as a running mean."""

    def __init__(self, name: str, shape: tuple[int, ...], fill: float, least: float = -math.inf):
        super().__init__(name, shape)
        self.fill, self.least = fill, least


class Parameters:
    """The arrays of a model. `values`, `grads` and `statistics` are the flat vectors.

    In `values` those that weight decay applies to come first, so that they are one slice: `values[:decayed]`.
    """

    def __init__(self, dtype: str = "float32"):
        self.dtype = np.dtype(dtype)
        self.parameters: list[Parameter] = []
        self.all_statistics: list[Statistic] = []

    def add(self, name: str, shape: Sequence[int], initialize: Callable, decay: bool | None = None) -> Parameter:
        """Ask for an array; initialize(shape, rng) gives its first values.

        By default weight decay applies to arrays of two dimensions and more: not to biases, scales and shifts.
        """
        parameter = Parameter(name, tuple(shape), initialize, len(shape) > 1 if decay is None else decay)
        self.parameters.append(parameter)
        return parameter

    def add_statistic(self, name: str, shape: Sequence[int], fill: float, least: float = -math.inf) -> Statistic:
        """Ask for an array that is not learnt, filled with one number at first; no number may ever be below `least`."""
        statistic = Statistic(name, tuple(shape), fill, least)
        self.all_statistics.append(statistic)
        return statistic

    def allocate(self, rng: np.random.Generator | None) -> None:
        """Make the vectors, hand out the views, and draw the first values in the order the arrays were asked for.

        Without an rng all learnt values stay 0, for arrays that will be read from a file.
        """
        size = sum(math.prod(p.shape) for p in self.parameters)
        self.values, self.grads = zeros((size,), self.dtype), zeros((size,), self.dtype)
        self.statistics = np.zeros(sum(math.prod(s.shape) for s in self.all_statistics), self.dtype)
        self.make_views()
        for p in self.parameters if rng else ():
            first = np.asarray(p.initialize(p.shape, rng), float)
            if first.shape != p.shape or not np.isfinite(first).all():
                raise ValueError(f"{p.name}: got {first.shape} from its initializer, expected finite numbers {p.shape}")
            p.value[...] = first
        for s in self.all_statistics:
            s.value[...] = s.fill

    def make_views(self) -> None:
        """Point every array at its part of the vectors."""
        order = sorted(self.parameters, key=lambda p: not p.decay)
        self.decayed = sum(math.prod(p.shape) for p in order if p.decay)
        at = 0
        for p in order:
            end = at + math.prod(p.shape)
            p.value, p.grad = self.values[at:end].reshape(p.shape), self.grads[at:end].reshape(p.shape)
            at = end
        at = 0
        for s in self.all_statistics:
            end = at + math.prod(s.shape)
            s.value = self.statistics[at:end].reshape(s.shape)
            at = end

    def __getstate__(self) -> dict:
        return {k: v for k, v in vars(self).items() if k != "grads"}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self.grads = zeros(self.values.shape, self.dtype)
        self.make_views()

    def finite(self) -> bool:
        """Whether every weight and running statistic is a finite number."""
        return bool(np.isfinite(self.values).all() and np.isfinite(self.statistics).all())

    def state(self) -> dict[str, np.ndarray]:
        """Copies of the vectors, for a checkpoint or to go back to."""
        return {"values": self.values.copy(), "statistics": self.statistics.copy()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Take back what `state` gave."""
        self.values[...], self.statistics[...] = state["values"], state["statistics"]
