"""Fashion-MNIST: 60,000 training and 10,000 test pictures of clothes, 28 x 28 grey pixels, ten classes.

Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms",
2017. `load_fashion_mnist` looks where it was told to, or else in one place after another, says what it tried,
and ends with the sample that comes with minicnn, so that something always runs.

MNIST's files and others have the same names and sizes, so what was read is known by its content alone.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minicnn.data.csv_files import load_csv
from minicnn.data.fetch import MD5, Say, file_in, find_or_fetch
from minicnn.data.idx import load_idx
from minicnn.errors import DataError
from minicnn.say import warn

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
TRAIN_CSV, TEST_CSV = "fashion-mnist_train.csv", "fashion-mnist_test.csv"
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = MD5
SAMPLE_FOLDER = Path(__file__).parent / "sample"
FASHION_MNIST, SAMPLE, UNKNOWN = "Fashion-MNIST", "Fashion-MNIST sample", "unknown data set"
# what is known by the digests of its training and test images
NAMES = {
    (
        "0c69d5cdeb902b69084012f812f066de080317bb3c64f43ca87f910d8ec86906",
        "90c92c0507755a7d443edde8297ce4d0f131e42884e2e87e7fc9b81ffe215258",
    ): FASHION_MNIST,
    (
        "2156c1c4044262fd3a86c00173e3eade1b1b63e81768b4af4a7d7ce76a5affa8",
        "d8f0d51844b1c9938f4f1ef985f4c62c9932f66ac463428369f8cb839aa1ff40",
    ): SAMPLE,
}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images, uint8 (n, 28, 28, 1), and labels, int64 (n,), from 0 to 9; and where they come from.

    is_sample is True for the bundled sample: its scores are not the data set's. Of an unknown data set, the class
    names are "0" to "9".
    """

    name: str
    source: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    is_sample: bool
    class_names: tuple[str, ...]


def load_fashion_mnist(
    source: str | os.PathLike = "auto",
    train_csv: str | os.PathLike | None = None,
    test_csv: str | os.PathLike | None = None,
    verbose: bool = True,
) -> Dataset:
    """Loads Fashion-MNIST; verbose tells on stderr what was tried.

    Two CSV files, or a folder as the source, are explicit wishes: they are read, or a DataError says why not.
    A folder holds Kaggle's two CSV files or the four IDX files, plain or gzipped. Other images in such files are
    read too, as an unknown data set: the name comes from the images and labels. "sample" is the bundled
    sample. "auto" takes the first it finds of: the folder in MINICNN_DATA (an explicit wish too), Debian's
    package folder, the user's cache, the mirrors on the web, the Debian package by apt, the bundled sample.
    """

    def say(line: str) -> None:
        if verbose:
            warn(f"data: {line}")

    if train_csv or test_csv:
        dataset = _from_csv(train_csv, test_csv, source)
    elif source == "auto":
        dataset = _automatic(say, verbose)
    else:
        dataset = _from_folder(SAMPLE_FOLDER if source == "sample" else Path(source))
    say(f"loaded {dataset.name} from {dataset.source}")
    if dataset.is_sample and verbose:
        warn(_warning(dataset))
    return dataset


def _automatic(say: Say, verbose: bool) -> Dataset:
    wished = os.environ.get("MINICNN_DATA")
    if wished:
        try:
            return _from_folder(Path(wished))
        except DataError as error:
            raise DataError(f"MINICNN_DATA: {error}") from error
    say("MINICNN_DATA is not set")
    found = find_or_fetch(say, verbose)
    if found is None:
        say("the full data set is nowhere to be had: taking the bundled sample")
        return _from_folder(SAMPLE_FOLDER)
    arrays, place = found
    train, test = (
        (arrays[images][..., np.newaxis], arrays[labels].astype(np.int64))
        for images, labels in ((TRAIN_IMAGES, TRAIN_LABELS), (TEST_IMAGES, TEST_LABELS))
    )
    return _dataset(place, train, test)


def _from_csv(train_csv: str | os.PathLike | None, test_csv: str | os.PathLike | None, source: object) -> Dataset:
    if not (train_csv and test_csv):
        raise DataError(f"train_csv is {train_csv}, test_csv is {test_csv}: expected both or neither")
    if source != "auto":
        raise DataError(f"source is {source} and train_csv is {train_csv}: expected one of them")
    return _dataset(f"{train_csv}, {test_csv}", load_csv(train_csv), load_csv(test_csv))


def _from_folder(folder: Path) -> Dataset:
    if not os.path.isdir(folder):
        raise DataError(f"{folder}: no such folder; the source is 'auto', 'sample' or a folder")
    train_csv, test_csv = folder / TRAIN_CSV, folder / TEST_CSV
    if os.path.isfile(train_csv) and os.path.isfile(test_csv):
        return _dataset(f"CSV files in {folder}", load_csv(train_csv), load_csv(test_csv))
    paths = [file_in(folder, name) for name in MD5]
    if None in paths:
        absent = ", ".join(name for name, path in zip(MD5, paths, strict=True) if path is None)
        raise DataError(f"{folder}: neither {TRAIN_CSV} and {TEST_CSV} nor (.gz or not) {absent}")
    place = "bundled sample" if folder == SAMPLE_FOLDER else f"IDX files in {folder}"
    return _dataset(place, load_idx(*paths[:2]), load_idx(*paths[2:]))


def _dataset(place: str, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> Dataset:
    for images, _ in (train, test):
        if images.shape[1:] != (28, 28, 1):
            raise DataError(f"{place}: images of {images.shape[1]} x {images.shape[2]} pixels, expected 28 x 28")
    name = NAMES.get((digest(*train), digest(*test)), UNKNOWN)
    class_names = tuple("0123456789") if name == UNKNOWN else CLASS_NAMES
    return Dataset(name, place, *train, *test, name == SAMPLE, class_names)


def digest(images: np.ndarray, labels: np.ndarray) -> str:
    """A SHA-256 of the images with their labels, whatever their order: Kaggle's files have another than the IDX files."""
    table = np.concatenate([labels[:, None].astype(np.uint8), images.reshape(len(images), -1)], axis=1)
    return hashlib.sha256(b"".join(sorted(hashlib.sha256(row).digest() for row in table))).hexdigest()


def _warning(dataset: Dataset) -> str:
    lines = (
        "THIS IS ONLY A SAMPLE OF FASHION-MNIST:",
        f"{len(dataset.train_images):,} training and {len(dataset.test_images):,} test images, not 60,000 and 10,000.",
        "A score on it is NOT a score on the data set.",
        "For the whole: source=DIR or MINICNN_DATA=DIR, a folder with the CSV or IDX files.",
    )
    width = max(map(len, lines))
    rule = "#" * (width + 6)
    return "\n".join([rule, *(f"## {line:{width}} ##" for line in lines), rule])
