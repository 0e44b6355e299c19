"""Optimizers: from a gradient to a step, over the one flat vector of all weights.

Weight decay is decoupled from the gradient (Loshchilov and Hutter, 2019): each step first shrinks the weights by the
factor 1 - rate * decay. It applies to kernels, not to biases and not to batch normalisation. `clip_norm` scales the whole
gradient down to that Euclidean norm where it is longer (Pascanu et al., 2013).
"""

from __future__ import annotations

import inspect
import math

import numpy as np

from minicnn.arguments import choice, flag, number
from minicnn.memory import zeros
from minicnn.names import Named
from minicnn.parameters import Parameters
from minicnn.tables import html_table


class Optimizer(Named):
    """The base: a learning rate, and the moments each kind of optimizer keeps, vectors as long as the weights."""

    moments: tuple[str, ...] = ()

    def __init__(self, learning_rate: float, weight_decay: float = 0.0, clip_norm: float | None = None):
        self.learning_rate = number(learning_rate, "learning_rate", above=0)
        self.weight_decay = number(weight_decay, "weight_decay", least=0)
        self.clip_norm = None if clip_norm is None else number(clip_norm, "clip_norm", above=0)
        self.parameters: Parameters | None = None
        self.steps = 0
        self.vectors: dict[str, np.ndarray] = {}  # the moments

    def attach(self, parameters: Parameters) -> None:
        """Begin anew for other weights than before: moments belong to one model's weights."""
        if self.parameters is not parameters:
            self.parameters, self.steps = parameters, 0
            self.vectors = {name: zeros(parameters.values.shape, parameters.dtype) for name in self.moments}

    def step(self, parameters: Parameters, rate: float | None = None) -> None:
        """Move `parameters.values` one step against `parameters.grads`, at this rate instead of learning_rate."""
        self.attach(parameters)
        self.steps += 1
        if self.clip_norm is not None:
            norm = math.sqrt(np.square(parameters.grads, dtype=np.float64).sum())
            if norm > self.clip_norm:
                parameters.grads *= self.clip_norm / norm
        rate = self.learning_rate if rate is None else rate
        decayed, others = slice(0, parameters.decayed), slice(parameters.decayed, None)
        for part, decay in ((decayed, self.weight_decay), (others, 0.0)):
            moments = [self.vectors[name][part] for name in self.moments]
            self.update(parameters.values[part], parameters.grads[part], *moments, rate, 1 - rate * decay)

    def update(self, w: np.ndarray, dw: np.ndarray, *rest) -> None:
        """The formula, on slices of the vectors, in place: w, dw, the moments; then the rate and `keep`.

        keep = 1 - rate * decay, by which w is multiplied first.
        """
        raise NotImplementedError(f"{type(self).__name__}: update is missing")

    def config(self) -> dict:
        """The constructor's arguments, as far as there are attributes of these names."""
        named = inspect.signature(type(self).__init__).parameters
        return {name: value for name, value in vars(self).items() if name in named}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.config().items())})"

    def _repr_html_(self) -> str:
        return html_table([(type(self).__name__, ""), *self.config().items()])

    def state(self) -> dict:
        """What a checkpoint must keep."""
        return {"steps": self.steps} | {name: vector.copy() for name, vector in self.vectors.items()}

    def restore(self, state: dict) -> None:
        """Take back what `state` gave, after `attach`."""
        self.steps = state["steps"]
        self.vectors = {name: zeros(state[name].shape, state[name].dtype) for name in self.moments}
        for name, vector in self.vectors.items():
            vector[...] = state[name]


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum (Polyak, 1964) and Nesterov's look ahead (Sutskever et al., 2013).

    v = momentum * v + dw        w -= rate * v, or with Nesterov's look ahead w -= rate * (dw + momentum * v)
    """

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
        self.momentum, self.nesterov = number(momentum, "momentum", least=0, below=1), flag(nesterov, "nesterov")

    def update(self, w, dw, velocity, rate, keep):
        velocity[...] = self.momentum * velocity + dw
        w *= keep
        w -= rate * (dw + self.momentum * velocity if self.nesterov else velocity)


class RMSprop(Optimizer):
    """Each weight's step divided by the running root mean square of its gradient (Tieleman and Hinton, 2012).

    s = rho * s + (1 - rho) * dw**2        w -= rate * dw / (sqrt(s) + epsilon)
    """

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
        self.rho, self.epsilon = number(rho, "rho", least=0, below=1), number(epsilon, "epsilon", above=0)

    def update(self, w, dw, square, rate, keep):
        square[...] = self.rho * square + (1 - self.rho) * dw * dw
        w *= keep
        w -= rate * dw / (np.sqrt(square) + self.epsilon)


class Adam(Optimizer):
    """Running means of the gradient and of its square, both corrected for their start at 0 (Kingma and Ba, 2015).

    m = beta1 * m + (1 - beta1) * dw        s = beta2 * s + (1 - beta2) * dw**2        step counts from 1
    w -= rate * (m / (1 - beta1**step)) / (sqrt(s / (1 - beta2**step)) + epsilon)
    """

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
        self.beta1, self.beta2 = number(beta1, "beta1", least=0, below=1), number(beta2, "beta2", least=0, below=1)
        self.epsilon = number(epsilon, "epsilon", above=0)

    def update(self, w, dw, mean, square, rate, keep):
        mean[...] = self.beta1 * mean + (1 - self.beta1) * dw
        square[...] = self.beta2 * square + (1 - self.beta2) * dw * dw
        w *= keep
        root = np.sqrt(square) / math.sqrt(1 - self.beta2**self.steps) + self.epsilon
        w -= rate / (1 - self.beta1**self.steps) * mean / root


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
    return choice(optimizer, "optimizer", BY_NAME, "an Optimizer or ")()
