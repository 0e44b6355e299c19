"""Getting the upstream files of a known data set: from this machine if they are here, over HTTP or by apt if not.

Each file is known by its MD5 or that of its decompressed bytes (the gzip around them can differ from one distributor to
another), so it does not matter whom a file comes from: nothing is used or kept before its hash is right. Each
place adds what it has, as arrays, and the next is asked only for what is still missing. Files that had to be
fetched are kept in the user's cache if there is one that can be written.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from minicnn.data.idx import GZIP_MAGIC, idx_header, read_idx
from minicnn.data.known import KNOWN, Known
from minicnn.errors import DataError
from minicnn.files import atomic_write
from minicnn.say import bar, warn

Arrays = dict[str, np.ndarray]
Say = Callable[[str], None]

DEBIAN_FOLDER = "/usr/share/datasets/fashion-mnist"
CIFAR_ROW = 1 + 3 * 32 * 32
CONNECT_SECONDS = 5
DOWNLOAD_SECONDS = 600
APT_SECONDS = 120
MOST_DOWNLOADED = 64 << 20  # bytes; the largest file has 26 MB, or 47 MB from a mirror that unzips it
ARCHIVE = 10  # times as much of both for an archive: EMNIST's has 562 MB


def find_or_fetch(key: str, say: Say, verbose: bool = True) -> tuple[Arrays, str] | None:
    """Goes from place to place until all files of KNOWN[key] are found; returns them, and the place of the last.

    The arrays are uint8, under the files' names. None where even the last place left some missing. MINICNN_OFFLINE=1
    leaves out what needs a network.
    """
    known, cache = KNOWN[key], cache_folder(key)
    places = [
        (f"cache {cache}", lambda missing: from_folder(cache, missing, say)),
        ("web mirrors", lambda missing: from_mirrors(known, missing, cache, say, verbose)),
    ]
    if known.package:
        places.insert(
            0, (f"Debian package folder {DEBIAN_FOLDER}", lambda missing: from_folder(DEBIAN_FOLDER, missing, say))
        )
        places.append((f"apt package {known.package}", lambda missing: from_apt(known, missing, cache, say)))
    if os.environ.get("MINICNN_OFFLINE", "0") not in ("", "0"):
        say("MINICNN_OFFLINE is set: nothing will be fetched")
        places = [place for place in places if place[0].startswith(("Debian", "cache"))]
    arrays: Arrays = {}
    for place, search in places:
        arrays |= search({name: md5 for name, md5 in known.md5.items() if name not in arrays})
        if len(arrays) == len(known.md5):
            return arrays, place
    return None


def cache_folder(key: str = "fashion_mnist") -> Path | None:
    """Where fetched files are kept: under XDG_CACHE_HOME, else ~/.cache; None where there is no home."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base, "minicnn", key.replace("_", "-")) if os.path.isabs(base) else None


def by_hand(known: Known, cache: Path | None) -> str:
    """What to do where nothing can be fetched: which files, from which address, to put where."""
    address = known.mirrors[0] + (known.archive[0] if known.archive else "")
    places = f"a folder that you give as source (--data){f', or into {cache}' if cache else ''}"
    return f"put {', '.join(known.md5)} (.gz or not, from {address}) into {places}"


def from_folder(folder: str | os.PathLike | None, missing: dict[str, str], say: Say) -> Arrays:
    """Those of the missing files that lie in the folder, zipped or not, with the right hash."""
    arrays = {}
    for name, md5 in missing.items():
        path = file_in(folder, name) if folder else None
        if path:
            try:
                arrays[name] = verified(path.read_bytes(), name, path, md5)
            except (DataError, OSError) as error:
                say(f"{error}: not used")
    say(f"{folder or 'no home, so no cache'}: {len(arrays)} of {len(missing)} files")
    return arrays


def from_mirrors(known: Known, missing: dict[str, str], cache: Path | None, say: Say, verbose: bool = True) -> Arrays:
    """Downloads the missing files, from the first mirror, or where that fails from the next.

    MINICNN_MIRRORS, addresses with spaces between them, takes the place of the built-in list. verbose says that it
    begins, and shows a bar.
    """
    if verbose:
        warn(f"data: {known.title} is not on this machine: fetching it")
    arrays: Arrays = {}
    for mirror in os.environ.get("MINICNN_MIRRORS", " ".join(known.mirrors)).split():
        address = mirror.rstrip("/")
        try:
            contents = _unpacked(known.archive, missing, address, verbose) if known.archive else {}
            for name, md5 in missing.items():
                if name not in arrays:
                    content = contents.get(name) or _download(f"{address}/{name}.gz", verbose)
                    arrays[name] = verified(content, name, f"{name}.gz", md5)
                    _keep(content, name, cache, say)
            say(f"{mirror}: downloaded")
            return arrays
        except (ValueError, OSError, http.client.HTTPException) as error:
            say(f"{mirror}: {error}")
    return arrays


def _unpacked(known: tuple[str, str], names: Iterable[str], address: str, verbose: bool) -> dict[str, bytes]:
    """These files out of the archive (name, MD5) at an address, which is not opened before its hash is right."""
    archive, md5 = known
    content = _download(f"{address}/{archive}", verbose, ARCHIVE)
    got = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if got != md5:
        raise DataError(f"{archive}: MD5 {got}, expected {md5}")
    wanted = {f"{name}{end}": name for name in names for end in ("", ".gz")}
    if archive.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(content)) as zipped:
            paths = {path: wanted.get(path.rpartition("/")[2]) for path in zipped.namelist()}
            return {name: zipped.read(path) for path, name in paths.items() if name}
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = {member: wanted.get(member.name.rpartition("/")[2]) for member in tar if member.isfile()}
        files = {name: tar.extractfile(member) for member, name in members.items() if name}
        return {name: file.read() for name, file in files.items() if file}


def from_apt(known: Known, missing: dict[str, str], cache: Path | None, say: Say) -> Arrays:
    """Takes the missing files out of the Debian package: unpacked, not installed, so it needs no root."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        say("apt: not on this system")
        return {}
    say(f"apt: downloading the package {known.package} (at most {APT_SECONDS} s)")
    arrays: Arrays = {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            _run(["apt-get", "download", known.package], folder)
            packages = [entry for entry in os.listdir(folder) if entry.endswith(".deb")]
            if not packages:
                raise DataError("apt-get download left no .deb file")
            _run(["dpkg-deb", "-x", packages[0], "content"], folder)
            unpacked = Path(folder, "content", DEBIAN_FOLDER.lstrip("/"))
            arrays = from_folder(unpacked, missing, say)
            for name, path in files_in(unpacked, arrays).items():
                _keep(path.read_bytes(), name, cache, say)
    except (DataError, OSError, subprocess.SubprocessError) as error:
        say(f"apt: {error}")
    return arrays


def file_in(folder: str | os.PathLike, name: str) -> Path | None:
    """The path of an IDX file in a folder, plain or with .gz at its end; None if there is neither."""
    paths = (Path(folder, name), Path(folder, f"{name}.gz"))
    return next((path for path in paths if os.path.isfile(path)), None)


def files_in(folder: str | os.PathLike, names: Iterable[str]) -> dict[str, Path]:
    """The paths of those of these files that are there: see `file_in`."""
    return {name: path for name in names if (path := file_in(folder, name))}


def verified(content: bytes, name: str, origin: object, md5: str) -> np.ndarray:
    """Reads an upstream file, zipped or not, from bytes; raises DataError unless it is the right one by hash."""
    array, found = decoded(content, name, origin)
    if md5 not in found:
        raise DataError(f"{origin}: MD5 {' or, decompressed, '.join(sorted(found))}, expected {md5}")
    return array


def decoded(content: bytes, name: str, origin: object) -> tuple[np.ndarray, set[str]]:
    """An upstream file's array, and its MD5s: that of the bytes and that of what is inside their gzip.

    An IDX file is its header and its array and nothing else; CIFAR-10's are rows of a label and 3 x 32 x 32 pixels.
    """
    if name.endswith(".bin"):
        if len(content) % CIFAR_ROW or not content:
            raise DataError(f"{origin}: {len(content)} bytes, expected a multiple of {CIFAR_ROW}")
        array, header = np.frombuffer(content, np.uint8).reshape(-1, CIFAR_ROW), b""
    else:
        array = read_idx(io.BytesIO(content), str(origin), 3 if "images" in name else 1)
        header = idx_header(array.shape)
    inside = hashlib.md5(header, usedforsecurity=False)
    inside.update(array.data)
    return array, {inside.hexdigest(), hashlib.md5(content, usedforsecurity=False).hexdigest()}


def _download(url: str, verbose: bool, times: int = 1) -> bytes:
    """The bytes at an address, with a bar on a terminal; raises OSError, HTTPException or ValueError."""
    if not url.startswith(("http://", "https://")):
        raise DataError(f"{url}: expected an address that starts with http:// or https://")
    deadline = time.monotonic() + times * DOWNLOAD_SECONDS
    content = bytearray()
    name = url.rsplit("/", 1)[1]
    with (
        urllib.request.urlopen(url, timeout=CONNECT_SECONDS) as response,
        bar(desc=name, total=response.length, unit="B", unit_scale=True, hidden=not verbose) as progress,
    ):
        while chunk := response.read1(1 << 16):
            content += chunk
            progress.update(len(chunk))
            if len(content) > times * MOST_DOWNLOADED:
                raise DataError(f"{name}: more than {times * MOST_DOWNLOADED} bytes, not the file that was asked for")
            if time.monotonic() > deadline:
                raise DataError(f"{name}: not complete after {times * DOWNLOAD_SECONDS} s")
    return bytes(content)


def _keep(content: bytes, name: str, cache: Path | None, say: Say) -> None:
    """Puts a verified file into the cache; where that fails, says so and no more: the array is in memory."""
    if cache is None:
        return
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with atomic_write(cache / (f"{name}.gz" if content.startswith(GZIP_MAGIC) else name)) as file:
            file.write(content)
    except OSError as error:
        say(f"{name} is not kept in the cache: {error}")


def _run(command: list[str], folder: str) -> None:
    """Runs a program to its end; raises DataError with the last line it wrote where it fails."""
    done = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=APT_SECONDS,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        last_line = (done.stdout.strip().splitlines() or ["no output"])[-1]
        raise DataError(f"{' '.join(command[:2])} failed: {last_line}")
