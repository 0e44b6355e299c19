"""Optimizers: from a gradient to a step, over the one flat vector of all weights.

The formulas are in minicnn/ops/reference.py, beside `sgd_step`, `rmsprop_step` and `adam_step`. Weight decay is decoupled
from the gradient (Loshchilov and Hutter, 2019): each step first shrinks the weights by the factor 1 - rate * decay.
It applies to kernels, not to biases and not to batch normalisation. `clip_norm` scales the whole gradient down to that
Euclidean norm where it is longer (Pascanu et al., 2013).
"""

from __future__ import annotations

import math

import numpy as np

from minicnn import ops
from minicnn.parameters import Parameters


class Optimizer:
    """The base: a learning rate, and the moments each kind of optimizer keeps, vectors as long as the weights."""

    moments: tuple[str, ...] = ()

    def __init__(self, learning_rate: float, weight_decay: float = 0.0, clip_norm: float | None = None):
        if not learning_rate > 0 or not math.isfinite(learning_rate):
            raise ValueError(f"learning_rate: got {learning_rate!r}, expected a positive number")
        if weight_decay < 0 or (clip_norm is not None and not clip_norm > 0):
            raise ValueError(f"got weight_decay={weight_decay!r}, clip_norm={clip_norm!r}, expected positive numbers")
        self.learning_rate, self.weight_decay, self.clip_norm = learning_rate, weight_decay, clip_norm
        self.parameters: Parameters | None = None
        self.steps = 0
        self.state: dict[str, np.ndarray] = {}

    def step(self, parameters: Parameters, rate: float | None = None) -> None:
        """Move `parameters.values` one step against `parameters.grads`, at this rate instead of learning_rate."""
        if self.parameters is not parameters:  # moments belong to one model's weights
            self.parameters = parameters
            self.state = {name: np.zeros_like(parameters.values) for name in self.moments}
            self.steps = 0
        self.steps += 1
        clip = 1.0
        if self.clip_norm is not None:
            norm = math.sqrt(ops.sum_of_squares(parameters.grads))
            clip = min(1.0, self.clip_norm / norm) if norm > 0 else 1.0
        rate = self.learning_rate if rate is None else rate
        for part, decay in (
            (slice(0, parameters.decayed), self.weight_decay),
            (slice(parameters.decayed, None), 0.0),
        ):
            moments = [self.state[name][part] for name in self.moments]
            self.update(parameters.values[part], parameters.grads[part], *moments, rate, decay, clip)

    def update(self, w, dw, *rest) -> None:
        """The formula, on slices of the vectors: w, dw, the moments, then rate, decay and clip."""
        raise NotImplementedError


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum (Polyak, 1964) and Nesterov's look ahead (Sutskever et al., 2013)."""

    moments = ("velocity",)

    def __init__(
        self,
        learning_rate: float = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ):
        super().__init__(learning_rate, weight_decay, clip_norm)
        self.momentum, self.nesterov = momentum, nesterov

    def update(self, w, dw, velocity, rate, decay, clip):
        ops.sgd_step(w, dw, velocity, rate, self.momentum, self.nesterov, decay, clip)


class RMSprop(Optimizer):
    """Each weight's step divided by the running root mean square of its gradient (Tieleman and Hinton, 2012)."""

    moments = ("square",)

    def __init__(
        self,
        learning_rate: float = 1e-3,
        rho: float = 0.9,
        epsilon: float = 1e-7,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ):
        super().__init__(learning_rate, weight_decay, clip_norm)
        self.rho, self.epsilon = rho, epsilon

    def update(self, w, dw, square, rate, decay, clip):
        ops.rmsprop_step(w, dw, square, rate, self.rho, self.epsilon, decay, clip)


class Adam(Optimizer):
    """Running means of the gradient and of its square, both corrected for their start at 0 (Kingma and Ba, 2015)."""

    moments = ("mean", "square")

    def __init__(
        self,
        learning_rate: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ):
        super().__init__(learning_rate, weight_decay, clip_norm)
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon

    def update(self, w, dw, mean, square, rate, decay, clip):
        numbers = rate, self.beta1, self.beta2, self.epsilon, decay, clip, self.steps
        ops.adam_step(w, dw, mean, square, *numbers)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), by default 0.01."""

    def __init__(
        self,
        learning_rate: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.01,
        clip_norm: float | None = None,
    ):
        super().__init__(learning_rate, beta1, beta2, epsilon, weight_decay, clip_norm)


BY_NAME = {"adam": Adam, "adamw": AdamW, "sgd": SGD, "rmsprop": RMSprop}


def get(optimizer: str | Optimizer) -> Optimizer:
    """The optimizer of that name with its defaults, or the object itself."""
    if isinstance(optimizer, Optimizer):
        return optimizer
    if optimizer not in BY_NAME:
        raise ValueError(f"optimizer: got {optimizer!r}, expected an Optimizer or one of {', '.join(BY_NAME)}")
    return BY_NAME[optimizer]()
