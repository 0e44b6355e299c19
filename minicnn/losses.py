"""Losses: one number for how wrong the outputs are, and its gradient, where backpropagation begins.

A loss is called with a batch of outputs and targets and gives (value, doutputs). Ours take a weight for each image too,
sample_weight (n,), at least 0; the loss is then the weighted mean over the images, and 0 where all weights are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from minicnn.arguments import choice, number
from minicnn.errors import DataError, ShapeError
from minicnn.names import Named


class Loss(Protocol):
    """What `fit` takes for a loss; `classifies` says whether the largest output is an answer that can be correct."""

    classifies: bool

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[float, np.ndarray]:
        """(outputs, targets), and sample_weight where there is one, to (value, doutputs)."""


class CrossEntropy(Named):
    """Softmax cross-entropy of logits: -log of the probability that the model gave the truth, averaged.

    Targets are integer labels (n,) or probabilities (n, classes). With label_smoothing s, the truth is taken to be
    (1 - s) * target + s / classes (Szegedy et al., 2016). class_weight, a sequence or {class: weight}, weighs the images
    by their class, and the loss is the weighted mean. Each image has one weight, that of its true class, whether labels
    are smoothed or not; PyTorch, with both, weighs each class's share of the smoothed truth by that class's weight.
    """

    classifies = True

    def __init__(self, label_smoothing: float = 0.0, class_weight: Sequence[float] | Mapping[int, float] | None = None):
        self.label_smoothing = number(label_smoothing, "label_smoothing", least=0, below=1)
        self.class_weight = class_weight

    def __call__(
        self, outputs: np.ndarray, targets: np.ndarray, sample_weight: np.ndarray | None = None
    ) -> tuple[float, np.ndarray]:
        classes = outputs.shape[1]
        truth = one_hot(targets, classes, outputs.dtype)
        weights = self.image_weights(truth, sample_weight)
        if self.label_smoothing:
            truth = truth * (1 - self.label_smoothing) + self.label_smoothing / classes
        return self.formula(outputs, truth, weights / (weights.sum() or 1))

    def formula(self, logits: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss and its gradient, dlogits.

        loss = -sum(weight * truth * log(softmax(logits)))

        dlogits = weight * (softmax(logits) - truth)

        logits and truth (n, classes), each row of truth of sum 1; weights (n,) of sum 1 (or all 0), one for each row.
        """
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        weights = weights[:, None]
        loss = -(weights * truth * log_probabilities).sum()
        return float(loss), weights * (np.exp(log_probabilities) - truth)

    def image_weights(self, truth: np.ndarray, sample_weight: np.ndarray | None) -> np.ndarray:
        """The weight of each image, (n,), from that of its class and its own; truth (n, classes), not smoothed."""
        weights = np.ones(len(truth), truth.dtype)
        if self.class_weight is not None:
            weights = truth @ self.weights(truth.shape[1]).astype(truth.dtype)
        return weights if sample_weight is None else weights * sample_weight.astype(truth.dtype)

    def weights(self, classes: int) -> np.ndarray:
        """The weight of each class, from class_weight, all 1 without one: (classes,). DataError where it is wrong."""
        weights = [1.0] * classes if self.class_weight is None else self.class_weight
        if isinstance(weights, Mapping):
            unknown = [k for k in weights if k not in range(classes)]
            if unknown:
                raise DataError(f"class_weight: got class {unknown[0]!r}, expected 0 to {classes - 1}")
            weights = [weights.get(k, 1.0) for k in range(classes)]
        try:
            checked = [number(w, "class_weight", least=1e-30, most=1e30) for w in weights]
        except (TypeError, ValueError):
            checked = []
        if len(checked) != classes:
            raise DataError(
                f"class_weight: got {self.class_weight!r}, expected {classes} positive numbers, 1e-30 to 1e30"
            )
        return np.array(checked)


class MeanSquaredError:
    """The mean of (output - target)**2 over all numbers of the batch; targets have the outputs' shape."""

    classifies = False

    def __call__(
        self, outputs: np.ndarray, targets: np.ndarray, sample_weight: np.ndarray | None = None
    ) -> tuple[float, np.ndarray]:
        if targets.shape != outputs.shape:
            raise ShapeError(f"targets: got shape {targets.shape}, expected the outputs' {outputs.shape}")
        difference = outputs - targets.astype(outputs.dtype)
        if sample_weight is None:
            return float(np.mean(difference**2)), difference * (2 / difference.size)
        shares = (
            sample_weight / (sample_weight.sum() or 1) * len(outputs) / difference.size
        )  # of each number of an image
        shares = shares.reshape(-1, *[1] * (outputs.ndim - 1)).astype(outputs.dtype)
        return float((shares * difference**2).sum()), 2 * shares * difference


def one_hot(targets: np.ndarray, classes: int, dtype) -> np.ndarray:
    """Integer labels (n,) as probabilities (n, classes); probabilities as they are."""
    if targets.ndim == 2:
        return targets.astype(dtype)
    return np.eye(classes, dtype=dtype)[targets]


BY_NAME = {"cross_entropy": CrossEntropy, "mean_squared_error": MeanSquaredError}


def get(loss: str | Loss) -> Loss:
    """The loss of that name, or the object itself, which must say whether it `classifies`."""
    if callable(loss) and hasattr(loss, "classifies") and not isinstance(loss, type):
        return loss
    return choice(loss, "loss", BY_NAME, "a loss or ")()
