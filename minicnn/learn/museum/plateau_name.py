"""A learning rate that waits for a metric of another name.

What was wrong. The rate was to fall when "val_acc" stopped rising. The metric's name was "val_accuracy". A callback that
does not find its metric warned, and did nothing: the rate never fell.

Where it was found. In the Keras notebook that this project began from. It is widespread: TensorFlow 2 calls "accuracy"
what Keras had called "acc", and from one day to the next code that had worked stopped doing its work, without an error:
tensorflow/tensorflow #32239 (a model that was never saved), jessieren/DeepVirFinder #12 (a run that never stopped early).

Why nobody noticed. The warning is one line among many, once an epoch. The network trains, with the rate it began with.

What it costs. What the lower rate would have brought in the last epochs.

How it is caught. Ask for a metric that does not exist: that must be an error before the first epoch, not a warning after
it. And look at the column of learning rates that the history keeps.
"""

from __future__ import annotations

import numpy as np

from minicnn.callbacks import ReduceLROnPlateau
from minicnn.layers import Dense
from minicnn.learn.museum._tools import normal
from minicnn.model import Sequential
from minicnn.optimizers import SGD
from minicnn.say import warn

SOURCE = "the Keras notebook this began from, tensorflow/tensorflow #32239"


class LenientPlateau(ReduceLROnPlateau):
    """Warns where its metric is not there, and lets the rate as it is."""

    watches = False  # not even before the first epoch

    def on_epoch_end(self, run):
        if self.monitor not in run.metrics:
            warn(f"warning: no metric {self.monitor!r} among {', '.join(run.metrics)}")
        else:
            super().on_epoch_end(run)


WRONG, RIGHT = LenientPlateau, ReduceLROnPlateau


def rates(callback) -> list[float]:
    """The learning rates of a run whose metrics do not improve: its labels have nothing to do with its images."""
    x, labels = normal(20, 3), np.arange(20) % 2
    model = Sequential([Dense(2)], (3,))
    history = model.fit(
        x, labels, 6, optimizer=SGD(1e-9), validation_data=(x, labels), callbacks=callback, verbose=False
    )
    return history["learning_rate"]


def weak_test(callback=WRONG):
    """With a name that exists, the rate falls."""
    found = rates(callback("val_accuracy", patience=1, min_lr=0))
    assert found[-1] < found[0]


def strong_test(callback=WRONG):
    """With a name that does not, it is an error, or the rate falls all the same."""
    try:
        found = rates(callback("val_acc", patience=1, min_lr=0))
    except ValueError as refused:
        assert "val_acc" in str(refused)
    else:
        assert found[-1] < found[0], "the metric is not there, and nothing happened"
