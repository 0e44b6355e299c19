"""A validation that trains.

What was wrong. The loop over the validation images was a copy of the loop over the training images, with backward and
the optimizer's step still in it. The network learns from the images it is to be judged by.

Where it was found. 3outeille/CNNumpy, src/fast/train.py. The same in NifTK/NiftyNet #28 and SKrisanski/FSCT #12; in
karpathy/llm.c #500 the training took up the last batch of each validation, as both had the same name.

Why nobody noticed. Each batch is scored before it is learnt from, so the number is honest for the first epoch's first
batch. From then on it is only better than it should be, and nobody looks for a mistake in a good result.

What it costs. Here the accuracy with the bug is the higher one: a validation that flatters. What was to be measured,
how well the network does on images it has not learnt from, can no longer be known.

How it is caught. Weights before and after: scoring must leave every one of them as it is, to the bit.
"""

from __future__ import annotations

import numpy as np

from minicnn.layers import Dense
from minicnn.learn.museum._tools import normal
from minicnn.losses import CrossEntropy
from minicnn.model import Sequential
from minicnn.optimizers import Adam

SOURCE = "3outeille/CNNumpy, src/fast/train.py"


def score_and_learn(model, optimizer, images, labels) -> float:
    """The accuracy, batch by batch, and a step of the optimizer after each."""
    correct = 0
    for start in range(0, len(images), 32):
        index = np.arange(start, min(start + 32, len(images)))
        outputs = model.forward(model.batch(images, index), training=True)
        correct += (outputs.argmax(axis=1) == labels[index]).sum()
        _, doutputs = CrossEntropy()(outputs, labels[index])
        model.backward(doutputs)
        optimizer.step(model.parameters)
    return float(correct / len(images))


def score(model, optimizer, images, labels) -> float:
    """The accuracy, with the library's `evaluate`."""
    return model.evaluate(images, labels).accuracy


WRONG, RIGHT = score_and_learn, score


def weak_test(scoring=WRONG):
    """On one batch, the accuracy is the share of right predictions."""
    images, labels = normal(20, 3), np.arange(20) % 2
    model = Sequential([Dense(2)], (3,))
    right = (model.predict_classes(images) == labels).mean()
    assert scoring(model, Adam(), images, labels) == right


def strong_test(scoring=WRONG):
    """Scoring changes no weight."""
    images, labels = normal(20, 3), np.arange(20) % 2
    model = Sequential([Dense(2)], (3,))
    before = model.get_weights()
    scoring(model, Adam(), images, labels)
    assert all(map(np.array_equal, before, model.get_weights())), "scoring has changed the weights"
