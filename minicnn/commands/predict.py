"""`minicnn predict MODEL IMAGE...`: what a saved model says of image files."""

from __future__ import annotations

import argparse

import numpy as np

import minicnn
from minicnn.data import read_image
from minicnn.errors import DataError
from minicnn.inputs import bright_edge
from minicnn.options import MODEL_HELP, size_of
from minicnn.say import say, warn


def main(arguments: list[str] | None = None) -> int:
    """Say it, a line for each image; the exit code, 1 where a mistake or an image that cannot be read was told in one."""
    parser = argparse.ArgumentParser(prog="minicnn predict", description="What a saved model says of image files.")
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files; each is fitted to the model's size")
    parser.add_argument(
        "--invert", action="store_true", help="swap black and white: for dark things on a bright ground"
    )
    parser.add_argument("--top", type=int, default=3, help="how many classes to name (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        return run(options)
    except (ValueError, ArithmeticError, OSError, ImportError) as error:
        warn(f"error: {error}")
        return 1


def run(options: argparse.Namespace) -> int:
    """Read the model, and of each image say the most probable classes or why it cannot be read; 1 where one cannot."""
    model = minicnn.load(options.model)
    if options.top < 1:
        raise ValueError(f"--top: got {options.top}, expected at least 1")
    h, w, channels = size_of(model, options.model)
    names = model.class_names or [f"class {k}" for k in range(model.output_shape[-1])]
    hint = "try it without --invert" if options.invert else "if it is dark on white, try --invert"
    failed = 0
    for path in options.images:
        try:
            image = read_image(path, (h, w), channels, options.invert)
        except DataError as error:
            warn(f"error: {error}")
            failed = 1
            continue
        if bright_edge(image, model.scale):
            warn(f"warning: {path}: bright edge, and the model was trained on dark images; {hint}")
        p = model.predict(image)
        best = np.argsort(-p, kind="stable")[: options.top]
        say(f"{path}: {', '.join(f'{names[k]} {p[k]:.1%}' for k in best)}")
    return failed
