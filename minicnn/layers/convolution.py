"""Convolution layers: the same small window of weights at every place of the image.

The arithmetic and its derivation are in minicnn/ops/reference.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minicnn import initializers, ops
from minicnn.layers.activations import WithActivation
from minicnn.layers.base import check_padding, pad_amounts, pair, positive, window_output
from minicnn.parameters import Parameters


class Conv2D(WithActivation):
    """2-D convolution: (h, w, c) to (oh, ow, filters), weights w (kh, kw, c/groups, filters) and b (filters,).

    kernel_size, stride and dilation are an int or a pair (rows, columns); padding is "same" (ceil(input / stride) places
    out), "valid" (none), an int or a pair of pixels on each side. With groups, c and filters are dealt into as many
    bundles that do not see each other.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = "same",
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        use_bias: bool = True,
        activation: str | None = None,
        kernel_initializer: str | Callable = "he",
    ):
        self.filters, self.groups = positive(filters, "filters"), positive(groups, "groups")
        self.kernel_size = pair(kernel_size, "kernel_size")
        self.stride, self.dilation = pair(stride, "stride"), pair(dilation, "dilation")
        self.padding = check_padding(padding)
        self.use_bias, self.kernel_initializer = use_bias, kernel_initializer
        self.set_activation(activation)
        if self.filters % self.groups:
            raise ValueError(f"filters: got {filters}, expected a multiple of groups={groups}")

    def build(self, input_shape: tuple[int, ...], parameters: Parameters) -> tuple[int, ...]:
        if len(input_shape) != 3 or input_shape[2] % self.groups:
            multiple = f", c a multiple of groups={self.groups}" if self.groups > 1 else ""
            raise self.shape_error(input_shape, f"(h, w, c){multiple}")
        c = input_shape[2] // self.groups
        self.pads = pad_amounts(self.padding, self.kernel_size, self.stride, self.dilation, input_shape)
        size = window_output(self, input_shape, self.kernel_size, self.stride, self.pads, self.dilation)
        initialize = initializers.get(self.kernel_initializer)
        self.w = parameters.add("w", (*self.kernel_size, c, self.filters), initialize)
        self.b = parameters.add("b", (self.filters,), initializers.zeros) if self.use_bias else None
        self.output_shape = (*size, self.filters)
        self.macs = size[0] * size[1] * self.kernel_size[0] * self.kernel_size[1] * c * self.filters
        return self.output_shape

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        y = ops.conv2d(
            *(x, self.w.value, self.b.value if self.b else None),
            *(self.stride, self.pads, self.dilation, self.groups, self.relu),
            out=self.buffer("y", (len(x), *self.output_shape), x.dtype),
        )
        if training:
            self.save(x, y)
        return self.activate(y, training)

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        x, y = self.restore()
        return ops.conv2d_backward(
            *(self.activate_backward(dy), x, self.w.value, y, self.w.grad, self.b.grad if self.b else None),
            *(self.stride, self.pads, self.dilation, self.groups, self.relu),
            need_dx=self.needs_dx,
            out=self.buffer("dx", x.shape, x.dtype) if self.needs_dx else None,
        )


class DepthwiseConv2D(WithActivation):
    """A window of weights of its own for each channel: (h, w, c) to (oh, ow, c), weights w (kh, kw, c, 1) and b (c,)."""

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = "same",
        dilation: int | tuple[int, int] = 1,
        use_bias: bool = True,
        activation: str | None = None,
        kernel_initializer: str | Callable = "he",
    ):
        self.kernel_size = pair(kernel_size, "kernel_size")
        self.stride, self.dilation = pair(stride, "stride"), pair(dilation, "dilation")
        self.padding = check_padding(padding)
        self.use_bias, self.kernel_initializer = use_bias, kernel_initializer
        self.set_activation(activation)

    def build(self, input_shape: tuple[int, ...], parameters: Parameters) -> tuple[int, ...]:
        if len(input_shape) != 3:
            raise self.shape_error(input_shape, "(h, w, c)")
        c = input_shape[2]
        self.pads = pad_amounts(self.padding, self.kernel_size, self.stride, self.dilation, input_shape)
        size = window_output(self, input_shape, self.kernel_size, self.stride, self.pads, self.dilation)
        self.w = parameters.add("w", (*self.kernel_size, c, 1), self._initialize)
        self.b = parameters.add("b", (c,), initializers.zeros) if self.use_bias else None
        self.output_shape = (*size, c)
        self.macs = size[0] * size[1] * self.kernel_size[0] * self.kernel_size[1] * c
        return self.output_shape

    def _initialize(self, shape, rng):
        """Each output sees kh*kw numbers, and the initializer must know it."""
        kh, kw, c, _ = shape
        return initializers.get(self.kernel_initializer)((kh, kw, 1, c), rng).reshape(shape)

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        y = ops.depthwise_conv2d(
            *(x, self.w.value[..., 0], self.b.value if self.b else None),
            *(self.stride, self.pads, self.dilation, self.relu),
            out=self.buffer("y", (len(x), *self.output_shape), x.dtype),
        )
        if training:
            self.save(x, y)
        return self.activate(y, training)

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        x, y = self.restore()
        w, dw = self.w.value[..., 0], self.w.grad[..., 0]
        return ops.depthwise_conv2d_backward(
            *(self.activate_backward(dy), x, w, y, dw, self.b.grad if self.b else None),
            *(self.stride, self.pads, self.dilation, self.relu),
            need_dx=self.needs_dx,
            out=self.buffer("dx", x.shape, x.dtype) if self.needs_dx else None,
        )
