"""The one formula that every sliding window shares."""

from __future__ import annotations


def output_size(
    size: tuple[int, int],
    window: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
    dilation: tuple[int, int] = (1, 1),
) -> tuple[int, int]:
    """How many places (rows, columns) a window has in an image of `size` (rows, columns).

        (size + padding - dilation * (window - 1) - 1) // stride + 1

    It is 0 or less where the window does not fit.
    """
    rows, columns = (
        (n + sum(p) - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, window, stride, padding, dilation, strict=True)
    )
    return rows, columns
