"""Where PyTorch is installed, the layers, losses and optimizers agree with it: outputs and every gradient, in float64."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import minicnn
from minicnn import (
    GELU,
    AveragePool2D,
    BatchNorm,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Flatten,
    GlobalAveragePool2D,
    GlobalMaxPool2D,
    LeakyReLU,
    MaxPool2D,
    ReLU,
    Sequential,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
    engine,
    optimizers,
)
from minicnn.losses import CrossEntropy

torch = pytest.importorskip("torch", reason="torch is an extra: pip install minicnn-numba[torch]")
nn = torch.nn
pytestmark = pytest.mark.parametrize("backend", ["numpy", "numba"])


@pytest.fixture(autouse=True)
def use(backend):
    minicnn.use_backend(backend)
    yield
    minicnn.use_backend("numba")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def tensor(array, grad=False):
    return torch.tensor(np.ascontiguousarray(array), dtype=torch.float64, requires_grad=grad)


def channels_first(array):
    return np.moveaxis(array, -1, 1) if array.ndim == 4 else array


def channels_last(array):
    return np.moveaxis(array, 1, -1) if array.ndim == 4 else array


def agree(layer, x, module, arrays=()):
    """Outputs, dx and the gradients of `arrays`, pairs of (our name, torch's parameter, ours as torch keeps it)."""
    model = Sequential([layer], x.shape[1:], dtype="float64")
    (step,) = model.steps
    step.needs_dx = True
    own = [model.arrays()[f"{layer.name}/{name}"] for name, _, _ in arrays]
    for w in own:
        w.value += 0.1 * normal(*w.shape, seed=3)
    with torch.no_grad():
        for w, (_, parameter, turn) in zip(own, arrays, strict=True):
            parameter.copy_(tensor(turn(w.value)))
    theirs = tensor(channels_first(x), grad=True)
    expected = module(theirs)
    y = model.forward(x, training=True)
    np.testing.assert_allclose(y, channels_last(expected.detach().numpy()), rtol=1e-9, atol=1e-12)
    dy = normal(*y.shape, seed=1)
    expected.backward(tensor(channels_first(dy)))
    np.testing.assert_allclose(step.backward(dy), channels_last(theirs.grad.numpy()), rtol=1e-9, atol=1e-12)
    for w, (name, parameter, turn) in zip(own, arrays, strict=True):
        np.testing.assert_allclose(turn(w.grad), parameter.grad.numpy(), rtol=1e-9, atol=1e-12, err_msg=name)
    return model


def as_it_is(array):
    return array


def convolution(w):
    return w.transpose(3, 2, 0, 1)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups", "bias"),
    [
        ((3, 3), (1, 1), (0, 0), (1, 1), 1, True),
        ((3, 3), (1, 1), (1, 1), (1, 1), 1, False),
        ((5, 2), (2, 3), (2, 1), (1, 1), 1, True),
        ((3, 3), (2, 2), (0, 3), (2, 1), 1, True),
        ((1, 1), (2, 1), (0, 0), (1, 1), 1, True),
        ((3, 2), (1, 2), (1, 0), (2, 2), 2, True),
        ((2, 2), (1, 1), (1, 1), (1, 3), 4, False),
    ],
)
def test_convolution(kernel, stride, padding, dilation, groups, bias):
    module = nn.Conv2d(4, 8, kernel, stride, padding, dilation, groups, bias, dtype=torch.float64)
    layer = Conv2D(8, kernel, stride, padding, dilation, groups, use_bias=bias)
    arrays = [("w", module.weight, convolution)] + [("b", module.bias, as_it_is)] * bias
    agree(layer, normal(3, 9, 8, 4), module, arrays)


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch has to copy the input then, and says so
@pytest.mark.parametrize("size", [(3, 3), (5, 2)])
def test_same_padding_without_stride(size):
    module = nn.Conv2d(2, 3, size, padding="same", dtype=torch.float64)
    # of an odd number of pixels torch too puts the larger half behind
    arrays = [("w", module.weight, convolution), ("b", module.bias, as_it_is)]
    agree(Conv2D(3, size), normal(2, 7, 6, 2), module, arrays)


def test_depthwise_convolution():
    module = nn.Conv2d(5, 5, 3, 2, 1, groups=5, dtype=torch.float64)
    arrays = [("w", module.weight, lambda w: w.transpose(2, 3, 0, 1)), ("b", module.bias, as_it_is)]
    agree(DepthwiseConv2D(3, stride=2, padding=1), normal(3, 7, 8, 5), module, arrays)


def test_dense():
    module = nn.Linear(7, 5, dtype=torch.float64)
    agree(Dense(5), normal(4, 7), module, [("w", module.weight, np.transpose), ("b", module.bias, as_it_is)])


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [((2, 2), (2, 2), (0, 0)), ((3, 2), (2, 1), (1, 1)), ((3, 3), 1, 1)]
)
def test_pooling(size, stride, padding):
    x = normal(2, 7, 6, 3)
    agree(MaxPool2D(size, stride, padding), x, nn.MaxPool2d(size, stride, padding))
    agree(AveragePool2D(size, stride, padding), x, nn.AvgPool2d(size, stride, padding, count_include_pad=False))


def test_global_pooling():
    x = normal(3, 5, 4, 6)
    agree(GlobalAveragePool2D(), x, lambda t: t.mean(dim=(2, 3)))
    agree(GlobalMaxPool2D(), x, lambda t: t.amax(dim=(2, 3)))


@pytest.mark.parametrize(("shape", "make"), [((4, 3, 5, 6), nn.BatchNorm2d), ((9, 6), nn.BatchNorm1d)])
def test_batch_norm_with_its_running_statistics(shape, make):
    module = make(6, eps=1e-3, momentum=0.25, dtype=torch.float64)
    arrays = [("gamma", module.weight, as_it_is), ("beta", module.bias, as_it_is)]
    x = 1 + 2 * normal(*shape)
    model = agree(BatchNorm(momentum=0.75, epsilon=1e-3), x, module, arrays)
    np.testing.assert_allclose(model.layers[0].mean.value, module.running_mean.numpy(), rtol=1e-12)
    np.testing.assert_allclose(model.layers[0].variance.value, module.running_var.numpy(), rtol=1e-12)
    module.eval()
    expected = module(tensor(channels_first(x))).detach().numpy()
    np.testing.assert_allclose(model.forward(x), channels_last(expected), rtol=1e-9)


@pytest.mark.parametrize(
    ("layer", "module"),
    [
        (ReLU, nn.ReLU()),
        (lambda: LeakyReLU(0.2), nn.LeakyReLU(0.2)),
        (Sigmoid, nn.Sigmoid()),
        (Tanh, nn.Tanh()),
        (GELU, nn.GELU(approximate="tanh")),
        (SiLU, nn.SiLU()),
        (Softmax, nn.Softmax(dim=-1)),
    ],
)
def test_activations(layer, module):
    agree(layer(), 3 * normal(4, 9), module)


# ---------------------------------------------------------------------------------------------------------------
# Losses


LABELS = np.array([0, 3, 2, 2, 1, 3])


@pytest.mark.parametrize(
    ("smoothing", "weights", "targets"),
    [
        (0.0, None, LABELS),
        (0.1, None, LABELS),
        (0.0, [1.0, 2.0, 0.5, 3.0], LABELS),
        (0.0, None, np.exp(normal(6, 4)) / np.exp(normal(6, 4)).sum(axis=1, keepdims=True)),
        (0.1, None, np.eye(4)[LABELS]),
    ],
)
def test_cross_entropy(smoothing, weights, targets):
    logits = 3 * normal(6, 4, seed=2)
    theirs = tensor(logits, grad=True)
    target = torch.tensor(targets) if targets.ndim == 1 else tensor(targets)
    loss = nn.CrossEntropyLoss(None if weights is None else tensor(weights), label_smoothing=smoothing)(theirs, target)
    loss.backward()
    value, gradient = engine.fast(CrossEntropy(smoothing, weights))(logits, targets)
    assert value == pytest.approx(loss.item(), rel=1e-12)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), rtol=1e-10, atol=1e-14)


# ---------------------------------------------------------------------------------------------------------------
# Optimizers


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (optimizers.SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
        (optimizers.SGD(0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
        (optimizers.SGD(0.1, 0.9, nesterov=True), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True)),
        (optimizers.RMSprop(0.01, rho=0.8), lambda p: torch.optim.RMSprop(p, 0.01, alpha=0.8, eps=1e-7)),
        (optimizers.Adam(0.01, 0.8, 0.95), lambda p: torch.optim.Adam(p, 0.01, (0.8, 0.95), eps=1e-8)),
        (optimizers.AdamW(0.01, weight_decay=0.3), lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.3)),
    ],
    ids=["sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw"],
)
@pytest.mark.parametrize("clip_norm", [None, 1.5])
def test_optimizers(ours, theirs, clip_norm):
    model = Sequential([Dense(3, use_bias=False)], (4,), dtype="float64")  # a bias would not decay here
    weight = tensor(model.get_weights()[0], grad=True)
    ours.clip_norm, optimizer = clip_norm, engine.fast(ours)
    reference = theirs([weight])
    for step in range(6):
        gradient = normal(4, 3, seed=step)
        model.parameters.grads[:] = gradient.ravel()
        weight.grad = tensor(gradient)
        if clip_norm:
            nn.utils.clip_grad_norm_([weight], clip_norm)
        optimizer.step(model.parameters)
        reference.step()
    tolerance = 1e-5 if clip_norm else 1e-9  # torch adds 1e-6 to the norm
    np.testing.assert_allclose(model.get_weights()[0], weight.detach().numpy(), rtol=tolerance)


def test_a_whole_network_has_the_same_gradients():
    x, y = normal(5, 12, 12, 2), np.array([0, 1, 2, 3, 0])
    layers = [Conv2D(4, 3, padding=1, activation="relu"), BatchNorm(), MaxPool2D(), Conv2D(6, 3, stride=2, padding=0)]
    model = Sequential([*layers, GELU(), GlobalAveragePool2D(), Dense(4)], (12, 12, 2), dtype="float64")
    convolutions = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2)
    body = [convolutions[0], nn.ReLU(), nn.BatchNorm2d(4), nn.MaxPool2d(2), convolutions[1], nn.GELU("tanh")]
    net = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)).double()
    turns = [convolution, as_it_is, as_it_is, as_it_is, convolution, as_it_is, np.transpose, as_it_is]
    learnt = [w for w in model.arrays().values() if hasattr(w, "grad")]
    with torch.no_grad():
        for w, parameter, turn in zip(learnt, net.parameters(), turns, strict=True):
            parameter.copy_(tensor(turn(w.value)))
    loss = nn.CrossEntropyLoss()(net(tensor(channels_first(x))), torch.tensor(y))
    loss.backward()
    value, gradient = engine.fast(CrossEntropy())(model.forward(x, training=True), y)
    model.backward(gradient)
    assert value == pytest.approx(loss.item(), rel=1e-10)
    for w, parameter, turn in zip(learnt, net.parameters(), turns, strict=True):
        np.testing.assert_allclose(turn(w.grad), parameter.grad.numpy(), rtol=1e-8, atol=1e-12)


# ---------------------------------------------------------------------------------------------------------------
# What README tells those who come from PyTorch


README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def layers_of_the_table():
    """(theirs, ours), two lists of code, for every row that names a layer or several on both sides."""
    text = README.split("| Keras | PyTorch | minicnn |\n")[1].split("\n\n")[0]
    for row in text.splitlines()[1:]:
        theirs, ours = (re.findall("`([^`]+)`", cell) for cell in row.strip("| ").split(" | ")[-2:])
        names = [code.partition("(")[0] for code in theirs]
        if names and all(hasattr(nn, name) and not name.endswith("Loss") for name in names):
            yield from [(theirs, ours)] if len(ours) == 1 else [([t], [o]) for t, o in zip(theirs, ours, strict=True)]


def as_the_readme_carries_weights(model, net):
    """The README's own lines, by which weights come from PyTorch."""
    [block] = [b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "state_dict" in b]
    exec(block, {"model": model, "net": net, "Flatten": Flatten})


def answers_agree(model, net, x):
    as_the_readme_carries_weights(model, net)
    with torch.no_grad():
        expected = channels_last(net.eval()(tensor(channels_first(x))).numpy())
    y = model.outputs(x)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [8, 7])
@pytest.mark.parametrize(("theirs", "ours"), list(layers_of_the_table()), ids=lambda code: ", ".join(code))
def test_a_row_of_the_readmes_table_gives_the_same_outputs_with_the_same_weights(theirs, ours, size):
    net = nn.Sequential(*(eval(code, vars(nn)) for code in theirs)).double()
    sizes = ("in_channels", "num_features", "in_features")
    channels = next((getattr(net[0], name) for name in sizes if hasattr(net[0], name)), 3)
    x = normal(4, channels) if isinstance(net[0], nn.Linear) else normal(4, size, size, channels)
    answers_agree(Sequential([eval(code, vars(minicnn)) for code in ours], x.shape[1:], dtype="float64"), net, x)


def test_the_readmes_table_has_rows_of_every_kind_of_layer():
    names = {code.partition("(")[0] for theirs, _ in layers_of_the_table() for code in theirs}
    assert names >= {"Conv2d", "MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d", "Linear", "BatchNorm2d", "Dropout"}


@pytest.mark.parametrize("norm", [False, True])
def test_the_readmes_lines_carry_a_whole_networks_weights(norm):
    """However many arrays stand before the first linear layer."""
    bodies = [nn.Conv2d(2, 4, 3, padding=1)], [nn.Conv2d(4, 6, 3, stride=2, padding=1)]
    layers = [Conv2D(4, 3)], [Conv2D(6, 3, stride=2, padding=1)]
    theirs = [m for body in bodies for m in (*body, *[nn.BatchNorm2d(body[0].out_channels)] * norm, nn.ReLU())]
    ours = [l for one in layers for l in (*one, *[BatchNorm() for _ in range(norm)], ReLU())]
    net = nn.Sequential(*theirs, nn.Flatten(), nn.Linear(6 * 4 * 5, 7), nn.ReLU(), nn.Linear(7, 3)).double()
    x = normal(5, 8, 10, 2)
    with torch.no_grad():
        net(tensor(channels_first(x)))  # moves the running statistics
    model = Sequential([*ours, Flatten(), Dense(7, activation="relu"), Dense(3)], x.shape[1:], dtype="float64")
    answers_agree(model, net, x)
