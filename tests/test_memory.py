"""Arrays in memory that suits the processor are arrays like others."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys

import numpy as np
import pytest

from minicnn import memory


@pytest.mark.parametrize("size", [0, 1, 2**20 - 1, 2**20, 2**21 + 1, 3 * 2**20, 2**24 + 2**20 + 7])
@pytest.mark.parametrize("there", ["huge pages", "none in the kernel", "no room for more"])
def test_memory_is_whole_and_begins_at_a_line_whether_there_are_huge_pages_or_not(size, there, monkeypatch):
    class Pages(mmap.mmap):
        def madvise(self, *given):
            if there == "none in the kernel":
                raise OSError(22, "Invalid argument")

    def no_room(*given, **options):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", no_room if there == "no room for more" else Pages)
    assert not memory.zeros((size,), np.uint8).any()
    arrays = [memory.empty((size,), np.uint8) for _ in range(3)]
    for number, array in enumerate(arrays):
        array[:] = number
        assert array.shape == (size,) and (array.ctypes.data % memory.LINE == 0 or size == 0)
        if there == "huge pages" and hasattr(mmap, "MADV_HUGEPAGE") and size >= memory.HUGE_PAGE // 2:
            assert array.ctypes.data % memory.HUGE_PAGE == 0
    assert [set(array.tolist()) for array in arrays] == [{number} if size else set() for number in range(3)]


FORK = """
import os
import numpy as np
from minicnn import memory

array = memory.zeros((2**20,), np.float32)
array[:] = 1
if not os.fork():
    array[:] = 2
    os._exit(0)
os.wait()
assert (array == 1).all()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_what_a_fork_writes_to_its_memory_is_its_own():
    subprocess.run([sys.executable, "-c", FORK], check=True)
