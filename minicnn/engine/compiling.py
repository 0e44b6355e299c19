"""How kernels are compiled, and where the result is kept.

Compiled kernels are kept on disk, in a folder named after the source they were made from: Numba itself looks only at the
file a kernel stands in, and would go on using a kernel whose helper in another file has changed.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path

import numba
from numba import config, njit
from numba.core import event
from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering, NopythonRewrites
from numba.core.untyped_passes import InlineClosureLikes

from minicnn.say import warn

# No fastmath: NaN and infinity stay what they are, and no sum is reordered behind our back. No `nrt`, Numba's counting of
# references to arrays: nothing is allocated in a kernel, and in an inner loop two threads would fight over a count.
OPTIONS = dict(nogil=True, error_model="numpy", boundscheck=False, _nrt=False)


def kernel(function, has_prange=False, by_address=True):
    """Compile a function and keep the result on disk; with NUMBA_DISABLE_JIT=1 it stays plain Python.

    `by_address`: whether it can be called from other compiled code that only knows where it lies.
    """
    ours = {"parallel": True, "_nrt": True} if has_prange else {"pipeline_class": _Compiler}
    compiled = njit(no_cfunc_wrapper=not by_address, **OPTIONS | ours)(function)
    folder = _cache_folder()
    if folder and not config.DISABLE_JIT:
        before, config.CACHE_DIR = config.CACHE_DIR, folder
        with suppress(RuntimeError):  # the folder has vanished
            compiled._cache = KernelCache(function)
        config.CACHE_DIR = before
    return compiled


def helper(function):
    """Compile a function that only kernels call: it needs no entrance from Python and no place on the disk.

    It cannot print, nor call a helper that calls it. Called from Python it is the plain Python function.
    """
    inside = dict(no_cpython_wrapper=True, no_cfunc_wrapper=True, pipeline_class=_HelperCompiler)
    compiled = njit(**inside, **OPTIONS)(function)
    if not config.DISABLE_JIT:  # Numba would also list it among what Python calls
        compiled.add_overload = lambda result: compiled.overloads.update({tuple(result.signature.args): result})
    return compiled


class _Code(JITCodeLibrary):
    """A kernel's code. Numba optimises each function by itself, and then all twice, to find counts of references between
    the two times; a kernel has none, and once is as good. The third level of three takes 3% longer, and gains nothing."""

    def _optimize_functions(self, module):
        pass

    def _optimize_final_module(self):
        made = self._codegen._module_pass_manager(opt=min(2, config.OPT))
        passes, *builder = made if isinstance(made, tuple) else (made,)  # from Numba 0.62 on there are two
        passes.run(self._final_module, *builder)


class _HelperCode(_Code):
    """A helper's code, as it comes from Numba. It becomes part of its kernels and is optimised and translated with them;
    Numba would do both for the helper alone too, which nothing would run.
    """

    def _optimize_final_module(self):
        pass

    def _finalize_final_module(self):
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _Lowering(NativeLowering):
    """Numba's pass from types to LLVM, into a kernel's code."""

    _name = "minicnn_lowering"

    def run_pass(self, state):
        state.library = _Code(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return super().run_pass(state)


@register_pass(mutates_CFG=True, analysis_only=False)
class _HelperLowering(NativeLowering):
    """The same pass into a helper's code."""

    _name = "minicnn_helper_lowering"

    def run_pass(self, state):
        state.library = _HelperCode(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        state.cr = state.cr._replace(cfunc=state.func_id.func)  # the name by which its callers find it
        state.targetctx.insert_user_function(state.cr.cfunc, state.cr.fndesc, [state.library])
        return True


class _Compiler(CompilerBase):
    """Numba's compiler with a pass of ours, and without two that look for what no kernel has: inner functions, and
    expressions of whole arrays."""

    lowering = _Lowering

    def define_pipelines(self):
        manager = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes = [item for item in manager.passes if item[0] not in (InlineClosureLikes, NopythonRewrites)]
        manager.passes = [(self.lowering if kind is NativeLowering else kind, why) for kind, why in passes]
        manager.finalize()
        return [manager]


class _HelperCompiler(_Compiler):
    """The same for helpers."""

    lowering = _HelperLowering


class KernelCache(FunctionCache):
    """A kernel's place on the disk: what cannot be read there is compiled, and what cannot be written is not kept.

    Numba would get ready to compile before it looks there, which takes half as long again as to load a network's kernels.
    """

    class _impl_class(CompileResultCacheImpl):
        _locator_classes = CompileResultCacheImpl._locator_classes[:1]  # that of config.CACHE_DIR, and no other folder

    def __init__(self, function):
        super().__init__(function)
        stamp = self._impl.locator.get_source_stamp()
        self._cache_file = _CheckedFiles(self.cache_path, self._impl.filename_base, stamp)

    def _mark(self, process: int) -> Path:
        return Path(self.cache_path, f"{self._impl.filename_base}.{process}.ahead")

    @contextmanager
    def marked(self):
        """Says on the disk that this process, one of ahead.py, is compiling it."""
        mark = self._mark(os.getpid())
        with suppress(OSError):
            self._impl.locator.ensure_cache_path()
            mark.touch()
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)

    def _is_being_made(self) -> bool:
        reap_ahead()
        return any(self._mark(process).exists() for process in _ahead_processes)

    def load_overload(self, signature, context):
        end = time.monotonic() + LONGEST_WAIT
        while self._is_being_made() and time.monotonic() < end:
            time.sleep(0.005)
        try:
            return self._load_overload(signature, context)
        except Exception:  # whole, and yet not to be unpickled: written beside another version of NumPy, say
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, signature, result):
        with suppress(OSError):  # a full disk, or the folder has vanished
            super().save_overload(signature, result)


class _CheckedFiles(IndexDataCacheFile):
    """Numba's two files of a kernel, each with its SHA-256 at the end, where unpickling does not get to.

    A damaged kernel may load and then crash the process, so one whose checksum does not fit counts as missing. So does one
    compiled for other types: two processes that compile at once may give their files the same name.
    """

    def save(self, key, compiled):
        super().save(key, (key, compiled))

    def load(self, key):
        stored_key, compiled = super().load(key) or (None, None)
        return compiled if stored_key == key else None

    @contextmanager
    def _open_for_write(self, path):
        with super()._open_for_write(path) as file:
            content = io.BytesIO()
            yield content
            file.write(content.getvalue() + hashlib.sha256(content.getvalue()).digest())

    def _load_index(self):
        return super()._load_index() if _is_whole(self._index_path) else {}

    def _load_data(self, name):
        return super()._load_data(name) if _is_whole(self._data_path(name)) else None


def _is_whole(path: str) -> bool:
    try:
        content = Path(path).read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-32]).digest() == content[-32:]


AHEAD = (
    "import sys; sys.path[:] = {path!r}; from minicnn.engine import ahead; "
    "ahead.stand_back(); ahead.compile_ahead(*{arguments!r})"
)
MOST_AHEAD = 3
LONGEST_WAIT = 2.0  # seconds, for a kernel that another process is compiling: longer than any takes
FIRST = (  # of a training step
    *("training._make_batch.launch", "direct._pack_panels.launch", "direct._forward.launch"),
    *("winograd._transform_weights.launch", "winograd._forward.launch"),
)
describe: Callable[[], str] = str  # of the network that was asked for last; "" for none: see compile.describer
_ahead_processes: list[int] = []


def _start_ahead() -> None:
    """Run ahead.py in other processes, where there is a Python to start; they end by themselves, and say nothing."""
    text = describe()
    if not text or not hasattr(os, "posix_spawn") or not sys.executable or getattr(sys, "frozen", False):
        return
    parts = min(config.NUMBA_NUM_THREADS - 1, MOST_AHEAD)
    quiet = [(os.POSIX_SPAWN_OPEN, handle, os.devnull, os.O_RDWR, 0) for handle in (0, 1, 2)]
    for part in range(parts):
        command = [sys.executable, "-c", AHEAD.format(path=sys.path, arguments=(text, part, parts))]
        # a group of its own, which no Ctrl-C reaches; this session, for in another one a low priority is of no effect
        started = os.posix_spawn(sys.executable, command, os.environ, file_actions=quiet, setpgroup=0)
        _ahead_processes.append(started)


def reap_ahead() -> None:
    """Ask whether those processes have ended, for until somebody asks, the system keeps a zombie; waits for nothing."""
    for process in _ahead_processes[:]:
        try:
            ended, _ = os.waitpid(process, os.WNOHANG)
        except ChildProcessError:  # somebody else has asked, or this is a fork, whose child it is not
            ended = process
        if ended:
            with suppress(ValueError):  # another thread was here
                _ahead_processes.remove(process)


class Announcer(event.Listener):
    """Says so, once, when a kernel has to be compiled: it takes seconds, and must not look like a hang."""

    said = helped = False

    def on_start(self, event):
        function = event.data["dispatcher"].py_func
        if str(function.__module__).startswith(__package__) and not self.said:
            self.said = True
            warn("Compiling kernels (once) ...")
        if function.__qualname__ in FIRST and not self.helped and _cache_folder():
            self.helped = True
            with suppress(Exception):  # it is only help: a layer that JSON cannot describe, say, trains without
                _start_ahead()

    def on_end(self, event):
        pass


class Collection(event.Listener):
    """Lets Python collect no garbage while a kernel is compiled: it would look through what is all in use, over and over."""

    depth, was_on = 0, False

    def on_start(self, event):
        if self.depth == 0:
            self.was_on = gc.isenabled()
            gc.disable()
        self.depth += 1

    def on_end(self, event):
        self.depth -= 1
        if self.depth == 0 and self.was_on:
            gc.enable()


event.register("numba:compile", Collection())
event.register("numba:compile", Announcer())


def _tidy(place: str, used: str) -> None:
    """Remove the folders of sources that nobody has run for a month."""
    with suppress(OSError):  # such as another process that tidies too
        os.utime(used)
        for old in Path(place).glob("kernels-*"):
            if time.time() - old.stat().st_mtime > 30 * 24 * 3600:
                shutil.rmtree(old)


@functools.cache
def _cache_folder() -> str | None:
    """The folder of this source, or None where none can be written to."""
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
    return None


if hasattr(os, "register_at_fork"):
    # A child forked while another thread compiles would wait for ever for that thread, which it does not have.
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )
