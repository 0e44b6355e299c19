"""A network as an ONNX graph with its weights inside, channels first: what the inference runtimes read."""

from __future__ import annotations

import numpy as np
from nets import channels_first, place
from onnx import TensorProto, helper, numpy_helper

PLAIN = {"relu": "Relu", "gap": "GlobalAveragePool", "flatten": "Flatten"}


def operations(layer):
    """The ONNX operators of a layer and their attributes; None stands for the layer's arrays among the inputs."""
    kind, options, (_, _, c), _ = layer
    if kind == "conv":
        pad = [options[1] // 2] * 4
        return [("Conv", {"kernel_shape": [options[1]] * 2, "strides": [options[2]] * 2, "pads": pad})]
    if kind == "depthwise":
        return [("Conv", {"kernel_shape": [options[0]] * 2, "pads": [options[0] // 2] * 4, "group": c})]
    if kind == "bn":
        return [("BatchNormalization", {"epsilon": 1e-5})]
    if kind == "pool":
        return [("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]})]
    if kind == "dense":
        return [("Flatten", {}), ("Gemm", {"transB": 1})]  # what is flat stays as it is
    return [] if kind == "dropout" else [(PLAIN[kind], {})]


def graph(net, arrays, batch) -> bytes:
    """The serialized model: input "x" (batch, c, h, w), output "logits" (batch, classes)."""
    nodes, constants, last = [], [], "x"

    def add(operator, inputs, attributes):
        nodes.append(helper.make_node(operator, inputs, [f"t{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    for layer in place(net, arrays):
        if layer.kind == "silu":
            last = add("Mul", [last, add("Sigmoid", [last], {})], {})
            continue
        names = [f"w{len(constants) + i}" for i in range(len(layer.arrays))]
        for name, array in zip(names, layer.arrays, strict=True):
            constants.append(numpy_helper.from_array(channels_first(layer, array).astype(np.float32), name))
        for operator, attributes in operations(layer):
            last = add(operator, [last, *([] if operator in ("Flatten", "MaxPool") else names)], attributes)
    nodes[-1].output[0] = "logits"
    h, w, c = net.shape
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, c, h, w])
    y = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, net.layers[-1][1]])
    made = helper.make_graph(nodes, "net", [x], [y], constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def images(x) -> np.ndarray:
    """Images (n, h, w, c) as the graph takes them."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))
