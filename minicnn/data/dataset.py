"""What a source of images gives: training and test images with their labels, and what the classes are called."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minicnn.tables import html_table

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

    def __repr__(self) -> str:
        counts = f"{len(self.train_images):,} training and {len(self.test_images):,} test images"
        classes = f"{len(self.class_names)} classes"
        return f"Dataset {self.name}: {counts} {self.train_images.shape[1:]}, {classes}, from {self.source}"

    def _repr_html_(self) -> str:
        train, test = (np.bincount(y, minlength=len(self.class_names)) for y in (self.train_labels, self.test_labels))
        counts = [
            *zip(self.class_names, train, test, strict=True),
            ("total", len(self.train_labels), len(self.test_labels)),
        ]
        return html_table([(self.name, "training images", "test images"), *counts])
