"""What this machine's cores can do at most, measured: the yardstick for every other kernel.

Multiply-adds on vectors that never leave the registers: nothing is read and nothing is waited for.
"""

from __future__ import annotations

import time

import numpy as np
from numba import prange

from minicnn.ops.kernels.lanes import Width, fma, load, store, wide, zeros
from minicnn.ops.kernels.threads import get_threads, parallel

ROUNDS, SUMS = 20_000, 14


@parallel
def _multiply_add(width, numbers, threads):
    for thread in prange(threads):
        v = load(zeros(numbers, width), numbers, 0)
        a0, a1, a2, a3, a4, a5, a6 = v, v, v, v, v, v, v
        b0, b1, b2, b3, b4, b5, b6 = v, v, v, v, v, v, v
        for _ in range(ROUNDS):
            a0, a1, a2, a3 = fma(v, v, a0), fma(v, v, a1), fma(v, v, a2), fma(v, v, a3)
            a4, a5, a6 = fma(v, v, a4), fma(v, v, a5), fma(v, v, a6)
            b0, b1, b2, b3 = fma(v, v, b0), fma(v, v, b1), fma(v, v, b2), fma(v, v, b3)
            b4, b5, b6 = fma(v, v, b4), fma(v, v, b5), fma(v, v, b6)
        for a in (a0, a1, a2, a3, a4, a5, a6, b0, b1, b2, b3, b4, b5, b6):
            store(numbers, (thread + 1) * 64, fma(a, v, load(v, numbers, (thread + 1) * 64)))


def peak(dtype=np.float32, seconds: float = 0.2) -> float:
    """The median rate of multiply-adds on all threads, in floating-point operations a second (a multiply-add is two)."""
    threads, width = get_threads(), wide(dtype) // 2
    numbers = np.zeros(64 * (threads + 1), dtype)
    _multiply_add(Width(width), numbers, threads)
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        _multiply_add(Width(width), numbers, threads)
        times.append(time.perf_counter() - start)
    return 2 * width * SUMS * ROUNDS * threads / float(np.median(times))
