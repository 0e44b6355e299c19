"""A museum of real bugs: mistakes that were made in public, in courses, textbooks and libraries, and that still trained.

A network learns in spite of its bugs. That is what makes them hard to find: no error, no NaN, an accuracy that looks
fine to one who does not know the right one. Each exhibit is one file, read in two minutes:

    its docstring     what was wrong, where it was found, why nobody noticed, what it costs, how it is caught
    WRONG, RIGHT      the mistake in our own few lines, and the library's code that does it right
    weak_test         a test such as courses and projects have; it passes, with WRONG as with RIGHT
    strong_test       a test that fails with WRONG; wherever it can, that is minicnn.gradcheck

All of them are told with respect: they were made by people who published their work, and found by people who read it.
The sources are named so that one can look them up; no code is theirs.

    python -m minicnn.learn.museum                 a tour, one line for each exhibit
    python -m minicnn.learn.museum pool_assigns    one exhibit

The accuracies are measured by benchmarks/museum.py, which writes accuracy.json: the bundled sample of Fashion-MNIST, a
small network, with and without the bug, all else being equal.
"""

from __future__ import annotations

import importlib
import json
import statistics
from importlib import resources
from types import ModuleType

CATALOGUE = (
    "pool_assigns",
    "pool_returns_early",
    "pool_ties",
    "stride_forgotten",
    "stride_does_not_divide",
    "dilation_twice",
    "flatten_disconnected",
    "bias_mean",
    "batchnorm_axis",
    "dropout_in_use",
    "softmax_twice",
    "adam_power",
    "adam_reset",
    "plateau_name",
    "validation_trains",
    "flip_axis",
    "own_statistics",
)


def exhibit(name: str) -> ModuleType:
    """The exhibit of that name, a module."""
    if name not in CATALOGUE:
        raise ValueError(f"museum: no exhibit {name!r}, expected one of {', '.join(CATALOGUE)}")
    return importlib.import_module(f"minicnn.learn.museum.{name}")


def accuracies() -> dict[str, dict]:
    """What benchmarks/museum.py measured: for each exhibit the accuracies "with" and "without" the bug, one for each seed.

    "with" is the error's name where training ended with one.
    """
    return json.loads(resources.files(__name__).joinpath("accuracy.json").read_text(encoding="utf-8"))["exhibits"]


def title(name: str) -> str:
    """What is wrong, in a few words: the docstring's first line."""
    return (exhibit(name).__doc__ or name).splitlines()[0].rstrip(".")


def told(result: list[float] | str) -> str:
    """Accuracies as their mean in percent; an error by its name."""
    return result if isinstance(result, str) else f"{statistics.mean(result):.1%}"
