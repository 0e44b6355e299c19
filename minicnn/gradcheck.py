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
from dataclasses import dataclass

import numpy as np

from minicnn.layers import Layer
from minicnn.model import Sequential
from minicnn.parameters import Parameters

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
    layer: Layer | Sequential, x: np.ndarray, tolerance: float = 1e-6, directions: int = 4, seed: int = 0
) -> Report:
    """Compare backward with central differences, in float64, for the input x (n, ...) and every parameter.

    A layer that is not yet built, or not in float64, is built for x's shape; a Sequential must have been made with
    dtype="float64". What is checked is a copy, and each evaluation runs on a copy of that: the layer stays as it is, and
    dropout and running statistics are the same every time.
    """
    rng = np.random.default_rng(seed)
    layer = copy.deepcopy(layer)
    x = np.array(x, np.float64)
    layers, arrays = _prepare(layer, x, rng)

    def forward() -> np.ndarray:
        y = x
        for one in copy.deepcopy(layers):
            y = one.forward(y, training=True)
        return y.copy()

    def backward(dy: np.ndarray) -> list[np.ndarray]:
        fresh, gradients = copy.deepcopy((layers, [p for _, p in arrays]))
        y = x
        for one in fresh:
            one.needs_dx = True
            y = one.forward(y, training=True)
        for one in reversed(fresh):
            dy = one.backward(dy)
        return [dy.copy(), *(p.grad.copy() for p in gradients)]

    y = forward()
    targets = [("input", x), *((name, p.value) for name, p in arrays)]
    if max(a.size for _, a in targets) * y.size <= SMALL:
        jacobians = _jacobians(backward, y)
        least = 1e-3 * max(map(_largest, jacobians))  # where nothing should flow, rounding errors do
        checks = [_check_all(n, a, j, least, forward, y) for (n, a), j in zip(targets, jacobians, strict=True)]
    else:
        checks = _check_directions(targets, forward, backward, y, tolerance, directions, rng)
    return Report(checks, tolerance)


def _prepare(layer, x, rng):
    """The list of layers to run, and (name, parameter) of everything they learn."""
    if isinstance(layer, Sequential):
        if layer.dtype != "float64":
            raise ValueError(f'gradcheck: got a model of dtype {layer.dtype}, expected dtype="float64"')
        everything, layers = layer.all_layers(), layer.layers
    else:
        everything, layers = layer.layers(), [layer]
        have = [w.value for one in everything for w in one.weights()]
        if not have or any(value is None or value.dtype != np.float64 for value in have):
            parameters = Parameters("float64")
            layer.build(x.shape[1:], parameters)
            parameters.allocate(rng)
            for p in parameters.parameters:  # zeros and ones would hide mistakes
                p.value += 0.1 * rng.standard_normal(p.shape)
    found = [(one, p) for one in everything for p in one.weights() if hasattr(p, "grad")]
    return layers, [(f"{one.name or type(one).__name__}/{p.name}", p) for one, p in found]


def _jacobians(backward, y):
    """For each array all derivatives of all outputs: (outputs, *shape), one backward pass for each output."""
    rows = []
    for k in range(y.size):
        dy = np.zeros(y.size)
        dy[k] = 1
        rows.append(backward(dy.reshape(y.shape)))
    return [np.stack(column) for column in zip(*rows, strict=True)]


def _slopes(array, direction, forward, y):
    """The output's derivative along a direction, and whether the direction crosses a kink.

    In a smooth place a quarter of the step gives the same slope, and the slopes to the left and to the right then differ
    by a quarter as much. With a corner of the function beside the place the slope depends on the step; with one in the
    very place the two sides differ as much as before.
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
