"""What each exercise is run on. A `*_inputs` gives a list of cases, from easy to hard, each a dictionary of inputs; a
`run_*` calls a solution on one of them and gives its results by name.

A solution is the library's or a student's: a function, or a class that derives from the library's. The inputs leave no
way to be right by luck: all sizes differ, dy is no 1, kernels have no symmetry, windows overlap, strides do not divide,
and the arrays of the gradients are not 0 before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from minicnn.layers import BatchNorm, Conv2D, Dense, Flatten, Layer, MaxPool2D, sequence
from minicnn.layers.windows import Window
from minicnn.losses import CrossEntropy, one_hot
from minicnn.network import Network
from minicnn.optimizers import SGD
from minicnn.parameters import Parameter, Parameters
from minicnn.run import Run

AnyLayer = TypeVar("AnyLayer", bound=Layer)

BEFORE = 7.0  # what stands in every gradient before backward writes it


def build(layer: AnyLayer, x: np.ndarray, **values: np.ndarray) -> tuple[AnyLayer, dict[str, np.ndarray]]:
    """The layer, built for x with these weights, and the arrays that its backward must write, by name."""
    parameters = Parameters(str(x.dtype))
    sequence.build([layer], x.shape[1:], parameters)
    parameters.allocate(None)
    parameters.grads[...] = BEFORE
    learnt = [w for w in layer.weights() if isinstance(w, Parameter)]
    for w in learnt:
        w.value[...] = values.get(w.name, 0)
    return layer, {f"d{w.name}": w.grad for w in learnt}


def run_backward(layer: Layer, gradients: dict[str, np.ndarray], dy: np.ndarray) -> dict:
    """dx and the gradients of the weights, which must stand in the arrays that were there before."""
    dx = layer.backward(dy)
    for w in layer.weights():
        if isinstance(w, Parameter) and w.grad is not gradients[f"d{w.name}"]:
            raise ValueError(f"backward replaced the array {w.name}.grad; write self.{w.name}.grad[...] = ...")
    return {**gradients, "dx": dx}


def kept(layer: Layer, names: str) -> tuple:
    """What forward must have kept, given by its names; ValueError where it kept something else."""
    count, found = len(names.split(", ")), len(layer._saved or ())
    if found != count:
        raise ValueError(
            f"forward kept {found} arrays, expected {count}: self.save_for_backward({names}) when training"
        )
    return layer.saved


def draw(seed: int) -> Callable[..., np.ndarray]:
    """A function that gives normally distributed numbers of a shape."""
    return np.random.default_rng(seed).standard_normal


def and_float32(cases: list[dict]) -> list[dict]:
    """The cases, and the last one once more in float32."""
    single = {k: v.astype(np.float32) if isinstance(v, np.ndarray) else v for k, v in cases[-1].items()}
    return [*cases, single]


# -- dense layers and activations --------------------------------------------------------------------------------


def dense_inputs() -> list[dict]:
    """x (n, c), w (c, units), b (units,) and dy (n, units) of a dense layer."""
    normal = draw(1)
    sizes = [(4, 3, 5), (3, 6, 2), (1, 2, 4)]
    return and_float32([dict(x=normal((n, c)), w=normal((c, u)), b=normal(u), dy=normal((n, u))) for n, c, u in sizes])


def dense_forward_inputs() -> list[dict]:
    """As `dense_inputs`, without dy."""
    return [{k: v for k, v in case.items() if k != "dy"} for case in dense_inputs()]


def run_dense_forward(solution, x, w, b) -> dict:
    """y of a class of dense layers, and the x that its forward kept."""
    layer, _ = build(solution(w.shape[1]), x, w=w, b=b)
    y = layer.forward(x, training=True)
    return {"y": y, "the x that is kept": kept(layer, "x")[0]}


def run_dense_backward(solution, x, w, b, dy) -> dict:
    """dw, db and dx of a class of dense layers."""
    layer, gradients = build(solution(w.shape[1]), x, w=w, b=b)
    layer.forward(x, training=True)
    return run_backward(layer, gradients, dy)


def relu_inputs() -> list[dict]:
    """x and dy of one shape, with zeros in x."""
    normal = draw(2)
    first, second = normal((3, 5)), normal((2, 4, 3, 5))
    second[0, 1], second[1, :, 2] = 0, 0  # at 0 the gate is shut
    return and_float32([dict(x=x, dy=normal(x.shape)) for x in (first, second)])


def run_relu(solution, x, dy) -> dict:
    """y and dx of a class of activations."""
    layer = solution()
    return {"y": layer.forward(x, training=True), "dx": layer.backward(dy)}


def cross_entropy_inputs() -> list[dict]:
    """logits and truth (n, classes) and weights (n,) of sum 1, some logits so large that exp overflows."""
    normal = draw(3)
    cases = []
    for n, classes, scale in ((4, 3, 1), (3, 7, 400)):
        labels = np.arange(n) * 2 % classes
        truth = 0.9 * one_hot(labels, classes, np.float64) + 0.1 / classes
        share = np.abs(normal(n))
        weights = np.full(n, 1 / n) if scale == 1 else share / share.sum()
        cases.append(dict(logits=scale * normal((n, classes)), truth=truth, weights=weights))
    small = cases[0] | {"weights": cases[0]["weights"] * np.array([0.4, 1.6, 0.7, 1.3])}
    return and_float32([cases[0], small, cases[1]])


def run_cross_entropy(solution, logits, truth, weights) -> dict:
    """The loss and dlogits that the `formula` of a class of losses gives."""
    pair = solution().formula(logits, truth, weights)
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise ValueError(f"formula gave {type(pair).__name__}, expected the pair (loss, dlogits)")
    return {"loss": pair[0], "dlogits": pair[1]}


# -- windows and convolution -------------------------------------------------------------------------------------

WINDOWS = [  # the easy one first; then strides that do not divide, sides of the padding that differ, and dilation
    (Window((3, 4)), (2, 8, 10, 5)),
    (Window((3, 4), (2, 3)), (2, 12, 21, 7)),
    (Window((3, 2), (2, 1), ((1, 2), (0, 2))), (4, 8, 6, 9)),
    (Window((2, 3), (1, 2), ((0, 1), (2, 1)), (3, 2)), (5, 9, 8, 6)),
]


def convolution_inputs(*names: str) -> list[dict]:
    """Of x, w, dy and dwindows those that are asked for, with the window and the shape of x."""
    normal, cases = draw(4), []
    for (window, shape), filters in zip(WINDOWS, (9, 8, 10, 10), strict=True):
        (n, _, _, c), (kh, kw), (oh, ow) = shape, window.size, window.positions(shape[1:])
        arrays: dict[str, Any] = dict(x=normal(shape), w=normal((kh, kw, c, filters)), dy=normal((n, oh, ow, filters)))
        arrays |= dict(dwindows=normal((n, oh, ow, kh, kw, c)), x_shape=shape, fill=-1.5)
        cases.append({name: arrays[name] for name in names} | {"window": window})
    return and_float32(cases)


def run_windows(solution, x, window, fill) -> dict:
    """The windows that a function cuts out of x."""
    return {"windows": solution(x, window, fill)}


def run_convolve(solution, x, w, window) -> dict:
    """y of a function that convolves."""
    return {"y": solution(x, w, window)}


def db_inputs() -> list[dict]:
    """dy (n, oh, ow, f) of a convolution."""
    return [{"dy": case["dy"]} for case in convolution_inputs("dy")]


def run_db(solution, dy) -> dict:
    """db of a function of dy."""
    return {"db": solution(dy)}


def run_dw(solution, dy, x, window) -> dict:
    """dw of a function of dy and x."""
    return {"dw": solution(dy, x, window)}


def run_add_windows(solution, dwindows, x_shape, window) -> dict:
    """dx of a function that adds the windows' gradients."""
    return {"dx": solution(dwindows, x_shape, window)}


def run_dx(solution, dy, w, x_shape, window) -> dict:
    """dx of a function of dy and w."""
    return {"dx": solution(dy, w, x_shape, window)}


# -- pooling and batch normalisation -----------------------------------------------------------------------------


def max_pool_inputs() -> list[dict]:
    """x (n, h, w, c), dy (n, oh, ow, c) and the window, without ties in x and with them."""
    normal, cases = draw(5), []
    for size, stride, padding, shape in (
        ((2, 3), (2, 3), 0, (4, 7, 10, 5)),  # windows that do not overlap
        ((3, 4), (2, 2), 0, (2, 14, 17, 5)),  # that do
        ((3, 2), (2, 1), 1, (4, 9, 6, 8)),
    ):
        window = Window(size, stride, ((padding, padding), (padding, padding)))
        for ties in (False, True):
            x = normal(shape) - 3  # below 0, so that a padding of zeros would win
            x = np.round(x) if ties else x
            cases.append(dict(x=x, dy=normal((shape[0], *window.positions(shape[1:]), shape[3])), window=window))
    return and_float32(cases)


def run_max_pool(solution, x, dy, window) -> dict:
    """y and dx of a class of pooling layers."""
    layer, _ = build(solution(window.size, window.stride, tuple(before for before, _ in window.padding)), x)
    return {"y": layer.forward(x, training=True), "dx": layer.backward(dy)}


def batch_norm_inputs() -> list[dict]:
    """x, dy, gamma, beta (c,) and epsilon of a batch normalisation, of rows and of images."""
    normal = draw(6)
    cases = []
    for shape in ((5, 3), (3, 4, 2, 5)):
        c = shape[-1]
        x = normal(shape) * (1 + np.arange(c)) + np.arange(c)
        cases.append(dict(x=x, gamma=1 + normal(c) / 3, beta=normal(c), epsilon=0.1, dy=normal(shape)))
    return and_float32(cases)


def batch_norm_forward_inputs() -> list[dict]:
    """As `batch_norm_inputs`, without dy."""
    return [{k: v for k, v in case.items() if k != "dy"} for case in batch_norm_inputs()]


def run_batch_norm_forward(solution, x, gamma, beta, epsilon) -> dict:
    """Of a class of batch normalisation: y in training and in use, what forward kept, and the running statistics."""
    layer, _ = build(solution(0.8, epsilon), x, gamma=gamma, beta=beta)
    y = layer.forward(x, training=True)
    mean, variance = layer.mean.value.copy(), layer.variance.value.copy()
    xhat, inverse_std = kept(layer, "xhat, inverse_std")
    stored = {"the xhat that is kept": xhat, "the inverse_std that is kept": inverse_std}
    return {"y": y, **stored, "the running mean": mean, "the running variance": variance, "y in use": layer.forward(x)}


def run_batch_norm_backward(solution, x, gamma, beta, epsilon, dy) -> dict:
    """dgamma, dbeta and dx of a class of batch normalisation."""
    layer, gradients = build(solution(0.8, epsilon), x, gamma=gamma, beta=beta)
    layer.forward(x, training=True)
    return run_backward(layer, gradients, dy)


# -- training ----------------------------------------------------------------------------------------------------


def adam_inputs() -> list[dict]:
    """w, dw and Adam's two averages (6,), with its settings and how many steps were taken before."""
    normal, cases = draw(7), []
    for steps, keep in ((1, 1.0), (3, 1.0), (3, 0.9)):
        w, dw, mean = normal((3, 6))
        cases.append(dict(w=w, dw=dw, mean=mean, square=np.abs(normal(6)), rate=0.01, keep=keep, steps=steps))
        cases[-1] |= dict(beta1=0.8, beta2=0.9, epsilon=0.3)
    return and_float32(cases)


def run_adam(solution, w, dw, mean, square, rate, keep, steps, beta1, beta2, epsilon) -> dict:
    """w and the two averages after one `update` of a class of optimizers."""
    optimizer = solution(beta1=beta1, beta2=beta2, epsilon=epsilon)
    optimizer.steps = steps
    w, mean, square = w.copy(), mean.copy(), square.copy()
    optimizer.update(w, dw, mean, square, rate, keep)
    return {"mean": mean, "square": square, "w": w}


def training_inputs() -> list[dict]:
    """Images (11, 6, 5, 2), labels and the sizes of the batches to take."""
    rng = np.random.default_rng(8)
    images, labels = rng.standard_normal((11, 6, 5, 2)), rng.integers(0, 4, 11)
    return [dict(images=images, labels=labels, batches=batches) for batches in ([4], [4, 4, 3])]


def run_training(solution, images, labels, batches) -> dict:
    """What a training step does to a small network: weights, running statistics, and the run's counts."""
    layers = [Conv2D(3, 3, activation="relu"), BatchNorm(), MaxPool2D(2), Flatten(), Dense(4)]
    model = Network(layers, images.shape[1:], dtype="float64")
    optimizer, loss = SGD(momentum=0.5), CrossEntropy()
    run = Run(
        model=model,
        images=images,
        targets=labels,
        validation=None,
        epochs=1,
        batch_size=4,
        optimizer=optimizer,
        loss=loss,
        plain_loss=loss,
        schedule=lambda step: 0.1 + 0.2 * step,
        augment=None,
        callbacks=[],
        seed=0,
        verbose=False,
        rate_scale=0.5,
    )
    order = np.random.default_rng(9).permutation(len(images))
    for size in batches:
        index, order = order[:size], order[size:]
        solution(run, index)
    return {
        "the weights": model.parameters.values.copy(),
        "the running statistics": model.parameters.statistics.copy(),
        **{f"run.{name}": getattr(run, name) for name in ("total", "step", "batch", "seen", "correct")},
    }
