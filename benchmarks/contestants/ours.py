"""minicnn: its own step as `fit` takes it, and `predict`'s way for inference."""

from __future__ import annotations

from functools import partial

import numpy as np
from nets import Net

import minicnn
from minicnn import engine

PLAIN = {
    **{"bn": minicnn.BatchNorm, "relu": minicnn.ReLU, "silu": minicnn.SiLU, "pool": minicnn.MaxPool2D},
    **{"gap": minicnn.GlobalAveragePool2D, "flatten": minicnn.Flatten},
}


def layers(net: Net):
    """The network's layers, as minicnn's."""
    for kind, *options in net.layers:
        if kind == "conv":
            filters, kernel, stride, bias = options
            yield minicnn.Conv2D(filters, kernel, stride, padding=kernel // 2, use_bias=bias)
        elif kind == "depthwise":
            yield minicnn.DepthwiseConv2D(options[0], padding=options[0] // 2, use_bias=False)
        elif kind == "dense":
            yield minicnn.Dense(options[0])
        elif kind == "dropout":
            yield minicnn.Dropout(options[0])
        else:
            yield PLAIN[kind]()


class MiniCNN:
    """This library; with backend "numpy" its readable half, with precision "bfloat16" the engine's lower precision."""

    def __init__(self, net, arrays, threads, backend="numba", precision=None):
        minicnn.use_backend(backend)
        minicnn.set_threads(threads)
        lower = {"precision": precision} if precision else {}
        self.model = minicnn.Sequential(list(layers(net)), input_shape=net.shape, **lower)
        self.model.set_weights(arrays)
        self.loss = engine.fast(minicnn.losses.CrossEntropy())
        self.optimizer = engine.fast(minicnn.optimizers.Adam(1e-3))

    def use(self, threads):
        minicnn.set_threads(threads)

    def gradients(self, x, y):
        logits = self.model.forward(x, training=True).copy()
        loss, dlogits = self.loss(logits, y)
        self.model.backward(dlogits)
        learnt = [w for w in self.model.arrays().values() if hasattr(w, "grad")]
        return logits, loss, [w.grad.copy() for w in learnt]

    def _step(self, x, y):
        _, dlogits = self.loss(self.model.forward(x, training=True), y)
        self.model.backward(dlogits)
        self.optimizer.step(self.model.parameters)

    def training(self, x, y):
        return partial(self._step, x, y)

    def inference(self, x, threads):
        x = np.ascontiguousarray(x)
        if hasattr(self.model, "frozen"):
            return partial(self.model.frozen().outputs, x)
        return partial(self.model.forward, x)
