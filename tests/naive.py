"""Every operation of minicnn/ops once more, as the plainest loops there are: the oracle of the tests.

Each function says what its operation means, number by number, in Python floats (double precision), with the names and
parameters of minicnn/ops/reference.py. Nothing here is fast, shared or clever, so that whoever reads it can see that it
is right: a convolution is its sum, a backward pass hands every product's gradient to its two factors, and a derivative
that can be had without a formula is had without one. `out` is ignored; what an operation writes, it writes in place.
"""

from __future__ import annotations

import cmath
import math

import numpy as np

# ---------------------------------------------------------------------------------------------------------------
# Windows


def output_size(x_shape, size, stride, padding, dilation=(1, 1)):
    """How many windows fit, down and across."""
    counts = []
    for axis in (0, 1):
        length = padding[axis][0] + x_shape[1 + axis] + padding[axis][1]
        first, count = 0, 0
        while first + dilation[axis] * (size[axis] - 1) < length:
            count += 1
            first += stride[axis]
        counts.append(count)
    return tuple(counts)


def pixels(i, j, x_shape, size, stride, padding, dilation=(1, 1)):
    """(p, q, row, column) of every place (p, q) of window (i, j) that lies in the image, row by row."""
    for p in range(size[0]):
        for q in range(size[1]):
            row = i * stride[0] + p * dilation[0] - padding[0][0]
            column = j * stride[1] + q * dilation[1] - padding[1][0]
            if 0 <= row < x_shape[1] and 0 <= column < x_shape[2]:
                yield p, q, row, column


def gate(dy, y, relu):
    """dy as it arrives behind the relu: nothing comes through where the result is not above 0."""
    passed = np.zeros(dy.shape)
    for at in np.ndindex(dy.shape):
        if not relu or y[at] > 0:
            passed[at] = dy[at]
    return passed


# ---------------------------------------------------------------------------------------------------------------
# Convolution and dense


def conv2d(x, w, b, stride, padding, dilation, groups, relu=False, out=None):
    kh, kw, c, f = w.shape
    y = np.zeros((len(x), *output_size(x.shape, (kh, kw), stride, padding, dilation), f))
    for n, i, j, k in np.ndindex(y.shape):
        group = k // (f // groups)
        total = 0.0 if b is None else float(b[k])
        for p, q, row, column in pixels(i, j, x.shape, (kh, kw), stride, padding, dilation):
            for channel in range(c):
                total += float(x[n, row, column, group * c + channel]) * float(w[p, q, channel, k])
        y[n, i, j, k] = max(total, 0.0) if relu else total
    return y


def conv2d_backward(dy, x, w, y, dw, db, stride, padding, dilation, groups, relu=False, need_dx=True, out=None):
    kh, kw, c, f = w.shape
    dy, dx = gate(dy, y, relu), np.zeros(x.shape)
    dw[...] = 0
    if db is not None:
        db[...] = 0
    for n, i, j, k in np.ndindex(dy.shape):
        group = k // (f // groups)
        if db is not None:
            db[k] += dy[n, i, j, k]
        for p, q, row, column in pixels(i, j, x.shape, (kh, kw), stride, padding, dilation):
            for channel in range(c):
                dw[p, q, channel, k] += dy[n, i, j, k] * x[n, row, column, group * c + channel]
                dx[n, row, column, group * c + channel] += dy[n, i, j, k] * w[p, q, channel, k]
    return dx if need_dx else None


def depthwise_conv2d(x, w, b, stride, padding, dilation, relu=False, out=None):
    kh, kw, c = w.shape
    y = np.zeros((len(x), *output_size(x.shape, (kh, kw), stride, padding, dilation), c))
    for n, i, j, k in np.ndindex(y.shape):
        total = 0.0 if b is None else float(b[k])
        for p, q, row, column in pixels(i, j, x.shape, (kh, kw), stride, padding, dilation):
            total += float(x[n, row, column, k]) * float(w[p, q, k])
        y[n, i, j, k] = max(total, 0.0) if relu else total
    return y


def depthwise_conv2d_backward(dy, x, w, y, dw, db, stride, padding, dilation, relu=False, need_dx=True, out=None):
    kh, kw, _ = w.shape
    dy, dx = gate(dy, y, relu), np.zeros(x.shape)
    dw[...] = 0
    if db is not None:
        db[...] = 0
    for n, i, j, k in np.ndindex(dy.shape):
        if db is not None:
            db[k] += dy[n, i, j, k]
        for p, q, row, column in pixels(i, j, x.shape, (kh, kw), stride, padding, dilation):
            dw[p, q, k] += dy[n, i, j, k] * x[n, row, column, k]
            dx[n, row, column, k] += dy[n, i, j, k] * w[p, q, k]
    return dx if need_dx else None


def dense(x, w, b, relu=False, out=None):
    y = np.zeros((len(x), w.shape[1]))
    for n, k in np.ndindex(y.shape):
        total = 0.0 if b is None else float(b[k])
        for c in range(x.shape[1]):
            total += float(x[n, c]) * float(w[c, k])
        y[n, k] = max(total, 0.0) if relu else total
    return y


def dense_backward(dy, x, w, y, dw, db, relu=False, need_dx=True, out=None):
    dy, dx = gate(dy, y, relu), np.zeros(x.shape)
    dw[...] = 0
    if db is not None:
        db[...] = 0
    for n, k in np.ndindex(dy.shape):
        if db is not None:
            db[k] += dy[n, k]
        for c in range(x.shape[1]):
            dw[c, k] += dy[n, k] * x[n, c]
            dx[n, c] += dy[n, k] * w[c, k]
    return dx if need_dx else None


# ---------------------------------------------------------------------------------------------------------------
# Pooling


def max_pool2d(x, size, stride, padding, out=None):
    shape = (len(x), *output_size(x.shape, size, stride, padding), x.shape[3])
    y, where = np.zeros(shape), np.zeros(shape, np.uint8 if size[0] * size[1] <= 256 else np.int32)
    for n, i, j, k in np.ndindex(shape):
        seen = [
            (float(x[n, row, column, k]), p * size[1] + q)
            for p, q, row, column in pixels(i, j, x.shape, size, stride, padding)
        ]
        y[n, i, j, k], where[n, i, j, k] = first_largest(seen)
    return y, where


def first_largest(seen):
    """The (number, place) with the largest number, NaN above all; the first of equals; of none, (-inf, 0)."""
    best = None
    for number, place in seen:
        if best is None or number > best[0] or (math.isnan(number) and not math.isnan(best[0])):
            best = number, place
    return best or (-math.inf, 0)


def max_pool2d_backward(dy, where, x_shape, size, stride, padding, out=None):
    dx = np.zeros(x_shape)
    for n, i, j, k in np.ndindex(dy.shape):
        for p, q, row, column in pixels(i, j, x_shape, size, stride, padding):
            if where[n, i, j, k] == p * size[1] + q:
                dx[n, row, column, k] += dy[n, i, j, k]
    return dx


def average_pool2d(x, size, stride, padding, out=None):
    y = np.zeros((len(x), *output_size(x.shape, size, stride, padding), x.shape[3]))
    for n, i, j, k in np.ndindex(y.shape):
        places = pixels(i, j, x.shape, size, stride, padding)
        seen = [float(x[n, row, column, k]) for _, _, row, column in places]
        y[n, i, j, k] = sum(seen) / len(seen) if seen else math.nan
    return y


def average_pool2d_backward(dy, x_shape, size, stride, padding, out=None):
    dx = np.zeros(x_shape)
    for n, i, j, k in np.ndindex(dy.shape):
        places = list(pixels(i, j, x_shape, size, stride, padding))
        for _, _, row, column in places:
            dx[n, row, column, k] += dy[n, i, j, k] / len(places)
    return dx


def global_average_pool2d(x, out=None):
    n, h, w, c = x.shape
    return average_pool2d(x, (h, w), (1, 1), ((0, 0), (0, 0))).reshape(n, c)


def global_average_pool2d_backward(dy, x_shape, out=None):
    dx = np.zeros(x_shape)
    for n, i, j, k in np.ndindex(x_shape):
        dx[n, i, j, k] = dy[n, k] / (x_shape[1] * x_shape[2])
    return dx


def global_max_pool2d(x, out=None):
    n, h, w, c = x.shape
    y, where = np.zeros((n, c)), np.zeros((n, c), np.uint8 if h * w <= 256 else np.int32)
    for image, k in np.ndindex(n, c):
        seen = [(float(x[image, i, j, k]), i * w + j) for i, j in np.ndindex(h, w)]
        y[image, k], where[image, k] = first_largest(seen)
    return y, where


def global_max_pool2d_backward(dy, where, x_shape, out=None):
    dx = np.zeros(x_shape)
    for n, k in np.ndindex(dy.shape):
        i, j = divmod(int(where[n, k]), x_shape[2])
        dx[n, i, j, k] = dy[n, k]
    return dx


# ---------------------------------------------------------------------------------------------------------------
# Batch normalisation


def batch_norm(x, gamma, beta, epsilon, relu=False, out=None):
    c = x.shape[-1]
    y, mean, var = np.zeros(x.shape), np.zeros(c), np.zeros(c)
    for k in range(c):
        numbers = [float(v) for v in x[..., k].ravel()]
        mean[k] = sum(numbers) / len(numbers)
        var[k] = sum((v - mean[k]) ** 2 for v in numbers) / len(numbers)
    for at in np.ndindex(x.shape):
        k = at[-1]
        total = gamma[k] * (x[at] - mean[k]) / math.sqrt(var[k] + epsilon) + beta[k]
        y[at] = max(total, 0.0) if relu else total
    return y, mean, var


def batch_norm_backward(dy, x, y, mean, var, gamma, epsilon, dgamma, dbeta, relu=False, out=None):
    """dx sums dy[b] * (how y[b] moves with x[a]), over every pair (a, b) of a channel's m numbers: with s the standard
    deviation, xhat[b] moves by ([a is b] - 1/m) / s through x[b] and the mean, and by -xhat[a] * xhat[b] / (m * s)
    through s."""
    dy, dx = gate(dy, y, relu), np.zeros(x.shape)
    dgamma[...], dbeta[...] = 0, 0
    places = list(np.ndindex(x.shape[:-1]))
    for k in range(x.shape[-1]):
        s = math.sqrt(var[k] + epsilon)
        xhat = {at: (x[(*at, k)] - mean[k]) / s for at in places}
        for b in places:
            dgamma[k] += dy[(*b, k)] * xhat[b]
            dbeta[k] += dy[(*b, k)]
            for a in places:
                moves = ((a == b) - 1 / len(places)) / s - xhat[a] * xhat[b] / (len(places) * s)
                dx[(*a, k)] += dy[(*b, k)] * gamma[k] * moves
    return dx


def scale_shift(x, scale, shift, relu=False, out=None):
    y = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        total = float(scale[at[-1]]) * float(x[at]) + float(shift[at[-1]])
        y[at] = max(total, 0.0) if relu else total
    return y


# ---------------------------------------------------------------------------------------------------------------
# Activations. A derivative is the complex step: f(x + ih) = f(x) + ih f'(x), without rounding for a tiny h
# (Squire and Trapp, 1998).


def each(function, *arrays):
    """The function of each number of an array, or of the numbers in the same place of several."""
    y = np.zeros(arrays[0].shape)
    for at in np.ndindex(y.shape):
        y[at] = function(*(float(array[at]) for array in arrays))
    return y


def derivative(function, v):
    return function(complex(v, 1e-30)).imag / 1e-30


def relu(x, out=None):
    return each(lambda v: 0.0 if v < 0 else v, x)


def relu_backward(dy, y, out=None):
    return gate(dy, y, True)


def leaky_relu(x, slope, out=None):
    return each(lambda v: v if v > 0 else slope * v, x)


def leaky_relu_backward(dy, x, slope, out=None):
    return each(lambda d, v: d if v > 0 else slope * d, dy, x)


def one_sigmoid(v):
    return 1 / (1 + cmath.exp(-v))


def sigmoid(x, out=None):
    return each(lambda v: one_sigmoid(v).real, x)


def sigmoid_backward(dy, y, out=None):
    return each(lambda d, s: d * derivative(one_sigmoid, math.log(s / (1 - s))), dy, y)


def tanh(x, out=None):
    return each(math.tanh, x)


def tanh_backward(dy, y, out=None):
    return each(lambda d, t: d * derivative(cmath.tanh, math.atanh(t)), dy, y)


def one_gelu(v):
    return v / 2 * (1 + cmath.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))


def gelu(x, out=None):
    return each(lambda v: one_gelu(v).real, x)


def gelu_backward(dy, x, out=None):
    return each(lambda d, v: d * derivative(one_gelu, v), dy, x)


def one_silu(v):
    return v / (1 + cmath.exp(-v))


def silu(x, out=None):
    return each(lambda v: one_silu(v).real, x)


def silu_backward(dy, x, out=None):
    return each(lambda d, v: d * derivative(one_silu, v), dy, x)


def softmax(x, out=None):
    y = np.zeros(x.shape)
    for row in np.ndindex(x.shape[:-1]):
        exps = [math.exp(v) for v in x[row]]
        for k, e in enumerate(exps):
            y[(*row, k)] = e / sum(exps)
    return y


def softmax_backward(dy, y, out=None):
    """y[b] moves with x[a] by y[b] * ([a is b] - y[a])."""
    dx = np.zeros(y.shape)
    for row in np.ndindex(y.shape[:-1]):
        for a, b in np.ndindex(y.shape[-1], y.shape[-1]):
            dx[(*row, a)] += dy[(*row, b)] * y[(*row, b)] * ((a == b) - y[(*row, a)])
    return dx


# ---------------------------------------------------------------------------------------------------------------
# Noise, sums and batches


def dropout(x, rate, key, out=None):
    y = np.zeros(x.shape)
    for place, at in enumerate(np.ndindex(x.shape)):
        top_bits = splitmix64(key + place) >> 40
        if top_bits >= rate * 2**24:
            y[at] = x[at] / (1 - rate)
    return y


def splitmix64(count):
    """The count-th output of SplitMix64 (Steele, Lea and Flood, 2014), started so that output 0 mixes a state of 0."""
    z = count * 0x9E3779B97F4A7C15 % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def add(a, b, relu=False, out=None):
    return each(lambda v, u: max(v + u, 0.0) if relu else v + u, a, b)


def make_batch(images, index, matrix, holes, scale, shift, dtype, out=None):
    n, (h, w, c) = len(index), images.shape[1:]
    batch = np.zeros((n, h, w, c))
    for b, i, j, k in np.ndindex(batch.shape):
        image = images[index[b], :, :, k]
        if matrix is None:
            v = float(image[i, j])
        else:
            row, column = (float(m[0]) * i + float(m[1]) * j + float(m[2]) for m in matrix[b])
            v = between_pixels(image, row, column)
        batch[b, i, j, k] = v * float(scale[k]) + float(shift[k])
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
# The loss, and the optimizers' steps


def softmax_cross_entropy(logits, targets, weights, out=None):
    n, classes = logits.shape
    probabilities, dlogits, loss = softmax(logits), np.zeros(logits.shape), 0.0
    total = sum(float(v) for v in weights)
    for i in range(n):
        for k in range(classes):
            loss -= weights[i] / total * targets[i, k] * math.log(probabilities[i, k])
            for a in range(classes):  # log(probability k) moves with logit a by [a is k] - probability a
                dlogits[i, a] -= weights[i] / total * targets[i, k] * ((a == k) - probabilities[i, a])
    return float(loss), dlogits


def sum_of_squares(g):
    total = 0.0
    for v in g.ravel():
        total += float(v) ** 2
    return total


def sgd_step(w, dw, velocity, rate, momentum, nesterov, decay, clip):
    for i in range(len(w)):
        g = dw[i] * clip
        velocity[i] = momentum * velocity[i] + g
        w[i] -= rate * decay * w[i]
        w[i] -= rate * (g + momentum * velocity[i]) if nesterov else rate * velocity[i]


def rmsprop_step(w, dw, square, rate, rho, epsilon, decay, clip):
    for i in range(len(w)):
        g = dw[i] * clip
        square[i] = rho * square[i] + (1 - rho) * g**2
        w[i] -= rate * decay * w[i]
        w[i] -= rate * g / (math.sqrt(square[i]) + epsilon)


def adam_step(w, dw, mean, square, rate, beta1, beta2, epsilon, decay, clip, step):
    for i in range(len(w)):
        g = dw[i] * clip
        mean[i] = beta1 * mean[i] + (1 - beta1) * g
        square[i] = beta2 * square[i] + (1 - beta2) * g**2
        w[i] -= rate * decay * w[i]
        w[i] -= rate * mean[i] / (1 - beta1**step) / (math.sqrt(square[i] / (1 - beta2**step)) + epsilon)
