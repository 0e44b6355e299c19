"""The oldest versions that minicnn was tried with: an older one is refused when minicnn is imported.

Before 0.61 Numba's dispatcher confuses long signatures, and so runs one kernel in another's place (its _typeof.cpp).
"""

import re
import sys
from importlib import metadata

OLDEST = {"Python": "3.10", "numpy": "1.24", "numba": "0.61"}


def installed(name: str) -> bool:
    """Whether there is this package; ImportError for one that is too old."""
    try:
        version = sys.version.split()[0] if name == "Python" else metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    found, oldest = ([int(n) for n in re.findall(r"\d+", text)[:2]] for text in (version, OLDEST[name]))
    if found < oldest:
        raise ImportError(f"{name}: got version {version}, minicnn needs {OLDEST[name]} or later")
    return True


for package in OLDEST:
    installed(package)
