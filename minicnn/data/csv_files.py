"""CSV files: Kaggle's form, a header `label,pixel1,...,pixel784`, then one image a line; or another header and order.

NumPy's own reader takes the 133 MB training file in a second and refuses whatever is not a whole number
from 0 to 255. It does not say which line of the file was wrong, so when it refuses, the file is read a second
time, slowly, to name the first bad line and field.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np

from minicnn.data import storage
from minicnn.errors import DataError
from minicnn.files import atomic_write
from minicnn.say import bar

WHOLE_NUMBER = re.compile(r"\+?[0-9]{1,9}")
QUOTED = re.compile(r'^"([^"]*)"$')
ROWS_AT_A_TIME = 1000
CHUNK = 16 << 20  # pixels that are read at once


def load_csv(
    path: str | os.PathLike,
    label: str | int = "label",
    shape: tuple[int, int, int] = (28, 28, 1),
    classes: int | Sequence[str] = 10,
) -> tuple[np.ndarray, np.ndarray]:
    """Reads images, uint8 (n, h, w, c), and labels, int64 (n,), from a CSV file: on each line a label and h*w*c pixels.

    label is the name of the label's column, or its index: 0 for the first, -1 for the last. A file without a header
    has it in the first, unless an index says otherwise. shape is (h, w, c). classes is how many there are, for labels
    from 0 to classes - 1; or their names, for labels in words, such as classes=["cat", "dog"]: a label is the index
    of its name there.

    A byte-order mark, CRLF, quoted fields, blank lines and a missing last newline change nothing. From 1 GiB of
    pixels the images are a np.memmap of a file in TMPDIR. Raises DataError, naming line (from 1) and field, for
    anything that is no such label or no pixel from 0 to 255.
    """
    names = [str(i) for i in range(classes)] if isinstance(classes, int | np.integer) else classes
    form = _Form(label, math.prod(shape), names)
    try:
        images, labels = _read(path, form)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, Warning) as error:
        raise DataError(f"{path}{_first_fault(path, form) or f': {error}'[:200]}") from error
    return images.reshape(-1, *shape), labels


class _Form:
    """What the lines of a file must be: how many fields, which of them is the label, and the labels that there are."""

    def __init__(self, label: str | int, pixels: int, classes: Sequence[str]):
        self.label, self.pixels, self.classes = label, pixels, list(classes)
        self.numbers = {name: i for i, name in enumerate(self.classes)}
        self.words = self.classes != [str(i) for i in range(len(self.classes))]
        if not 1 <= len(self.classes) <= 256 or len(self.numbers) != len(self.classes):
            raise DataError(f"classes: got {str(classes)[:60]}, expected 1 to 256, each once")
        if not isinstance(label, str) and not -pixels - 1 <= label <= pixels:
            raise DataError(
                f"label: got {label!r}, expected a column's name or an index from {-pixels - 1} to {pixels}"
            )
        self.place = 0 if isinstance(label, str) else label % (pixels + 1)
        self.columns = [f"pixel{i}" for i in range(1, pixels + 1)]
        self.columns.insert(self.place, label if isinstance(label, str) else "label")

    def header(self, fields: list[str]) -> bool:
        """Whether these are the columns' names, which are taken from them then; ValueError where they cannot be."""
        if self.label not in fields and any(WHOLE_NUMBER.fullmatch(field) for field in fields):
            return False
        if len(fields) != len(self.columns):
            raise ValueError(f"{len(fields)} columns, expected {len(self.columns)}: the label and {self.pixels} pixels")
        if isinstance(self.label, str):
            if self.label not in fields:
                some = ", ".join(repr(field[:40]) for field in (*fields[:3], fields[-1]))
                raise ValueError(f"no column {self.label!r} among {some}; give its name as label, or its index")
            self.place = fields.index(self.label)
        order = [tuple(map(int, re.findall(r"[0-9]{1,9}", name))) for i, name in enumerate(fields) if i != self.place]
        if order != sorted(order):
            wrong = next(i for i in range(1, len(order)) if order[i] < order[i - 1])
            raise ValueError(
                f"{[f for i, f in enumerate(fields) if i != self.place][wrong]!r} stands after a later pixel"
            )
        self.columns = fields
        return True

    def class_of(self, field: str) -> int:
        return self.numbers[field.strip()]


def _read(path: str | os.PathLike, form: _Form) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n, h*w*c) and labels (n,); OSError, ValueError or a warning for a file that is not of this form."""
    labels: list[np.ndarray] = []

    def pixels(lines: Iterator[str]) -> Iterator[np.ndarray]:
        while piece := list(islice(lines, CHUNK // len(form.columns) + 1)):
            table = np.loadtxt(piece, np.uint8, None, ",", converters, ndmin=2, quotechar='"', encoding="utf-8")
            if table.shape[1] != len(form.columns) or table[:, form.place].max() >= len(form.classes):
                raise ValueError("fields or labels of another number")
            labels.append(table[:, form.place].astype(np.int64))
            yield np.delete(table, form.place, axis=1)

    with open(path, encoding="utf-8-sig") as file, warnings.catch_warnings():
        warnings.simplefilter("error")  # older NumPy reads 1.5, -1, 256 as 1, 255, 0, and only warns
        if not form.header(_fields(next((line for line in file if line != "\n"), ""))):
            file.seek(0)
        converters: dict[int | str, Callable[[str], int]] | None = {form.place: form.class_of} if form.words else None
        images = storage.stack(pixels(line for line in file if line != "\n"))
    return images, np.concatenate(labels)


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
        file.write(",".join(["label", *(f"pixel{i}" for i in range(1, pixels.shape[1] + 1))]).encode() + b"\n")
        starts = range(0, len(pixels), ROWS_AT_A_TIME)
        for start in bar(starts, desc=os.path.basename(path), unit="k rows", hidden=not verbose):
            rows = slice(start, start + ROWS_AT_A_TIME)
            file.write(_csv_text(pixels[rows], labels[rows]))


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


def _first_fault(path: str | os.PathLike, form: _Form) -> str | None:
    """What is wrong with the first bad line of the file, as the end of a message; None if nothing is."""
    rows = 0
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        lines = ((number, _fields(line)) for number, line in enumerate(file, 1) if line != "\n")
        for place, (number, fields) in enumerate(lines):
            try:
                if place == 0 and form.header(fields):
                    continue
            except ValueError as error:
                return f", line {number}: {error}"[:400]
            if len(fields) != len(form.columns):
                return f", line {number}: {len(fields)} fields, expected {len(form.columns)} (label,pixel1,...)"
            fault = _field_fault(fields, form)
            if fault:
                return f", line {number}, {fault}"
            rows += 1
    return None if rows else ": no rows, expected one image a line (label,pixel1,...)"


def _field_fault(fields: list[str], form: _Form) -> str | None:
    for i, (name, field) in enumerate(zip(form.columns, fields, strict=True)):
        known, largest = form.words and i == form.place, len(form.classes) - 1 if i == form.place else 255
        if known and field not in form.numbers:
            return f"field {repr(name[:40])[1:-1]}: got {field[:40]!r}, expected one of {', '.join(form.classes)}"[:300]
        if not known and (not WHOLE_NUMBER.fullmatch(field) or int(field) > largest):
            words = "; for labels in words give classes=[...]" if i == form.place else ""
            return (
                f"field {repr(name[:40])[1:-1]}: got {field[:40]!r}, expected a whole number from 0 to {largest}{words}"
            )
    return None
