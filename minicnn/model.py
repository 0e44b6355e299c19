"""A model: layers one after another.

    model = Sequential([Conv2D(32, 3, activation="relu"), MaxPool2D(), Flatten(), Dense(10)])
    model.fit(images, labels, epochs=3)
    model.predict(images)

Forward is a walk through the list, backward the same walk in reverse.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minicnn import losses, ops
from minicnn.errors import DataError, ShapeError
from minicnn.layers import Dropout, Layer, Softmax
from minicnn.layers.base import positive
from minicnn.memory import Turns
from minicnn.parameters import Parameter, Parameters, State
from minicnn.seeds import generator
from minicnn.tables import size, table

_models: weakref.WeakSet = weakref.WeakSet()


class Evaluation(NamedTuple):
    """What `evaluate` gives: the mean loss, and the share of right answers (NaN for a loss that does not classify)."""

    loss: float
    accuracy: float


class Sequential:
    """Layers one after another, built at once: a shape that does not fit is an error here and not in training.

    input_shape is (h, w, c), without the batch; seed draws the first weights and the dropout masks; dtype is "float32"
    to train and "float64" to check gradients. Images come as uint8, and are standardised with the training images'
    mean and deviation, or as floats, and are taken as they are.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        input_shape: tuple[int, ...] = (28, 28, 1),
        seed: int = 0,
        dtype: str = "float32",
    ):
        self._declare(layers, input_shape, seed, dtype)
        self.parameters.allocate(generator("weights", self.seed))

    @classmethod
    def declared(cls, layers, input_shape, seed=0, dtype="float32") -> Sequential:
        """A model whose arrays have names and shapes, but no memory yet: see `Parameters.allocate`."""
        model = cls.__new__(cls)
        model._declare(layers, input_shape, seed, dtype)
        return model

    def _declare(self, layers, input_shape, seed, dtype) -> None:
        if str(dtype) not in ("float32", "float64"):
            raise ValueError(f'dtype: got {dtype!r}, expected "float32" or "float64"')
        self.layers, self.input_shape = list(layers), tuple(input_shape)
        self.seed, self.dtype = seed, str(dtype)
        self.mean, self.deviation = None, None  # of the training images' pixels, on a scale of 0 to 1
        self._renew_lock()
        self._build()

    def _renew_lock(self) -> None:
        self._lock = threading.RLock()
        _models.add(self)

    def _build(self) -> None:
        if not self.layers or not all(isinstance(layer, Layer) for layer in self.layers):
            raise ValueError("layers: expected a list of at least one Layer")
        everything = self.all_layers()
        if len({id(layer) for layer in everything}) != len(everything):
            raise ValueError("layers: one layer object stands in two places; make a layer for each place")
        if any(w.value is not None for layer in everything for w in layer.weights()):
            raise ValueError("layers: got one that belongs to another model; make new layers for each model")
        self.parameters = Parameters(self.dtype)
        counts: dict[str, int] = {}
        shape, self.output_shapes = self.input_shape, []
        for layer in self.layers:
            kind = type(layer).__name__.lower()
            counts[kind] = counts.get(kind, 0) + 1
            layer.name = f"{kind}_{counts[kind]}"
            shape = layer.build(shape, self.parameters)
            self.output_shapes.append(shape)
        for i, layer in enumerate(everything):
            if isinstance(layer, Dropout):
                layer.seed = (self.seed, i)
        self.turns = Turns()
        arrays = [[w for inner in layer.layers() for w in inner.weights()] for layer in self.layers]
        learning = [any(isinstance(w, Parameter) for w in found) for found in arrays]
        self.first = learning.index(True) if True in learning else 0
        for i, layer in enumerate(self.layers):
            layer.needs_dx, layer.turns = i != self.first, self.turns
        if len(self.arrays()) != len(self.parameters.parameters) + len(self.parameters.all_states):
            raise ValueError("layers: expected each weight to be an attribute of its layer, under a name of its own")

    def all_layers(self) -> list[Layer]:
        """Every layer, those inside residual blocks too."""
        return [found for layer in self.layers for found in layer.layers()]

    def dropouts(self) -> list[Dropout]:
        """The layers that count their training passes, of which their masks depend."""
        return [layer for layer in self.all_layers() if isinstance(layer, Dropout)]

    def arrays(self) -> dict[str, Parameter | State]:
        """Every weight and running statistic, by a name such as "conv2d_1/w", layer by layer."""
        return {f"{layer.name}/{w.name}": w for layer in self.all_layers() for w in layer.weights()}

    # -- forward and backward ------------------------------------------------------------------------------------

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """The last layer's output (logits) for one batch of floats, in memory that the next call overwrites."""
        self.turns.start()
        for layer in self.layers:
            layer.keeps = training
            x = layer.forward(x, training)
        if not training:
            for layer in self.all_layers():  # their buffers are overwritten: backward would be wrong
                layer.saved = None
        return x

    def backward(self, dy: np.ndarray) -> None:
        """From dLoss/doutputs to the gradient of every weight, in `parameters.grads`."""
        self.turns.start()
        for layer in reversed(self.layers[self.first :]):  # nothing before the first weights needs a gradient
            dy = layer.backward(dy)

    # -- use -----------------------------------------------------------------------------------------------------

    def outputs(self, x: np.ndarray, batch_size: int = 256, tta: str | None = None) -> np.ndarray:
        """The last layer's output for any number of images, computed in batches: logits, or a regression's values.

        With tta="flip" (test-time augmentation) it is the mean of those of each image and of its mirror image.
        """
        x, batch_size = self.check_images(x), positive(batch_size, "batch_size")
        if tta not in (None, "flip") or (tta and x.ndim != 4):
            raise ValueError(f'tta: got {tta!r}, expected None, or "flip" for images (n, h, w, c)')
        y = np.empty((len(x), *self.output_shapes[-1]), self.dtype)
        with self._lock:
            for i in range(0, len(x), batch_size):
                index = np.arange(i, min(i + batch_size, len(x)))
                images = self.batch(x, index)
                y[index] = self.forward(images)
                if tta:
                    y[index] = (y[index] + self.forward(np.ascontiguousarray(images[:, :, ::-1]))) / 2
        return y

    def predict(self, x: np.ndarray, batch_size: int = 256, tta: str | None = None) -> np.ndarray:
        """The probability of each class: (n, classes), the softmax of `outputs`. For a regression, take `outputs`."""
        y = self.outputs(x, batch_size, tta)
        return y if self._gives_probabilities() else ops.softmax(y)

    def _gives_probabilities(self) -> bool:
        last = self.layers[-1]
        return isinstance(last, Softmax) or getattr(last, "activation", None) == "softmax"

    def predict_classes(self, x: np.ndarray, batch_size: int = 256, tta: str | None = None) -> np.ndarray:
        """The most probable class of each image: (n,) int64."""
        return self.outputs(x, batch_size, tta).argmax(axis=-1)

    def evaluate(
        self, x: np.ndarray, y: np.ndarray, batch_size: int = 256, loss="cross_entropy", tta: str | None = None
    ) -> Evaluation:
        """Loss and accuracy on images and their targets, nothing being learnt."""
        loss = losses.get(loss)
        self.check_loss(loss)
        x = self.check_images(x)
        y = self.check_targets(y, len(x), loss)
        outputs = self.outputs(x, batch_size, tta)
        accuracy = count_correct(outputs, y) / len(y) if loss.classifies else float("nan")
        return Evaluation(loss(outputs, y)[0], accuracy)

    # -- input ---------------------------------------------------------------------------------------------------

    def check_images(self, x: np.ndarray) -> np.ndarray:
        """Images as an array (n, *input_shape), or a clear error."""
        x = np.asarray(x)
        if x.ndim == len(self.input_shape) and self.input_shape[-1] == 1 and x.shape[1:] == self.input_shape[:-1]:
            x = x[..., None]  # (n, h, w): one channel goes without saying
        if x.shape[1:] != self.input_shape or x.ndim != len(self.input_shape) + 1:
            expected = ", ".join(("n", *map(str, self.input_shape)))
            raise ShapeError(f"images: got shape {x.shape}, expected ({expected})")
        if x.dtype != np.uint8 and x.dtype.kind != "f":
            raise DataError(f"images: got dtype {x.dtype}, expected uint8 or floats")
        if len(x) == 0:
            raise DataError("images: got none, expected at least one")
        if x.dtype.kind == "f":
            with np.errstate(over="ignore"):  # 1e300 is infinity in float32
                parts = (x[i : i + 1024].astype(self.dtype, copy=False) for i in range(0, len(x), 1024))
                if not all(np.isfinite(part).all() for part in parts):
                    raise DataError(f"images: got NaN or infinity in {self.dtype}, expected finite numbers")
        return x if x.dtype in (np.uint8, np.float32, np.float64) else x.astype(self.dtype)

    def check_loss(self, loss) -> None:
        """Refuse a cross-entropy, which takes logits, behind a Softmax, which gives probabilities."""
        if isinstance(loss, losses.CrossEntropy) and self._gives_probabilities():
            raise ValueError("loss: cross-entropy takes logits; leave out the last Softmax, predict() applies it")
        if loss.classifies and len(self.output_shapes[-1]) != 1:
            shape = self.output_shapes[-1]
            raise ShapeError(f"{self.layers[-1].name}: got output shape {shape}, expected (classes,) to classify")

    def check_targets(self, y: np.ndarray, count: int, loss) -> np.ndarray:
        """Targets as an array that fits the outputs, or a clear error."""
        y = np.asarray(y)
        if y.shape[:1] != (count,):
            raise DataError(f"targets: got shape {y.shape}, expected as many as images: {count}")
        if not loss.classifies or y.ndim == 2:
            if y.shape[1:] != self.output_shapes[-1] or y.dtype.kind not in "fiu":
                expected = ", ".join(("n", *map(str, self.output_shapes[-1])))
                raise DataError(f"targets: got {y.dtype} of shape {y.shape}, expected numbers of shape ({expected})")
            if not np.isfinite(y).all():
                raise DataError("targets: got NaN or infinity, expected finite numbers")
            if loss.classifies and not ((y >= 0).all() and np.allclose(y.sum(axis=1), 1, atol=1e-3)):
                raise DataError("targets: expected probabilities, at least 0 and of sum 1 for each image")
            return y
        classes = self.output_shapes[-1][-1]
        if y.ndim != 1 or y.dtype.kind not in "iu":
            raise DataError(f"labels: got {y.dtype} of shape {y.shape}, expected integers of shape (n,)")
        if len(y) and (y.min() < 0 or y.max() >= classes):
            wrong = int(np.flatnonzero((y < 0) | (y >= classes))[0])
            raise DataError(f"labels: got {y[wrong]} at index {wrong}, expected 0 to {classes - 1}")
        return y.astype(np.int64, copy=False)

    def batch(self, images: np.ndarray, index: np.ndarray, matrix=None, holes=None) -> np.ndarray:
        """images[index] as the floats the first layer takes; `matrix` and `holes` as in `ops.make_batch`."""
        channels = images.shape[-1]
        scale, shift = np.ones(channels), np.zeros(channels)
        if images.dtype == np.uint8:
            mean, deviation = (0, 1) if self.mean is None else (self.mean, self.deviation)
            scale, shift = scale / 255 / deviation, shift - mean / np.asarray(deviation)
        if images.ndim == 4:
            shape = (len(index), *images.shape[1:])
            out = self.layers[0].buffer("batch", shape, np.dtype(self.dtype))
            return ops.make_batch(images, index, matrix, holes, scale, shift, self.dtype, out=out)
        return (images[index] * scale + shift).astype(self.dtype)

    def learn_scale(self, images: np.ndarray) -> None:
        """Take the mean and deviation of uint8 training images, channel by channel, unless they are known."""
        if images.dtype != np.uint8 or self.mean is not None:
            return
        parts = [images[i : i + 1000].reshape(-1, images.shape[-1]) / 255.0 for i in range(0, len(images), 1000)]
        m = sum(len(p) for p in parts)
        mean = sum(p.sum(axis=0) for p in parts) / m
        square = sum((p**2).sum(axis=0) for p in parts) / m
        variance = square - mean**2
        self.mean, self.deviation = mean, np.sqrt(np.where(variance > 1e-12, variance, 1))  # 1: a channel of one value

    # -- training, weights and files -----------------------------------------------------------------------------

    def fit(
        self,
        x: np.ndarray,
        y: np.ndarray,
        epochs: int = 1,
        batch_size: int = 128,
        optimizer="adam",
        loss="cross_entropy",
        schedule=None,
        augment=None,
        validation_data: tuple[np.ndarray, np.ndarray] | None = None,
        callbacks=(),
        class_weight=None,
        seed: int = 0,
        verbose: bool = True,
        checkpoint=None,
    ):
        """Train on images and targets; returns the History. See `minicnn.training.fit`."""
        from minicnn.training import fit

        settings = (optimizer, loss, schedule, augment, validation_data, callbacks, class_weight)
        return fit(self, x, y, epochs, batch_size, *settings, seed, verbose, checkpoint)

    def get_weights(self) -> list[np.ndarray]:
        """Copies of all arrays, layer by layer, in Keras' order and shapes: kernel, bias; gamma, beta, mean, variance."""
        return [w.value.copy() for w in self.arrays().values()]

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Take the arrays of `get_weights`, all or none of them.

        The scale of uint8 input (`mean` and `deviation`) is not among them; `save` and `load` keep it too.
        """
        own = self.arrays()
        if len(weights) != len(own):
            raise ShapeError(f"weights: got {len(weights)} arrays, expected {len(own)}")
        arrays = [np.asarray(array, self.dtype) for array in weights]
        for (name, w), array in zip(own.items(), arrays, strict=True):
            if array.shape != w.shape:
                raise ShapeError(f"{name}: got shape {array.shape}, expected {w.shape}")
        for w, array in zip(own.values(), arrays, strict=True):
            w.value[...] = array

    def save(self, path) -> None:
        """Write the model to an .npz file that `minicnn.load` reads; the name is replaced in one step."""
        from minicnn.model_files import save_model

        save_model(self, path)

    def load_weights(self, path) -> None:
        """Take the weights of a saved model with the same arrays; where anything differs, an error lists it all."""
        from minicnn.model_files import load_weights

        load_weights(self, path)

    @property
    def parameter_count(self) -> int:
        """How many numbers are learnt."""
        return self.parameters.values.size

    @property
    def macs(self) -> int:
        """Multiply-adds of one image's forward pass, those of convolutions and dense layers."""
        return sum(layer.macs for layer in self.layers)

    def summary(self) -> None:
        """Print the layers: output shape, parameters, multiply-adds and activation memory for one image."""
        print(self)

    def __str__(self) -> str:
        rows = [("layer", "output", "parameters", "MACs", "memory")]
        item = np.dtype(self.dtype).itemsize
        for layer, shape in zip(self.layers, self.output_shapes, strict=True):
            count = sum(w.value.size for inner in layer.layers() for w in inner.weights())
            rows.append((layer.name, str(shape), f"{count:,}", f"{layer.macs:,}", size(np.prod(shape) * item)))
        total = sum(np.prod(shape) for shape in self.output_shapes) * item
        count = self.parameter_count + self.parameters.states.size
        rows.append(("total", "", f"{count:,}", f"{self.macs:,}", size(total)))
        statistics = f"{self.parameters.states.size:,} running statistics"
        return f"{table(rows)}\n{self.parameter_count:,} learnt, {statistics}; input {self.input_shape}"

    def profile(self, x: np.ndarray, y: np.ndarray, loss="cross_entropy", steps: int = 10):
        """Time a training step on the batch (x, y), layer by layer; prints a table and returns it as a `Profile`.

        See `minicnn.profiler`; `profile(...).chart("profile.png")` draws it. Weights and running statistics stay.
        """
        from minicnn.profiler import profile

        report = profile(self, x, y, loss, steps)
        print(report)
        return report

    def __getstate__(self):
        return {k: v for k, v in vars(self).items() if k != "_lock"}

    def __setstate__(self, state):
        vars(self).update(state)
        self._renew_lock()
        self.parameters.make_views()


def _after_fork() -> None:
    for model in list(_models):  # a lock held by another thread of the parent is held for ever in the child
        model._renew_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def count_correct(outputs: np.ndarray, targets: np.ndarray) -> int:
    """How many outputs are largest where the target is."""
    truth = targets if targets.ndim == 1 else targets.argmax(axis=-1)
    return int((outputs.argmax(axis=-1) == truth).sum())
