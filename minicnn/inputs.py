"""From what a user gives to what a network takes: images and targets checked, and gathered into batches of floats."""

from __future__ import annotations

import numpy as np

from minicnn.errors import DataError, ShapeError
from minicnn.say import advise

TAKEN = frozenset(map(np.dtype, (np.uint8, np.float32, np.float64)))


def check_images(x: np.ndarray, input_shape: tuple[int, ...], dtype: str, finite: bool = True) -> np.ndarray:
    """Images as an array (n, *input_shape) of uint8 or floats, `finite` where that is to be checked; or a clear error."""
    x = plain(x, "images")
    if x.ndim == len(input_shape) and input_shape[-1] == 1 and x.shape[1:] == input_shape[:-1]:
        x = x[..., None]  # (n, h, w): one channel goes without saying
    if x.shape[1:] != input_shape or x.ndim != len(input_shape) + 1:
        hint = ": for a single image x[None]" if x.shape in (input_shape, input_shape[:-1]) else ""
        raise ShapeError(f"images: got shape {x.shape}, expected ({', '.join(('n', *map(str, input_shape)))}){hint}")
    if x.dtype.kind != "f" and x.dtype != np.uint8:
        raise DataError(f"images: got dtype {x.dtype}, expected uint8 or floats")
    if len(x) == 0:
        raise DataError("images: got none, expected at least one")
    if x.dtype.kind == "f" and finite:
        with np.errstate(over="ignore"):  # 1e300 is infinity in float32
            parts = (x[i : i + 1024].astype(dtype, copy=False) for i in range(0, len(x), 1024))
            if not all(np.isfinite(part).all() for part in parts):
                raise DataError(f"images: got NaN or infinity in {dtype}, expected finite numbers")
    return x if x.dtype in TAKEN else x.astype(dtype)


def plain(array, name: str) -> np.ndarray:
    """As np.asarray, which would lay bare what a mask hides."""
    if isinstance(array, np.ma.MaskedArray):
        raise DataError(f"{name}: got a masked array, expected a plain one, such as its .filled(0)")
    return np.asarray(array)


def as_batch(x, input_shape: tuple[int, ...]) -> tuple[np.ndarray, bool]:
    """Images as a batch, and whether x was a single one, (h, w, c), or (h, w) where there is one channel."""
    x = plain(x, "images")
    single = x.shape == input_shape or (input_shape[-1] == 1 and len(input_shape) > 1 and x.shape == input_shape[:-1])
    return (x[None], True) if single else (x, False)


def warn_of_scale(images: np.ndarray, scale: Scale, training: bool) -> None:
    """A warning where images are on another scale than the training's, or on one that trains badly."""
    trained = None if training else scale.range
    floats = "the model was trained on floats from {:.3g} to {:.3g}: give those".format(*trained) if trained else ""
    if images.dtype == np.uint8:
        if trained and not (trained[0] >= -0.01 and 0.1 < trained[1] <= 1.01):
            advise(f"images: got uint8, which is taken as 0 to 1; {floats}")
        return
    if not training and trained is None and scale.mean is None:  # a network that has seen no images: no scale is wrong
        return
    low, high = float(images.min()), float(images.max())
    size, told = max(-low, high), ""
    if scale.mean is not None and scale.std is not None:
        least, most = ((0 - scale.mean) / scale.std).min(), ((1 - scale.mean) / scale.std).max()
        if low >= 0 or low < least - 0.1 or high > most + 0.1:
            told = "the model was trained on uint8 and takes floats as standardised"
            told += ": give uint8, or (x / 255 - mean) / std"
    elif training and size > 30:
        told = "numbers as large train badly: give uint8, or divide them by 255"
    elif trained and images.ndim == 4:
        least, largest = trained[0], max(map(abs, trained))
        unsigned = least < -0.1 * largest and low >= 0 and images.size >= 100
        if size > 5 * largest or 0 < size < largest / 50 or unsigned:
            told = floats
    if told:
        advise(f"images: got floats from {low:.3g} to {high:.3g}; {told}")


def bright_edge(image: np.ndarray, scale: Scale) -> bool:
    """Whether a uint8 image (h, w, c) is grey and bright at its edges, and the training images were dark on the whole."""
    if image.shape[-1] != 1 or scale.mean is None or scale.mean[0] >= 0.45:
        return False
    return bool(np.median(np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])) > 127)


def check_targets(y: np.ndarray, count: int, output_shape: tuple[int, ...], classifies: bool) -> np.ndarray:
    """Targets for `count` images as an array that fits the outputs, or a clear error."""
    y = plain(y, "targets")
    if classifies and y.shape == (count, 1) != (count, *output_shape):
        y = y[:, 0]  # labels as a column
    if y.shape[:1] != (count,):
        raise DataError(f"targets: got shape {y.shape}, expected as many as images: {count}")
    if not classifies or y.ndim == 2:
        if y.shape[1:] != output_shape or y.dtype.kind not in "fiu":
            expected = ", ".join(("n", *map(str, output_shape)))
            raise DataError(f"targets: got {y.dtype} of shape {y.shape}, expected numbers of shape ({expected})")
        if not np.isfinite(y).all():
            raise DataError("targets: got NaN or infinity, expected finite numbers")
        if classifies and not ((y >= 0).all() and np.allclose(y.sum(axis=1), 1, atol=1e-3)):
            raise DataError("targets: expected probabilities, at least 0 and of sum 1 for each image")
        return y
    classes = output_shape[-1]
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise DataError(f"labels: got {y.dtype} of shape {y.shape}, expected integers of shape (n,)")
    if len(y) and (y.min() < 0 or y.max() >= classes):
        wrong = int(np.flatnonzero((y < 0) | (y >= classes))[0])
        raise DataError(f"labels: got {y[wrong]} at index {wrong}, expected 0 to {classes - 1}")
    return y.astype(np.int64, copy=False)


def check_array(name: str, array: np.ndarray, shape: tuple[int, ...], dtype: str, n: int | None = None) -> None:
    """ShapeError where it is not an array (n, *shape) of this dtype; any n will do where none is given."""
    known = isinstance(array, np.ndarray) and not isinstance(array, np.ma.MaskedArray)
    fits = known and array.dtype == dtype and array.ndim == len(shape) + 1
    if not fits or array.shape[1:] != shape or n not in (None, len(array)):
        got = f"{array.dtype} of shape {array.shape}" if known else type(array).__name__
        expected = ", ".join(map(str, ("n" if n is None else n, *shape)))
        hint = ": for a single image x[None]" if known and array.shape == shape else ""
        raise ShapeError(f"{name}: got {got}, expected {dtype} of shape ({expected}){hint}")


class Scale:
    """How images become the first layer's floats.

    uint8 images are standardised with `mean` and `std`, arrays with a number for each channel, on a scale of 0 to 1,
    that were learnt from the training images; None until then. Floats are taken as they are; of those of the training
    `range` has the least and the largest.
    """

    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    range: tuple[float, float] | None = None

    def learn(self, images: np.ndarray) -> None:
        """Take uint8 training images' mean and standard deviation, channel by channel, unless known, or floats' range."""
        if images.dtype != np.uint8 and self.mean is None:
            self.range = float(images.min()), float(images.max())
        if images.dtype != np.uint8 or self.mean is not None:
            return
        total = square = np.zeros(images.shape[-1])
        for i in range(0, len(images), 1000):
            pixels = images[i : i + 1000].reshape(-1, images.shape[-1]) / 255.0
            total, square = total + pixels.sum(axis=0), square + (pixels**2).sum(axis=0)
        m = images.size // images.shape[-1]
        mean = total / m
        variance = square / m - mean**2
        self.std = np.sqrt(np.where(variance > 1e-12, variance, 1))  # 1: a channel of one value
        self.mean = mean

    def factors(self, dtype: np.dtype, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """(factor, shift): a pixel's value v of channel c becomes v * factor[c] + shift[c]."""
        factor, shift = np.ones(channels), np.zeros(channels)
        if dtype == np.uint8:
            factor = factor / 255
            if self.mean is not None and self.std is not None:
                factor, shift = factor / self.std, shift - self.mean / self.std
        return factor, shift

    def batch(self, images: np.ndarray, index: np.ndarray, dtype: np.dtype, matrix=None, holes=None) -> np.ndarray:
        """images[index] as floats on this scale; see `make_batch`."""
        return make_batch(images, index, *self.factors(images.dtype, images.shape[-1]), dtype, matrix, holes)


def make_batch(
    images: np.ndarray,
    index: np.ndarray,
    factor: np.ndarray,
    shift: np.ndarray,
    dtype: np.dtype,
    matrix: np.ndarray | None = None,
    holes: np.ndarray | None = None,
) -> np.ndarray:
    """images[index], moved, standardised and erased: floats (n, *images.shape[1:]).

    matrix (n, 2, 3), for images (h, w, c), says where output pixel (i, j) of image k is read, by `warp`:
    (row, column) = matrix[k] @ (i, j, 1). Then each number v of channel c becomes v * factor[c] + shift[c]. holes (n, 4):
    rows holes[k, 0]..holes[k, 1]-1 and columns holes[k, 2]..holes[k, 3]-1 become 0, which is the mean picture.
    """
    batch = images[index].astype(dtype)
    if matrix is not None:
        batch = np.stack([warp(image, m) for image, m in zip(batch, matrix.astype(dtype), strict=True)])
    batch = batch * factor.astype(dtype) + shift.astype(dtype)
    if holes is not None:
        for image, (top, bottom, left, right) in zip(batch, holes, strict=True):
            image[top:bottom, left:right] = 0
    return batch


def warp(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The image (h, w, c) read at (row, column) = matrix @ (i, j, 1) for each pixel (i, j) of the result.

    Between pixels by bilinear interpolation of the four neighbours, pixels outside the image counting as 0.
    """
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
