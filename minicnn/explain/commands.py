"""The command `minicnn explain MODEL --image NUMBER --out PAGE`: a page for one of the test images."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import minicnn
from minicnn.explain.page import explain
from minicnn.files import make_folder
from minicnn.options import DATA_HELP, MODEL_HELP, model_and_data
from minicnn.say import say, warn


def main(arguments: list[str] | None = None) -> int:
    """Write the page; the exit code, 1 where a mistake was told in one line."""
    parser = argparse.ArgumentParser(
        prog="minicnn explain", description="Write a page that shows every sum of a network for one test image."
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--image", metavar="NUMBER", type=int, default=0, help="which test image (%(default)s)")
    parser.add_argument("--out", metavar="PAGE", default="explain.html", help="the page (%(default)s)")
    parser.add_argument("--data", default="auto", help=DATA_HELP)
    options = parser.parse_args(arguments)
    try:
        write(options)
    except (ValueError, OSError, ImportError) as error:
        warn(f"error: {error}")
        return 1
    return 0


def write(options: argparse.Namespace) -> None:
    """Read model and image, write the page, and say what is on it."""
    minicnn.use_backend("numpy")
    model, data = model_and_data(options.model, options.data)
    count = len(data.test_images)
    if not 0 <= options.image < count:
        raise ValueError(
            f"--image: got {options.image}, expected 0 to {count - 1}: {data.name} has {count:,} test images"
        )
    image, label = data.test_images[options.image], int(data.test_labels[options.image])
    title = f"Test image {options.image} of {data.name}, through {os.path.basename(options.model)} and back"
    names = data.class_names
    make_folder(Path(options.out).parent)
    explain(model, image, options.out, label, names, title)
    told = f"image {options.image} of {data.name}, {names[label]}, recognised as {names[model.predict_classes(image)]}"
    say(f"{options.out}: {told}. Open it in a browser; it needs no network.")
