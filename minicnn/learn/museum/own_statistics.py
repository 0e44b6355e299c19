"""Test images standardised with their own statistics.

What was wrong. Mean and standard deviation belong to the model like its weights: they are learnt from the training
images, and what the model is given later is standardised with these. Here each set was standardised with its own.

Where it was found. khuyentran1401/production-ready-data-science-code #5, code that goes with a book. A relative of it,
all data standardised before they are split, is udacity/deep-learning #143.

Why nobody noticed. 1,000 test images have nearly the mean of the training images, so the score hardly changes. It also
is what a function of one argument, standardise(x), invites to.

What it costs. In the test, nothing. In use, where images come one at a time, each is standardised by itself, and a dark
shirt and a white one both become medium grey. We measured that, the same network asked image by image. On these classes,
which are told apart by their outline, it costs next to nothing; where brightness matters it would not be so.

How it is caught. What an image becomes must not depend on its neighbours: one alone, and the same among others.
"""

from __future__ import annotations

import numpy as np

from minicnn.inputs import Scale

SOURCE = "khuyentran1401/production-ready-data-science-code #5"


def standardise_by_themselves(train_images, images):
    """The images with their own mean and standard deviation."""
    scale = Scale()
    scale.learn(images)
    return scale.batch(images, np.arange(len(images)), np.dtype("float32"))


def standardise(train_images, images):
    """The images with the training images' mean and standard deviation."""
    scale = Scale()
    scale.learn(train_images)
    return scale.batch(images, np.arange(len(images)), np.dtype("float32"))


WRONG, RIGHT = standardise_by_themselves, standardise


def some_images(n, seed):
    """Images that are darker or brighter as a whole, as photographs are."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, rng.integers(50, 256, (n, 1, 1, 1)), (n, 4, 4, 1)).astype(np.uint8)


def weak_test(prepare=WRONG):
    """Of many test images, mean and standard deviation become 0 and 1, nearly."""
    x = prepare(some_images(1000, seed=0), some_images(500, seed=1))
    assert abs(x.mean()) < 0.1
    assert abs(x.std() - 1) < 0.1


def strong_test(prepare=WRONG):
    """An image alone becomes what it becomes among others."""
    train, test = some_images(50, seed=0), some_images(20, seed=1)
    alone, among_others = prepare(train, test[:1]), prepare(train, test)[:1]
    assert np.array_equal(alone, among_others), f"mean {alone.mean():.2f} alone, {among_others.mean():.2f} among others"
