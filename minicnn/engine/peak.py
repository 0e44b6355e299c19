"""What this machine's cores can do at most, measured: the yardstick for every other kernel.

Multiply-adds on vectors that never leave the registers: nothing is read and nothing is waited for.
"""

from __future__ import annotations

import time

import numpy as np
from numba import config

from minicnn.engine.calls import parallel
from minicnn.engine.lanes import Block, best_block, instruction_set, load_rows, multiply_add, store_rows, strided, zeros
from minicnn.engine.threads import chunk, get_threads

SUMS = {"avx2": 10}.get(instruction_set(), 14)  # that AVX2's 16 registers hold beside what they are made from
ROUNDS = 1_000 if config.DISABLE_JIT else 1_000_000  # more than a millisecond's: to wake a thread takes a part of that


@parallel
def _multiply_add(part, block, numbers, threads):
    for thread in chunk(part, threads):
        like = zeros(numbers, block)
        offsets = strided(1, 0, SUMS, like)
        sums = load_rows(like[0], numbers, offsets, 0)
        v = sums[0]
        for _ in range(ROUNDS):
            sums = multiply_add(numbers, offsets, 0, v, sums)
        store_rows(numbers, offsets, (thread + 1) * 64, sums)


def peak(dtype=np.float32, seconds: float = 0.1) -> float:
    """The best rate of multiply-adds on all threads, in floating-point operations a second (a multiply-add is two).

    The best of many, for a machine that has other work to do is slower than it can be and never faster.
    """
    threads, lanes = get_threads(), best_block(dtype).shape[1] // 2  # one register a row
    block, numbers = Block(SUMS, lanes), np.zeros(64 * (threads + 1), dtype)
    _multiply_add(SUMS * ROUNDS * threads * 16, block, numbers, threads)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        _multiply_add(SUMS * ROUNDS * threads * 16, block, numbers, threads)
        times.append(time.perf_counter() - start)
    return 2 * lanes * SUMS * ROUNDS * threads / min(times)
