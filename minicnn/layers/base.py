"""What every layer is: a function of its input, and the chain rule through it.

To write a layer, derive from `Layer` and say three things (the first only where it has weights or changes the shape):

    build(input_shape, parameters)   ask for weights, return the output's shape (shapes are without the batch axis)
    forward(x, training)             y; when training, keep what backward needs
    backward(dy)                     write the weights' gradients, return dx

See examples/write_a_layer.py for one from derivation to gradient check.
"""

from __future__ import annotations

import inspect

import numpy as np

from minicnn.errors import ShapeError
from minicnn.names import Named
from minicnn.parameters import Parameter, Parameters, Statistic


class Layer(Named):
    """The base of all layers.

    `name`, `input_shape` and `output_shape` are set when the layer is built into a network; `macs` are the multiply-adds
    for one image. With `layer.trainable = False` training leaves its learnt weights as they are; running statistics still
    follow the images. Every argument of the constructor is kept as an attribute of the same name, so that the layer can be
    printed, saved and made again.
    """

    name = ""
    macs = 0
    trainable = True
    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()
    in_network = False  # and so not to be built into another one
    _saved: tuple | None = None

    def __init__(self) -> None:
        pass

    def build(self, input_shape: tuple[int, ...], parameters: Parameters) -> tuple[int, ...]:
        """Ask `parameters` for weights, check the input's shape, return the output's."""
        return input_shape

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """The layer's function of x (n, *input_shape): y (n, *output_shape), of x's dtype."""
        raise NotImplementedError(f"{self.title}: forward is missing")

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """From dLoss/dy to dLoss/dx, after a forward with training=True; writes dLoss/dw for each weight w."""
        raise NotImplementedError(f"{self.title}: backward is missing")

    def save_for_backward(self, *values) -> None:
        """Keep what backward will need."""
        self._saved = values

    @property
    def saved(self) -> tuple:
        """What forward kept; a clear error where there was no forward with training=True."""
        if self._saved is None:
            raise RuntimeError(f"{self.title}: backward needs a forward with training=True first")
        return self._saved

    @property
    def title(self) -> str:
        """The layer's name in its network, else that of its class."""
        return self.name or type(self).__name__

    def __getstate__(self) -> dict:
        return {k: v for k, v in vars(self).items() if k != "_saved"}  # what forward kept goes into no copy and no file

    def layers(self) -> list[Layer]:
        """This layer and those inside it, in the order they run."""
        return [self]

    def weights(self) -> list[Parameter | Statistic]:
        """This layer's own arrays, in the order Keras lists them: learnt ones first."""
        found = [v for v in vars(self).values() if isinstance(v, Parameter | Statistic)]
        return sorted(found, key=lambda v: isinstance(v, Statistic))

    def state(self) -> dict:
        """What a checkpoint must keep of the layer besides its weights: numbers and strings by name."""
        return {}

    def restore(self, state: dict) -> None:
        """Take back what `state` gave."""
        vars(self).update(state)

    def config(self) -> dict:
        """The constructor's arguments, each read from the attribute of the same name."""
        names = [name for name in inspect.signature(type(self).__init__).parameters if name != "self"]
        for name in names:
            if not hasattr(self, name):
                raise TypeError(f"{self.title}: no attribute {name!r}, expected self.{name} = {name} in __init__")
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        parameters = inspect.signature(type(self).__init__).parameters
        usual = {name: (repr(p.default), repr((p.default, p.default))) for name, p in parameters.items()}
        told = [f"{k}={v!r}" for k, v in self.config().items() if repr(v) not in usual.get(k, ())]
        return f"{type(self).__name__}({', '.join(told)})"

    def shape_error(self, input_shape: tuple[int, ...], expected: str) -> ShapeError:
        """The error for an input this layer cannot take."""
        return ShapeError(f"{self.title}: got input shape {tuple(input_shape)}, expected {expected}")
