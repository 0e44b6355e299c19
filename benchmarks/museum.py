"""What the bugs in minicnn/learn/museum cost: a small network, trained with each and without it.

    python benchmarks/museum.py

Data are the bundled sample of Fashion-MNIST, 2,000 images to train and 1,000 to test. A pair of runs begins with the same
weights, sees the same batches, and differs in one thing: the exhibit's WRONG in place of its RIGHT. The figures go to
museum.json beside this file and to the museum itself; the picture to pictures/museum.png.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np

import minicnn
from minicnn import Augment, Conv2D, Dense, Flatten, MaxPool2D, ReLU, Sequential
from minicnn.data import load_fashion_mnist
from minicnn.errors import ShapeError
from minicnn.files import atomic_write
from minicnn.learn import museum
from minicnn.optimizers import SGD, Adam
from minicnn.plots import BLUE, GREY, VERMILION
from minicnn.say import say
from minicnn.schedules import constant, cosine

HERE = Path(__file__).parent
EPOCHS, BATCH = 6, 32
DATA = load_fashion_mnist("sample", verbose=False)
TRAIN, TEST = (DATA.train_images, DATA.train_labels), (DATA.test_images, DATA.test_labels)


def train(layers, seed: int, epochs: int = EPOCHS, data=TRAIN, optimizer=None, **options) -> Sequential:
    """A network that was trained on the sample, with a learning rate that falls to 0 unless there is another schedule."""
    model, optimizer = Sequential(layers, seed=seed), optimizer or Adam(3e-3)
    steps = epochs * math.ceil(len(data[0]) / BATCH)
    options = {"schedule": cosine(optimizer.learning_rate, steps)} | options
    model.fit(*data, epochs, batch_size=BATCH, optimizer=optimizer, seed=seed, verbose=False, **options)
    return model


def tested(layers, seed: int, **options) -> float:
    """The accuracy on the test images of a network trained on the others."""
    return train(layers, seed, **options).evaluate(*TEST).accuracy


def network(pool=lambda: MaxPool2D(2), flatten=Flatten) -> list:
    """Two convolutions, each with a pool behind it, and a dense layer."""
    first, second = (Conv2D(filters, 3, activation="relu") for filters in (8, 16))
    return [first, pool(), second, pool(), flatten(), Dense(10)]


def normalized(norm) -> list:
    """The network with normalisation behind its convolutions."""
    first, second = [Conv2D(8, 3, use_bias=False), norm(), ReLU()], [Conv2D(16, 3, use_bias=False), norm(), ReLU()]
    return [*first, MaxPool2D(2), *second, MaxPool2D(2), Flatten(), Dense(10)]


def biased(dense) -> list:
    """The network with a dense layer more, both of this kind."""
    return [*network()[:-1], dense(64, activation="relu"), dense(10)]


def plateau(callback, seed: int) -> float:
    """With a rate that is too high for the last epochs; 400 of the training images are watched."""
    (images, labels), optimizer = TRAIN, SGD(0.05, momentum=0.9)
    options = dict(data=(images[:1600], labels[:1600]), validation_data=(images[1600:], labels[1600:]))
    name = "val_acc" if callback is museum.exhibit("plateau_name").WRONG else "val_accuracy"
    watching = callback(name, patience=1, factor=0.3)
    return tested(
        network(), seed, epochs=12, optimizer=optimizer, callbacks=watching, schedule=constant(0.05), **options
    )


def validated(scoring, seed: int) -> float:
    """The last accuracy that is reported, where the test images are scored after every epoch."""
    model, optimizer = Sequential(network(), seed=seed), Adam(3e-3)
    for epoch in range(EPOCHS):
        model.fit(*TRAIN, 1, batch_size=BATCH, optimizer=optimizer, seed=100 * seed + epoch, verbose=False)
        reported = scoring(model, optimizer, *TEST)
    return reported


def averaged(flip, seed: int) -> float:
    """Accuracy of the mean of the outputs for an image and for its mirror image."""
    model = train(network(), seed, augment=Augment(horizontal_flip=True))
    images = model.scale.batch(TEST[0], np.arange(len(TEST[0])), np.dtype("float32"))
    outputs = model.outputs(images) + model.outputs(np.ascontiguousarray(flip(images), dtype=np.float32))
    return float((outputs.argmax(axis=1) == TEST[1]).mean())


def one_by_one(prepare, seed: int) -> float:
    """Accuracy where test images come one at a time."""
    model = train(network(), seed)
    images = np.concatenate([prepare(TRAIN[0], image[None]) for image in TEST[0]])
    return float((model.outputs(images).argmax(axis=1) == TEST[1]).mean())


# For each exhibit a function from its WRONG or RIGHT, and a seed, to an accuracy.
EXPERIMENTS: dict[str, Callable[[object, int], float]] = {
    "pool_assigns": lambda pool, seed: tested(network(pool=lambda: pool(3, stride=2)), seed),
    "pool_returns_early": lambda pool, seed: tested(network(pool=lambda: pool(2)), seed),
    "pool_ties": lambda pool, seed: tested(network(pool=lambda: pool(2)), seed),
    "stride_forgotten": lambda conv, seed: tested(strided(conv, "same"), seed),
    "stride_does_not_divide": lambda conv, seed: tested(strided(conv, "valid"), seed),
    "dilation_twice": lambda conv, seed: tested(dilated(conv), seed),
    "flatten_disconnected": lambda flatten, seed: tested(network(flatten=flatten), seed),
    "bias_mean": lambda dense, seed: tested(biased(dense), seed, optimizer=SGD(0.03, momentum=0.9)),
    "batchnorm_axis": lambda norm, seed: tested(normalized(norm), seed),
    "dropout_in_use": lambda dropout, seed: tested([*network()[:-1], dropout(0.5), Dense(10)], seed),
    "softmax_twice": lambda loss, seed: tested(network(), seed, loss=loss()),
    "adam_power": lambda optimizer, seed: tested(network(), seed, optimizer=optimizer(3e-3)),
    "adam_reset": lambda optimizer, seed: tested(network(), seed, optimizer=optimizer(3e-3)),
    "plateau_name": plateau,
    "validation_trains": validated,
    "flip_axis": averaged,
    "own_statistics": one_by_one,
}


def strided(conv, padding: str) -> list:
    """Three convolutions and no pool; the last two go in steps of 2 pixels, over 28 and 14, or without padding 26 and 12."""
    first = Conv2D(8, 3, padding=padding, activation="relu")
    others = [conv(16, 3, stride=2, padding=padding, activation="relu") for _ in range(2)]
    return [first, *others, Flatten(), Dense(10)]


def dilated(conv) -> list:
    """The second convolution sees every second pixel."""
    return [*network()[:2], conv(16, 3, dilation=2), ReLU(), MaxPool2D(2), Flatten(), Dense(10)]


def measure(name: str, seeds: int) -> dict:
    """The accuracies with the bug and without it, one for each seed; the error's name where there is one."""
    minicnn.use_backend("numpy")
    exhibit, run, result = museum.exhibit(name), EXPERIMENTS[name], {}
    for which, code in (("without", exhibit.RIGHT), ("with", exhibit.WRONG)):
        try:
            result[which] = [round(run(code, seed), 4) for seed in range(seeds)]
        except ShapeError as error:
            result[which] = type(error).__name__
    return result


def draw(exhibits: dict, path: Path) -> None:
    """A bar for each bug, as long as the difference it makes, with a dot for each seed; the most expensive bug first."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = sorted(exhibits, key=lambda name: statistics.mean(points(exhibits[name]) or [-math.inf]))
    figure = Figure(figsize=(12, 1.6 + 0.36 * len(names)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes, table = figure.subplots(1, 2, sharey=True, width_ratios=(6, 1))
    for row, name in enumerate(names):
        found = points(exhibits[name])
        mean = statistics.mean(found or [0])
        axes.barh(row, mean, color=VERMILION if mean < 0 else BLUE, height=0.6)
        axes.plot(found, [row] * len(found), "o", color="black", markersize=3.5)
        text = f"{mean:+.1f}" if found else f"training ends with a {exhibits[name]['with']}"
        axes.annotate(text, (max([0, *found]), row), (7, 0), textcoords="offset points", va="center", size=9)
        for place, which in ((0.45, "without"), (1, "with")):
            table.text(place, row, museum.told(exhibits[name][which]) if found or place < 1 else "–", **CELL)
    for place, head in ((0.45, "without"), (1, "with")):
        table.text(place, -1, head, weight="bold", **CELL)
    table.set_axis_off()
    axes.set_yticks(range(len(names)), [museum.title(name) for name in names])
    axes.tick_params(length=0, labelsize=9)
    axes.set_ylim(len(names) - 0.4, -1.4)
    axes.margins(x=0.08)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.grid(axis="x", color=GREY, alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.set_xlabel(
        "points of test accuracy that the bug takes (left) or seems to give (right); a dot is a seed", size=10
    )
    figure.suptitle("What real bugs cost: nearly all of these networks train, and look healthy", size=13, weight="bold")
    with atomic_write(path) as out:
        figure.savefig(out, format="png")


CELL = {"ha": "right", "va": "center", "size": 9}


def points(result: dict) -> list[float]:
    """The difference in accuracy that the bug makes, one for each seed; none where training ended with an error."""
    if isinstance(result["with"], str):
        return []
    return [100 * (a - b) for a, b in zip(result["with"], result["without"], strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description="What the museum's bugs cost.")
    parser.add_argument("--seeds", type=int, default=3, help="how many: 0, 1, 2, ...")
    parser.add_argument("--only", choices=museum.CATALOGUE, nargs="*", help="measure these again, keep the others")
    parser.add_argument("--picture", action="store_true", help="measure nothing, draw the picture")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    file = HERE / "museum.json"
    kept = json.loads(file.read_text())["exhibits"] if file.exists() else {}
    if not options.picture:
        names = options.only or museum.CATALOGUE
        with ProcessPoolExecutor(options.processes, get_context("spawn")) as processes:
            for name, result in zip(names, processes.map(measure, names, repeat(options.seeds)), strict=True):
                kept[name] = result
                say(f"{name}: {result}")
        write(
            {"data": DATA.name, "seeds": options.seeds, "exhibits": {n: kept[n] for n in museum.CATALOGUE if n in kept}}
        )
    draw(json.loads(file.read_text())["exhibits"], HERE / "pictures" / "museum.png")


def write(results: dict) -> None:
    """The figures, for this folder and for the museum."""
    for path in (HERE / "museum.json", Path(museum.__file__).parent / "accuracy.json"):
        with atomic_write(path) as out:
            out.write((json.dumps(results, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
