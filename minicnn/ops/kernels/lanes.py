"""Wide vectors as Numba values: what a kernel needs to keep its sums in the processor's registers.

A processor adds and multiplies 4, 8 or 16 floats at once, in a vector register. A compiler finds such vectors in simple
loops, but not the ones that matter in a matrix product: a block of many sums that stays in registers while the operands
stream past. So here a vector of n numbers is a value of its own, with the few operations that kernels need:

    zeros(array, width)            a vector of zeros of the array's dtype
    load(like, array, index)       the n numbers at array[index:index+n], a vector like `like`
    store(array, index, vector)    the reverse
    fma(scalar, vector, sums)      scalar * vector + sums
    maximum0(vector)               max(0, .) of each number, NaN staying NaN
    pick(array, index)             array[index] without Python's negative indices, whose test costs in an inner loop

n may be larger than a register: the compiler spreads a vector of 64 floats over four registers of 16, or eight of 8. One
source serves AVX-512, AVX2 and NEON; only `wide()` asks which it is. The width is part of a vector's *type*, so a kernel
is compiled once for each width it is called with. Arrays are 1-D and contiguous, and nothing checks an index.

With NUMBA_DISABLE_JIT=1 the same names are plain Python on NumPy arrays, so that one can step through a kernel.
"""

from __future__ import annotations

import numpy as np
from llvmlite import binding, ir
from numba import config, types
from numba.core import cgutils
from numba.extending import (
    NativeValue,
    intrinsic,
    models,
    register_model,
    typeof_impl,
    unbox,
)


class Width:
    """How many numbers a vector has, as a value to hand to a kernel: `Width(64)`."""

    def __init__(self, lanes: int):
        self.lanes = lanes


def wide(dtype) -> int:
    """The widest block of numbers of which 7 rows, and what they are made from, stay in the registers.

    That is two registers a row: 14 of the 32 of AVX-512, which leaves the compiler room; 14 of the 16 of AVX2.
    """
    features = binding.get_host_cpu_features()
    named = config.CPU_FEATURES or ""
    avx512 = "+avx512f" in named if named else features.get("avx512f", False)
    return (128 if avx512 else 64) // np.dtype(dtype).itemsize


class _WidthType(types.Type):
    def __init__(self, lanes):
        self.lanes = lanes
        super().__init__(name=f"Width({lanes})")


class _VectorType(types.Type):
    def __init__(self, dtype, lanes):
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"{dtype}x{lanes}")


@typeof_impl.register(Width)
def _typeof_width(value, context):
    return _WidthType(value.lanes)


register_model(_WidthType)(models.OpaqueModel)


@unbox(_WidthType)
def _unbox_width(typ, value, context):
    return NativeValue(context.context.get_dummy_value())


@register_model(_VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector):
        super().__init__(manager, vector, ir.VectorType(manager[vector.dtype].get_value_type(), vector.lanes))


def _llvm(context, vector):
    return context.get_value_type(vector)


def _address(context, builder, vector, array_type, array, index):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _llvm(context, vector).as_pointer())


def _alignment(vector):
    return vector.dtype.bitwidth // 8  # an element's: the default is the whole vector's, and faults


def _splat(builder, llvm_type, scalar):
    undefined = ir.Constant(llvm_type, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), llvm_type.count), [0] * llvm_type.count)
    return builder.shuffle_vector(first, undefined, mask)


@intrinsic
def _zeros(typing, array, width):
    vector = _VectorType(array.dtype, width.lanes)

    def codegen(context, builder, signature, args):
        return ir.Constant(_llvm(context, vector), [0.0] * vector.lanes)

    return vector(array, width), codegen


@intrinsic
def _load(typing, like, array, index):
    def codegen(context, builder, signature, args):
        value = builder.load(_address(context, builder, like, array, args[1], args[2]))
        value.align = _alignment(like)
        return value

    return like(like, array, types.intp), codegen


@intrinsic
def _store(typing, array, index, vector):
    def codegen(context, builder, signature, args):
        place = _address(context, builder, vector, array, args[0], args[1])
        builder.store(args[2], place).align = _alignment(vector)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), codegen


@intrinsic
def _fma(typing, scalar, vector, sums):
    def codegen(context, builder, signature, args):
        llvm_type = _llvm(context, sums)
        name = f"llvm.fma.v{sums.lanes}f{sums.dtype.bitwidth}"
        kind = ir.FunctionType(llvm_type, [llvm_type] * 3)
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        factor = args[0] if isinstance(scalar, _VectorType) else _splat(builder, llvm_type, args[0])
        return builder.call(function, [factor, args[1], args[2]])

    return sums(scalar, sums, sums), codegen


@intrinsic
def _maximum0(typing, vector):
    def codegen(context, builder, signature, args):
        zero = ir.Constant(_llvm(context, vector), [0.0] * vector.lanes)
        return builder.select(builder.fcmp_ordered("<", args[0], zero), zero, args[0])

    return vector(vector), codegen


@intrinsic
def _pick(typing, array, index):
    def codegen(context, builder, signature, args):
        data = context.make_array(array)(context, builder, args[0]).data
        return builder.load(builder.gep(data, [args[1]]))

    return array.dtype(array, types.intp), codegen


@intrinsic
def _lanes(typing, vector):
    def codegen(context, builder, signature, args):
        return ir.Constant(ir.IntType(types.intp.bitwidth), vector.lanes)

    return types.intp(vector), codegen


if config.DISABLE_JIT:

    def zeros(array, width):
        return np.zeros(width.lanes, array.dtype)

    def load(like, array, index):
        return array[index : index + len(like)].copy()

    def store(array, index, vector):
        array[index : index + len(vector)] = vector

    def fma(scalar, vector, sums):
        return scalar * vector + sums

    def maximum0(vector):
        return np.maximum(vector, 0)

    def pick(array, index):
        return array[index]

    lanes = len
else:
    zeros, load, store, fma, maximum0 = _zeros, _load, _store, _fma, _maximum0
    pick, lanes = _pick, _lanes
