"""A gradient checker: does a layer's backward really give the derivative of its forward?

A derivative can be had without any calculus: move one number a little, see how the output moves. That costs two forward
passes for each number, so it is useless for training, and ideal for finding mistakes in the calculus:

    df/da = (f(a + h) - f(a - h)) / 2h + O(h**2)

    print(minicnn.gradcheck(Conv2D(4, 3), np.random.default_rng(0).standard_normal((2, 5, 5, 3))))

Where input times output is small, every entry of the Jacobian is checked. Otherwise random directions are: the derivative
along a direction v must be the gradient's dot product with v, which one wrong entry spoils as surely as all of them.
Where it is spoilt, the direction is halved until one entry is left.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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


@dataclass
class Report:
    """The outcome of a gradient check: one `Check` each for the input and every parameter. Printing it gives a table."""

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

    Raises ValueError or ShapeError, by the layer's name, where a layer breaks what every layer promises: shapes and dtype,
    an input left as it was, gradients written into the arrays that the optimizer reads, and written anew by each backward.
    """
    rng = np.random.default_rng(seed)
    x = np.array(x, np.float64)
    network = _prepare(layer, x, rng)
    probe = _Probe(network, x)
    _check_promises(probe, x, rng)
    y = probe.forward()
    arrays = {f"{one.title}/{p.name}": p for one in network.all_layers() for p in _learnt(one)}
    targets = [("input", x), *((name, p.value) for name, p in arrays.items())]
    if max(a.size for _, a in targets) * y.size <= SMALL:
        jacobians = _jacobians(probe.backward, y)
        least = 1e-3 * max(map(_largest, jacobians))  # where nothing should flow, rounding errors do
        checks = [_check_all(n, a, j, least, probe.forward, y) for (n, a), j in zip(targets, jacobians, strict=True)]
    else:
        checks = _check_directions(targets, probe.forward, probe.backward, y, tolerance, directions, rng)
    return Report(checks, tolerance)


def _prepare(layer, x, rng) -> Network:
    """A network of float64 that is a copy of what is to be checked."""
    if isinstance(layer, Network):
        if layer.dtype != "float64":
            raise ValueError(f'gradcheck: got a model of dtype {layer.dtype}, expected dtype="float64"')
        return copy.deepcopy(layer)
    layers = copy.deepcopy([layer] if isinstance(layer, Layer) else list(layer))
    have = [w.value for one in layers for inner in one.layers() for w in inner.weights()]
    built = have and all(value is not None and value.dtype == np.float64 for value in have)
    values = [value.copy() for value in have] if built else []
    for inner in (inner for one in layers for inner in one.layers()):
        for w in inner.weights():
            w.value = None
    names = [one.name for one in layers]
    network = Network(layers, x.shape[1:], dtype="float64")
    for one, name in zip(layers, names, strict=True):
        one.name = name
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
            step.needs_dx = True

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
    layers, before = probe.network.all_layers(), x.copy()
    for layer in layers:
        layer.config()
    y = probe.forward()
    dy = rng.standard_normal(y.shape)
    views = {id(p): p.grad for layer in layers for p in _learnt(layer)}
    first = probe.backward(dy)
    for layer in layers:
        for p in _learnt(layer):
            if p.grad is not views[id(p)]:
                raise ValueError(
                    f"{layer.title}: backward replaced the array {p.name}.grad, which the optimizer does not see;"
                    f" write self.{p.name}.grad[...] = ..."
                )
    names = ["dx", *(f"{layer.title}'s {p.name}.grad" for layer in layers for p in _learnt(layer))]
    for name, a, b in zip(names, first, probe.backward(dy), strict=True):
        if not np.array_equal(a, b, equal_nan=True):
            raise ValueError(f"{name} differs between two equal backward passes; write = and not +=, and keep no state")
    if not np.array_equal(x, before, equal_nan=True):
        raise ValueError("the input was changed in place by forward or backward; compute on a copy")


def _jacobians(backward, y):
    """For each array all derivatives of all outputs: (outputs, *shape), one backward pass for each output."""
    rows = []
    for k in range(y.size):
        dy = np.zeros(y.size)
        dy[k] = 1
        rows.append(backward(dy.reshape(y.shape)))
    return [np.stack(column) for column in zip(*rows, strict=True)]


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


def _largest(array):
    return np.abs(array[np.isfinite(array)]).max(initial=0)


def _check_all(name, array, jacobian, least, forward, y):
    """Every entry of the array against every output."""
    scale = max(_largest(jacobian), least, 1e-8)
    error, index, worst, kinks = 0.0, None, (0.0, 0.0), 0
    for place in np.ndindex(array.shape):
        direction = np.zeros(array.shape)
        direction[place] = 1
        slope, kink = _slopes(array, direction, forward, y)
        kinks += kink
        claimed = jacobian[(slice(None), *place)]
        difference = _gap(claimed, slope.ravel())
        k = difference.argmax()
        if not kink and difference[k] / scale > error:
            error, index, worst = (
                float(difference[k] / scale),
                place,
                (float(claimed[k]), float(slope.ravel()[k])),
            )
    return Check(name, error, index, worst, array.size, kinks)


def _check_directions(targets, forward, backward, y, tolerance, directions, rng):
    """Random directions of each array that cross no kink, for a random weighing of the outputs."""
    dy = rng.standard_normal(y.shape)
    gradients = backward(dy)
    sizes = [np.linalg.norm(g[np.isfinite(g)]) / np.sqrt(g.size) for g in gradients]
    least = 1e-3 * max(sizes)
    checks = []
    for (name, array), gradient, size in zip(targets, gradients, sizes, strict=True):

        def compare(v, array=array, gradient=gradient):
            slope, kink = _slopes(array, v, forward, y)
            moved = v != 0  # elsewhere NaN would be NaN still
            return float(gradient[moved] @ v[moved]), float((slope * dy).sum()), kink

        error, index, worst, kinks = 0.0, None, (0.0, 0.0), 0
        for tried in range(1, 10 * directions + 1):
            v = rng.standard_normal(array.shape) / np.sqrt(array.size)
            claimed, slope, kink = compare(v)
            relative = float(_gap(claimed, slope) / max(size, abs(slope), least, 1e-8))
            kinks += kink
            if not kink and relative > error:
                error, worst, wrong = relative, (claimed, slope), v
            if tried - kinks == directions:
                break
        if error > tolerance:
            index = _find(wrong, compare)
        checks.append(Check(name, error, index, worst, tried, kinks))
    return checks


def _find(v, compare):
    """Halve the direction, keeping the half that disagrees more, until it is one entry."""
    entries = np.arange(v.size)
    while len(entries) > 1:
        halves = np.array_split(entries, 2)
        gaps = []
        for half in halves:
            part = np.zeros(v.size)
            part[half] = v.ravel()[half]
            claimed, slope, _ = compare(part.reshape(v.shape))
            gaps.append(_gap(claimed, slope))
        entries = halves[0] if gaps[0] >= gaps[1] else halves[1]
    return tuple(int(i) for i in np.unravel_index(entries[0], v.shape))
