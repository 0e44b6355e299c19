"""A layer as JSON, its class and its constructor's arguments, and back: in model files, and from one process to another.

Nothing in it can name code: classes are looked up in a closed table.
"""

from __future__ import annotations

from minicnn import initializers
from minicnn import layers as layer_module
from minicnn.errors import ModelFileError
from minicnn.layers.base import Layer

LAYERS = {name: getattr(layer_module, name) for name in layer_module.__all__ if name != "Layer"}


def describe_layer(value):
    """A layer as JSON: its class and its constructor's arguments."""
    if isinstance(value, Layer):
        return {"class": type(value).__name__, **{k: describe_layer(v) for k, v in value.config().items()}}
    if isinstance(value, list | tuple):
        return [describe_layer(v) for v in value]
    if callable(value):  # an initializer: the weights themselves are in the file
        names = [name for name, function in initializers.BY_NAME.items() if function is value]
        return names[0] if names else "zeros"
    return value


def construct_layer(item: dict, known: dict[str, type[Layer]], place: str) -> Layer:
    """The layer that `describe_layer` told of, of one of the known classes; an error names its place where it is none."""
    if not isinstance(item, dict) or not isinstance(item.get("class"), str):
        raise ValueError(f"{place}: expected a layer's class and its arguments")
    arguments = dict(item)
    name = arguments.pop("class")  # a word that no argument can be called
    if name not in known:
        raise ModelFileError(
            f"layer {name[:60]!r} is not known; give layers of your own as load(path, layers=[...]) (at {place})"
        )
    inner = [construct_layer(v, known, f"{place}.layers[{i}]") for i, v in enumerate(arguments.pop("layers", []))]
    for key, value in arguments.items():
        if isinstance(value, dict):
            arguments[key] = construct_layer(value, known, f"{place}.{key[:60]}")
    try:
        return known[name](*inner, **arguments)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"{place[-60:]}: {name}: {str(error)[:200]}") from error
