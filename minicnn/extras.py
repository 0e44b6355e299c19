"""Packages that only some uses need: imported when they are used, and named when they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType

DISTRIBUTION = "minicnn-numba"  # what pip calls minicnn


def need(module: str, extra: str) -> ModuleType:
    """The module; where it is not installed, an ImportError that says which extra brings it."""
    package = module.split(".")[0]
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:  # it is there, and misses something else
            raise
        raise ImportError(f'{package} is not installed: pip install "{DISTRIBUTION}[{extra}]"') from None
    return importlib.import_module(module)
