"""A convolution forward and backward in small whole numbers, each array printed with its shape.

    python examples/convolution_by_hand.py

One image of 5 x 5 pixels, one kernel of 3 x 3 weights, moved by two pixels: the windows overlap in a row or a column, so
some pixels are seen by one window, some by two, and the one in the middle by all four. Take a pencil: each number can be
worked out before it is read.
"""

from __future__ import annotations

import numpy as np

from minicnn import Conv2D, gradcheck
from minicnn.layers.windows import Window, add_windows, windows

STRIDE = 2


def show(name: str, array: np.ndarray, meaning: str) -> None:
    """An array with its name, its shape and what it is."""
    print(f"\n{name} {array.shape}: {meaning}\n{array}")


def forward(image: np.ndarray, kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The matrix of windows, and y."""
    print("FORWARD: lay the kernel on each window, multiply number by number, add up")
    show("image", image, "the pixels")
    show("kernel", kernel, "the weights, the same for every window")
    view = windows(image[None, :, :, None], Window(kernel.shape, stride=(STRIDE, STRIDE)))
    _, oh, ow, kh, kw, _ = view.shape
    for i in range(oh):
        for j in range(ow):
            window = view[0, i, j, :, :, 0]
            sums = " + ".join(f"{a}*{b}" for a, b in zip(window.ravel(), kernel.ravel(), strict=True))
            print(f"\nwindow ({i}, {j}): rows {i * STRIDE} to {i * STRIDE + kh - 1}, columns {j * STRIDE} to", end=" ")
            print(f"{j * STRIDE + kw - 1}\n{window}\n  y[{i}, {j}] = {sums} = {(window * kernel).sum()}")
    matrix = view.reshape(oh * ow, kh * kw)
    show("matrix", matrix, "each window as a row (im2col); a pixel that two windows see stands in two rows")
    y = (matrix @ kernel.ravel()).reshape(oh, ow)
    show("y", y, "matrix @ kernel.ravel(), put back in two dimensions: all windows in one product")
    return matrix, y


def backward(image, kernel, matrix, dy) -> tuple[np.ndarray, np.ndarray]:
    """dw and dx."""
    print("\n\nBACKWARD: dy says how much the loss grows when a number of y grows by one")
    show("dy", dy, "given, by the layers behind and the loss")
    print(
        "\nThe weight kernel[0, 0] was multiplied by the first pixel of every window, so it is answerable for all of them:"
    )
    sums = " + ".join(f"{a}*{b}" for a, b in zip(matrix[:, 0], dy.ravel(), strict=True))
    print(f"  dw[0, 0] = {sums} = {matrix[:, 0] @ dy.ravel()}")
    dw = (matrix.T @ dy.ravel()).reshape(kernel.shape)
    show("dw", dw, "matrix.T @ dy.ravel(): that sum for each of the nine weights")

    dmatrix = np.outer(dy.ravel(), kernel.ravel())
    show(
        "dmatrix",
        dmatrix,
        "a row for each window: its dy times the kernel, what each pixel of that window gets from it",
    )
    print(
        "\nThe pixel in the middle, image[2, 2], is the last of window (0, 0), the first of window (1, 1), and a corner of"
    )
    print("the other two. What they send is added up:")
    parts = [dmatrix[0, 8], dmatrix[1, 6], dmatrix[2, 2], dmatrix[3, 0]]
    print(f"  dx[2, 2] = {' + '.join(map(str, parts))} = {sum(parts)}")
    (oh, ow), (kh, kw) = dy.shape, kernel.shape
    dwindows = dmatrix.reshape(1, oh, ow, kh, kw, 1)
    dx = add_windows(dwindows, (1, *image.shape, 1), Window((kh, kw), stride=(STRIDE, STRIDE)))[0, :, :, 0]
    show("dx", dx, "every row of dmatrix, added back onto the pixels of its window (col2im)")
    return dw, dx


def flipped(kernel: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """dx once more, as books write it: a convolution of dy with the kernel turned around."""
    print("\n\nWHERE IS THE FLIPPED KERNEL? Forward flips nothing, and neither did anything above.")
    print(
        f"Pixel r was number p = r - {STRIDE} * i of window i. So dx[r] adds dy[i] * kernel[r - {STRIDE} * i]: where the"
    )
    print(
        "window's number i goes up, the kernel's index goes down. Who wants that sum as a window sliding over dy must"
    )
    print("read the kernel from its end, and put what was skipped back as zeros:")
    kh, kw = kernel.shape
    spread = np.zeros(((dy.shape[0] - 1) * STRIDE + 1, (dy.shape[1] - 1) * STRIDE + 1), dy.dtype)
    spread[::STRIDE, ::STRIDE] = dy
    padded = np.pad(spread, ((kh - 1, kh - 1), (kw - 1, kw - 1)))
    show("padded", padded, f"dy with {STRIDE - 1} row and column of zeros between its numbers, and {kh - 1} around")
    turned = kernel[::-1, ::-1]
    show("turned", turned, "kernel[::-1, ::-1]")
    view = windows(padded[None, :, :, None], Window(kernel.shape))[0, :, :, :, :, 0]
    dx = (view * turned).sum(axis=(2, 3))
    show("dx", dx, "every window of padded, times turned, added up: the same numbers as before")
    return dx


def main() -> None:
    image = np.array([[1, 2, 0, 1, 3], [0, 1, 2, 1, 0], [2, 1, 3, 0, 1], [1, 0, 1, 2, 2], [3, 1, 0, 1, 1]])
    kernel = np.array([[1, 0, -1], [2, 1, 0], [0, -1, 3]])
    dy = np.array([[1, -2], [3, 1]])
    matrix, _ = forward(image, kernel)
    _, dx = backward(image, kernel, matrix, dy)
    print(f"\nthe two ways to dx agree: {np.array_equal(flipped(kernel, dy), dx)}")

    layer = Conv2D(1, 3, stride=STRIDE, padding="valid", use_bias=False)
    print("\n\nAnd is it the derivative? Move each pixel and each weight a little, and see how the output moves:\n")
    print(gradcheck(layer, image[None, :, :, None]))


if __name__ == "__main__":
    main()
