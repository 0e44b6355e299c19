"""From a solution to a verdict: it is run on every case, and what it gives is compared with what the library gives."""

from __future__ import annotations

import copy
import errno
import traceback
from typing import NamedTuple

import numpy as np

from minicnn.learn.diagnosis import diagnose, same, wrong
from minicnn.learn.exercises import Exercise
from minicnn.learn.sources import Solution, solution, withheld


class Attempt(NamedTuple):
    """What a solution did in one case: its results, those that are no numbers, inputs it changed, an error."""

    results: dict[str, np.ndarray]
    strange: dict[str, str]
    changed: list[str]
    error: str


class Verdict(NamedTuple):
    """Whether a solution is right, and what is to be said of it."""

    passed: bool
    message: str


def attempt(exercise: Exercise, student: Solution, path: str = "") -> list[Attempt]:
    """Run a student's solution on every case, up to the first error; `path` is its file, to name the line."""
    attempts = []
    with withheld(exercise):
        for case in exercise.inputs():
            try:
                attempts.append(_run(exercise, student, case))
            except (Exception, SystemExit) as error:
                inputs = "" if isinstance(error, NotImplementedError) else f"\n    inputs: {_told(case)}"
                attempts.append(Attempt({}, {}, [], in_one_line(error, path) + inputs))
            if attempts[-1].error:
                break
    return attempts


def _run(exercise: Exercise, student: Solution, case: dict) -> Attempt:
    given = copy.deepcopy(case)
    with np.errstate(all="ignore"):
        found = exercise.run(student, **given)
    results, strange = {}, {}
    for name, value in found.items():
        array = np.array(value) if isinstance(value, np.ndarray | np.generic | float | int) else None
        if array is None or array.dtype.kind not in "biuf":
            strange[name] = type(value).__name__ if array is None else f"an array of {array.dtype}"
        else:
            results[name] = array
    changed = [k for k, v in case.items() if isinstance(v, np.ndarray) and not np.array_equal(v, given[k])]
    return Attempt(results, strange, changed, "")


def in_one_line(error: BaseException, path: str = "") -> str:
    """The error, and where in the student's file it came from."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {type(error).__name__}: {error.msg}"
    if isinstance(error, NotImplementedError):
        return str(error) or "not written yet"
    text = " ".join(str(error).split())[:300]
    text = text if type(error) is ValueError else f"{type(error).__name__}: {text}".removesuffix(": ")
    if isinstance(error, MemoryError):
        text = "it asks for more memory than there is"
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        text = "it prints or writes too much"
    if isinstance(error, SystemExit):
        text = f"it ends the whole program: sys.exit({error.code!r})"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if path and frame.filename == path]
    return f"line {lines[-1]}: {text}" if lines else text


def judge(exercise: Exercise, attempts: list[Attempt]) -> Verdict:
    """Compare with what the library gives, up to the first difference."""
    own = solution(exercise)
    for case, tried in zip(exercise.inputs(), attempts, strict=False):
        if tried.error:
            return Verdict(False, tried.error)
        if message := _difference(exercise, case, tried, exercise.run(own, **copy.deepcopy(case))):
            return Verdict(False, f"{message}\n    inputs: {_told(case)}")
    return Verdict(True, "right")


def _difference(exercise: Exercise, case: dict, tried: Attempt, expected: dict) -> str:
    """What is wrong in this case, or ""."""
    for name, value in expected.items():
        if name in tried.strange:
            hint = "\n    hint: is there a return at its end?" if tried.strange[name] == "NoneType" else ""
            return f"{name}: got {tried.strange[name]}, expected an array of shape {np.shape(value)}{hint}"
        if name not in tried.results:
            return f"{name} is missing in the answer"
        got, value = tried.results[name], np.asarray(value)
        if not same(got, value):
            hint = diagnose(exercise, case, name, got, value)
            return _first_difference(exercise, name, got, value) + (f"\n    hint: {hint}" if hint else "")
    for name, value in expected.items():
        kind, dtype = tried.results[name].dtype, np.asarray(value).dtype
        if kind != dtype and np.ndim(value):
            return (
                f"{name}: got {kind}, expected {dtype}\n    hint: the inputs are {dtype}, and so is the answer:"
                " np.zeros and np.where(..., 0.0, 1.0) need to be told, .astype(x.dtype)"
            )
    if tried.changed:
        return (
            f"{tried.changed[0]} was changed in place\n    hint: an input belongs to others: compute in a new array;"
            f" beware of +=, *=, {tried.changed[0]}[...] = ..."
        )
    return ""


def _first_difference(exercise: Exercise, name: str, got: np.ndarray, expected: np.ndarray) -> str:
    if got.shape != expected.shape:
        return f"{name}: got shape {got.shape}, expected {expected.shape}"
    if not expected.ndim:
        return f"{name}: got {_pair(got, expected)}"
    places = np.argwhere(wrong(got, expected))
    index, axes = tuple(int(i) for i in places[0]), exercise.axes.get(name, "").split()
    told = ", ".join(f"{axis} {i}" for axis, i in zip(axes, index, strict=False))
    where = f" ({told})" if len(axes) == len(index) else ""
    count = f"{len(places)} of {got.size} numbers differ, first"
    return f"{name}: {count} {list(index)}{where}: got {_pair(got[index], expected[index])}"


def _pair(got, expected) -> str:
    """Both numbers, with more digits where few do not tell them apart."""
    few, many = (f"{got:.{digits}g}, expected {expected:.{digits}g}" for digits in (6, 12))
    return few if f"{got:.6g}" != f"{expected:.6g}" else many


def _told(case: dict) -> str:
    """The inputs of a case in one line: the shapes of arrays, and all else as it is."""
    told = []
    for name, value in case.items():
        if hasattr(value, "_asdict"):
            usual = type(value)(value.size)
            told += [f"{k} {v}" for k, v in value._asdict().items() if k == "size" or v != getattr(usual, k)]
        else:
            told.append(f"{name} {value.shape if isinstance(value, np.ndarray) else value}")
    return ", ".join(told)
