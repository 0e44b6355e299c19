"""Augmentation: each time an image is shown, it is moved, turned or flipped a little, so that the network learns what
does not matter.

An `Augment` only draws random numbers: for every image of a batch, on its own, a matrix that says where each pixel of the
result is read in the original, and a rectangle to erase. `inputs.make_batch` does the work, while it makes floats of the
images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minicnn.arguments import flag, integer, number
from minicnn.inputs import make_batch
from minicnn.seeds import generator


@dataclass(frozen=True)
class Augment:
    """Random changes of images, drawn for each image separately.

    rotation: up to so many degrees either way. zoom: sizes by a factor in 1 - zoom .. 1 + zoom, rows and columns
    alike. shift: up to this share of the height and of the width. horizontal_flip and vertical_flip: mirrored with
    probability 1/2. crop_padding: padded by so many pixels and cropped back at random, that is, moved by whole pixels.
    erase: a square of so many pixels, centred anywhere, set to the mean (DeVries and Taylor, 2017). What comes in from
    outside is 0.
    """

    rotation: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    horizontal_flip: bool = False
    vertical_flip: bool = False
    crop_padding: int = 0
    erase: int = 0

    def __post_init__(self):
        for name in ("rotation", "shift"):
            number(getattr(self, name), name, least=0)
        number(self.zoom, "zoom", least=0, below=1)
        for name in ("crop_padding", "erase"):
            integer(getattr(self, name), name, least=0)
        for name in ("horizontal_flip", "vertical_flip"):
            flag(getattr(self, name), name)

    def draw(
        self, n: int, size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """For n images of size (h, w): `matrix` (n, 2, 3) and `holes` (n, 4) as `inputs.make_batch` takes them.

        With centre m, a result's pixel p is read at matrix[:, :2] @ (p - m) + m + shift: the inverse of what is done to
        the picture.
        """
        angle = np.deg2rad(rng.uniform(-self.rotation, self.rotation, n))
        scale = 1 / rng.uniform(1 - self.zoom, 1 + self.zoom, n)
        flip = np.stack(
            [rng.choice([1.0, -1.0], n) if on else np.ones(n) for on in (self.vertical_flip, self.horizontal_flip)]
        )
        move = rng.uniform(-self.shift, self.shift, (n, 2)) * size
        move = move + rng.integers(-self.crop_padding, self.crop_padding + 1, (n, 2))
        holes = self._holes(n, size, rng) if self.erase else None
        sine, cosine = np.sin(angle), np.cos(angle)
        linear = np.stack([flip[0] * cosine, flip[0] * sine, -flip[1] * sine, flip[1] * cosine], axis=1)
        linear = linear.reshape(n, 2, 2) * scale[:, None, None]
        middle = (np.array(size) - 1) / 2
        offset = middle + move - linear @ middle
        still = not (self.rotation or self.zoom or self.shift or self.crop_padding)
        if still and not (self.horizontal_flip or self.vertical_flip):
            return None, holes
        return np.concatenate([linear, offset[:, :, None]], axis=2), holes

    def _holes(self, n, size, rng):
        centre = np.stack([rng.integers(0, extent, n) for extent in size])
        first = centre - self.erase // 2
        last = np.minimum(first + self.erase, np.array(size)[:, None])
        first = np.maximum(first, 0)
        return np.stack([first[0], last[0], first[1], last[1]], axis=1).astype(np.int64)

    def preview(self, images: np.ndarray, count: int = 8, seed: int = 0) -> np.ndarray:
        """`count` versions of each image (k, h, w, c), as floats of the same scale: (k, count, h, w, c)."""
        k, channels = len(images), images.shape[-1]
        matrix, holes = self.draw(k * count, images.shape[1:3], generator("augmentation", seed))
        index = np.repeat(np.arange(k), count)
        mean = np.zeros(channels, np.float32)
        if self.erase:  # shifted to 0 and back, so that what is erased is the mean, as in training
            mean[:] = images.mean(axis=(0, 1, 2))
        made = make_batch(images, index, np.ones(channels), -mean, np.dtype("float32"), matrix, holes) + mean
        return made.reshape(k, count, *images.shape[1:])
