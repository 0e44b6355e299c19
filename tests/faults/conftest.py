"""What the tests of faults share: one nursery, and the recipes whose kernels it has loaded."""

from __future__ import annotations

import pytest
from children import Nursery

import minicnn


@pytest.fixture(scope="session")
def nursery(tmp_path_factory):
    """Children of it find the default recipe's kernels in memory."""
    made = Nursery()
    made.ask(arguments=["--out", str(tmp_path_factory.mktemp("warm")), "--epochs", "1"])
    yield made
    made.close()


@pytest.fixture
def numpy_backend():
    minicnn.use_backend("numpy")
    yield
    minicnn.use_backend("numba")
