"""A network as a scikit-learn classifier, for pipelines, cross-validation and searches: the extra "sklearn".

from minicnn.sklearn import MiniCNNClassifier

search = GridSearchCV(MiniCNNClassifier(epochs=3), {"learning_rate": [1e-3, 3e-3]})
search.fit(images, labels)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np

from minicnn import optimizers
from minicnn.arguments import choice
from minicnn.callbacks import Callback
from minicnn.errors import ShapeError
from minicnn.extras import DISTRIBUTION
from minicnn.layers import Dense, Flatten, Layer
from minicnn.model import Sequential
from minicnn.recipes import small_network

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, check_random_state, validate_data
except ImportError as error:
    raise ImportError(f'minicnn.sklearn: {error}: pip install "{DISTRIBUTION}[sklearn]"') from error


def network_for(input_shape: tuple[int, ...], classes: int) -> list[Layer]:
    """`recipes.small_network` for the images that it takes, else two dense layers."""
    if len(input_shape) == 3 and classes > 1:
        with suppress(ShapeError):
            return small_network(input_shape, classes)
    return [Flatten(), Dense(64, activation="relu"), Dense(classes)]


class MiniCNNClassifier(ClassifierMixin, BaseEstimator):
    """A `minicnn.Sequential` that is made and trained by `fit`, with scikit-learn's conventions.

    X is images (n, h, w, c) or (n, h, w), uint8 or floats, or rows of numbers (n, features), which image_shape makes
    images of; classes may be of any kind that can be sorted. layers is a function of (input_shape, classes) that gives new
    layers, by default `network_for`; the others are those of `Sequential.fit`, optimizer being a name, and random_state its
    seed. After fit there are `model_`, `history_`, `classes_` and `n_features_in_`.
    """

    def __init__(
        self,
        layers: Callable[[tuple[int, ...], int], list[Layer]] | None = None,
        image_shape: tuple[int, ...] | None = None,
        epochs: int = 10,
        batch_size: int = 32,
        optimizer: str = "adam",
        learning_rate: float = 1e-3,
        validation_split: float = 0.0,
        callbacks: Sequence[Callback] = (),
        random_state=None,
        verbose: bool = False,
    ):
        self.layers, self.image_shape = layers, image_shape
        self.epochs, self.batch_size = epochs, batch_size
        self.optimizer, self.learning_rate = optimizer, learning_rate
        self.validation_split, self.callbacks = validation_split, callbacks
        self.random_state, self.verbose = random_state, verbose

    def fit(self, X, y, sample_weight=None) -> MiniCNNClassifier:
        """Make a new network and train it."""
        X, y = validate_data(self, X, y, allow_nd=True, dtype=[np.float32, np.float64, np.uint8])
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        images, seed = self._images(X), int(check_random_state(self.random_state).randint(2**31 - 1))
        layers = (self.layers or network_for)(images.shape[1:], len(self.classes_))
        self.model_ = Sequential(layers, images.shape[1:], seed=seed)
        self.history_ = self.model_.fit(
            images,
            labels,
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer=choice(self.optimizer, "optimizer", optimizers.BY_NAME)(learning_rate=self.learning_rate),
            validation_split=self.validation_split,
            callbacks=self.callbacks,
            sample_weight=sample_weight,
            seed=seed,
            verbose=self.verbose,
        )
        return self

    def predict_proba(self, X) -> np.ndarray:
        """The probability of each of `classes_`: (n, classes)."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, allow_nd=True, dtype=[np.float32, np.float64, np.uint8])
        return self.model_.predict(self._images(X))

    def predict(self, X) -> np.ndarray:
        """The most probable class of each."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(axis=1)]

    def _images(self, X: np.ndarray) -> np.ndarray:
        images = X if self.image_shape is None else X.reshape(len(X), *self.image_shape)
        return images[..., None] if images.ndim == 3 else images
