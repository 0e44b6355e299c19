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

from minicnn import diagnose, inputs, model_files, names, profiler, saliency, training
from minicnn.data import read_image
from minicnn.errors import ShapeError
from minicnn.frozen import Frozen
from minicnn.layers import Layer
from minicnn.network import Network
from minicnn.say import advise, say
from minicnn.tables import html_table, size, table


class Sequential(Network):
    """Layers one after another: see `Network` for the arguments."""

    fit = names.named(training.fit)
    evaluate = training.evaluate
    save = model_files.save_model
    load_weights = model_files.load_weights
    profile = profiler.profile
    diagnose = diagnose.diagnose
    feature_maps = saliency.feature_maps
    grad_cam = saliency.grad_cam
    saliency = saliency.saliency

    def predict(self, x, batch_size: int = 256, tta: str | None = None, invert: bool = False) -> np.ndarray:
        """The probability of each class: the softmax of `outputs`, (n, classes). For a regression, take `outputs`.

        x is images (n, h, w, c), or the paths of n image files; of a single image (h, w, c), or path, it is
        (classes,). Files are read as `data.read_image` does, which is what invert is for: a network that learnt
        bright things on black does not know dark ones on white.
        """
        x, single = self._images(x, invert)
        with self.lock:
            y = self._in_use().predict(x, batch_size, tta)
        return y[0] if single else y

    def predict_classes(self, x, batch_size: int = 256, tta: str | None = None, invert: bool = False) -> np.ndarray:
        """The most probable class of each image, (n,) int64, or of a single one: what `predict` takes."""
        x, single = self._images(x, invert)
        with self.lock:
            y = self._in_use().predict_classes(x, batch_size, tta)
        return y[0] if single else y

    def _images(self, x, invert: bool) -> tuple[np.ndarray, bool]:
        """Images as a batch, and whether x was a single one."""
        one = isinstance(x, str | os.PathLike)
        if not one and not (isinstance(x, list | tuple) and x and all(isinstance(v, str | os.PathLike) for v in x)):
            if invert:
                raise ValueError(
                    "invert: got True and an array, expected paths of image files; of an array give 255 - x"
                )
            return inputs.as_batch(x, self.input_shape)
        if len(self.input_shape) != 3:
            raise ShapeError(f"images: got a path, and the model takes {self.input_shape}, expected (h, w, c)")
        h, w, channels = self.input_shape
        read = [read_image(path, (h, w), channels, invert) for path in ([x] if one else x)]
        if any(inputs.bright_edge(image, self.scale) for image in read):
            told = "leave invert=True out" if invert else "if it is dark on white, give invert=True"
            advise(f"images: got one with a bright edge, and the model was trained on dark images on the whole; {told}")
        return np.stack(read), one

    def frozen(self) -> Frozen:
        """A copy of the model as it is now that only predicts, one image in a small part of the time."""
        with self.lock:
            return Frozen(copy.deepcopy(self))

    def __getattr__(self, name: str):
        """Where a model has no such attribute: an error that tells our name, where other libraries' models have it."""
        if name in names.ATTRIBUTES:
            raise AttributeError(names.told(f"{type(self).__name__}: got {name}", names.ATTRIBUTES[name]))
        return object.__getattribute__(self, name)  # Python's own error

    def __call__(self, *args, **options):
        """TypeError: what is asked has a name here."""
        raise TypeError(f"{type(self).__name__}: got a call, here it is outputs (logits) or predict (probabilities)")

    def summary(self) -> None:
        """Print the layers: output shape, parameters, multiply-adds and activation memory for one image."""
        say(str(self))

    def _rows(self) -> list[tuple[str, ...]]:
        rows = [("layer", "output", "parameters", "MACs", "memory")]
        item = np.dtype(self.dtype).itemsize
        for layer in self.layers:
            count = sum(w.value.size for inner in layer.layers() for w in inner.weights())
            memory = size(np.prod(layer.output_shape) * item)
            rows.append((layer.name, str(layer.output_shape), f"{count:,}", f"{layer.macs:,}", memory))
        total = sum(np.prod(layer.output_shape) for layer in self.layers) * item
        count = self.parameter_count + self.parameters.statistics.size
        return [*rows, ("total", "", f"{count:,}", f"{self.macs:,}", size(total))]

    def __str__(self) -> str:
        statistics = f"{self.parameters.statistics.size:,} running statistics"
        return f"{table(self._rows())}\n{self.parameter_count:,} learnt, {statistics}; input {self.input_shape}"

    def _repr_html_(self) -> str:
        return html_table(self._rows())

    def __repr__(self) -> str:
        told = ", ".join(map(repr, self.layers))
        precision = "" if self.precision == "float32" else f", precision={self.precision!r}"
        return f"{type(self).__name__}([{told}], {self.input_shape}, seed={self.seed}, dtype={self.dtype!r}{precision})"


def load(path: str | os.PathLike, layers: Sequence[type[Layer]] = ()) -> Sequential:
    """Read a model that `Sequential.save` wrote; `layers` are classes of one's own that it uses.

    It computes in float32 (or float64, where it was saved so), whatever the precision it was trained with: see `Network`.
    Raises ModelFileError where the file is not such a model, and runs nothing that stands in it.
    """
    return model_files.load_model(Sequential, path, layers)
