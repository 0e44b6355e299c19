"""The student's parts in a real network: it trains beside the library's own, from the same weights."""

from __future__ import annotations

import inspect
import math
from contextlib import ExitStack

from minicnn import losses, optimizers
from minicnn.callbacks import Callback
from minicnn.data.dataset import Dataset
from minicnn.layers import BatchNorm, Conv2D, Dense, Flatten, MaxPool2D, ReLU
from minicnn.learn.exercises import Exercise
from minicnn.learn.sources import Solution, installed
from minicnn.model import Sequential

BATCH = 50


class Kit:
    """What a network is made of: the library's classes, with the student's methods where there are some."""

    def __init__(self, solutions: dict[str, tuple[Exercise, Solution]]):
        own: dict[type, dict] = {}
        self.functions = []  # those that are no methods
        for exercise, solution in solutions.values():
            if inspect.isclass(exercise.owner):
                found = own.setdefault(exercise.owner, {"bases": []})
                found["bases"].append(solution)
                found |= {part: getattr(solution, part) for part in exercise.parts}
            else:
                self.functions.append((exercise, {exercise.parts[0]: solution}))
        self.classes = {owner: type(owner.__name__, tuple(found.pop("bases")), found) for owner, found in own.items()}

    def make(self, owner: type, *arguments, **named):
        """An object of this class of the library, or of the student's in its place."""
        return self.classes.get(owner, owner)(*arguments, **named)

    def network(self) -> Sequential:
        """A small network in which every exercise has its part."""
        return Sequential(
            [
                Conv2D(8, 3, stride=2),
                self.make(BatchNorm),
                self.make(ReLU),
                self.make(MaxPool2D, 3, 2),
                Conv2D(16, 3),
                self.make(ReLU),
                Flatten(),
                self.make(Dense, 10),
            ]
        )


class Learner:
    """A network in training, one epoch at a time."""

    def __init__(self, solutions: dict[str, tuple[Exercise, Solution]], data: Dataset):
        self.kit, self.data = Kit(solutions), data
        self.model = self.kit.network()
        self.optimizer = self.kit.make(optimizers.Adam, 5e-3)
        self.loss = self.kit.make(losses.CrossEntropy)

    @property
    def steps(self) -> int:
        """How many steps an epoch has."""
        return math.ceil(len(self.data.train_images) / BATCH)

    def epoch(self, number: int, watch: Callback) -> float:
        """Train for an epoch; the accuracy on the test images."""
        data, settings = self.data, dict(batch_size=BATCH, optimizer=self.optimizer, loss=self.loss, seed=number)
        with ExitStack() as stack:
            for exercise, functions in self.kit.functions:
                stack.enter_context(installed(exercise, functions))
            self.model.fit(data.train_images, data.train_labels, verbose=False, callbacks=watch, **settings)
            return self.model.evaluate(data.test_images, data.test_labels).accuracy
