"""How Python calls kernels, and how a call is spread over the processor's cores.

A `@parallel` kernel is written for one of PARTS parts of its work; a call runs them all on Numba's pool of threads. Each
thread has an equal share of them, and when it is done takes parts of the others' (work stealing: Blumofe and Leiserson,
1999), so that nobody waits long for a thread whose core another process uses. The pool serves one caller at a time; a second
Python thread that comes meanwhile, and a process after a fork (whose copy of the pool has no threads in it), run the parts
one after the other instead of waiting, hanging or aborting. All give the same bits, for a kernel never lets the number of
threads, or who does a part, decide the order of a sum.

A call is written down first: the address of the compiled kernel, and its arguments as they lie in memory. It runs at once,
or where there is `waiting`, at the end, one call after another with no Python in between. Faster because kernels sweep the
cache: between two of them Python would find nothing there of its own, and take six times as long.

Numba would compile the body of a `prange` loop five times over, each time into a larger wrapper. So there is only one such
loop here, over a pointer to a compiled kernel: a second's work for each kernel and not five.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType

import numba
import numpy as np
from llvmlite import ir
from numba import config, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from minicnn.engine.atomics import add
from minicnn.engine.compiling import helper, kernel, reap_ahead
from minicnn.engine.threads import MAX_THREADS, PARTS, get_threads

# An OpenMP thread that waits for work burns its core, by default for milliseconds, and with it the time of whatever else
# wants to run there. Half a millisecond is enough from one kernel to the next; to wake a thread takes a tenth of that.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")

SMALL = 2**22  # multiply-adds: about a tenth of a millisecond
MOVED = 16  # multiply-adds that take as long as one number that is read and written
WHOLE, ALONE, SHARED = range(3)  # how a kernel runs: not in parts, in parts on the caller's thread, on all threads
ROOM = 2**16  # numbers of 8 bytes, for the calls that wait
HEAD = 3  # such numbers stand before a call's arguments: the kernel's address, the call's size, how it runs
LARGEST = 2**10  # of a call
APART = 8  # numbers from one thread's to the next, in a cache line of its own
_BYTES, _NUMBER = ir.IntType(8).as_pointer(), ir.IntType(64)
_TASK = ir.FunctionType(ir.VoidType(), [_BYTES, _NUMBER])

_pool, _own = threading.Lock(), threading.local()
_started = _forked = False
_taken = np.zeros(APART * MAX_THREADS, np.int64)  # of each thread's share: the next part that nobody has taken
noted: dict | None = None  # instead of being run, kernels note here what they are called with: see ahead.py


def parallel(function):
    """Compile a function of (part, ...), which does one of PARTS parts of the work; a call of (work, ...) runs them all, now
    or at the end of `waiting`.

    `work` is about how many multiply-adds take as long: what is SMALL stays on the caller's thread, for to wake another,
    which may have to wait for a core, would take longer.
    """
    call = _caller(function)

    def run(work, *args):
        call(SHARED if work >= SMALL else ALONE, args)

    run.__name__, run.__doc__ = function.__name__, function.__doc__
    return run


def whole(function):
    """Compile a function that is not dealt out, for it takes less time than to wake a thread; it runs in its turn among
    those that are."""
    call = _caller(function)

    def run(*args):
        call(WHOLE, args)

    run.__name__, run.__doc__ = function.__name__, function.__doc__
    return run


class _Calls:
    """The calls of kernels that a Python thread has written down and not yet run."""

    def __init__(self):
        self.records = np.empty(ROOM, np.int64)
        self.address, self.wait = self.records.ctypes.data, False
        self.clear()

    def clear(self):
        """Forget them, and let go of the arrays that they are to read and write."""
        self.end, self.shared, self.kept = 0, False, []


def _mine() -> _Calls:
    """Those of this thread."""
    if not hasattr(_own, "calls"):
        _own.calls = _Calls()
    return _own.calls


def finish() -> None:
    """Run what waits: for whoever reads what kernels write other than by a kernel."""
    calls = _mine()
    if not calls.end:
        return
    reap_ahead()
    shared = calls.shared and get_threads() > 1 and not _forked and _pool.acquire(blocking=False)
    try:
        _start()
        _run(calls.records, calls.address, calls.end, _taken, get_threads() if shared else 1)
    finally:
        if shared:
            _pool.release()
        calls.clear()


@contextmanager
def waiting(wait: bool) -> Iterator[None]:
    """Within, kernels wait for the end, and then run one after another, where `wait`; else what waits runs first, and each
    kernel at once. After an error nothing runs that waited.
    """
    calls = _mine()
    before = calls.wait
    if before and not wait:
        finish()
    if not before:
        calls.clear()
    calls.wait = wait
    try:
        yield
        if wait and not before:
            finish()
    finally:
        calls.wait = before


def _caller(function):
    """A function of (way, args) that calls the function, compiled, with these arguments, or says that it is to be called."""
    if config.DISABLE_JIT:
        return _plain(function)
    launch = FunctionType(_launch.__code__, {**globals(), "_body": helper(function)})
    launch.__module__ = function.__module__
    launch.__qualname__ = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}.launch"  # its cache's name
    launch = kernel(launch, by_address=False)

    def call(way, args):
        if noted is not None:
            noted[launch, (types.intp, types.intp, numba.typeof(args))] = None
            return
        if not _started:
            _start()
        calls = _mine()
        if not calls.wait:
            calls.clear()
        elif calls.end > ROOM - LARGEST:
            finish()
        calls.kept.append(args)
        calls.shared |= way == SHARED
        calls.end += launch(calls.address + 8 * calls.end, way, *args)
        if not calls.wait:
            finish()

    return call


def _plain(function):
    """For NUMBA_DISABLE_JIT=1: the parts in plain Python, one after the other."""

    def call(way, args):
        for part in [()] if way == WHOLE else [(part,) for part in range(PARTS)]:
            function(*part, *args)

    return call


def _start():
    """Say once how many threads of the pool serve this one; the first time kernels from the cache learn of the pool."""
    global _started
    if getattr(_own, "threads", 0) != get_threads():
        numba.set_num_threads(get_threads())
        _own.threads, _started = get_threads(), True


# ---------------------------------------------------------------------------------------------------------------
# Compiled: a call written down, and run


@intrinsic
def _entry(typing, body, args):
    """The address of a function (pointer to packed arguments, part) that calls `body`, compiled here, with them, and with
    the part where it takes one.

    Nothing in a body can fail: it allocates no memory.
    """

    def codegen(context, builder, signature, values):
        whole = body.dispatcher.py_func.__code__.co_argcount == len(args.types)
        call = types.void(*args.types) if whole else types.void(types.intp, *args.types)
        compiled = body.dispatcher.get_compile_result(call)
        context.active_code_library.add_linking_library(compiled.library)
        entry = ir.Function(builder.module, _TASK, builder.function.name + ".entry")
        entry.linkage = "internal"
        inside = ir.IRBuilder(entry.append_basic_block())
        kind = context.get_value_type(args).as_pointer()
        packed = inside.load(inside.bitcast(entry.args[0], kind))
        unpacked = [inside.extract_value(packed, i) for i in range(len(args.types))]
        function = context.declare_function(builder.module, compiled.fndesc)
        arguments = unpacked if whole else [entry.args[1], *unpacked]
        context.call_conv.call_function(inside, function, call.return_type, call.args, arguments)
        inside.ret_void()
        return builder.ptrtoint(entry, _NUMBER)

    return types.intp(body, args), codegen


@intrinsic
def _write_down(typing, place, entry, way, args):
    """Write a call to memory, at an address; how many numbers of 8 bytes it takes."""

    def codegen(context, builder, signature, values):
        record = ir.LiteralStructType([_NUMBER] * HEAD + [values[3].type])
        size = -(-context.get_abi_sizeof(record) // 8)
        assert size <= LARGEST and context.get_abi_alignment(values[3].type) <= 8
        target = builder.inttoptr(values[0], record.as_pointer())
        for i, value in enumerate((values[1], ir.Constant(_NUMBER, size), values[2], values[3])):
            builder.store(value, cgutils.gep_inbounds(builder, target, 0, i))
        return ir.Constant(_NUMBER, size)

    return types.intp(types.intp, types.intp, types.intp, args), codegen


def _launch(place, way, *args):
    return _write_down(place, _entry(_body, args), way, args)  # noqa: F821  (_body: see _caller)


@intrinsic
def _call(typing, entry, packed, part):
    def codegen(context, builder, signature, values):
        function = builder.inttoptr(values[0], _TASK.as_pointer())
        builder.call(function, [builder.inttoptr(values[1], _BYTES), values[2]])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), codegen


def _all_at_once(entry, packed, taken, threads):
    for thread in range(threads):
        taken[APART * thread] = thread * PARTS // threads
    for thread in prange(threads):
        for other in range(thread, thread + threads):
            whose = other % threads
            part = add(taken, APART * whose, 1)
            while part < (whose + 1) * PARTS // threads:
                _call(entry, packed, part)
                part = add(taken, APART * whose, 1)


_spread = kernel(_all_at_once, has_prange=True)


@kernel
def _run(records, address, end, taken, threads):
    """One call after another, each when the one before it is done."""
    at = 0
    while at < end:
        entry, size, way = records[at], records[at + 1], records[at + 2]
        packed = address + 8 * (at + HEAD)
        if way == SHARED and threads > 1:
            _spread(entry, packed, taken, threads)
        else:
            for part in range(1 if way == WHOLE else PARTS):
                _call(entry, packed, part)
        at += size


def _after_fork():
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
