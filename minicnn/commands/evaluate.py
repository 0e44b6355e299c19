"""`minicnn evaluate MODEL`: how well a saved model recognises the test images, class by class."""

from __future__ import annotations

import argparse
from pathlib import Path

from minicnn.commands.score import draw_errors, score, tell
from minicnn.files import make_folder
from minicnn.options import DATA_HELP, MODEL_HELP, model_and_data
from minicnn.say import say, warn
from minicnn.tables import table


def main(arguments: list[str] | None = None) -> int:
    """Score the model; the exit code, 1 where a mistake was told in one line."""
    parser = argparse.ArgumentParser(
        prog="minicnn evaluate", description="How well a saved model recognises the test images, class by class."
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--data", default="auto", help=DATA_HELP)
    parser.add_argument("--out", type=Path, help="folder for pictures of the errors (default: no pictures)")
    options = parser.parse_args(arguments)
    try:
        run(options)
    except (ValueError, ArithmeticError, OSError, ImportError) as error:
        warn(f"error: {error}")
        return 1
    return 0


def run(options: argparse.Namespace) -> None:
    """Data, the score, and the pictures where they are wanted."""
    model, data = model_and_data(options.model, options.data)
    results: dict = {}
    probabilities, matrix = score(model, data, results)
    rows = [("class", "precision", "recall", "f1", "images")]
    for name, found in results["per_class"].items():
        rows.append((name, *(f"{found[key]:.1%}" for key in ("precision", "recall", "f1")), f"{found['support']:,}"))
    rows.append(("all", "", f"{results['test_accuracy']:.1%}", "", f"{len(data.test_images):,}"))
    say(table(rows))
    tell(results, data, matrix)
    if options.out:
        make_folder(options.out)
        draw_errors(options.out, data, probabilities, matrix)
        say(f"pictures: {options.out}")
