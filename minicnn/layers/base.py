"""What every layer is: a function of its input, and the chain rule through it.

To write a layer, derive from `Layer` and say three things:

    build(input_shape, parameters)   ask for weights, return the output's shape (shapes are without the batch axis)
    forward(x, training)             y; when training, keep what backward needs
    backward(dy)                     write the weights' gradients, return dx

See examples/write_a_layer.py for one from derivation to gradient check.
"""

from __future__ import annotations

import inspect
from functools import cached_property

import numpy as np

from minicnn.errors import ShapeError
from minicnn.memory import Turns, empty
from minicnn.ops.shapes import output_size
from minicnn.parameters import Parameter, Parameters, State


class Layer:
    """The base of all layers.

    `name` and `macs` (multiply-adds for one image) are for the summary; `needs_dx` is False where nobody would use dx,
    as in a model's first layer. `turns` and `keeps` (whether what it returns must last until backward) are set by the model.
    """

    name = ""
    macs = 0
    needs_dx = True
    saved: tuple | None = None
    turns: Turns | None = None
    keeps = True

    def __init__(self) -> None:
        pass

    def build(self, input_shape: tuple[int, ...], parameters: Parameters) -> tuple[int, ...]:
        """Ask `parameters` for weights, check the input's shape, return the output's."""
        return input_shape

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """The layer's function of x."""
        raise NotImplementedError

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        """From dLoss/dy to dLoss/dx, after a forward with training=True."""
        raise NotImplementedError

    def layers(self) -> list[Layer]:
        """This layer and those inside it, in the order they run."""
        return [self]

    def weights(self) -> list[Parameter | State]:
        """This layer's own arrays, in the order Keras lists them: learnt ones first."""
        found = [v for v in vars(self).values() if isinstance(v, Parameter | State)]
        return sorted(found, key=lambda v: isinstance(v, State))

    def config(self) -> dict:
        """The constructor's arguments: each is an attribute of the same name."""
        names = inspect.signature(type(self).__init__).parameters
        return {name: getattr(self, name) for name in names if name != "self"}

    def __repr__(self) -> str:
        parameters = inspect.signature(type(self).__init__).parameters
        usual = {name: (p.default, (p.default, p.default)) for name, p in parameters.items()}
        told = {k: v for k, v in self.config().items() if v not in usual.get(k, ())}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in told.items())})"

    @cached_property
    def buffers(self) -> dict[str, np.ndarray]:
        """The layer's own memory, by name."""
        return {}

    def save(self, *values) -> None:
        """Keep what backward will need."""
        self.saved = values

    def restore(self) -> tuple:
        """What forward kept; a clear error where there was no forward with training=True."""
        if self.saved is None:
            raise RuntimeError(f"{self.name or type(self).__name__}: backward needs a forward with training=True first")
        return self.saved

    def buffer(self, name: str, shape: tuple[int, ...], dtype) -> np.ndarray:
        """An uninitialised array that belongs to this layer and is the same memory at every step.

        A smaller batch than before gets the front part of it. What only the next layer reads, dx, and y where nothing is
        kept for backward, the layers of a model take from its two `turns`.
        """
        if self.turns is not None and (name == "dx" or (name == "y" and not self.keeps)):
            return self.turns.next(shape, dtype)
        have = self.buffers.get(name)
        if have is None or have.dtype != dtype or have.shape[1:] != tuple(shape[1:]) or len(have) < shape[0]:
            have = self.buffers[name] = empty(shape, dtype)
        return have[: shape[0]]

    def shape_error(self, input_shape: tuple[int, ...], expected: str) -> ShapeError:
        """The error for an input this layer cannot take."""
        return ShapeError(
            f"{self.name or type(self).__name__}: got input shape {tuple(input_shape)}, expected {expected}"
        )


def pair(value, name: str, least: int = 1) -> tuple[int, int]:
    """An int or a pair of ints as a pair, checked."""
    values = (value, value) if isinstance(value, int | np.integer) else value
    if (
        not isinstance(values, tuple | list)
        or len(values) != 2
        or not all(isinstance(v, int | np.integer) and v >= least for v in values)
    ):
        raise ValueError(f"{name}: got {value!r}, expected an int or a pair of ints, each at least {least}")
    return int(values[0]), int(values[1])


def positive(value, name: str) -> int:
    """An int of at least 1, checked."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}: got {value!r}, expected an int of at least 1")
    return int(value)


def pad_amounts(padding, size, stride, dilation, input_shape) -> tuple[tuple[int, int], tuple[int, int]]:
    """((top, bottom), (left, right)) of "same", "valid" or a pair.

    "same" pads so that the output has ceil(input / stride) places, the odd pixel going below and to the right, as in Keras.
    """
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding == "same":
        spans = [d * (k - 1) + 1 for k, d in zip(size, dilation, strict=True)]
        totals = [
            max(0, (-(-n // s) - 1) * s + span - n) for n, s, span in zip(input_shape[:2], stride, spans, strict=True)
        ]
        return tuple((total // 2, total - total // 2) for total in totals)
    rows, columns = padding
    return (rows, rows), (columns, columns)


def check_padding(padding) -> str | tuple[int, int]:
    """ "same", "valid", or an int or a pair as a pair, checked."""
    if not isinstance(padding, str):
        return pair(padding, "padding", 0)
    if padding not in ("same", "valid"):
        raise ValueError(f'padding: got {padding!r}, expected "same", "valid", an int or a pair')
    return padding


def window_output(layer, input_shape, size, stride, padding, dilation=(1, 1)) -> tuple[int, int]:
    """(rows, columns) of the output of a sliding window; a clear error where the window does not fit."""
    places = output_size(input_shape[:2], size, stride, padding, dilation)
    if min(places) < 1:
        spans = [d * (k - 1) + 1 for k, d in zip(size, dilation, strict=True)]
        raise layer.shape_error(input_shape, f"at least {spans[0]}x{spans[1]} pixels after padding, for its window")
    return places
