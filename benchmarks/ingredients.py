"""What the ablation tries and the library does not have, and other networks.

Callbacks that average weights, a schedule, an optimizer with two rates, first weights, two layers, networks. Why each was
left out is in ablation.md.
"""

from __future__ import annotations

import numpy as np

from minicnn import engine, initializers
from minicnn.callbacks import Callback
from minicnn.layers import BatchNorm, Conv2D, Dense, Dropout, GlobalMaxPool2D, Layer, MaxPool2D, Residual, sequence
from minicnn.optimizers import AdamW
from minicnn.parameters import Parameters
from minicnn.recipes import small_vgg
from minicnn.schedules import Schedule


class Average(Callback):
    """An exponential moving average of the weights and running statistics (Polyak and Juditsky, 1992), used at the end."""

    def __init__(self, keep: float):
        self.keep = keep

    def on_train_begin(self, run) -> None:
        self.means = None

    def on_step_end(self, run) -> None:
        now = run.model.parameters.values, run.model.parameters.statistics
        if self.means is None:
            self.means = [v.copy() for v in now]
        for mean, v in zip(self.means, now, strict=True):
            mean += (1 - self.keep) * (v - mean)

        if run.step == run.epochs * run.batches:  # before the last epoch is scored
            run.model.parameters.values[:], run.model.parameters.statistics[:] = self.means


class Lookahead(Callback):
    """Every `every` steps the weights go back to halfway between where they are and where they last went back to.

    (Zhang, Lucas, Hinton and Ba, 2019)
    """

    def __init__(self, every: int = 5):
        self.every = every

    def on_train_begin(self, run) -> None:
        self.slow = run.model.parameters.values.copy()

    def on_step_end(self, run) -> None:
        if run.step % self.every == 0:
            self.slow += (run.model.parameters.values - self.slow) / 2
            run.model.parameters.values[:] = self.slow


def triangle(peak: float, steps: int, warm: float = 0.25) -> Schedule:
    """Up from 0 to `peak` during the share `warm` of the steps, then down to 0, along straight lines (Smith, 2017)."""
    return lambda step: peak * float(np.interp((step + 1) / steps, [0, warm, 1], [0, 1, 0]))


class TwoRates(AdamW):
    """AdamW whose biases, scales and shifts, known by having no decay, learn `times` as fast as its kernels."""

    def __init__(self, learning_rate: float, times: float, weight_decay: float):
        super().__init__(learning_rate, weight_decay=weight_decay)
        self.times = times

    def update(self, w, dw, mean, square, rate, keep):
        super().update(w, dw, mean, square, rate if keep < 1 else rate * self.times, keep)


def dirac(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """First outputs copy the inputs, the others as usual (after Zagoruyko and Komodakis, 2017); not for one channel."""
    w = initializers.he(shape, rng)
    kh, kw, c, filters = shape
    if c > 1:
        copies = np.arange(min(c, filters))
        w[..., copies] = 0
        w[kh // 2, kw // 2, copies, copies] = 1
    return w


class SqueezeExcite(Layer):
    """Each channel times a factor that depends on the means of all channels (Hu, Shen and Sun, 2018).

    m = mean of x over rows and columns,  h = relu(m @ w1 + b1),  y = x * 2 sigmoid(h @ w2 + b2)
    """

    def build(self, input_shape, parameters):
        c = input_shape[-1]
        hidden = max(c // 8, 8)
        self.w1 = parameters.add("w1", (c, hidden), initializers.he)
        self.b1 = parameters.add("b1", (hidden,), initializers.zeros)
        self.w2 = parameters.add("w2", (hidden, c), initializers.glorot)
        self.b2 = parameters.add("b2", (c,), initializers.zeros)
        return input_shape

    def forward(self, x, training=False):
        m = x.mean(axis=(1, 2))
        h = np.maximum(m @ self.w1.value + self.b1.value, 0)
        s = 1 / (1 + np.exp(-(h @ self.w2.value + self.b2.value)))
        if training:
            self.save_for_backward(x, m, h, s)
        return x * (2 * s)[:, None, None, :]

    def backward(self, dy):
        x, m, h, s = self.saved
        dz = 2 * np.einsum("nhwc,nhwc->nc", dy, x) * s * (1 - s)
        dh = (dz @ self.w2.value.T) * (h > 0)
        self.w2.grad[...], self.b2.grad[...] = h.T @ dz, dz.sum(axis=0)
        self.w1.grad[...], self.b1.grad[...] = m.T @ dh, dh.sum(axis=0)
        dm = dh @ self.w1.value.T / (x.shape[1] * x.shape[2])
        return dy * (2 * s)[:, None, None, :] + dm.astype(x.dtype)[:, None, None, :]


class Whitening(Layer):
    """A first layer that does not learn: its 18 kernels are the principal directions of the images' 3x3 patches, and their
    opposites, each scaled to a variance of nearly 1, then ReLU (Page, 2018). They are taken from the first batch it sees.

    Nothing before it learns, so that it is never asked for a gradient."""

    def build(self, input_shape, parameters):
        self.w = parameters.add_statistic("w", (3, 3, 1, 18), 0.0)
        self.convolution, self.steps = Conv2D(18, 3, use_bias=False, activation="relu"), None
        return sequence.build([self.convolution], input_shape, Parameters())  # whose own weights nobody makes

    def forward(self, x, training=False):
        if training and not self.w.value.any():
            patches = np.lib.stride_tricks.sliding_window_view(x[..., 0], (3, 3), axis=(1, 2)).reshape(-1, 9)
            variances, directions = np.linalg.eigh(np.cov(patches, rowvar=False))
            kernels = directions / np.sqrt(variances + 1e-2)
            self.w.value[...] = np.hstack([kernels, -kernels]).reshape(3, 3, 1, 18)
        self.convolution.w.value = self.w.value
        self.steps = self.steps or engine.steps([self.convolution])
        return sequence.forward(self.steps, x, training)


def silu_network() -> list[Layer]:
    """The default network with SiLU in place of ReLU."""
    return [BatchNorm(activation="silu") if isinstance(layer, BatchNorm) else layer for layer in small_vgg()]


def dirac_network() -> list[Layer]:
    """The default network with other first weights."""

    def changed(layer: Layer) -> Layer:
        return Conv2D(layer.filters, 3, use_bias=False, kernel_initializer=dirac)

    return [changed(layer) if isinstance(layer, Conv2D) else layer for layer in small_vgg()]


def dropout_network() -> list[Layer]:
    """The default network, with dropout before its dense layer."""
    *features, dense = small_vgg()
    return [*features, Dropout(0.3), dense]


def whitening_network() -> list[Layer]:
    """The default network, its first convolution and batch normalisation replaced by 18 frozen kernels."""
    _, _, *rest = small_vgg()
    return [Whitening(), *rest]


def squeeze_network() -> list[Layer]:
    """The default network with a squeeze-and-excite layer after each pooled block and before the global pooling."""
    layers = small_vgg()
    ends = [i + 2 for i, layer in enumerate(layers) if isinstance(layer, MaxPool2D)]
    for at in (len(layers) - 2, *reversed(ends)):
        layers.insert(at, SqueezeExcite())
    return layers


def residual_network(a: int = 32, b: int = 64, c: int = 128) -> list[Layer]:
    """Seven 3x3 convolutions at 28x28, 14x14 and 7x7 pixels, four of them in two residual blocks (He et al., 2015)."""

    def convolution(filters: int, stride: int = 1) -> list[Layer]:
        return [Conv2D(filters, 3, stride=stride, use_bias=False), BatchNorm(activation="relu")]

    def block(filters: int) -> Layer:
        last = [Conv2D(filters, 3, use_bias=False), BatchNorm()]
        return Residual(*convolution(filters), *last, activation="relu")

    return [
        *convolution(a),
        *convolution(b, stride=2),
        block(b),
        *convolution(c, stride=2),
        block(c),
        GlobalMaxPool2D(),
        Dense(10),
    ]
