"""Batch normalisation and dropout: layers that do one thing in training and another in use."""

from __future__ import annotations

import numpy as np

from minicnn import initializers, ops
from minicnn.layers.activations import WithActivation
from minicnn.layers.base import Layer
from minicnn.parameters import Parameters
from minicnn.seeds import generator


class BatchNorm(WithActivation):
    """Every channel shifted and scaled to mean 0, variance 1, then by what is learnt (Ioffe and Szegedy, 2015).

        y = gamma * (x - mean) / sqrt(variance + epsilon) + beta

    In training, mean and variance are the batch's, and the running ones move towards them:
    running = momentum * running + (1 - momentum) * batch's, the variance taken with m - 1 as in PyTorch. In use, the running
    ones serve, so that a prediction does not depend on the batch it came in. Any shape; channels are the last axis.
    """

    def __init__(self, momentum: float = 0.9, epsilon: float = 1e-5, activation: str | None = None):
        if not 0 <= momentum <= 1 or not epsilon > 0:
            raise ValueError(f"got momentum={momentum!r}, epsilon={epsilon!r}, expected 0 to 1 and a positive number")
        self.momentum, self.epsilon = momentum, epsilon
        self.set_activation(activation)

    def build(self, input_shape: tuple[int, ...], parameters: Parameters) -> tuple[int, ...]:
        c = input_shape[-1:]
        self.gamma = parameters.add("gamma", c, initializers.ones)
        self.beta = parameters.add("beta", c, initializers.zeros)
        self.mean = parameters.add_state("mean", c, 0.0)
        self.variance = parameters.add_state("variance", c, 1.0)
        return input_shape

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        gamma, beta, out = self.gamma.value, self.beta.value, self.buffer("y", x.shape, x.dtype)
        if training:
            y, mean, var = ops.batch_norm(x, gamma, beta, self.epsilon, self.relu, out=out)
            self.save(x, y, mean, var)
            m = x.size // x.shape[-1]
            self._update_running(self.mean.value, mean)
            self._update_running(self.variance.value, var * (m / max(1, m - 1)))
        else:
            scale = gamma / np.sqrt(self.variance.value + self.epsilon)
            y = ops.scale_shift(x, scale, beta - self.mean.value * scale, self.relu, out=out)
        return self.activate(y, training)

    def _update_running(self, running, batch):
        running *= self.momentum
        running += (1 - self.momentum) * batch

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        x, y, mean, var = self.restore()
        return ops.batch_norm_backward(
            *(self.activate_backward(dy), x, y, mean, var, self.gamma.value, self.epsilon),
            *(self.gamma.grad, self.beta.grad, self.relu),
            out=self.buffer("dx", x.shape, x.dtype),
        )


class Dropout(Layer):
    """In training, each number becomes 0 with probability `rate` and the others grow by 1 / (1 - rate); in use, nothing.

    The mask depends on the layer's `seed` (set by the model) and on how many training passes there were. (Srivastava et
    al., 2014)
    """

    seed: tuple[int, ...] = (0,)
    calls = 0

    def __init__(self, rate: float):
        if not 0 <= rate < 1:
            raise ValueError(f"rate: got {rate!r}, expected 0 <= rate < 1")
        self.rate = rate

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        if not training:
            return x
        key = int(generator("dropout", *self.seed, self.calls).integers(2**63))
        self.calls += 1
        self.save(key)
        return ops.dropout(x, self.rate, key, out=self.buffer("y", x.shape, x.dtype))

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        (key,) = self.restore()
        return ops.dropout(dy, self.rate, key, out=self.buffer("dx", dy.shape, dy.dtype))
