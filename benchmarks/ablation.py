"""What each ingredient of a recipe is worth: the recipe without it, or with something else, over some seeds.

    python benchmarks/ablation.py --study short --seeds 3
    python benchmarks/ablation.py --study long --seeds 1

short: the default recipe, 3 epochs of 55,000 training images, compared on the other 5,000. long: the record's training, but
20 epochs of the default's network on half of the training images, so that an image meets as many weights as in the record,
compared on the other half. The test images are not touched. Runs that are in the results' file are not run again. The table
gives the mean and standard deviation over the seeds, the difference to the recipe as it is, and how many times as long an
epoch takes.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np

from minicnn.callbacks import Callback
from minicnn.data import Augment, load_fashion_mnist, split
from minicnn.files import replacing
from minicnn.layers import BatchNorm, Conv2D, Dense, Dropout, GlobalMaxPool2D, Layer, Residual
from minicnn.losses import CrossEntropy
from minicnn.optimizers import SGD, Adam, AdamW
from minicnn.recipes import RECIPES, Recipe, small_vgg
from minicnn.schedules import constant


class Average(Callback):
    """An exponential moving average of the weights and running statistics (Polyak and Juditsky, 1992), used at the end."""

    def __init__(self, keep: float):
        self.keep = keep

    def on_train_begin(self, run) -> None:
        self.means = None

    def on_step_end(self, run) -> None:
        now = run.model.parameters.values, run.model.parameters.states
        if self.means is None:
            self.means = [v.copy() for v in now]
        for mean, v in zip(self.means, now, strict=True):
            mean += (1 - self.keep) * (v - mean)

        if run.step == run.epochs * run.batches:  # before the last epoch is scored
            run.model.parameters.values[:], run.model.parameters.states[:] = self.means


def silu_network() -> list:
    """The default network with SiLU in place of ReLU."""
    layers = small_vgg()
    return [BatchNorm(activation="silu") if isinstance(layer, BatchNorm) else layer for layer in layers]


def residual_network(a: int = 32, b: int = 64, c: int = 128) -> list[Layer]:
    """Seven 3x3 convolutions at 28x28, 14x14 and 7x7 pixels, four of them in two residual blocks (He et al., 2015)."""

    def convolution(filters: int, stride: int = 1) -> list[Layer]:
        return [Conv2D(filters, 3, stride=stride, use_bias=False), BatchNorm(activation="relu")]

    def block(filters: int) -> Layer:
        last = [Conv2D(filters, 3, use_bias=False), BatchNorm()]
        return Residual(*convolution(filters), *last, activation="relu")

    return [
        *convolution(a),
        *convolution(b, stride=2),
        block(b),
        *convolution(c, stride=2),
        block(c),
        GlobalMaxPool2D(),
        Dense(10),
    ]


def dropout_network() -> list[Layer]:
    """The default network, with dropout before its dense layer."""
    *features, dense = small_vgg()
    return [*features, Dropout(0.3), dense]


def short_study() -> dict[str, Recipe]:
    """The default recipe, and what is compared with it."""
    recipe = RECIPES["default"]
    return {
        "as it is": recipe,
        "without mirrored images": replace(recipe, augment=Augment()),
        "without label smoothing": replace(recipe, loss=CrossEntropy()),
        "without weight decay": with_optimizer(recipe, lambda: Adam(1e-2)),
        "a constant rate of 1e-3 in place of one cycle": replace(
            with_optimizer(recipe, lambda: AdamW(1e-3, weight_decay=0.05)), schedule=lambda rate, steps: constant(rate)
        ),
        "SGD with Nesterov momentum": with_optimizer(recipe, lambda: SGD(0.2, 0.9, nesterov=True, weight_decay=5e-3)),
        "batches of 64": replace(recipe, batch_size=64),
        "batches of 256": replace(recipe, batch_size=256),
        "with moves by a pixel": replace(recipe, augment=Augment(horizontal_flip=True, crop_padding=1)),
        "with squares of 8 erased": replace(recipe, augment=Augment(horizontal_flip=True, erase=8)),
        "with averaged weights": replace(recipe, callbacks=lambda: [Average(0.99)]),
        "SiLU in place of ReLU": replace(recipe, network=silu_network),
        "a residual network of seven convolutions": replace(recipe, network=residual_network),
    }


def long_study() -> dict[str, Recipe]:
    """The record's training of the default's network, and what is compared with it."""
    recipe = replace(RECIPES["record"], network=small_vgg, epochs=20, optimizers=RECIPES["default"].optimizers)

    def augmented(**changes) -> Recipe:
        return replace(recipe, augment=replace(recipe.augment, **changes))

    return {
        "as it is": recipe,
        "without mirrored images": augmented(horizontal_flip=False),
        "without moves": augmented(crop_padding=0),
        "moves by two pixels in place of one": augmented(crop_padding=2),
        "without erasing": augmented(erase=0),
        "squares of 8 erased in place of 4": augmented(erase=8),
        "without label smoothing": replace(recipe, loss=CrossEntropy()),
        "without weight decay": with_optimizer(recipe, lambda: Adam(1e-2)),
        "three times the weight decay": with_optimizer(recipe, lambda: AdamW(1e-2, weight_decay=0.15)),
        "with dropout before the dense layer": replace(recipe, network=dropout_network),
        "with averaged weights": replace(recipe, callbacks=lambda: [Average(0.998)]),
        "a residual network of seven convolutions": replace(recipe, network=residual_network),
    }


def with_optimizer(recipe: Recipe, make) -> Recipe:
    """The recipe with another optimizer."""
    return replace(recipe, optimizers={"other": make})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--study", choices=("short", "long"), default="short")
    parser.add_argument("--seeds", type=int, default=3, help="how many: 0, 1, 2, ...")
    parser.add_argument("--out", type=Path, default=Path("ablation.json"))
    parser.add_argument("--data", default="auto")
    options = parser.parse_args()
    data = load_fashion_mnist(options.data)
    recipes, share = (short_study(), 1 / 12) if options.study == "short" else (long_study(), 1 / 2)
    results = json.loads(options.out.read_text()) if options.out.exists() else []
    for seed in range(options.seeds):
        train, validation = split(data.train_images, data.train_labels, share, seed)
        for name, recipe in recipes.items():
            key = {"study": options.study, "name": name, "seed": seed, "data": data.name}
            if not any(key.items() <= result.items() for result in results):
                model = recipe.model(seed)
                history = recipe.fit(model, train, None, seed=seed)
                seconds = float(np.median(history["seconds"]))
                results.append(key | {"accuracy": model.evaluate(*validation).accuracy, "seconds": seconds})
                with replacing(options.out) as file:
                    file.write(json.dumps(results, indent=1).encode())
    print(f"\n{data.name}")
    report([r for r in results if (r["study"], r["data"]) == (options.study, data.name)])


def report(results: list[dict]) -> None:
    """Print the table, the best first."""
    names = list(dict.fromkeys(r["name"] for r in results))
    accuracy, seconds = (
        {n: [r[key] for r in results if r["name"] == n] for n in names} for key in ("accuracy", "seconds")
    )
    base = statistics.mean(accuracy["as it is"])
    print("\n| the recipe | validation accuracy | points | an epoch takes |\n|---|---|---|---|")
    for name in sorted(names, key=lambda n: -statistics.mean(accuracy[n])):
        mean = statistics.mean(accuracy[name])
        spread = statistics.stdev(accuracy[name]) if len(accuracy[name]) > 1 else 0.0
        ratio = statistics.median(seconds[name]) / statistics.median(seconds["as it is"])
        print(f"| {name} | {mean:.2%} ± {100 * spread:.2f} | {100 * (mean - base):+.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
