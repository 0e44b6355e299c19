"""The library's own source, read: what a student's file begins with, and solutions with a known mistake in them."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from minicnn.learn.exercises import Exercise

Solution = type | Callable

LEFT_OUT = "(left out: to derive it is an exercise)"


def source(exercise: Exercise, part: str) -> str:
    """The text of a method or function of the solution, from column 0 on."""
    return textwrap.dedent(inspect.getsource(getattr(exercise.owner, part)))


def solution(exercise: Exercise, old: str = "", new: str = "") -> Solution:
    """The library's own solution, `old` in it replaced by `new`: a function, or a class that derives from the owner."""
    module = inspect.getmodule(exercise.owner)
    space = dict(vars(module))
    for part in exercise.parts:
        exec(source(exercise, part).replace(old, new) if old else source(exercise, part), space)
    if not inspect.isclass(exercise.owner):
        return space[exercise.parts[0]]
    return type(exercise.owner.__name__, (exercise.owner,), {part: space[part] for part in exercise.parts})


# -- the file that a student begins with -------------------------------------------------------------------------


def program() -> str:
    """What was typed to come here, so that what is told can be typed too."""
    module = Path(sys.argv[0]).parts[-2:] == ("learn", "__main__.py")
    return "python -m minicnn.learn" if module else "minicnn learn"


def stub(exercise: Exercise) -> str:
    """The text of the file: the task, the docstrings without the answer, the signatures, and no body."""
    owner = exercise.owner
    parts = [_empty(exercise, part) for part in exercise.parts]
    if inspect.isclass(owner):
        base = f"{owner.__module__.rpartition('.')[2]}.{owner.__name__}"
        docstring = _docstring(exercise, owner)
        inside = "\n\n".join(p for p in (docstring, *parts) if p)
        parts = [f"class {owner.__name__}({base}):\n{textwrap.indent(inside, '    ')}"]
    imports = "\n".join(line for line in ("import numpy as np\n", exercise.given) if line)
    return f'''"""{exercise.name}: {exercise.task}.
{exercise.notes}

    {program()} check {exercise.name}
    {program()} hint {exercise.name}
"""

from __future__ import annotations

{imports.strip()}


{parts[0]}
'''


def _empty(exercise: Exercise, part: str) -> str:
    """The signature of a method or function with its docstring, and a body that says it is missing."""
    text = source(exercise, part)
    signature = "\n".join(text.splitlines()[: _definition(text).body[0].lineno - 1])
    docstring = _docstring(exercise, getattr(exercise.owner, part))
    body = f"{docstring}\n" if docstring else ""
    body += f'raise NotImplementedError("{part} is not written yet")'
    return f"{signature}\n{textwrap.indent(body, '    ')}"


def _definition(text: str) -> ast.FunctionDef | ast.ClassDef:
    """The function or class that a text begins with."""
    return next(node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef | ast.ClassDef))


def _docstring(exercise: Exercise, thing) -> str:
    """The docstring in its quotes, without what gives the answer away; "" where nothing is left of it."""
    whole = ast.get_docstring(_definition(textwrap.dedent(inspect.getsource(thing))))
    kept = []
    for paragraph in whole.split("\n\n") if whole else []:
        if not paragraph.lstrip().startswith(exercise.left_out or ("\0",)):
            kept.append(paragraph)
        elif kept and kept[-1] != f"    {LEFT_OUT}":
            kept.append(f"    {LEFT_OUT}")
    text = "\n\n".join(kept)
    end = "" if "\n" not in text else "\n"
    return f'"""{text}{end}"""' if text else ""


# -- a student's file ---------------------------------------------------------------------------------------------


def load(exercise: Exercise, path: Path) -> Solution:
    """What the student's file defines; ValueError in one line where it is not there. It runs the file."""
    space = {"__name__": exercise.name, "__file__": str(path)}
    exec(compile(path.read_bytes(), str(path), "exec"), space)
    owner, classes = exercise.owner, inspect.isclass(exercise.owner)
    name = owner.__name__ if classes else exercise.parts[0]
    found = space.get(name)
    if found is None:
        raise ValueError(f"{'class' if classes else 'function'} {name} is missing")
    if not classes:
        if not callable(found):
            raise ValueError(f"{name} is no function")
        return found
    if not (inspect.isclass(found) and issubclass(found, owner)):
        raise ValueError(f"{name}: expected a class that derives from the library's, as it was in the file at first")
    for part in exercise.parts:
        if getattr(found, part) is getattr(owner, part):
            raise ValueError(f"{name}.{part} is missing")
    return found


@contextmanager
def installed(exercise: Exercise, functions: dict[str, Callable]) -> Iterator[None]:
    """While this lasts the library runs these functions, by part, in place of its own."""
    places = []
    for part in exercise.parts:
        original = vars(exercise.owner)[part]
        modules = [m for name, m in list(sys.modules.items()) if name.startswith("minicnn.")]
        owners = [exercise.owner] if inspect.isclass(exercise.owner) else modules
        places += [(owner, part, original) for owner in owners if vars(owner).get(part) is original]
    try:
        for owner, part, _ in places:
            setattr(owner, part, functions[part])
        yield
    finally:
        for owner, part, original in places:
            setattr(owner, part, original)


@contextmanager
def withheld(exercise: Exercise) -> Iterator[None]:
    """While this lasts the library's own solution cannot be called."""

    def refuse(*arguments, **named):
        raise ValueError("it calls the library's own solution; this is the function that is yours to write")

    with installed(exercise, dict.fromkeys(exercise.parts, refuse)):
        yield
