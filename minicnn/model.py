"""A model: a network that can be trained, asked, saved and looked at.

model = Sequential([Conv2D(32, 3, activation="relu"), MaxPool2D(), Flatten(), Dense(10)])
model.fit(images, labels, epochs=3)
model.predict(images)
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence

import numpy as np

from minicnn import diagnose, model_files, profiler, saliency, training
from minicnn.frozen import Frozen
from minicnn.layers import Layer
from minicnn.network import Network
from minicnn.say import say
from minicnn.tables import size, table


class Sequential(Network):
    """Layers one after another: see `Network` for the arguments."""

    fit = training.fit
    evaluate = training.evaluate
    save = model_files.save_model
    load_weights = model_files.load_weights
    profile = profiler.profile
    diagnose = diagnose.diagnose
    grad_cam = saliency.grad_cam
    saliency = saliency.saliency

    def predict(self, x: np.ndarray, batch_size: int = 256, tta: str | None = None) -> np.ndarray:
        """The probability of each class: (n, classes), the softmax of `outputs`. For a regression, take `outputs`."""
        with self.lock:
            return self._in_use().predict(x, batch_size, tta)

    def predict_classes(self, x: np.ndarray, batch_size: int = 256, tta: str | None = None) -> np.ndarray:
        """The most probable class of each image: (n,) int64."""
        with self.lock:
            return self._in_use().predict_classes(x, batch_size, tta)

    def frozen(self) -> Frozen:
        """A copy of the model as it is now that only predicts, one image in a small part of the time."""
        with self.lock:
            return Frozen(copy.deepcopy(self))

    def summary(self) -> None:
        """Print the layers: output shape, parameters, multiply-adds and activation memory for one image."""
        say(str(self))

    def __str__(self) -> str:
        rows = [("layer", "output", "parameters", "MACs", "memory")]
        item = np.dtype(self.dtype).itemsize
        for layer in self.layers:
            count = sum(w.value.size for inner in layer.layers() for w in inner.weights())
            memory = size(np.prod(layer.output_shape) * item)
            rows.append((layer.name, str(layer.output_shape), f"{count:,}", f"{layer.macs:,}", memory))
        total = sum(np.prod(layer.output_shape) for layer in self.layers) * item
        count = self.parameter_count + self.parameters.statistics.size
        rows.append(("total", "", f"{count:,}", f"{self.macs:,}", size(total)))
        statistics = f"{self.parameters.statistics.size:,} running statistics"
        return f"{table(rows)}\n{self.parameter_count:,} learnt, {statistics}; input {self.input_shape}"


def load(path: str | os.PathLike, layers: Sequence[type[Layer]] = ()) -> Sequential:
    """Read a model that `Sequential.save` wrote; `layers` are classes of one's own that it uses.

    Raises ModelFileError where the file is not such a model, and runs nothing that stands in it.
    """
    return model_files.load_model(Sequential, path, layers)
