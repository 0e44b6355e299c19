"""A model as one Python file that needs NumPy and nothing else: a line for each layer, and the functions that they call."""

from __future__ import annotations

import base64
import inspect
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minicnn import layers as L
from minicnn.export import plain
from minicnn.export.known import check_layers, takes_bytes
from minicnn.files import atomic_write
from minicnn.layers import Layer
from minicnn.layers.activations import Identity
from minicnn.network import Network

MOST_INSIDE = 1_000_000  # numbers, in some five megabytes of text; beyond, they lie in a file of their own

FILE = '''"""A network that minicnn trained, in NumPy alone. As a program it prints the class of each image:

    python THIS_FILE IMAGES.npy

IMAGES.npy holds an array (n, {shape}) of {kind}. In Python, predict(images) gives probabilities.
"""

import base64
import io
import sys
from pathlib import Path

import numpy as np
{functions}

def network(x):
    """Images (n, {shape}) to what the last layer gives, (n, {outputs})."""
{lines}
    return x


def predict(images, batch=100):
    """The probability of each class for each image."""
    x = np.reshape(images, (-1, {shape}))
    y = [network(x[i : i + batch]) for i in range(0, len(x), batch)]
    return {probabilities}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for number in predict(np.load(sys.argv[1])).argmax(axis=-1):
        print(number)


W = {{}}  # the arrays of each layer
for name, array in np.load({weights}).items():
    W.setdefault(name.rpartition("/")[0], []).append(array)

if __name__ == "__main__":
    main()
'''


def to_numpy(model: Network, path: str | os.PathLike) -> None:
    """Write a Python file whose `predict(images)` gives what `model.predict` gives, with NumPy alone.

    The weights, as float32, are in the file, below the code; those of more than a million numbers lie beside it, in
    NAME_weights.npz. Raises TypeError for a layer that is not minicnn's own, and OSError.
    """
    check_layers(model)
    target = Path(path)
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: w.value.astype(np.float32) for name, w in model.arrays().items()}
    np.savez(buffer, **arrays)
    if model.parameters.values.size <= MOST_INSIDE:
        text = base64.b64encode(buffer.getvalue()).decode()
        packed = "\n".join(text[i : i + 120] for i in range(0, len(text), 120))
        weights = f'io.BytesIO(base64.b64decode("""\n{packed}\n"""))'
    else:
        beside = target.with_name(f"{target.stem}_weights.npz")
        weights = f"Path(__file__).with_name({beside.name!r})"
        with atomic_write(beside) as file:
            file.write(buffer.getvalue())
    text = program(model, weights)
    with atomic_write(target) as file:
        file.write(text.encode())


def program(model: Network, weights: str) -> str:
    """The text of the file; functions that no layer calls, and imports that nothing uses, are left out."""
    lines = _scale(model) + _lines(model.layers, "x", 0)
    answer = "np.concatenate(y)" if model.gives_probabilities else "softmax(np.concatenate(y))"
    needed: set[str] = set()
    text = "\n".join([*lines, answer])
    while found := {name for name in re.findall(r"\b(\w+)\(", text) if hasattr(plain, name)} - needed:
        needed |= found
        text = "\n".join(inspect.getsource(getattr(plain, name)) for name in found)
    functions = [f for name, f in vars(plain).items() if name in needed]
    text = FILE.format(
        shape=", ".join(map(str, model.input_shape)),
        kind="uint8" if takes_bytes(model) else "floats",
        outputs=", ".join(map(str, model.output_shape)),
        functions="".join(f"\n\n{inspect.getsource(f)}" for f in functions),
        lines="\n".join(f"    {line}" for line in lines),
        probabilities=answer,
        weights=weights,
    )
    unused = ["from pathlib import Path"] if "Path(" not in weights else ["import base64", "import io"]
    return "\n".join(line for line in text.split("\n") if line not in unused)


def _scale(model: Network) -> list[str]:
    """How images become the first layer's floats."""
    if not takes_bytes(model):
        return ["x = np.float32(x)"]
    mean, std = (np.float32(v).tolist() for v in (model.scale.mean, model.scale.std))
    return [f"x = (np.float32(x) / 255 - np.float32({mean})) / np.float32({std})"]


def _lines(layers: Sequence[Layer], x: str, depth: int) -> list[str]:
    """A line for each layer that computes something; a residual block keeps its input as x1, one inside it as x2."""
    lines = []
    for layer in layers:
        if isinstance(layer, L.Residual):
            kept = f"x{depth + 1}"
            lines += [f"{kept} = {x}", *_lines(layer.branch, x, depth + 1), *_lines(layer.shortcut, kept, depth + 1)]
            lines += [f"{x} = {x} + {kept}"]
        elif call := _call(layer, x):
            lines.append(f"{x} = {call}")
        if (ending := getattr(layer, "activate", None)) and (call := _call(ending, x)):
            lines.append(f"{x} = {call}")
    return lines


def _call(layer: Layer, x: str) -> str:
    """What a layer computes before its activation, as Python; nothing where that is its input."""
    arrays = f'{x}, *W["{layer.name}"]'
    match layer:
        case Identity() | L.Dropout():
            return ""
        case L.Conv2D():
            groups = f", groups={layer.groups}" if layer.groups > 1 else ""
            return f"conv({arrays}{groups}{_window(layer)})"
        case L.DepthwiseConv2D():
            return f"depthwise_conv({arrays}{_window(layer)})"
        case L.Dense():
            return f"dense({arrays})"
        case L.BatchNorm():
            return f"batch_norm({arrays}, epsilon={layer.epsilon})"
        case L.MaxPool2D():
            return f"max_pool({x}, {layer.pool_size}{_window(layer)})"
        case L.AveragePool2D():
            return f"average_pool({x}, {layer.pool_size}{_window(layer)})"
        case L.GlobalMaxPool2D():
            return f"{x}.max(axis=(1, 2))"
        case L.GlobalAveragePool2D():
            return f"{x}.mean(axis=(1, 2))"
        case L.Flatten():
            return f"{x}.reshape(len({x}), -1)"
        case L.LeakyReLU():
            return f"leaky_relu({x}, {layer.negative_slope})"
        case L.Tanh():
            return f"np.tanh({x})"
    return f"{type(layer).__name__.lower()}({x})"


def _window(layer) -> str:
    """How a window slides, as arguments, where it is not as usual."""
    told = {"stride": layer.stride, "padding": layer.window.padding, "dilation": layer.window.dilation}
    usual = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1)}
    return "".join(f", {name}={value}" for name, value in told.items() if value != usual[name])
