"""Adam whose bias correction does not know the step.

What was wrong. Adam's two running means start at 0 and are too small at first. So they are divided by 1 - beta**t at
step t, which is 1 - beta at the first step and soon 1. Without the exponent they are divided by 1 - beta for ever.

Where it was found. eriklindernoren/ML-From-Scratch #35, open since 2018; the file
mlfromscratch/deep_learning/optimizers.py still reads so in the version we looked at.

Why nobody noticed. The first step, which one can compute by hand, is right. Later one mean is too large, and so is the
one it is divided by: steps are twice as long as they should be after a dozen steps, and a third as long after some
thousand. That looks like another learning rate.

What it costs. What another learning rate costs: little, or nothing. But the rate one finds to be best is not the one
that others found, and a rate from a paper means something else here.

How it is caught. Layers' gradients have nothing to do with it. Give the optimizer a gradient that never changes: all of
Adam's steps are then as long as the learning rate, the hundredth as the first.
"""

from __future__ import annotations

import numpy as np

from minicnn.layers import Conv2D, Dense, Flatten
from minicnn.learn.museum._tools import check_that_the_loss_falls, moves
from minicnn.optimizers import Adam

SOURCE = "eriklindernoren/ML-From-Scratch #35"


class PowerlessAdam(Adam):
    """Divides by 1 - beta where it should divide by 1 - beta**step."""

    def update(self, w, dw, mean, square, rate, keep):
        mean[...] = self.beta1 * mean + (1 - self.beta1) * dw
        square[...] = self.beta2 * square + (1 - self.beta2) * dw * dw
        corrected_mean, corrected_square = mean / (1 - self.beta1), square / (1 - self.beta2)
        w *= keep
        w -= rate * corrected_mean / (np.sqrt(corrected_square) + self.epsilon)


WRONG, RIGHT = PowerlessAdam, Adam


def weak_test(optimizer=WRONG):
    """The first step is as long as the learning rate, and the loss falls."""
    assert np.allclose(moves(optimizer(0.1), [3.0]), -0.1)
    check_that_the_loss_falls([Conv2D(4, 3, activation="relu"), Flatten(), Dense(2)], optimizer(0.01))


def strong_test(optimizer=WRONG):
    """With a constant gradient, all steps are."""
    steps = moves(optimizer(0.1), [3.0] * 100)
    assert np.allclose(steps, -0.1), f"the first step is {steps[0]:.3f}, the longest {min(steps):.3f}"
