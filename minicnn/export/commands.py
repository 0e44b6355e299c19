"""The commands `minicnn export MODEL OUT` and `minicnn import FILE MODEL`; the file's ending says what it is."""

from __future__ import annotations

import argparse
from pathlib import Path

import minicnn
from minicnn.arguments import choice
from minicnn.export.numpy_writer import to_numpy
from minicnn.export.onnx_reader import from_onnx
from minicnn.export.onnx_writer import to_onnx
from minicnn.export.safetensors_files import from_safetensors, to_safetensors
from minicnn.files import make_folder
from minicnn.options import MODEL_HELP
from minicnn.say import say, warn

WRITERS = {".onnx": to_onnx, ".safetensors": to_safetensors, ".py": to_numpy}
READERS = {".onnx": from_onnx, ".safetensors": from_safetensors}


def export_main(arguments: list[str] | None = None) -> int:
    """Write a model for others to use; the exit code, 1 where a mistake was told in one line."""
    parser = argparse.ArgumentParser(prog="minicnn export", description="Write a model for other programs to use.")
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("out", metavar="OUT", help="OUT.onnx, OUT.safetensors, or OUT.py, a program of NumPy alone")
    options = parser.parse_args(arguments)
    return _told(_export, options.model, options.out)


def import_main(arguments: list[str] | None = None) -> int:
    """Read a model of others; the exit code as above."""
    parser = argparse.ArgumentParser(prog="minicnn import", description="Make a model file of another program's model.")
    parser.add_argument("file", metavar="FILE", help="FILE.onnx, or FILE.safetensors that minicnn wrote")
    parser.add_argument("model", metavar="MODEL", help="the model file to write, such as model.npz")
    options = parser.parse_args(arguments)
    return _told(_import, options.file, options.model)


def _export(source: str, out: str) -> None:
    write = choice(Path(out).suffix, f"{out}: ending", WRITERS)
    model = minicnn.load(source)
    make_folder(Path(out).parent)
    write(model, out)
    say(f"{out}: written")


def _import(source: str, out: str) -> None:
    model = choice(Path(source).suffix, f"{source}: ending", READERS)(source)
    make_folder(Path(out).parent)
    model.save(out)
    say(f"{model}\n{out}: written")


def _told(command, *paths: str) -> int:
    try:
        command(*paths)
    except (ValueError, TypeError, ImportError, OSError) as error:
        warn(f"error: {error}")
        return 1
    return 0
