"""Recipes: a network for Fashion-MNIST together with everything that its training needs.

`RECIPES["default"]` is what a newcomer's first run trains; "fast94" goes on with its network until 94%; "record" has the
best score, after 30 epochs of a wider network; "seed" is the Keras notebook this project began from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from minicnn.arguments import integer, shape
from minicnn.callbacks import Callback, ReduceLROnPlateau
from minicnn.data import Augment
from minicnn.errors import ShapeError
from minicnn.layers import BatchNorm, Conv2D, Dense, Dropout, Flatten, GlobalMaxPool2D, Layer, MaxPool2D
from minicnn.losses import CrossEntropy
from minicnn.model import Sequential
from minicnn.optimizers import Adam, AdamW, Optimizer, RMSprop
from minicnn.schedules import Schedule, constant, one_cycle

__all__ = ["DEFAULT", "RECIPES", "Recipe", "seed_network", "small_network", "small_vgg"]


@dataclass(frozen=True)
class Recipe:
    """What to train and how. `optimizers` are factories by name, the first being the recipe's own; `schedule` is made
    from the optimizer's learning rate and the number of steps; `validation` is the share of the training images held
    out, which may be 0."""

    network: Callable[[], list[Layer]]
    epochs: int
    batch_size: int
    optimizers: dict[str, Callable[[], Optimizer]]
    schedule: Callable[[float, int], Schedule]
    augment: Augment
    loss: CrossEntropy
    callbacks: Callable[[], list[Callback]]
    validation: float

    def model(self, seed: int = 0, classes: int = 10, precision: str = "float32") -> Sequential:
        """A fresh network, whose last layer, a dense one, has an output for each class; for precision see `Network`."""
        layers = self.network()
        if classes != 10:
            layers[-1] = Dense(classes)
        return Sequential(layers, input_shape=(28, 28, 1), seed=seed, precision=precision)

    def batch_for(self, images: int) -> int:
        """Its batch size, or for few images a smaller one, down to 8, with which an epoch has 14 steps or more."""
        return min(self.batch_size, max(8, images // 14))

    def fit(
        self,
        model,
        train,
        validation,
        epochs=None,
        batch_size=None,
        optimizer=None,
        seed=0,
        callbacks=(),
        checkpoint=None,
        ranks=None,
    ):
        """Train `model` on (images, labels), as the recipe says where nothing else is said; returns the History."""
        epochs, batch_size = epochs or self.epochs, batch_size or self.batch_size
        made = self.optimizers[optimizer or next(iter(self.optimizers))]()
        return model.fit(
            *train,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=made,
            loss=self.loss,
            schedule=self.schedule(made.learning_rate, epochs * math.ceil(len(train[0]) / batch_size)),
            augment=self.augment,
            validation_data=validation,
            callbacks=[*self.callbacks(), *callbacks],
            seed=seed,
            checkpoint=checkpoint,
            ranks=ranks,
        )


def _convolution(filters: int, pool: bool = False) -> list[Layer]:
    """Convolution, batch normalisation and ReLU; a pooling between them leaves the last two a quarter of the work."""
    layers = [Conv2D(filters, 3, use_bias=False), BatchNorm(activation="relu")]
    return [layers[0], MaxPool2D(), layers[1]] if pool else layers


def small_vgg(a: int = 32, b: int = 64, c: int = 128) -> list[Layer]:
    """Six 3x3 convolutions, at 28x28, 14x14 and 7x7 pixels, in the manner of Simonyan and Zisserman (2014)."""
    return _vgg([a, b, c], 2, 10)


def small_network(input_shape: tuple[int, ...], classes: int) -> list[Layer]:
    """`small_vgg` for images (h, w, c) from 8 x 8 to 256 x 256 pixels and any number of classes.

    The last convolutions see 4 to 11 pixels a side, whatever the size: small images are halved once, those of 256
    five times, by one convolution of 16 filters each before small_vgg's own. Raises ShapeError for other sizes.
    """
    size, classes = shape(input_shape, "input_shape"), integer(classes, "classes", least=2)
    if len(size) != 3 or min(size[:2]) < 8 or max(size[:2]) > 256 or size[2] not in (1, 3):
        raise ShapeError(f"input_shape: got {size}, expected (h, w, c): 8 to 256 rows and columns, 1 or 3 channels")
    pools = max(1, int(math.log2(min(size[:2]) / 6)))
    return _vgg([16] * (pools - 2) + [32, 64, 128], pools, classes)


def _vgg(widths: list[int], pools: int, classes: int) -> list[Layer]:
    """A convolution of each width, all but the first with pooling, as long as there is some; the last two with more."""
    layers = _convolution(widths[0])
    for i, width in enumerate(widths[1:], 1):
        layers += _convolution(width, pool=i <= pools)
        for _ in range(max(0, i - len(widths) + 3)):
            layers += _convolution(width)
    return [*layers, GlobalMaxPool2D(), Dense(classes)]


def seed_network() -> list[Layer]:
    """The notebook's network, with Keras' first weights: 887,530 parameters."""

    def convolution(filters: int, size: int) -> Layer:
        return Conv2D(filters, size, activation="relu", kernel_initializer="glorot")

    return [
        *(convolution(32, 5), convolution(32, 5), MaxPool2D(), Dropout(0.25)),
        *(convolution(64, 3), convolution(64, 3), MaxPool2D(), Dropout(0.25)),
        *(Flatten(), Dense(256, activation="relu"), Dropout(0.5), Dense(10)),
    ]


DEFAULT = Recipe(
    network=small_vgg,
    epochs=3,
    batch_size=128,
    optimizers={"adamw": lambda: AdamW(1e-2, weight_decay=0.05), "adam": lambda: Adam(1e-2)},
    schedule=one_cycle,
    augment=Augment(horizontal_flip=True),
    loss=CrossEntropy(label_smoothing=0.1),
    callbacks=list,
    validation=0.05,
)

RECIPES = {
    "default": DEFAULT,
    "fast94": replace(DEFAULT, epochs=8, augment=Augment(horizontal_flip=True, crop_padding=1), validation=0.0),
    "record": replace(
        DEFAULT,
        network=lambda: small_vgg(48, 96, 192),
        epochs=30,
        optimizers={"adamw": lambda: AdamW(8e-3, weight_decay=0.05), "adam": lambda: Adam(8e-3)},
        augment=Augment(horizontal_flip=True, crop_padding=1, erase=4),
        validation=0.0,
    ),
    "seed": Recipe(
        network=seed_network,
        epochs=3,
        batch_size=86,
        optimizers={"rmsprop": lambda: RMSprop(1e-3, rho=0.9), "adam": lambda: Adam(1e-3)},
        schedule=lambda rate, steps: constant(rate),
        augment=Augment(rotation=10, zoom=0.1, shift=0.1, horizontal_flip=True, vertical_flip=True),
        loss=CrossEntropy(),
        callbacks=lambda: [ReduceLROnPlateau("val_accuracy", patience=3, factor=0.5, min_lr=1e-5)],
        validation=0.1,
    ),
}
