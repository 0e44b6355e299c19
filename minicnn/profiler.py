"""Where a training step's time goes, layer by layer.

    report = model.profile(images, labels)      # prints a table; report.chart("profile.png") draws it

Every layer's forward and backward are timed over several steps, and the median is taken. With the multiply-adds that a
layer asks for, its time becomes a rate, and beside the rate that this machine's cores reach at most (`ops.kernels.peak`)
a share: how much of what could be had is had. A convolution by Winograd's algorithm computes its result with fewer
multiplications than it is counted for, and may so pass 100%.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np

from minicnn import losses, plots
from minicnn.layers import Layer
from minicnn.layers.base import positive
from minicnn.model import Sequential
from minicnn.ops.kernels.peak import peak
from minicnn.tables import size, table


@dataclass(frozen=True)
class LayerProfile:
    """One layer: seconds forward and backward, multiply-adds of each for the whole batch, bytes it holds."""

    name: str
    forward: float
    backward: float
    forward_macs: int
    backward_macs: int
    memory: int

    def rate(self, forward: bool = True, backward: bool = True) -> float:
        """Floating-point operations a second, a multiply-add being two; 0 where the layer has none."""
        seconds = forward * self.forward + backward * self.backward
        return 2 * (forward * self.forward_macs + backward * self.backward_macs) / seconds if seconds else 0.0


@dataclass(frozen=True)
class Profile:
    """A step of `batch` images, layer by layer; `peak` is the machine's measured most, in operations a second.

    `shared` are the bytes of results that live only until the next layer has read them.
    """

    layers: list[LayerProfile]
    batch: int
    peak: float
    shared: int

    @property
    def total(self) -> LayerProfile:
        """All layers together."""
        fields = ("forward", "backward", "forward_macs", "backward_macs", "memory")
        return LayerProfile("total", *(sum(getattr(layer, field) for layer in self.layers) for field in fields))

    def __str__(self) -> str:
        longest = max(layer.forward + layer.backward for layer in self.layers)
        head = ("layer", "time", "forward", "GFLOP/s", "backward", "GFLOP/s", "MACs", "of peak", "memory")
        rows = [head, *(self._row(layer, longest) for layer in self.layers), self._row(self.total, float("inf"))]
        total = 1e3 * (self.total.forward + self.total.backward)
        return (
            f"{table(rows)}\na step of {self.batch} images: {total:.1f} ms, and the optimizer's; "
            f"all cores' measured peak: {self.peak / 1e9:.0f} GFLOP/s; in turn the layers use {size(self.shared)} more"
        )

    def _row(self, layer: LayerProfile, longest: float) -> tuple[str, ...]:
        def timed(seconds, rate):
            return (f"{1e3 * seconds:.2f} ms", f"{rate / 1e9:.0f}" if rate else "")

        macs = layer.forward_macs + layer.backward_macs
        return (
            *(layer.name, "#" * round(20 * (layer.forward + layer.backward) / longest)),
            *timed(layer.forward, layer.rate(backward=False)),
            *timed(layer.backward, layer.rate(forward=False)),
            *((f"{macs / 1e6:,.1f} M", f"{layer.rate() / self.peak:.0%}") if macs else ("", "")),
            size(layer.memory),
        )

    def chart(self, path=None):
        """A bar for each layer, as a matplotlib figure, saved as a PNG where a `path` is given."""
        return plots.profile(self, path)


def profile(model: Sequential, x: np.ndarray, y: np.ndarray, loss="cross_entropy", steps: int = 10) -> Profile:
    """Time `steps` training steps on the batch (x, y), after one to warm up.

    Weights, running statistics and dropout's masks stay as they are.
    """
    loss, steps = losses.get(loss), positive(steps, "steps")
    x = model.check_images(x)
    y = model.check_targets(y, len(x), loss)
    batch, statistics_before = model.batch(x, np.arange(len(x))), model.parameters.states.copy()
    calls_before = [layer.calls for layer in model.dropouts()]
    times: dict[str, tuple[list[float], list[float]]] = {layer.name: ([], []) for layer in model.layers}
    try:
        for _ in range(steps + 1):
            h = batch
            for layer in model.layers:
                layer.keeps = True
                start = time.perf_counter()
                h = layer.forward(h, training=True)
                times[layer.name][0].append(time.perf_counter() - start)
            _, dh = loss(h, y)
            for layer in reversed(model.layers[model.first :]):
                start = time.perf_counter()
                dh = layer.backward(dh)
                times[layer.name][1].append(time.perf_counter() - start)
    finally:
        model.parameters.states[...] = statistics_before
        for layer, calls in zip(model.dropouts(), calls_before, strict=True):
            layer.calls = calls
    rows = [_row(layer, *times[layer.name], len(x)) for layer in model.layers]
    shared = sum(memory.nbytes for memory in model.turns.memory)
    return Profile(rows, len(x), peak(np.dtype(model.dtype)), shared)


def _row(layer: Layer, forward: list[float], backward: list[float], n: int) -> LayerProfile:
    inner = layer.layers()
    arrays = [array for one in inner for array in one.buffers.values()]
    arrays += [array for one in inner for w in one.weights() for array in (w.value, getattr(w, "grad", None))]
    median = [statistics.median(times[1:]) if times else 0.0 for times in (forward, backward)]
    macs = n * layer.macs
    memory = sum(array.nbytes for array in arrays if array is not None)
    return LayerProfile(layer.name, *median, macs, macs * (1 + layer.needs_dx) if backward else 0, memory)
