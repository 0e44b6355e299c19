"""Writing a file so that nobody ever sees half of it.

The bytes go to a temporary name in the same folder, are forced to the disk, and only then take the file's
place in one step. A crash, a full disk or Ctrl-C leaves what was there before.
"""

from __future__ import annotations

import glob
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from minicnn.errors import CheckpointError

try:
    import fcntl
except ImportError:
    fcntl = None


@contextmanager
def atomic_write(path: str | os.PathLike, keep: str | os.PathLike | None = None) -> Iterator[BinaryIO]:
    """Yields a binary file to write to; it becomes `path` when the block ends, and vanishes if it raises.

    What was at `path` is renamed to `keep` just before; killed between the two, `keep` is there and `path` is not.

    Raises OSError, which names `path`, when the folder is missing or cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")  # see temporaries
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
        sync(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise


def temporaries(folder: Path, name: str | None = None) -> list[Path]:
    """What processes that were killed while they wrote a file, or the file of that name, left behind."""
    return list(folder.glob(f".{'*' if name is None else glob.escape(name)}.{'[0-9a-f]' * 12}.tmp"))


_held: dict[Path, tuple[int, int]] = {}


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """While it lasts, no other process or thread can lock the folder; it ends with the process, however that ends.

    Raises CheckpointError where another holds it. Within a thread, a lock in a lock is the same one. Systems and disks
    without flock (Windows, some networks') have none.
    """
    name, me = folder.resolve(), (os.getpid(), threading.get_ident())
    if fcntl is None or _held.get(name) == me:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(f"{folder}: another run is writing there") from None
        except OSError:  # a disk that knows no locks
            pass
        _held[name] = me
        try:
            yield
        finally:
            _held.pop(name, None)
    finally:
        os.close(handle)


def sync(folder: Path) -> None:
    """Force a folder's names to the disk, where the system lets one."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
