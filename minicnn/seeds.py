"""Random numbers that can be had again: a stream of its own for each purpose, from the user's seed and a position.

Nothing draws from one long stream, whose state would have to be kept: the augmentation of batch 7 of epoch 3 is the same
whatever was drawn before.
"""

from __future__ import annotations

import numpy as np

PURPOSES = ("weights", "order", "augmentation", "split", "dropout")


def generator(purpose: str, *numbers: int) -> np.random.Generator:
    """The generator for a purpose, such as generator("order", seed, epoch)."""
    return np.random.default_rng([1 + PURPOSES.index(purpose), *numbers])
