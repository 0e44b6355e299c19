"""What a source of images gives: training and test images with their labels, and what the classes are called."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

UNKNOWN = "unknown data set"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images, uint8 (n, h, w, c), and labels, int64 (n,), from 0 to len(class_names) - 1; and where they come from.

    is_sample is True for the bundled sample: its scores are not the data set's. The classes of an unknown data set are
    called "0", "1" and so on.
    """

    name: str
    source: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    is_sample: bool
    class_names: tuple[str, ...]
