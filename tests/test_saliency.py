"""Saliency is the slope of the score in use, and Grad-CAM looks where the pattern is."""

from __future__ import annotations

import numpy as np
import pytest

import minicnn
from minicnn import (
    BatchNorm,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    Layer,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
)
from minicnn.layers import GlobalAveragePool2D
from minicnn.saliency import grad_cam, saliency


@pytest.fixture(autouse=True, params=["numpy", "numba"])
def backend(request):
    minicnn.use_backend(request.param)
    yield
    minicnn.use_backend("numba")


class Square(Layer):
    """A user's own layer with a weight."""

    def build(self, input_shape, parameters):
        self.w = parameters.add("w", input_shape[-1:], minicnn.initializers.ones)
        return input_shape

    def forward(self, x, training=False):
        if training:
            self.save_for_backward(x)
        return self.w.value * x * x

    def backward(self, dy):
        (x,) = self.saved
        self.w.grad[...] = (dy * x * x).reshape(-1, x.shape[-1]).sum(axis=0)
        return dy * 2 * self.w.value * x


def network():
    block = Residual(
        Conv2D(4, 3), BatchNorm(activation="tanh"), Dropout(0.3), projection=Conv2D(4, 1), activation="silu"
    )
    head = [Conv2D(3, 3, stride=2, activation="gelu"), BatchNorm(), Square(), block, MaxPool2D(), DepthwiseConv2D(3)]
    model = Sequential(
        [*head, Dropout(0.5), Flatten(), Dense(6, activation="tanh"), Dense(3)], (9, 7, 2), dtype="float64"
    )
    rng = np.random.default_rng(0)
    for w in model.arrays().values():
        w.value[...] = (
            np.abs(rng.standard_normal(w.shape)) + 0.1 if w.name == "variance" else rng.standard_normal(w.shape)
        )
    return model


@pytest.mark.parametrize("classes", [None, [2, 0]])
def test_saliency_is_the_slope_of_the_score_and_leaves_the_model_as_it_is(classes):
    model, x = network(), np.random.default_rng(1).standard_normal((2, 9, 7, 2))
    model.parameters.grads[...] = 3
    values, grads = model.parameters.state(), model.parameters.grads.copy()
    scores = model.outputs(x)
    of = scores.argmax(axis=1) if classes is None else np.array(classes)
    found = model.saliency(x, classes)
    assert found.shape == x.shape
    for at in np.ndindex(9, 7, 2):
        up, down = x.copy(), x.copy()
        here = (slice(None), *at)
        up[here] += 1e-5
        down[here] -= 1e-5
        slope = (model.outputs(up) - model.outputs(down))[np.arange(2), of] / 2e-5
        np.testing.assert_allclose(found[here], slope, atol=1e-6 * np.abs(found).max())
    np.testing.assert_array_equal(model.outputs(x), scores)
    np.testing.assert_array_equal(model.parameters.grads, grads)
    for name, array in model.parameters.state().items():
        np.testing.assert_array_equal(array, values[name])


def test_a_training_step_that_is_under_way_is_not_disturbed():
    model, x, dy = network(), np.ones((2, 9, 7, 2)), np.ones((2, 3))
    found = []
    for asked in (False, True):
        for layer in model.all_layers():
            layer.restore({name: 0 for name in layer.state()})
        model.forward(x, training=True)
        if asked:
            saliency(model, 2 * x)
        model.backward(dy)
        found.append(model.parameters.grads.copy())
    np.testing.assert_array_equal(*found)


def crosses():
    """A network whose first filter answers to a cross and whose second to a square, and images of a cross somewhere."""
    model = Sequential([Conv2D(2, 3), ReLU(), GlobalAveragePool2D(), Dense(2)], (12, 12, 1))
    cross, square = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]]), np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]])
    w, b, v, _ = (array.value for array in model.arrays().values())
    w[:, :, 0, 0], w[:, :, 0, 1] = cross * 2 - 1, square * 2 - 1
    b[...], v[...] = (-4, -7), 10 * np.eye(2)
    images = np.zeros((2, 12, 12, 1), np.float32)
    images[0, 1:4, 7:10, 0], images[1, 8:11, 2:5, 0] = cross, cross
    images[0, 8:11, 2:5, 0], images[1, 1:4, 7:10, 0] = square, square
    return model, images


def test_grad_cam_looks_where_the_pattern_of_the_class_is():
    model, images = crosses()
    for layer in (None, "relu_1"):
        of_crosses, of_squares = (model.grad_cam(images, [k, k], layer) for k in (0, 1))
        assert of_crosses.shape == (2, 12, 12) and of_crosses.max() == 1 and of_crosses.min() == 0
        assert [np.unravel_index(cam.argmax(), cam.shape) for cam in of_crosses] == [(2, 8), (9, 3)]
        assert [np.unravel_index(cam.argmax(), cam.shape) for cam in of_squares] == [(9, 3), (2, 8)]


def test_grad_cam_depends_on_the_weights():
    """Adebayo et al. (2018): a picture that stays the same with other weights explains no network."""
    x = np.random.default_rng(1).standard_normal((3, 9, 7, 2))
    model = network()
    before = grad_cam(model, x)
    for layer in (model.layers[0], model.layers[-1]):
        layer.w.value[...] = np.random.default_rng(2).standard_normal(layer.w.shape)
        after = grad_cam(model, x)
        assert np.abs(after - before).max() > 0.1
        before = after


def test_maps_are_stretched_between_the_middles_of_their_pixels():
    model = Sequential([MaxPool2D((2, 1)), GlobalAveragePool2D(), Dense(1)], (4, 2, 1))
    model.layers[-1].w.value[...] = 1
    x = np.zeros((1, 4, 2, 1), np.float32)
    x[0, 0, 0] = 1
    np.testing.assert_allclose(grad_cam(model, x)[0], [[1, 0], [0.75, 0], [0.25, 0], [0, 0]])


def test_the_place_that_speaks_most_has_1_however_coarse_the_maps_are():
    """Between the middles of the maps' pixels a lonely peak of 3x3 falls to 0.56 on 6x6."""
    model = Sequential([MaxPool2D(2), GlobalAveragePool2D(), Dense(1)], (6, 6, 1))
    model.layers[-1].w.value[...] = 1
    x = np.zeros((2, 6, 6, 1), np.float32)
    x[0, 2, 2], x[1, 3, 0] = 1, 0.1
    np.testing.assert_allclose(grad_cam(model, x).max(axis=(1, 2)), 1)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda model, x: saliency(model, x, [0, 1, 2]),
            r"classes: got shape \(3,\), expected one class for each of 2",
        ),
        (lambda model, x: grad_cam(model, x, 1), r"classes: got shape \(\), expected one class for each of 2"),
        (lambda model, x: saliency(model, x, [0, 3]), "labels: got 3 at index 1, expected 0 to 2"),
        (lambda model, x: saliency(model, x[0]), r"images: got shape \(9, 7, 2\)"),
        (
            lambda model, x: grad_cam(model, x, layer="dense_1"),
            "layer: got 'dense_1', expected one that gives images: conv2d_1",
        ),
        (
            lambda model, x: grad_cam(Sequential([Dense(2)], (4,)), x),
            r"got a network for \(4,\), expected one with a layer that gives images",
        ),
        (
            lambda model, x: saliency(Sequential([Conv2D(2, 3)], (9, 7, 2)), x),
            r"conv2d_1: got output shape \(9, 7, 2\)",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(ask, message):
    with pytest.raises(ValueError, match=message):
        ask(network(), np.zeros((2, 9, 7, 2)))
