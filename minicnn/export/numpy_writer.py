"""A model as one Python file that needs NumPy and nothing else: a line for each layer, and the functions that they call."""

from __future__ import annotations

import base64
import inspect
import io
import os
import pprint
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
from minicnn.layers.windows import Window
from minicnn.network import Network

MOST_INSIDE = 1_000_000  # numbers, in some five megabytes of text; beyond, they lie in a file of their own

USUAL = Window((1, 1))
CALLS: dict[type[Layer], str] = {  # of the functions in plain.py; a class that is not here is called by its name
    Identity: "",
    L.Dropout: "",
    L.Conv2D: "conv({x}, {arrays}{options})",
    L.DepthwiseConv2D: "depthwise_conv({x}, {arrays}{options})",
    L.Dense: "dense({x}, {arrays})",
    L.BatchNorm: "batch_norm({x}, {arrays}, epsilon={layer.epsilon})",
    L.MaxPool2D: "max_pool({x}, {layer.pool_size}{options})",
    L.AveragePool2D: "average_pool({x}, {layer.pool_size}{options})",
    L.GlobalMaxPool2D: "{x}.max(axis=(1, 2))",
    L.GlobalAveragePool2D: "{x}.mean(axis=(1, 2))",
    L.Flatten: "{x}.reshape(len({x}), -1)",
    L.LeakyReLU: "leaky_relu({x}, {layer.negative_slope})",
    L.Tanh: "np.tanh({x})",
}

FILE = '''"""A network that minicnn trained, in NumPy alone. As a program it prints the {printed} of each image:

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
    try:
        images = np.load(sys.argv[1])
    except (OSError, ValueError, EOFError):
        sys.exit(f"{{sys.argv[1]}}: cannot be read; expected what np.save wrote, images (n, {shape})")
    for number in predict(images).argmax(axis=-1):
        print({answer})


{names}W = {{}}  # the arrays of each layer
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
        printed="class's name" if model.class_names else "class",
        answer="NAMES[number]" if model.class_names else "number",
        names=f"NAMES = {pprint.pformat(model.class_names, width=110, compact=True)}\n" if model.class_names else "",
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
    usual = f"{type(layer).__name__.lower()}({{x}})"
    arrays = f'*W["{layer.name}"]'
    return CALLS.get(type(layer), usual).format(x=x, layer=layer, arrays=arrays, options=_options(layer))


def _options(layer: Layer) -> str:
    """A convolution's groups and how a window slides, as arguments, where they are not as usual."""
    told = {"groups": getattr(layer, "groups", 1), **getattr(layer, "window", USUAL)._asdict()}
    usual = {"groups": 1, **USUAL._asdict(), "size": told["size"]}
    return "".join(f", {name}={value}" for name, value in told.items() if value != usual[name])
