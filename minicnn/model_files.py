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

from minicnn import archive, initializers
from minicnn import layers as layer_module
from minicnn.arguments import number
from minicnn.errors import ModelFileError
from minicnn.layers import Layer
from minicnn.network import MOST_LAYERS, Model, Network

FORMAT = 2
LAYERS = {name: getattr(layer_module, name) for name in layer_module.__all__ if name != "Layer"}


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
        "layers": [_describe(layer) for layer in model.layers],
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
    stack = [_construct(item, known, f"layers[{i}]") for i, item in enumerate(config["layers"])]
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


def _construct(item: dict, known: dict[str, type[Layer]], place: str) -> Layer:
    if not isinstance(item, dict) or not isinstance(item.get("class"), str):
        raise ValueError(f"{place}: expected a layer's class and its arguments")
    arguments = dict(item)
    name = arguments.pop("class")  # a word that no argument can be called
    if name not in known:
        raise ModelFileError(
            f"layer {name[:60]!r} is not known; give layers of your own as load(path, layers=[...]) (at {place})"
        )
    inner = [_construct(v, known, f"{place}.layers[{i}]") for i, v in enumerate(arguments.pop("layers", []))]
    for key, value in arguments.items():
        if isinstance(value, dict):
            arguments[key] = _construct(value, known, f"{place}.{key[:60]}")
    try:
        return known[name](*inner, **arguments)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"{place[-60:]}: {name}: {str(error)[:200]}") from error
