"""Numbers in memory that several threads read and write at once, as steps that no other thread comes between.

`numbers` is an array of int64. What a thread wrote before such a step is seen by whoever sees the step.
"""

from __future__ import annotations

from numba import config, types
from numba.extending import intrinsic

from minicnn.engine.lanes import address_of


@intrinsic
def add(typing, numbers, index, n):
    """numbers[index] += n; gives what it was before."""

    def codegen(context, builder, signature, args):
        return builder.atomic_rmw("add", address_of(context, builder, numbers, *args[:2]), args[2], "seq_cst")

    return types.int64(numbers, types.intp, types.int64), codegen


@intrinsic
def claim(typing, numbers, index, n):
    """Make numbers[index] n + 1 if it is n; gives whether it was."""

    def codegen(context, builder, signature, args):
        at, one = address_of(context, builder, numbers, *args[:2]), args[2].type(1)
        swap = builder.cmpxchg(at, args[2], builder.add(args[2], one), "seq_cst", "seq_cst")
        return builder.extract_value(swap, 1)

    return types.boolean(numbers, types.intp, types.int64), codegen


@intrinsic
def look(typing, numbers, index):
    """numbers[index], as another thread may have left it."""

    def codegen(context, builder, signature, args):
        return builder.load_atomic(address_of(context, builder, numbers, *args[:2]), "seq_cst", 8)

    return types.int64(numbers, types.intp), codegen


@intrinsic
def put(typing, numbers, index, n):
    """numbers[index] = n."""

    def codegen(context, builder, signature, args):
        builder.store_atomic(args[2], address_of(context, builder, numbers, *args[:2]), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(numbers, types.intp, types.int64), codegen


def _add(numbers, index, n):
    numbers[index] += n
    return numbers[index] - n


def _claim(numbers, index, n):
    free = numbers[index] == n
    numbers[index] += free
    return free


def _put(numbers, index, n):
    numbers[index] = n


if config.DISABLE_JIT:
    add, claim, look, put = _add, _claim, lambda numbers, index: numbers[index], _put
