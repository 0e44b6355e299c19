"""A model as an .npz file, without pickle.

The archive holds one array for each weight, named like `conv2d_1/w`, and `config`: the layers and their arguments as JSON.
Nothing in it can name code: layers are looked up in a closed table.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import numpy as np

from minicnn import initializers
from minicnn import layers as layer_module
from minicnn.errors import ModelFileError
from minicnn.files import replacing
from minicnn.layers import Layer
from minicnn.model import Sequential

FORMAT = 1
LAYERS = {name: getattr(layer_module, name) for name in layer_module.__all__ if name != "Layer"}


def save_model(model: Sequential, path: str | os.PathLike) -> None:
    """Write a model's layers, weights and running statistics, and the scale of its input."""
    config = {
        "format": FORMAT,
        "input_shape": model.input_shape,
        "dtype": model.dtype,
        "seed": model.seed,
        "mean": None if model.mean is None else list(map(float, model.mean)),
        "deviation": None if model.mean is None else list(map(float, model.deviation)),
        "layers": [_describe(layer) for layer in model.layers],
    }
    arrays = {"config": np.frombuffer(json.dumps(config, default=np.generic.item).encode(), np.uint8), **_arrays(model)}
    with replacing(path) as file:
        np.savez(file, **arrays)


def load(path: str | os.PathLike, layers: Sequence[type[Layer]] = ()) -> Sequential:
    """Read a model that `Sequential.save` wrote; `layers` are classes of one's own that it uses.

    Raises ModelFileError where the file is not such a model, and runs nothing that stands in it.
    """
    known = LAYERS | {layer.__name__: layer for layer in layers}
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        config = json.loads(arrays.pop("config").tobytes())
        if config["format"] != FORMAT:
            raise ModelFileError(f"got format {config['format']!r}, expected {FORMAT}")
        stack = [_construct(item, known) for item in config["layers"]]
        model = Sequential(stack, tuple(config["input_shape"]), config["seed"], config["dtype"])
        if config["mean"] is not None:
            channels = model.input_shape[-1:]
            model.mean, model.deviation = (np.array(config[k], float).reshape(channels) for k in ("mean", "deviation"))
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file") from None
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from None
    except Exception as error:  # there is hardly one that a broken file cannot make zip, NumPy or JSON raise
        raise ModelFileError(f"{path}: not a model file of minicnn ({error})") from error
    own = _arrays(model)
    wrong = sorted(set(own) ^ set(arrays)) + [
        name
        for name in own
        if name in arrays and (arrays[name].shape, arrays[name].dtype) != (own[name].shape, own[name].dtype)
    ]
    if wrong:
        raise ModelFileError(f"{path}: arrays do not fit the layers: {', '.join(wrong)}")
    for name, array in own.items():
        array[...] = arrays[name]
    return model


def _arrays(model: Sequential) -> dict[str, np.ndarray]:
    return {name: w.value for name, w in model.arrays().items()}


def _describe(value):
    """A layer as JSON: its class and its constructor's arguments."""
    if isinstance(value, Layer):
        return {"class": type(value).__name__, **{k: _describe(v) for k, v in value.config().items()}}
    if isinstance(value, list | tuple):
        return [_describe(v) for v in value]
    if callable(value):  # an initializer: the weights themselves are in the file
        names = [name for name, function in initializers.BY_NAME.items() if function is value]
        return names[0] if names else "zeros"
    return value


def _construct(item: dict, known: dict[str, type[Layer]]) -> Layer:
    arguments = dict(item)
    name = arguments.pop("class")  # a word that no argument can be called
    if name not in known:
        raise ModelFileError(f"layer {name!r} is not known; give layers of your own as load(path, layers=[...])")
    inner = [_construct(v, known) for v in arguments.pop("layers", [])]
    for key, value in arguments.items():
        if isinstance(value, dict):
            arguments[key] = _construct(value, known)
    return known[name](*inner, **arguments)
