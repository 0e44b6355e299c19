"""A model as a safetensors file: its arrays by their names, such as "conv2d_1/w", and its layers as metadata.

The format (huggingface.co/docs/safetensors) holds numbers and their shapes, and can run no code. Who only wants the arrays
reads them with safetensors alone; convolutions' weights are (kh, kw, in, out), as everywhere here.
"""

from __future__ import annotations

import json
import os

import numpy as np

from minicnn import archive
from minicnn.errors import ModelFileError
from minicnn.extras import need
from minicnn.files import atomic_write
from minicnn.model import Sequential
from minicnn.model_files import declare, describe, fill
from minicnn.network import Network

KEY = "minicnn"  # of the layers, in the metadata


def to_safetensors(model: Network, path: str | os.PathLike) -> None:
    """Write a model's arrays, with its layers and the scale of its input. Needs the extra "safetensors"."""
    arrays = {name: np.ascontiguousarray(w.value) for name, w in model.arrays().items()}
    text = json.dumps(archive.as_read(describe(model)))
    content = need("safetensors.numpy", "safetensors").save(arrays, {KEY: text})
    with atomic_write(path) as file:
        file.write(content)


def from_safetensors(path: str | os.PathLike, model: Sequential | None = None) -> Sequential:
    """The model that `to_safetensors` wrote; or `model`, with the arrays of a file that anybody wrote under its names.

    Raises ModelFileError where shapes or names differ, before memory is taken, ImportError without the extra
    "safetensors", and OSError.
    """
    safetensors = need("safetensors", "safetensors")
    with archive.opened(path, "a safetensors file"), safetensors.safe_open(path, "numpy") as file:
        if model is None:
            if KEY not in (file.metadata() or {}):
                raise ModelFileError("holds arrays but no layers: give the model, as from_safetensors(path, model)")
            model = declare(Sequential, json.loads(file.metadata()[KEY]))
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        needed = {name: w.shape for name, w in model.arrays().items()}
        for name in sorted(found.keys() | needed.keys()):
            if found.get(name) != needed.get(name):
                got, expected = (shapes.get(name, "none") for shapes in (found, needed))
                raise ModelFileError(f"{name[:80]}: got shape {got}, expected {expected}")
        arrays = {name: file.get_tensor(name) for name in needed}
        if not hasattr(model.parameters, "values"):
            model.parameters.allocate(None)
        fill(model, arrays)
    return model
