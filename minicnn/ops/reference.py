"""The arithmetic of a convolutional network, in plain NumPy: read this to learn how it works.

Every function here has a twin of the same name and signature in `minicnn/ops/kernels`, which computes the same
numbers faster. The tests hold the two equal, so what you read here is what runs.

Backpropagation in five lines. A network is a chain of functions that ends in one number, the loss. We want to know how
the loss changes when any number in the chain does: its derivative. Say a piece of the chain is a convolution of three
pixels with two weights, y0 = a*x0 + b*x1 and y1 = a*x1 + b*x2, and we know dy0 and dy1, how the loss changes with y0 and
y1. A change of a moves y0 by x0 and y1 by x1, so da = x0*dy0 + x1*dy1: contributions add. And x1 was read twice, by y0
with weight b and by y1 with weight a, so dx1 = b*dy0 + a*dy1. All that follows is this, with more indices.

Conventions. Activations are NHWC: (n images, h rows, w columns, c channels), channels side by side in memory.
A gradient is named after what it belongs to: `dy` is dLoss/dy, an array of the shape of y. A `*_backward`
function gets dy and gives dx by the chain rule; gradients of weights are written into the arrays `dw`, `db`.
`out` is an offer of memory for the result, which a kernel takes and this reference, for clarity, does not;
callers go on with what is returned. `padding` is ((top, bottom), (left, right)); strides, dilations and window
sizes are (rows, columns). `relu=True` applies max(0, .) to the result in passing; its backward needs the result y.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Array = np.ndarray
Pair = tuple[int, int]
Padding = tuple[tuple[int, int], tuple[int, int]]

# ---------------------------------------------------------------------------------------------------------------
# Dense


def dense(x: Array, w: Array, b: Array | None, relu: bool = False, out: Array | None = None) -> Array:
    """A fully connected layer: y = x @ w + b. x (n, c), w (c, f), b (f,) or None; y (n, f)."""
    y = x @ w if b is None else x @ w + b
    return np.maximum(y, 0) if relu else y


def dense_backward(
    dy: Array,
    x: Array,
    w: Array,
    y: Array,
    dw: Array,
    db: Array | None,
    relu: bool = False,
    need_dx: bool = True,
    out: Array | None = None,
) -> Array | None:
    """The chain rule through `dense`: dw = x.T @ dy, db = sum of dy over the batch, dx = dy @ w.T."""
    if relu:
        dy = dy * (y > 0)
    dw[...] = x.T @ dy
    if db is not None:
        db[...] = dy.sum(axis=0)
    return dy @ w.T if need_dx else None


# ---------------------------------------------------------------------------------------------------------------
# Windows: what convolution and pooling share


def windows(x: Array, size: Pair, stride: Pair, padding: Padding, dilation: Pair = (1, 1), fill: float = 0.0) -> Array:
    """Every window of the padded images: a view (n, oh, ow, kh, kw, c) that copies nothing but the padding.

    Window [n, i, j] holds the padded pixels at rows i*stride + dilation*(0 .. kh-1), likewise for columns.
    """
    padded = np.pad(x, ((0, 0), *padding, (0, 0)), constant_values=fill)
    span = [d * (k - 1) + 1 for k, d in zip(size, dilation, strict=True)]
    view = sliding_window_view(padded, span, axis=(1, 2))  # (n, oh, ow, c, span, span)
    # a window spans its gaps too: take every stride-th window, and of it every dilation-th row and column
    view = view[:, :: stride[0], :: stride[1], :, :: dilation[0], :: dilation[1]]
    return view.transpose(0, 1, 2, 4, 5, 3)


def add_windows(
    dwindows: Array, x_shape: tuple[int, ...], stride: Pair, padding: Padding, dilation: Pair = (1, 1)
) -> Array:
    """The transpose of `windows`: add every window's gradient onto the pixels it was read from.

    A pixel that several windows saw receives the sum of what they send; that is all that 'col2im' means.
    """
    n, h, w, c = x_shape
    _, oh, ow, kh, kw, _ = dwindows.shape
    (top, bottom), (left, right) = padding
    padded = np.zeros((n, top + h + bottom, left + w + right, c), dwindows.dtype)
    for i in range(kh):
        for j in range(kw):
            rows = slice(i * dilation[0], i * dilation[0] + stride[0] * oh, stride[0])
            columns = slice(j * dilation[1], j * dilation[1] + stride[1] * ow, stride[1])
            padded[:, rows, columns] += dwindows[:, :, :, i, j]
    return padded[:, top : top + h, left : left + w]


# ---------------------------------------------------------------------------------------------------------------
# Convolution


def conv2d(
    x: Array,
    w: Array,
    b: Array | None,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    relu: bool = False,
    out: Array | None = None,
) -> Array:
    """Convolution (cross-correlation, as in every framework): slide w over x, a dot product at each place.

        y[n, i, j, f] = b[f] + sum over (p, q, c) of
                        padded[n, i*stride + p*dilation, j*stride + q*dilation, c] * w[p, q, c, f]

    x (n, h, w, c), w (kh, kw, c/groups, f), b (f,) or None; y (n, oh, ow, f). It is `dense` on every window: lay each
    window out as the row of a matrix ('im2col'), and the whole is one product, (n*oh*ow, kh*kw*c) times (kh*kw*c, f).
    With groups, channels and filters are dealt into as many bundles, and each bundle of filters sees its own bundle of
    channels.
    """
    if groups > 1:
        parts = zip(np.split(x, groups, axis=3), np.split(w, groups, axis=3), strict=True)
        y = np.concatenate([conv2d(xg, wg, None, stride, padding, dilation, 1) for xg, wg in parts], axis=3)
    else:
        kh, kw, c, f = w.shape
        patches = windows(x, (kh, kw), stride, padding, dilation)
        n, oh, ow = patches.shape[:3]
        matrix = patches.reshape(n * oh * ow, kh * kw * c)  # here the view becomes a copy
        y = (matrix @ w.reshape(kh * kw * c, f)).reshape(n, oh, ow, f)
    if b is not None:
        y = y + b
    return np.maximum(y, 0) if relu else y


def conv2d_backward(
    dy: Array,
    x: Array,
    w: Array,
    y: Array,
    dw: Array,
    db: Array | None,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    relu: bool = False,
    need_dx: bool = True,
    out: Array | None = None,
) -> Array | None:
    """The chain rule through `conv2d`, that is, through y[place] = matrix[place] @ w + b, for every place.

        db = sum of dy over all places     b was added at every place, and every place pulls at it
        dw = matrix.T @ dy                 w[k] met the number matrix[place, k] at every place
        dmatrix = dy @ w.T                 number k of a window met w[k, f] for every filter f
        dx = dmatrix, each row added back onto the pixels of its window

    dw and db are overwritten (db may be None); dx is returned, or None where need_dx is False. With relu, y is
    the forward result: where it is 0 the gate was shut and nothing flows back.
    """
    if relu:
        dy = dy * (y > 0)
    if db is not None:
        db[...] = dy.sum(axis=(0, 1, 2))
    if groups > 1:
        dys, xs, ws = (np.split(a, groups, axis=3) for a in (dy, x, w))
        dws = np.split(dw, groups, axis=3)  # views: what is written to them lands in dw
        dxs = [
            conv2d_backward(*(dyg, xg, wg, None, dwg, None), stride, padding, dilation, 1, need_dx=need_dx)
            for dyg, xg, wg, dwg in zip(dys, xs, ws, dws, strict=True)
        ]
        return np.concatenate(dxs, axis=3) if need_dx else None
    kh, kw, c, f = w.shape
    patches = windows(x, (kh, kw), stride, padding, dilation)
    n, oh, ow = patches.shape[:3]
    matrix, dy = patches.reshape(n * oh * ow, kh * kw * c), dy.reshape(n * oh * ow, f)
    dw[...] = (matrix.T @ dy).reshape(w.shape)
    if not need_dx:
        return None
    dmatrix = dy @ w.reshape(kh * kw * c, f).T
    return add_windows(dmatrix.reshape(n, oh, ow, kh, kw, c), x.shape, stride, padding, dilation)


def depthwise_conv2d(
    x: Array,
    w: Array,
    b: Array | None,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    relu: bool = False,
    out: Array | None = None,
) -> Array:
    """A filter of its own for each channel: convolution with as many groups as channels.

        y[n, i, j, c] = b[c] + sum over (p, q) of
                        padded[n, i*stride + p*dilation, j*stride + q*dilation, c] * w[p, q, c]

    w is (kh, kw, c).
    """
    y = np.einsum("nijpqc,pqc->nijc", windows(x, w.shape[:2], stride, padding, dilation), w)
    if b is not None:
        y = y + b
    return np.maximum(y, 0) if relu else y


def depthwise_conv2d_backward(
    dy: Array,
    x: Array,
    w: Array,
    y: Array,
    dw: Array,
    db: Array | None,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    relu: bool = False,
    need_dx: bool = True,
    out: Array | None = None,
) -> Array | None:
    """The chain rule through `depthwise_conv2d`: as for `conv2d`, channel by channel."""
    if relu:
        dy = dy * (y > 0)
    if db is not None:
        db[...] = dy.sum(axis=(0, 1, 2))
    dw[...] = np.einsum("nijpqc,nijc->pqc", windows(x, w.shape[:2], stride, padding, dilation), dy)
    if not need_dx:
        return None
    return add_windows(np.einsum("nijc,pqc->nijpqc", dy, w), x.shape, stride, padding, dilation)


# ---------------------------------------------------------------------------------------------------------------
# Pooling


def max_pool2d(
    x: Array, size: Pair, stride: Pair, padding: Padding, out: tuple[Array, Array] | None = None
) -> tuple[Array, Array]:
    """The largest number of each window and channel: returns y (n, oh, ow, c) and where it was found.

    `where`, of y's shape, is the place in the window counted row by row; of equal numbers the first wins, and
    NaN counts as the largest. Padding never wins. `where` is uint8, or int32 for windows of more than 256 places.
    """
    kh, kw = size
    view = windows(x, size, stride, padding, fill=-np.inf)
    y = view.max(axis=(3, 4))
    won = (view == y[:, :, :, None, None]) | np.isnan(view)
    won &= windows(np.ones((1, *x.shape[1:3], 1), bool), size, stride, padding, fill=False)
    where = won.reshape(*y.shape[:3], kh * kw, y.shape[3]).argmax(axis=3)
    return y, where.astype(np.uint8 if kh * kw <= 256 else np.int32)


def max_pool2d_backward(
    dy: Array,
    where: Array,
    x_shape: tuple[int, ...],
    size: Pair,
    stride: Pair,
    padding: Padding,
    out: Array | None = None,
) -> Array:
    """Each dy goes to the one pixel that won its window; a pixel that won several receives their sum."""
    kh, kw = size
    won = where[:, :, :, None, None] == np.arange(kh * kw, dtype=where.dtype).reshape(kh, kw, 1)
    dwindows = np.where(won, dy[:, :, :, None, None], dy.dtype.type(0))
    return add_windows(dwindows, x_shape, stride, padding)


def average_pool2d(x: Array, size: Pair, stride: Pair, padding: Padding, out: Array | None = None) -> Array:
    """The mean of each window, over the pixels that lie in the image: padding is not counted (as in Keras)."""
    total = windows(x, size, stride, padding).sum(axis=(3, 4))
    return (total / _pixels_in_window(x.shape, size, stride, padding)).astype(x.dtype)


def average_pool2d_backward(
    dy: Array, x_shape: tuple[int, ...], size: Pair, stride: Pair, padding: Padding, out: Array | None = None
) -> Array:
    """Each pixel of a window receives an equal share of its dy."""
    share = (dy / _pixels_in_window(x_shape, size, stride, padding)).astype(dy.dtype)
    dwindows = np.broadcast_to(share[:, :, :, None, None], (*dy.shape[:3], *size, dy.shape[3]))
    return add_windows(dwindows, x_shape, stride, padding)


def _pixels_in_window(x_shape, size, stride, padding):
    return windows(np.ones((1, *x_shape[1:3], 1)), size, stride, padding).sum(axis=(3, 4))


def global_average_pool2d(x: Array, out: Array | None = None) -> Array:
    """The mean of each channel over the image: (n, h, w, c) to (n, c)."""
    return x.mean(axis=(1, 2))


def global_average_pool2d_backward(dy: Array, x_shape: tuple[int, ...], out: Array | None = None) -> Array:
    """Every pixel receives dy / (h*w)."""
    _, h, w, _ = x_shape
    return np.broadcast_to((dy / (h * w)).astype(dy.dtype)[:, None, None], x_shape).copy()


def global_max_pool2d(x: Array, out: tuple[Array, Array] | None = None) -> tuple[Array, Array]:
    """The largest number of each channel and its place, counted row by row: y (n, c) and where, as in max_pool2d."""
    n, h, w, c = x.shape
    flat = x.reshape(n, h * w, c)
    where = flat.argmax(axis=1)
    return np.take_along_axis(flat, where[:, None], axis=1)[:, 0], where.astype(np.uint8 if h * w <= 256 else np.int32)


def global_max_pool2d_backward(dy: Array, where: Array, x_shape: tuple[int, ...], out: Array | None = None) -> Array:
    """dy goes to the pixel that won."""
    n, h, w, c = x_shape
    dx = np.zeros((n, h * w, c), dy.dtype)
    np.put_along_axis(dx, where[:, None].astype(np.intp), dy[:, None], axis=1)
    return dx.reshape(x_shape)


# ---------------------------------------------------------------------------------------------------------------
# Batch normalisation (Ioffe and Szegedy, 2015)


def batch_norm(
    x: Array, gamma: Array, beta: Array, epsilon: float, relu: bool = False, out: Array | None = None
) -> tuple[Array, Array, Array]:
    """Shift and scale each channel to mean 0 and variance 1 over the batch, then by what was learnt.

        xhat = (x - mean) / sqrt(var + epsilon)        y = gamma * xhat + beta

    Mean and (biased) variance of each channel run over all axes but the last. Returns y, mean, var.
    """
    axes = tuple(range(x.ndim - 1))
    mean, var = x.mean(axis=axes), x.var(axis=axes)
    y = gamma * (x - mean) / np.sqrt(var + epsilon) + beta
    return np.maximum(y, 0) if relu else y, mean, var


def batch_norm_backward(
    dy: Array,
    x: Array,
    y: Array,
    mean: Array,
    var: Array,
    gamma: Array,
    epsilon: float,
    dgamma: Array,
    dbeta: Array,
    relu: bool = False,
    out: Array | None = None,
) -> Array:
    """The chain rule through `batch_norm`, mean and variance included. With m numbers a channel,

        dbeta = sum(dy)      dgamma = sum(dy * xhat)
        dx = gamma / sqrt(var + epsilon) * (dy - dbeta / m - xhat * dgamma / m)

    The two subtracted terms are what flows back through the mean and through the variance: a change of x that
    only shifts or stretches the whole channel leaves y as it is, so dx has no part in those directions.
    """
    if relu:
        dy = dy * (y > 0)
    axes = tuple(range(x.ndim - 1))
    m = math.prod(x.shape[:-1])
    inverse_std = 1 / np.sqrt(var + epsilon)
    xhat = (x - mean) * inverse_std
    dbeta[...] = dy.sum(axis=axes)
    dgamma[...] = (dy * xhat).sum(axis=axes)
    return gamma * inverse_std * (dy - dbeta / m - xhat * (dgamma / m))


def scale_shift(x: Array, scale: Array, shift: Array, relu: bool = False, out: Array | None = None) -> Array:
    """y = scale * x + shift, channel by channel: batch normalisation once its statistics are fixed."""
    y = scale * x + shift
    return np.maximum(y, 0) if relu else y


# ---------------------------------------------------------------------------------------------------------------
# Activations: number by number, any shape. Each backward takes what its derivative is written in.


def relu(x: Array, out: Array | None = None) -> Array:
    """max(0, x). NaN stays NaN."""
    return np.maximum(x, 0)


def relu_backward(dy: Array, y: Array, out: Array | None = None) -> Array:
    """The gate was open where the result is above 0: dx = dy there, else 0."""
    return dy * (y > 0)


def leaky_relu(x: Array, slope: float, out: Array | None = None) -> Array:
    """x where x > 0, slope * x elsewhere (Maas, Hannun and Ng, 2013)."""
    return np.where(x > 0, x, x.dtype.type(slope) * x)


def leaky_relu_backward(dy: Array, x: Array, slope: float, out: Array | None = None) -> Array:
    """dx = dy where x > 0, slope * dy elsewhere."""
    return np.where(x > 0, dy, dy.dtype.type(slope) * dy)


def sigmoid(x: Array, out: Array | None = None) -> Array:
    """1 / (1 + exp(-x)), written with tanh, which cannot overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def sigmoid_backward(dy: Array, y: Array, out: Array | None = None) -> Array:
    """The derivative in terms of the result: y * (1 - y)."""
    return dy * y * (1 - y)


def tanh(x: Array, out: Array | None = None) -> Array:
    """The hyperbolic tangent."""
    return np.tanh(x)


def tanh_backward(dy: Array, y: Array, out: Array | None = None) -> Array:
    """The derivative in terms of the result: 1 - y**2."""
    return dy * (1 - y * y)


def gelu(x: Array, out: Array | None = None) -> Array:
    """x times the probability that a standard normal number is below x, in the tanh form of Hendrycks and Gimpel
    (2016): 0.5 * x * (1 + tanh(u)), u = sqrt(2/pi) * (x + 0.044715 x**3)."""
    return 0.5 * x * (1 + np.tanh(_gelu_argument(x)))


def gelu_backward(dy: Array, x: Array, out: Array | None = None) -> Array:
    """The product rule on `gelu`, with du/dx = sqrt(2/pi) * (1 + 3 * 0.044715 x**2)."""
    t = np.tanh(_gelu_argument(x))
    du = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
    return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du)


def _gelu_argument(x):
    return math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)


def silu(x: Array, out: Array | None = None) -> Array:
    """x * sigmoid(x) (Elfwing, Uchibe and Doya, 2017)."""
    return x * sigmoid(x)


def silu_backward(dy: Array, x: Array, out: Array | None = None) -> Array:
    """The product rule on x * s with s = sigmoid(x): s + x * s * (1 - s)."""
    s = sigmoid(x)
    return dy * (s + x * s * (1 - s))


def softmax(x: Array, out: Array | None = None) -> Array:
    """exp(x) / sum(exp(x)) along the last axis; the largest x is subtracted first so that exp cannot overflow."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def softmax_backward(dy: Array, y: Array, out: Array | None = None) -> Array:
    """dx = y * (dy - sum(dy * y)): raising one logit raises its own share at the cost of all others."""
    return y * (dy - (dy * y).sum(axis=-1, keepdims=True))


# ---------------------------------------------------------------------------------------------------------------
# Noise, sums and batches


def dropout(x: Array, rate: float, key: int, out: Array | None = None) -> Array:
    """Set each number to 0 with probability `rate`, divide the others by 1 - rate (Srivastava et al., 2014).

    Which ones depends on nothing but `key` (an integer below 2**64) and the number's place, so the backward pass
    is the same function with the same key applied to dy, and no mask is stored. The random bits are SplitMix64
    (Steele, Lea and Flood, 2014) of key and place.
    """
    bits = _splitmix64(np.uint64(key) + np.arange(x.size, dtype=np.uint64))
    keep = (bits >> np.uint64(40)) >= np.uint64(math.ceil(rate * 2**24))
    scale = x.dtype.type(1 / (1 - rate))
    return x * (scale * keep.reshape(x.shape).astype(x.dtype))


def _splitmix64(state):
    z = state * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def add(a: Array, b: Array, relu: bool = False, out: Array | None = None) -> Array:
    """a + b, of equal shapes: where a residual branch joins its shortcut."""
    y = a + b
    return np.maximum(y, 0) if relu else y


def make_batch(
    images: Array,
    index: Array,
    matrix: Array | None,
    holes: Array | None,
    scale: Array,
    shift: Array,
    dtype: str,
    out: Array | None = None,
) -> Array:
    """Gather images[index], move them about, and standardise: uint8 or float images to a batch of floats.

    images (N, h, w, c); index (n,) int64; matrix (n, 2, 3) or None. Output pixel (i, j) of image k is read at

        (row, column) = matrix[k] @ (i, j, 1)

    by bilinear interpolation between its four neighbours, pixels outside the image counting as 0. holes
    (n, 4) or None: rows holes[k, 0]..holes[k, 1]-1 and columns holes[k, 2]..holes[k, 3]-1 are erased: they become
    0 after standardisation, the mean picture. Each number v of channel c becomes v * scale[c] + shift[c]. Where the matrix
    is None, pixels are taken as they are.
    """
    dtype = np.dtype(dtype)
    batch = images[index].astype(dtype)
    if matrix is not None:
        batch = np.stack([_warp(image, m) for image, m in zip(batch, matrix.astype(dtype), strict=True)])
    batch = batch * scale.astype(dtype) + shift.astype(dtype)
    if holes is not None:
        for image, (top, bottom, left, right) in zip(batch, holes, strict=True):
            image[top:bottom, left:right] = 0
    return batch


def _warp(image, matrix):
    h, w, _ = image.shape
    i, j = np.mgrid[0:h, 0:w].astype(image.dtype)
    row = matrix[0, 0] * i + matrix[0, 1] * j + matrix[0, 2]
    column = matrix[1, 0] * i + matrix[1, 1] * j + matrix[1, 2]
    row, column = np.clip(row, -1, h), np.clip(column, -1, w)  # everything further out is 0 as well
    top, left = np.floor(row).astype(np.intp), np.floor(column).astype(np.intp)
    down, right = (row - top)[..., None], (column - left)[..., None]
    framed = np.pad(image, ((1, 2), (1, 2), (0, 0)))  # a frame of zeros, so that neighbours outside are read as 0
    upper = framed[top + 1, left + 1] * (1 - right) + framed[top + 1, left + 2] * right
    lower = framed[top + 2, left + 1] * (1 - right) + framed[top + 2, left + 2] * right
    return (upper * (1 - down) + lower * down).astype(image.dtype)


# ---------------------------------------------------------------------------------------------------------------
# The loss, and the optimizers' step over the flat vector of all weights


def softmax_cross_entropy(
    logits: Array, targets: Array, weights: Array, out: Array | None = None
) -> tuple[float, Array]:
    """The mean over the batch of -sum(t * log(softmax(logits))), and its gradient.

    logits and targets (n, classes): targets are probabilities, a row sums to 1; weights (n,) weigh the rows:
    loss = sum(weights * row loss) / sum(weights). The gradient is as simple as can be,

        dlogits = (softmax(logits) - targets) * weights / sum(weights).

    Returns (loss as a float, dlogits).
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    share = (weights / weights.sum())[:, None].astype(logits.dtype)
    loss = -(share * targets * log_probabilities).sum()
    return float(loss), share * (np.exp(log_probabilities) - targets)


def sum_of_squares(g: Array) -> float:
    """The sum of g**2 as a float, gathered in double precision: the square of a gradient's norm."""
    return float(np.square(g, dtype=np.float64).sum())


def sgd_step(
    w: Array, dw: Array, velocity: Array, rate: float, momentum: float, nesterov: bool, decay: float, clip: float
) -> None:
    """v = momentum * v + g; w -= rate * v, or with Nesterov's look ahead w -= rate * (g + momentum * v).

    g is dw * clip. Weights shrink first, by the factor 1 - rate * decay (decoupled weight decay). All of
    w, velocity are 1-D arrays changed in place. (Polyak, 1964; Nesterov, 1983; Sutskever et al., 2013)
    """
    g = dw * dw.dtype.type(clip)
    velocity *= w.dtype.type(momentum)
    velocity += g
    w *= w.dtype.type(1 - rate * decay)
    w -= w.dtype.type(rate) * (g + w.dtype.type(momentum) * velocity if nesterov else velocity)


def rmsprop_step(
    w: Array, dw: Array, square: Array, rate: float, rho: float, epsilon: float, decay: float, clip: float
) -> None:
    """s = rho * s + (1 - rho) * g**2; w -= rate * g / (sqrt(s) + epsilon) (Tieleman and Hinton, 2012)."""
    g = dw * dw.dtype.type(clip)
    square *= w.dtype.type(rho)
    square += w.dtype.type(1 - rho) * g * g
    w *= w.dtype.type(1 - rate * decay)
    w -= w.dtype.type(rate) * g / (np.sqrt(square) + w.dtype.type(epsilon))


def adam_step(
    w: Array,
    dw: Array,
    mean: Array,
    square: Array,
    rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    decay: float,
    clip: float,
    step: int,
) -> None:
    """Adam (Kingma and Ba, 2015), with decoupled decay AdamW (Loshchilov and Hutter, 2019); step counts from 1.

    m = beta1 * m + (1 - beta1) * g        s = beta2 * s + (1 - beta2) * g**2
    w -= rate * (m / (1 - beta1**step)) / (sqrt(s / (1 - beta2**step)) + epsilon)
    """
    number = w.dtype.type
    g = dw * number(clip)
    mean *= number(beta1)
    mean += number(1 - beta1) * g
    square *= number(beta2)
    square += number(1 - beta2) * g * g
    w *= number(1 - rate * decay)
    root = np.sqrt(square) / number(math.sqrt(1 - beta2**step)) + number(epsilon)
    w -= number(rate / (1 - beta1**step)) * mean / root
