"""A model as an ONNX file: one node of the graph, or two or three, for each layer.

ONNX wants channels first, (n, c, h, w), and convolutions' weights as (filters, channels, rows, columns). So images are
transposed as they come in, and back before a Flatten and at the end: what goes in and out is NHWC, as for the model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import numpy as np

from minicnn import __version__, archive
from minicnn import layers as L
from minicnn.errors import ModelFileError
from minicnn.export.known import check_layers, takes_bytes
from minicnn.extras import need
from minicnn.files import atomic_write
from minicnn.layers import Layer
from minicnn.layers.activations import Identity
from minicnn.network import Network

NAMES = "class_names"  # of the file's metadata
OPSET, IR = 20, 9  # the first with Gelu; what files of its time are called

POINTWISE: dict[type[Layer], str] = {L.ReLU: "Relu", L.Sigmoid: "Sigmoid", L.Tanh: "Tanh"}


def to_onnx(model: Network, path: str | os.PathLike) -> None:
    """Write the model as it is in use to an ONNX file of float32, checked by onnx.checker.

    The input "images" is (n, h, w, c), any n: uint8 where the model was trained on uint8, whose standardising is in the
    graph, else float32. The output "outputs" is what `model.outputs` gives: for most classifiers logits, whose softmax are
    the probabilities. Names of layers and arrays are the model's own; those of the classes are a JSON list among the
    file's metadata, under "class_names". Needs the extra "onnx".

    Raises TypeError for a layer that is not minicnn's own, ModelFileError beyond two gigabytes, ImportError, OSError.
    """
    onnx = need("onnx", "onnx")
    check_layers(model)
    if 4 * model.parameter_count > archive.MOST_BYTES:
        raise ModelFileError(f"{path}: {model.parameter_count:,} weights are too many for an ONNX file")
    content = onnx.helper.make_model(
        _graph(onnx, model),
        producer_name="minicnn",
        producer_version=__version__,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR,
    )
    if model.class_names:
        onnx.helper.set_model_props(content, {NAMES: json.dumps(model.class_names)})
    onnx.checker.check_model(content, full_check=True)
    with atomic_write(path) as file:
        file.write(content.SerializeToString())


def _graph(onnx, model: Network):
    graph = Graph(onnx)
    bytes_in, float32 = takes_bytes(model), onnx.TensorProto.FLOAT
    x = "images"
    if bytes_in:
        factor, shift = model.scale.factors(np.dtype(np.uint8), model.input_shape[-1])
        x = graph.node("Cast", x, to=float32)
        x = graph.node("Mul", x, graph.array("scale/factor", factor))
        x = graph.node("Add", x, graph.array("scale/shift", shift))
    x = graph.channels_first(x, len(model.input_shape))
    x = graph.layers(model.layers, x)
    x = graph.channels_last(x, len(model.output_shape))
    graph.node("Identity", x, output="outputs")
    info = onnx.helper.make_tensor_value_info
    kind = onnx.TensorProto.UINT8 if bytes_in else float32
    images = info("images", kind, ["n", *model.input_shape])
    outputs = info("outputs", float32, ["n", *model.output_shape])
    return onnx.helper.make_graph(graph.nodes, "minicnn", [images], [outputs], graph.arrays)


class Graph:
    """Nodes and arrays, in the order in which they run. A node is called after the tensor that it gives."""

    def __init__(self, onnx):
        self.onnx, self.nodes, self.arrays = onnx, [], []

    def node(self, op: str, *inputs: str, output: str = "", **attributes) -> str:
        """Add a node; returns its output's name, by default one that tells what it is and is free."""
        output = output or f"{op.lower()}:{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def array(self, name: str, values: np.ndarray) -> str:
        """Add an array of float32; returns its name."""
        values = np.ascontiguousarray(values, np.float32)
        self.arrays.append(self.onnx.numpy_helper.from_array(values, name))
        return name

    def weights(self, layer: Layer) -> list[str]:
        """A layer's arrays as they are, in the model's order."""
        return [self.array(f"{layer.name}/{w.name}", w.value) for w in layer.weights()]

    def channels_first(self, x: str, rank: int) -> str:
        """(n, h, w, c) to (n, c, h, w); likewise for any rank, which does not count n."""
        return x if rank == 1 else self.node("Transpose", x, perm=[0, rank, *range(1, rank)])

    def channels_last(self, x: str, rank: int) -> str:
        """And back."""
        return x if rank == 1 else self.node("Transpose", x, perm=[0, *range(2, rank + 1), 1])

    def layers(self, layers: Sequence[Layer], x: str) -> str:
        """Each layer, and the activation that it ends in, on the output of the one before it."""
        for layer in layers:
            x = self.layer(layer, x)
            if (ending := getattr(layer, "activate", None)) is not None:
                x = self.layer(ending, x)
        return x

    def layer(self, layer: Layer, x: str) -> str:
        """One layer without its activation."""
        match layer:
            case Identity() | L.Dropout():
                return x
            case L.Conv2D() | L.DepthwiseConv2D():
                return self.convolution(layer, x)
            case L.Dense():
                return self.node("Gemm" if layer.use_bias else "MatMul", x, *self.weights(layer), output=layer.name)
            case L.BatchNorm():
                inputs = (x, *self.weights(layer))
                return self.node("BatchNormalization", *inputs, output=layer.name, epsilon=layer.epsilon)
            case L.MaxPool2D():
                return self.node("MaxPool", x, output=layer.name, **_window(layer))
            case L.AveragePool2D():
                return self.node("AveragePool", x, output=layer.name, count_include_pad=0, **_window(layer))
            case L.GlobalMaxPool2D() | L.GlobalAveragePool2D():
                op = "GlobalMaxPool" if isinstance(layer, L.GlobalMaxPool2D) else "GlobalAveragePool"
                return self.node("Flatten", self.node(op, x), output=layer.name)
            case L.Flatten():
                return self.node("Flatten", self.channels_last(x, len(layer.input_shape)), output=layer.name)
            case L.Residual():
                y, shortcut = self.layers(layer.branch, x), self.layers(layer.shortcut, x)
                return self.node("Add", y, shortcut, output=layer.name)
            case L.LeakyReLU():
                return self.node("LeakyRelu", x, alpha=layer.negative_slope)
            case L.GELU():
                return self.node("Gelu", x, approximate="tanh")
            case L.SiLU():
                return self.node("Mul", x, self.node("Sigmoid", x))
            case L.Softmax():
                return self.node("Softmax", x, axis=1)
        return self.node(POINTWISE[type(layer)], x)

    def convolution(self, layer: L.Conv2D | L.DepthwiseConv2D, x: str) -> str:
        """Weights (kh, kw, c/groups, filters) as (filters, c/groups, kh, kw), depthwise (kh, kw, c, 1) as (c, 1, kh, kw)."""
        w = layer.w.value
        if isinstance(layer, L.DepthwiseConv2D):
            w, groups = w.transpose(2, 3, 0, 1), w.shape[2]
        else:
            w, groups = w.transpose(3, 2, 0, 1), layer.groups
        arrays = [self.array(f"{layer.name}/w", w)]
        if layer.use_bias:
            arrays.append(self.array(f"{layer.name}/b", layer.b.value))
        options = {"group": groups, "dilations": layer.dilation, **_window(layer)}
        return self.node("Conv", x, *arrays, output=layer.name, **options)


def _window(layer) -> dict:
    """How a window slides, as ONNX says it; its pads are top, left, bottom, right."""
    (top, bottom), (left, right) = layer.window.padding
    return {"kernel_shape": layer.window.size, "strides": layer.stride, "pads": [top, left, bottom, right]}
