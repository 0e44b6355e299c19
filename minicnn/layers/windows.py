"""A window that slides over an image: what convolution and pooling share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from minicnn.arguments import pair
from minicnn.layers.base import Layer

Pair = tuple[int, int]


class Window(NamedTuple):
    """How a window slides; a pair is (rows, columns).

    `size` pixels, each `dilation` from the next; from one window to the next it is `stride` pixels. `padding` is
    ((top, bottom), (left, right)), the pixels that surround the image.
    """

    size: Pair
    stride: Pair = (1, 1)
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)

    @property
    def span(self) -> Pair:
        """From a window's first pixel to its last, the gaps of its dilation included."""
        rows, columns = (d * (k - 1) + 1 for k, d in zip(self.size, self.dilation, strict=True))
        return rows, columns

    def positions(self, image: tuple[int, ...]) -> Pair:
        """How many positions the window has in an image (h, w, ...): (size + padding - span) // stride + 1.

        It is 0 or less where the window does not fit.
        """
        rows, columns = (
            (n + sum(p) - span) // s + 1
            for n, p, span, s in zip(image[:2], self.padding, self.span, self.stride, strict=True)
        )
        return rows, columns


def windows(x: np.ndarray, window: Window, fill: float = 0.0) -> np.ndarray:
    """Every window of the padded images: a view (n, oh, ow, kh, kw, c) that copies nothing but the padding.

    Window [n, i, j] holds the padded pixels at rows i*stride + dilation*(0 .. kh-1), likewise for columns.
    """
    padded = np.pad(x, ((0, 0), *window.padding, (0, 0)), constant_values=fill)
    view = sliding_window_view(padded, window.span, axis=(1, 2))  # (n, oh, ow, c, span, span)
    (s, t), (d, e) = window.stride, window.dilation
    # a window spans its gaps too: keep every stride-th window, and of it every dilation-th row and column
    return view[:, ::s, ::t, :, ::d, ::e].transpose(0, 1, 2, 4, 5, 3)


def add_windows(dwindows: np.ndarray, x_shape: tuple[int, ...], window: Window) -> np.ndarray:
    """The transpose of `windows`: add every window's gradient onto the pixels it was read from.

    A pixel that several windows saw receives the sum of what they send; that is all that 'col2im' means.
    """
    n, h, w, c = x_shape
    _, oh, ow, kh, kw, _ = dwindows.shape
    (top, bottom), (left, right) = window.padding
    (s, t), (d, e) = window.stride, window.dilation
    padded = np.zeros((n, top + h + bottom, left + w + right, c), dwindows.dtype)
    for i in range(kh):
        for j in range(kw):
            rows, columns = slice(i * d, i * d + s * oh, s), slice(j * e, j * e + t * ow, t)
            padded[:, rows, columns] += dwindows[:, :, :, i, j]
    return padded[:, top : top + h, left : left + w]


def check_padding(padding) -> str | Pair:
    """ "same", "valid", or an int or a pair as a pair, checked."""
    if not isinstance(padding, str):
        return pair(padding, "padding", 0)
    if padding not in ("same", "valid"):
        raise ValueError(f'padding: got {padding!r}, expected "same", "valid", an int or a pair')
    return padding


def make_window(layer: Layer, input_shape, size: Pair, stride: Pair, padding: str | Pair, dilation=(1, 1)) -> Window:
    """The window of a layer over images (h, w, c), its padding in pixels; an error where it does not fit.

    "same" pads so that the output has ceil(input / stride) positions, the odd pixel below and to the right, as in Keras.
    """
    if len(input_shape) != 3:
        raise layer.shape_error(input_shape, "(h, w, c)")
    window = Window(size, stride, ((0, 0), (0, 0)), dilation)
    if padding == "same":
        sides = zip(input_shape[:2], window.span, stride, strict=True)
        missing = [max(0, (-(-n // s) - 1) * s + span - n) for n, span, s in sides]
        vertical, horizontal = ((m // 2, m - m // 2) for m in missing)
        window = window._replace(padding=(vertical, horizontal))
    elif not isinstance(padding, str):
        above, before = padding
        window = window._replace(padding=((above, above), (before, before)))
    if min(window.positions(input_shape)) < 1:
        rows, columns = window.span
        raise layer.shape_error(input_shape, f"at least {rows}x{columns} pixels after padding, for its window")
    return window
