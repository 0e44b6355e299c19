"""Pooling: fewer positions, each speaking for its neighbourhood."""

from __future__ import annotations

import numpy as np

from minicnn.arguments import pair
from minicnn.layers.base import Layer
from minicnn.layers.windows import add_windows, check_padding, make_window, windows
from minicnn.parameters import Parameters


class _Pool2D(Layer):
    """What pools of a sliding window share: (h, w, c) to (oh, ow, c)."""

    def __init__(
        self,
        pool_size: int | tuple[int, int] = 2,
        stride: int | tuple[int, int] | None = None,
        padding: str | int | tuple[int, int] = "valid",
    ):
        self.pool_size = pair(pool_size, "pool_size")
        self.stride = self.pool_size if stride is None else pair(stride, "stride")
        self.padding = check_padding(padding)

    def build(self, input_shape: tuple[int, ...], parameters: Parameters) -> tuple[int, ...]:
        self.window = make_window(self, input_shape, self.pool_size, self.stride, self.padding)
        if any(max(sides) >= size for sides, size in zip(self.window.padding, self.pool_size, strict=True)):
            raise ValueError(f"{self.title}: padding {self.padding} leaves windows of {self.pool_size} without a pixel")
        return (*self.window.positions(input_shape), input_shape[2])

    def _inside(self) -> np.ndarray:
        """For each window which of its pixels lie in the image: (1, oh, ow, kh, kw, 1)."""
        return windows(np.ones((1, *self.input_shape[:2], 1), bool), self.window)


class MaxPool2D(_Pool2D):
    """The largest number of each window and channel; of equal numbers the first wins, and NaN counts as the largest.

    Each dy goes to the one pixel that won its window; a pixel that won several receives their sum.

    pool_size and stride (default: pool_size) are an int or a pair; padding is "valid", "same", an int or a pair, and
    never wins.
    """

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        view = windows(x, self.window, fill=-np.inf)
        y = view.max(axis=(3, 4))
        if training:
            won = (view == y[:, :, :, None, None]) | np.isnan(view)
            won &= self._inside()
            n, oh, ow, kh, kw, c = won.shape
            winner = won.reshape(n, oh, ow, kh * kw, c).argmax(axis=3)  # the first, counted row by row
            self.save_for_backward(winner, x.shape)
        return y

    def backward(self, dy: np.ndarray) -> np.ndarray:
        winner, x_shape = self.saved
        kh, kw = self.pool_size
        won = winner[:, :, :, None, None] == np.arange(kh * kw).reshape(kh, kw, 1)
        return add_windows(np.where(won, dy[:, :, :, None, None], 0), x_shape, self.window)


class AveragePool2D(_Pool2D):
    """The mean of each window and channel, over the pixels that lie in the image: padding is not counted (as in Keras).

    Each of these pixels receives an equal part of the window's dy; overlapping windows' parts add up. The arguments are
    those of MaxPool2D.
    """

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        if training:
            self.save_for_backward(x.shape)
        total = windows(x, self.window).sum(axis=(3, 4))
        return (total / self._inside().sum(axis=(3, 4))).astype(x.dtype)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        (x_shape,) = self.saved
        part = (dy / self._inside().sum(axis=(3, 4))).astype(dy.dtype)
        n, oh, ow, c = part.shape
        dwindows = np.broadcast_to(part[:, :, :, None, None], (n, oh, ow, *self.pool_size, c))
        return add_windows(dwindows, x_shape, self.window)


class _GlobalPool2D(Layer):
    """What pools over the whole image share: (h, w, c) to (c,)."""

    def build(self, input_shape: tuple[int, ...], parameters: Parameters) -> tuple[int, ...]:
        if len(input_shape) != 3:
            raise self.shape_error(input_shape, "(h, w, c)")
        return (input_shape[2],)


class GlobalAveragePool2D(_GlobalPool2D):
    """The mean of each channel over the image. Every pixel receives dy / (h*w)."""

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        if training:
            self.save_for_backward(x.shape)
        return x.mean(axis=(1, 2))

    def backward(self, dy: np.ndarray) -> np.ndarray:
        (x_shape,) = self.saved
        _, h, w, _ = x_shape
        return np.broadcast_to((dy / float(h * w))[:, None, None], x_shape).copy()


class GlobalMaxPool2D(_GlobalPool2D):
    """The largest number of each channel; dy goes to the pixel that won, the first of equals."""

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        n, h, w, c = x.shape
        pixels = x.reshape(n, h * w, c)
        if training:
            self.save_for_backward(pixels.argmax(axis=1), x.shape)
        return pixels.max(axis=1)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        winner, (n, h, w, c) = self.saved
        won = winner[:, None] == np.arange(h * w)[:, None]
        return np.where(won, dy[:, None], 0).reshape(n, h, w, c)
