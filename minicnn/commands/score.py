"""How well a model recognises the test images: in numbers, in a few lines, and in pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from minicnn import losses, metrics, plots
from minicnn.data import duplicates
from minicnn.layers.activations import softmax
from minicnn.say import say


def score(model, data, results: dict) -> tuple[np.ndarray, np.ndarray]:
    """Score the test images, once, and write the metrics down; returns their probabilities and the confusion matrix."""
    logits = model.outputs(data.test_images)
    # plain cross-entropy, without the label smoothing that the losses of training and validation may have
    results["test_loss"], _ = losses.CrossEntropy()(logits, data.test_labels)
    probabilities, labels = softmax(logits), data.test_labels
    predicted = logits.argmax(axis=1)
    results["test_accuracy"] = metrics.accuracy(labels, predicted)
    flipped = model.outputs(data.test_images, tta="flip").argmax(axis=1)
    results["test_accuracy_tta"] = metrics.accuracy(labels, flipped)
    new = ~duplicates(data.test_images, among=data.train_images)
    results["test_duplicates_of_training"] = int((~new).sum())
    results["test_accuracy_without_duplicates"] = metrics.accuracy(labels[new], predicted[new]) if new.any() else None
    results["calibration_error"] = metrics.calibration(labels, probabilities).error
    results["per_class"] = metrics.per_class(labels, predicted, data.class_names)
    return probabilities, metrics.confusion_matrix(labels, predicted, len(data.class_names))


def tell(results: dict, data, matrix) -> None:
    """The result in a few lines, and where the errors are."""
    worst = [f"{data.class_names[i]} called {data.class_names[j]} ({k})" for i, j, k in metrics.confusions(matrix, 4)]
    say(
        f"\n{data.name}: test accuracy {results['test_accuracy']:.2%} ({results['test_accuracy_tta']:.2%} averaged with "
        f"mirrored images), loss {results['test_loss']:.4f}"
    )
    if worst:
        say(f"most frequent errors: {', '.join(worst)}")
    if data.is_sample:
        say("THE SCORE IS THAT OF A SMALL SAMPLE, not of Fashion-MNIST.")


def note_of(data) -> str:
    """What is printed on the pictures of a sample."""
    return f"{data.name}: not the data set's score" if data.is_sample else ""


def draw_errors(out: Path, data, probabilities, matrix) -> None:
    """The four pictures of what was recognised, and what was not."""
    note, names, labels = note_of(data), data.class_names, data.test_labels
    plots.errors(data.test_images, labels, probabilities, names, out / "errors.png", note=note)
    plots.confusion(matrix, names, out / "confusion.png", note=note)
    plots.mistakes(matrix, names, out / "mistakes.png", note=note)
    plots.reliability(labels, probabilities, out / "reliability.png", note=note)
