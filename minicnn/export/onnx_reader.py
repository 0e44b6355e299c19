"""An ONNX file as a model, where it is made of the layers that we have.

The graph is read node by node, in its order. For each tensor we keep the layers from the input to it (`Tensor.layers`), so
that the output's are the network. Three things stand otherwise in a graph than here:

- Its axes. Transposing makes no layer: `Tensor.axes` tells which axis of ours each of the tensor's is, and a dense layer
  after a flatten of (c, h, w) has its rows put in our order, (h, w, c).
- An Add of two tensors is the end of a residual block, which begins where their lists of layers part.
- Activations are often spelled out: x * sigmoid(x), or GELU in eight nodes. What works number by number is kept as its
  values at some points, and known by them when the next layer asks: see pointwise.py.

A file may come from a stranger. No code is run from it and no other file opened; and what is made of it is counted before
it is made, so that it takes little more memory than the file's own length.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from minicnn import archive
from minicnn import layers as L
from minicnn.arguments import pair
from minicnn.errors import ModelFileError
from minicnn.export import pointwise
from minicnn.export.onnx_writer import NAMES
from minicnn.export.pointwise import FUNCTIONS, LINE, LINEAR, POINTS
from minicnn.extras import need
from minicnn.layers import Layer, activations, sequence
from minicnn.layers.windows import make_window
from minicnn.model import Sequential
from minicnn.model_files import fill
from minicnn.network import MOST_LAYERS
from minicnn.parameters import Parameters

Arrays = dict[str, np.ndarray]  # of a layer, by name
N = 2**31 - 19  # stands for the number of images where a graph computes with it
MOVES = {"Cast", "Identity", "Transpose"}
OF_SHAPES = LINEAR | {"Gather", "Concat", "Slice"}  # computed where all inputs are known
OF_ARRAYS = MOVES | {"Reshape", "Squeeze", "Unsqueeze"}  # and these at any length


class Tensor(NamedTuple):
    """A tensor of the graph, as our layers give it."""

    layers: tuple[Layer, ...]  # from the input to here
    shape: tuple[int, ...]  # ours, without n
    axes: tuple[int | None, ...]  # which of ours each of its axes is, n being 0; None: of length 1, and we have none
    order: tuple | None = None  # where it was flattened from other axes than ours: the shape and axes before
    samples: np.ndarray | None = None  # where a function number by number goes on from the layers: its values
    raw: bool = False  # uint8 that is not standardised yet


def from_onnx(path: str | os.PathLike) -> Sequential:
    """The model in an ONNX file, to predict with, train further and save; images are NHWC whatever they were there.

    Taken are Conv, Gemm, MatMul, BatchNormalization, MaxPool, AveragePool, GlobalMaxPool, GlobalAveragePool and what reduces
    an image in the same way, Softmax, our activations under their own names or spelled out, Add of two branches, one of
    them with at most one layer, and what moves axes. Raises ModelFileError, which names the node, for anything else,
    ImportError without the extra "onnx", and OSError.
    """
    onnx = need("onnx", "onnx")
    with archive.opened(path, "an ONNX file that minicnn can read") as file:
        content = onnx.load(file, load_external_data=False)
        return Reader(onnx, content, os.path.getsize(path)).model()


class Reader:
    """Reads one graph."""

    def __init__(self, onnx, content, length: int):
        self.onnx, self.graph = onnx, content.graph
        props = {item.key: item.value for item in content.metadata_props}
        self.class_names = json.loads(props.get(NAMES, "null")) if content.producer_name == "minicnn" else None
        self.opset = max((item.version for item in content.opset_import if item.domain in ("", "ai.onnx")), default=1)
        self.room = 16 * length + 2**24  # bytes that may be taken
        self.tensors: dict[str, Tensor] = {}
        self.known = {array.name: self.array(array) for array in self.graph.initializer}
        self.weights: dict[Layer, Arrays] = {}
        self.scale: tuple[np.ndarray, np.ndarray] | None = None

    def model(self) -> Sequential:
        """The network, with its weights."""
        images, outputs = [i for i in self.graph.input if i.name not in self.known], self.graph.output
        if len(images) != 1 or len(outputs) != 1:
            raise ModelFileError(f"got {len(images)} inputs and {len(outputs)} outputs, expected one of each")
        first = self.tensors[images[0].name] = self.images(images[0])
        for node in self.graph.node:
            try:
                self.read(node)
            except MemoryError:
                raise
            except Exception as error:  # whatever a strange file makes NumPy or onnx raise
                name = (node.name or "".join(node.output[:1]))[:80]
                raise ModelFileError(f"node {name!r} ({node.op_type[:40]}): {error}") from error
        try:
            last = self.tensor(outputs[0].name)
        except ValueError as error:
            raise ModelFileError(f"output {outputs[0].name[:80]!r}: {error}") from error
        axes = [a for a in last.axes if a is not None]
        if last.order or axes not in (list(range(len(axes))), [0, 3, 1, 2]):
            raise ModelFileError(
                f"output {outputs[0].name[:80]!r}: its axes are in another order than a layer's of ours"
            )
        model = Sequential.declared(last.layers or [L.Dropout(0)], first.shape)
        if self.scale is not None:
            factor, shift = self.scale
            model.scale.std, model.scale.mean = 1 / (255 * factor), -shift / (255 * factor)
        model.class_names = self.class_names
        model.parameters.allocate(None)
        arrays = {
            f"{layer.name}/{k}": a for layer in model.all_layers() for k, a in self.weights.get(layer, {}).items()
        }
        fill(model, arrays)
        return model

    def images(self, info) -> Tensor:
        """The input: images with channels first unless the graph begins by moving them there."""
        kind, dims = info.type.tensor_type.elem_type, [d.dim_value for d in info.type.tensor_type.shape.dim]
        types = self.onnx.TensorProto
        if kind not in (types.UINT8, types.FLOAT, types.FLOAT16, types.DOUBLE) or len(dims) < 2 or min(dims[1:]) < 1:
            raise ModelFileError(
                f"input {info.name[:80]!r}: got {dims}, expected uint8 or floats, all sizes known but the first"
            )
        self.n, axes = dims[0] or N, tuple(range(len(dims)))
        if len(dims) == 4 and not self.channels_last(info.name, dims):
            dims, axes = [dims[0], *dims[2:], dims[1]], (0, 3, 1, 2)
        return Tensor((), tuple(dims[1:]), axes, raw=kind == types.UINT8)

    def channels_last(self, name: str, dims: Sequence[int]) -> bool:
        """Whether images come as (n, h, w, c): they are transposed, or flattened and look like it."""
        names = {name}
        for node in self.graph.node:
            if names & set(node.input):
                if node.op_type in FUNCTIONS or node.op_type in ("Cast", "Identity"):
                    names |= set(node.output)
                elif node.op_type == "Transpose":
                    return list(self.options(node).get("perm", [])) == [0, 3, 1, 2]
                elif node.op_type in ("Flatten", "Reshape"):
                    return dims[3] < min(dims[1:3])
                elif node.op_type != "Shape":
                    return False
        return False

    # -- what nodes are made of ----------------------------------------------------------------------------------

    def options(self, node) -> dict:
        """A node's attributes."""
        return {a.name: self.onnx.helper.get_attribute_value(a) for a in node.attribute}

    def array(self, array) -> np.ndarray:
        """An array of the file."""
        if array.data_location == self.onnx.TensorProto.EXTERNAL:
            raise ModelFileError(
                f"array {array.name[:80]!r} lies in another file, expected one file (external_data=False)"
            )
        if math.prod(array.dims) > 8 * array.ByteSize():
            raise ModelFileError(
                f"array {array.name[:80]!r}: got fewer numbers than its shape {list(array.dims)}"[:300]
            )
        return self.onnx.numpy_helper.to_array(array)

    def constant(self, name: str) -> np.ndarray:
        """An input that must be known: floats as float32."""
        if name not in self.known:
            raise ValueError(f"input {name[:80]!r} is computed from the images, expected numbers")
        array = self.known[name]
        return array if array.dtype.kind in "iub" else array.astype(np.float32, copy=False)

    def is_true(self, name: str) -> bool:
        """Whether an input that must be known is a truth value, and true."""
        array = self.constant(name)
        return array.dtype == bool and bool(array.any())

    def tensor(self, name: str) -> Tensor:
        """An input that must come from the images, its number-by-number function now a layer."""
        if name not in self.tensors:
            raise ValueError(f"input {name[:80]!r}: got a constant, expected what a layer gives")
        self.tensors[name] = settled = self.settle(self.tensors[name])
        return settled

    def spend(self, count: int) -> None:
        """Count bytes that will be taken."""
        self.room -= count
        if self.room < 0:
            raise ValueError("takes more memory than the file's length explains")

    def append(self, x: Tensor, layer: Layer, arrays: Arrays | None = None, axes: tuple | None = None) -> Tensor:
        """x through one more layer, whose arrays these are."""
        arrays = arrays or {}
        if len(x.layers) >= MOST_LAYERS:
            raise ValueError(f"expected at most {MOST_LAYERS:,} layers")
        shape = sequence.build([layer], x.shape, Parameters())
        for w in layer.weights():
            if arrays[w.name].shape != w.shape:
                raise ValueError(f"{w.name}: got shape {arrays[w.name].shape}, expected {w.shape}")
        self.spend(8 * len(x.layers) + 1000 + sum(16 * array.size for array in arrays.values()))
        self.weights[layer] = arrays
        return Tensor((*x.layers, layer), shape, axes or x.axes, x.order if len(shape) == 1 else None)

    def features(self, x: Tensor, array: np.ndarray) -> np.ndarray:
        """An array with a row for each of x's channels, or for each number that was flattened, in our order."""
        if x.order is None or len(array) != x.shape[0]:
            return array
        self.spend(array.nbytes + 8 * len(array))
        shape, axes = x.order
        places = np.arange(len(array)).reshape(shape).transpose([a - 1 for a in axes[1:] if a]).ravel()
        ours = np.empty_like(array)
        ours[places] = array
        return ours

    # -- number by number ----------------------------------------------------------------------------------------

    def pointwise(self, f: Callable, names: list[str], op: str) -> Tensor:
        """f of tensors and constants, number by number; an Add of two branches is a residual block."""
        images = [name for name in names if name in self.tensors]
        if len(set(images)) == 1:  # a function of what an activation gave begins anew
            self.tensors[images[0]] = self.settle(self.tensors[images[0]], before=op)
        x, *others = (self.tensors[name] for name in images)
        apart = any(x.layers != other.layers or x.axes != other.axes for other in others)
        if op == "Add" and others and (apart or any(map(_is_activation, (x, *others)))):
            return self.residual(*map(self.tensor, images))
        if apart:
            raise ValueError(f"got two branches, expected an Add of them: {images}"[:300])
        values = [self.samples(x, name) for name in names]
        self.spend(8 * sum(v.size for v in values))
        return x._replace(samples=pointwise.apply(f, values))

    def samples(self, x: Tensor, name: str) -> np.ndarray:
        """The values of a tensor that stands for a function; a constant as one number, or one for each of x's channels."""
        if name in self.tensors:
            own = self.tensors[name].samples
            return POINTS if own is None else own
        array = self.constant(name).astype(float)
        if array.size == 1 and (array.ndim == 0 or x.shape[-1] > 1):
            return array.reshape(())
        sizes = [1] * (len(x.axes) - array.ndim) + list(array.shape)
        if sizes != [x.shape[-1] if a == len(x.shape) else 1 for a in x.axes]:
            raise ValueError(f"got an array of shape {array.shape}, expected one number, or one for each channel")
        return np.broadcast_to(self.features(x, array.ravel()), (LINE, array.size))

    def settle(self, x: Tensor, before: str = "") -> Tensor:
        """x with its function as a layer; `before` an operation that may go on with it, only where it must be one."""
        if x.samples is None and not x.raw:
            return x
        y, plain = POINTS if x.samples is None else x.samples, x._replace(samples=None)
        layer = None if x.raw else pointwise.activation(y)
        if layer is not None:
            return self.append(plain, layer)
        if before in LINEAR | MOVES or (before and len(y) > LINE and not x.raw):
            return x
        straight = pointwise.line(y)
        if straight is None:
            raise ValueError(f"before it {pointwise.unknown(y)}")
        return self.line(plain, *(np.broadcast_to(v, x.shape[-1:]) for v in straight))

    def line(self, x: Tensor, factor: np.ndarray, shift: np.ndarray) -> Tensor:
        """x * factor + shift, channel by channel: how uint8 are standardised, a bias, or else a batch normalisation."""
        if x.raw:
            if self.scale is not None and any(map(np.any, np.subtract(self.scale, (factor, shift)))):
                raise ValueError("the images are standardised in two ways, expected one")
            if not (factor > 1e-30).all() or not np.isfinite(np.array([1 / factor, factor, shift], np.float32)).all():
                raise ValueError("expected uint8 images to be multiplied by finite numbers above 0")
            self.scale = factor, shift
            return x._replace(raw=False)
        if (factor == 1).all() and not shift.any():
            return x
        last = x.layers[-1] if x.layers else None
        if (factor == 1).all() and isinstance(last, L.Conv2D | L.DepthwiseConv2D | L.Dense) and not last.use_bias:
            layer = type(last)(**last.config() | {"use_bias": True})
            before = Tensor(x.layers[:-1], last.input_shape, x.axes)
            return self.append(before, layer, self.weights[last] | {"b": shift})
        zeros, norm = np.zeros(len(shift)), L.BatchNorm()
        variance = zeros + (1 - norm.epsilon)
        return self.append(x, norm, dict(gamma=factor, beta=shift, mean=zeros, variance=variance))

    def residual(self, a: Tensor, b: Tensor) -> Tensor:
        """The end of a block that began where the two lists of layers part."""
        if (a.shape, a.axes, a.order) != (b.shape, b.axes, b.order):
            raise ValueError(f"got branches of shapes {a.shape} and {b.shape}, expected one shape and order of axes")
        common = next((i for i, (p, q) in enumerate(zip(a.layers, b.layers, strict=False)) if p is not q), None)
        common = min(len(a.layers), len(b.layers)) if common is None else common
        shortcut, branch = sorted((a.layers[common:], b.layers[common:]), key=len)
        if len(shortcut) > 1:
            shortcut, branch = sorted((self.joined(branch), self.joined(shortcut)), key=len)
        if len(shortcut) > 1:
            raise ValueError(
                f"got branches of {len(shortcut)} and {len(branch)} layers, expected one to have at most 1"
            )
        shape = a.layers[common - 1].output_shape if common else next(iter(self.tensors.values())).shape
        block = L.Residual(*branch, projection=shortcut[0] if shortcut else None)
        return self.append(Tensor(a.layers[:common], shape, a.axes, a.order), block)

    def joined(self, layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
        """One layer for those that follow it, as far as can be: a projection must be one."""
        while len(layers) > 1 and isinstance(layers[0], L.Conv2D | L.DepthwiseConv2D | L.BatchNorm):
            head, layer, *rest = layers
            config, arrays = head.config(), self.weights[head]
            names = [name for name, kind in activations.BY_NAME.items() if repr(kind()) == repr(layer)]
            if config["activation"] is None and names:
                config["activation"] = names[0]
            elif config["activation"] is None and type(head) is L.Conv2D and type(layer) is L.BatchNorm:
                norm = self.weights[layer]
                factor = norm["gamma"] / np.sqrt(norm["variance"] + layer.epsilon)
                b = norm["beta"] + (arrays.get("b", 0) - norm["mean"]) * factor
                config, arrays = config | {"use_bias": True}, {"w": arrays["w"] * factor, "b": b}
            else:
                break
            made = type(head)(**config)
            self.append(Tensor((), head.input_shape, ()), made, arrays)
            layers = (made, *rest)
        return layers

    # -- node by node --------------------------------------------------------------------------------------------

    def read(self, node) -> None:
        """Give a node's output its tensor, or its numbers where they are known."""
        op, names, options, out = node.op_type, [n for n in node.input if n], self.options(node), node.output[0]
        missing = [n[:80] for n in names if n not in self.tensors and n not in self.known]
        if missing or node.domain not in ("", "ai.onnx"):
            raise ValueError(f"unknown: {missing or node.domain[:80]}")
        if op == "Constant":
            value = next(iter(options.values()))
            self.known[out] = self.array(value) if isinstance(value, self.onnx.TensorProto) else np.asarray(value)
        elif op == "Shape":
            name = names[0]
            sizes = self.known[name].shape if name in self.known else [self.n, *_sizes(self.tensors[name])]
            self.known[out] = np.array(sizes[options.get("start", 0) : options.get("end", len(sizes))], np.int64)
        elif names and all(name in self.known for name in names):
            self.known[out] = self.compute(node, op, [self.known[name] for name in names])
        else:
            self.tensors[out] = self.layer(op, names, options)

    def compute(self, node, op: str, arrays: list[np.ndarray]) -> np.ndarray:
        """A node of known numbers: of arrays only what leaves them as long as they are."""
        if op not in OF_ARRAYS and not (op in OF_SHAPES and sum(array.size for array in arrays) <= 100):
            raise ValueError("of constants alone, expected its result in the file: export with constants folded")
        self.spend(8 * sum(array.size for array in arrays))
        evaluator = need("onnx.reference", "onnx").ReferenceEvaluator(node, opsets={"": self.opset})
        return np.asarray(evaluator.run(None, dict(zip([n for n in node.input if n], arrays, strict=True)))[0])

    def layer(self, op: str, names: list[str], options: dict) -> Tensor:
        """The tensor that a node gives."""
        if op in FUNCTIONS:
            return self.pointwise(FUNCTIONS[op], names, op)
        if op == "LeakyRelu":
            return self.pointwise(L.LeakyReLU(options.get("alpha", 0.01)).f, names, op)
        if op == "Gelu":
            if options.get("approximate") != b"tanh":
                raise ValueError('got the exact form, expected approximate="tanh"')
            return self.pointwise(L.GELU().f, names, op)
        if op in MOVES:  # in the middle of an activation too
            x = self.tensors[names[0]] = self.settle(self.tensors[names[0]], before=op)
        else:
            x = self.tensor(names[0])
        match op:
            case "Cast":
                types = self.onnx.TensorProto
                if options["to"] not in (types.FLOAT, types.FLOAT16, types.DOUBLE):
                    raise ValueError(f"got type {options['to']}, expected one of floats")
                return x
            case "Identity":
                return x
            case "Dropout":
                training = not options.get("is_test") if self.opset < 7 else any(map(self.is_true, names[1:]))
                if training:
                    raise ValueError("got training mode, expected a network in use: export after eval()")
                return x
            case "Transpose":
                perm = options.get("perm", range(len(x.axes))[::-1])
                if perm[0] != 0:
                    raise ValueError(f"got perm {list(perm)}, expected images to stay first")
                return x._replace(axes=tuple(x.axes[p] for p in perm))
            case "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze":
                return self.reshape(op, x, names, options)
            case "Conv":
                return self.convolution(x, *map(self.constant, names[1:]), options=options)
            case "Gemm" | "MatMul":
                return self.dense(x, *map(self.constant, names[1:]), options=options)
            case "BatchNormalization":
                if x.axes[1:2] != (len(x.shape),) or options.get("training_mode"):
                    raise ValueError("expected channels on the second axis, and no training mode")
                arrays = [self.features(x, self.constant(name)) for name in names[1:]]
                layer = L.BatchNorm(epsilon=options.get("epsilon", 1e-5))
                return self.append(x, layer, dict(zip(("gamma", "beta", "mean", "variance"), arrays, strict=True)))
            case "Softmax":
                axis = options.get("axis", -1 if self.opset >= 13 else 1)
                if x.axes[axis] != len(x.shape) or (self.opset < 13 and len(x.shape) > 1):
                    raise ValueError(f"got axis {axis}, expected that of the channels")
                return self.append(x, L.Softmax())
            case "MaxPool" | "AveragePool":
                return self.pool(op, x, options)
            case "GlobalMaxPool" | "GlobalAveragePool" | "ReduceMean" | "ReduceMax":
                return self.global_pool(op, x, names, options)
        raise ValueError("minicnn has no layer for it")

    def convolution(self, x: Tensor, w, b=None, *, options: dict) -> Tensor:
        """(filters, c/groups, kh, kw) as (kh, kw, c/groups, filters), or (kh, kw, c, 1) where each channel is its group."""
        self.check_image(x)
        if w.ndim != 4:
            raise ValueError(f"got weights of shape {w.shape}, expected (filters, channels, rows, columns)")
        groups, bias = options.get("group", 1), {} if b is None else {"b": b}
        slide = self.slide(x, w.shape[2:], options)
        if 1 < groups == x.shape[2] == len(w):
            depthwise = L.DepthwiseConv2D(**slide, use_bias=b is not None)
            return self.append(x, depthwise, {"w": w.transpose(2, 3, 0, 1), **bias})
        layer = L.Conv2D(len(w), **slide, groups=groups, use_bias=b is not None)
        return self.append(x, layer, {"w": w.transpose(2, 3, 1, 0), **bias})

    def dense(self, x: Tensor, w, b=None, *, options: dict) -> Tensor:
        """Gemm's alpha, beta and transposed weights, or MatMul's none."""
        if x.axes != (0, 1) or len(x.shape) != 1 or w.ndim != 2 or options.get("transA"):
            raise ValueError(f"got {x.shape} times {w.shape}, expected (n, c) times (c, units)")
        w = w.T if options.get("transB") else w
        if len(w) != x.shape[0]:
            raise ValueError(f"got weights of shape {w.shape}, expected ({x.shape[0]}, units)")
        bias = {} if b is None else {"b": np.broadcast_to(b.ravel(), w.shape[1:]) * options.get("beta", 1.0)}
        w = self.features(x, w) * options.get("alpha", 1.0)
        return self.append(x._replace(order=None), L.Dense(w.shape[1], use_bias=b is not None), {"w": w, **bias})

    def pool(self, op: str, x: Tensor, options: dict) -> Tensor:
        """Windows without gaps; a mean of pixels in the image only."""
        self.check_image(x)
        slide = self.slide(x, options["kernel_shape"], options)
        if max(slide.pop("dilation")) > 1:
            raise ValueError("got dilations, expected none")
        layer = (L.MaxPool2D if op == "MaxPool" else L.AveragePool2D)(slide.pop("kernel_size"), **slide)
        y = self.append(x, layer)
        span = [n + sum(p) - k for n, p, k in zip(x.shape, layer.window.padding, layer.pool_size, strict=False)]
        if options.get("ceil_mode") and any(left % s for left, s in zip(span, layer.stride, strict=True)):
            raise ValueError("got ceil_mode, expected windows that lie in the image")
        if op == "AveragePool" and options.get("count_include_pad") and np.any(layer.window.padding):
            raise ValueError("got count_include_pad, expected the mean of pixels in the image")
        return y

    def global_pool(self, op: str, x: Tensor, names: list[str], options: dict) -> Tensor:
        """One number for each channel, be the image's axes kept or not."""
        keep = op.startswith("Global") or options.get("keepdims", 1)
        axes = self.known[names[1]] if len(names) > 1 else options.get("axes", ())
        over = {x.axes[int(a)] for a in axes} if op.startswith("Reduce") else {1, 2}
        if len(x.shape) != 3 or over != {1, 2} or None in x.axes:
            raise ValueError(f"got {x.shape}, expected rows and columns of an image to be reduced")
        layer = L.GlobalMaxPool2D() if "Max" in op else L.GlobalAveragePool2D()
        left = [0 if a == 0 else 1 if a == 3 else None for a in x.axes]
        return self.append(x, layer, axes=tuple(a for a in left if keep or a is not None))

    def reshape(self, op: str, x: Tensor, names: list[str], options: dict) -> Tensor:
        """A flatten, or axes of length 1 that come or go."""
        sizes = _sizes(x)
        axes = self.known[names[1]].tolist() if len(names) > 1 else options.get("axes", [])
        if op == "Flatten":
            target = [N, math.prod(sizes)] if options.get("axis", 1) in (1, -len(sizes)) else []
        elif op == "Reshape":
            target = [([self.n, *sizes][i : i + 1] or [0])[0] if v == 0 else int(v) for i, v in enumerate(axes)]
        elif op == "Squeeze":
            axes = [a % (len(sizes) + 1) for a in axes or [i for i, s in enumerate(sizes, 1) if s == 1]]
            target = [] if 0 in axes else [N, *(s for i, s in enumerate(sizes, 1) if i not in axes)]
        else:
            target = [N, *sizes]
            for a in sorted(a % (len(sizes) + 1 + len(axes)) for a in axes):
                target.insert(a, 1)
        rest = math.prod(sizes) // max(1, math.prod(s for s in target[1:] if s > 0))
        target = target[:1] + [rest if s == -1 else s for s in target[1:]]
        if target[:1] not in ([-1], [N], [self.n]) or math.prod(target[1:]) != math.prod(sizes):
            raise ValueError(f"got {sizes} to {target[1:]}, expected a flatten")
        if target[1:] == sizes:
            return x
        if len(target) == 2 and len(x.shape) == 1:
            return x._replace(axes=(0, 1))
        if len(target) == 2:
            ordered = [a for a in x.axes if a is not None] == list(range(len(x.shape) + 1))
            return self.append(x, L.Flatten(), axes=(0, 1))._replace(order=None if ordered else (x.shape, x.axes))
        if [s for s in target[1:] if s > 1] != [s for s in sizes if s > 1]:
            raise ValueError(f"got {sizes} to {target[1:]}, expected a flatten")
        long = iter([a for a, s in zip(x.axes[1:], sizes, strict=True) if s > 1])
        return x._replace(axes=(0, *(next(long) if s > 1 else None for s in target[1:])))

    def check_image(self, x: Tensor) -> None:
        """An image with channels first, as ONNX wants it."""
        if x.axes != (0, 3, 1, 2):
            raise ValueError(f"got an input of {len(x.axes)} axes, expected (n, channels, rows, columns)")

    def slide(self, x: Tensor, size: Sequence[int], options: dict) -> dict:
        """A window's arguments; padding must be alike on both sides, or what "same" means."""
        kernel, stride = pair(size, "kernel_shape"), pair(options.get("strides", 1), "strides")
        dilation, auto = pair(options.get("dilations", 1), "dilations"), options.get("auto_pad", b"NOTSET").decode()
        same = make_window(L.MaxPool2D(), x.shape, kernel, stride, "same", dilation).padding
        top, left, bottom, right = options.get("pads", (0, 0, 0, 0))
        if auto == "SAME_LOWER":
            (bottom, top), (right, left) = same
        if auto == "SAME_UPPER" or ((top, bottom), (left, right)) == same:
            padding: str | tuple[int, int] = "same"
        elif auto == "VALID":
            padding = "valid"
        elif (top, left) == (bottom, right):
            padding = (top, left)
        else:
            raise ValueError(f"got pads {[top, left, bottom, right]}, expected the same on both sides, or {same}")
        return {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation}


def _is_activation(x: Tensor) -> bool:
    """Whether the function that goes on from its layers is one of our layers."""
    return x.samples is not None and pointwise.activation(x.samples) is not None


def _sizes(x: Tensor) -> list[int]:
    """The graph's sizes of a tensor, without n."""
    return [1 if a is None else x.shape[a - 1] for a in x.axes[1:]]
