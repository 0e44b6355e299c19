"""The commands: list, start, check, hint and train. Files lie in the current folder, one for each exercise."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import minicnn
from minicnn.callbacks import Callback
from minicnn.data import load_fashion_mnist
from minicnn.errors import DataError, DivergedError, ShapeError
from minicnn.learn.exercises import EXERCISES, Exercise, find
from minicnn.learn.grading import Verdict, in_one_line
from minicnn.learn.practice import Learner
from minicnn.learn.sandbox import Limits, grade
from minicnn.learn.sources import load, program, stub
from minicnn.say import bar, say, warn

ENOUGH = 0.8  # the accuracy at which training ends


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code, 1 where an answer is wrong or a mistake was told in one line."""
    parser = argparse.ArgumentParser(prog=program(), description="Write the parts of a convolutional network yourself.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the exercises, and which of yours are right")
    command = commands.add_parser("start", help="write the file that an exercise begins with")
    command.add_argument("name", metavar="NAME")
    command = commands.add_parser("check", help="grade an exercise, or all that are there")
    command.add_argument("names", metavar="NAME", nargs="*")
    command.add_argument("--json", action="store_true", help="all exercises as Gradescope's results.json, on stdout")
    command.add_argument(
        "--seconds", type=float, default=Limits().seconds, help="how long a file may run (%(default)g)"
    )
    command = commands.add_parser("hint", help="a hint: 1 is gentle, 3 is nearly there")
    command.add_argument("name", metavar="NAME")
    command.add_argument("number", metavar="1|2|3", type=int, nargs="?", default=1, choices=(1, 2, 3))
    command = commands.add_parser("train", help="train a network with your parts, beside the library's")
    command.add_argument("--epochs", type=int, default=8, help="at most so many (%(default)s)")
    options = vars(parser.parse_args(arguments))
    minicnn.use_backend("numpy")
    try:
        return COMMANDS[options.pop("command")](**options)
    except (ValueError, OSError, DataError, ShapeError, DivergedError) as error:
        warn(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        warn("stopped")
        return 130


def file_of(exercise: Exercise) -> Path:
    """Where a student's file lies."""
    return Path(f"{exercise.name}.py")


def named(name: str) -> Exercise:
    """The exercise of that name, or of the file of that name."""
    return find(name.removesuffix(".py"))


def show() -> int:
    """The exercises in order, and which of the student's are right."""
    for exercise in EXERCISES:
        status = "."
        if file_of(exercise).exists():
            status = "right" if grade(exercise, file_of(exercise)).passed else "not yet"
        say(f"{status:<9}{exercise.name:<24}{exercise.task}")
    say(f"\nBegin one with: {program()} start NAME")
    return 0


def start(name: str) -> int:
    """Write the file that an exercise begins with; one that is there is never overwritten."""
    exercise = named(name)
    path = file_of(exercise)
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(stub(exercise))
    except FileExistsError:
        raise ValueError(f"{path}: it is there already, and is not overwritten") from None
    say(f"{path} is written. Open it, write what is missing, then: {program()} check {exercise.name}")
    return 0


def check(names: list[str], json: bool, seconds: float) -> int:
    """Grade these exercises, or all that are there."""
    if not 0 < seconds <= 86_400:
        raise ValueError(f"--seconds: got {seconds:g}, expected more than 0 and at most 86400")
    chosen = [named(name) for name in names]
    if json:
        return as_json(chosen or EXERCISES, Limits(seconds=seconds))
    chosen = chosen or [exercise for exercise in EXERCISES if file_of(exercise).exists()]
    if not chosen:
        raise ValueError(f"no exercise is in this folder; begin one with: {program()} start {EXERCISES[0].name}")
    verdicts = [(exercise, checked(exercise, seconds)) for exercise in chosen]
    failed = [exercise for exercise, verdict in verdicts if not verdict.passed]
    if len(verdicts) > 1:
        say(f"{len(verdicts) - len(failed)} of {len(verdicts)} are right")
    elif failed:
        say(f"More: {program()} hint {failed[0].name}")
    else:
        following = [e for e in EXERCISES[EXERCISES.index(chosen[0]) + 1 :] if not file_of(e).exists()]
        say(f"Next: {program()} start {following[0].name}" if following else f"Now: {program()} train")
    return 1 if failed else 0


def checked(exercise: Exercise, seconds: float) -> Verdict:
    """Grade one exercise, and say how it went."""
    path = file_of(exercise)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; begin with: {program()} start {exercise.name}")
    verdict = grade(exercise, path, Limits(seconds=seconds))
    say(f"{path}: {'' if verdict.passed else 'not yet: '}{verdict.message}")
    return verdict


def as_json(exercises: list[Exercise], limits: Limits) -> int:
    """Gradescope's results, one point an exercise; a file that is missing gets none."""
    tests = []
    for exercise in exercises:
        passed, message = grade(exercise, file_of(exercise), limits)
        status = "passed" if passed else "failed"
        tests.append(dict(name=exercise.name, score=int(passed), max_score=1, status=status, output=message))
    say(json.dumps({"tests": tests}, indent=2))
    return 0


def hint(name: str, number: int) -> int:
    """One of the three hints."""
    exercise = named(name)
    say(exercise.hints[number - 1])
    if number < 3:
        say(f"More: {program()} hint {exercise.name} {number + 1}")
    return 0


class Progress(Callback):
    """Moves a bar with every step."""

    def __init__(self, progress):
        self.progress = progress

    def on_step_end(self, run) -> None:
        self.progress.update()


def train(epochs: int) -> int:
    """Train a network with the student's right parts, and the library's own, side by side."""
    if epochs < 1:
        raise ValueError(f"--epochs: got {epochs}, expected at least 1")
    own = {e.name: e for e in EXERCISES if file_of(e).exists() and grade(e, file_of(e)).passed}
    if not own:
        raise ValueError(f"none of your exercises is right yet; begin with: {program()} start {EXERCISES[0].name}")
    others = [exercise.name for exercise in EXERCISES if exercise.name not in own]
    say(f"yours: {', '.join(own)}\nthe library's: {', '.join(others) or 'nothing'}")
    data = load_fashion_mnist("sample", verbose=False)
    yours = Learner({name: (e, load(e, file_of(e))) for name, e in own.items()}, data)
    ours = Learner({}, data)
    say("epoch   accuracy with yours   with the library's")
    for number in range(1, epochs + 1):
        with bar(total=yours.steps + ours.steps, desc=f"epoch {number}", leave=False, hidden=False) as progress:
            watch = Progress(progress)
            try:
                mine = yours.epoch(number, watch)
            except Exception as error:
                raise ValueError(f"in the network: {in_one_line(error)}") from error
            theirs = ours.epoch(number, watch)
        say(f"{number:>5}{mine:>22.1%}{theirs:>21.1%}")
        if min(mine, theirs) >= ENOUGH:
            break
    say(
        "Images it has never seen, told apart by what you wrote."
        if mine >= ENOUGH
        else f"Not yet at {ENOUGH:.0%}: more with --epochs"
    )
    return 0


COMMANDS: dict[str, Callable[..., int]] = {"list": show, "start": start, "check": check, "hint": hint, "train": train}
