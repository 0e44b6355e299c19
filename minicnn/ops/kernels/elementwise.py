"""Activations, dropout and sums, number by number: see the functions of the same names in reference.py.

Faster because each is one pass over memory, shared out among the threads, with no array in between.
"""

from __future__ import annotations

import math

import numpy as np

from minicnn.ops.kernels.compiling import helper
from minicnn.ops.kernels.threads import parallel, share
from minicnn.ops.kernels.workspace import result


def _flat(x):
    return np.ascontiguousarray(x).reshape(-1)


@parallel
def _relu(part, x, y):
    for i in share(part, x.size):
        y[i] = x.dtype.type(0) if x[i] < 0 else x[i]


def relu(x, out=None):
    """See `reference.relu`."""
    y = result(out, x.shape, x.dtype)
    _relu(_flat(x), y.reshape(-1))
    return y


@parallel
def _relu_backward(part, dy, y, dx):
    for i in share(part, dy.size):
        dx[i] = dy[i] if y[i] > 0 else dy[i] * 0


def relu_backward(dy, y, out=None):
    """See `reference.relu_backward`."""
    dx = result(out, dy.shape, dy.dtype)
    _relu_backward(_flat(dy), _flat(y), dx.reshape(-1))
    return dx


@parallel
def _leaky_relu(part, x, slope, y):
    for i in share(part, x.size):
        y[i] = x[i] if x[i] > 0 else slope * x[i]


def leaky_relu(x, slope, out=None):
    """See `reference.leaky_relu`."""
    y = result(out, x.shape, x.dtype)
    _leaky_relu(_flat(x), x.dtype.type(slope), y.reshape(-1))
    return y


@parallel
def _leaky_relu_backward(part, dy, x, slope, dx):
    for i in share(part, dy.size):
        dx[i] = dy[i] if x[i] > 0 else slope * dy[i]


def leaky_relu_backward(dy, x, slope, out=None):
    """See `reference.leaky_relu_backward`."""
    dx = result(out, dy.shape, dy.dtype)
    _leaky_relu_backward(_flat(dy), _flat(x), dy.dtype.type(slope), dx.reshape(-1))
    return dx


@helper
def _logistic(v):
    return type(v)(0.5) * (type(v)(1) + math.tanh(type(v)(0.5) * v))


@parallel
def _sigmoid(part, x, y):
    for i in share(part, x.size):
        y[i] = _logistic(x[i])


def sigmoid(x, out=None):
    """See `reference.sigmoid`."""
    y = result(out, x.shape, x.dtype)
    _sigmoid(_flat(x), y.reshape(-1))
    return y


@parallel
def _sigmoid_backward(part, dy, y, dx):
    for i in share(part, dy.size):
        dx[i] = dy[i] * y[i] * (1 - y[i])


def sigmoid_backward(dy, y, out=None):
    """See `reference.sigmoid_backward`."""
    dx = result(out, dy.shape, dy.dtype)
    _sigmoid_backward(_flat(dy), _flat(y), dx.reshape(-1))
    return dx


@parallel
def _tanh(part, x, y):
    for i in share(part, x.size):
        y[i] = math.tanh(x[i])


def tanh(x, out=None):
    """See `reference.tanh`."""
    y = result(out, x.shape, x.dtype)
    _tanh(_flat(x), y.reshape(-1))
    return y


@parallel
def _tanh_backward(part, dy, y, dx):
    for i in share(part, dy.size):
        dx[i] = dy[i] * (1 - y[i] * y[i])


def tanh_backward(dy, y, out=None):
    """See `reference.tanh_backward`."""
    dx = result(out, dy.shape, dy.dtype)
    _tanh_backward(_flat(dy), _flat(y), dx.reshape(-1))
    return dx


SLOPE = math.sqrt(2 / math.pi)


@parallel
def _gelu(part, x, y):
    for i in share(part, x.size):
        v = x[i]
        y[i] = 0.5 * v * (1 + math.tanh(SLOPE * (v + 0.044715 * v * v * v)))


def gelu(x, out=None):
    """See `reference.gelu`."""
    y = result(out, x.shape, x.dtype)
    _gelu(_flat(x), y.reshape(-1))
    return y


@parallel
def _gelu_backward(part, dy, x, dx):
    for i in share(part, dy.size):
        v = x[i]
        t = math.tanh(SLOPE * (v + 0.044715 * v * v * v))
        dx[i] = dy[i] * (0.5 * (1 + t) + 0.5 * v * (1 - t * t) * SLOPE * (1 + 3 * 0.044715 * v * v))


def gelu_backward(dy, x, out=None):
    """See `reference.gelu_backward`."""
    dx = result(out, dy.shape, dy.dtype)
    _gelu_backward(_flat(dy), _flat(x), dx.reshape(-1))
    return dx


@parallel
def _silu(part, x, y):
    for i in share(part, x.size):
        y[i] = x[i] * _logistic(x[i])


def silu(x, out=None):
    """See `reference.silu`."""
    y = result(out, x.shape, x.dtype)
    _silu(_flat(x), y.reshape(-1))
    return y


@parallel
def _silu_backward(part, dy, x, dx):
    for i in share(part, dy.size):
        s = _logistic(x[i])
        dx[i] = dy[i] * (s + x[i] * s * (1 - s))


def silu_backward(dy, x, out=None):
    """See `reference.silu_backward`."""
    dx = result(out, dy.shape, dy.dtype)
    _silu_backward(_flat(dy), _flat(x), dx.reshape(-1))
    return dx


@parallel
def _softmax(part, x, y):
    for i in share(part, x.shape[0]):
        largest = x[i].max()
        total = x.dtype.type(0)
        for k in range(x.shape[1]):
            y[i, k] = math.exp(x[i, k] - largest)
            total += y[i, k]
        for k in range(x.shape[1]):
            y[i, k] /= total


def softmax(x, out=None):
    """See `reference.softmax`."""
    y = result(out, x.shape, x.dtype)
    _softmax(np.ascontiguousarray(x).reshape(-1, x.shape[-1]), y.reshape(-1, x.shape[-1]))
    return y


@parallel
def _softmax_backward(part, dy, y, dx):
    for i in share(part, dy.shape[0]):
        total = dy.dtype.type(0)
        for k in range(dy.shape[1]):
            total += dy[i, k] * y[i, k]
        for k in range(dy.shape[1]):
            dx[i, k] = y[i, k] * (dy[i, k] - total)


def softmax_backward(dy, y, out=None):
    """See `reference.softmax_backward`."""
    dx = result(out, dy.shape, dy.dtype)
    rows = (-1, dy.shape[-1])
    _softmax_backward(np.ascontiguousarray(dy).reshape(rows), np.ascontiguousarray(y).reshape(rows), dx.reshape(rows))
    return dx


@helper
def _splitmix64(state):
    z = state * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@parallel
def _dropout(part, x, limit, key, scale, y):
    for i in share(part, x.size):
        keep = (_splitmix64(key + np.uint64(i)) >> np.uint64(40)) >= limit
        y[i] = x[i] * (scale if keep else scale * 0)


def dropout(x, rate, key, out=None):
    """See `reference.dropout`."""
    y = result(out, x.shape, x.dtype)
    limit = np.uint64(math.ceil(rate * 2**24))
    with np.errstate(over="ignore"):  # SplitMix64 counts on integers that wrap; plain Python would warn
        _dropout(_flat(x), limit, np.uint64(key), x.dtype.type(1 / (1 - rate)), y.reshape(-1))
    return y


@parallel
def _add(part, a, b, relu, y):
    for i in share(part, a.size):
        v = a[i] + b[i]
        y[i] = a.dtype.type(0) if relu and v < 0 else v


def add(a, b, relu=False, out=None):
    """See `reference.add`."""
    y = result(out, a.shape, a.dtype)
    _add(_flat(a), _flat(b), relu, y.reshape(-1))
    return y
