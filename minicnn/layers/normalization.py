"""Batch normalisation: one thing in training, another in use."""

from __future__ import annotations

import math

import numpy as np

from minicnn import initializers
from minicnn.arguments import number
from minicnn.layers import activations
from minicnn.layers.base import Layer
from minicnn.parameters import Parameters


class BatchNorm(Layer):
    """Every channel shifted and scaled to mean 0, variance 1, then by what is learnt (Ioffe and Szegedy, 2015).

        xhat = (x - mean) / sqrt(variance + epsilon)        y = activation(gamma * xhat + beta)

    In training, mean and (biased) variance of each channel are the batch's, over all axes but the last. The running ones
    move towards them: running = momentum * running + (1 - momentum) * batch's, with the unbiased variance, which divides
    by one less than the numbers that a channel has, as in PyTorch. In use the running ones serve, so that a prediction
    does not depend on the batch it came in.

    With m numbers a channel, the chain rule, through mean and variance too, gives

        dbeta = sum(dy)      dgamma = sum(dy * xhat)
        dx = gamma / sqrt(variance + epsilon) * (dy - dbeta / m - xhat * dgamma / m)

    The two subtracted terms are what flows back through the mean and through the variance: a change of x that only
    shifts or stretches the whole channel leaves y as it is, so dx has no part in those directions.
    """

    def __init__(self, momentum: float = 0.9, epsilon: float = 1e-5, activation: str | None = None):
        self.momentum = number(momentum, "momentum", least=0, most=1)
        self.epsilon = number(epsilon, "epsilon", above=0, most=1e30)
        self.activation, self.activate = activation, activations.get(activation)

    def build(self, input_shape: tuple[int, ...], parameters: Parameters) -> tuple[int, ...]:
        c = input_shape[-1:]
        self.gamma = parameters.add("gamma", c, initializers.ones)
        self.beta = parameters.add("beta", c, initializers.zeros)
        self.mean = parameters.add_statistic("mean", c, 0.0)
        self.variance = parameters.add_statistic("variance", c, 1.0, least=0)
        return input_shape

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        mean, variance = self.mean.value, self.variance.value
        if training:
            axes = tuple(range(x.ndim - 1))
            mean, variance = x.mean(axis=axes), x.var(axis=axes)
            self.update_running(mean, variance, x.size // x.shape[-1])
        inverse_std = 1 / np.sqrt(variance + self.epsilon)
        xhat = (x - mean) * inverse_std
        if training:
            self.save_for_backward(xhat, inverse_std)
        return self.activate.forward(self.gamma.value * xhat + self.beta.value, training)

    def in_use(self) -> tuple[np.ndarray, np.ndarray]:
        """(scale, shift), each (c,) float64: without its activation the layer in use is y = scale * x + shift."""
        gamma, beta, mean, variance = (w.value.astype(float) for w in (self.gamma, self.beta, self.mean, self.variance))
        scale = gamma / np.sqrt(variance + self.epsilon)
        return scale, beta - mean * scale

    def update_running(self, mean: np.ndarray, variance: np.ndarray, m: int) -> None:
        """Move the running statistics towards those of a batch with m numbers a channel."""
        unbiased = variance * (m / max(1, m - 1))
        for running, batch in ((self.mean, mean), (self.variance, unbiased)):
            running.value[...] = self.momentum * running.value + (1 - self.momentum) * batch

    def backward(self, dy: np.ndarray) -> np.ndarray:
        xhat, inverse_std = self.saved
        dy = self.activate.backward(dy)
        axes, m = tuple(range(dy.ndim - 1)), float(math.prod(dy.shape[:-1]))
        dbeta, dgamma = dy.sum(axis=axes), (dy * xhat).sum(axis=axes)
        self.beta.grad[...], self.gamma.grad[...] = dbeta, dgamma
        return self.gamma.value * inverse_std * (dy - dbeta / m - xhat * (dgamma / m))
