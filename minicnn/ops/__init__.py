"""Which arithmetic runs: `ops.conv2d` is the Numba kernel or the NumPy reference, and no layer knows which.

ops.use_backend("numba")    minicnn/ops/kernels: compiled, threaded, fast (the default)
ops.use_backend("numpy")    minicnn/ops/reference.py: the same functions, to read and to step through
"""

from __future__ import annotations

from minicnn.ops import reference
from minicnn.ops.kernels.threads import get_threads, set_threads

OPERATIONS = tuple(
    name
    for name, value in vars(reference).items()
    if callable(value)
    and value.__module__ == reference.__name__
    and not name.startswith("_")
    and name not in ("windows", "add_windows")
)


def use_backend(name: str) -> None:
    """Let every operation run on "numba" or on "numpy" from here on, in the whole process."""
    if name == "numba":
        from minicnn.ops import kernels as module
    elif name == "numpy":
        module = reference
    else:
        raise ValueError(f'backend: got {name!r}, expected "numba" or "numpy"')
    globals().update({operation: getattr(module, operation) for operation in OPERATIONS})
    globals()["_backend"] = name


def backend() -> str:
    """The name of the arithmetic in use: "numba" or "numpy"."""
    return _backend


_backend = ""
use_backend("numba")

__all__ = ["backend", "get_threads", "set_threads", "use_backend", *OPERATIONS]
