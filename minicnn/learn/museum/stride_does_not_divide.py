"""A convolution that works only where its stride divides.

What was wrong. With k pixels a window, o positions and stride s, the windows cover (o - 1) * s + k pixels. Where s does
not divide what there is to walk, a few pixels at the far edge are never read. Their gradient is 0, but they must have
one: backward made dx as large as what was covered, which is not the size of x.

Where it was found. PKUFlyingPig/CMU10-714 #6, solutions to a course that builds a framework; the report's case is an
image of 16 pixels, padded by 2, with a kernel of 7 and stride 3. (Their backward failed with shapes of 16 and 17.)

Why nobody noticed. Images, kernels and strides in tests tend to fit each other; the report had to add its own case.

What it costs. Nothing where the stride fits. Elsewhere training ends with an error, as long as something compares the
shapes; with a library that broadcasts or crops it would be a silent mistake.

How it is caught. Try sizes that do not fit: odd ones, primes. minicnn compares dx's shape with that of x at every layer.
"""

from __future__ import annotations

from minicnn.layers import Conv2D
from minicnn.layers.convolution import convolve_dw, convolve_dx
from minicnn.learn.museum._tools import check_gradient, normal

SOURCE = "PKUFlyingPig/CMU10-714 #6"


class FittingConv(Conv2D):
    """Backward takes x to be as large as what its windows cover."""

    def backward(self, dy):
        (x,) = self.saved
        dy = self.activate.backward(dy)
        self.b.grad[...] = dy.sum(axis=(0, 1, 2))
        sides = zip(dy.shape[1:3], self.stride, self.window.span, self.window.padding, strict=True)
        rows, columns = ((o - 1) * s + k - sum(padding) for o, s, k, padding in sides)
        seen = x[:, :rows, :columns]
        self.w.grad[...] = convolve_dw(dy, seen, self.window)
        dx = convolve_dx(dy, self.w.value, seen.shape, self.window)
        return dx


WRONG, RIGHT = FittingConv, Conv2D


def weak_test(layer=WRONG):
    """7 pixels, windows of 3, stride 2: the last window ends at the last pixel."""
    check_gradient(layer(3, 3, stride=2, padding="valid"), normal(2, 7, 7, 2))


def strong_test(layer=WRONG):
    """8 pixels: the last one is in no window."""
    check_gradient(layer(3, 3, stride=2, padding="valid"), normal(2, 8, 8, 2))
