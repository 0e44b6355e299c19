"""IDX, the form in which the upstream files come (described by LeCun with MNIST, 1998).

Four bytes of magic (0, 0, 8 for unsigned bytes, the number of dimensions), each dimension as a big-endian
32-bit number, then the bytes. Files may be gzipped; that is seen from their first bytes, not from their name.
What the header claims is held against the file before any memory is taken for it.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import struct
import zlib
from typing import BinaryIO

import numpy as np

from minicnn.data import storage
from minicnn.errors import DataError
from minicnn.files import atomic_write

GZIP_MAGIC = b"\x1f\x8b"
MOST_UNZIPPED = 1 << 30  # bytes; how much a gzip would unfold to is not known beforehand, so this bounds it
CHUNK = 1 << 20


def load_idx_images(path: str | os.PathLike) -> np.ndarray:
    """Reads images, uint8 (n, h, w, 1), from an IDX file of three dimensions, plain or gzipped.

    A plain file of 1 GiB or more is mapped and not read: a read-only np.memmap. Raises DataError for a missing or
    unreadable file, a bad magic, dimensions that do not fit the file, a short file, trailing bytes or a damaged gzip.
    """
    return _read_path(path, 3)[..., np.newaxis]


def load_idx_labels(path: str | os.PathLike, classes: int = 10) -> np.ndarray:
    """Reads labels, int64 (n,), each from 0 to classes - 1, from an IDX file of one dimension.

    Raises DataError as `load_idx_images` does, and for a label out of range.
    """
    labels = _read_path(path, 1)
    if labels.max() >= classes:
        place = int(np.argmax(labels >= classes))
        raise DataError(f"{path}: label {place} (from 0) is {labels[place]}, expected 0 to {classes - 1}")
    return labels.astype(np.int64)


def load_idx(
    images_path: str | os.PathLike, labels_path: str | os.PathLike, classes: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """Reads a pair of IDX files: images, uint8 (n, h, w, 1), and as many labels, int64 (n,), from 0 to classes - 1."""
    images, labels = load_idx_images(images_path), load_idx_labels(labels_path, classes)
    if len(images) != len(labels):
        raise DataError(f"{images_path} has {len(images)} images, {labels_path} {len(labels)} labels: expected equal")
    return images, labels


def save_idx(path: str | os.PathLike, array: np.ndarray) -> None:
    """Writes a uint8 array, (n,) or (n, h, w), as IDX; gzipped, without a date, if the name ends in .gz."""
    if array.dtype != np.uint8:
        raise DataError(f"{path}: the array is {array.dtype}, expected uint8")
    content = idx_header(array.shape) + array.tobytes()
    if str(path).endswith(".gz"):
        content = gzip.compress(content, mtime=0)
    with atomic_write(path) as file:
        file.write(content)


def idx_header(shape: tuple[int, ...]) -> bytes:
    """The bytes that stand before an array of this shape: the magic, then the dimensions."""
    return struct.pack(f">{1 + len(shape)}I", 0x0800 + len(shape), *shape)


def read_idx(file: BinaryIO, name: str | os.PathLike, ndim: int) -> np.ndarray:
    """Reads a uint8 array of ndim dimensions from an open, seekable file; `name` is for error messages."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    zipped = file.read(2) == GZIP_MAGIC
    file.seek(0)
    if not zipped:
        return _read_array(file, name, ndim, size)
    try:
        with gzip.GzipFile(fileobj=file) as unzipped:
            return _read_array(unzipped, name, ndim, None)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{name}: damaged gzip: {error}") from error


def _read_path(path: str | os.PathLike, ndim: int) -> np.ndarray:
    try:
        with open(path, "rb") as file:
            return read_idx(file, path, ndim)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _read_array(file: BinaryIO | gzip.GzipFile, name: str | os.PathLike, ndim: int, size: int | None) -> np.ndarray:
    """Header, checks, bytes. `size` is that of the whole file, None where only reading on can tell it."""
    header = file.read(4 + 4 * ndim)
    if len(header) < 4 + 4 * ndim:
        raise DataError(f"{name}: {len(header)} bytes, expected an IDX header of {4 + 4 * ndim}")
    magic, *shape = struct.unpack(f">{1 + ndim}I", header)
    if magic != 0x0800 + ndim:
        kind = "labels" if ndim == 1 else "images"
        raise DataError(f"{name}: magic 0x{magic:08x}, expected 0x{0x0800 + ndim:08x} (IDX {kind})")
    count = math.prod(shape)
    claim = f"its header says {' x '.join(map(str, shape))} = {count} bytes"
    if count == 0:
        raise DataError(f"{name}: {claim}, expected at least one")
    if size is None and count > MOST_UNZIPPED:
        raise DataError(f"{name}: {claim}, expected at most {MOST_UNZIPPED}")
    if size is not None and count != size - len(header):
        raise DataError(f"{name}: {claim}, but {size - len(header)} follow it")
    if size is not None and size >= storage.MAPPED and isinstance(file, io.BufferedReader):
        return np.memmap(file, np.uint8, "r", len(header), tuple(shape))
    data = bytearray()
    while chunk := file.read(min(CHUNK, count + 1 - len(data))):
        data += chunk
    if len(data) != count:
        raise DataError(f"{name}: {claim}, but {'more' if len(data) > count else len(data)} follow it")
    return np.frombuffer(data, np.uint8).reshape(shape)
