"""A network: layers one after another, with all their weights in one vector.

Forward is a pass through the list, backward the same pass in reverse. The list that runs is the layers themselves, or what
the engine makes of them: see `Network.steps`.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np

from minicnn import engine, inputs
from minicnn.arguments import integer, shape
from minicnn.errors import ShapeError
from minicnn.frozen import Frozen
from minicnn.layers import Dropout, Layer, Softmax, sequence
from minicnn.parameters import Parameter, Parameters, Statistic
from minicnn.seeds import generator

MOST_LAYERS = 5_000  # as many as a file may hold
_networks: weakref.WeakSet = weakref.WeakSet()
Model = TypeVar("Model", bound="Network")


class Network:
    """Layers one after another, built at once: a shape that does not fit is an error here and not in training.

    input_shape is (h, w, c), without the batch; seed draws the first weights and the dropout masks; dtype is "float32"
    to train and "float64" to check gradients. Images come as uint8, and are standardised with the training images'
    mean and standard deviation (`scale`), or as floats, and are taken as they are.

    With precision "bfloat16" 3x3 convolutions and dense layers, in predictions most other convolutions too, multiply numbers
    rounded to 8 of their 24 bits, two at a time, where the processor can (AVX512_BF16) and the backend is "numba"; sums,
    weights, their gradients and all else stay float32. So do, in training, 3x3 convolutions of images of 7, 14, 28 .. pixels
    each way, which are as fast in it. README has what it brings.
    How a network computes is no part of what it learnt: a copy and a pickle keep the precision, a file does not, and
    `minicnn.load` gives float32; to go on in bfloat16, make the network with that precision and `load_weights`.
    """

    history: dict[str, list[float]]  # of the last fit
    _class_names: list[str] | None = None

    def __init__(
        self,
        layers: Sequence[Layer],
        input_shape: tuple[int, ...] = (28, 28, 1),
        seed: int = 0,
        dtype: str = "float32",
        precision: str = "float32",
    ):
        self._declare(layers, input_shape, seed, dtype, precision)
        self.parameters.allocate(generator("weights", self.seed))

    @classmethod
    def declared(cls: type[Model], layers, input_shape, seed=0, dtype="float32") -> Model:
        """A network whose arrays have names and shapes, but no memory yet: see `Parameters.allocate`."""
        network = cls.__new__(cls)
        network._declare(layers, input_shape, seed, dtype)
        return network

    def _declare(self, layers, input_shape, seed, dtype, precision="float32") -> None:
        if str(dtype) not in ("float32", "float64"):
            raise ValueError(f'dtype: got {dtype!r}, expected "float32" or "float64"')
        engine.check_precision(precision)
        if precision == "bfloat16" and str(dtype) == "float64":
            raise ValueError('precision: got "bfloat16" for a network of dtype "float64", expected dtype "float32"')
        self.precision = precision
        self.layers = list(layers) if isinstance(layers, Iterable) else []
        wrong = [layer for layer in self.layers if not isinstance(layer, Layer)]
        if wrong or not self.layers:
            got = wrong[0] if wrong else layers
            raise ValueError(
                f"layers: got {got!r}, expected a list of at least one Layer, such as [Flatten(), Dense(10)]"
            )
        self.input_shape = shape(input_shape, "input_shape")
        self.seed, self.dtype = integer(seed, "seed", least=0), str(dtype)
        self.scale = inputs.Scale()
        everything = self.all_layers()
        if len(everything) > MOST_LAYERS:
            raise ValueError(f"layers: got {len(everything):,}, expected at most {MOST_LAYERS:,}")
        if len({id(layer) for layer in everything}) != len(everything):
            raise ValueError("layers: one layer object stands in two places; make a layer for each place")
        if any(layer.in_network for layer in everything):
            raise ValueError("layers: got one that belongs to another model; make new layers for each model")
        counts: dict[str, int] = {}
        for layer in self.layers:
            kind = type(layer).__name__.lower()
            counts[kind] = counts.get(kind, 0) + 1
            layer.name = f"{kind}_{counts[kind]}"
        for i, layer in enumerate(everything):
            if isinstance(layer, Dropout):
                layer.seed = (self.seed, i)
        self.parameters = Parameters(self.dtype)
        self.output_shape = sequence.build(self.layers, self.input_shape, self.parameters)
        if len(self.arrays()) != len(self.parameters.parameters) + len(self.parameters.all_statistics):
            raise ValueError("layers: expected each weight to be an attribute of its layer, under a name of its own")
        for layer in everything:
            layer.in_network = True
        self._renew()

    def _renew(self) -> None:
        """What belongs to this process and cannot be copied: locks, and the engine's steps with their memory."""
        self.lock, self.fitting = threading.RLock(), threading.Lock()
        self._backend: str | None = None  # that the steps are of
        self._trained: int | None = None  # images of the last forward, where it was one with training=True
        self._output: np.ndarray | None = None
        self._frozen: Frozen | None = None
        self._frozen_of: list[np.ndarray] = []
        _networks.add(self)

    def all_layers(self) -> list[Layer]:
        """Every layer, those inside residual blocks too."""
        return [found for layer in self.layers for found in layer.layers()]

    def arrays(self) -> dict[str, Parameter | Statistic]:
        """Every weight and running statistic, by a name such as "conv2d_1/w", layer by layer."""
        return {f"{layer.name}/{w.name}": w for layer in self.all_layers() for w in layer.weights()}

    @property
    def class_names(self) -> list[str] | None:
        """What the outputs are called, such as a `Dataset`'s class_names; saved with the model. None until set."""
        return self._class_names

    @class_names.setter
    def class_names(self, names: Sequence[str] | None) -> None:
        if names is not None:
            classes, fits = self.output_shape[-1], isinstance(names, list | tuple)
            if not fits or len(names) != classes or not all(isinstance(v, str) and 0 < len(v) <= 200 for v in names):
                raise ValueError(f"class_names: got {names!r:.200}, expected {classes} names of 1 to 200 characters")
            names = list(map(str, names))
        self._class_names = names

    @contextmanager
    def keeping_untrained(self) -> Iterator[None]:
        """For an optimizer's step: layers that are not trainable, and those inside them, show it no gradient and are left
        with the weights they had, weight decay or not."""
        kept = {id(layer): layer for outer in self.all_layers() if not outer.trainable for layer in outer.layers()}
        weights = [w for layer in kept.values() for w in layer.weights() if isinstance(w, Parameter)]
        before = [w.value.copy() for w in weights]
        for w in weights:
            w.grad[...] = 0
        yield
        for w, value in zip(weights, before, strict=True):
            w.value[...] = value

    # -- forward and backward ------------------------------------------------------------------------------------

    @property
    def steps(self) -> list[Layer]:
        """What forward and backward run: the layers, or the engine's steps that stand for them."""
        self._choose()
        return self._steps

    def _choose(self) -> None:
        """Take what runs from the engine, again after each change of backend."""
        if self._backend != engine.backend():
            steps = engine.steps(self.layers, self.precision)  # an error leaves the choice to the next call
            self._backend, self._trained = engine.backend(), None
            self._steps, self._scale = steps, engine.fast(self.scale)
            self._first = sequence.first_that_learns(self._steps)

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """The last layer's output (logits) for one batch of floats, in memory that the next call overwrites: copy it to
        keep it.
        """
        steps = self.steps
        inputs.check_array("forward", x, self.input_shape, self.dtype)
        if self._output is not None and np.may_share_memory(x, self._output):
            x = x.copy()  # the steps would overwrite it on their way
        self._trained = None  # an error on the way leaves nothing to go back through
        self._output = y = engine.forward(steps, x, training)
        self._trained = len(x) if training else None
        return y

    def backward(self, dy: np.ndarray) -> None:
        """From dLoss/doutputs to the gradient of every weight, in `parameters.grads`. A second one after the same forward is
        an error where batch norm has written over what it kept: behind some convolutions, with "numba".
        """
        if self._trained is None:
            raise RuntimeError("backward: needs a forward with training=True just before it")
        inputs.check_array("backward", dy, self.output_shape, self.dtype, self._trained)
        engine.learn(self.steps[self._first :], dy)  # nothing before the first weights needs a gradient

    def batch(self, images: np.ndarray, index: np.ndarray, matrix=None, holes=None) -> np.ndarray:
        """images[index] as the floats the first layer takes, good until the next call; see `inputs.make_batch`."""
        self._choose()
        return self._scale.batch(images, index, np.dtype(self.dtype), matrix, holes)

    def outputs(self, x: np.ndarray, batch_size: int = 256, tta: str | None = None) -> np.ndarray:
        """The last layer's output for any number of images, computed in batches: logits, or a regression's values.

        With tta="flip" (test-time augmentation) it is the mean of those of each image and of its mirror image. A call
        from another thread waits for its turn.
        """
        with self.lock:
            return self._in_use().outputs(x, batch_size, tta)

    def _in_use(self) -> Frozen:
        """This network with the weights that it has now: made again when they are others than at the call before."""
        self._trained = None  # as after any forward
        now = [self.parameters.values, self.parameters.statistics, *self._settings()]
        if self._frozen is None or not all(map(_equal, now, self._frozen_of)):
            self._frozen, self._frozen_of = Frozen(self, copied=False), [part.copy() for part in now]
        return self._frozen

    def _settings(self) -> list:
        """Numbers besides weights that the answer depends on, and that may be changed."""
        numbers = [getattr(layer, "epsilon", getattr(layer, "negative_slope", 0)) for layer in self.all_layers()]
        return [
            np.array(numbers),
            *(np.zeros(0) if part is None else part for part in (self.scale.mean, self.scale.std)),
        ]

    @property
    def gives_probabilities(self) -> bool:
        """Whether the last layer is a softmax."""
        last = self.layers[-1]
        return isinstance(last, Softmax) or getattr(last, "activation", None) == "softmax"

    # -- weights -------------------------------------------------------------------------------------------------

    def get_weights(self) -> list[np.ndarray]:
        """Copies of all arrays, layer by layer, in Keras' order and shapes: kernel, bias; gamma, beta, mean, variance."""
        return [w.value.copy() for w in self.arrays().values()]

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Take the arrays of `get_weights`, all or none of them.

        The scale of uint8 input is not among them; `save` and `load` keep it too.
        """
        own = self.arrays()
        if len(weights) != len(own):
            raise ShapeError(f"weights: got {len(weights)} arrays, expected {len(own)}")
        arrays = [inputs.plain(array, name) for name, array in zip(own, weights, strict=True)]
        for (name, w), array in zip(own.items(), arrays, strict=True):
            if array.shape != w.shape or array.dtype.kind not in "fiu":
                raise ShapeError(
                    f"{name}: got {array.dtype} of shape {array.shape}, expected numbers of shape {w.shape}"
                )
        with self.lock:
            for w, array in zip(own.values(), arrays, strict=True):
                w.value[...] = array

    @property
    def parameter_count(self) -> int:
        """How many numbers are learnt."""
        return self.parameters.values.size

    @property
    def macs(self) -> int:
        """Multiply-adds of one image's forward pass, those of convolutions and dense layers."""
        return sum(layer.macs for layer in self.layers)

    def __getstate__(self):
        own = (
            "lock",
            "fitting",
            "_backend",
            "_trained",
            "_output",
            "_steps",
            "_scale",
            "_first",
            "_frozen",
            "_frozen_of",
        )
        return {k: v for k, v in vars(self).items() if k not in own}

    def __setstate__(self, state):
        vars(self).update(state)
        self._renew()


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    """As np.array_equal of two vectors, a piece at a time, which stays in the cache."""
    pieces = (slice(i, i + 2**14) for i in range(0, len(a), 2**14))
    return len(a) == len(b) and all(np.array_equal(a[piece], b[piece]) for piece in pieces)


def _after_fork() -> None:
    for network in list(_networks):  # a lock held by another thread of the parent is held for ever in the child
        network.lock, network.fitting = threading.RLock(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
