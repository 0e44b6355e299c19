"""Known data sets, or one's own files, as arrays: `load_dataset`.

Fashion-MNIST is looked for in one place after another, each of which is told, and at the end there is the sample that
comes with minicnn, so that something always runs. What was read is known by its content alone (known.py): the names
of files only say where to look.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from minicnn.arguments import pair
from minicnn.data.csv_files import load_csv
from minicnn.data.dataset import UNKNOWN, Dataset
from minicnn.data.fetch import Arrays, Say, by_hand, cache_folder, decoded, file_in, files_in, find_or_fetch
from minicnn.data.images import load_image_folder
from minicnn.data.known import IDX, KNOWN, identify
from minicnn.errors import DataError
from minicnn.say import warn

TRAIN_CSV, TEST_CSV = "fashion-mnist_train.csv", "fashion-mnist_test.csv"
SAMPLE_FOLDER = Path(__file__).parent / "sample"
Labelled = tuple[np.ndarray, np.ndarray]


def load_dataset(
    source: str | os.PathLike = "auto",
    size: int | tuple[int, int] | None = None,
    channels: int = 3,
    verbose: bool = True,
) -> Dataset:
    """Loads a known data set by its name, or what images a folder holds; verbose tells on stderr what was tried.

    Names: "mnist", "kmnist", "emnist/byclass", "emnist/bymerge", "emnist/balanced", "emnist/letters" (labelled from
    1: class 0 is "N/A"), "emnist/digits", "emnist/mnist", "cifar10"; they come from the user's cache or from their
    mirrors. "auto", which is "fashion_mnist", takes the first it finds of: the folder in MINICNN_DATA (an explicit
    wish), Debian's package folder, the cache, the mirrors, the Debian package by apt, the bundled sample. "sample" is
    that sample.

    A folder, "./mnist" where it has such a name, holds the upstream files, IDX (gzipped or not) or CIFAR-10's .bin;
    or two CSV files of 28 x 28 pixels, whose names end in train.csv and test.csv; or else a folder of image files for
    each class, of which `size` and `channels` make arrays: see `load_image_folder`. Raises DataError where there is
    nothing of the kind.
    """
    say = _sayer(verbose)
    dataset = find_dataset(source, size, channels, say, verbose)
    h, w = dataset.train_images.shape[1:3]
    if size is not None and pair(size, "size") != (h, w):
        raise DataError(
            f"size: got {size}, and {dataset.name} has {h} x {w} pixels: size is for a folder of image files"
        )
    return _announced(dataset, say)


def find_dataset(source: str | os.PathLike, size, channels: int, say: Say, verbose: bool) -> Dataset:
    """What `load_dataset` loads; `say` is told what was tried, and verbose shows what takes time."""
    if source == "sample":
        return _sample()
    if source in ("auto", "fashion_mnist"):
        return _automatic(say, verbose)
    if source not in KNOWN:
        return _from_folder(Path(source), size, channels, verbose)
    found = find_or_fetch(source, say, verbose)
    if found is None:
        raise DataError(
            f"{source}: {KNOWN[source].title} is nowhere to be had, neither in the cache nor from a mirror;"
            f" {by_hand(KNOWN[source], cache_folder(source))}"
        )
    return _fetched(source, *found)


def load_fashion_mnist(
    source: str | os.PathLike = "auto",
    train_csv: str | os.PathLike | None = None,
    test_csv: str | os.PathLike | None = None,
    verbose: bool = True,
) -> Dataset:
    """Loads Fashion-MNIST, as `load_dataset` does, or two CSV files; verbose tells on stderr what was tried.

    Other images in a folder or in the CSV files are read too, as what they are: the name comes from the images and
    labels.
    """
    if not (train_csv or test_csv):
        return load_dataset(source, verbose=verbose)
    if not (train_csv and test_csv):
        raise DataError(f"train_csv is {train_csv}, test_csv is {test_csv}: expected both or neither")
    if source != "auto":
        raise DataError(f"source is {source} and train_csv is {train_csv}: expected one of them")
    parts = (load_csv(path, classes=256) for path in (train_csv, test_csv))
    return _announced(_dataset(f"{train_csv}, {test_csv}", [], *parts), _sayer(verbose))


def _sayer(verbose: bool) -> Say:
    return (lambda line: warn(f"data: {line}")) if verbose else (lambda line: None)


def _announced(dataset: Dataset, say: Say) -> Dataset:
    say(f"loaded {dataset.name} from {dataset.source}{_sample_warning(dataset) if dataset.is_sample else ''}")
    return dataset


def _automatic(say: Say, verbose: bool) -> Dataset:
    wished = os.environ.get("MINICNN_DATA")
    if wished:
        try:
            return _from_folder(Path(wished))
        except DataError as error:
            raise DataError(f"MINICNN_DATA: {error}") from error
    say("MINICNN_DATA is not set")
    found = find_or_fetch("fashion_mnist", say, verbose)
    if found is None:
        say("the full data set is nowhere to be had: taking the bundled sample")
        return _sample()
    return _fetched("fashion_mnist", *found)


def _fetched(key: str, arrays: Arrays, place: str) -> Dataset:
    """From files whose hashes are right."""
    md5 = KNOWN[key].md5
    return _assembled(place, [{value} for value in md5.values()], *(arrays[name] for name in md5))


def _sample() -> Dataset:
    return _from_files(files_in(SAMPLE_FOLDER, IDX), "bundled sample")


def _from_folder(folder: Path, size=None, channels: int = 3, verbose: bool = True) -> Dataset:
    """Upstream files, else CSV files, else a folder of images for each class."""
    if not os.path.isdir(folder):
        parts = [name for name in KNOWN if name.startswith(f"{folder}/")]  # of emnist
        wanted = "the source is one of" if parts else "the source is 'auto', 'sample' or a folder, or one of"
        raise DataError(f"{folder}: no such folder; {wanted} {', '.join(parts or KNOWN)}")
    absent = [name for name in IDX if file_in(folder, name) is None]
    for known in KNOWN.values():
        found = files_in(folder, known.md5)
        if found and len(found) == len(known.md5):
            return _from_files(found, f"files in {folder}")
    tables = [sorted(folder.glob(f"*{part}.csv")) for part in ("train", "test")]
    if all(len(paths) == 1 for paths in tables):
        return _dataset(f"CSV files in {folder}", [], *(load_csv(path, classes=256) for (path,) in tables))
    if size is not None:
        return load_image_folder(folder, size, channels, verbose=verbose)
    raise DataError(
        f"{folder}: neither CSV files such as {TRAIN_CSV} and {TEST_CSV} nor (.gz or not) {', '.join(absent)};"
        " for a folder of images for each class, give a size, such as size=32 (--size 32)"
    )


def _from_files(paths: dict[str, Path], place: str) -> Dataset:
    read = {}
    for name, path in paths.items():
        try:
            read[name] = decoded(path.read_bytes(), name, path)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    return _assembled(place, [md5 for _, md5 in read.values()], *(array for array, _ in read.values()))


def _assembled(place: str, md5: list[set[str]], *arrays: np.ndarray) -> Dataset:
    """From what the files hold: IDX's images and labels of two parts, or CIFAR-10's rows, those of the test last."""
    if len(arrays) == 4:
        parts = [(arrays[i][..., np.newaxis], arrays[i + 1].astype(np.int64)) for i in (0, 2)]
        return _dataset(place, md5, *parts)
    parts = []
    for rows in (np.concatenate(arrays[:-1]), arrays[-1]):
        images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # the files hold one channel after another
        parts.append((np.ascontiguousarray(images), rows[:, 0].astype(np.int64)))
    return _dataset(place, md5, *parts)


def _dataset(place: str, md5: list[set[str]], train: Labelled, test: Labelled) -> Dataset:
    for images, labels in (train, test):
        if len(images) != len(labels):
            raise DataError(f"{place}: {len(images)} images and {len(labels)} labels, expected equal")
    (h, w), (test_h, test_w) = train[0].shape[1:3], test[0].shape[1:3]
    if (h, w) != (test_h, test_w):
        raise DataError(
            f"{place}: test images of {test_h} x {test_w} pixels, expected {h} x {w} as the training images"
        )
    known = identify(md5, train, test)
    if known is None:
        classes = 1 + int(max(train[1].max(), test[1].max()))
        return Dataset(UNKNOWN, place, *train, *test, False, tuple(map(str, range(classes))))
    if known.transposed:
        train, test = ((np.ascontiguousarray(images.swapaxes(1, 2)), labels) for images, labels in (train, test))
    return Dataset(known.title, place, *train, *test, known is KNOWN["sample"], known.class_names)


def _sample_warning(dataset: Dataset) -> str:
    lines = (
        "THIS IS ONLY A SAMPLE OF FASHION-MNIST:",
        f"{len(dataset.train_images):,} training and {len(dataset.test_images):,} test images, not 60,000 and 10,000.",
        "A score on it is NOT a score on the data set.",
        "For the whole: --data DIR, in Python source=DIR, or MINICNN_DATA=DIR, a folder with the CSV or IDX files.",
    )
    width = max(map(len, lines))
    rule = "#" * (width + 6)
    return "\n" + "\n".join([rule, *(f"## {line:{width}} ##" for line in lines), rule])
