"""How the bundled sample was drawn from the full data: evenly spaced, class by class, no image twice."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from minicnn.data.dataset import Dataset
from minicnn.data.idx import save_idx
from minicnn.data.known import IDX, KNOWN
from minicnn.errors import DataError

TRAIN_PER_CLASS, TEST_PER_CLASS = 200, 100


def make_sample(dataset: Dataset, folder: str | os.PathLike) -> None:
    """Writes a stratified sample, 2,000 training and 1,000 test images, as four gzipped IDX files.

    Of images that occur several times, in one part or in both, only the first can be chosen.
    """
    if dataset.name != KNOWN["fashion_mnist"].title:
        raise DataError(f"{dataset.source}: got {dataset.name}, expected the full Fashion-MNIST")
    seen: set[bytes] = set()
    parts = (
        (dataset.train_images, dataset.train_labels, TRAIN_PER_CLASS, *IDX[:2]),
        (dataset.test_images, dataset.test_labels, TEST_PER_CLASS, *IDX[2:]),
    )
    for images, labels, per_class, images_name, labels_name in parts:
        chosen = _choose(images, labels, per_class, seen)
        save_idx(Path(folder, f"{images_name}.gz"), images[chosen, :, :, 0])
        save_idx(Path(folder, f"{labels_name}.gz"), labels[chosen].astype(np.uint8))


def _choose(images: np.ndarray, labels: np.ndarray, per_class: int, seen: set[bytes]) -> np.ndarray:
    """Indices, ascending, of per_class images of each class that are not in `seen`; adds all images to it."""
    first = np.zeros(len(images), dtype=bool)
    for i, image in enumerate(images):
        key = image.tobytes()
        first[i] = key not in seen
        seen.add(key)
    chosen = []
    for label in np.unique(labels):
        candidates = np.flatnonzero(first & (labels == label))
        if len(candidates) < per_class:
            raise DataError(f"class {label} has {len(candidates)} distinct images, expected at least {per_class}")
        chosen.append(candidates[np.arange(per_class) * len(candidates) // per_class])
    return np.sort(np.concatenate(chosen))
