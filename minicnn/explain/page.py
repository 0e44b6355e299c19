"""The page as a file: one image, a network's layers and their weights as JSON, and the JavaScript that does the rest."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple

import numpy as np

from minicnn import inputs
from minicnn.explain.trace import Watched, trace
from minicnn.files import atomic_write
from minicnn.layers import (
    AveragePool2D,
    BatchNorm,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Layer,
    MaxPool2D,
    Residual,
)
from minicnn.layers.activations import Activation, Identity
from minicnn.model_files import LAYERS
from minicnn.network import Network

SCRIPTS = "numbers windows layers sums network words maps answer overview choice terms detail im2col main".split()
MOST_NUMBERS = 480_000  # of four bytes each, in base64: a page of less than 3 MB


def explain(
    model: Network,
    image: np.ndarray,
    path: str | os.PathLike,
    label: int | None = None,
    class_names: Sequence[str] | None = None,
    title: str = "One image through the network, and back",
) -> None:
    """Write an HTML file that shows how `model` answers for one image: every sum forward, every sum backward.

    image is (h, w, c), uint8 or floats as the model takes them; (h, w) will do for one channel. label is the true class,
    where the loss is taken; without one it is the class that the model names. class_names are as many as classes, by
    default `model.class_names`.

    The page works offline and is smaller than 3 MB: of a layer with more weights than fit, it holds the outputs that
    matter most for this image, and says so. It shows the network as it is in use: batch normalisation scales with its
    running statistics, dropout drops nothing. Raises ShapeError or DataError for an image that does not fit, TypeError
    for a layer that minicnn does not know, and OSError where the file cannot be written.
    """
    text = page(model, image, label, class_names, title)
    with atomic_write(path) as file:
        file.write(text.encode())


def page(model: Network, image: np.ndarray, label=None, class_names=None, title="") -> str:
    """The text of the page."""
    files = resources.files(__name__.rpartition(".")[0])
    scripts = [_in_scope(name, (files / f"{name}.mjs").read_text("utf-8")) for name in SCRIPTS]
    data = json.dumps(describe(model, image, label, class_names, title)).replace("<", "\\u003c")
    text = (files / "page.html").read_text("utf-8")
    for mark, part in (
        ("/* page.css */", (files / "page.css").read_text("utf-8")),
        ("/* data */", data),
        ("/* scripts */", "\n".join(["const modules = {};", *scripts])),
    ):
        text = text.replace(mark, part, 1)
    return text


def _in_scope(name: str, script: str) -> str:
    """A module as a function that runs at once: its imports come from `modules`, where its exports go."""
    exported = re.findall(r"^export (?:function|const|class) (\w+)", script, re.MULTILINE)
    script = re.sub(
        r'^import (\{[^}]*\}) from "\./(\w+)\.mjs";$', r"const \1 = modules.\2;", script, flags=re.MULTILINE
    )
    script = re.sub(r"^export ", "", script, flags=re.MULTILINE)
    return f"modules.{name} = (() => {{\n{script}\nreturn {{ {', '.join(exported)} }};\n}})();"


def describe(model: Network, image, label=None, class_names=None, title="") -> dict:
    """All that the page is made from."""
    image = inputs.check_images(np.asarray(image)[None], model.input_shape, model.dtype)
    classifies = len(model.output_shape) == 1 and model.output_shape[0] > 1
    class_names = model.class_names if class_names is None else class_names
    names = list(map(str, class_names if class_names is not None else range(model.output_shape[-1])))
    if classifies and len(names) != model.output_shape[0]:
        raise ValueError(f"class_names: got {len(names)} names, expected {model.output_shape[0]}")
    known = label is not None
    if known:
        if not classifies:
            raise ValueError(f"label: got {label!r}, expected none: outputs {model.output_shape} are not classes")
        (label,) = map(int, inputs.check_targets(np.asarray([label]), 1, model.output_shape, True))
    outputs = model.outputs(image)
    if classifies and not known:
        label = int(outputs.argmax())
    for layer in model.all_layers():
        if type(layer) not in LAYERS.values():
            raise TypeError(f"{layer.title}: got {type(layer).__name__}, expected one of minicnn's own layers")
    factor, shift = model.scale.factors(image.dtype, image.shape[-1]) if image.ndim == 4 else ([1], [0])
    return {
        "title": title,
        "image": {"shape": image.shape[1:], "values": _numbers(image), "bytes": image.dtype == np.uint8},
        "scale": {"factor": list(map(float, factor)), "shift": list(map(float, shift))},
        "classes": names if classifies else None,
        "label": label,
        "labelKnown": known,
        "probabilities": model.gives_probabilities,
        "outputs": list(map(float, outputs.ravel())),
        "nodes": _nodes(model.layers, _cuts(model, image, label)),
    }


def _nodes(layers: Sequence[Layer], cuts: dict[str, Cut]) -> list[dict]:
    """Each layer as one node, or as two where it ends in an activation: a node is one function."""
    nodes = []
    for layer in layers:
        shapes = {"input": layer.input_shape, "output": layer.output_shape}
        nodes.append({"name": layer.name, **shapes, **_function(layer, cuts)})
        activate = getattr(layer, "activate", None)
        if activate is not None and not isinstance(activate, Identity):
            shapes["input"] = layer.output_shape
            nodes.append({"name": activate.name, **shapes, **_function(activate, cuts)})
    return nodes


def _function(layer: Layer, cuts: dict[str, Cut]) -> dict:
    """What a layer computes before its activation."""
    match layer:
        case Conv2D() | DepthwiseConv2D() | Dense():
            return _weighted(layer, cuts.get(layer.name))
        case BatchNorm():
            arrays = {w.name: _numbers(w.value) for w in layer.weights()}
            return {"kind": "batchnorm", "epsilon": layer.epsilon, **arrays}
        case MaxPool2D() | AveragePool2D():
            return {"kind": type(layer).__name__.lower(), "window": layer.window._asdict()}
        case Residual():
            return {"kind": "residual", "branch": _nodes(layer.branch, cuts), "shortcut": _nodes(layer.shortcut, cuts)}
        case Activation():
            return {"kind": "activation", "f": type(layer).__name__.lower(), **layer.config()}
        case _:
            return {"kind": type(layer).__name__.lower()}


def _weighted(layer: Conv2D | DepthwiseConv2D | Dense, cut: Cut | None) -> dict:
    """A convolution or a dense layer; where it is too large, the part of it that matters most, with all that it gives."""
    w = layer.w.value
    node = {"kind": "dense"} if isinstance(layer, Dense) else {"kind": "conv", "window": layer.window._asdict()}
    if isinstance(layer, DepthwiseConv2D):
        w = w.swapaxes(2, 3)  # (kh, kw, 1, c): a convolution whose groups have one channel each
    node["groups"] = layer.input_shape[-1] // w.shape[-2]
    if cut is not None:
        ending, dx = cut.seen.ending or cut.seen, cut.seen.dx
        z, dz = ending.x, ending.dx
        matters = np.abs(z * dz).reshape(-1, z.shape[-1]).sum(axis=0)
        channels = (cut.room - z.size - dx.size) // (w.size // w.shape[-1])
        if channels < 1:
            raise ValueError(f"{layer.title}: too large for a page, which holds {MOST_NUMBERS:,} numbers")
        kept = np.sort(np.argsort(-matters, kind="stable")[:channels])
        w = w[..., kept]
        node |= {"kept": kept.tolist(), "given": {"y": _numbers(z), "dx": _numbers(dx)}}
    bias = _numbers(layer.b.value) if layer.use_bias else None
    return {**node, "w": _numbers(w), "shape": w.shape, "b": bias}


class Cut(NamedTuple):
    """A layer whose weights do not all fit: what was seen of it, and how many numbers there is room for."""

    seen: Watched
    room: int


def _cuts(model: Network, image: np.ndarray, label: int | None) -> dict[str, Cut]:
    """The layers that are too large, by name. Small ones leave their part of the room to the larger ones."""
    sizes = {layer.name: sum(w.value.size for w in layer.weights()) for layer in model.all_layers()}
    left = MOST_NUMBERS
    for i, name in enumerate(by_size := sorted(sizes, key=sizes.__getitem__)):
        if sizes[name] > (room := left // (len(sizes) - i)):
            seen = trace(model, image, label)
            return {name: Cut(seen[name], room) for name in by_size[i:]}
        left -= sizes[name]
    return {}


def _numbers(array: np.ndarray) -> str:
    """float32 in base64."""
    return base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode()
