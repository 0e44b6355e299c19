"""Convolution: the same small window of weights at every position of the image."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from minicnn import initializers
from minicnn.arguments import flag, integer, pair
from minicnn.layers import activations
from minicnn.layers.base import Layer
from minicnn.layers.windows import Window, add_windows, check_padding, make_window, windows
from minicnn.parameters import Parameters


def convolve(x: np.ndarray, w: np.ndarray, window: Window) -> np.ndarray:
    """x (n, h, w, c) and w (kh, kw, c, f) to y (n, oh, ow, f): one matrix product, of every window with every filter."""
    patches = windows(x, window)
    n, oh, ow, kh, kw, c = patches.shape
    matrix = patches.reshape(n * oh * ow, kh * kw * c)  # 'im2col': here the view becomes a copy
    return (matrix @ w.reshape(kh * kw * c, -1)).reshape(n, oh, ow, w.shape[3])


def convolve_db(dy: np.ndarray) -> np.ndarray:
    """db (f,): b was added for every image and at every position.

    So db is the sum of dy (n, oh, ow, f) over all of them.
    """
    return dy.sum(axis=(0, 1, 2))


def convolve_dw(dy: np.ndarray, x: np.ndarray, window: Window) -> np.ndarray:
    """dw (kh, kw, c, f) from dy (n, oh, ow, f) and x (n, h, w, c): the chain rule through y = matrix @ w.

    Each row of the matrix is a window of x, and number k of the weights met matrix[row, k] in every row.

    dw = matrix.T @ dy
    """
    patches = windows(x, window)
    (n, oh, ow, kh, kw, c), f = patches.shape, dy.shape[3]
    matrix = patches.reshape(n * oh * ow, kh * kw * c)
    return (matrix.T @ dy.reshape(n * oh * ow, f)).reshape(kh, kw, c, f)


def convolve_dx(dy: np.ndarray, w: np.ndarray, x_shape: tuple[int, ...], window: Window) -> np.ndarray:
    """dx (n, h, w, c) from dy (n, oh, ow, f) and w (kh, kw, c, f): the chain rule through y = matrix @ w.

    Each row of the matrix is a window of x, and number k of a window met w[k, f] for every filter f.

    dmatrix = dy @ w.T
    dx = every row of dmatrix, added back onto the pixels of its window
    """
    n, oh, ow, f = dy.shape
    kh, kw, c, _ = w.shape
    dmatrix = dy.reshape(n * oh * ow, f) @ w.reshape(kh * kw * c, f).T
    return add_windows(dmatrix.reshape(n, oh, ow, kh, kw, c), x_shape, window)


class _Convolution(Layer):
    """What both kinds of convolution are given."""

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
        self.use_bias = flag(use_bias, "use_bias")
        self.kernel_initializer, self.initialize = kernel_initializer, initializers.get(kernel_initializer)
        self.activation, self.activate = activation, activations.get(activation)

    def slide(self, input_shape: tuple[int, ...]) -> tuple[int, int]:
        """Make the window for images of this shape; returns how many positions it has."""
        self.window = make_window(self, input_shape, self.kernel_size, self.stride, self.padding, self.dilation)
        return self.window.positions(input_shape)


class Conv2D(_Convolution):
    """2-D convolution (cross-correlation, as in every framework): slide w over x, a dot product at each position.

        y[n, i, j, f] = b[f] + sum over (p, q, c) of
                        padded[n, i*stride + p*dilation, j*stride + q*dilation, c] * w[p, q, c, f]

    (h, w, c) to (oh, ow, filters), weights w (kh, kw, c/groups, filters) and b (filters,). It is a dense layer on every
    window: lay each window out as the row of a matrix, and the whole is one product. See `convolve_db`,
    `convolve_dw` and `convolve_dx` for the way back.

    kernel_size, stride and dilation are an int or a pair (rows, columns); padding is "same" (ceil(input / stride)
    positions out), "valid" (none), an int or a pair of pixels on each side. With groups, channels and filters are dealt
    into as many bundles, and each bundle of filters sees its own bundle of channels.
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
        super().__init__(kernel_size, stride, padding, dilation, use_bias, activation, kernel_initializer)
        self.filters, self.groups = integer(filters, "filters"), integer(groups, "groups")
        if self.filters % self.groups:
            raise ValueError(f"filters: got {filters}, expected a multiple of groups={groups}")

    def build(self, input_shape: tuple[int, ...], parameters: Parameters) -> tuple[int, ...]:
        positions = self.slide(input_shape)
        if input_shape[2] % self.groups:
            raise self.shape_error(input_shape, f"(h, w, c), c a multiple of groups={self.groups}")
        shape = (*self.kernel_size, input_shape[2] // self.groups, self.filters)
        self.w = parameters.add("w", shape, self.initialize)
        if self.use_bias:
            self.b = parameters.add("b", (self.filters,), initializers.zeros)
        self.macs = math.prod(positions) * math.prod(shape)
        return (*positions, self.filters)

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        if training:
            self.save_for_backward(x)
        bundles = zip(self._bundles(x), self._bundles(self.w.value), strict=True)
        y = np.concatenate([convolve(xg, wg, self.window) for xg, wg in bundles], axis=3)
        if self.use_bias:
            y = y + self.b.value
        return self.activate.forward(y, training)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        (x,) = self.saved
        dy = self.activate.backward(dy)
        if self.use_bias:
            self.b.grad[...] = convolve_db(dy)
        dx = np.empty_like(x)
        arrays = [self._bundles(array) for array in (dy, x, self.w.value, dx, self.w.grad)]
        for dyg, xg, wg, dxg, dwg in zip(*arrays, strict=True):  # dxg and dwg are views of dx and dw
            dxg[...] = convolve_dx(dyg, wg, xg.shape, self.window)
            dwg[...] = convolve_dw(dyg, xg, self.window)
        return dx

    def _bundles(self, array: np.ndarray) -> list[np.ndarray]:
        return np.split(array, self.groups, axis=3)


class DepthwiseConv2D(_Convolution):
    """A window of weights of its own for each channel: convolution with as many groups as channels.

        y[n, i, j, c] = b[c] + sum over (p, q) of
                        padded[n, i*stride + p*dilation, j*stride + q*dilation, c] * w[p, q, c]

    (h, w, c) to (oh, ow, c), weights w (kh, kw, c, 1) and b (c,); the arguments are those of Conv2D.
    """

    def build(self, input_shape: tuple[int, ...], parameters: Parameters) -> tuple[int, ...]:
        positions, c = self.slide(input_shape), input_shape[2]
        self.w = parameters.add("w", (*self.kernel_size, c, 1), self._initialize)
        if self.use_bias:
            self.b = parameters.add("b", (c,), initializers.zeros)
        self.macs = math.prod(positions) * math.prod(self.kernel_size) * c
        return (*positions, c)

    def _initialize(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Each output sees kh*kw numbers, and the initializer must know it."""
        kh, kw, c, _ = shape
        return np.reshape(self.initialize((kh, kw, 1, c), rng), shape)

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        if training:
            self.save_for_backward(x)
        y = np.einsum("nijpqc,pqc->nijc", windows(x, self.window), self.w.value[..., 0])
        if self.use_bias:
            y = y + self.b.value
        return self.activate.forward(y, training)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        (x,) = self.saved
        dy = self.activate.backward(dy)
        self.w.grad[..., 0] = np.einsum("nijpqc,nijc->pqc", windows(x, self.window), dy)
        if self.use_bias:
            self.b.grad[...] = convolve_db(dy)
        dwindows = np.einsum("nijc,pqc->nijpqc", dy, self.w.value[..., 0])
        return add_windows(dwindows, x.shape, self.window)
