"""How kernels are compiled, and where the result is kept.

Compiled kernels are kept on disk, in a folder named after the source they were made from: Numba itself looks only at the
file a kernel stands in, and would go on using a kernel whose helper in another file has changed.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numba
from numba import config, njit
from numba.core import event

# No fastmath: NaN and infinity stay what they are, and no sum is reordered behind our back.
OPTIONS = dict(nogil=True, error_model="numpy", boundscheck=False)


def kernel(function, has_prange=False):
    """Compile a function and keep the result on disk; with NUMBA_DISABLE_JIT=1 it stays plain Python."""
    with _cache_folder():
        compiled = njit(cache=True, parallel=has_prange, **OPTIONS)(function)
    return compiled if config.DISABLE_JIT else _forgive(compiled)


def helper(function):
    """Compile a function that only kernels call: it needs no entrance from Python and no place on the disk."""
    return njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS)(function)


def _forgive(compiled):
    """Where a file of the cache is damaged, compile again and write it anew."""
    cache = compiled._cache
    load = cache.load_overload

    def load_or_flush(signature, context):
        try:
            return load(signature, context)
        except Exception:  # whatever unpickling half a file may raise
            cache.flush()
            return None

    cache.load_overload = load_or_flush
    return compiled


AHEAD = "import sys; sys.path[:] = {path!r}; from minicnn.engine import ahead; ahead.compile_backward()"


def _start_ahead() -> None:
    """Run ahead.py in another process, where there is a Python to start; it ends by itself, and says nothing."""
    if not hasattr(os, "posix_spawn") or not sys.executable or getattr(sys, "frozen", False):
        return
    quiet = [(os.POSIX_SPAWN_OPEN, handle, os.devnull, os.O_RDWR, 0) for handle in (0, 1, 2)]
    command = [sys.executable, "-c", AHEAD.format(path=sys.path)]
    with suppress(OSError, NotImplementedError):
        os.posix_spawn(sys.executable, command, os.environ, file_actions=quiet, setsid=True)


class Announcer(event.Listener):
    """Says so, once, when a kernel has to be compiled: it takes seconds, and must not look like a hang."""

    said = helped = False

    def on_start(self, event):
        function = event.data["dispatcher"].py_func
        if function.__module__.startswith(__package__) and not self.said:
            self.said = True
            print("Compiling kernels (once) ...", file=sys.stderr, flush=True)
        large = function.__qualname__ == "winograd._forward.launch"  # five seconds; as threads.parallel names it
        if large and not self.helped and _cache_folder.lasts and config.NUMBA_NUM_THREADS > 1:
            self.helped = True
            _start_ahead()

    def on_end(self, event):
        pass


event.register("numba:compile", Announcer())


class _cache_folder:
    """While kernels are declared, Numba's cache is the folder of this source; afterwards it is the user's again."""

    folder = None
    lasts = True

    def __enter__(self):
        if _cache_folder.folder is None:
            _cache_folder.folder = _writable_folder()
        self.before, config.CACHE_DIR = config.CACHE_DIR, _cache_folder.folder

    def __exit__(self, *error):
        config.CACHE_DIR = self.before


def _tidy(place: str, used: str) -> None:
    """Remove the folders of sources that nobody has run for a month."""
    with suppress(OSError):  # such as another process that tidies too
        os.utime(used)
        for old in Path(place).glob("kernels-*"):
            if time.time() - old.stat().st_mtime > 30 * 24 * 3600:
                shutil.rmtree(old)


def _writable_folder() -> str:
    source = hashlib.sha256(numba.__version__.encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        source.update(file.read_bytes())
    name = f"kernels-{source.hexdigest()[:16]}"
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    places = [config.CACHE_DIR, os.path.join(home, "minicnn")]
    for place in filter(os.path.isabs, places):
        folder = os.path.join(place, name)
        try:
            os.makedirs(folder, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                _tidy(place, folder)
                return folder
        except OSError:
            continue
    _cache_folder.lasts = False
    folder = tempfile.mkdtemp(prefix="minicnn-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
