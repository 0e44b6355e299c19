"""What every layer took and gave for one image, forward and backward, in float64 and as the network is in use."""

from __future__ import annotations

import copy

import numpy as np

from minicnn.layers import Layer, Residual, sequence
from minicnn.network import Network
from minicnn.saliency import as_in_use


class Watched(Layer):
    """A layer that remembers its x and y, dy and dx."""

    x: np.ndarray
    y: np.ndarray
    dy: np.ndarray
    dx: np.ndarray

    def __init__(self, layer: Layer, seen: dict[str, Watched]):
        self.layer, seen[layer.name] = layer, self
        self.name, self.input_shape, self.output_shape = layer.name, layer.input_shape, layer.output_shape
        if isinstance(layer, Residual):
            for path in (layer.branch, layer.shortcut):
                path[:] = [Watched(inner, seen) for inner in path]
        self.ending: Watched | None = None  # the activation that it ends in
        if isinstance(activate := getattr(layer, "activate", None), Layer):
            self.ending = Watched(activate, seen if activate.name != layer.name else {})
            vars(layer).update(activate=self.ending)

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        self.x, self.y = x, self.layer.forward(x, True)
        return self.y

    def backward(self, dy: np.ndarray) -> np.ndarray:
        self.dy, self.dx = dy, self.layer.backward(dy)
        return self.dx


def trace(model: Network, image: np.ndarray, label: int | None) -> dict[str, Watched]:
    """Each layer by its name, those in residual blocks too, after a pass of one image (1, *input_shape) and back.

    Backpropagation begins at the loss -log(softmax(outputs)[label]), or at the largest output where label is None.
    """
    layers = copy.deepcopy(model.layers)
    arrays = [array for top in layers for layer in top.layers() for array in layer.weights()]
    for array, own in zip(arrays, model.arrays().values(), strict=True):  # a copied layer comes without its arrays
        array.value, array.grad = own.value.astype(np.float64), np.zeros(own.shape)
    seen: dict[str, Watched] = {}
    watched = [Watched(layer, seen) for layer in as_in_use(layers)]
    outputs = sequence.forward(watched, model.scale.batch(image, np.arange(1), np.dtype(np.float64)), True)
    sequence.backward(watched, _beginning(outputs, label, model.gives_probabilities))
    return seen


def _beginning(outputs: np.ndarray, label: int | None, probabilities: bool) -> np.ndarray:
    """dLoss/doutputs."""
    start = np.zeros_like(outputs)
    if label is None:
        start.flat[outputs.argmax()] = 1
    elif probabilities:
        start[0, label] = -1 / outputs[0, label]
    else:
        e = np.exp(outputs - outputs.max())
        start = e / e.sum()
        start[0, label] -= 1
    return start
