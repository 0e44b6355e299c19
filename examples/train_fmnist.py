"""Train a network on Fashion-MNIST and show what it learnt and what it got wrong.

    python examples/train_fmnist.py                        # 3 epochs of the default recipe
    python examples/train_fmnist.py --recipe seed          # the Keras notebook this project began from
    python examples/train_fmnist.py --train-csv fashion-mnist_train.csv --test-csv fashion-mnist_test.csv

A run leaves in runs/<time>/: metrics.json, history.csv, model.npz and the pictures curves.png, errors.png, confusion.png,
augmentation.png and filters.png. The test images are scored once, after the last epoch; what is watched during training is
a part of the training images that is held out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import minicnn
from minicnn import losses, metrics, ops, plots
from minicnn.callbacks import CSVLogger
from minicnn.data import load_fashion_mnist, split
from minicnn.files import replacing
from minicnn.recipes import RECIPES


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--recipe", choices=RECIPES, default="default")
    parser.add_argument("--optimizer", help="instead of the recipe's own: " + _optimizers())
    parser.add_argument("--epochs", type=_whole(1), help="instead of the recipe's own")
    parser.add_argument("--batch-size", type=_whole(1), help="instead of the recipe's own")
    parser.add_argument("--data", default="auto", help="auto, sample, or a folder with the CSV or IDX files")
    parser.add_argument("--train-csv", help="Kaggle's fashion-mnist_train.csv")
    parser.add_argument("--test-csv", help="Kaggle's fashion-mnist_test.csv")
    parser.add_argument("--out", type=Path, help="folder for the results (default: runs/<time>)")
    parser.add_argument("--seed", type=_whole(0), default=0, help="of weights, order, augmentation and dropout")
    parser.add_argument("--threads", type=_whole(1), help="default: one for each core")
    parser.add_argument("--backend", choices=("numba", "numpy"), default="numba")
    options = parser.parse_args()
    if options.optimizer not in (None, *RECIPES[options.recipe].optimizers):
        parser.error(f"--optimizer: got {options.optimizer}; for recipe {options.recipe}: {_optimizers()}")
    return options


def _optimizers() -> str:
    return "; ".join(f"{name}: {', '.join(recipe.optimizers)}" for name, recipe in RECIPES.items())


def _whole(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"got {text}, expected a whole number of at least {least}")
        return int(text)

    return number


def main(options: argparse.Namespace) -> None:
    start = time.perf_counter()
    minicnn.use_backend(options.backend)
    if options.threads:
        minicnn.set_threads(options.threads)
    data = load_fashion_mnist(options.data, options.train_csv, options.test_csv)
    out = options.out or Path("runs") / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").unlink(missing_ok=True)  # of an earlier run: it must not stand beside this one's history
    recipe = RECIPES[options.recipe]
    train, validation = split(data.train_images, data.train_labels, recipe.validation, options.seed)

    model = recipe.model(options.seed)
    model.summary()
    history = recipe.fit(
        model,
        train,
        validation,
        options.epochs,
        options.batch_size,
        options.optimizer,
        options.seed,
        [CSVLogger(out / "history.csv")],
    )
    model.save(out / "model.npz")

    # plain cross-entropy, without the label smoothing that the losses of training and validation may have
    logits = model.outputs(data.test_images)
    test_loss, _ = losses.CrossEntropy()(logits, data.test_labels)
    probabilities = ops.softmax(logits)
    predicted = logits.argmax(axis=1)
    test_accuracy = metrics.accuracy(data.test_labels, predicted)
    results = {
        "dataset": {
            "name": data.name,
            "source": data.source,
            "is_sample": data.is_sample,
            "images": {"train": len(train[0]), "validation": len(validation[0]), "test": len(data.test_images)},
        },
        "recipe": options.recipe,
        "optimizer": options.optimizer or next(iter(recipe.optimizers)),
        "seed": options.seed,
        "epochs": len(history["loss"]),
        "parameters": model.parameter_count,
        "macs": model.macs,
        "train_accuracy": history["accuracy"][-1],
        "validation_accuracy": history["val_accuracy"][-1],
        "test_accuracy": test_accuracy,
        "test_loss": test_loss,
        "per_class": metrics.per_class(data.test_labels, predicted, data.class_names),
        "seconds_per_epoch": sum(history["seconds"]) / len(history["seconds"]),
        "backend": options.backend,
        "threads": minicnn.get_threads(),
        "minicnn": minicnn.__version__,
    }
    draw(out, data, recipe, model, history, probabilities, options.seed)
    results["total_seconds"] = time.perf_counter() - start
    with replacing(out / "metrics.json") as file:
        file.write(json.dumps(results, indent=2).encode())
    print(
        f"\n{data.name}: test accuracy {test_accuracy:.2%}, loss {test_loss:.4f}, "
        f"{results['total_seconds']:.0f} seconds in all\nresults and pictures: {out}"
    )
    if data.is_sample:
        print("THE SCORE IS THAT OF A SMALL SAMPLE, not of Fashion-MNIST.")


def draw(out, data, recipe, model, history, probabilities, seed) -> None:
    """The five pictures."""
    note = f"{data.name}: not the data set's score" if data.is_sample else ""
    names, labels = data.class_names, data.test_labels
    plots.curves(history, out / "curves.png", note=note)
    plots.errors(data.test_images, labels, probabilities, names, out / "errors.png", note=note)
    matrix = metrics.confusion_matrix(labels, probabilities.argmax(axis=1), len(names))
    plots.confusion(matrix, names, out / "confusion.png", note=note)
    originals = data.train_images[:6]
    preview = recipe.augment.preview(originals, seed=seed)
    plots.augmentation_grid(originals, preview, out / "augmentation.png", note=note)
    plots.filters(model.get_weights()[0], out / "filters.png", note=note)


if __name__ == "__main__":
    try:
        main(arguments())
    except (ValueError, ArithmeticError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted: nothing was scored")
