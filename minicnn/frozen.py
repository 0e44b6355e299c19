"""A network that only predicts: what training needed is gone, and the rest is done before the first image comes.

Batch normalisation in use is y = scale * x + shift, channel by channel, with numbers that no longer change. A convolution or
a dense layer before it is linear, so the two are one layer with other weights: scale * (x @ w + b) + shift is
x @ (scale * w) + (scale * b + shift). Dropout drops nothing. What is left runs as it stands with backend "numpy"; with
"numba" it is compiled into a program that runs all layers in one launch (see engine/program.py).
"""

from __future__ import annotations

import copy
from typing import TypeGuard

import numpy as np

from minicnn import engine, inputs
from minicnn.arguments import integer
from minicnn.errors import DivergedError
from minicnn.layers import BatchNorm, Conv2D, Dense, DepthwiseConv2D, Dropout, Layer, Residual, sequence
from minicnn.layers.activations import Identity, softmax
from minicnn.parameters import Parameter

Linear = Conv2D | DepthwiseConv2D | Dense


def folded(layers: list[Layer]) -> list[Layer]:
    """Layers that compute in use what these do; those that are as they were, such as a user's own, stand for themselves."""
    made: list[Layer] = []
    for layer in layers:
        before = made[-1] if made else None
        if type(layer) is BatchNorm and _is_linear(before) and type(before.activate) is Identity:
            made[-1] = _fold(before, layer)
        elif type(layer) is Residual:
            block = copy.copy(layer)
            block.branch, block.shortcut = folded(layer.branch), folded(layer.shortcut)
            made.append(block)
        elif type(layer) is not Dropout:
            made.append(layer)
    return made


def _is_linear(layer: Layer | None) -> TypeGuard[Linear]:
    """Whether it is of exactly one of these classes: one derived from them may compute something else."""
    return type(layer) in (Conv2D, DepthwiseConv2D, Dense)


def _fold(layer: Linear, norm: BatchNorm) -> Layer:
    """A linear layer and the batch norm behind it as one linear layer."""
    scale, shift = norm.in_use()
    w, b = layer.w.value, layer.b.value if layer.use_bias else 0
    one = copy.copy(layer)
    # a depthwise convolution's w is (kh, kw, c, 1); others have their outputs last
    one.w = _with_value(layer.w, w * (scale[:, None] if type(layer) is DepthwiseConv2D else scale))
    one.b = _with_value(norm.beta, b * scale + shift)
    one.use_bias, one.activation, one.activate = True, norm.activation, norm.activate
    return one


def _with_value(array: Parameter, value: np.ndarray) -> Parameter:
    other = copy.copy(array)
    other.value = value.astype(array.value.dtype)
    return other


class Frozen:
    """A network that only predicts, one image much sooner: `predict`, `predict_classes`, `outputs` as a model's.

    `model.frozen()` gives one with weights of its own: what is learnt afterwards does not reach it. It can be pickled, and
    asked from several threads at once unless a layer of one's own forbids it. With "numba" an answer has the same bits
    whatever the batch it came in.
    """

    def __init__(self, network, copied: bool = True):
        """`network`, a copy that nobody changes; or not `copied`, for answers with the weights that it has now."""
        self.network, self.copied = network, copied
        self._prepare()

    def _prepare(self) -> None:
        network, self.backend = self.network, engine.backend()
        self.scale, self.dtype = copy.copy(network.scale), network.dtype
        layers = folded(network.layers) if self.copied or self.backend == "numba" else network.layers
        self.steps = engine.in_use(layers, self.scale, network.dtype, network.input_shape, network.precision)
        self.whole = self.steps[0] if len(self.steps) == 1 and hasattr(self.steps[0], "ask") else None
        if self.copied and self.whole is not None and hasattr(self.whole, "get_ready"):
            self.whole.get_ready()

    def outputs(self, x: np.ndarray, batch_size: int = 256, tta: str | None = None) -> np.ndarray:
        """The last layer's output for images x: logits, or a regression's values. See `Network.outputs`."""
        return self._answer(x, batch_size, tta, False)

    def predict(self, x: np.ndarray, batch_size: int = 256, tta: str | None = None) -> np.ndarray:
        """The probability of each class: (n, classes), the softmax of `outputs`."""
        return self._answer(x, batch_size, tta, not self.network.gives_probabilities)

    def predict_classes(self, x: np.ndarray, batch_size: int = 256, tta: str | None = None) -> np.ndarray:
        """The most probable class of each image: (n,) int64."""
        return self._answer(x, batch_size, tta, False).argmax(axis=-1)

    def _answer(self, x, batch_size, tta, probabilities) -> np.ndarray:
        if self.backend != engine.backend():
            self._prepare()
        network, whole = self.network, self.whole
        batch_size = integer(batch_size, "batch_size")
        images = inputs.check_images(x, network.input_shape, self.dtype, finite=whole is None)
        if tta not in (None, "flip") or (tta and images.ndim != 4):
            raise ValueError(f'tta: got {tta!r}, expected None, or "flip" for images (n, h, w, c)')
        if images.dtype != np.uint8 or self.scale.range:
            inputs.warn_of_scale(images, self.scale, training=False)
        y = self._run(images, batch_size, probabilities and not tta)
        if tta:
            y = (y + self._run(np.ascontiguousarray(images[:, :, ::-1]), batch_size, False)) / 2
            y = softmax(y) if probabilities else y
        return y

    def _run(self, images: np.ndarray, batch_size: int, probabilities: bool) -> np.ndarray:
        if self.whole is not None:
            y, finite_images, finite = self.whole.ask(images, probabilities)
            if not finite_images:
                inputs.check_images(images, self.network.input_shape, self.dtype)
        else:
            y = np.empty((len(images), *self.network.output_shape), self.dtype)
            for i in range(0, len(images), batch_size):
                y[i : i + batch_size] = self._batch(images[i : i + batch_size])
            finite = np.isfinite(y).all()
            y = softmax(y) if probabilities else y
        if not finite:
            raise DivergedError(
                "outputs: got NaN or infinity, expected finite numbers; weights or images are too large"
            )
        return y

    def _batch(self, images: np.ndarray) -> np.ndarray:
        steps = self.steps
        if steps and hasattr(steps[0], "ask"):
            x, steps = steps[0].forward(images), steps[1:]
        else:
            x = self.scale.batch(images, np.arange(len(images)), np.dtype(self.dtype))
        return sequence.forward(steps, x, False)

    def __getstate__(self):
        return {"network": self.network, "copied": self.copied}

    def __setstate__(self, state):
        vars(self).update(state)
        self._prepare()

    def __repr__(self) -> str:
        kinds = ", ".join(type(layer).__name__ for layer in self.network.layers)
        return f"Frozen({kinds}: {self.network.input_shape} to {self.network.output_shape})"
