"""The command `minicnn`, also as `python -m minicnn`: `minicnn learn ...` is `python -m minicnn.learn ...`."""

from __future__ import annotations

import argparse
import sys

from minicnn import __version__
from minicnn.commands import check_gradients, evaluate, predict, train
from minicnn.data import __main__ as data
from minicnn.explain import commands as explain
from minicnn.export import commands as export
from minicnn.learn import commands as learn

COMMANDS = {
    "train": (train.main, "train a network and show what it learnt and what it got wrong"),
    "evaluate": (evaluate.main, "how well a saved model recognises the test images, class by class"),
    "predict": (predict.main, "what a saved model says of image files"),
    "learn": (learn.main, "write the parts of a network yourself"),
    "explain": (explain.main, "a page that shows every sum of a network for one image"),
    "data": (data.main, "the data as files"),
    "check-gradients": (check_gradients.main, "every layer's gradient against differences"),
    "export": (export.export_main, "a model as ONNX, safetensors or a program of NumPy alone"),
    "import": (export.import_main, "a model from ONNX or safetensors"),
}


def main(arguments: list[str] | None = None) -> int:
    """Hand what follows the command's name on to it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="minicnn", description="Convolutional networks from scratch.")
    parser.add_argument("--version", action="version", version=f"minicnn {__version__}")
    choices = parser.add_subparsers(dest="command", required=True)
    for name, (_, does) in COMMANDS.items():
        choices.add_parser(name, help=does, add_help=False)
    given = sys.argv[1:] if arguments is None else arguments
    if not given:
        parser.print_help()
        return 2
    chosen = parser.parse_args(given[:1]).command
    return COMMANDS[chosen][0](given[1:])


if __name__ == "__main__":
    sys.exit(main())
