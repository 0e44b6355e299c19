"""Wide vectors as Numba values: what a kernel needs to keep its sums in the processor's registers.

A processor adds and multiplies 4, 8 or 16 floats at once, in a vector register. A compiler finds such vectors in simple
loops, but not the ones that matter in a matrix product: a block of many sums that stays in registers while the operands
stream past. So here a vector of numbers is a value of its own, and a block is a tuple of vectors, one for each row:

    zeros(array, block)                    a block of zeros of the array's dtype; block = Block(rows, lanes)
    fill(like, number)                     a vector like `like`, all of one number
    load(like, array, index)               a vector like `like`: the numbers at array[index:]
    load_prefetching(like, array, index)   a load that also asks for what lies 8 KiB further on: for a pass through memory
    store(array, index, vector)            the reverse of load
    store_prefetching(array, index, v)     and of load_prefetching
    prefetch(array, index)                 ask for the cache line of array[index], which will be needed soon
    v + w, v - w, v / w, a * v, sqrt(v)    number by number; a is a scalar or a vector
    fma(a, v, w)                           a * v + w, rounded once; a is a scalar or a vector
    maximum0(v), gate(v, w)                max(0, v), of a block too, NaN staying NaN; v * 0 where w <= 0, else v
    clamp(v, low, high), rint(v)           v between two numbers, NaN staying NaN; the nearest whole number, even of two
    power_of_two(v)                        2**v for whole v, at most 2**126 (in float64 2**1022), at least 1 over that
    exp_series(v)                          1/2 + v/6 + v**2/24 .., with which exp(v) = 1 + v + v**2 * it, for |v| < 0.35
    maximum(v, w), largest(block)          number by number, NaN above all; of all rows
    larger(v, best, here, indices)         (best, indices) with v and `here` where v is larger, or the first NaN
    only_where(indices, here, v)           v where indices == here, else 0
    transpose(b)                           a block of as many rows as lanes, each the other
    repeat(v, rows)                        a block whose rows are all v, as many as `rows` has
    half(b)                                the upper half of a block's rows
    gather(table, first, count, rows)      table[first], table[first + 1], .. for each row; from count on the last entry
    strided(step, first, count, rows)      the same of a table of 0, step, 2 * step, ..
    load_rows(v, array, offsets, index)    the block whose row i is at array[offsets[i] + index:]
    load_inside(v, array, index, step,     row i is at array[index + i * step:], or 0 unless 0 <= first + i < count
                first, count, rows)
    add_inside(array, index, step,         array[index + i * step:] += row i of b, where 0 <= first + i < count
               first, count, b)
    store_inside(array, index, step,       array[index + i * step:] = row i of b, in the same places
                 first, count, b)
    store_rows(array, offsets, index, b)   the reverse of load_rows; store_rows_prefetching asks ahead too
    multiply_add(x, offsets, k, v, sums)   row i of sums += x[offsets[i] + k] * v
    fma_rows(b, v, sums)                   row i of sums += row i of b * v
    pair(v, w)                             v and w rounded to bfloat16, as one vector of PAIR: v in the lower halves

A vector may be longer than a register: the compiler spreads 32 floats over two registers of 16, or four of 8. One source
serves AVX-512, AVX2 and NEON; only `best_block` asks which it is. Rows and lanes are part of a block's *type*, so a kernel
is compiled once for each shape it is called with. Arrays are 1-D and contiguous, and nothing checks an index. `compiled`
makes another function of blocks from a formula in Python.

An array of PAIR holds bfloat16 numbers, two in each of its 32 bits. A bfloat16 is the upper half of a float32: all of its
range, 8 bits of its 24; what is smaller than a normal float32 becomes 0. Where an array is of PAIR, `store` rounds to it, so
that a vector takes half as many places, and `multiply_add` adds two products, of x's pair and v's, to each sum, which stays
in float32: twice the multiplications in the same time, where the processor has the instruction (`has_bfloat16`).

With NUMBA_DISABLE_JIT=1 the same names are plain Python on NumPy arrays, so that one can step through a kernel.
"""

from __future__ import annotations

import math
import operator
import platform
from functools import cache, reduce

import numpy as np
from llvmlite import binding, ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

AHEAD = 8192  # bytes
PAIR = np.dtype(np.uint32)


@cache
def Block(rows: int, lanes: int) -> np.dtype:
    """How many rows and lanes a block of sums has, as a value to hand to a kernel.

    It is a NumPy dtype of that shape, because Numba knows those as types, and at a glance: the same object each time.
    """
    return np.dtype((np.float32, (rows, lanes)))


@cache
def best_block(dtype) -> np.dtype:
    """The largest block that stays in the registers, together with the vector and the factor that it is made from."""
    rows, width = {"avx512": (8, 128), "neon": (6, 64)}.get(instruction_set(), (6, 64))
    return Block(rows, width // np.dtype(dtype).itemsize)


@cache  # asking takes a tenth of a millisecond
def instruction_set() -> str:
    """Whose vector registers these are: AVX-512 has 32 of 64 bytes, AVX2 16 of 32, NEON 32 of 16."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return "neon"
    forced = config.CPU_FEATURES  # Numba's own setting, where the user has one
    has = "+avx512f" in forced if forced else binding.get_host_cpu_features().get("avx512f", False)
    return "avx512" if has else "avx2"


@cache
def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 numbers (AVX512_BF16); with NUMBA_DISABLE_JIT=1 plain Python does.

    LLVM has the instruction in this form from version 17 on, and Numba from 0.62 on.
    """
    forced = config.CPU_FEATURES
    has = "+avx512bf16" in forced if forced else binding.get_host_cpu_features().get("avx512bf16", False)
    return bool(config.DISABLE_JIT or (has and binding.llvm_version_info[0] >= 17))


def wide_and_single(dtype) -> tuple[np.dtype, np.dtype]:
    """The longest row, for all of an array that whole vectors hold, and a row of one number, for the rest."""
    return Block(1, best_block(dtype).shape[1]), Block(1, 1)


@cache
def one_row(channels: int, dtype) -> np.dtype:
    """A row of as many lanes as divide the channels: a loop over them then has no rest."""
    return Block(1, math.gcd(channels, best_block(dtype).shape[1]))


class _VectorType(types.Type):
    def __init__(self, dtype, lanes):
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"{dtype}x{lanes}")


@register_model(_VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector):
        super().__init__(manager, vector, ir.VectorType(manager[vector.dtype].get_value_type(), vector.lanes))


def address_of(context, builder, array_type, array, index):
    """Of array[index], to LLVM."""
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def _load(context, builder, vector, address):
    value = builder.load(builder.bitcast(address, context.get_value_type(vector).as_pointer()))
    value.align = vector.dtype.bitwidth // 8  # an element's: the default is the whole vector's, and faults
    return value


def _store(context, builder, vector, address, value):
    if isinstance(vector.dtype, types.Float) and address.type.pointee == _NUMBER:  # an array of PAIR
        value = builder.bitcast(_rounded(builder, value), ir.VectorType(_NUMBER, vector.lanes // 2))
    builder.store(value, builder.bitcast(address, value.type.as_pointer())).align = vector.dtype.bitwidth // 8


def _splat(builder, llvm_type, scalar):
    undefined = ir.Constant(llvm_type, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), llvm_type.count), [0] * llvm_type.count)
    return builder.shuffle_vector(first, undefined, mask)


def _splatted(context, builder, vector, kind, number):
    """A vector, all of one number of another kind; or what is one already."""
    if kind == vector:
        return number
    return _splat(builder, context.get_value_type(vector), context.cast(builder, number, kind, vector.dtype))


def _fused(context, builder, vector, a, b, c):
    llvm_type = context.get_value_type(vector)
    kind = ir.FunctionType(llvm_type, [llvm_type] * 3)
    name = f"llvm.fma.v{vector.lanes}f{vector.dtype.bitwidth}"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [a, b, c])


class _BFloat(ir.types._BaseFloatType):
    """LLVM's type, which llvmlite does not have."""

    null, intrinsic_name = "0.0", "bf16"

    def __str__(self):
        return "bfloat"

    def format_constant(self, value):
        return str(value)


_BFloat._create_instance()
_NUMBER, _IN_REGISTER = ir.IntType(32), 16  # as many sums as a register has


def _rounded(builder, value):
    return builder.fptrunc(value, ir.VectorType(_BFloat(), value.type.count))


def _dot(builder, a, b, sums):
    """sums + a's lower halves * b's + a's upper halves * b's, register by register."""
    floats, numbers = (ir.VectorType(kind, _IN_REGISTER) for kind in (ir.FloatType(), _NUMBER))
    pairs = ir.VectorType(_BFloat(), 2 * _IN_REGISTER)
    kind = ir.FunctionType(floats, [floats, pairs, pairs])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512bf16.dpbf16ps.512")

    def part(v, first, kind):
        mask = ir.Constant(ir.VectorType(_NUMBER, _IN_REGISTER), list(range(first, first + _IN_REGISTER)))
        one = builder.shuffle_vector(v, ir.Constant(v.type, ir.Undefined), mask)
        return one if kind is floats else builder.bitcast(one, pairs)

    firsts = range(0, sums.type.count, _IN_REGISTER)
    made = [builder.call(function, (part(sums, i, floats), part(a, i, numbers), part(b, i, numbers))) for i in firsts]
    while len(made) > 1:
        mask = ir.Constant(ir.VectorType(_NUMBER, 2 * made[0].type.count), list(range(2 * made[0].type.count)))
        made = [builder.shuffle_vector(*two, mask) for two in zip(made[::2], made[1::2], strict=True)]
    return made[0]


def _each(builder, block, make):
    """A tuple whose row i is make(i)."""
    value = ir.Constant(block, ir.Undefined)
    for i in range(block.count):
        value = builder.insert_value(value, make(i), i)
    return value


@intrinsic
def _zeros(typing, array, block):
    count, lanes = block.dtype.shape
    rows = types.UniTuple(_VectorType(array.dtype, lanes), count)

    def codegen(context, builder, signature, args):
        return ir.Constant(context.get_value_type(rows), None)

    return rows(array, block), codegen


@intrinsic
def _fill(typing, like, number):
    return like(like, number), lambda context, builder, signature, args: _splatted(
        context, builder, like, number, args[1]
    )


def _ask(builder, address):
    byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte] + [number] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    # to read, into the nearest cache, data
    builder.call(function, [builder.bitcast(address, byte), number(0), number(3), number(1)])


def _ask_ahead(builder, vector, address):
    size = vector.dtype.bitwidth // 8
    for ahead in range(AHEAD, AHEAD + max(vector.lanes * size, 64), 64):
        _ask(builder, builder.gep(address, [ir.Constant(ir.IntType(64), ahead // size)]))


@intrinsic
def _prefetch(typing, array, index):
    def codegen(context, builder, signature, args):
        _ask(builder, address_of(context, builder, array, args[0], args[1]))
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


def _loading(prefetching):
    @intrinsic
    def load(typing, like, array, index):
        vector = _VectorType(array.dtype, like.lanes)

        def codegen(context, builder, signature, args):
            address = address_of(context, builder, array, args[1], args[2])
            if prefetching:
                _ask_ahead(builder, vector, address)
            return _load(context, builder, vector, address)

        return vector(like, array, types.intp), codegen

    return load


def _storing(prefetching):
    @intrinsic
    def store(typing, array, index, vector):
        def codegen(context, builder, signature, args):
            address = address_of(context, builder, array, args[0], args[1])
            if prefetching:
                _ask_ahead(builder, vector, address)
            _store(context, builder, vector, address, args[2])
            return context.get_dummy_value()

        return types.void(array, types.intp, vector), codegen

    return store


def _storing_rows(prefetching):
    @intrinsic
    def store_rows(typing, array, offsets, index, block):
        def codegen(context, builder, signature, args):
            for i in range(block.count):
                at = builder.add(builder.extract_value(args[1], i), args[2])
                address = address_of(context, builder, array, args[0], at)
                if prefetching:
                    _ask_ahead(builder, block.dtype, address)
                _store(context, builder, block.dtype, address, builder.extract_value(args[3], i))
            return context.get_dummy_value()

        return types.void(array, offsets, types.intp, block), codegen

    return store_rows


_load_vector, _load_prefetching = _loading(False), _loading(True)
_store_vector, _store_prefetching = _storing(False), _storing(True)
_store_rows, _store_rows_prefetching = _storing_rows(False), _storing_rows(True)


@intrinsic
def _fma(typing, scalar, vector, sums):
    def codegen(context, builder, signature, args):
        return _fused(context, builder, sums, _splatted(context, builder, sums, scalar, args[0]), args[1], args[2])

    return sums(scalar, sums, sums), codegen


@intrinsic
def _plus(typing, a, b):
    return a(a, b), lambda context, builder, signature, args: builder.fadd(*args)


@intrinsic
def _minus(typing, a, b):
    return a(a, b), lambda context, builder, signature, args: builder.fsub(*args)


@intrinsic
def _times(typing, factor, vector):
    def codegen(context, builder, signature, args):
        return builder.fmul(_splatted(context, builder, vector, factor, args[0]), args[1])

    return vector(factor, vector), codegen


@intrinsic
def _over(typing, a, b):
    return a(a, b), lambda context, builder, signature, args: builder.fdiv(*args)


def _of_llvm(name, vector):
    """The function of that name that LLVM has for a vector: its type, and how it is called."""

    def codegen(context, builder, signature, args):
        llvm_type = context.get_value_type(vector)
        kind, full = ir.FunctionType(llvm_type, [llvm_type]), f"llvm.{name}.v{vector.lanes}f{vector.dtype.bitwidth}"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, full), args)

    return vector(vector), codegen


@intrinsic
def _sqrt(typing, vector):
    return _of_llvm("sqrt", vector)


@intrinsic
def _rint(typing, vector):
    return _of_llvm("rint", vector)


@overload(operator.add)
def _overload_add(a, b):
    if isinstance(a, _VectorType):
        return lambda a, b: _plus(a, b)


@overload(operator.sub)
def _overload_sub(a, b):
    if isinstance(a, _VectorType):
        return lambda a, b: _minus(a, b)


@overload(operator.mul)
def _overload_mul(a, b):
    if isinstance(b, _VectorType):
        return lambda a, b: _times(a, b)


@overload(operator.truediv)
def _overload_truediv(a, b):
    if isinstance(a, _VectorType):
        return lambda a, b: _over(a, b)


@overload(len)
def _overload_len(vector):
    if isinstance(vector, _VectorType):
        count = vector.lanes
        return lambda vector: count


@intrinsic
def _maximum0(typing, block):
    vector = block.dtype if isinstance(block, types.UniTuple) else block

    def codegen(context, builder, signature, args):
        zero = ir.Constant(context.get_value_type(vector), None)

        def positive(value):
            return builder.select(builder.fcmp_ordered("<", value, zero), zero, value)

        if block is vector:
            return positive(args[0])
        rows = context.get_value_type(block)
        return _each(builder, rows, lambda i: positive(builder.extract_value(args[0], i)))

    return block(block), codegen


def _larger_of(builder, v, w):
    wins = builder.and_(builder.fcmp_unordered(">", v, w), builder.fcmp_ordered("==", w, w))
    return builder.select(wins, v, w)


@intrinsic
def _maximum(typing, a, b):
    return a(a, b), lambda context, builder, signature, args: _larger_of(builder, *args)


@intrinsic
def _largest(typing, block):
    def codegen(context, builder, signature, args):
        rows = [builder.extract_value(args[0], i) for i in range(block.count)]
        while len(rows) > 1:  # in pairs, which wait for each other less than a chain
            v, w, *rest = rows
            rows = [*rest, _larger_of(builder, v, w)]
        return rows[0]

    return block.dtype(block), codegen


@intrinsic
def _gate(typing, block, by):
    vector = block.dtype if isinstance(block, types.UniTuple) else block

    def codegen(context, builder, signature, args):
        zero = ir.Constant(context.get_value_type(vector), None)

        def row(v, w):
            return builder.select(builder.fcmp_ordered("<=", w, zero), builder.fmul(v, zero), v)

        if vector is block:
            return row(*args)
        of = builder.extract_value
        return _each(builder, context.get_value_type(block), lambda i: row(*(of(rows, i) for rows in args)))

    return block(block, by), codegen


@intrinsic
def _larger(typing, vector, best, here, indices):
    both = types.Tuple((best, indices))

    def codegen(context, builder, signature, args):
        v, b, index, old = args
        wins = builder.fcmp_unordered(">", v, b)
        wins = builder.and_(wins, builder.fcmp_ordered("==", b, b))
        new = _splatted(context, builder, indices, here, index)
        return context.make_tuple(builder, both, (builder.select(wins, v, b), builder.select(wins, new, old)))

    return both(vector, best, here, indices), codegen


@intrinsic
def _only_where(typing, indices, here, vector):
    def codegen(context, builder, signature, args):
        same = builder.icmp_unsigned("==", args[0], _splatted(context, builder, indices, here, args[1]))
        return builder.select(same, args[2], ir.Constant(context.get_value_type(vector), None))

    return vector(indices, here, vector), codegen


@intrinsic
def _clamp(typing, vector, low, high):
    def codegen(context, builder, signature, args):
        v = args[0]
        for beyond, end, kind in ("<", args[1], low), (">", args[2], high):
            end = _splatted(context, builder, vector, kind, end)
            v = builder.select(builder.fcmp_ordered(beyond, v, end), end, v)
        return v

    return vector(vector, low, high), codegen


# Of a float's bits those on the right are its fraction, and those left of them its exponent, to which a bias is added.
BIAS = {32: 127, 64: 1023}
FRACTION = {32: 23, 64: 52}


@intrinsic
def _power_of_two(typing, vector):
    bits, (fraction, bias) = vector.dtype.bitwidth, (table[vector.dtype.bitwidth] for table in (FRACTION, BIAS))

    def codegen(context, builder, signature, args):
        def constant(kind, number):
            return ir.Constant(kind, [number] * vector.lanes)

        v, whole = args[0], ir.VectorType(ir.IntType(bits), vector.lanes)
        for beyond, end in (">", bias - 1.0), ("<", 1.0 - bias):
            end = constant(v.type, end)
            v = builder.select(builder.fcmp_unordered(beyond, v, end), end, v)
        # A number this large has no bits for less than 1: the last ones are those of the whole number v + bias.
        v = builder.fadd(v, constant(v.type, 1.5 * 2**fraction + bias))
        return builder.bitcast(builder.shl(builder.bitcast(v, whole), constant(whole, fraction)), args[0].type)

    return vector(vector), codegen


def _exp_coefficients(bits):
    """1/k! for k from the last that still counts in a float of so many bits, down to 2."""
    return [1 / math.factorial(k) for k in range({32: 7, 64: 13}[bits], 1, -1)]


@intrinsic
def _exp_series(typing, vector):
    def codegen(context, builder, signature, args):
        kind = context.get_value_type(vector)
        series, *rest = (ir.Constant(kind, [c] * vector.lanes) for c in _exp_coefficients(vector.dtype.bitwidth))
        for coefficient in rest:
            series = _fused(context, builder, vector, args[0], series, coefficient)
        return series

    return vector(vector), codegen


@intrinsic
def _repeat(typing, vector, rows):
    block = types.UniTuple(vector, rows.count)

    def codegen(context, builder, signature, args):
        return _each(builder, context.get_value_type(block), lambda i: args[0])

    return block(vector, rows), codegen


@intrinsic
def _half(typing, block):
    rows = types.UniTuple(block.dtype, block.count // 2)

    def codegen(context, builder, signature, args):
        return _each(builder, context.get_value_type(rows), lambda i: builder.extract_value(args[0], i))

    return rows(block), codegen


@intrinsic
def _transpose(typing, block):
    n = block.count

    def codegen(context, builder, signature, args):
        rows = [builder.extract_value(args[0], i) for i in range(n)]
        for s in (2**k for k in range(n.bit_length() - 1)):  # rows and lanes exchange bit k of their numbers
            low = [n + j - s if j & s else j for j in range(n)]
            high = [n + j if j & s else j + s for j in range(n)]
            low, high = (ir.Constant(ir.VectorType(ir.IntType(32), n), mask) for mask in (low, high))
            for i in (i for i in range(n) if not i & s):
                a, b = rows[i], rows[i + s]
                rows[i], rows[i + s] = builder.shuffle_vector(a, b, low), builder.shuffle_vector(a, b, high)
        return _each(builder, context.get_value_type(block), lambda i: rows[i])

    return block(block), codegen


def _clipped(kind, rows, make):
    """An intrinsic's signature and code: make(of, index) for the indices first, first + 1, .., at most count - 1."""
    offsets = types.UniTuple(types.intp, rows.count)

    def codegen(context, builder, signature, args):
        of, first, count, _ = args
        last = builder.sub(count, ir.Constant(count.type, 1))

        def offset(i):
            index = builder.add(first, ir.Constant(first.type, i))
            return make(context, builder, of, builder.select(builder.icmp_signed("<", index, last), index, last))

        return _each(builder, context.get_value_type(offsets), offset)

    return offsets(kind, types.intp, types.intp, rows), codegen


@intrinsic
def _gather(typing, table, first, count, rows):
    def entry(context, builder, numbers, index):
        return builder.load(address_of(context, builder, table, numbers, index))

    return _clipped(table, rows, entry)


@intrinsic
def _strided(typing, step, first, count, rows):
    return _clipped(types.intp, rows, lambda context, builder, step, index: builder.mul(step, index))


@intrinsic
def _load_rows(typing, like, array, offsets, index):
    block = types.UniTuple(like, offsets.count)

    def codegen(context, builder, signature, args):
        def row(i):
            index = builder.add(builder.extract_value(args[2], i), args[3])
            return _load(context, builder, like, address_of(context, builder, array, args[1], index))

        return _each(builder, context.get_value_type(block), row)

    return block(like, array, offsets, types.intp), codegen


def _inside_or(builder, elsewhere, address, first, i, count):
    """The address, or one where nothing is at stake, unless 0 <= first + i < count: so there is no branch."""
    inside = builder.icmp_unsigned("<", builder.add(first, i), count)  # a negative number is a huge one
    return builder.select(inside, builder.bitcast(address, elsewhere.type), elsewhere)


@intrinsic
def _load_inside(typing, like, array, at, step, first, count, rows):
    block = types.UniTuple(like, rows.count)

    def codegen(context, builder, signature, args):
        _, _, index, step, first, count, _ = args
        kind = context.get_value_type(like)
        nothing = cgutils.global_constant(builder, "nothing", ir.Constant(kind, None))

        def row(i):
            number = ir.Constant(index.type, i)
            address = address_of(context, builder, array, args[1], builder.add(index, builder.mul(step, number)))
            return _load(context, builder, like, _inside_or(builder, nothing, address, first, number, count))

        return _each(builder, context.get_value_type(block), row)

    return block(like, array, *[types.intp] * 4, rows), codegen


def _writing_inside(adding):
    @intrinsic
    def write_inside(typing, array, at, step, first, count, block):
        vector = block.dtype

        def codegen(context, builder, signature, args):
            _, index, step, first, count, _ = args
            nowhere = cgutils.alloca_once(builder, context.get_value_type(vector))
            for i in range(block.count):
                number, row = ir.Constant(index.type, i), builder.extract_value(args[5], i)
                address = address_of(context, builder, array, args[0], builder.add(index, builder.mul(step, number)))
                address = _inside_or(builder, nowhere, address, first, number, count)
                if adding:
                    row = builder.fadd(_load(context, builder, vector, address), row)
                _store(context, builder, vector, address, row)
            return context.get_dummy_value()

        return types.void(array, *[types.intp] * 4, block), codegen

    return write_inside


_add_inside, _store_inside = _writing_inside(True), _writing_inside(False)


@intrinsic
def _multiply_add(typing, x, offsets, k, vector, sums):
    def codegen(context, builder, signature, args):
        llvm_vector = context.get_value_type(vector)

        def row(i):
            index = builder.add(builder.extract_value(args[1], i), args[2])
            factor = _splat(builder, llvm_vector, builder.load(address_of(context, builder, x, args[0], index)))
            total = builder.extract_value(args[4], i)
            if x.dtype == types.uint32:
                return _dot(builder, factor, args[3], total)
            return _fused(context, builder, vector, factor, args[3], total)

        return _each(builder, context.get_value_type(sums), row)

    return sums(x, offsets, types.intp, vector, sums), codegen


@intrinsic
def _fma_rows(typing, block, vector, sums):
    def codegen(context, builder, signature, args):
        def row(i):
            a, c = builder.extract_value(args[0], i), builder.extract_value(args[2], i)
            return _fused(context, builder, vector, a, args[1], c)

        return _each(builder, context.get_value_type(sums), row)

    return sums(block, vector, sums), codegen


@intrinsic
def _pair(typing, v, w):
    vector = _VectorType(types.uint32, v.lanes)

    def codegen(context, builder, signature, args):
        whole = ir.VectorType(_NUMBER, v.lanes)
        low, high = (
            builder.zext(builder.bitcast(_rounded(builder, one), ir.VectorType(ir.IntType(16), v.lanes)), whole)
            for one in args
        )
        return builder.or_(low, builder.shl(high, ir.Constant(whole, [16] * v.lanes)))

    return vector(v, w), codegen


def compiled(formula):
    """A function of (points, block) from formula(len(points), rows, plus, minus, multiply_add), which returns rows.

    The formula runs once, as a kernel is compiled, on rows that it can only hand to the three operations, and what it did
    is the code. multiply_add(number, row, sum) has no sum to begin with: None.
    """

    @intrinsic
    def made(typing, points, block):
        def run(rows, plus, minus, multiply_add):
            return formula(points.count, rows, plus, minus, multiply_add)

        vector, count = block.dtype, len(run([0] * block.count, *[lambda *rows: 0] * 3))
        made = types.UniTuple(vector, count)

        def codegen(context, builder, signature, args):
            def multiply_add(number, row, total):
                factor = ir.Constant(row.type, [number] * vector.lanes)
                if total is None:
                    return builder.fmul(factor, row)
                return _fused(context, builder, vector, factor, row, total)

            rows = [builder.extract_value(args[1], i) for i in range(block.count)]
            rows = run(rows, builder.fadd, builder.fsub, multiply_add)
            return _each(builder, context.get_value_type(made), lambda i: rows[i])

        return made(points, block), codegen

    return made


if config.DISABLE_JIT:

    def zeros(array, block):
        return tuple(np.zeros(block.shape, array.dtype))

    def fill(like, number):
        return np.full_like(like, number)

    def load(like, array, index):
        return array[index : index + len(like)].copy()

    def store(array, index, vector):
        if array.dtype == PAIR and vector.dtype != PAIR:
            vector = pair(vector[::2], vector[1::2])
        array[index : index + len(vector)] = vector

    def pair(v, w):
        halves = []
        for one in (v, w):
            one = np.where(np.abs(one) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), one), one)
            bits = one.astype(np.float32).view(np.uint32)
            rounded = (bits + np.uint32(0x7FFF) + (bits >> 16 & np.uint32(1))) >> 16  # to the nearest, or the even one
            halves.append(np.where(np.isnan(one), bits >> 16 | np.uint32(0x40), rounded))
        return halves[0] | halves[1] << 16

    def unpaired(pairs):
        return (pairs << 16).view(np.float32), (pairs & np.uint32(0xFFFF0000)).view(np.float32)

    def prefetch(array, index):
        pass

    load_prefetching, store_prefetching = load, store

    def fma(scalar, vector, sums):
        return scalar * vector + sums

    sqrt, rint = np.sqrt, np.rint

    def clamp(vector, low, high):
        return np.clip(vector, vector.dtype.type(low), vector.dtype.type(high))

    def power_of_two(vector):
        end = BIAS[8 * vector.itemsize] - 1
        return np.exp2(np.where(vector <= end, np.maximum(vector, -end), end).astype(vector.dtype))

    def exp_series(vector):
        first, *rest = _exp_coefficients(8 * vector.itemsize)
        series = fill(vector, first)
        for coefficient in rest:
            series = fma(vector, series, fill(vector, coefficient))
        return series

    def maximum0(block):
        return (
            tuple(map(maximum0, block)) if isinstance(block, tuple) else np.where(block < 0, block.dtype.type(0), block)
        )

    def maximum(a, b):
        return np.where(~(a <= b) & (b == b), a, b)

    def largest(block):
        return reduce(maximum, block)

    def gate(vector, by):
        if isinstance(vector, tuple):
            return tuple(map(gate, vector, by))
        return np.where(by <= 0, vector * 0, vector)

    def larger(vector, best, here, indices):
        wins = ~(vector <= best) & (best == best)
        return np.where(wins, vector, best), np.where(wins, here, indices).astype(indices.dtype)

    def only_where(indices, here, vector):
        return np.where(indices == here, vector, vector.dtype.type(0))

    def transpose(block):
        return tuple(np.array(block).T.copy())

    def repeat(vector, rows):
        return (vector,) * len(rows)

    def half(block):
        return block[: len(block) // 2]

    def gather(table, first, count, rows):
        return tuple(table[min(first + i, count - 1)] for i in range(len(rows)))

    def strided(step, first, count, rows):
        return tuple(step * min(first + i, count - 1) for i in range(len(rows)))

    def load_rows(like, array, offsets, index):
        return tuple(load(like, array, offset + index) for offset in offsets)

    def load_inside(like, array, at, step, first, count, rows):
        inside = [0 <= first + i < count for i in range(len(rows))]
        return tuple(load(like, array, at + i * step) if here else like * 0 for i, here in enumerate(inside))

    def store_rows(array, offsets, index, block):
        for offset, vector in zip(offsets, block, strict=True):
            store(array, offset + index, vector)

    def add_inside(array, at, step, first, count, block):
        for i, row in enumerate(block):
            if 0 <= first + i < count:
                array[at + i * step : at + i * step + len(row)] += row

    def store_inside(array, at, step, first, count, block):
        for i, row in enumerate(block):
            if 0 <= first + i < count:
                store(array, at + i * step, row)

    store_rows_prefetching = store_rows

    def multiply_add(x, offsets, k, vector, sums):
        if x.dtype == PAIR:
            low, high = unpaired(vector)
            factors = [unpaired(x[offset + k : offset + k + 1]) for offset in offsets]
            return tuple(a * low + (b * high + row) for (a, b), row in zip(factors, sums, strict=True))
        return tuple(x[offset + k] * vector + row for offset, row in zip(offsets, sums, strict=True))

    def fma_rows(block, vector, sums):
        return tuple(a * vector + row for a, row in zip(block, sums, strict=True))

    def compiled(formula):
        def multiply_add(number, row, total):
            return number * row if total is None else number * row + total

        return lambda points, block: formula(len(points), block, operator.add, operator.sub, multiply_add)
else:
    zeros, fill, load, store, fma, maximum0, gate = _zeros, _fill, _load_vector, _store_vector, _fma, _maximum0, _gate
    larger, only_where, prefetch, repeat, half, gather = _larger, _only_where, _prefetch, _repeat, _half, _gather
    load_prefetching, store_prefetching = _load_prefetching, _store_prefetching
    store_rows_prefetching, strided, sqrt, transpose = _store_rows_prefetching, _strided, _sqrt, _transpose
    load_rows, store_rows, multiply_add, fma_rows = _load_rows, _store_rows, _multiply_add, _fma_rows
    maximum, largest, load_inside, add_inside, pair = _maximum, _largest, _load_inside, _add_inside, _pair
    store_inside = _store_inside
    clamp, rint, power_of_two, exp_series = _clamp, _rint, _power_of_two, _exp_series
