"""A gradient checker: does a layer's backward really give the derivative of its forward?

A derivative can be had without any calculus: move one number a little, see how the output moves. That costs two forward
passes for each number, so it is useless for training, and ideal for finding mistakes in the calculus:

    df/da = (f(a + h) - f(a - h)) / 2h + O(h**2)

    print(minicnn.gradcheck(Conv2D(4, 3), np.random.default_rng(0).standard_normal((2, 5, 5, 3))))

The outputs are weighed with random numbers dy, so that no mistake stays hidden that dy = 1 everywhere would hide. Where
input times output is small, every entry is checked. Otherwise random directions are: the derivative along a direction v
must be the gradient's dot product with v, which one wrong entry spoils as surely as all of them. Where it is spoilt, the
direction is halved until one entry is left.
"""

from __future__ import annotations

import copy
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from minicnn import inputs
from minicnn.layers import Layer, sequence
from minicnn.network import Network
from minicnn.parameters import Parameter

STEP = 1e-5
SMALL = 60_000  # entries of the Jacobian that are checked one by one


@dataclass
class Check:
    """What was found for one array: the worst error, relative to its largest derivative, and where.

    `index` is that of the array's entry (None when directions agreed), `kinks` the entries or directions left out
    because the function has a corner there, and `worst` the pair (from backward, from differences).
    """

    name: str
    error: float
    index: tuple[int, ...] | None
    worst: tuple[float, float]
    checked: int
    kinks: int


@dataclass(repr=False)
class Report:
    """The outcome of a gradient check: one `Check` each for the input and every parameter. It is shown as a table."""

    checks: list[Check]
    tolerance: float

    @property
    def error(self) -> float:
        """The worst error of all."""
        return max(check.error for check in self.checks)

    @property
    def ok(self) -> bool:
        """Whether every error is within the tolerance, and not everything was left out as a kink."""
        return all(check.error <= self.tolerance and check.kinks < check.checked for check in self.checks)

    def __str__(self) -> str:
        wide = max(24, *(len(check.name) + 2 for check in self.checks))
        rows = [f"{'array':<{wide}}{'error':>10}  {'worst at':<20}{'backward':>13}{'differences':>13}{'kinks':>12}"]
        for c in self.checks:
            place = "" if c.index is None else str(c.index)
            mark = "  <-- only kinks" if c.kinks == c.checked else ""
            mark = mark if c.error <= self.tolerance else "  <-- wrong"
            kinks = f"{c.kinks}/{c.checked}"
            rows.append(
                f"{c.name:<{wide}}{c.error:>10.1e}  {place:<20}{c.worst[0]:>13.5g}{c.worst[1]:>13.5g}{kinks:>12}{mark}"
            )
        return "\n".join(rows)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def gradcheck(
    layer: Layer | Sequence[Layer] | Network,
    x: np.ndarray,
    tolerance: float = 1e-6,
    directions: int = 4,
    seed: int = 0,
) -> Report:
    """Compare backward with central differences, in float64, for the input x (n, ...) and every parameter.

    `layer` is a layer, a list of them, or a network of dtype="float64". Layers that are not yet built in float64 are built
    for x's shape. What is checked is a copy, run by the backend in use (the layers themselves, or the engine's steps), and
    each evaluation begins from the same state: the layer stays as it is, and dropout's masks are the same every time.

    Raises ValueError, ShapeError or TypeError, by the layer's name, where a layer breaks what every layer promises: shapes
    and dtype (in float32 too, in training and in use), an input left as it was, arguments kept as attributes, gradients
    written into the arrays that the optimizer reads, and written anew by each backward.
    """
    rng = np.random.default_rng(seed)
    x = np.array(inputs.plain(x, "gradcheck"), np.float64)
    if x.size == 0 or x.ndim < 2:
        raise ValueError(f"gradcheck: got an input of shape {x.shape}, expected (n, ...), at least one image")
    network = _prepare(layer, x, rng)
    probe = _Probe(network, x)
    _check_promises(probe, x, rng)
    y = probe.forward()
    dy = rng.standard_normal(y.shape)
    learnt = {f"{one.title}/{p.name}": p.value for one in network.all_layers() for p in _learnt(one)}
    targets, gradients = {"input": x} | learnt, probe.backward(dy)
    sizes = [np.linalg.norm(g[np.isfinite(g)]) / np.sqrt(g.size) for g in gradients]
    checks = []
    for (name, array), gradient, size in zip(targets.items(), gradients, sizes, strict=True):

        def compare(v: np.ndarray, array=array, gradient=gradient) -> tuple[float, float, bool]:
            """dLoss along v as backward claims it and as differences give it, and whether a kink spoils that."""
            slope, kink = _slopes(array, v.reshape(array.shape), probe.forward, y)
            moved = v != 0  # elsewhere NaN would be NaN still
            return float(gradient.ravel()[moved] @ v[moved]), float((slope * dy).sum()), kink

        scale = max(size, 1e-3 * max(sizes), 1e-8)  # where nothing should flow, rounding errors do
        every = array.size * y.size <= SMALL
        checks.append(_check(name, array.shape, compare, scale, every, directions, tolerance, rng))
    return Report(checks, tolerance)


def _prepare(layer, x, rng) -> Network:
    """A network of float64 that is a copy of what is to be checked."""
    if isinstance(layer, Network):
        if layer.dtype != "float64":
            raise ValueError(f'gradcheck: got a model of dtype {layer.dtype}, expected dtype="float64"')
        return copy.deepcopy(layer)
    given = list(layer) if isinstance(layer, Iterable) else [layer]
    for one in given:
        if not isinstance(one, Layer):
            raise ValueError(f"gradcheck: got {one!r}, expected a layer, a list of layers or a network")
    have = [w.value for one in given for inner in one.layers() for w in inner.weights()]
    layers = copy.deepcopy(given)
    built = have and all(value is not None and value.dtype == np.float64 for value in have)
    values = [value.copy() for value in have] if built else []
    for inner in (inner for one in layers for inner in one.layers()):
        inner.in_network = False
    network = Network(layers, x.shape[1:], dtype="float64")
    if len(layers) == 1:
        layers[0].name = ""  # the report then calls it by its class
    if built:
        network.set_weights(values)
    else:
        for p in network.parameters.parameters:  # zeros and ones would hide mistakes
            p.value += 0.1 * rng.standard_normal(p.shape)
    return network


def _learnt(layer: Layer) -> list[Parameter]:
    return [w for w in layer.weights() if isinstance(w, Parameter)]


class _Probe:
    """Forward and backward from the same state every time."""

    def __init__(self, network: Network, x: np.ndarray):
        self.network, self.x = network, x
        self.statistics = network.parameters.statistics.copy()
        self.states = [(layer, layer.state()) for layer in network.all_layers()]
        for step in network.steps:
            vars(step).update(needs_dx=True)  # of the engine's, the first step that learns computes none

    def forward(self) -> np.ndarray:
        self.network.parameters.statistics[...] = self.statistics
        for layer, state in self.states:
            layer.restore(state)
        return sequence.forward(self.network.steps, self.x, True).copy()

    def backward(self, dy: np.ndarray) -> list[np.ndarray]:
        """The gradients of the input and of each parameter, after a forward pass."""
        self.forward()
        dx = sequence.backward(self.network.steps, dy)
        return [dx.copy(), *(p.grad.copy() for layer in self.network.all_layers() for p in _learnt(layer))]


def _check_promises(probe: _Probe, x: np.ndarray, rng: np.random.Generator) -> None:
    """What differences cannot see: a layer that trains wrongly although its calculus is right."""
    layers = probe.network.all_layers()
    learnt = [(layer, p, p.grad) for layer in layers for p in _learnt(layer)]
    for layer in layers:
        layer.config()
    _check_in_float32(probe.network, x)
    dy = rng.standard_normal(probe.forward().shape)
    first, second = probe.backward(dy), probe.backward(dy)
    for layer, p, grad in learnt:
        if p.grad is not grad:
            raise ValueError(
                f"{layer.title}: backward replaced the array {p.name}.grad, which the optimizer does not see;"
                f" write self.{p.name}.grad[...] = ..."
            )
    names = [f"{probe.network.layers[0].title}: dx", *(f"{layer.title}: {p.name}.grad" for layer, p, _ in learnt)]
    for name, a, b in zip(names, first, second, strict=True):
        if not np.array_equal(a, b, equal_nan=True):
            raise ValueError(f"{name} differs between two equal backward passes; write = and not +=, and keep no state")


def _check_in_float32(network: Network, x: np.ndarray) -> None:
    """In the dtype that one trains in, in use and in training: shapes, dtypes, and that no input is changed."""
    single = copy.deepcopy(network)
    own = single.parameters
    own.values, own.grads, own.statistics = (v.astype(np.float32) for v in (own.values, own.grads, own.statistics))
    own.make_views()
    for layer in single.all_layers():
        _watch(layer)
    with np.errstate(all="ignore"):  # what is too large for float32 is no mistake of the layer
        x = x.astype(np.float32)
        sequence.forward(single.layers, x, training=False)
        y = sequence.forward(single.layers, x, training=True)
        sequence.backward(single.layers, np.ones_like(y))


def _watch(layer: Layer) -> None:
    """Let the layer's forward and backward raise ValueError where they change x or dy."""
    given = {}

    def watch(method: str, what: str) -> None:
        run = getattr(layer, method)

        def watched(array: np.ndarray, *training) -> np.ndarray:
            given[what] = array, array.copy()
            result = run(array, *training)
            for name, (now, before) in given.items():  # backward may have changed the x that forward kept
                if not np.array_equal(now, before, equal_nan=True):
                    raise ValueError(f"{layer.title}: {method} changed its {name} in place; compute on a copy")
            return result

        setattr(layer, method, watched)

    watch("forward", "input")
    watch("backward", "dy")


def _slopes(array, direction, forward, y):
    """The output's derivative along a direction, and whether the function has a corner (a kink) too near to tell.

    The slope is measured twice, with a step and with a quarter of it. Where the function is smooth both agree, and the
    slopes to the left and to the right come four times closer to each other. With a corner within the step the two
    measurements differ; with a corner exactly here, left and right stay as far apart as they were.
    """
    left, right = _one_sided(array, direction, forward, y, STEP)
    slope, turn = (left + right) / 2, np.abs(right - left)
    rounding = 3e-9 * np.abs(y).max()
    if turn.max() <= rounding:
        return slope, False
    left, right = _one_sided(array, direction, forward, y, STEP / 4)
    beside = np.abs(slope - (left + right) / 2) > 1e-7 * np.abs(slope).max() + rounding
    here = np.abs(right - left) > turn / 2 + rounding
    return slope, bool((beside | here).any())


def _one_sided(array, direction, forward, y, step):
    """Slopes of the output y to the left and to the right."""
    start = array.copy()
    array[...] = start + step * direction
    above = forward()
    array[...] = start - step * direction
    below = forward()
    array[...] = start
    return (y - below) / step, (above - y) / step


def _gap(claimed, slope):
    """How far apart the two are; NaN and infinity are further off than any number."""
    return np.nan_to_num(np.abs(np.subtract(claimed, slope)), nan=np.inf, posinf=np.inf)


def _check(name, shape, compare, scale, every, directions, tolerance, rng) -> Check:
    """Every entry of an array, or random directions until so many have crossed no kink."""
    size = int(np.prod(shape))
    units = (np.eye(1, size, k)[0] for k in range(size))
    random = (rng.standard_normal(size) / np.sqrt(size) for _ in range(10 * directions))
    error, worst, wrong, tried, kinks = 0.0, (0.0, 0.0), None, 0, 0
    for v in units if every else random:
        claimed, slope, kink = compare(v)
        relative = float(_gap(claimed, slope) / max(scale, abs(slope)))
        tried, kinks = tried + 1, kinks + kink
        if not kink and relative > error:
            error, worst, wrong = relative, (claimed, slope), v
        if not every and tried - kinks == directions:
            break
    found = wrong is not None and (every or error > tolerance)
    return Check(name, error, _find(wrong, shape, compare) if found else None, worst, tried, kinks)


def _find(v, shape, compare) -> tuple[int, ...]:
    """Halve the direction, keeping the half that disagrees more, until it is one entry."""
    entries = np.flatnonzero(v)
    while len(entries) > 1:
        halves = np.array_split(entries, 2)
        gaps = []
        for half in halves:
            part = np.zeros_like(v)
            part[half] = v[half]
            gaps.append(_gap(*compare(part)[:2]))
        entries = halves[0] if gaps[0] >= gaps[1] else halves[1]
    return tuple(int(i) for i in np.unravel_index(entries[0], shape))
