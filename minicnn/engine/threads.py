"""How a kernel's work is spread over the processor's cores.

A `@parallel` kernel is written for one of PARTS parts of its work; a call runs them all on Numba's pool of threads. Each
thread has an equal share of them, and when it is done takes parts of the others' (work stealing: Blumofe and Leiserson,
1999), so that nobody waits long for a thread whose core another process uses. The pool serves one caller at a time; a second
Python thread that comes meanwhile, and a process after a fork (whose copy of the pool has no threads in it), run the parts
one after the other instead of waiting, hanging or aborting. All give the same bits, for a kernel never lets the number of
threads, or who does a part, decide the order of a sum.

Numba would compile the body of a `prange` loop five times over, each time into a larger wrapper. So there is only one such
loop here, over a pointer to a compiled kernel: a second's work for each kernel and not five.
"""

from __future__ import annotations

import os
import threading
from types import FunctionType

import numba
import numpy as np
from llvmlite import ir
from numba import config, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from minicnn.engine.atomics import add
from minicnn.engine.compiling import helper, kernel, reap_ahead

# An OpenMP thread that waits for work burns its core, by default for milliseconds, and with it the time of whatever else
# wants to run there. Half a millisecond is enough from one kernel to the next; to wake a thread takes a tenth of that.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")

PARTS = 64
SMALL = 2**22  # multiply-adds: about a tenth of a millisecond
MOVED = 16  # multiply-adds that take as long as one number that is read and written
_BYTES, _NUMBER = ir.IntType(8).as_pointer(), ir.IntType(64)
_TASK = ir.FunctionType(ir.VoidType(), [_BYTES, _NUMBER])

_pool, _own = threading.Lock(), threading.local()
_started = _forked = False
noted: dict | None = None  # instead of being run, kernels note here what they are called with: see ahead.py
MAX_THREADS = _threads = config.NUMBA_NUM_THREADS
APART = 8  # numbers from one thread's to the next, in a cache line of its own
_taken = np.zeros(APART * MAX_THREADS, np.int64)  # of each thread's share: the next part that nobody has taken


def set_threads(n: int) -> None:
    """Use n threads for every kernel from here on (at most the number Numba started with: the cores)."""
    global _threads
    if not isinstance(n, int) or not 1 <= n <= config.NUMBA_NUM_THREADS:
        raise ValueError(f"threads: got {n!r}, expected 1 to {config.NUMBA_NUM_THREADS}")
    _threads = n


def get_threads() -> int:
    """How many threads the kernels use."""
    return _threads


def _start():
    """Say once how many threads of the pool serve this one; the first time kernels from the cache learn of the pool."""
    global _started
    if getattr(_own, "threads", 0) != _threads:
        numba.set_num_threads(_threads)
        _own.threads, _started = _threads, True


@intrinsic
def _pack(typing, args):
    """Where the arguments lie in this call's memory, as a number."""

    def codegen(context, builder, signature, values):
        return builder.ptrtoint(cgutils.alloca_once_value(builder, values[0]), _NUMBER)

    return types.intp(args), codegen


@intrinsic
def _entry(typing, body, args):
    """The address of a function (pointer to packed arguments, part) that calls `body`, compiled here, with them.

    Nothing in a body can fail: it allocates no memory.
    """

    def codegen(context, builder, signature, values):
        call = types.void(types.intp, *args.types)
        compiled = body.dispatcher.get_compile_result(call)
        context.active_code_library.add_linking_library(compiled.library)
        entry = ir.Function(builder.module, _TASK, builder.function.name + ".entry")
        entry.linkage = "internal"
        inside = ir.IRBuilder(entry.append_basic_block())
        kind = context.get_value_type(args).as_pointer()
        packed = inside.load(inside.bitcast(entry.args[0], kind))
        unpacked = [inside.extract_value(packed, i) for i in range(len(args.types))]
        function = context.declare_function(builder.module, compiled.fndesc)
        arguments = [entry.args[1], *unpacked]
        context.call_conv.call_function(inside, function, call.return_type, call.args, arguments)
        inside.ret_void()
        return builder.ptrtoint(entry, _NUMBER)

    return types.intp(body, args), codegen


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


def _one_by_one(entry, packed):
    for part in range(PARTS):
        _call(entry, packed, part)


_spread, _one_by_one = kernel(_all_at_once, has_prange=True), kernel(_one_by_one)


def _launch(taken, threads, *args):
    entry, packed = _entry(_body, args), _pack(args)  # noqa: F821  (_body: see parallel)
    if threads > 1:
        _spread(entry, packed, taken, threads)
    else:
        _one_by_one(entry, packed)


@helper
def chunk(part, n):
    """One part of the numbers from 0 to n - 1."""
    return range(max(0, part * n // PARTS), (part + 1) * n // PARTS)


@helper
def share_of(n, which, many):
    """One of many equal shares of the numbers from 0 to n - 1."""
    return range(which * n // many, (which + 1) * n // many)


def tasks_of_parts(images: int) -> int:
    """How many tasks to make of PARTS parts, where each needs memory of its own: 16, or more for more than 8 threads, but
    not more than there are images."""
    enough = next(tasks for tasks in (16, 32, PARTS) if tasks >= min(2 * _threads, PARTS))
    return max(tasks for tasks in (1, 2, 4, 8, 16, 32, PARTS) if tasks <= min(enough, max(images, 1)))


def most_splits(images: int, tasks: int) -> int:
    """How many threads share a task, where there are more of them than tasks: at most one for each of its images.

    Tasks are what a sum is made of, so their number depends on no thread; what becomes of a task's images does.
    """
    return max(1, min(_threads, images) // max(tasks, 1))


@helper
def vectors(part, n, like):
    """One part of the numbers from 0 to n - 1: where it begins, where its whole vectors end, and where it ends."""
    span, width = chunk(part, n // len(like)), len(like)
    return span.start * width, span.stop * width, n if part == PARTS - 1 else span.stop * width


def parallel(function):
    """Compile a function of (part, ...), which does one of PARTS parts of the work; a call of (work, ...) runs them all.

    `work` is about how many multiply-adds take as long: what is SMALL stays on the caller's thread, for to wake another,
    which may have to wait for a core, would take longer.
    """
    if config.DISABLE_JIT:
        return _plain(function)
    launch = FunctionType(_launch.__code__, {**globals(), "_body": helper(function)})
    launch.__module__ = function.__module__
    launch.__qualname__ = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}.launch"  # its cache's name
    launch = kernel(launch, by_address=False)

    def run(work, *args):
        if noted is not None:
            noted[launch, (numba.typeof(_taken), types.intp, numba.typeof(args))] = None
            return
        reap_ahead()
        shared = work >= SMALL and _threads > 1 and not _forked and _pool.acquire(blocking=False)
        try:
            if shared or not _started:
                _start()
            launch(_taken, _threads if shared else 1, *args)
        finally:
            if shared:
                _pool.release()

    run.__name__, run.__doc__ = function.__name__, function.__doc__
    return run


def _plain(function):
    """For NUMBA_DISABLE_JIT=1: the parts in plain Python, one after the other."""

    def run(work, *args):
        for part in range(PARTS):
            function(part, *args)

    return run


def _after_fork():
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
