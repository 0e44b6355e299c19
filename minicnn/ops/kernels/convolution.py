"""Convolution: which of two algorithms computes it. See `reference.conv2d` for what it is.

direct.py takes every shape. winograd.py takes 3 x 3 and 5 x 5 windows in steps of one pixel over whole vectors of channels,
with a quarter to 40% of the multiplications.
"""

from __future__ import annotations

import numpy as np

from minicnn.ops.kernels import direct, winograd


def conv2d(x, w, b, stride, padding, dilation, groups, relu=False, out=None):
    """See `reference.conv2d`; faster because no im2col matrix is made and the sums stay in registers."""
    x, w = np.ascontiguousarray(x), np.ascontiguousarray(w)
    if winograd.fits(x.shape, w.shape, stride, dilation, groups, x.dtype):
        return winograd.conv2d(x, w, b, padding, relu, out)
    return direct.conv2d(x, w, b, stride, padding, dilation, groups, relu, out)


def conv2d_backward(dy, x, w, y, dw, db, stride, padding, dilation, groups, relu=False, need_dx=True, out=None):
    """See `reference.conv2d_backward`; the images are dealt into a fixed number of parts, each with its own sum of dw.

    The parts are added in order, so that the result does not depend on the number of threads.
    """
    x, w, dy = np.ascontiguousarray(x), np.ascontiguousarray(w), np.ascontiguousarray(dy)
    y = np.ascontiguousarray(y) if relu else dy
    if winograd.fits(x.shape, w.shape, stride, dilation, groups, x.dtype):
        return winograd.conv2d_backward(dy, x, w, y, dw, db, padding, relu, need_dx, out)
    return direct.conv2d_backward(dy, x, w, y, dw, db, stride, padding, dilation, groups, relu, need_dx, out)
