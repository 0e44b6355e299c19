"""The oracle of the tests: what layers, the loss, optimizers and batches compute, as the plainest loops there are.

Each function is a sum written out number by number, in double precision. Nothing here is fast, shared or clever, so that
whoever reads it can see that it is right: a backward pass hands every product's gradient to its two factors, and a
derivative that can be had without a formula is had without one. Names are those of minicnn/layers; a backward pass takes
dy and then what its forward pass took, and gives dx and the gradients of the weights.
"""

from __future__ import annotations

import cmath
import math

import numpy as np

# ---------------------------------------------------------------------------------------------------------------
# Windows


def output_size(x_shape, window):
    """How many windows fit, down and across."""
    counts = []
    for axis in (0, 1):
        length = window.padding[axis][0] + x_shape[1 + axis] + window.padding[axis][1]
        first, count = 0, 0
        while first + window.dilation[axis] * (window.size[axis] - 1) < length:
            count += 1
            first += window.stride[axis]
        counts.append(count)
    return tuple(counts)


def pixels(i, j, x_shape, window):
    """(p, q, row, column) of every place (p, q) of window (i, j) that lies in the image, row by row."""
    for p in range(window.size[0]):
        for q in range(window.size[1]):
            row = i * window.stride[0] + p * window.dilation[0] - window.padding[0][0]
            column = j * window.stride[1] + q * window.dilation[1] - window.padding[1][0]
            if 0 <= row < x_shape[1] and 0 <= column < x_shape[2]:
                yield p, q, row, column


# ---------------------------------------------------------------------------------------------------------------
# Convolution and dense; b may be None


def conv2d(x, w, b, window, groups):
    c, f = w.shape[2:]
    y = np.zeros((len(x), *output_size(x.shape, window), f))
    for n, i, j, k in np.ndindex(y.shape):
        group = k // (f // groups)
        y[n, i, j, k] = 0 if b is None else b[k]
        for p, q, row, column in pixels(i, j, x.shape, window):
            for channel in range(c):
                y[n, i, j, k] += x[n, row, column, group * c + channel] * w[p, q, channel, k]
    return y


def conv2d_backward(dy, x, w, b, window, groups):
    c, f = w.shape[2:]
    dx, dw, db = np.zeros(x.shape), np.zeros(w.shape), np.zeros(f)
    for n, i, j, k in np.ndindex(dy.shape):
        group = k // (f // groups)
        db[k] += dy[n, i, j, k]
        for p, q, row, column in pixels(i, j, x.shape, window):
            for channel in range(c):
                dw[p, q, channel, k] += dy[n, i, j, k] * x[n, row, column, group * c + channel]
                dx[n, row, column, group * c + channel] += dy[n, i, j, k] * w[p, q, channel, k]
    return dx, dw, db


def depthwise_conv2d(x, w, b, window):
    y = np.zeros((len(x), *output_size(x.shape, window), x.shape[3]))
    for n, i, j, k in np.ndindex(y.shape):
        y[n, i, j, k] = 0 if b is None else b[k]
        for p, q, row, column in pixels(i, j, x.shape, window):
            y[n, i, j, k] += x[n, row, column, k] * w[p, q, k, 0]
    return y


def depthwise_conv2d_backward(dy, x, w, b, window):
    dx, dw, db = np.zeros(x.shape), np.zeros(w.shape), np.zeros(x.shape[3])
    for n, i, j, k in np.ndindex(dy.shape):
        db[k] += dy[n, i, j, k]
        for p, q, row, column in pixels(i, j, x.shape, window):
            dw[p, q, k, 0] += dy[n, i, j, k] * x[n, row, column, k]
            dx[n, row, column, k] += dy[n, i, j, k] * w[p, q, k, 0]
    return dx, dw, db


def dense(x, w, b):
    y = np.zeros((len(x), w.shape[1]))
    for n, k in np.ndindex(y.shape):
        y[n, k] = 0 if b is None else b[k]
        for c in range(x.shape[1]):
            y[n, k] += x[n, c] * w[c, k]
    return y


def dense_backward(dy, x, w, b):
    dx, dw, db = np.zeros(x.shape), np.zeros(w.shape), np.zeros(w.shape[1])
    for n, k in np.ndindex(dy.shape):
        db[k] += dy[n, k]
        for c in range(x.shape[1]):
            dw[c, k] += dy[n, k] * x[n, c]
            dx[n, c] += dy[n, k] * w[c, k]
    return dx, dw, db


# ---------------------------------------------------------------------------------------------------------------
# Pooling


def first_largest(seen):
    """The (number, place) with the largest number, NaN above all; the first of equals."""
    best = seen[0]
    for number, place in seen:
        if number > best[0] or (math.isnan(number) and not math.isnan(best[0])):
            best = number, place
    return best


def winner(x, n, i, j, k, window):
    """(number, (row, column)) of the pixel that wins window (i, j) of an image's channel k."""
    return first_largest([(x[n, row, column, k], (row, column)) for _, _, row, column in pixels(i, j, x.shape, window)])


def max_pool2d(x, window):
    y = np.zeros((len(x), *output_size(x.shape, window), x.shape[3]))
    for n, i, j, k in np.ndindex(y.shape):
        y[n, i, j, k], _ = winner(x, n, i, j, k, window)
    return y


def max_pool2d_backward(dy, x, window):
    dx = np.zeros(x.shape)
    for n, i, j, k in np.ndindex(dy.shape):
        _, (row, column) = winner(x, n, i, j, k, window)
        dx[n, row, column, k] += dy[n, i, j, k]
    return (dx,)


def average_pool2d(x, window):
    y = np.zeros((len(x), *output_size(x.shape, window), x.shape[3]))
    for n, i, j, k in np.ndindex(y.shape):
        seen = [x[n, row, column, k] for _, _, row, column in pixels(i, j, x.shape, window)]
        y[n, i, j, k] = sum(seen) / len(seen)
    return y


def average_pool2d_backward(dy, x, window):
    dx = np.zeros(x.shape)
    for n, i, j, k in np.ndindex(dy.shape):
        places = list(pixels(i, j, x.shape, window))
        for _, _, row, column in places:
            dx[n, row, column, k] += dy[n, i, j, k] / len(places)
    return (dx,)


def global_average_pool2d(x):
    n, h, w, c = x.shape
    y = np.zeros((n, c))
    for image, i, j, k in np.ndindex(x.shape):
        y[image, k] += x[image, i, j, k] / (h * w)
    return y


def global_average_pool2d_backward(dy, x):
    dx = np.zeros(x.shape)
    for n, i, j, k in np.ndindex(x.shape):
        dx[n, i, j, k] = dy[n, k] / (x.shape[1] * x.shape[2])
    return (dx,)


def global_max_pool2d(x):
    y = np.zeros((x.shape[0], x.shape[3]))
    for n, k in np.ndindex(y.shape):
        y[n, k], _ = first_largest([(x[n, i, j, k], (i, j)) for i, j in np.ndindex(x.shape[1:3])])
    return y


def global_max_pool2d_backward(dy, x):
    dx = np.zeros(x.shape)
    for n, k in np.ndindex(dy.shape):
        _, (row, column) = first_largest([(x[n, i, j, k], (i, j)) for i, j in np.ndindex(x.shape[1:3])])
        dx[n, row, column, k] = dy[n, k]
    return (dx,)


# ---------------------------------------------------------------------------------------------------------------
# Batch normalisation


def moments(x):
    """Mean and biased variance of every channel."""
    mean, variance = [], []
    for k in range(x.shape[-1]):
        numbers = [float(v) for v in x[..., k].ravel()]
        mean.append(sum(numbers) / len(numbers))
        variance.append(sum((v - mean[k]) ** 2 for v in numbers) / len(numbers))
    return np.array(mean), np.array(variance)


def batch_norm(x, gamma, beta, mean, variance, epsilon):
    y = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        k = at[-1]
        y[at] = gamma[k] * (x[at] - mean[k]) / math.sqrt(variance[k] + epsilon) + beta[k]
    return y


def batch_norm_backward(dy, x, gamma, beta, mean, variance, epsilon):
    """dx sums dy[b] * (how y[b] moves with x[a]), over every pair (a, b) of a channel's m numbers: with s the standard
    deviation, xhat[b] moves by ([a is b] - 1/m) / s through x[b] and the mean, and by -xhat[a] * xhat[b] / (m * s)
    through s."""
    dx, dgamma, dbeta = np.zeros(x.shape), np.zeros(len(gamma)), np.zeros(len(gamma))
    places = list(np.ndindex(x.shape[:-1]))
    for k in range(len(gamma)):
        s = math.sqrt(variance[k] + epsilon)
        xhat = {at: (x[(*at, k)] - mean[k]) / s for at in places}
        for b in places:
            dgamma[k] += dy[(*b, k)] * xhat[b]
            dbeta[k] += dy[(*b, k)]
            for a in places:
                moves = ((a == b) - 1 / len(places)) / s - xhat[a] * xhat[b] / (len(places) * s)
                dx[(*a, k)] += dy[(*b, k)] * gamma[k] * moves
    return dx, dgamma, dbeta


# ---------------------------------------------------------------------------------------------------------------
# Activations: functions of one number, which may be complex. Their derivative is the complex step,
# f(x + ih) = f(x) + ih f'(x), without rounding for a tiny h (Squire and Trapp, 1998).


def relu(v):
    return 0j if v.real <= 0 else v


def leaky_relu(v, negative_slope=0.01):
    return v if v.real > 0 else negative_slope * v


def sigmoid(v):
    return 1 / (1 + cmath.exp(-v))


def tanh(v):
    return cmath.tanh(v)


def gelu(v):
    return v / 2 * (1 + cmath.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))


def silu(v):
    return v * sigmoid(v)


def each(x, function, *arguments):
    """The function of each number."""
    y = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        y[at] = function(float(x[at]), *arguments).real
    return y


def each_backward(dy, x, function, *arguments):
    dx = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        dx[at] = dy[at] * function(complex(x[at], 1e-30), *arguments).imag / 1e-30
    return (dx,)


def softmax(x):
    y = np.zeros(x.shape)
    for row in np.ndindex(x.shape[:-1]):
        exps = [math.exp(v) for v in x[row]]
        for k, e in enumerate(exps):
            y[(*row, k)] = e / sum(exps)
    return y


def softmax_backward(dy, x):
    """y[b] moves with x[a] by y[b] * ([a is b] - y[a])."""
    y, dx = softmax(x), np.zeros(x.shape)
    for row in np.ndindex(x.shape[:-1]):
        for a, b in np.ndindex(x.shape[-1], x.shape[-1]):
            dx[(*row, a)] += dy[(*row, b)] * y[(*row, b)] * ((a == b) - y[(*row, a)])
    return (dx,)


# ---------------------------------------------------------------------------------------------------------------
# Dropout and batches


def dropout(x, rate, key):
    y = np.zeros(x.shape)
    for place, at in enumerate(np.ndindex(x.shape)):
        if splitmix64(key + place) >> 40 >= rate * 2**24:
            y[at] = x[at] / (1 - rate)
    return y


def dropout_backward(dy, x, rate, key):
    return (dropout(dy, rate, key),)


def splitmix64(count):
    """The count-th output of SplitMix64 (Steele, Lea and Flood, 2014), started so that output 0 mixes a state of 0."""
    z = count * 0x9E3779B97F4A7C15 % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def make_batch(images, index, factor, shift, matrix, holes):
    batch = np.zeros((len(index), *images.shape[1:]))
    for b, i, j, k in np.ndindex(batch.shape):
        image = images[index[b], :, :, k]
        if matrix is None:
            v = float(image[i, j])
        else:
            row, column = (float(m[0]) * i + float(m[1]) * j + float(m[2]) for m in matrix[b])
            v = between_pixels(image, row, column)
        batch[b, i, j, k] = v * factor[k] + shift[k]
        if holes is not None:
            top, bottom, left, right = holes[b]
            if top <= i < bottom and left <= j < right:
                batch[b, i, j, k] = 0
    return batch


def between_pixels(image, row, column):
    """Bilinear: each pixel nearer than 1 down and across counts by 1 - distance in both; outside is 0."""
    total = 0.0
    for i, j in np.ndindex(image.shape):
        nearness = max(0.0, 1 - abs(row - i)) * max(0.0, 1 - abs(column - j))
        total += nearness * float(image[i, j])
    return total


# ---------------------------------------------------------------------------------------------------------------
# The loss, and one weight's step: each gives the new w and the new moments


def cross_entropy(logits, truth, weights):
    n, classes = logits.shape
    probabilities, dlogits, loss = softmax(logits), np.zeros(logits.shape), 0.0
    for i in range(n):
        for k in range(classes):
            loss -= weights[i] * truth[i, k] * math.log(probabilities[i, k])
            for a in range(classes):  # log(probability k) moves with logit a by [a is k] - probability a
                dlogits[i, a] -= weights[i] * truth[i, k] * ((a == k) - probabilities[i, a])
    return loss, dlogits


def sgd(w, dw, velocity, rate, decay, momentum, nesterov):
    velocity = momentum * velocity + dw
    return w - rate * decay * w - rate * (dw + momentum * velocity if nesterov else velocity), velocity


def rmsprop(w, dw, square, rate, decay, rho, epsilon):
    square = rho * square + (1 - rho) * dw**2
    return w - rate * decay * w - rate * dw / (math.sqrt(square) + epsilon), square


def adam(w, dw, mean, square, rate, decay, beta1, beta2, epsilon, step):
    mean = beta1 * mean + (1 - beta1) * dw
    square = beta2 * square + (1 - beta2) * dw**2
    root = math.sqrt(square / (1 - beta2**step)) + epsilon
    return w - rate * decay * w - rate * mean / (1 - beta1**step) / root, mean, square
