"""Where a network looks: the gradient of a class's score with respect to the image, and Grad-CAM.

Backpropagation does not end at the first weights. One step further it says how the score moves when a pixel moves:

    saliency    d score / d x, a number for each pixel (Simonyan, Vedaldi and Zisserman, 2014)
    grad_cam    relu(sum over channels k of weight[k] * A[:, :, k]), A being a late layer's output and weight[k] the mean
                over its positions of d score / dA[:, :, k] (Selvaraju et al., 2017)

and `feature_maps` are the outputs on the way.

The network is asked as it is in use: batch normalisation scales with its running statistics, dropout drops nothing.
Weights and gradients of the model stay as they are.
"""

from __future__ import annotations

import copy

import numpy as np

from minicnn import inputs
from minicnn.errors import ShapeError
from minicnn.layers import BatchNorm, Dropout, Layer, Residual, sequence
from minicnn.network import Network
from minicnn.parameters import Parameter


def saliency(model: Network, images: np.ndarray, classes: np.ndarray | None = None) -> np.ndarray:
    """The gradient of one score for each image with respect to the floats that the first layer takes: (n, *input_shape).

    classes (n,) says which score (by default the highest). What uint8 images become before the first layer is a matter
    of scale: it multiplies the gradient of each channel by one number.
    """
    layers, x = _ask(model, images)
    scores = sequence.forward(layers, x, True)
    return sequence.backward(layers, _chosen(scores, classes)).copy()


def grad_cam(
    model: Network, images: np.ndarray, classes: np.ndarray | None = None, layer: str | None = None
) -> np.ndarray:
    """How much each place of the images speaks for a class: (n, h, w), from 0 to 1, as large as the images.

    layer is the name of one of `model.layers` that gives images (h, w, c), by default the last of them: its maps are
    coarse, and stretched to the size of the image. Where nothing speaks for the class all is 0.
    """
    at = _place(model, layer)
    layers, x = _ask(model, images)
    below, above = layers[: at + 1], layers[at + 1 :]
    maps = sequence.forward(below, x, True).copy()
    scores = sequence.forward(above, maps, True)
    dmaps = sequence.backward(above, _chosen(scores, classes))
    weights = dmaps.mean(axis=(1, 2), keepdims=True)
    cam = np.maximum((weights * maps).sum(axis=3), 0)
    cam = _stretch(_stretch(cam, x.shape[1], axis=1), x.shape[2], axis=2)
    largest = cam.max(axis=(1, 2), keepdims=True)
    return cam / np.where(largest > 0, largest, 1)


def feature_maps(model: Network, image: np.ndarray) -> dict[str, np.ndarray]:
    """What each layer makes of one image (h, w, c): copies of the outputs by the layers' names, in the order in which they
    are computed, those in residual blocks too. Of several images (n, h, w, c), outputs with n in front.

    Those that are images themselves are what `minicnn.plots.feature_maps` draws.
    """
    images, single = inputs.as_batch(image, model.input_shape)
    images = inputs.check_images(images, model.input_shape, model.dtype)
    maps: dict[str, np.ndarray] = {}
    with model.lock:
        layers, x = as_in_use(model.layers), model.batch(images, np.arange(len(images))).copy()
        own = set(map(id, model.all_layers()))  # which stay as they are
        for layer in (inner for outer in layers for inner in outer.layers() if id(inner) not in own):
            _keep_output(layer, maps)
        sequence.forward(layers, x, False)
    return {name: y[0] for name, y in maps.items()} if single else maps


def _keep_output(layer: Layer, maps: dict[str, np.ndarray]) -> None:
    forward = layer.forward

    def kept(x: np.ndarray, training: bool = False) -> np.ndarray:
        y = forward(x, training)
        maps[layer.name] = y.copy()
        return y

    vars(layer).update(forward=kept)  # for this layer alone


def as_in_use(layers: list[Layer]) -> list[Layer]:
    """Layers that compute in a forward with training=True what these do in use, on the same weights, gradients apart."""
    return [_as_in_use(layer) for layer in layers]


class _Still(Layer):
    """Batch normalisation in use, and Dropout: y = activation(scale * x + shift), so dx = scale * dy."""

    def __init__(self, layer: BatchNorm | Dropout):
        self.scale: np.ndarray | int = 1
        self.shift: np.ndarray | int = 0
        self.activate: Layer | None = None
        if isinstance(layer, BatchNorm):
            scale = layer.gamma.value / np.sqrt(layer.variance.value + layer.epsilon)
            self.scale, self.shift = scale, layer.beta.value - layer.mean.value * scale
            self.activate = copy.copy(layer.activate)

    def forward(self, x, training=False):
        y = (self.scale * x + self.shift).astype(x.dtype)
        return self.activate.forward(y, training) if self.activate else y

    def backward(self, dy):
        dy = self.activate.backward(dy) if self.activate else dy
        return (self.scale * dy).astype(dy.dtype)


def _as_in_use(layer: Layer) -> Layer:
    if type(layer) is BatchNorm or type(layer) is Dropout:
        still = _Still(layer)
        still.name, still.input_shape, still.output_shape = layer.name, layer.input_shape, layer.output_shape
        return still
    same = copy.copy(layer)
    for name, value in vars(layer).items():
        if isinstance(value, Parameter):
            spare = Parameter(value.name, value.shape, value.initialize, value.decay)
            spare.value, spare.grad = value.value, np.zeros_like(value.grad)
            setattr(same, name, spare)
        elif name == "activate" and isinstance(value, Layer):
            setattr(same, name, copy.copy(value))
    if type(same) is Residual:
        same.branch, same.shortcut = as_in_use(same.branch), as_in_use(same.shortcut)
    return same


def _ask(model: Network, images: np.ndarray) -> tuple[list[Layer], np.ndarray]:
    """The layers to ask, and the images as floats."""
    if len(model.output_shape) != 1:
        raise ShapeError(f"{model.layers[-1].name}: got output shape {model.output_shape}, expected (classes,)")
    images = inputs.check_images(images, model.input_shape, model.dtype)
    with model.lock:
        layers = as_in_use(model.layers)
        return layers, model.batch(images, np.arange(len(images))).copy()


def _chosen(scores: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
    """dscores: 1 at each image's class, else 0."""
    n, count = scores.shape
    if classes is None:
        classes = scores.argmax(axis=1)
    elif np.shape(classes) != (n,):
        raise ShapeError(f"classes: got shape {np.shape(classes)}, expected one class for each of {n} images")
    return np.eye(count, dtype=scores.dtype)[inputs.check_targets(classes, n, (count,), True)]


def _place(model: Network, name: str | None) -> int:
    """The index of the layer of that name that gives images, or of the last of them."""
    places = {layer.name: i for i, layer in enumerate(model.layers) if len(layer.output_shape) == 3}
    if not places:
        raise ValueError(
            f"grad_cam: got a network for {model.input_shape}, expected one with a layer that gives images"
        )
    if name is not None and name not in places:
        raise ValueError(f"layer: got {name!r}, expected one that gives images: {', '.join(places)}")
    return places[name] if name is not None else list(places.values())[-1]


def _stretch(maps: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Maps made as long as `size` along an axis, by linear interpolation between the middles of their pixels."""
    have = maps.shape[axis]
    at = np.clip((np.arange(size) + 0.5) * have / size - 0.5, 0, have - 1)
    low = np.floor(at).astype(int)
    share = (at - low).reshape([-1 if i == axis else 1 for i in range(maps.ndim)])
    return maps.take(low, axis) * (1 - share) + maps.take(np.minimum(low + 1, have - 1), axis) * share
