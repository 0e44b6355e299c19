"""Setting part of the training data aside, to choose by images that the network has not learned from.

The part is drawn class by class, so that each class has the same share in it as in the whole.
"""

from __future__ import annotations

import numpy as np

from minicnn.data import storage
from minicnn.errors import DataError
from minicnn.seeds import generator


def split(
    images: np.ndarray, labels: np.ndarray, validation: float | int, seed: int = 0
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Splits into (train images, train labels), (validation images, validation labels), stratified by class.

    `validation` is a share of the images if it is a float (0.1: a tenth), a number of images if it is an int.
    The same seed gives the same split; both parts keep the order of the originals. Raises DataError when the
    lengths differ or a part would be empty.
    """
    labels = np.asarray(labels)
    n = len(images)
    if labels.shape != (n,):
        raise DataError(f"labels have shape {labels.shape}, expected ({n},): one for each image")
    count = validation * n if isinstance(validation, (float, np.floating)) else validation
    if n < 2:
        raise DataError(f"validation={validation}: too few images ({n}) to set some aside")
    if not (0 < count < n and 0 < round(count) < n):
        share = f"{max(0.2, 1 / n):.2g}"
        told = f"validation={validation} is {count:g} of {n} images, expected 1 to {n - 1}"
        raise DataError(f"{told}: give more or less, such as {share} (on the command line --validation {share})")
    rng = generator("split", seed)
    chosen = np.zeros(n, dtype=bool)
    for label, take in _shares(labels, round(count)).items():
        chosen[rng.permutation(np.flatnonzero(labels == label))[:take]] = True
    return (storage.take(images, ~chosen), labels[~chosen]), (storage.take(images, chosen), labels[chosen])


def duplicates(images: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Which images are, pixel by pixel, among others too: bool (n,). For test images that are in the training set."""
    known = {image.tobytes() for image in np.ascontiguousarray(among)}
    return np.array([image.tobytes() in known for image in np.ascontiguousarray(images)], dtype=bool)


def _shares(labels: np.ndarray, count: int) -> dict[int, int]:
    """How many of each class to take, count in all: its share rounded down, then the largest remainders."""
    classes, sizes = np.unique(labels, return_counts=True)
    takes, remainders = np.divmod(sizes * count, len(labels))
    takes[np.argsort(-remainders, kind="stable")[: count - takes.sum()]] += 1
    return dict(zip(classes.tolist(), takes.tolist(), strict=True))
