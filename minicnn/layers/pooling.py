"""Pooling layers: fewer places, each speaking for its neighbourhood."""

from __future__ import annotations

import numpy as np

from minicnn import ops
from minicnn.layers.base import Layer, check_padding, pad_amounts, pair, window_output
from minicnn.parameters import Parameters


class _Pool2D(Layer):
    """What windowed pools share: (h, w, c) to (oh, ow, c)."""

    def __init__(
        self,
        size: int | tuple[int, int] = 2,
        stride: int | tuple[int, int] | None = None,
        padding: str | int | tuple[int, int] = "valid",
    ):
        self.size = pair(size, "size")
        self.stride = self.size if stride is None else pair(stride, "stride")
        self.padding = check_padding(padding)

    def build(self, input_shape: tuple[int, ...], parameters: Parameters) -> tuple[int, ...]:
        if len(input_shape) != 3:
            raise self.shape_error(input_shape, "(h, w, c)")
        self.pads = pad_amounts(self.padding, self.size, self.stride, (1, 1), input_shape)
        if any(max(pads) >= size for pads, size in zip(self.pads, self.size, strict=True)):
            raise ValueError(f"{self.name}: padding {self.padding} leaves windows of size {self.size} without a pixel")
        self.output_shape = (
            *window_output(self, input_shape, self.size, self.stride, self.pads),
            input_shape[2],
        )
        return self.output_shape


class MaxPool2D(_Pool2D):
    """The largest number of each window and channel; dy goes back to the pixel that won (the first of equals).

    size and stride (default: size) are an int or a pair; padding is "valid", "same", an int or a pair, and never wins.
    """

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        shape = (len(x), *self.output_shape)
        index = np.uint8 if self.size[0] * self.size[1] <= 256 else np.int32
        out = self.buffer("y", shape, x.dtype), self.buffer("where", shape, index)
        y, where = ops.max_pool2d(x, self.size, self.stride, self.pads, out=out)
        if training:
            self.save(where, x.shape)
        return y

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        where, x_shape = self.restore()
        out = self.buffer("dx", x_shape, dy.dtype)
        return ops.max_pool2d_backward(dy, where, x_shape, self.size, self.stride, self.pads, out=out)


class AveragePool2D(_Pool2D):
    """The mean of each window and channel, padding not counted; overlapping windows' gradients add up."""

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        if training:
            self.save(x.shape)
        out = self.buffer("y", (len(x), *self.output_shape), x.dtype)
        return ops.average_pool2d(x, self.size, self.stride, self.pads, out=out)

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        (x_shape,) = self.restore()
        out = self.buffer("dx", x_shape, dy.dtype)
        return ops.average_pool2d_backward(dy, x_shape, self.size, self.stride, self.pads, out=out)


class _GlobalPool2D(Layer):
    """What pools over the whole image share: (h, w, c) to (c,)."""

    def build(self, input_shape: tuple[int, ...], parameters: Parameters) -> tuple[int, ...]:
        if len(input_shape) != 3:
            raise self.shape_error(input_shape, "(h, w, c)")
        return (input_shape[2],)


class GlobalAveragePool2D(_GlobalPool2D):
    """The mean of each channel."""

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        if training:
            self.save(x.shape)
        return ops.global_average_pool2d(x, out=self.buffer("y", (len(x), x.shape[3]), x.dtype))

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        (x_shape,) = self.restore()
        return ops.global_average_pool2d_backward(dy, x_shape, out=self.buffer("dx", x_shape, dy.dtype))


class GlobalMaxPool2D(_GlobalPool2D):
    """The largest number of each channel."""

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        n, h, w, c = x.shape
        index = np.uint8 if h * w <= 256 else np.int32
        out = self.buffer("y", (n, c), x.dtype), self.buffer("where", (n, c), index)
        y, where = ops.global_max_pool2d(x, out=out)
        if training:
            self.save(where, x.shape)
        return y

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        where, x_shape = self.restore()
        return ops.global_max_pool2d_backward(dy, where, x_shape, out=self.buffer("dx", x_shape, dy.dtype))
