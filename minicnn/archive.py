"""The file that models and checkpoints are stored in: named arrays, and a description of what they are.

It is an .npz file, which `numpy.load` reads too: a zip archive with one .npy file for each array, not compressed. One more
member, `config`, holds the description as JSON. The archive's comment is the SHA-256 of all bytes before it.

A file may come from a stranger, so each part is checked before the next is read: the list of members and their lengths, then
the description, then the header of each array, which must name the shape and dtype that the reader expects, then the
checksum, and only then are the numbers read. As nothing is compressed, no array can be larger than the file itself. No part
is ever unpickled, so no part can run code.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from minicnn.errors import CheckpointError, ModelFileError
from minicnn.files import atomic_write, file_status

MOST_MEMBERS = 10_000
MOST_CONFIG = 4_000_000  # bytes: the history of some 30,000 epochs
MOST_BYTES = 2**31 - 2**24  # beyond two gigabytes a zip archive has another form
DIGEST = 64  # characters
# The zip format's marks of a member in the list, and of the list's end (APPNOTE.TXT, 4.3).
MEMBER, END, END64 = b"PK\1\2", b"PK\5\6", b"PK\6\7"
HEADER = re.compile(
    rb"\{'descr': '([<>|]\w{1,9})', 'fortran_order': (False|True), 'shape': \(((?:\d{1,18}, ?)*\d{0,18})\), \} *\n"
)


def write(
    path: str | os.PathLike, config: dict, arrays: Mapping[str, np.ndarray], keep: os.PathLike | None = None
) -> None:
    """Write an archive; `path` holds the whole of it or what was there before, which is moved to `keep`.

    Raises ModelFileError for what could not be read again, and OSError.
    """
    text = _text(config)
    size = sum(array.nbytes for array in arrays.values())
    if len(text) > MOST_CONFIG or len(arrays) >= MOST_MEMBERS or size > MOST_BYTES:
        much = f"{len(text):,} bytes of description, {len(arrays):,} arrays and {size:,} bytes of numbers"
        raise ModelFileError(f"{path}: {much} are too many")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in {"config": np.frombuffer(text, np.uint8), **arrays}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
        archive.comment = b"0" * DIGEST
    with buffer.getbuffer() as whole, whole[:-DIGEST] as content, atomic_write(path, keep) as file:
        file.write(content)
        file.write(hashlib.sha256(content).hexdigest().encode())


def as_read(config: dict) -> dict:
    """A description as it comes back from a file: tuples as lists, NumPy's numbers as Python's."""
    return json.loads(_text(config))


def _text(config: dict) -> bytes:
    return json.dumps(config, default=np.generic.item).encode()


@contextmanager
def reading(path: str | os.PathLike, what: str) -> Iterator[Archive]:
    """Yields the archive at `path`; `what` is what was expected. Errors are those of `opened`."""
    with opened(path, f"{what} of minicnn") as file:
        yield Archive(file)


@contextmanager
def opened(path: str | os.PathLike, what: str) -> Iterator[io.BufferedReader]:
    """Yields the file at `path`; whatever is wrong with it is a ModelFileError of one line.

    `what` is what was expected. A file that cannot be opened is an OSError.
    """
    try:
        file_status(path)  # to open a pipe would wait for its other end
        file = open(path, "rb")
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ModelFileError(f"{path}: not {what} (a folder)") from None
    try:
        with file:
            yield file
    except (ModelFileError, CheckpointError) as error:
        raise type(error)(f"{path}: {_line(error, 2000)}") from None
    except MemoryError:  # sizes were checked: it is the file's due
        raise
    except Exception as error:  # there is hardly one that a broken file cannot make zip, NumPy or JSON raise
        raise ModelFileError(f"{path}: not {what} ({_line(error, 200)})") from error


class Archive:
    """An open archive: `config`, the names of its arrays, and, once their headers were checked, their numbers."""

    def __init__(self, file: io.BufferedReader):
        self.file = file
        _check_end(file)
        self.zip = zipfile.ZipFile(file)
        self.members: dict[str, zipfile.ZipInfo] = {}
        for member in self.zip.infolist():
            name = member.filename.removesuffix(".npy")
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise ValueError(f"{_short(name)}: is compressed, expected it to be stored as it is")
            if name in self.members:
                raise ValueError(f"{_short(name)}: stands in the file twice")
            self.members[name] = member
        if "config" not in self.members:
            raise ValueError("config: missing")
        size = self.members["config"].file_size
        if size > MOST_CONFIG:
            raise ValueError(f"config: {size:,} bytes, expected at most {MOST_CONFIG:,}")
        text = self._array("config", (size - self._header("config")[2],), np.dtype(np.uint8))
        self.config = json.loads(text.tobytes())
        if not isinstance(self.config, dict):
            raise ValueError(f"config: got {type(self.config).__name__}, expected names and values")

    @property
    def names(self) -> set[str]:
        """Of all arrays."""
        return set(self.members) - {"config"}

    def check(self, expected: Mapping[str, tuple[tuple[int, ...], np.dtype]], owner: str) -> None:
        """Compare every array's shape and dtype with what `owner` needs, and the file with its checksum.

        Raises ModelFileError with all that differs.
        """
        wrong = [f"{name} is missing" for name in sorted(set(expected) - self.names)]
        wrong += [f"{_short(name)} is not of {owner}" for name in sorted(self.names - set(expected))]
        for name in sorted(self.names & set(expected)):
            shape, dtype, start = self._header(name)
            want_shape, want_dtype = expected[name]
            if (shape, dtype) != (tuple(want_shape), want_dtype):
                wrong.append(f"{name} is {dtype} {shape}, expected {want_dtype} {tuple(want_shape)}")
            elif self.members[name].file_size != start + dtype.itemsize * int(np.prod(shape, dtype=object)):
                wrong.append(f"{name} has another length than its shape says")
        if wrong:
            more = f"; and {len(wrong) - 8} more" if len(wrong) > 8 else ""
            raise ModelFileError(f"arrays do not fit {owner}: {'; '.join(wrong[:8])}{more}")
        self._check_digest()

    def read(self, name: str) -> np.ndarray:
        """An array that was checked."""
        shape, dtype, _ = self._header(name)
        return self._array(name, shape, dtype)

    def _header(self, name: str) -> tuple[tuple[int, ...], np.dtype, int]:
        """Shape, dtype, and where the numbers begin."""
        with self.zip.open(self.members[name]) as member:
            magic = member.read(8)
            if magic != b"\x93NUMPY\1\0":
                raise ValueError(f"{name}: begins with {magic!r}, expected .npy of version 1.0")
            text = member.read(int.from_bytes(member.read(2), "little"))
            found = HEADER.fullmatch(text)
            if not found:
                raise ValueError(
                    f"{name}: header {text[:80]!r}, expected descr, fortran_order and shape as NumPy writes them"
                )
            shape = tuple(int(n) for n in found[3].split(b",") if n.strip())
            if found[2] == b"True" and len(shape) > 1:
                raise ValueError(f"{name}: in Fortran order, expected C order")
            return shape, np.dtype(found[1].decode()), member.tell()

    def _array(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        with self.zip.open(self.members[name]) as member:
            content = member.read()  # the whole of it: only then does zipfile compare its CRC
        found_shape, found, start = self._header(name)
        if (found_shape, found) != (shape, dtype):
            raise ValueError(f"{name}: got {found} {found_shape}, expected {dtype} {shape}")
        return np.frombuffer(content, dtype, offset=start).reshape(shape)

    def _check_digest(self) -> None:
        """Compare with the SHA-256; an archive that NumPy wrote has none, but each member's CRC."""
        length = self.file.seek(0, os.SEEK_END)
        belonging = sum(member.file_size for member in self.members.values())
        if belonging > length:
            raise ValueError(f"members: {belonging:,} bytes in a file of {length:,}, expected that none overlap")
        if length - belonging > MOST_CONFIG + 1000 * len(self.members):
            raise ValueError(f"{length - belonging:,} bytes belong to no array")
        if len(self.zip.comment) != DIGEST:
            return
        digest, left = hashlib.sha256(), length - DIGEST
        self.file.seek(0)
        while left:
            part = self.file.read(min(left, 2**20))
            digest.update(part)
            left -= len(part)
        if digest.hexdigest().encode() != self.zip.comment:
            raise ModelFileError("checksum: the file is damaged")


def _check_end(file: io.BufferedReader) -> None:
    """Bound the list of members before zipfile reads it: its length and count stand at the end of the file."""
    length = file.seek(0, os.SEEK_END)
    file.seek(max(0, length - 2**16 - 42))  # the longest comment, the end, and a Zip64 archive's mark before it
    tail = file.read()
    at = tail.rfind(END)
    if at < 0 or len(tail) != at + 22 + int.from_bytes(tail[at + 20 : at + 22], "little"):
        raise ValueError("no zip archive, or cut off")
    count, size = int.from_bytes(tail[at + 10 : at + 12], "little"), int.from_bytes(tail[at + 12 : at + 16], "little")
    if count <= MOST_MEMBERS and size <= 1000 * MOST_MEMBERS:
        file.seek(max(0, length - len(tail) + at - size))
        count = max(count, file.read(size).count(MEMBER))
    if count > MOST_MEMBERS or size > 1000 * MOST_MEMBERS or tail[max(0, at - 20) : max(0, at - 16)] == END64:
        raise ValueError(f"members: got {count:,} or more, expected at most {MOST_MEMBERS:,}")


def _line(error: Exception, most: int) -> str:
    """What an error says, in one line of characters that can be shown, whatever stood in the file."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in text[:most])


def _short(name: str) -> str:
    return repr(name if len(name) <= 60 else name[:60] + "…")
