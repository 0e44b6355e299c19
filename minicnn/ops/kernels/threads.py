"""How kernels are compiled, cached and spread over the processor's cores.

`@parallel` compiles a kernel twice, on first use: once with its `prange` loop dealt out to Numba's pool of threads, and
once as an ordinary loop. The pool serves one caller at a time; a second Python thread that comes meanwhile, and a
process after a fork (whose copy of the pool has no threads in it), run the ordinary loop instead of waiting, hanging or
aborting. Both give the same bits, for a kernel never lets the number of threads decide the order of a sum.

Compiled kernels are kept on disk, in a folder named after the source they were made from: Numba itself looks only at the
file a kernel stands in, and would go on using a kernel whose helper in another file has changed.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import threading
from pathlib import Path
from types import FunctionType

import numba
from numba import config, njit
from numba.core import event

# No fastmath: NaN and infinity stay what they are, and no sum is reordered behind our back.
OPTIONS = dict(nogil=True, error_model="numpy", boundscheck=False)

# An OpenMP thread that waits for work burns its core, by default for milliseconds, and with it the time of whatever else
# wants to run there. Half a millisecond is enough from one kernel to the next; to wake a thread takes a tenth of that.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")

_pool = threading.Lock()
_forked = False
_threads = config.NUMBA_NUM_THREADS


def set_threads(n: int) -> None:
    """Use n threads for every kernel from here on (at most the number Numba started with: the cores)."""
    global _threads
    if not isinstance(n, int) or not 1 <= n <= config.NUMBA_NUM_THREADS:
        raise ValueError(f"threads: got {n!r}, expected 1 to {config.NUMBA_NUM_THREADS}")
    _threads = n


def get_threads() -> int:
    """How many threads the kernels use."""
    return _threads


def kernel(function):
    """Compile a function for use within other kernels; with NUMBA_DISABLE_JIT=1 it stays plain Python."""
    with _cache_folder():
        return njit(cache=True, **OPTIONS)(function)


def parallel(function):
    """Compile a function whose `prange` loop is shared out among the threads."""
    alone = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    alone.__qualname__ = function.__qualname__ + "_alone"  # its own name in the cache
    with _cache_folder():
        shared = njit(cache=True, parallel=True, **OPTIONS)(function)
        alone = njit(cache=True, **OPTIONS)(alone)

    def run(*args):
        if _threads > 1 and not _forked and _pool.acquire(blocking=False):
            try:
                numba.set_num_threads(_threads)
                return shared(*args)
            finally:
                _pool.release()
        return alone(*args)

    run.__name__, run.__doc__ = function.__name__, function.__doc__
    run.shared, run.alone = shared, alone
    return run


def _after_fork():
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _Announcer(event.Listener):
    """Says so, once, when a kernel has to be compiled: it takes seconds, and must not look like a hang."""

    said = False

    def on_start(self, event):
        ours = event.data["dispatcher"].py_func.__module__.startswith(__package__)
        if ours and not self.said:
            self.said = True
            print("Compiling kernels (once) ...", file=sys.stderr, flush=True)

    def on_end(self, event):
        pass


event.register("numba:compile", _Announcer())


class _cache_folder:
    """While kernels are declared, Numba's cache is the folder of this source; afterwards it is the user's again."""

    folder = None

    def __enter__(self):
        if _cache_folder.folder is None:
            _cache_folder.folder = _writable_folder()
        self.before, config.CACHE_DIR = config.CACHE_DIR, _cache_folder.folder

    def __exit__(self, *error):
        config.CACHE_DIR = self.before


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
                return folder
        except OSError:
            continue
    return tempfile.mkdtemp(prefix="minicnn-")
