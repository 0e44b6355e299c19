"""Models that leave and models that come: what other programs compute from our files, and we from theirs, is the same."""

import importlib
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.numpy
from onnx import TensorProto, helper, numpy_helper

import minicnn
from minicnn import (
    AveragePool2D,
    BatchNorm,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePool2D,
    GlobalMaxPool2D,
    Layer,
    LeakyReLU,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
    Softmax,
)
from minicnn.__main__ import main
from minicnn.errors import ModelFileError
from minicnn.export import from_onnx, from_safetensors, to_numpy, to_onnx, to_safetensors
from minicnn.extras import DISTRIBUTION
from minicnn.layers.activations import BY_NAME
from minicnn.model_files import LAYERS
from minicnn.recipes import RECIPES


def shaken(layers, input_shape, seed, bytes_in=False):
    """A network whose every array is far from its first values, so that each counts; and images for it."""
    model, rng = Sequential(layers, input_shape, seed=seed), np.random.default_rng(seed)
    for w in model.arrays().values():
        w.value[...] += rng.uniform(0.05, 0.3, w.shape) * (1 if w.name == "variance" else rng.choice((-1, 1), w.shape))
    images = rng.integers(0, 256, (5, *input_shape), dtype=np.uint8)
    if bytes_in:
        model.scale.learn(images)
    return model, images if bytes_in else ((images / 255 - 0.5) * 3).astype(np.float32)


def heads(rng):
    """Three ends of a network for images, and their other layers."""
    return [
        [Flatten(), BatchNorm(epsilon=1e-3), Dense(7, activation="gelu"), Dropout(0.1), Dense(3, use_bias=False)],
        [GlobalAveragePool2D(), Dense(4), Softmax()],
        [GlobalMaxPool2D(), Dense(4, activation="softmax")],
        [],
    ][rng.integers(4)]


def body(rng):
    """Layers for images with 4 channels that leave 4 channels, every kind and every option among them."""

    def two(most, least=1):
        return tuple(int(v) for v in rng.integers(least, most, 2))

    def padding():
        return ["same", "valid", two(2, 0)][rng.integers(3)]

    activation = [None, *(name for name in BY_NAME if name != "softmax")][rng.integers(len(BY_NAME))]
    window = dict(stride=two(3), padding=padding(), use_bias=bool(rng.integers(2)), activation=activation)
    pool = dict(stride=two(3), padding=["same", "valid"][rng.integers(2)])
    return [
        lambda: Conv2D(4, two(4), dilation=two(3), groups=int(rng.choice([1, 2, 4])), **window),
        lambda: DepthwiseConv2D(two(4), dilation=two(2), **window),
        lambda: BatchNorm(activation=activation),
        lambda: MaxPool2D(two(4), **pool),
        lambda: AveragePool2D(two(4), **pool),
        lambda: Residual(Conv2D(4, 3), BatchNorm(activation=activation), Dropout(0.2), activation=activation),
        lambda: Residual(
            *(Conv2D(4, 3, stride=2), Residual(Conv2D(4, 1), BY_NAME["tanh"]())),
            projection=Conv2D(4, 1, stride=2, activation=activation),
        ),
        lambda: BY_NAME[list(BY_NAME)[rng.integers(len(BY_NAME))]](),
        lambda: LeakyReLU(0.2),
    ][rng.integers(9)]()


def random_network(seed):
    """Any layers with any options in any order; the seeds that are odd take uint8."""
    rng = np.random.default_rng(seed)
    size = tuple(int(v) for v in rng.integers(20, 30, 2))
    layers = [Conv2D(4, 3), *(body(rng) for _ in range(rng.integers(1, 6))), *heads(rng)]
    return shaken(layers, (*size, int(rng.integers(1, 4))), seed, bytes_in=seed % 2 == 1)


def run_onnx(path, images):
    """What ONNX Runtime makes of it."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,), (got,) = session.get_inputs(), session.get_outputs()
    return session.run([got.name], {given.name: images})[0]


def equal(a, b, tolerance=1e-4):
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.fixture
def numpy_backend():
    minicnn.use_backend("numpy")
    yield
    minicnn.use_backend("numba")


@pytest.fixture(scope="module")
def sample():
    return minicnn.load_fashion_mnist("sample", verbose=False)


@pytest.fixture(scope="module")
def trained(sample):
    """A small network that learnt something, and how it answers."""
    layers = [Conv2D(8, 3, stride=2, activation="relu"), BatchNorm(), MaxPool2D(), Flatten(), Dense(10)]
    model = Sequential(layers)
    model.fit(sample.train_images, sample.train_labels, epochs=1, verbose=False)
    return model


# -- random networks, and the recipes ------------------------------------------------------------------------------

SEEDS = range(40)


def test_the_random_networks_hold_every_layer():
    kinds = {type(layer) for seed in SEEDS for layer in random_network(seed)[0].all_layers()}
    assert kinds == set(LAYERS.values())


@pytest.mark.parametrize("seed", SEEDS)
def test_every_layer_leaves_and_comes_back(seed, tmp_path, numpy_backend):
    model, images = random_network(seed)
    expected = model.outputs(images)
    to_onnx(model, tmp_path / "model.onnx")
    equal(run_onnx(tmp_path / "model.onnx", images), expected)
    back = from_onnx(tmp_path / "model.onnx")
    equal(back.outputs(images), expected)
    assert (back.scale.mean is None) == (model.scale.mean is None)
    to_safetensors(model, tmp_path / "model.safetensors")
    np.testing.assert_array_equal(from_safetensors(tmp_path / "model.safetensors").outputs(images), expected)
    to_numpy(model, tmp_path / f"predict{seed}.py")
    sys.path.insert(0, str(tmp_path))
    try:
        found = importlib.import_module(f"predict{seed}").predict(images)
    finally:
        sys.path.remove(str(tmp_path))
    assert found.dtype == np.float32
    equal(found, model.predict(images), 1e-5)


@pytest.mark.parametrize(
    "name",
    ["default", "seed", pytest.param("fast94", marks=pytest.mark.slow), pytest.param("record", marks=pytest.mark.slow)],
)
def test_a_recipe_names_the_same_classes_of_1000_images_by_onnx_runtime(name, sample, tmp_path):
    model, held_out = RECIPES[name].model(), (sample.train_images[:100], sample.train_labels[:100])
    RECIPES[name].fit(model, (sample.train_images, sample.train_labels), held_out, epochs=1, batch_size=50)
    images, path = sample.test_images, tmp_path / "model.onnx"
    assert len(images) == 1000
    to_onnx(model, path)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    expected, found = model.outputs(images), run_onnx(path, images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(found.argmax(axis=1), model.predict_classes(images))
    assert len(set(found.argmax(axis=1))) > 1
    back = from_onnx(path)
    np.testing.assert_allclose(back.outputs(images), expected, rtol=0, atol=1e-4)
    kinds = [[layer for layer in m.all_layers() if layer.weights()] for m in (back, model)]
    assert [type(layer) for layer in kinds[0]] == [type(layer) for layer in kinds[1]]


# -- ONNX: what leaves ---------------------------------------------------------------------------------------------


def test_the_graph_takes_what_the_model_takes_for_any_number_of_images(trained, sample, tmp_path):
    to_onnx(trained, tmp_path / "bytes.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "bytes.onnx")
    (given,), (got,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["n", 28, 28, 1])
    assert (got.name, got.type, got.shape) == ("outputs", "tensor(float)", ["n", 10])
    for n in (1, 7):
        assert run_onnx(tmp_path / "bytes.onnx", sample.test_images[:n]).shape == (n, 10)
    to_onnx(Sequential([Conv2D(3, 3)], (4, 5, 2)), tmp_path / "floats.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "floats.onnx")
    assert (session.get_inputs()[0].type, session.get_inputs()[0].shape) == ("tensor(float)", ["n", 4, 5, 2])
    assert session.get_outputs()[0].shape == ["n", 4, 5, 3]


@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 4, 6)])
def test_inputs_that_are_no_images_leave_too(shape, tmp_path, numpy_backend):
    model, x = shaken([BatchNorm(), ReLU(), Softmax(), Flatten(), Dense(3)], shape, seed=1)
    to_onnx(model, tmp_path / "model.onnx")
    equal(run_onnx(tmp_path / "model.onnx", x), model.outputs(x))


@pytest.mark.parametrize("name", BY_NAME)
def test_a_block_of_an_activation_alone_comes_back(name, tmp_path, numpy_backend):
    block = Residual(BY_NAME[name](), activation=None if name == "softmax" else name)
    model, images = shaken(
        [Conv2D(4, 3, activation=name), block, Residual(BatchNorm()), Residual(Dropout(0.5))], (6, 5, 3), 0
    )
    to_onnx(model, tmp_path / "model.onnx")
    equal(run_onnx(tmp_path / "model.onnx", images), model.outputs(images))
    equal(from_onnx(tmp_path / "model.onnx").outputs(images), model.outputs(images))


@pytest.mark.parametrize("write", [to_onnx, to_numpy])
def test_a_layer_of_ones_own_is_refused_by_its_name(write, tmp_path):
    class Square(Layer):
        def forward(self, x, training=False):
            return x * x

    with pytest.raises(TypeError, match=r"square_1: got Square, expected one of minicnn's own layers"):
        write(Sequential([Residual(ReLU()), Square(), Flatten(), Dense(2)], (3, 3, 1)), tmp_path / "model")
    assert not list(tmp_path.iterdir())


# -- ONNX: what comes ----------------------------------------------------------------------------------------------


def graph(nodes, arrays, images, kind=TensorProto.FLOAT, opset=20, out="y", extra=()):
    """An ONNX model from (op, inputs, output, attributes); its input is "x"."""
    made = [helper.make_node(op, ins.split(), [to], name=f"node {to}", **options) for op, ins, to, options in nodes]
    info, n = helper.make_tensor_value_info, images[0]
    given = [info("x", kind, images), *(info(name, kind, [n, 2]) for name in extra)]
    arrays = [numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()]
    content = helper.make_graph(made, "graph", given, [info(out, TensorProto.FLOAT, None)], arrays)
    return helper.make_model(content, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def taken(content, images, folder):
    """Our model of it, which must give what ONNX Runtime gives for images with channels first."""
    path = folder / "theirs.onnx"
    onnx.save(content, path)
    model = from_onnx(path)
    ours = np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if images.ndim == 4 else images
    equal(model.outputs(ours), run_onnx(path, images), 1e-5)
    return [type(layer).__name__ for layer in model.layers]


SPELLED = {
    "SiLU": [("Sigmoid", "c", "s", {}), ("Mul", "c s", "a", {})],
    "Sigmoid": [
        ("Mul", "c half", "h", {}),
        ("Tanh", "h", "t", {}),
        ("Add", "t one", "u", {}),
        ("Mul", "u half", "a", {}),
    ],
    "GELU": [
        *(("Pow", "c three", "p", {}), ("Mul", "p k", "q", {}), ("Transpose", "q", "v", {"perm": [0, 2, 3, 1]})),
        *(("Transpose", "v", "w_", {"perm": [0, 3, 1, 2]}), ("Add", "c w_", "r", {}), ("Mul", "r pi", "s", {})),
        *(("Tanh", "s", "t", {}), ("Add", "one t", "u", {}), ("Mul", "c half", "h", {}), ("Mul", "h u", "a", {})),
    ],
    "LeakyReLU": [("PRelu", "c slope", "a", {})],
    "BatchNorm": [("Sub", "c mean", "m", {}), ("Div", "m std", "a", {})],
}


@pytest.mark.parametrize("name", SPELLED)
def test_what_is_spelled_out_is_known_by_its_values(name, tmp_path, numpy_backend):
    scalars = {"half": 0.5, "one": 1, "three": 3, "k": 0.044715, "pi": (2 / np.pi) ** 0.5, "slope": 0.3}
    arrays = {k: np.float32(v) for k, v in scalars.items()}
    arrays |= {"w": numbers(4, 1, 3, 3), "mean": numbers(4, 1, 1), "std": 1.5 + numbers(4, 1, 1)}
    nodes = [("Conv", "x w", "c", {}), *SPELLED[name], ("Relu", "a", "b", {}), ("GlobalMaxPool", "b", "g", {})]
    nodes += [("Flatten", "g", "y", {})]
    kinds = taken(graph(nodes, arrays, [None, 1, 6, 7]), 3 * numbers(4, 1, 6, 7), tmp_path)
    assert kinds == ["Conv2D", name, "ReLU", "GlobalMaxPool2D"]


def test_channels_first_are_flattened_by_rows_that_are_put_in_order(tmp_path, numpy_backend):
    """As PyTorch does it: x.view(x.size(0), -1), then Linear, then BatchNorm1d."""
    arrays = {
        "w": numbers(4, 3, 3, 3),
        "d": numbers(6, 4 * 4 * 5),
        "b": numbers(6),
        "m": numbers(6, 2),
        "zero": np.int64(0),
    }
    arrays |= {"first": np.array([0]), "rest": np.array([-1]), "f": numbers(4 * 4 * 5), "g": numbers(4 * 4 * 5, seed=1)}
    nodes = [
        *(("Conv", "x w", "c", {"strides": [1, 1]}), ("Relu", "c", "r", {})),
        *(("Shape", "r", "s", {}), ("Gather", "s zero", "n", {}), ("Unsqueeze", "n first", "n1", {})),
        *(("Concat", "n1 rest", "t", {"axis": 0}), ("Reshape", "r t", "v", {})),
        *(("Mul", "v f", "vf", {}), ("Add", "vf g", "vg", {}), ("Tanh", "vg", "vt", {})),
        *(("Gemm", "vt d b", "e", {"transB": 1}), ("MatMul", "e m", "h", {}), ("Softmax", "h", "y", {"axis": 1})),
    ]
    kinds = taken(graph(nodes, arrays, ["n", 3, 6, 7]), numbers(3, 3, 6, 7), tmp_path)
    assert kinds == ["Conv2D", "ReLU", "Flatten", "BatchNorm", "Tanh", "Dense", "Dense", "Softmax"]


def test_a_residual_block_may_have_a_normalised_projection(tmp_path, numpy_backend):
    arrays = {
        "w": numbers(4, 2, 3, 3),
        "v": numbers(4, 4, 3, 3),
        "p": numbers(4, 2, 1, 1),
        "d": numbers(4, 3),
        "b": numbers(3),
    }
    arrays |= {"g": numbers(4), "h": numbers(4, seed=1), "m": numbers(4, seed=2), "s": 1.5 + numbers(4, seed=3)}
    nodes = [
        *(
            ("Relu", "x", "r", {}),
            ("Conv", "r w", "c", {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
            ("Relu", "c", "c1", {}),
        ),
        *(("Conv", "c1 v", "c2", {"auto_pad": "SAME_UPPER"}), ("Conv", "r p", "p1", {"strides": [2, 2]})),
        *(("BatchNormalization", "p1 g h m s", "p2", {}), ("Add", "c2 p2", "z", {}), ("Sigmoid", "z", "z1", {})),
        *(("Add", "z1 z2", "z3", {}), ("ReduceMean", "z3 axes", "q", {"keepdims": 0})),
        *(("MatMul", "q d", "q1", {}), ("Add", "q1 b", "y", {})),
    ]
    nodes.insert(-4, ("Conv", "z1 v", "z2", {"pads": [1, 1, 1, 1]}))
    arrays["axes"] = np.array([2, 3])
    kinds = taken(graph(nodes, arrays, [None, 2, 7, 6]), numbers(3, 2, 7, 6), tmp_path)
    assert kinds == ["ReLU", "Residual", "Sigmoid", "Residual", "GlobalAveragePool2D", "Dense"]


def test_pools_and_depthwise_convolutions_come(tmp_path, numpy_backend):
    arrays = {"w": numbers(6, 1, 3, 2), "b": numbers(6), "v": numbers(3, 6, 2, 2), "u": numbers(8, 4, 1, 1)}
    nodes = [
        *(("Conv", "x w b", "c", {"group": 6, "dilations": [1, 2], "pads": [1, 1, 1, 1]}), ("LeakyRelu", "c", "l", {})),
        ("MaxPool", "l", "m", {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 0]}),
        ("AveragePool", "m", "a", {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}),
        *(("Conv", "a v", "c2", {}), ("Gelu", "c2", "y", {"approximate": "tanh"})),
    ]
    path = tmp_path / "pools.onnx"
    onnx.save(graph(nodes, arrays, [None, 6, 9, 8]), path)
    images = numbers(2, 6, 9, 8)
    model = from_onnx(path)
    equal(model.outputs(images.transpose(0, 2, 3, 1).copy()).transpose(0, 3, 1, 2), run_onnx(path, images), 1e-5)
    kinds = [DepthwiseConv2D, LeakyReLU, MaxPool2D, AveragePool2D, Conv2D, BY_NAME["gelu"]]
    assert [type(layer) for layer in model.layers] == kinds


def conv(**options):
    return [("Conv", "x w", "c", options), ("Flatten", "c", "y", {})]


def after(*nodes):
    return [("Conv", "x w", "c", {}), *nodes]


REFUSED = {
    "LogSoftmax": (after(("LogSoftmax", "c", "y", {})), r"node 'node y' \(LogSoftmax\): minicnn has no layer for it"),
    "exact GELU": (
        after(("Gelu", "c", "y", {})),
        r"node 'node y' \(Gelu\): got the exact form, expected approximate=\"tanh\"",
    ),
    "erf spelled out": (
        after(
            *(("Div", "c root", "d", {}), ("Erf", "d", "e", {}), ("Add", "e one", "f", {}), ("Mul", "c f", "g", {})),
            *(("Mul", "g half", "h", {}), ("Flatten", "h", "y", {})),
        ),
        r"node 'node y' \(Flatten\): before it .* no activation of minicnn's; nearest is GELU, off by 0.0004",
    ),
    "a kink where no activation has one": (
        after(("Sub", "c far", "d", {}), ("Relu", "d", "e", {}), ("Flatten", "e", "y", {})),
        r"node 'node y' \(Flatten\): before it a function .* that is no activation",
    ),
    "a kink that a few points do not see": (
        after(("Add", "c far", "d", {}), ("Relu", "d", "e", {}), ("Sub", "e far", "f", {}), ("Mul", "f each", "y", {})),
        r"node 'node y' \(Mul\): before it a function .* that is no activation",
    ),
    "numbers cut off": (
        after(("Cast", "c", "d", {"to": TensorProto.INT32}), ("Cast", "d", "y", {"to": TensorProto.FLOAT})),
        r"node 'node d' \(Cast\): got type 6, expected one of floats",
    ),
    "n is squeezed": (after(("Squeeze", "c first", "y", {})), r"node 'node y' \(Squeeze\): got \[4, 7, 7\] to \[\]"),
    "pads": (
        conv(pads=[2, 0, 0, 0]),
        r"node 'node c' \(Conv\): got pads \[2, 0, 0, 0\], expected the same on both sides",
    ),
    "mean of padding": (
        after(("AveragePool", "c", "y", dict(kernel_shape=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1))),
        r"node 'node y' \(AveragePool\): got count_include_pad",
    ),
    "ceil": (
        after(("MaxPool", "c", "y", dict(kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1))),
        r"node 'node y' \(MaxPool\): got ceil_mode",
    ),
    "a product of branches": (
        after(("Conv", "x w", "d", {}), ("Mul", "c d", "y", {})),
        r"node 'node y' \(Mul\): got two branches, expected an Add",
    ),
    "a sum by position": (
        after(("Add", "c places", "y", {})),
        r"node 'node y' \(Add\): got an array of shape \(7, 7\), expected one number, or one for each channel",
    ),
    "weights that do not fit": (
        after(("Flatten", "c", "f", {}), ("MatMul", "f small", "y", {})),
        r"node 'node y' \(MatMul\): got weights of shape \(3, 2\), expected \(196, units\)",
    ),
    "another axis": (
        after(("Softmax", "c", "y", {"axis": 2})),
        r"\(Softmax\): got axis 2, expected that of the channels",
    ),
    "images moved": (after(("Transpose", "c", "y", {"perm": [1, 0, 2, 3]})), r"\(Transpose\): got perm .* stay first"),
    "no flatten": (
        after(("Reshape", "c shape", "y", {})),
        r"\(Reshape\): got \[4, 7, 7\] to \[14, 14\], expected a flatten",
    ),
    "a large constant": (
        after(("ConstantOfShape", "huge", "k", {}), ("Add", "c k", "y", {})),
        r"node 'node k' \(ConstantOfShape\): of constants alone",
    ),
    "dropout in training": (
        after(("Dropout", "c half true", "y", {})),
        r"node 'node y' \(Dropout\): got training mode, expected a network in use: export after eval",
    ),
    "a name that nothing gives": (
        after(("Relu", "nothing", "y", {})),
        r"node 'node y' \(Relu\): unknown: \['nothing'\]",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_taken_is_one_line_that_names_the_node(name, tmp_path):
    nodes, message = REFUSED[name]
    arrays = {"w": numbers(4, 1, 2, 2), "root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}
    arrays |= {"far": np.float32(128), "places": numbers(7, 7), "small": numbers(3, 2), "shape": np.array([-1, 14, 14])}
    arrays |= {
        "true": np.array(True),
        "huge": np.array([10**6, 10**6]),
        "each": numbers(4, 1, 1),
        "first": np.array([0]),
    }
    onnx.save(graph(nodes, arrays, [None, 1, 8, 8]), tmp_path / "theirs.onnx")
    with pytest.raises(ModelFileError, match=message) as told:
        from_onnx(tmp_path / "theirs.onnx")
    assert str(told.value).startswith(f"{tmp_path / 'theirs.onnx'}: ") and "\n" not in str(told.value)


def test_dropout_in_use_is_none_in_every_opset(tmp_path, numpy_backend):
    arrays = {"w": numbers(4, 1, 2, 2), "half": np.float32(0.5), "false": np.array(False)}
    for opset, node in (
        (20, ("Dropout", "c half false", "d", {})),
        (13, ("Dropout", "c half", "d", {})),
        (7, ("Dropout", "c", "d", {"ratio": 0.3})),
    ):
        nodes = after(node, ("GlobalMaxPool", "d", "e", {}), ("Flatten", "e", "y", {}))
        content = graph(nodes, arrays, ["n", 1, 8, 8], opset=opset)
        assert taken(content, numbers(3, 1, 8, 8), tmp_path) == ["Conv2D", "GlobalMaxPool2D"]
    old = graph(after(("Dropout", "c", "y", {})), arrays, ["n", 1, 8, 8], opset=6)
    refused(old, tmp_path, r"\(Dropout\): got training mode")


def refused(content, folder, message):
    path = folder / "theirs.onnx"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    with pytest.raises(ModelFileError, match=message):
        from_onnx(path)


def test_files_that_are_no_network_are_refused(tmp_path):
    w = {"w": numbers(4, 1, 2, 2)}
    refused(b"PK\3\4 something else", tmp_path, r"theirs.onnx: not an ONNX file")
    refused(graph(conv(), w, [None, 1, 8, None]), tmp_path, r"input 'x': got .*, expected .* all sizes known")
    refused(
        graph(conv(), w, [None, 1, 8, 8], extra=["z"]), tmp_path, r"got 2 inputs and 1 outputs, expected one of each"
    )
    infinite = graph(conv()[:1], {"w": w["w"] * np.inf}, [None, 1, 8, 8], out="c")
    refused(infinite, tmp_path, r"theirs.onnx: conv2d_1/w: got NaN or infinity")
    refused(graph(conv(), w, [None, 1, 8, 8]), tmp_path, r"output 'y': its axes are in another order")
    with pytest.raises(ModelFileError, match=r"nowhere.onnx: no such file"):
        from_onnx(tmp_path / "nowhere.onnx")
    with pytest.raises(ModelFileError, match=r"not an ONNX file that minicnn can read \(a folder\)"):
        from_onnx(tmp_path)


def test_weights_in_another_file_are_not_read(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(1000))
    content = graph(conv(), {"w": numbers(4, 1, 2, 2)}, [None, 1, 8, 8])
    array = content.graph.initializer[0]
    array.ClearField("raw_data")
    array.data_location = TensorProto.EXTERNAL
    array.external_data.add(key="location", value="secret")
    refused(content, tmp_path, r"array 'w' lies in another file, expected one file")


def test_a_file_cannot_ask_for_more_memory_than_its_length_explains(tmp_path):
    content = graph(conv(), {"w": numbers(4, 1, 2, 2)}, [None, 1, 8, 8])
    content.graph.initializer[0].dims[0] = 2**40
    refused(content, tmp_path, r"array 'w': got fewer numbers than its shape")
    wide = [("Conv", "x w", "c", {})] + [("Conv", f"c{'' if i == 0 else i} v", f"c{i + 1}", {}) for i in range(80)]
    arrays = {"w": numbers(256, 1, 1, 1), "v": numbers(256, 256, 1, 1)}
    refused(
        graph(wide, arrays, [None, 1, 8, 8], out="c80"), tmp_path, r"takes more memory than the file's length explains"
    )
    doubled = [("Conv", "x w", "c0", {})] + [("Mul", f"c{i} c{i}", f"c{i + 1}", {}) for i in range(3000)]
    refused(graph(doubled, arrays, [None, 1, 8, 8], out="c3000"), tmp_path, r"output 'c3000': before it a function")
    vast = graph(
        [("Flatten", "x", "f", {}), ("MatMul", "f d", "y", {})], {"d": numbers(4, 2)}, [None, 2**20, 2**20, 2**20]
    )
    refused(vast, tmp_path, r"\(MatMul\): got weights of shape \(4, 2\)")


def test_a_damaged_file_is_refused_or_read_and_raises_nothing_else(tmp_path):
    model, _ = shaken([Conv2D(4, 3, activation="silu"), MaxPool2D(), Flatten(), Dense(3)], (8, 8, 1), seed=3)
    to_onnx(model, tmp_path / "model.onnx")
    whole, rng, refusals = (tmp_path / "model.onnx").read_bytes(), np.random.default_rng(0), 0
    for i in range(300):
        damaged = bytearray(whole[: rng.integers(len(whole))] if i % 10 == 0 else whole)
        for at in rng.integers(0, max(1, len(damaged)), 2) if damaged else ():
            damaged[at] = rng.integers(256)
        (tmp_path / "damaged.onnx").write_bytes(damaged)
        try:
            from_onnx(tmp_path / "damaged.onnx")
        except ModelFileError:
            refusals += 1
    assert 100 < refusals


# -- what PyTorch and Keras make -----------------------------------------------------------------------------------


def torch_networks(torch):
    """Networks in PyTorch, and their images' shapes."""
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, c, f, stride):
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(c, f, 3, stride, 1, bias=False), nn.BatchNorm2d(f), nn.ReLU())
            self.second = nn.Sequential(nn.Conv2d(f, f, 3, 1, 1, bias=False), nn.BatchNorm2d(f))
            down = nn.Sequential(nn.Conv2d(c, f, 1, stride, bias=False), nn.BatchNorm2d(f))
            self.down = nn.Identity() if c == f else down

        def forward(self, x):
            return torch.relu(self.second(self.first(x)) + self.down(x))

    class View(nn.Module):
        def forward(self, x):
            return x.view(x.size(0), -1)

    plain = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 3, 2, groups=2, dilation=2)]
    plain += [nn.SiLU(), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(36, 10), nn.GELU("tanh"), nn.BatchNorm1d(10)]
    blocks = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), Block(8, 8, 1), Block(8, 12, 2)]
    light = [nn.Conv2d(3, 8, 3, 2, 1), nn.LeakyReLU(0.1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Sigmoid()]
    return {
        "plain": (nn.Sequential(*plain, nn.Dropout(), nn.Linear(10, 4), nn.Softmax(1)), (3, 18, 14)),
        "residual": (nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)), (3, 12, 10)),
        "light": (
            nn.Sequential(*light, nn.AvgPool2d(2), nn.BatchNorm2d(8), nn.Tanh(), View(), nn.Linear(48, 5)),
            (3, 12, 8),
        ),
    }


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("name", ["plain", "residual", "light"])
def test_a_network_that_pytorch_exports_comes(name, dynamo, tmp_path, numpy_backend):
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch onnxscript")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed, with which torch exports")
    torch.manual_seed(0)
    net, shape = torch_networks(torch)[name]
    for array in net.state_dict().values():
        if array.ndim == 1:
            array.uniform_(0.5, 1.5)
    images = torch.rand(5, *shape) - 0.3
    expected = net.eval()(images).detach().numpy()
    options = {"external_data": False, "dynamic_shapes": ({0: torch.export.Dim("n")},)} if dynamo else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options |= {} if dynamo else {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}
        torch.onnx.export(net, (images[:2],), tmp_path / "torch.onnx", dynamo=dynamo, verbose=False, **options)
    model = from_onnx(tmp_path / "torch.onnx")
    equal(model.outputs(images.numpy().transpose(0, 2, 3, 1).copy()), expected, 1e-5)


KERAS = """
import os, sys
os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="", KERAS_BACKEND="tensorflow")
import keras, numpy as np
from keras import layers as K

def block(x, f, stride):
    y = K.ReLU()(K.BatchNormalization()(K.Conv2D(f, 3, stride, "same", use_bias=False)(x)))
    y = K.BatchNormalization()(K.Conv2D(f, 3, 1, "same", use_bias=False)(y))
    if stride > 1:
        x = K.BatchNormalization()(K.Conv2D(f, 1, stride, use_bias=False)(x))
    return K.ReLU()(K.Add()([x, y]))

def plain(x):
    x = K.Conv2D(6, 3, dilation_rate=2, padding="same", activation="tanh")(K.Rescaling(1 / 255.0)(x))
    x = K.Conv2D(6, 3, 2, "same", activation="relu")(K.MaxPooling2D(2, padding="same")(x))
    x = K.Activation(lambda t: keras.activations.gelu(t, approximate=True))(x)
    return K.Dense(4, activation="softmax")(K.Dropout(0.1)(K.Dense(8, activation="silu")(K.Flatten()(x))))

def residual(x):
    x = block(block(K.Conv2D(8, 3, padding="same")(x), 8, 1), 12, 2)
    return K.Dense(4)(K.GlobalAveragePooling2D()(x))

def light(x):
    x = K.BatchNormalization()(K.DepthwiseConv2D(3, padding="same")(K.Conv2D(8, 3)(x)))
    x = K.AveragePooling2D(2, padding="same")(K.Activation("sigmoid")(x))
    return K.Dense(4)(K.GlobalMaxPooling2D()(K.LeakyReLU(negative_slope=0.2)(x)))

rng = np.random.default_rng(0)
images = rng.random((5, 15, 14, 3), dtype="float32") * 2
for make in (plain, residual, light):
    given = keras.Input((15, 14, 3))
    net = keras.Model(given, make(given))
    for w in net.weights:
        if len(w.shape) == 1:
            w.assign(rng.uniform(0.5, 2, w.shape))
    outputs = net.predict(images, verbose=0)
    net.export(f"{make.__name__}.onnx", format="onnx", verbose=False)
    arrays = {f"w{i:02}": w for i, w in enumerate(net.get_weights())}
    np.savez(f"{make.__name__}.npz", images=images, outputs=outputs, **arrays)
"""


@pytest.fixture(scope="module")
def keras_folder(tmp_path_factory):
    """Networks that Keras exported, in a process of its own."""
    for name in ("tensorflow", "keras", "tf2onnx"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install tensorflow tf2onnx")
    folder = tmp_path_factory.mktemp("keras")
    done = subprocess.run([sys.executable, "-c", KERAS], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", ["plain", "residual", "light"])
def test_a_network_that_keras_exports_comes(name, keras_folder, numpy_backend):
    told = np.load(keras_folder / f"{name}.npz")
    equal(from_onnx(keras_folder / f"{name}.onnx").outputs(told["images"]), told["outputs"], 1e-5)


def test_arrays_of_keras_are_taken_as_they_are(keras_folder, numpy_backend):
    told = np.load(keras_folder / "light.npz")
    layers = [Conv2D(8, 3, padding="valid"), DepthwiseConv2D(3), BatchNorm(epsilon=1e-3, activation="sigmoid")]
    layers += [AveragePool2D(2, padding="same"), LeakyReLU(0.2), GlobalMaxPool2D(), Dense(4)]
    model = Sequential(layers, (15, 14, 3))
    model.set_weights([told[name] for name in sorted(told.files) if name.startswith("w")])
    equal(model.outputs(told["images"]), told["outputs"], 1e-5)


def test_arrays_of_pytorch_are_taken_as_the_readme_says(numpy_backend):
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    net, shape = torch_networks(torch)["plain"]
    images = torch.rand(5, *shape) - 0.3
    arrays = [a.numpy() for name, a in net.eval().state_dict().items() if not name.endswith("num_batches_tracked")]
    arrays = [a.transpose(2, 3, 1, 0) if a.ndim == 4 else a.T for a in arrays]
    model = Sequential(
        [
            *(Conv2D(8, 3, padding=1, activation="relu"), MaxPool2D()),
            *(Conv2D(6, 3, stride=2, groups=2, dilation=2, padding="valid", activation="silu"), BatchNorm(), Flatten()),
            *(Dense(10, activation="gelu"), BatchNorm(), Dropout(0.5), Dense(4), Softmax()),
        ],
        (18, 14, 3),
    )
    first = next(i for i, a in enumerate(arrays) if a.shape == (36, 10))  # after the Flatten of (c, h, w) = (6, 3, 2)
    arrays[first] = arrays[first].reshape(6, 3, 2, -1).transpose(1, 2, 0, 3).reshape(36, -1)
    model.set_weights(arrays)
    equal(model.outputs(images.numpy().transpose(0, 2, 3, 1).copy()), net(images).detach().numpy(), 1e-5)


# -- safetensors ---------------------------------------------------------------------------------------------------


def test_safetensors_hold_the_arrays_by_our_names(trained, tmp_path):
    to_safetensors(trained, tmp_path / "model.safetensors")
    arrays = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert set(arrays) == set(trained.arrays())
    for name, w in trained.arrays().items():
        np.testing.assert_array_equal(arrays[name], w.value)
    back = from_safetensors(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(back.scale.mean, trained.scale.mean)
    assert str(back) == str(trained)


def test_arrays_that_another_program_wrote_fill_a_model(tmp_path):
    arrays = {"dense_1/w": np.ones((4, 2), np.float16), "dense_1/b": np.array([3.0, 4.0])}
    safetensors.numpy.save_file(arrays, tmp_path / "theirs.safetensors")
    model = Sequential([Flatten(), Dense(2)], (2, 2, 1))
    assert from_safetensors(tmp_path / "theirs.safetensors", model) is model
    assert model.outputs(np.ones((1, 2, 2, 1), np.float32)).tolist() == [[7, 8]]
    with pytest.raises(ModelFileError, match=r"theirs.safetensors: holds arrays but no layers"):
        from_safetensors(tmp_path / "theirs.safetensors")


def test_safetensors_that_do_not_fit_are_refused_and_change_nothing(tmp_path):
    model, path = Sequential([Flatten(), Dense(2)], (2, 2, 1)), tmp_path / "theirs.safetensors"
    before = model.get_weights()
    for arrays, message in (
        ({"dense_1/w": numbers(4, 3), "dense_1/b": numbers(2)}, r"dense_1/w: got shape \(4, 3\), expected \(4, 2\)"),
        ({"dense_1/w": numbers(4, 2)}, r"dense_1/b: got shape none, expected \(2,\)"),
        ({"dense_1/w": numbers(4, 2), "dense_1/b": numbers(2) * np.nan}, r"dense_1/b: got NaN or infinity"),
        ({"a": numbers(1), "dense_1/w": numbers(4, 2), "dense_1/b": numbers(2)}, r"a: got shape \(1,\), expected none"),
    ):
        safetensors.numpy.save_file(arrays, path)
        with pytest.raises(ModelFileError, match=message):
            from_safetensors(path, model)
        np.testing.assert_array_equal(model.get_weights()[0], before[0])
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(ModelFileError, match=r"theirs.safetensors: not a safetensors file"):
        from_safetensors(path)
    to_safetensors(model, path)
    text = path.read_bytes().replace(b'\\"units\\": 2', b'\\"units\\": 9')
    path.write_bytes(text)
    with pytest.raises(ModelFileError, match=r"dense_1/b: got shape \(2,\), expected \(9,\)"):
        from_safetensors(path)
    with pytest.raises(ModelFileError, match=r"nowhere: no such file"):
        from_safetensors(tmp_path / "nowhere")


# -- NumPy alone ---------------------------------------------------------------------------------------------------


def alone(folder, code):
    """A program's output, in a process that must not have imported minicnn, nor anything but NumPy."""
    code += "\nassert not {'minicnn', 'numba', 'onnx', 'matplotlib'} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_program_names_the_same_classes_without_minicnn(trained, sample, tmp_path):
    to_numpy(trained, tmp_path / "predict.py")
    assert [path.name for path in tmp_path.iterdir()] == ["predict.py"]
    np.save(tmp_path / "images.npy", sample.test_images)
    code = (
        "import runpy, sys\nsys.argv = ['predict.py', 'images.npy']\nrunpy.run_path('predict.py', run_name='__main__')"
    )
    found = list(map(int, alone(tmp_path, code).split()))
    assert found == trained.predict_classes(sample.test_images).tolist()
    assert len(set(found)) > 2
    text = (tmp_path / "predict.py").read_text()
    page = text[: text.index("W = {}")].splitlines()
    assert len(page) < 90 and max(map(len, page)) <= 125
    assert "def gelu" not in text and "def average_pool" not in text


def test_the_program_tells_in_one_line_what_it_cannot_read(trained, tmp_path):
    to_numpy(trained, tmp_path / "predict.py")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "empty.npy").touch()
    for name in ("a.png", "empty.npy", "none.npy"):
        done = subprocess.run([sys.executable, "predict.py", name], cwd=tmp_path, capture_output=True, text=True)
        told = f"{name}: cannot be read; expected what np.save wrote, images (n, {', '.join(map(str, trained.input_shape))})"
        assert (done.returncode, done.stdout, done.stderr) == (1, "", told + "\n")


def test_weights_of_a_large_model_lie_beside_the_program(tmp_path, numpy_backend):
    model, images = shaken([Flatten(), Dense(1000), Dense(2)], (32, 32, 1), seed=0)
    model.save(tmp_path / "big.npz")
    to_numpy(model, tmp_path / "big.py")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big.npz", "big.py", "big_weights.npz"]
    assert len((tmp_path / "big.py").read_text()) < 5000
    np.save(tmp_path / "images.npy", images)
    code = "import sys, json, numpy as np\nsys.path.insert(0, '.')\nimport big\n"
    code += "print(json.dumps(big.predict(np.load('images.npy')).tolist()))"
    equal(np.array(json.loads(alone(tmp_path, code))), model.predict(images), 1e-5)


# -- what classes are called ---------------------------------------------------------------------------------------

CALLED = ["T-shirt/top", "Kleid 'größer'", '"""', "{braces}", "line\nbreak", *map(str, range(5))]


@pytest.fixture
def called(trained, tmp_path):
    """The trained model, its classes called something."""
    model = trained.frozen().network
    model.class_names = CALLED
    return model


@pytest.mark.parametrize(("write", "read"), [(to_onnx, from_onnx), (to_safetensors, from_safetensors)])
def test_class_names_leave_and_come_back(write, read, called, trained, tmp_path):
    write(called, tmp_path / "model")
    assert read(tmp_path / "model").class_names == CALLED
    write(trained, tmp_path / "model")
    assert read(tmp_path / "model").class_names is None


def test_class_names_stand_in_onnx_metadata_for_others_and_wrong_ones_are_refused(called, tmp_path):
    to_onnx(called, tmp_path / "model.onnx")
    content = onnx.load(tmp_path / "model.onnx")
    assert {item.key: json.loads(item.value) for item in content.metadata_props} == {"class_names": CALLED}
    for wrong in ('["one"]', "{", "3"):
        content.metadata_props[0].value = wrong
        refused(content, tmp_path, r"theirs.onnx: not an ONNX file that minicnn can read")
    content.producer_name = "pytorch"  # whose class_names may be anything
    onnx.save(content, tmp_path / "theirs.onnx")
    assert from_onnx(tmp_path / "theirs.onnx").class_names is None


def test_the_program_prints_the_names_of_the_classes(called, sample, tmp_path):
    called.class_names = names = [name.replace("\n", " ") for name in CALLED]
    to_numpy(called, tmp_path / "predict.py")
    np.save(tmp_path / "images.npy", sample.test_images[:200])
    code = "import runpy, sys\nsys.argv = ['', 'images.npy']\nrunpy.run_path('predict.py', run_name='__main__')"
    found = alone(tmp_path, code).splitlines()
    assert found == [names[k] for k in called.predict_classes(sample.test_images[:200])] and len(set(found)) > 2


# -- the commands, and what is missing -----------------------------------------------------------------------------


def test_the_commands_write_and_read_by_the_files_ending(trained, sample, tmp_path, capsys):
    model = tmp_path / "a model.npz"
    trained.save(model)
    for ending in (".onnx", ".safetensors", ".py"):
        assert main(["export", str(model), str(tmp_path / f"out{ending}")]) == 0
        assert (tmp_path / f"out{ending}").stat().st_size > 1000
    for ending in (".onnx", ".safetensors"):
        assert main(["import", str(tmp_path / f"out{ending}"), str(tmp_path / "back.npz")]) == 0
        assert "dense_1" in capsys.readouterr().out
        back = minicnn.load(tmp_path / "back.npz")
        equal(back.outputs(sample.test_images[:50]), trained.outputs(sample.test_images[:50]))
    assert main(["export", str(model), str(tmp_path / "out.h5")]) == 1
    assert main(["import", str(tmp_path / "nowhere.onnx"), str(tmp_path / "back.npz")]) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[0].endswith("out.h5: ending: got '.h5', expected one of .onnx, .safetensors, .py")
    assert told[1].endswith("nowhere.onnx: no such file") and len(told) == 2


def test_the_commands_make_the_folder_of_what_they_write(trained, tmp_path, capsys):
    trained.save(tmp_path / "model.npz")
    out = tmp_path / "out dir" / "of mine" / "m.safetensors"
    assert main(["export", str(tmp_path / "model.npz"), str(out)]) == 0
    back = tmp_path / "back" / "model.npz"
    assert main(["import", str(out), str(back)]) == 0
    np.testing.assert_array_equal(minicnn.load(back).get_weights()[0], trained.get_weights()[0])
    assert main(["export", str(back), f"{out}/m.py"]) == 1
    assert capsys.readouterr().err == f"error: {out}: expected a folder, and a file is in the way\n"


@pytest.mark.parametrize("extra", ["onnx", "safetensors"])
def test_an_extra_that_is_missing_is_named(extra, trained, tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.split(".")[0] == extra]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, extra, None)
    trained.save(tmp_path / "model.npz")
    assert main(["export", str(tmp_path / "model.npz"), str(tmp_path / f"model.{extra}")]) == 1
    assert main(["import", str(tmp_path / f"model.{extra}"), str(tmp_path / "model.npz")]) == 1
    line = f'error: {extra} is not installed: pip install "minicnn-numba[{extra}]"'
    assert capsys.readouterr().err.splitlines() == [line, line]
    assert not (tmp_path / f"model.{extra}").exists()


def test_the_extras_are_those_of_the_project():
    project = (Path(minicnn.__file__).parents[1] / "pyproject.toml").read_text()
    assert f'name = "{DISTRIBUTION}"' in project
    assert "\nonnx = [" in project and "\nsafetensors = [" in project


def test_to_import_minicnn_imports_no_extra():
    code = "import sys, minicnn, minicnn.export, minicnn.__main__\n"
    code += "assert not {'onnx', 'onnxruntime', 'safetensors'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
