"""A student's file runs in a process of its own, with a limit on time, memory and files: nothing it does ends more than
that process. This guards against mistakes, not against malice: where marks depend on it, run it in a container.

The process writes what the solution gave into a file, and this one compares: no verdict is in the student's reach.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import minicnn
from minicnn.learn.exercises import Exercise, find
from minicnn.learn.grading import Attempt, Verdict, attempt, in_one_line, judge
from minicnn.learn.sources import load, withheld

FILE_SIZE = 20_000_000  # as much may be printed
PRINTED, WIDE = 10, 200  # lines that are shown, and so much of each


class Limits(NamedTuple):
    """How many seconds a file may run, and how many bytes of memory it may ask for besides the library's."""

    seconds: float = 20
    memory: int = 1_000_000_000


def grade(exercise: Exercise, path: Path, limits: Limits = Limits()) -> Verdict:  # noqa: B008  (it cannot be changed)
    """The verdict on a student's file."""
    if not path.is_file():
        return Verdict(False, "there is no such file")
    with tempfile.TemporaryDirectory() as folder:
        answer, printed = Path(folder, "answer.npz"), Path(folder, "printed")
        trouble = _run(exercise, path, limits, answer, printed)
        attempts = [] if trouble else _read(answer)
        said = printed.read_text(encoding="utf-8", errors="replace").splitlines()
    if trouble:
        verdict = Verdict(False, trouble)
    elif len(attempts) < len(exercise.inputs()) and not (attempts and attempts[-1].error):
        verdict = Verdict(False, "it ended without an answer, as by os._exit")
    else:
        verdict = judge(exercise, attempts)
    shown = [line[:WIDE] for line in said[:PRINTED]]
    shown += [f"... and {len(said) - PRINTED} lines more"] if len(said) > PRINTED else []
    return verdict._replace(message="\n".join([verdict.message, *(f"    printed: {line}" for line in shown)]))


def _run(exercise: Exercise, path: Path, limits: Limits, answer: Path, printed: Path) -> str:
    """Run the file in a child process; what became of it, "" where it ended well."""
    home = str(Path(minicnn.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))}
    environment |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment |= {"PYTHONIOENCODING": "utf-8", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "minicnn.learn.sandbox", exercise.name, str(path), str(answer), str(limits.memory)]
    with open(printed, "wb") as out:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, start_new_session=True
        )
        try:
            code = child.wait(limits.seconds)
        except subprocess.TimeoutExpired:
            return f"stopped after {limits.seconds:g} seconds: is there a loop that does not end?"
        finally:
            _end(child)
    if code < 0:
        with suppress(ValueError):
            return f"the whole program crashed: {signal.Signals(-code).name}"
    return f"it ended the whole program, exit code {code}" if code else ""


def _end(child: subprocess.Popen) -> None:
    """End the child, and what it started."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    child.wait()


# -- the answer, as a file of arrays and text --------------------------------------------------------------------


def write(attempts: list[Attempt], path: Path) -> None:
    """The results as arrays, everything else as JSON."""
    rest = [tried._replace(results={}) for tried in attempts]
    results = {f"{i}:{name}": array for i, tried in enumerate(attempts) for name, array in tried.results.items()}
    arrays: dict[str, Any] = {"json": np.array(json.dumps(rest)), **results}
    np.savez(path, **arrays)


def _read(path: Path) -> list[Attempt]:
    """What `write` wrote; nothing where the file is not such a file."""
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            attempts = [Attempt(*fields) for fields in json.loads(str(file["json"]))]
            for name in file.files:
                if name != "json":
                    i, _, result = name.partition(":")
                    attempts[int(i)].results[result] = file[name]
            return attempts
    except (OSError, ValueError, KeyError, IndexError, TypeError, EOFError, zipfile.BadZipFile):
        return []


# -- in the child ------------------------------------------------------------------------------------------------


def limit(memory: int) -> None:
    """No more memory than this besides what is in use, no large files, and no core dumps; where the system has it."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))


def try_file(exercise: Exercise, path: Path) -> list[Attempt]:
    """Load a student's file and run it on every case; an error in the file itself is the only attempt."""
    try:
        with withheld(exercise):
            student = load(exercise, path)
    except (Exception, SystemExit) as error:
        return [Attempt({}, {}, [], in_one_line(error, str(path)))]
    return attempt(exercise, student, str(path))


def main(name: str, path: str, answer: str, memory: str) -> None:
    """Run a student's file on every case, and write down what it gives."""
    minicnn.use_backend("numpy")
    exercise = find(name)
    limit(int(memory))
    write(try_file(exercise, Path(path)), Path(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
    with suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    os._exit(0)  # the answer is written; threads that the file has left behind are not waited for
