"""How many threads there are, and how work is dealt out to them: by parts whose number does not depend on them."""

from __future__ import annotations

from numba import config

from minicnn.engine.compiling import helper

PARTS = 64
MAX_THREADS = _threads = config.NUMBA_NUM_THREADS


def set_threads(n: int) -> None:
    """Use n threads for every kernel from here on (at most the number Numba started with: the cores)."""
    global _threads
    if not isinstance(n, int) or not 1 <= n <= config.NUMBA_NUM_THREADS:
        raise ValueError(f"threads: got {n!r}, expected 1 to {config.NUMBA_NUM_THREADS}")
    _threads = n


def get_threads() -> int:
    """How many threads the kernels use."""
    return _threads


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
