"""The layers once more, each as one function of NumPy alone: what `to_numpy` copies into the file that it writes."""

import numpy as np


def windows(x, size, stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), fill=0.0):
    """Every window of the padded images x (n, h, w, c): (n, oh, ow, kh, kw, c)."""
    padded = np.pad(x, ((0, 0), *padding, (0, 0)), constant_values=fill)
    span = [d * (k - 1) + 1 for k, d in zip(size, dilation, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(padded, span, axis=(1, 2))
    return view[:, :: stride[0], :: stride[1], :, :: dilation[0], :: dilation[1]].transpose(0, 1, 2, 4, 5, 3)


def conv(x, w, b=0, groups=1, **window):
    """Convolution with weights (kh, kw, c / groups, filters): every window times every filter, one product a group."""
    patches = windows(x, w.shape[:2], **window)
    n, oh, ow, _, _, _ = patches.shape
    pairs = zip(np.split(patches, groups, axis=-1), np.split(w, groups, axis=-1), strict=True)
    parts = [p.reshape(n * oh * ow, -1) @ f.reshape(-1, f.shape[-1]) for p, f in pairs]
    return np.concatenate(parts, axis=-1).reshape(n, oh, ow, -1) + b


def depthwise_conv(x, w, b=0, **window):
    """Convolution with a filter of its own for each channel, weights (kh, kw, c, 1)."""
    return np.einsum("nijpqc,pqc->nijc", windows(x, w.shape[:2], **window), w[..., 0]) + b


def dense(x, w, b=0):
    """Every output sees every input."""
    return x @ w + b


def batch_norm(x, gamma, beta, mean, variance, epsilon):
    """Every channel shifted and scaled, as was learnt."""
    return gamma * (x - mean) / np.sqrt(variance + epsilon) + beta


def max_pool(x, size, **window):
    """The largest number of each window."""
    return windows(x, size, fill=-np.inf, **window).max(axis=(3, 4))


def average_pool(x, size, **window):
    """The mean of each window's pixels that lie in the image."""
    inside = windows(np.ones_like(x[:1, :, :, :1]), size, **window).sum(axis=(3, 4))
    return windows(x, size, **window).sum(axis=(3, 4)) / inside


def relu(x):
    """The larger of x and 0."""
    return np.maximum(x, 0)


def leaky_relu(x, slope):
    """x where x > 0, slope * x elsewhere."""
    return np.where(x > 0, x, slope * x)


def sigmoid(x):
    """1 / (1 + exp(-x)), written with tanh, which cannot overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def silu(x):
    """x * sigmoid(x), also called swish."""
    return x * sigmoid(x)


def gelu(x):
    """x times the probability that a standard normal number is below x, in its tanh form."""
    return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))


def softmax(x):
    """Along the last axis, numbers above 0 that sum to 1."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
