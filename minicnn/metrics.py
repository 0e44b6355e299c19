"""How good are the predictions? Counts of right and wrong, over all images and for each class.

Everything here follows from one table, the confusion matrix: its row i counts the images whose true class
is i, its column j those for which the model said j. The diagonal holds what was right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from minicnn.errors import DataError
from minicnn.inputs import plain


def accuracy(labels: ArrayLike, predicted: ArrayLike) -> float:
    """The share of images, from 0 to 1, whose predicted class is the true one.

    `labels` and `predicted` are integer class numbers, both of shape (n,); anything else is a DataError.
    """
    labels, predicted = check_labels(labels, predicted)
    return float(np.mean(labels == predicted))


def confusion_matrix(labels: ArrayLike, predicted: ArrayLike, classes: int | None = None) -> np.ndarray:
    """Count the images of each true class (row) by predicted class (column): int64, (classes, classes).

    Without `classes` the table is just large enough for the highest class number seen. Labels that are not
    integers of shape (n,), or not in 0 .. classes - 1, are a DataError.
    """
    labels, predicted = check_labels(labels, predicted, classes)
    if classes is None:
        classes = int(max(labels.max(), predicted.max())) + 1
    cells = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return cells.reshape(classes, classes).astype(np.int64)


def per_class(
    labels: ArrayLike, predicted: ArrayLike, class_names: Sequence[str] | None = None
) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support of each class, by class name (the class number where none is given).

        precision = tp / (tp + fp)     of the images called i, the share that are i
        recall    = tp / (tp + fn)     of the images that are i, the share called i
        f1        = 2 tp / (2 tp + fp + fn), the harmonic mean of the two (van Rijsbergen, 1979)
        support   = tp + fn            how many images are i (an int)

    0 / 0 counts as 0.0, as scikit-learn has it: a class never predicted has precision 0, one without
    images recall 0. Raises DataError as `confusion_matrix` does, and for a class name given twice.
    """
    matrix = confusion_matrix(labels, predicted, None if class_names is None else len(class_names))
    names = [str(i) for i in range(len(matrix))] if class_names is None else list(class_names)
    if len(set(names)) < len(names):
        raise DataError(f"class_names: expected each name once, got {names}")
    right, called, support = np.diagonal(matrix), matrix.sum(axis=0), matrix.sum(axis=1)
    precision, recall, f1 = ratio(right, called), ratio(right, support), ratio(2 * right, called + support)
    return {
        name: {
            "precision": float(precision[i]),
            "recall": float(recall[i]),
            "f1": float(f1[i]),
            "support": int(support[i]),
        }
        for i, name in enumerate(names)
    }


@dataclass(frozen=True, eq=False)
class Calibration:
    """How sure the model was, and how often it was right: an entry for each bin of confidence, and the error of all."""

    confidence: np.ndarray  # the mean of the bin's confidences, 0 where it is empty
    accuracy: np.ndarray  # the share of its images that were correct, 0 where it is empty
    count: np.ndarray  # how many images it has
    error: float


def calibration(labels: ArrayLike, probabilities: ArrayLike, bins: int = 15) -> Calibration:
    """Whether a model that says 80% is right in 80 of 100 cases.

    An image's confidence is its highest probability; the bins cut 0 .. 1 into equal parts. The expected calibration error
    is the distance of confidence and accuracy, averaged over the bins by their counts (Naeini, Cooper and Hauskrecht, 2015;
    Guo et al., 2017). `probabilities` is (n, classes), `labels` (n,); what does not fit is a DataError.
    """
    probabilities = plain(probabilities, "probabilities").astype(float)
    if probabilities.ndim != 2 or not ((probabilities >= 0) & (probabilities <= 1 + 1e-6)).all():
        raise DataError(f"probabilities: expected (n, classes) from 0 to 1, got shape {probabilities.shape}")
    labels, predicted = check_labels(labels, probabilities.argmax(axis=1), probabilities.shape[1])
    sure = probabilities.max(axis=1)
    bin_ = np.minimum((sure * bins).astype(int), bins - 1)
    count = np.bincount(bin_, minlength=bins)
    confidence = ratio(np.bincount(bin_, sure, bins), count)
    right = ratio(np.bincount(bin_, labels == predicted, bins), count)
    error = float(np.sum(count * np.abs(confidence - right)) / len(labels))
    return Calibration(confidence, right, count, error)


def confusions(matrix: np.ndarray, count: int = 10) -> list[tuple[int, int, int]]:
    """The `count` most frequent mistakes of a confusion matrix: (true class, class that was said, how often)."""
    wrong = np.where(np.eye(len(matrix), dtype=bool), 0, np.asarray(matrix, np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    return [
        (int(i), int(j), int(wrong[i, j])) for i, j in zip(*np.divmod(order, len(matrix)), strict=True) if wrong[i, j]
    ]


def worst_mistakes(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The indices of the images that were not recognised, by predicted minus true probability: the surest ones first.

    labels (n,) and probabilities (n, classes) as `calibration` takes them.
    """
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(labels != predicted)
    margin = probabilities[wrong, predicted[wrong]] - probabilities[wrong, labels[wrong]]
    return wrong[np.argsort(-margin, kind="stable")]


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part` / `whole` element by element, with 0.0 wherever `whole` is 0; float64."""
    zeros = np.zeros(np.broadcast_shapes(part.shape, whole.shape))
    return np.divide(part, whole, out=zeros, where=whole != 0)


def check_labels(labels: ArrayLike, predicted: ArrayLike, classes: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Both as int64 arrays of shape (n,); a DataError that names the first thing wrong with them."""
    checked = []
    for name, values in (("labels", plain(labels, "labels")), ("predicted", plain(predicted, "predicted"))):
        if values.ndim != 1 or len(values) == 0:
            raise DataError(f"{name}: expected class numbers of shape (n,), n > 0, got shape {values.shape}")
        if not np.issubdtype(values.dtype, np.integer):
            raise DataError(f"{name}: expected integer class numbers, got dtype {values.dtype}")
        wrong = values < 0 if classes is None else (values < 0) | (values >= classes)
        if wrong.any():
            at = int(np.argmax(wrong))
            expected = "0 or more" if classes is None else f"0 to {classes - 1} ({classes} classes)"
            raise DataError(f"{name}[{at}] is {values[at]}; expected {expected}")
        checked.append(values.astype(np.int64))
    if len(checked[0]) != len(checked[1]):
        raise DataError(f"labels and predicted: expected equal lengths, got {len(checked[0])} and {len(checked[1])}")
    return checked[0], checked[1]
