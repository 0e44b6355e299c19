"""Image files as arrays: one (`read_image`), or a folder of them for each class (`load_image_folder`).

They are read by Pillow, which the extra `images` names: pip install "minicnn-numba[images]".
"""

from __future__ import annotations

import hashlib
import os
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import BinaryIO

import numpy as np

from minicnn.arguments import choice, number, pair
from minicnn.data import storage
from minicnn.data.dataset import Dataset
from minicnn.errors import DataError
from minicnn.extras import need
from minicnn.say import bar, warn

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")  # those for which Pillow starts no program
MOST_PIXELS = 100_000_000  # of a file: a small one can claim more than any memory holds
MOST_NAMED = 10  # files that cannot be read; more are counted


def read_image(
    path: str | os.PathLike | BinaryIO, size: int | tuple[int, int], channels: int = 3, invert: bool = False
) -> np.ndarray:
    """Reads an image file, open or by its path, as uint8 (h, w, channels), upright as its EXIF data says.

    It is shrunk or enlarged until it covers `size`, (h, w) or the side of a square, and what juts out is cut off both
    sides: nothing is distorted. channels is 3 for colour, 1 for grey. What is transparent becomes white. invert=True
    swaps black and white, for dark letters on paper before a network that learnt bright ones on black.

    Raises DataError for a file that is no image, is damaged or has more than 100 million pixels, and ImportError
    without Pillow.
    """
    Image, ImageOps = need("PIL.Image", "images"), need("PIL.ImageOps", "images")
    h, w = pair(size, "size")
    mode = choice({1: "1", 3: "3"}.get(channels, repr(channels)), "channels", {"1": "L", "3": "RGB"})
    try:
        with Image.open(path, formats=FORMATS) as file:
            if file.width * file.height > MOST_PIXELS:
                raise DataError(f"{path}: {file.width} x {file.height} pixels, expected at most {MOST_PIXELS:,}")
            file.draft("RGB", (2 * max(h, w),) * 2)  # a large JPEG is decoded at no more than is needed
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            elif image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = ImageOps.fit(image.convert(mode), (w, h), Image.Resampling.BILINEAR)
    except Exception as error:  # on damaged files Pillow raises errors of many kinds
        if isinstance(error, DataError):
            raise
        reason = getattr(error, "strerror", None) or str(error).partition(" " + repr(str(path)))[0]
        raise DataError(f"{path}: cannot be read as an image: {reason}") from error
    pixels = np.asarray(image).reshape(h, w, channels)
    return 255 - pixels if invert else pixels


def load_image_folder(
    path: str | os.PathLike,
    size: int | tuple[int, int],
    channels: int = 3,
    test: float = 0.2,
    verbose: bool = True,
) -> Dataset:
    """Loads a folder that holds a folder of image files for each class, whose name is that of the class.

    Where there are folders `train` and `test`, these hold the classes' folders; else about the share `test` of each
    class is set aside, by what its files hold: a file stays on its side when others come and go. Classes are
    numbered in the order of their names. Each file is read by `read_image`, those in folders further down too; one
    that cannot be is named on stderr and left out. From 1 GiB of pixels the arrays are mapped from a file in TMPDIR.
    verbose shows a bar. Raises DataError for a folder of another kind, and ImportError without Pillow.
    """
    folder, size, test = Path(path), pair(size, "size"), number(test, "test", above=0, below=1)
    parts = [folder / "train", folder / "test"]
    given = all(part.is_dir() for part in parts)
    names = _folders(parts[0] if given else folder)
    if not names:
        raise DataError(f"{folder}: no folders in it, expected one with image files for each class")
    if given:
        if unknown := set(_folders(parts[1])) - set(names):
            raise DataError(f"{parts[1]}: got {min(unknown)}, expected the classes of {parts[0]}")
        listed = [_listed(part, names) for part in parts]
    else:
        files, labels = _listed(folder, names)
        chosen = _dealt(files, labels, test, verbose)
        listed = [(files[part], labels[part]) for part in (~chosen, chosen)]
    arrays: list[np.ndarray] = []
    for (files, labels), what in zip(listed, ("training", "test"), strict=True):
        images, readable = _read(files, size, channels, what, verbose)
        arrays += [images, labels[readable]]
    if absent := set(range(len(names))) - set(arrays[1].tolist()):
        raise DataError(f"{folder}: no training image in {names[min(absent)]}, expected at least one of each class")
    if not len(arrays[2]):
        raise DataError(f"{folder}: too few images ({len(arrays[0])}) to set some aside for a test")
    return Dataset(
        folder.resolve().name,
        f"image files in {folder}" + ("" if given else f", of which training holds out about {test:.0%} for the test"),
        *(arrays[0], arrays[1], arrays[2], arrays[3]),
        is_sample=False,
        class_names=tuple(names),
    )


def _folders(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error


def _listed(folder: Path, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Every file with the number of its class; hidden files are the system's own."""
    found = [
        (file, label)
        for label, name in enumerate(names)
        for file in sorted((folder / name).rglob("*"))
        if file.is_file() and not file.name.startswith((".", "Thumbs.db"))
    ]
    if not found:
        raise DataError(f"no image files in {folder}, expected some in a folder for each class")
    files = np.empty(len(found), object)
    files[:] = [file for file, _ in found]
    return files, np.array([label for _, label in found], np.int64)


def _dealt(files: np.ndarray, labels: np.ndarray, share: float, verbose: bool) -> np.ndarray:
    """Which files are for the test, bool (n,): those whose mark is below the share, and of each class at least the
    lowest but never the highest."""
    with ThreadPool() as pool:
        marks = np.array(
            [*bar(pool.imap(_mark, files), total=len(files), desc="dealt", unit="img", hidden=not verbose)]
        )
    chosen = marks < share
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        own = own[np.argsort(marks[own], kind="stable")]
        chosen[own[0]], chosen[own[-1]] = True, False
    return chosen


def _mark(file: Path) -> float:
    """A number from 0 to 1 that hangs on what the file holds, and on nothing else: the start of a hash."""
    found = hashlib.blake2b(digest_size=8)
    try:
        with open(file, "rb") as content:
            while piece := content.read(1 << 20):
                found.update(piece)
    except OSError:  # `read_image` tells it
        return 1.0
    return int.from_bytes(found.digest(), "big") / 2**64


def _read(files: np.ndarray, size: tuple[int, int], channels: int, what: str, verbose: bool):
    """The images (n, h, w, c) of those files that can be read, and which those are, bool (len(files),)."""

    def read(file: Path):
        try:
            return read_image(file, size, channels)
        except DataError as error:
            return error

    images, readable, kept = storage.empty((len(files), *size, channels)), np.zeros(len(files), bool), 0
    with ThreadPool() as pool:
        progress = bar(pool.imap(read, files), total=len(files), desc=f"{what} images", unit="img", hidden=not verbose)
        for i, image in enumerate(progress):
            if not isinstance(image, DataError):
                images[kept], readable[i], kept = image, True, kept + 1
            elif i - kept < MOST_NAMED:
                warn(f"data: {image}; left out")
    if len(files) - kept > MOST_NAMED:
        warn(f"data: of {len(files)} {what} files {len(files) - kept} cannot be read and are left out")
    return images[:kept], readable
