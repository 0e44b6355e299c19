"""What each ingredient of the default recipe is worth: the recipe without it, or with something else, over some seeds.

    python benchmarks/ablation.py --seeds 3

All is trained on 55,000 of the training images and compared on the other 5,000; the test images are not touched. Runs that
are in the results' file are not run again. The table gives the mean and standard deviation over the seeds, the difference
to the recipe as it is, and the seconds of an epoch beside those of the recipe as it is.
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
from minicnn.layers import BatchNorm, Conv2D, Dense, GlobalMaxPool2D, Layer, Residual
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


def variants(recipe: Recipe) -> dict[str, Recipe]:
    """The recipe, and what is compared with it."""

    def optimizer(make) -> Recipe:
        return replace(recipe, optimizers={"other": make})

    flip = recipe.augment
    return {
        "as it is": recipe,
        "without mirrored images": replace(recipe, augment=Augment()),
        "without label smoothing": replace(recipe, loss=CrossEntropy()),
        "without weight decay": optimizer(lambda: Adam(1e-2)),
        "a constant rate of 1e-3 in place of one cycle": replace(
            optimizer(lambda: AdamW(1e-3, weight_decay=0.05)), schedule=lambda rate, steps: constant(rate)
        ),
        "SGD with Nesterov momentum": optimizer(lambda: SGD(0.2, 0.9, nesterov=True, weight_decay=5e-3)),
        "batches of 64": replace(recipe, batch_size=64),
        "batches of 256": replace(recipe, batch_size=256),
        "with moves by a pixel": replace(recipe, augment=replace(flip, crop_padding=1)),
        "with squares of 8 erased": replace(recipe, augment=replace(flip, erase=8)),
        "with averaged weights": replace(recipe, callbacks=lambda: [Average(0.99)]),
        "SiLU in place of ReLU": replace(recipe, network=silu_network),
        "a residual network of seven convolutions": replace(recipe, network=residual_network),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="how many: 0, 1, 2, ...")
    parser.add_argument("--out", type=Path, default=Path("ablation.json"))
    parser.add_argument("--data", default="auto")
    options = parser.parse_args()
    data = load_fashion_mnist(options.data)
    held_out = len(data.train_images) // 12
    results = json.loads(options.out.read_text()) if options.out.exists() else []
    for seed in range(options.seeds):
        train, validation = split(data.train_images, data.train_labels, held_out, seed)
        for name, recipe in variants(RECIPES["default"]).items():
            if not any((r["name"], r["seed"], r["data"]) == (name, seed, data.name) for r in results):
                history = recipe.fit(recipe.model(seed), train, validation, seed=seed)
                seconds = float(np.median(history["seconds"]))
                share = history["val_accuracy"][-1]
                results.append({"name": name, "seed": seed, "data": data.name, "accuracy": share, "seconds": seconds})
                with replacing(options.out) as file:
                    file.write(json.dumps(results, indent=1).encode())
    print(f"\n{data.name}")
    report([r for r in results if r["data"] == data.name])


def report(results: list[dict]) -> None:
    """Print the table, the best first."""
    names = list(dict.fromkeys(r["name"] for r in results))
    accuracy, seconds = (
        {n: [r[key] for r in results if r["name"] == n] for n in names} for key in ("accuracy", "seconds")
    )
    base = statistics.mean(accuracy["as it is"])
    print("\n| the default recipe | validation accuracy | points | an epoch takes |\n|---|---|---|---|")
    for name in sorted(names, key=lambda n: -statistics.mean(accuracy[n])):
        mean = statistics.mean(accuracy[name])
        spread = statistics.stdev(accuracy[name]) if len(accuracy[name]) > 1 else 0.0
        ratio = statistics.median(seconds[name]) / statistics.median(seconds["as it is"])
        print(f"| {name} | {mean:.2%} ± {100 * spread:.2f} | {100 * (mean - base):+.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
