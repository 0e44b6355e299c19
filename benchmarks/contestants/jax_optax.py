"""JAX and Optax, the whole training step compiled by XLA; layers written with jax.lax, as Flax's are.

Guides: "Just-in-time compilation" and "Buffer donation" (docs.jax.dev); the flags of XLA's CPU compiler as XLA_FLAGS=--help
prints them: `xla_cpu_use_onednn` and `xla_cpu_experimental_onednn_custom_call` ask for oneDNN, where jaxlib holds it.
"""

from __future__ import annotations

import os

import numpy as np
from nets import place

ONEDNN = "--xla_cpu_use_onednn=true --xla_cpu_experimental_onednn_custom_call=true"


def turn(layer, array):
    """A depthwise kernel from Keras' axes (kh, kw, c, 1) to JAX's (kh, kw, 1, c), and back; others stay."""
    return array.swapaxes(2, 3) if layer.kind == "depthwise" else array


class Jax:
    """The weights are a list of arrays, batch norm's running statistics another; with bfloat16 products are of that type."""

    threads_fixed = True

    def __init__(self, net, arrays, threads, onednn=False, bfloat16=False):
        os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'} {ONEDNN * onednn}"
        import jax
        import optax

        self.jax, self.net = jax, net
        self.dtype = jax.numpy.bfloat16 if bfloat16 else jax.numpy.float32
        self.optimizer = optax.adam(1e-3)
        self.layers = list(place(net, arrays))
        self.weights = [jax.numpy.asarray(turn(layer, a)) for layer in self.layers for a in layer.arrays[:2]]
        self.running = [jax.numpy.asarray(a) for layer in self.layers for a in layer.arrays[2:]]
        self.gradient = jax.value_and_grad(self._loss, has_aux=True)

    def use(self, threads):
        """The number of threads is fixed when JAX starts."""

    def _convolve(self, x, w, stride=1, groups=1):
        pad = [(w.shape[0] // 2,) * 2, (w.shape[1] // 2,) * 2]
        return self.jax.lax.conv_general_dilated(
            *(x.astype(self.dtype), w.astype(self.dtype), (stride, stride), pad),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    def _normalize(self, x, weights, running, new, training):
        gamma, beta, mean, variance = weights.pop(0), weights.pop(0), running.pop(0), running.pop(0)
        x = x.astype(self.jax.numpy.float32)
        if training:
            m, v = x.mean((0, 1, 2)), x.var((0, 1, 2))
            new += [0.9 * mean + 0.1 * m, 0.9 * variance + 0.1 * v]
            mean, variance = m, v
        return (gamma * (x - mean) * self.jax.lax.rsqrt(variance + 1e-5) + beta).astype(self.dtype)

    def _apply(self, weights, running, x, key):
        lax, np_, w, r, new = self.jax.lax, self.jax.numpy, list(weights), list(running), []
        for kind, *options in self.net.layers:
            if kind == "conv":
                x = self._convolve(x, w.pop(0), stride=options[2])
                x = x + w.pop(0).astype(self.dtype) if options[3] else x
            elif kind == "depthwise":
                x = self._convolve(x, w.pop(0), groups=x.shape[3])
            elif kind == "bn":
                x = self._normalize(x, w, r, new, key is not None)
            elif kind in ("relu", "silu"):
                x = getattr(self.jax.nn, kind)(x)
            elif kind == "pool":
                x = lax.reduce_window(x, -np_.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
            elif kind == "gap":
                x = x.mean((1, 2))
            elif kind == "flatten":
                x = x.reshape(len(x), -1)
            elif kind == "dense":
                x = x.astype(self.dtype) @ w.pop(0).astype(self.dtype) + w.pop(0).astype(self.dtype)
            elif kind == "dropout" and key is not None:
                key, now = self.jax.random.split(key)
                x = np_.where(self.jax.random.bernoulli(now, 1 - options[0], x.shape), x / (1 - options[0]), 0)
        return x.astype(np_.float32), new

    def _loss(self, weights, running, x, y, key):
        logits, new = self._apply(weights, running, x, key)
        picked = self.jax.nn.log_softmax(logits)[self.jax.numpy.arange(len(y)), y]
        return -picked.mean(), (logits, new)

    def gradients(self, x, y):
        key = self.jax.random.PRNGKey(0)
        (loss, (logits, _)), gradients = self.jax.jit(self.gradient)(self.weights, self.running, x, y, key)
        learnt = [layer for layer in self.layers for _ in layer.arrays[:2]]
        turned = [turn(layer, np.asarray(g)) for layer, g in zip(learnt, gradients, strict=True)]
        return np.asarray(logits), float(loss), turned

    def training(self, x, y):
        images, labels = self.jax.numpy.asarray(x), self.jax.numpy.asarray(y)

        def one(weights, state, running, key, images, labels):
            key, now = self.jax.random.split(key)
            (_, (_, running)), gradients = self.gradient(weights, running, images, labels, now)
            updates, state = self.optimizer.update(gradients, state)
            return [a + b for a, b in zip(weights, updates, strict=True)], state, running, key

        compiled = self.jax.jit(one, donate_argnums=(0, 1))
        weights = [w.copy() for w in self.weights]
        current = [weights, self.optimizer.init(weights), self.running, self.jax.random.PRNGKey(0)]

        def step():
            current[:] = self.jax.block_until_ready(compiled(*current, images, labels))

        return step

    def inference(self, x, threads):
        images = self.jax.numpy.asarray(x)
        forward = self.jax.jit(lambda w, s, x: self._apply(w, s, x, None)[0])
        return lambda: np.asarray(forward(self.weights, self.running, images))
