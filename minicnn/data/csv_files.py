"""Kaggle's form of the data: a header `label,pixel1,...,pixel784`, then one image a line.

NumPy's own reader takes the 133 MB training file in a second and refuses whatever is not a whole number
from 0 to 255. It does not say which line of the file was wrong, so when it refuses, the file is read a second
time, slowly, to name the first bad line and field.
"""

from __future__ import annotations

import math
import os
import re
import warnings

import numpy as np

from minicnn.errors import DataError
from minicnn.files import atomic_write
from minicnn.say import bar

BYTES = frozenset(str(value) for value in range(256))
WHOLE_NUMBER = re.compile(r"\+?[0-9]{1,9}")
QUOTED = re.compile(r'^"([^"]*)"$')
ROWS_AT_A_TIME = 1000


def load_csv(
    path: str | os.PathLike, classes: int = 10, image_shape: tuple[int, int, int] = (28, 28, 1)
) -> tuple[np.ndarray, np.ndarray]:
    """Reads images, uint8 (n, h, w, c), and labels, int64 (n,), from a CSV file.

    The header may be absent; a byte-order mark, CRLF, quoted fields, blank lines and a missing last newline
    change nothing. Raises DataError, naming line (from 1) and field, for anything that is not a label from 0
    to classes - 1 followed by h*w*c pixels from 0 to 255.
    """
    columns = _columns(math.prod(image_shape))
    try:
        with open(path, encoding="utf-8-sig") as file, warnings.catch_warnings():
            warnings.simplefilter("error")  # older NumPy reads 1.5, -1, 256 as 1, 255, 0, and only warns
            if _fields(next((line for line in file if line != "\n"), "")) != columns:
                file.seek(0)
            table = np.loadtxt(file, np.uint8, delimiter=",", comments=None, quotechar='"', ndmin=2)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, Warning) as error:
        raise DataError(f"{path}{_first_fault(path, columns, classes) or f': {error}'[:200]}") from error
    if table.shape[1] != len(columns) or table[:, 0].max() >= classes:
        raise DataError(f"{path}{_first_fault(path, columns, classes)}")
    return np.ascontiguousarray(table[:, 1:]).reshape(-1, *image_shape), table[:, 0].astype(np.int64)


def save_csv(path: str | os.PathLike, images: np.ndarray, labels: np.ndarray, verbose: bool = False) -> None:
    """Writes images, uint8 (n, h, w, c), and labels, integers (n,), in Kaggle's form; verbose shows a bar.

    The file appears under its name only when it is complete. Raises DataError for arrays of another kind,
    OSError when the file cannot be written.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype != np.uint8 or images.ndim < 2 or images.size == 0:
        raise DataError(f"images are {images.dtype} {images.shape}, expected uint8 (n, h, w, c)")
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise DataError(f"labels are {labels.dtype} {labels.shape}, expected integers ({len(images)},)")
    if labels.min() < 0 or labels.max() > 255:
        raise DataError(f"labels are from {labels.min()} to {labels.max()}, expected 0 to 255")
    pixels = images.reshape(len(images), -1)
    with atomic_write(path) as file:
        file.write(",".join(_columns(pixels.shape[1])).encode() + b"\n")
        starts = range(0, len(pixels), ROWS_AT_A_TIME)
        for start in bar(starts, desc=os.path.basename(path), unit="k rows", hidden=not verbose):
            rows = slice(start, start + ROWS_AT_A_TIME)
            file.write(_csv_text(pixels[rows], labels[rows]))


def _columns(pixels: int) -> list[str]:
    return ["label", *(f"pixel{i}" for i in range(1, pixels + 1))]


def _fields(line: str) -> list[str]:
    """The fields of a line, without the quotes around them and the spaces around that or within."""
    fields = line.rstrip("\n").split(",")
    return [(QUOTED.sub(r"\1", field) if '"' in field else field).strip() for field in fields]


def _csv_text(pixels: np.ndarray, labels: np.ndarray) -> bytes:
    """The rows as text: each number is looked up as four bytes ("7,\\0\\0"), then the NULs are dropped."""
    table = np.concatenate([labels[:, None].astype(np.uint8), pixels], axis=1)
    comma, newline = (np.array([f"{value}{end}" for value in range(256)], dtype="S4") for end in ",\n")
    text = comma[table]
    text[:, -1] = newline[table[:, -1]]
    return text.tobytes().translate(None, b"\0")


def _first_fault(path: str | os.PathLike, columns: list[str], classes: int) -> str | None:
    """What is wrong with the first bad line of the file, as the end of a message; None if nothing is."""
    rows = 0
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        lines = ((number, _fields(line)) for number, line in enumerate(file, 1) if line != "\n")
        for place, (number, fields) in enumerate(lines):
            if place == 0 and fields == columns:
                continue
            if place == 0 and not any(WHOLE_NUMBER.fullmatch(field) for field in fields):
                return f", line {number}: {_header_fault(fields, columns)}"
            if len(fields) != len(columns):
                return f", line {number}: {len(fields)} fields, expected {len(columns)} (label,pixel1,...)"
            fault = _field_fault(fields, columns, classes)
            if fault:
                return f", line {number}, {fault}"
            rows += 1
    return None if rows else ": no rows, expected one image a line (label,pixel1,...)"


def _field_fault(fields: list[str], columns: list[str], classes: int) -> str | None:
    if BYTES.issuperset(fields) and int(fields[0]) < classes:
        return None
    for name, field in zip(columns, fields, strict=True):
        largest = classes - 1 if name == "label" else 255
        if not WHOLE_NUMBER.fullmatch(field) or int(field) > largest:
            return f"field {name}: got {field[:40]!r}, expected a whole number from 0 to {largest}"
    return None


def _header_fault(fields: list[str], columns: list[str]) -> str:
    """Of a first line without a single number in it: how it differs from the header."""
    expected = f"expected the header label,pixel1,...,{columns[-1]} or numbers"
    for place, (got, column) in enumerate(zip(fields, columns, strict=False), 1):
        if got != column:
            return f"column {place} is {got[:40]!r}, {expected}"
    return f"{len(fields)} columns, {expected} ({len(columns)} columns)"
