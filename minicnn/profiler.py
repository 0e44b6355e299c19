"""Where a training step's time goes, layer by layer, or where the engine runs several layers as one, together.

    report = model.profile(images, labels)      # prints a table; report.chart("profile.png") draws it

Every one's forward and backward are timed over several training steps, and the median is taken. With the multiply-adds that
a layer asks for, its time becomes a rate, and beside the rate that this machine's cores reach at most (`engine/peak.py`) a
share: how much of what could be had is had. A convolution by Winograd's algorithm computes its result with fewer
multiplications than it is counted for, and may so pass 100%. Where a share is more than can be, the peak was measured while
other programs had the cores, and no share is told.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass

import numpy as np

from minicnn import engine, inputs, losses
from minicnn.arguments import integer
from minicnn.layers import Conv2D, Layer, sequence
from minicnn.network import Network
from minicnn.parameters import Parameter, Parameters
from minicnn.say import in_notebook, say
from minicnn.tables import html_table, size, table

WINOGRAD = 0.16  # of the multiplications are left, at the least: of a 5x5 convolution


@dataclass(frozen=True)
class LayerProfile:
    """One layer: seconds forward and backward, multiply-adds of each for the whole batch, bytes it holds, and the share of
    the peak that it can have at most."""

    name: str
    forward: float
    backward: float
    forward_macs: int
    backward_macs: int
    memory: int
    most: float = math.inf

    def rate(self, forward: bool = True, backward: bool = True) -> float:
        """Floating-point operations a second, a multiply-add being two; 0 where the layer has none."""
        seconds = forward * self.forward + backward * self.backward
        return 2 * (forward * self.forward_macs + backward * self.backward_macs) / seconds if seconds else 0.0


@dataclass(frozen=True, repr=False)
class Profile:
    """A step of `batch` images, layer by layer; `peak` is the machine's measured most, in operations a second."""

    layers: list[LayerProfile]
    batch: int
    peak: float

    @property
    def total(self) -> LayerProfile:
        """All layers together."""
        fields = ("forward", "backward", "forward_macs", "backward_macs", "memory")
        return LayerProfile("total", *(sum(getattr(layer, field) for layer in self.layers) for field in fields))

    @property
    def credible(self) -> bool:
        """Whether each layer's share of the peak is one that can be."""
        return all(layer.rate() <= layer.most * self.peak for layer in self.layers)

    def share(self, layer: LayerProfile) -> str:
        """The layer's share of the peak, as text: nothing where there is none, "-" where not all are credible."""
        if not (self.peak and layer.rate()):
            return ""
        return f"{layer.rate() / self.peak:.0%}" if self.credible else "-"

    def __str__(self) -> str:
        return f"{table(self._rows())}\n{self._ending()}"

    def __repr__(self) -> str:
        return f"Profile of {self._ending()}"

    def _repr_html_(self) -> str:
        return html_table(self._rows())

    def _ending(self) -> str:
        total = 1e3 * (self.total.forward + self.total.backward)
        step = f"a step of {self.batch} images: {total:.1f} ms, and the optimizer's"
        peak = f"; all cores' measured peak: {self.peak / 1e9:.0f} GFLOP/s" if self.peak else ""
        busy = ", too low to be true: other programs had the cores, and no share of it is told (-)"
        return step + peak + (busy if peak and not self.credible else "")

    def _rows(self) -> list[tuple[str, ...]]:
        longest = max(layer.forward + layer.backward for layer in self.layers)
        head = ("layer", "time", "forward", "GFLOP/s", "backward", "GFLOP/s", "MACs", "of peak", "memory")
        return [head, *(self._row(layer, longest) for layer in self.layers), self._row(self.total, float("inf"))]

    def _row(self, layer: LayerProfile, longest: float) -> tuple[str, ...]:
        def timed(seconds, rate):
            return (f"{1e3 * seconds:.2f} ms", f"{rate / 1e9:.0f}" if rate else "")

        macs = layer.forward_macs + layer.backward_macs
        return (
            *(layer.name, "#" * round(20 * (layer.forward + layer.backward) / longest)),
            *timed(layer.forward, layer.rate(backward=False)),
            *timed(layer.backward, layer.rate(forward=False)),
            *(f"{macs / 1e6:,.1f} M" if macs else "", self.share(layer)),
            size(layer.memory),
        )

    def chart(self, path=None):
        """A bar for each layer, as a matplotlib figure, saved as a PNG where a `path` is given."""
        from minicnn import plots  # brings matplotlib

        return plots.profile(self, path)


def profile(self: Network, x: np.ndarray, y: np.ndarray, loss="cross_entropy", steps: int = 10) -> Profile:
    """Time training steps on the batch (x, y), layer by layer, after one to warm up; prints a table and returns it (in a
    notebook it is returned, and shows itself).

    `profile(...).chart("profile.png")` draws it. Weights, running statistics and dropout's masks stay as they are.
    """
    loss, count = losses.get(loss), integer(steps, "steps")
    x = inputs.check_images(x, self.input_shape, self.dtype)
    y = inputs.check_targets(y, len(x), self.output_shape, loss.classifies)
    owners: list[Parameters | Layer] = [self.parameters, *(layer for layer in self.all_layers() if layer.state())]
    with self.lock:
        before = [owner.state() for owner in owners]
        try:
            times = [_time_step(self, x, y, loss) for _ in range(count + 1)][1:]
        finally:
            self._trained = None  # what a forward pass before this one kept is gone
            for owner, state in zip(owners, before, strict=True):
                owner.restore(state)
        medians = np.median(times, axis=0)
        learning = self.steps[sequence.first_that_learns(self.steps) :]
        timed = zip(self.steps, *medians.T.tolist(), strict=True)
        bfloat16 = self.precision == "bfloat16"
        rows = [_row(step, forward, back, len(x), step in learning, bfloat16) for step, forward, back in timed]
    report = Profile(rows, len(x), engine.measured_peak(np.dtype(self.dtype)))
    if not in_notebook(sys.stdout):
        say(str(report))
    return report


def _time_step(network: Network, x: np.ndarray, y: np.ndarray, loss) -> list[list[float]]:
    """[forward, backward] in seconds for each of the network's steps."""
    times: list[list[float]] = []
    h = network.batch(x, np.arange(len(x)))
    for step in network.steps:
        start = time.perf_counter()
        h = sequence.forward([step], h, training=True)
        times.append([time.perf_counter() - start, 0.0])
    _, dh = engine.fast(loss)(h, y)
    first = sequence.first_that_learns(network.steps)
    for i in reversed(range(first, len(times))):
        start, step = time.perf_counter(), network.steps[i]
        dh = sequence.backward([step], dh) if i > first else step.backward(dh)
        times[i][1] = time.perf_counter() - start
    return times


def _row(step: Layer, forward: float, backward: float, n: int, learns: bool, bfloat16: bool) -> LayerProfile:
    arrays = _buffers(step)
    weights = [w for one in step.layers() for w in one.weights()]
    arrays += [w.value for w in weights] + [w.grad for w in weights if isinstance(w, Parameter)]
    macs = n * step.macs
    back = macs * (1 + getattr(step, "needs_dx", True)) if learns else 0
    memory = sum(array.nbytes for array in arrays)
    tiled = any(isinstance(one, Conv2D) and max(one.kernel_size) > 1 for one in step.layers())
    most = (2 if bfloat16 else 1) / (WINOGRAD if tiled else 1)  # bfloat16 are multiplied two at a time
    return LayerProfile(step.title, forward, backward, macs, back, memory, most)


def _buffers(step: Layer) -> list[np.ndarray]:
    """A step's own memory, with that of the steps inside it; a layer that runs as it stands has none."""
    inner = step.inside() if hasattr(step, "inside") else []
    return [*getattr(step, "buffers", {}).values(), *(array for one in inner for array in _buffers(one))]
