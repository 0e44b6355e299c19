"""`minicnn predict MODEL IMAGE...`: what a saved model says of image files."""

from __future__ import annotations

import argparse

import numpy as np

import minicnn
from minicnn.options import MODEL_HELP
from minicnn.say import say, warn


def main(arguments: list[str] | None = None) -> int:
    """Say it, a line for each image; the exit code, 1 where a mistake was told in one line."""
    parser = argparse.ArgumentParser(prog="minicnn predict", description="What a saved model says of image files.")
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files; each is fitted to the model's size")
    parser.add_argument(
        "--invert", action="store_true", help="swap black and white: for dark things on a bright ground"
    )
    parser.add_argument("--top", type=int, default=3, help="how many classes to name (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        run(options)
    except (ValueError, ArithmeticError, OSError, ImportError) as error:
        warn(f"error: {error}")
        return 1
    return 0


def run(options: argparse.Namespace) -> None:
    """Read model and images, and say for each the most probable classes."""
    model = minicnn.load(options.model)
    if options.top < 1:
        raise ValueError(f"--top: got {options.top}, expected at least 1")
    probabilities = model.predict(options.images, invert=options.invert)
    names = model.class_names or [f"class {k}" for k in range(probabilities.shape[-1])]
    for path, p in zip(options.images, probabilities, strict=True):
        best = np.argsort(-p, kind="stable")[: options.top]
        say(f"{path}: {', '.join(f'{names[k]} {p[k]:.1%}' for k in best)}")
