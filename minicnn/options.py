"""What several commands ask for in the same words: a saved model, and images to ask it about."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import minicnn
from minicnn.data.dataset import UNKNOWN, Dataset
from minicnn.data.sources import find_dataset
from minicnn.errors import DataError, ShapeError
from minicnn.say import warn

DATA_HELP = (
    "auto (Fashion-MNIST), sample, mnist, kmnist, emnist/letters, cifar10 and the like, a folder with CSV or IDX files,"
    " or one that holds a folder of images for each class (default: auto)"
)
MODEL_HELP = "a file that model.save wrote, such as runs/<time>/model.npz"


def size_of(model: minicnn.Sequential, path: str) -> tuple[int, int, int]:
    """The (h, w, c) of the images that a model takes."""
    if len(model.input_shape) != 3:
        raise ShapeError(f"{path}: the model takes {model.input_shape}, expected images (h, w, c)")
    h, w, channels = model.input_shape
    return h, w, channels


def model_and_data(path: str, source: str) -> tuple[minicnn.Sequential, Dataset]:
    """A saved model, and the data that --data names, labelled as the model counts its classes; a line says which data."""
    model = minicnn.load(path)
    h, w, channels = size_of(model, path)
    data = find_dataset(source, (h, w), channels, lambda line: None, verbose=True)
    if data.test_images.shape[1:] != model.input_shape:
        got = data.test_images.shape[1:]
        raise ShapeError(f"{data.name} has images {got}, the model takes {model.input_shape}: give such with --data")
    data = counted_as(model, data)
    warn(f"data: {len(data.test_images):,} test images of {data.name}: {data.source}")
    return model, data


def counted_as(model: minicnn.Sequential, data: Dataset) -> Dataset:
    """The data with the model's classes, which may be more: found by their names, or by number where either has none."""
    names, outputs = model.class_names, model.output_shape[-1]
    if names is None or data.name == UNKNOWN:
        if len(data.class_names) > outputs:
            raise DataError(f"{data.name} has {len(data.class_names)} classes, the model knows {outputs}")
        others = [f"class {k}" for k in range(len(data.class_names), outputs)]
        return replace(data, class_names=tuple(names or [*data.class_names, *others]))
    if unknown := [name for name in data.class_names if name not in names]:
        raise DataError(f"{data.name} has {', '.join(unknown):.200}; the model knows {', '.join(names):.200}")
    number = np.array([names.index(name) for name in data.class_names])
    train, test = number[data.train_labels], number[data.test_labels]
    return replace(data, train_labels=train, test_labels=test, class_names=tuple(names))
