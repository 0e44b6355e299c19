"""Adam that begins anew with every batch.

What was wrong. Adam remembers: a running mean of the gradient and one of its square. The function that made a step began
by setting both to 0, so that every step was the first.

Where it was found. Alescontrela/Numpy-CNN, CNN/network.py, in `adamGD`, the function that is called for each batch.

Why nobody noticed. Each step goes downhill. What is left of Adam is the sign of the gradient: every weight moves by the
same length at every step, however small its gradient is. Such a descent trains, too.

What it costs. Weights that should come to rest keep jumping; a weight moves as far for noise as for a clear direction.

How it is caught. Momentum is memory, so test the memory: push once, then let go. The weight must roll on.
"""

from __future__ import annotations

import numpy as np

from minicnn.layers import Conv2D, Dense, Flatten
from minicnn.learn.museum._tools import check_that_the_loss_falls, moves
from minicnn.optimizers import Adam

SOURCE = "Alescontrela/Numpy-CNN, CNN/network.py"


class ForgetfulAdam(Adam):
    """Sets its moments to 0 before each step."""

    def step(self, parameters, rate=None):
        self.attach(parameters)
        self.steps = 0
        for moment in self.vectors.values():
            moment[...] = 0
        super().step(parameters, rate)


WRONG, RIGHT = ForgetfulAdam, Adam


def weak_test(optimizer=WRONG):
    """Steps go against the gradient, and the loss falls."""
    assert np.allclose(moves(optimizer(0.1), [3.0, 3.0]), -0.1)
    check_that_the_loss_falls([Conv2D(4, 3, activation="relu"), Flatten(), Dense(2)], optimizer(0.01))


def strong_test(optimizer=WRONG):
    """After a gradient of 3, one of 0: the weight goes on in the direction it had."""
    _, second = moves(optimizer(0.1), [3.0, 0.0])
    assert second < -0.01, f"pushed once, the weight moved by {second:.3f} at the next step"
