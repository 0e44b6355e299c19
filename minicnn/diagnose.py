"""What is wrong with a training run that does not learn, or learns less than it should.

The mistakes that cost people days raise no error: labels that were shuffled without their images, a layer that mixes the
images of a batch, weights ten times too large. Each leaves a trace that a short experiment shows (after Karpathy's recipe
for training neural networks, 2019). Every check below is one such experiment, on a copy of the model and a part of the
data; the model stays as it is.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from minicnn import engine, inputs, optimizers
from minicnn.errors import ShapeError
from minicnn.layers import Layer, ReLU, Sigmoid, Tanh, sequence
from minicnn.losses import CrossEntropy
from minicnn.network import Network
from minicnn.parameters import Parameter
from minicnn.seeds import generator
from minicnn.tables import html_table

STEPS, BATCH, IMAGES = 40, 32, 640
FEW, MOST = 20, 0.9  # held-out images too few to judge by; a share of one class that leaves nothing to learn


@dataclass
class Verdict:
    """The outcome of one check: its name, whether all is well, what was measured, and what to do where it is not."""

    name: str
    ok: bool
    found: str
    advice: str

    def __post_init__(self):
        self.ok = bool(self.ok)  # of NumPy's comparisons


@dataclass(repr=False)
class Diagnosis:
    """All verdicts; printing it gives a table."""

    verdicts: list[Verdict]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return all(verdict.ok for verdict in self.verdicts)

    @property
    def wrong(self) -> list[str]:
        """The names of the checks that found something."""
        return [verdict.name for verdict in self.verdicts if not verdict.ok]

    def __str__(self) -> str:
        lines = []
        for verdict in self.verdicts:
            lines.append(f"{'ok   ' if verdict.ok else 'LOOK '} {verdict.name:<10} {verdict.found}")
            if not verdict.ok:
                lines.append(f"{'':<17}-> {verdict.advice}")
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = ((v.name, "ok" if v.ok else "LOOK", v.found, "" if v.ok else v.advice) for v in self.verdicts)
        return html_table([("check", "", "found", "advice"), *rows])


def diagnose(
    model: Network, x: np.ndarray, y: np.ndarray, optimizer: str | optimizers.Optimizer = "adam", seed: int = 0
) -> Diagnosis:
    """Try what usually goes wrong, for a classifier with integer labels; takes about as long as 200 training steps.

    x and y are training images and labels as `fit` takes them; of more than 640 a random part is used. The optimizer, by
    name or as an object, is used with its own learning rate. What the weights are now is asked of the model as it is;
    what it can learn of copies with weights drawn anew.

    Raises ValueError, DataError or ShapeError for what cannot be trained to classify.
    """
    if model.gives_probabilities:
        raise ValueError("diagnose: cross-entropy takes logits; leave out the last Softmax, predict() applies it")
    if len(model.output_shape) != 1 or model.output_shape[0] < 2:
        name, shape = model.layers[-1].name, model.output_shape
        raise ShapeError(
            f"{name}: got output shape {shape}, expected (classes,), at least 2: diagnose is for classifiers"
        )
    x = inputs.check_images(x, model.input_shape, model.dtype)
    y = inputs.check_targets(y, len(x), model.output_shape, True)
    part = generator("split", seed).permutation(len(x))[:IMAGES]
    x, y = x[part], y[part] if y.ndim == 1 else y[part].argmax(axis=1)
    with model.lock:
        model = copy.deepcopy(model)
    model.scale.learn(x)
    trial = _Trial(model, x, y, optimizers.get(optimizer), seed)
    checks = (_labels, _scale, _start, _leak, _dead, _saturated, _overfit, _updates, _blank, _scrambled)
    with np.errstate(all="ignore"):  # where it diverges, the verdicts say so
        return Diagnosis([check(trial) for check in checks])


@dataclass
class _Trial:
    """What the checks work with."""

    model: Network
    x: np.ndarray
    y: np.ndarray
    optimizer: optimizers.Optimizer
    seed: int

    def fresh(self) -> Network:
        """The model with weights drawn anew."""
        model = copy.deepcopy(self.model)
        model.parameters.allocate(generator("weights", self.seed + 1))
        return model

    def learn(self, x: np.ndarray, y: np.ndarray, steps: int = STEPS) -> tuple[Network, list[float], float]:
        """A fresh model after some steps on these images: it, the losses, and the share it gets right in training."""
        model, optimizer, loss = self.fresh(), copy.copy(self.optimizer), CrossEntropy()
        optimizer.parameters = None
        losses, right, rng = [], [], np.random.default_rng(self.seed)
        for _ in range(steps):
            index = rng.permutation(len(x))[:BATCH]
            outputs = model.forward(model.batch(x, index), training=True)
            value, doutputs = engine.fast(loss)(outputs, y[index])
            right.append((outputs.argmax(axis=1) == y[index]).mean())
            losses.append(value)
            if not math.isfinite(value):
                break
            model.backward(doutputs)
            engine.fast(optimizer).step(model.parameters)
        return model, losses, float(np.mean(right[-8:]))

    @property
    def held_out(self) -> int:
        """How many images, the first ones, no training sees."""
        return len(self.x) // 4

    @property
    def most(self) -> float:
        """The share of the most frequent class."""
        return float(np.bincount(self.y).max() / len(self.y))

    @cached_property
    def learnt(self) -> tuple[Network, list[float], float]:
        """A fresh model trained on the others."""
        return self.learn(self.x[self.held_out :], self.y[self.held_out :], steps=2 * STEPS)

    @cached_property
    def activations(self) -> dict[str, tuple[Layer, np.ndarray]]:
        """Every ReLU, Sigmoid and Tanh, and what it gives in use, by name: (numbers, channels)."""
        found: dict[str, tuple[Layer, np.ndarray]] = {}
        model = copy.deepcopy(self.model)
        for layer in model.all_layers():
            for one in (layer, getattr(layer, "activate", None)):
                if isinstance(one, ReLU | Sigmoid | Tanh):
                    vars(one).update(forward=_watched(one, found))  # for this layer alone
        sequence.forward(model.layers, model.batch(self.x, np.arange(min(64, len(self.x)))), False)
        return found


def _watched(layer: Layer, found: dict):
    """The layer's forward, which notes what it gives."""
    forward = layer.forward

    def watched(x: np.ndarray, training: bool = False) -> np.ndarray:
        y = forward(x, training)
        found[layer.name] = layer, y.reshape(-1, y.shape[-1])
        return y

    return watched


# ---------------------------------------------------------------------------------------------------------------
# The data, and the weights as they are


def _labels(trial: _Trial) -> Verdict:
    counts = np.bincount(trial.y, minlength=trial.model.output_shape[0])
    empty = int((counts == 0).sum())
    found = f"the most frequent class has {trial.most:.0%} of the images, {empty} classes have none"
    return Verdict("labels", trial.most < MOST and empty <= len(counts) / 2, found, "look at np.bincount(labels)")


def _scale(trial: _Trial) -> Verdict:
    floats = trial.model.batch(trial.x, np.arange(len(trial.x)))
    mean, std = float(floats.mean()), float(floats.std())
    found = f"what the first layer gets has mean {mean:.3g} and standard deviation {std:.3g}"
    return Verdict("scale", abs(mean) < 5 and 0.02 < std < 10, found, "give uint8 images, or (x - mean) / std")


def _start(trial: _Trial) -> Verdict:
    model = trial.fresh()
    outputs = model.forward(model.batch(trial.x, np.arange(min(128, len(trial.x)))), training=True)
    value, classes = CrossEntropy()(outputs, trial.y[:128])[0], len(outputs[0])
    found = f"the first loss is {value:.3g}, that of a guess log({classes}) = {math.log(classes):.3g}"
    return Verdict("start", value < 4 * math.log(classes), found, "smaller initial weights, or standardised images")


def _leak(trial: _Trial) -> Verdict:
    """In use, another image in the batch must change nothing."""
    images = trial.model.batch(trial.x, np.arange(min(8, len(trial.x)))).copy()
    before = trial.model.forward(images).copy()
    images[0] = 3 * images[0][::-1] + 1
    moved = np.abs(trial.model.forward(images)[1:] - before[1:]).max(initial=0)
    found = f"another image in the batch moves an output by {moved:.2g}"
    advice = "some layer works along the batch axis: look for axis=0, and for reshape where transpose was meant"
    return Verdict("leak", moved <= 1e-4 * np.abs(before).max(), found, advice)


def _worst(shares: dict[str, float], kind: str, found: str) -> tuple[float, str]:
    """The largest share, and what was found, by the name of its layer."""
    if not shares:
        return 0.0, f"there is no {kind}"
    name, share = max(shares.items(), key=lambda item: item[1])
    return share, found.format(name=name, share=share)


def _dead(trial: _Trial) -> Verdict:
    shares = {k: (y.max(axis=0) <= 0).mean() for k, (layer, y) in trial.activations.items() if isinstance(layer, ReLU)}
    share, found = _worst(shares, "ReLU", "of {name}'s channels {share:.0%} give 0 for every image")
    return Verdict("dead", share < 0.5, found, "no gradient passes there: a lower learning rate, or LeakyReLU")


def _saturated(trial: _Trial) -> Verdict:
    """Near the ends of Tanh's range, -1 and 1, and of Sigmoid's, 0 and 1."""
    shares = {}
    for name, (layer, y) in trial.activations.items():
        if not isinstance(layer, ReLU):
            centred = 2 * y - 1 if isinstance(layer, Sigmoid) else y
            shares[name] = (np.abs(centred) > 0.99).mean()
    share, found = _worst(shares, "Tanh or Sigmoid", "of {name}'s numbers {share:.0%} are at an end of its range")
    return Verdict("saturated", share < 0.5, found, "hardly any gradient passes there: smaller weights, or BatchNorm")


# ---------------------------------------------------------------------------------------------------------------
# What it can learn


def _overfit(trial: _Trial) -> Verdict:
    """Any network can learn one batch by heart, if gradients are right and reach its weights."""
    _, losses, right = trial.learn(trial.x[:BATCH], trial.y[:BATCH])
    found = f"one batch by heart: the loss goes from {losses[0]:.3g} to {losses[-1]:.3g}, {right:.0%} are right"
    good = math.isfinite(losses[-1]) and (right > 0.8 or losses[-1] < 0.4 * losses[0])
    return Verdict("overfit", good, found, "check the gradients (minicnn.gradcheck), then try another learning rate")


def _updates(trial: _Trial) -> Verdict:
    """How far a step moves each array, compared with its size: about a thousandth is usual."""
    steps = 2  # where the last layer begins at 0, no gradient passes it in the first step
    before, (after, _, _) = trial.fresh().arrays(), trial.learn(trial.x, trial.y, steps)
    moved = {}
    for name, w in after.arrays().items():
        if isinstance(w, Parameter) and w.value.ndim > 1:
            size, way = np.linalg.norm(before[name].value), np.linalg.norm(w.value - before[name].value) / steps
            if size or not way:
                moved[name] = float(way / (size or 1))
    if not moved:
        return Verdict("updates", True, "all weights begin at 0, and move", "")
    low, high = min(moved, key=moved.__getitem__), max(moved, key=moved.__getitem__)
    found = f"a step moves {low} by {moved[low]:.2g} of its size, {high} by {moved[high]:.2g}"
    good = 1e-6 < moved[low] and moved[high] < 0.5
    advice = "take a learning rate with which a step moves weights by about a thousandth"
    if not moved[low]:
        advice = f"no gradient reaches {low}: is all 0 behind it, or a backward wrong (minicnn.gradcheck)?"
    return Verdict("updates", good, found, advice)


def _blank(trial: _Trial) -> Verdict:
    """A network that sees nothing knows only how frequent the classes are."""
    if trial.most >= MOST:
        return Verdict("blank", True, "cannot be told where one class has nearly all images", "")
    _, _, right = trial.learnt
    _, _, blank = trial.learn(np.zeros_like(trial.x), trial.y)
    found = f"{right:.0%} are right in training, {blank:.0%} where all images are black"
    return Verdict("blank", right > blank + 0.1, found, "look at the images that fit gets: do they show anything?")


def _scrambled(trial: _Trial) -> Verdict:
    """Where images and labels belong together, what was learnt of some helps with others."""
    held_out = trial.held_out
    if held_out < FEW or trial.most >= MOST:
        found = f"cannot be told with fewer than {4 * FEW} images, or where one class has nearly all"
        return Verdict("scrambled", True, found, "")
    model, losses, seen = trial.learnt
    chance = np.bincount(trial.y[:held_out]).max() / held_out
    outputs = model.forward(model.batch(trial.x, np.arange(held_out)), training=True)
    right = float((outputs.argmax(axis=1) == trial.y[:held_out]).mean())
    found = f"of images it never saw {right:.0%} are right, by guessing {chance:.0%}"
    noise = 2 * math.sqrt(chance * (1 - chance) / held_out)
    advice = "were images or labels shuffled or sorted without the other? Look at some beside their labels"
    if seen <= chance + noise or not math.isfinite(losses[-1]):
        advice = "it did not learn those that it saw either: first see to what is said above"
    return Verdict("scrambled", right > chance + noise and math.isfinite(losses[-1]), found, advice)
