"""Getting the four upstream files: from this machine if they are here, over HTTP or by apt if not.

Each file is known by the MD5 of its decompressed bytes (the gzip around them differs from one distributor to
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
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np

from minicnn.data.idx import idx_header, read_idx
from minicnn.errors import DataError
from minicnn.files import atomic_write
from minicnn.say import bar

Arrays = dict[str, np.ndarray]
Say = Callable[[str], None]

MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
MIRRORS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
)
DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = "/usr/share/datasets/fashion-mnist"
CONNECT_SECONDS = 5
DOWNLOAD_SECONDS = 600
APT_SECONDS = 120
MOST_DOWNLOADED = 64 << 20  # bytes; the largest file has 26 MB, or 47 MB from a mirror that unzips it


def find_or_fetch(say: Say, verbose: bool = True) -> tuple[Arrays, str] | None:
    """Goes from place to place until all four files are found; returns them, and the place of the last.

    The arrays are uint8, (n, h, w) images and (n,) labels, under the names in MD5. None where even the last
    place left some missing. MINICNN_OFFLINE=1 leaves out what needs a network.
    """
    cache = cache_folder()
    places = [
        (f"Debian package folder {DEBIAN_FOLDER}", lambda missing: from_folder(DEBIAN_FOLDER, missing, say)),
        (f"cache {cache}", lambda missing: from_folder(cache, missing, say)),
        ("web mirrors", lambda missing: from_mirrors(missing, cache, say, verbose)),
        (f"apt package {DEBIAN_PACKAGE}", lambda missing: from_apt(missing, cache, say)),
    ]
    if os.environ.get("MINICNN_OFFLINE", "0") not in ("", "0"):
        say("MINICNN_OFFLINE is set: nothing will be fetched")
        del places[2:]
    arrays: Arrays = {}
    for place, search in places:
        arrays |= search([name for name in MD5 if name not in arrays])
        if len(arrays) == len(MD5):
            return arrays, place
    return None


def cache_folder() -> Path | None:
    """Where fetched files are kept: under XDG_CACHE_HOME, else ~/.cache; None where there is no home."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base, "minicnn", "fashion-mnist") if os.path.isabs(base) else None


def from_folder(folder: str | os.PathLike | None, missing: list[str], say: Say) -> Arrays:
    """Those of the missing files that lie in the folder, zipped or not, with the right hash."""
    arrays = {}
    for name in missing:
        path = file_in(folder, name) if folder else None
        if path:
            try:
                arrays[name] = verified(path.read_bytes(), name, path)
            except (DataError, OSError) as error:
                say(f"{error}: not used")
    say(f"{folder or 'no home, so no cache'}: {len(arrays)} of {len(missing)} files")
    return arrays


def from_mirrors(missing: list[str], cache: Path | None, say: Say, verbose: bool = True) -> Arrays:
    """Downloads the missing files, from the first mirror, or where that fails from the next.

    MINICNN_MIRRORS, addresses with spaces between them, takes the place of the built-in list.
    """
    arrays: Arrays = {}
    for mirror in os.environ.get("MINICNN_MIRRORS", " ".join(MIRRORS)).split():
        try:
            for name in missing:
                if name not in arrays:
                    content = _download(f"{mirror.rstrip('/')}/{name}.gz", verbose)
                    arrays[name] = verified(content, name, f"{name}.gz")
                    _keep(content, name, cache, say)
            say(f"{mirror}: downloaded")
            return arrays
        except (ValueError, OSError, http.client.HTTPException) as error:
            say(f"{mirror}: {error}")
    return arrays


def from_apt(missing: list[str], cache: Path | None, say: Say) -> Arrays:
    """Takes the missing files out of the Debian package: unpacked, not installed, so it needs no root."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        say("apt: not on this system")
        return {}
    say(f"apt: downloading the package {DEBIAN_PACKAGE} (at most {APT_SECONDS} s)")
    arrays: Arrays = {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            _run(["apt-get", "download", DEBIAN_PACKAGE], folder)
            packages = [entry for entry in os.listdir(folder) if entry.endswith(".deb")]
            if not packages:
                raise DataError("apt-get download left no .deb file")
            _run(["dpkg-deb", "-x", packages[0], "content"], folder)
            unpacked = Path(folder, "content", DEBIAN_FOLDER.lstrip("/"))
            arrays = from_folder(unpacked, missing, say)
            for name in arrays:
                _keep(file_in(unpacked, name).read_bytes(), name, cache, say)
    except (DataError, OSError, subprocess.SubprocessError) as error:
        say(f"apt: {error}")
    return arrays


def file_in(folder: str | os.PathLike, name: str) -> Path | None:
    """The path of an IDX file in a folder, plain or with .gz at its end; None if there is neither."""
    paths = (Path(folder, name), Path(folder, f"{name}.gz"))
    return next((path for path in paths if os.path.isfile(path)), None)


def verified(content: bytes, name: str, origin: object) -> np.ndarray:
    """Reads an IDX file, zipped or not, from bytes; raises DataError unless it is the upstream one by hash.

    An IDX file is its header and its array and nothing else, so their hash is the decompressed file's hash.
    """
    array = read_idx(io.BytesIO(content), str(origin), 3 if "images" in name else 1)
    md5 = hashlib.md5(idx_header(array.shape), usedforsecurity=False)
    md5.update(array)
    if md5.hexdigest() != MD5[name]:
        raise DataError(f"{origin}: MD5 {md5.hexdigest()} when decompressed, expected {MD5[name]}")
    return array


def _download(url: str, verbose: bool) -> bytes:
    """The bytes at an address, with a bar on a terminal; raises OSError, HTTPException or ValueError."""
    if not url.startswith(("http://", "https://")):
        raise DataError(f"{url}: expected an address that starts with http:// or https://")
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    content = bytearray()
    name = url.rsplit("/", 1)[1]
    with (
        urllib.request.urlopen(url, timeout=CONNECT_SECONDS) as response,
        bar(desc=name, total=response.length, unit="B", unit_scale=True, hidden=not verbose) as progress,
    ):
        while chunk := response.read1(1 << 16):
            content += chunk
            progress.update(len(chunk))
            if len(content) > MOST_DOWNLOADED:
                raise DataError(f"{name}: more than {MOST_DOWNLOADED} bytes, not the file that was asked for")
            if time.monotonic() > deadline:
                raise DataError(f"{name}: not complete after {DOWNLOAD_SECONDS} s")
    return bytes(content)


def _keep(content: bytes, name: str, cache: Path | None, say: Say) -> None:
    """Puts a verified file into the cache; where that fails, says so and no more: the array is in memory."""
    if cache is None:
        return
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with atomic_write(cache / f"{name}.gz") as file:
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
