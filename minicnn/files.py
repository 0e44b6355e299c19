"""Writing a file so that nobody ever sees half of it.

The bytes go to a temporary name in the same folder, are forced to the disk, and only then take the file's
place in one step. A crash, a full disk or Ctrl-C leaves what was there before. Links are followed, as `open` does:
the folder is that of the file which a link points to.
"""

from __future__ import annotations

import errno
import glob
import importlib.util
import os
import secrets
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from minicnn.errors import CheckpointError

HAS_FLOCK = importlib.util.find_spec("fcntl") is not None
if HAS_FLOCK:
    import fcntl


@contextmanager
def atomic_write(path: str | os.PathLike, keep: str | os.PathLike | None = None) -> Iterator[BinaryIO]:
    """Yields a binary file to write to; it becomes `path` when the block ends, and vanishes if it raises.

    What was at `path` is moved to `keep` just before; killed between the two, `keep` is there and `path` is not. A file
    that is replaced gives its mode, and its owner where the system allows that, to the new one.

    Raises OSError, which names `path`, when the folder is missing or cannot be written, and for what is no regular file.
    """
    target, replaced = target_of(path), file_status(path)
    if keep is not None:
        file_status(keep)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")  # see temporaries
    try:
        with open(temporary, "xb") as file:
            if replaced:
                _copy_mode_and_owner(replaced, temporary)
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and target.exists():
            _move(target, keep)
        os.replace(temporary, target)
        sync(target.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise


def make_folder(path: str | os.PathLike) -> None:
    """Make a folder, and those that it lies in, unless they are there; FileExistsError where a file is in the way."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise FileExistsError(f"{path}: expected a folder, and a file is in the way") from None


def target_of(path: str | os.PathLike) -> Path:
    """The file that links lead to, or `path` itself."""
    return Path(os.path.realpath(path))


def check_target(path: str | os.PathLike) -> None:
    """OSError where no file can ever be written: its folder is missing, or it is no regular file."""
    file_status(path)
    if not target_of(path).parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "its folder is missing", str(path))


def file_status(path: str | os.PathLike) -> os.stat_result | None:
    """A file's mode and owner, None where there is no file; raises OSError for what is no regular file."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "got a folder, expected a regular file", str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "got a device, pipe or socket, expected a regular file", str(path))
    return status


def remove(path: str | os.PathLike) -> None:
    """Delete a file, if it is there; a link to it stays, and what is no regular file raises OSError."""
    if file_status(path):
        target_of(path).unlink(missing_ok=True)


def _copy_mode_and_owner(status: os.stat_result, path: Path) -> None:
    """Give a file the mode and the owner of another one, as far as the system allows."""
    with suppress(OSError, AttributeError):  # Windows has no chown
        os.chown(path, -1, status.st_gid)
        os.chown(path, status.st_uid, -1)
    with suppress(OSError):
        os.chmod(path, stat.S_IMODE(status.st_mode))


def _move(source: Path, path: str | os.PathLike) -> None:
    """Let a file take the place of another, be it on another disk, and take over its mode and owner."""
    target, replaced = target_of(path), file_status(path)
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with open(source, "rb") as old, atomic_write(path) as new:
            shutil.copyfileobj(old, new)
    else:
        if replaced:
            _copy_mode_and_owner(replaced, target)


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
    if not HAS_FLOCK or _held.get(name) == me:
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
