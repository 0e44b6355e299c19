"""A model as a file (see archive.py): an array for each weight, named like `conv2d_1/w`, and the layers and their
arguments as JSON.

Nothing in the file can name code: layers are looked up in a closed table. What the description asks for is compared with
the arrays that are really there before any memory is taken for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence

import numpy as np

from minicnn import archive
from minicnn.arguments import number
from minicnn.errors import ModelFileError
from minicnn.layers import Layer
from minicnn.layers.description import LAYERS, construct_layer, describe_layer
from minicnn.network import MOST_LAYERS, Model, Network

FORMAT = 2


def save_model(self: Network, path: str | os.PathLike) -> None:
    """Write layers, weights, running statistics, the scale of the input and the classes' names to an .npz file that
    `minicnn.load` reads.

    The file is written as a whole or not at all.
    """
    archive.write(path, describe(self), {name: w.value for name, w in self.arrays().items()})


def describe(model: Network) -> dict:
    """All of a model but its arrays, for JSON."""
    return {
        "format": FORMAT,
        "input_shape": model.input_shape,
        "dtype": model.dtype,
        "seed": model.seed,
        **{name: _floats(getattr(model.scale, name)) for name in ("mean", "std", "range")},
        "class_names": model.class_names,
        "layers": [describe_layer(layer) for layer in model.layers],
    }


def _floats(numbers) -> list[float] | None:
    return None if numbers is None else list(map(float, numbers))


def load_model(kind: type[Model], path: str | os.PathLike, layers: Sequence[type[Layer]] = ()) -> Model:
    """A network of this kind from a file that `save_model` wrote: see `minicnn.load`."""
    with archive.reading(path, "a model file") as file:
        model = declare(kind, file.config, layers)
        file.check(_needs(model), "the layers")
        model.parameters.allocate(None)
        fill(model, _arrays(model, file))
    return model


def declare(kind: type[Model], config: dict, layers: Sequence[type[Layer]] = ()) -> Model:
    """The network that `describe` told of, its arrays without memory yet; an error where it is none."""
    known = LAYERS | {layer.__name__: layer for layer in layers}
    _check_format(config)
    _check(config, "layers", list)
    count = json.dumps(config["layers"]).count('"class"')
    if count > MOST_LAYERS:
        raise ValueError(f"layers: got {count:,}, expected at most {MOST_LAYERS:,}")
    stack = [construct_layer(item, known, f"layers[{i}]") for i, item in enumerate(config["layers"])]
    model = kind.declared(stack, config.get("input_shape"), config.get("seed"), config.get("dtype"))
    vars(model.scale).update(_scale(config, model.input_shape[-1]))
    model.class_names = config.get("class_names")
    return model


def load_weights(self: Network, path: str | os.PathLike) -> None:
    """Take the weights of a saved model with the same arrays; where anything differs, an error lists it all."""
    with archive.reading(path, "a model file") as file:
        _check_format(file.config)
        file.check(_needs(self), "this model")
        scale = _scale(file.config, self.input_shape[-1])
        fill(self, _arrays(self, file))
        vars(self.scale).update(scale)


def _needs(model: Network) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Every array's shape and dtype."""
    return {name: (w.shape, np.dtype(model.dtype)) for name, w in model.arrays().items()}


def _arrays(model: Network, file: archive.Archive) -> dict[str, np.ndarray]:
    return {name: file.read(name) for name in model.arrays()}


def fill(model: Network, arrays: Mapping[str, np.ndarray]) -> None:
    """Take these arrays, of the model's own names and shapes: all of them, or none where one has a wrong number."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ModelFileError(f"{name}: got NaN or infinity, expected finite numbers")
        least = model.arrays()[name].least
        if array.min() < least:
            raise ModelFileError(f"{name}: got {array.min():g}, expected at least {least:g}")
    for name, w in model.arrays().items():
        w.value[...] = arrays[name]


def _scale(config: dict, channels: int) -> dict:
    """What `Scale` has: mean and standard deviation of the training images' pixels, or the range of floats."""
    low_high = config.get("range")
    if low_high is not None:
        _check(config, "range", list)
        low_high = tuple(number(v, "range") for v in low_high)
        if len(low_high) != 2 or low_high[0] > low_high[1]:
            raise ValueError(f"range: got {config['range']!r}, expected the least number and the largest"[:300])
    if config.get("mean") is None:
        return {"mean": None, "std": None, "range": low_high}
    for name in ("mean", "std"):
        _check(config, name, list)
    mean, std = (np.array([number(v, name) for v in config[name]]) for name in ("mean", "std"))
    if mean.shape != (channels,) or std.shape != (channels,):
        raise ValueError(f"mean and std: got {len(mean)} and {len(std)} numbers, expected {channels} of each")
    with np.errstate(all="ignore"):
        factors = np.array([1 / std, mean / std], np.float32)
    if not (std > 0).all() or not np.isfinite(factors).all():
        raise ValueError(
            f"mean and std: got {config['mean']!r} and {config['std']!r}, expected (pixel - mean) / std finite"
        )
    return {"mean": mean, "std": std, "range": low_high}


def _check_format(config: dict) -> None:
    if config.get("format") != FORMAT:
        raise ModelFileError(f"got format {config.get('format')!r}, expected {FORMAT}: of another version of minicnn")


def _check(config: dict, name: str, kind: type) -> None:
    if type(config.get(name)) is not kind:
        raise ValueError(f"{name}: got {config.get(name)!r}, expected {kind.__name__}"[:300])
