"""Convolutions whose channels or filters, such as 20, fill no whole vectors: each runs as a wider one, the rest being 0.

Faster because 20 filters take as long as 32, and the numbers of a vector that is not whole are written one by one; and
because Winograd's algorithm takes whole vectors only. Channels of zeros are added to x, to dy and to the weights; what
becomes of them is cut off again, and of no sum do they change more than the rounding.
"""

from __future__ import annotations

from minicnn import layers
from minicnn.engine import winograd
from minicnn.engine.calls import finish
from minicnn.engine.convolution import Convolution
from minicnn.engine.copying import copied
from minicnn.engine.lanes import best_block
from minicnn.engine.memory import Turns, contiguous, scratch
from minicnn.engine.step import Step
from minicnn.layers.base import Layer
from minicnn.parameters import Parameters

MOST = 2.6  # times as many products, of which Winograd's algorithm takes a fourth or fewer
MOST_FILTERS = 1.7  # times as many, where x has few channels: else backward's dx, which gains nothing, counts for more


def wide_channels(layer: layers.Conv2D) -> tuple[int, int]:
    """With how many channels and filters it should run: its own, or more."""
    (_, _, c, f), dtype = layer.w.shape, layer.w.value.dtype
    lanes = best_block(dtype).shape[1] // 2
    wide_c, wide_f = -(-c // lanes) * lanes, -(-f // lanes) * lanes
    fits = winograd.fits((*layer.kernel_size, wide_c, wide_f), layer.window, layer.groups, dtype)
    if fits and min(c, f) > lanes // 2 and wide_c * wide_f <= MOST * c * f:
        return wide_c, wide_f
    few = layer.groups == 1 and c <= lanes // 2
    return (c, wide_f) if few and wide_f <= MOST_FILTERS * f else (c, f)


def runs_wider(layer: Layer) -> bool:
    """Whether it is a convolution that should."""
    return type(layer) is layers.Conv2D and wide_channels(layer) != layer.w.shape[2:]


class Widened(Step):
    """Conv2D, and the ReLU and the pool behind it, by way of a step of more channels."""

    layer: layers.Conv2D
    fuses, fuses_pool = (layers.ReLU,), True

    def __init__(self, layer: layers.Conv2D, activation: Layer | None, pool: Layer | None, turns: Turns | None):
        super().__init__(layer, activation, pool, turns)
        c, f = wide_channels(layer)
        window = layer.stride, layer.padding, layer.dilation
        self.wide = layers.Conv2D(f, layer.kernel_size, *window, use_bias=layer.use_bias)
        parameters = Parameters(layer.w.value.dtype.name)
        self.wide.input_shape = (*layer.input_shape[:2], c)
        self.wide.output_shape = self.wide.build(self.wide.input_shape, parameters)
        parameters.allocate(None)
        self.step = Convolution(self.wide, activation, pool, None)
        self.step.name, self.step.output_shape = self.name, (*self.output_shape[:2], f)
        self.buffers |= {"wide weights": parameters.values, "and gradients": parameters.grads}

    def inside(self) -> list[Layer]:
        return [self.step]

    def forward(self, x, training=False):
        layer, wide, x = self.layer, self.wide, contiguous(x)
        c, f = layer.w.shape[2:]
        wide.w.value[:, :, :c, :f] = layer.w.value
        if layer.use_bias:
            wide.b.value[:f] = layer.b.value
        if wide.input_shape != layer.input_shape:
            shape = len(x), *wide.input_shape
            x = copied(x, self.buffer("wide x", shape, x.dtype) if training else scratch("wide x", shape, x.dtype))
        y = self.step.forward(x, training)
        return y if self.step.output_shape == self.output_shape else copied(y, self.y(x, training))

    def backward(self, dy):
        layer, wide, step, dy = self.layer, self.wide, self.step, contiguous(dy)
        c, f = layer.w.shape[2:]
        if step.output_shape != self.output_shape:
            dy = copied(dy, scratch("wide dy", (len(dy), *step.output_shape), dy.dtype))
        step.needs_dx = self.needs_dx
        dx = step.backward(dy)
        finish()
        layer.w.grad[...] = wide.w.grad[:, :, :c, :f]
        if layer.use_bias:
            layer.b.grad[...] = wide.b.grad[:f]
        if not self.needs_dx or wide.input_shape == layer.input_shape:
            return dx
        return copied(dx, self.dx((len(dy), *layer.input_shape), dy.dtype))
