"""What each ingredient of a recipe is worth: the recipe without it, or with something else, over some seeds.

    python benchmarks/ablation.py --study short --seeds 3
    python benchmarks/ablation.py --study long --seeds 1
    python benchmarks/ablation.py --study way --seeds 2

short: the default recipe, 3 epochs of 55,000 training images, compared on the other 5,000. long: the record's augmentation,
but 20 epochs of the default's network and rate on half of the training images, which is about as many weights for an image
as in the record (14 and 16), compared on the other half. way: from the seed to the default recipe, one change on top of the
other, on as many images as short. The test images are not touched. Runs that are in the
results' file are not run again. The table gives the mean and standard deviation over the seeds, the difference to the recipe
as it is, and how many times as long an epoch takes.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

import ingredients as new
import numpy as np
from accuracy import spread

from minicnn.data import Augment, load_fashion_mnist, split
from minicnn.files import atomic_write
from minicnn.losses import CrossEntropy
from minicnn.optimizers import SGD, Adam, AdamW
from minicnn.recipes import RECIPES, Recipe, small_vgg
from minicnn.say import say
from minicnn.schedules import constant


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
        "with averaged weights": replace(recipe, callbacks=lambda: [new.Average(0.99)]),
        "with lookahead": replace(recipe, callbacks=lambda: [new.Lookahead()]),
        "biases, scales and shifts at 4 times the rate": with_optimizer(recipe, lambda: new.TwoRates(1e-2, 4, 0.05)),
        "a triangle in place of half cosines": replace(recipe, schedule=new.triangle),
        "a frozen first convolution that whitens": replace(recipe, network=new.whitening_network),
        "first weights that copy": replace(recipe, network=new.dirac_network),
        "with squeeze-and-excite": replace(recipe, network=new.squeeze_network),
        "SiLU in place of ReLU": replace(recipe, network=new.silu_network),
        "a residual network of seven convolutions": replace(recipe, network=new.residual_network),
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
        "with dropout before the dense layer": replace(recipe, network=new.dropout_network),
        "with averaged weights": replace(recipe, callbacks=lambda: [new.Average(0.998)]),
        "with squeeze-and-excite": replace(recipe, network=new.squeeze_network),
        "a residual network of seven convolutions": replace(recipe, network=new.residual_network),
    }


def way_study() -> dict[str, Recipe]:
    """From the seed to the default recipe, each change on top of those before it.

    The seed's callback watches validation images, which these runs do not have; in 3 epochs it changes nothing.
    """
    seed, default = replace(RECIPES["seed"], callbacks=list), RECIPES["default"]
    mirrored = replace(seed, augment=default.augment)
    return {
        "the seed": seed,
        "mirrored only left to right": mirrored,
        "and six convolutions, normalised": replace(mirrored, network=default.network),
        "as it is": default,
    }


STUDIES = {"short": (short_study, 1 / 12), "long": (long_study, 1 / 2), "way": (way_study, 1 / 12)}


def with_optimizer(recipe: Recipe, make) -> Recipe:
    """The recipe with another optimizer."""
    return replace(recipe, optimizers={"other": make})


def main() -> None:
    parser = argparse.ArgumentParser(description="What each ingredient of a recipe is worth.")
    parser.add_argument("--study", choices=STUDIES, default="short")
    parser.add_argument("--seeds", type=int, default=3, help="how many: 0, 1, 2, ...")
    parser.add_argument("--out", type=Path, default=Path("ablation.json"))
    parser.add_argument("--data", default="auto")
    options = parser.parse_args()
    data = load_fashion_mnist(options.data)
    study, share = STUDIES[options.study]
    recipes = study()
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
                with atomic_write(options.out) as file:
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
        points = 100 * (statistics.mean(accuracy[name]) - base)
        ratio = statistics.median(seconds[name]) / statistics.median(seconds["as it is"])
        say(f"| {name} | {spread(accuracy[name])} | {points:+.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
