"""`minicnn train`: train a network and show what it learnt and what it got wrong.

    minicnn train                        # 3 epochs of the default recipe
    minicnn train --recipe seed          # the Keras notebook this project began from
    mpiexec -n 4 minicnn train           # on four processes, of one machine or of many: see minicnn/distributed.py
    minicnn train --train-csv fashion-mnist_train.csv --test-csv fashion-mnist_test.csv

A run leaves in runs/<time>/: metrics.json, history.csv, model.npz and the pictures curves.png, errors.png, confusion.png,
mistakes.png, reliability.png, augmentation.png and filters.png; and worst.html, a page that shows every sum that the network
made of the image it got most wrong. The test images are scored once, after the last epoch;
what is watched during training is a part of the training images that is held out. checkpoint.npz is what --resume goes on
from, when a run was killed.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import minicnn
from minicnn import Checkpoint, distributed, engine, metrics, plots
from minicnn.callbacks import CSVLogger
from minicnn.commands.score import draw_errors, note_of, score, tell
from minicnn.data import load_dataset, load_fashion_mnist, split
from minicnn.errors import CheckpointError
from minicnn.explain import explain
from minicnn.files import atomic_write, lock, make_folder, remove, temporaries
from minicnn.layers import BatchNorm
from minicnn.options import DATA_HELP
from minicnn.recipes import RECIPES, Recipe, small_network
from minicnn.say import say, warn

FASHION_SHAPE = (28, 28, 1)
FEW_STEPS = 30  # after as many, a share of 0.9**30, or 4%, of the first running statistics is left


def main(arguments: list[str] | None = None) -> int:
    """Train as the arguments say; the exit code, 1 where a mistake was told in one line, 130 after Ctrl-C."""
    return distributed.job(lambda ranks: _main(arguments, ranks))


def _main(arguments: list[str] | None, ranks: distributed.Ranks) -> int:
    options = parsed(arguments)
    try:
        run(options, ranks)
    except (ValueError, ArithmeticError, OSError, ImportError, CheckpointError) as error:
        warn(f"error: {error}")
    except MemoryError as error:
        warn(f"error: not enough memory ({error}); try a smaller --batch-size")
    except KeyboardInterrupt:
        warn(f"\ninterrupted: nothing was scored; the same command with --resume --out '{options.out}' goes on")
        return 130
    else:
        return 0
    return 1


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(
        prog="minicnn train",
        description="Train a network on Fashion-MNIST and show what it learnt and what it got wrong.",
    )
    parser.add_argument("--recipe", choices=RECIPES, default="default")
    parser.add_argument("--optimizer", help="instead of the recipe's own: " + _optimizers())
    parser.add_argument("--epochs", type=_whole(1), help="instead of the recipe's own")
    parser.add_argument("--batch-size", type=_whole(1), help="instead of the recipe's own")
    parser.add_argument(
        "--validation", type=_share, help="share of the training images to hold out, instead of the recipe's"
    )
    parser.add_argument("--data", default="auto", help=DATA_HELP)
    parser.add_argument("--size", type=_whole(8), help="for a folder of images: make them so many pixels wide and high")
    parser.add_argument("--channels", type=int, choices=(1, 3), default=3, help="of such images: 1 grey, 3 colour")
    parser.add_argument("--no-flip", action="store_true", help="do not mirror images (digits and letters never are)")
    parser.add_argument("--train-csv", help="Kaggle's fashion-mnist_train.csv")
    parser.add_argument("--test-csv", help="Kaggle's fashion-mnist_test.csv")
    parser.add_argument(
        "--out", type=Path, help="folder for the results, where a finished run is replaced (default: runs/<time>)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out, or begin it there")
    parser.add_argument(
        "--keep-going", action="store_true", help="a checkpoint or a history that cannot be written is only a warning"
    )
    parser.add_argument("--seed", type=_whole(0), default=0, help="of weights, order, augmentation and dropout")
    parser.add_argument("--threads", type=_whole(1), help="default: one for each core")
    parser.add_argument("--backend", choices=("numba", "numpy"), default="numba")
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the factors in 3x3 convolutions and dense layers; bfloat16 is faster, and asks for AVX512_BF16",
    )
    options = parser.parse_args(arguments)
    if options.optimizer not in (None, *RECIPES[options.recipe].optimizers):
        parser.error(f"--optimizer: got {options.optimizer}; for recipe {options.recipe}: {_optimizers()}")
    if options.resume and not options.out:
        parser.error("--resume: expected --out, the folder of the run to go on with")
    if options.size and (options.train_csv or options.test_csv):
        parser.error("--size: it is for a folder of images, and --train-csv and --test-csv have 28 x 28 pixels")
    options.out = options.out or Path("runs") / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return options


def _optimizers() -> str:
    return "; ".join(f"{name}: {', '.join(recipe.optimizers)}" for name, recipe in RECIPES.items())


def _whole(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"got {text}, expected a whole number of at least {least}")
        return int(text)

    return number


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"got {text}, expected a number from 0 to less than 1")
    return share


def run(options: argparse.Namespace, ranks: distributed.Ranks) -> None:
    """Data, training, the score, the pictures."""
    start = time.perf_counter()
    minicnn.use_backend(options.backend)
    engine.check_precision(options.precision)
    if options.threads or ranks.size > 1:
        minicnn.set_threads(options.threads or max(1, minicnn.get_threads() // ranks.neighbours()))
    data = ranks.from_first(lambda: loaded(options))
    out = options.out
    if ranks.rank:
        train(data, None, options, ranks)
        return
    make_folder(out)
    with lock(out):
        checkpoint = prepare(out, options)
        results, model, history = train(data, checkpoint, options, ranks)
        model.save(out / "model.npz")
        probabilities, matrix = score(model, data, results)
        draw(out, data, recipe_for(options, data), model, history, probabilities, matrix, options.seed)
        explain_worst(model, data, probabilities, out / "worst.html")
        results |= {
            "seconds_per_epoch": sum(history["seconds"]) / len(history["seconds"]),
            "total_seconds": time.perf_counter() - start,
            "backend": options.backend,
            "precision": options.precision,
            "threads": minicnn.get_threads(),
            "ranks": ranks.size,
            "minicnn": minicnn.__version__,
        }
        with atomic_write(out / "metrics.json") as file:
            file.write(json.dumps(results, indent=2).encode())
    tell(results, data, matrix)
    say(f"{results['total_seconds']:.0f} seconds in all")
    say(f"results and pictures: {out}")


def loaded(options: argparse.Namespace):
    """The data that the options name."""
    if options.train_csv or options.test_csv:
        return load_fashion_mnist(options.data, options.train_csv, options.test_csv)
    data = load_dataset(options.data, options.size, options.channels)
    if len(data.class_names) < 2:
        raise ValueError(f"{options.data}: got one class, {', '.join(data.class_names)}, expected at least two")
    return data


def prepare(out: Path, options: argparse.Namespace) -> Checkpoint:
    """The folder's checkpoint, to go on from or to begin anew; an unfinished run is not lost by mistake."""
    for stale in temporaries(out):
        stale.unlink(missing_ok=True)
    checkpoint = Checkpoint(out / "checkpoint.npz", keep_going=options.keep_going)
    if not options.resume and checkpoint.exists():
        if not (out / "metrics.json").exists():
            raise ValueError(f"{out}: holds an unfinished run; go on with it by --resume, or choose another --out")
        checkpoint.delete()
    if not checkpoint.exists():
        remove(out / "metrics.json")  # it must not stand beside another run's history
    return checkpoint


def recipe_for(options: argparse.Namespace, data) -> Recipe:
    """The recipe as it suits the images: a 3 that is mirrored is no 3."""
    recipe = RECIPES[options.recipe]
    if data.train_images.shape[1:] != FASHION_SHAPE and options.recipe != "default":
        raise ValueError(f"--recipe: got {options.recipe}, whose network takes 28 x 28 grey images, expected default")
    if options.no_flip or data.name.startswith(("MNIST", "KMNIST", "EMNIST")):
        recipe = replace(recipe, augment=replace(recipe.augment, horizontal_flip=False, vertical_flip=False))
    return recipe


def network_for(recipe: Recipe, options: argparse.Namespace, data) -> minicnn.Sequential:
    """The recipe's network, or for images of another size one in its manner."""
    shape, classes = data.train_images.shape[1:], len(data.class_names)
    if shape == FASHION_SHAPE:
        return recipe.model(options.seed, classes, options.precision)
    return minicnn.Sequential(small_network(shape, classes), shape, options.seed, precision=options.precision)


def warn_of_few_steps(model: minicnn.Sequential, images: int, epochs: int, batch_size: int) -> None:
    """A line where batch normalisation's running statistics, which predictions need, will be those it began with."""
    batches = math.ceil(images / batch_size)
    if epochs * batches < FEW_STEPS and any(isinstance(layer, BatchNorm) for layer in model.all_layers()):
        warn(
            f"warning: {images} training images in batches of {batch_size} make {epochs * batches} steps in all, too few"
            f" for batch normalisation to predict well: give --epochs {math.ceil(FEW_STEPS / batches)} or a smaller"
            " --batch-size"
        )


def train(
    data, checkpoint: Checkpoint | None, options: argparse.Namespace, ranks: distributed.Ranks
) -> tuple[dict, minicnn.Sequential, dict]:
    """Train as the recipe says; returns the first metrics for metrics.json, the model and its history."""
    recipe = recipe_for(options, data)
    train, validation = (data.train_images, data.train_labels), None
    share = recipe.validation if options.validation is None else options.validation
    if share:
        train, validation = split(*train, share, options.seed)
    elif any(getattr(callback, "monitor", "").startswith("val_") for callback in recipe.callbacks()):
        raise ValueError(
            f"--validation: got 0, but recipe {options.recipe} watches how validation images are recognised"
        )
    model = network_for(recipe, options, data)
    model.class_names = data.class_names
    model.summary()
    batch_size = options.batch_size or recipe.batch_for(len(train[0]))
    if not ranks.rank:
        warn_of_few_steps(model, len(train[0]), options.epochs or recipe.epochs, batch_size)
    chosen = options.epochs, batch_size, options.optimizer, options.seed
    logger = CSVLogger(options.out / "history.csv", options.keep_going)
    history = recipe.fit(model, train, validation, *chosen, [logger], checkpoint, ranks)
    images = {
        "train": len(train[0]),
        "validation": len(validation[0]) if validation else 0,
        "test": len(data.test_images),
    }
    results = {
        "dataset": {"name": data.name, "source": data.source, "is_sample": data.is_sample, "images": images},
        "recipe": options.recipe,
        "optimizer": options.optimizer or next(iter(recipe.optimizers)),
        "seed": options.seed,
        "epochs": len(history["loss"]),
        "parameters": model.parameter_count,
        "macs": model.macs,
        "train_accuracy": history["accuracy"][-1],
        "validation_accuracy": history["val_accuracy"][-1] if validation else None,
    }
    return results, model, history


def draw(out, data, recipe, model, history, probabilities, matrix, seed) -> None:
    """The seven pictures."""
    note = note_of(data)
    plots.curves(history, out / "curves.png", note=note)
    draw_errors(out, data, probabilities, matrix)
    originals = data.train_images[:6]
    preview = recipe.augment.preview(originals, seed=seed)
    plots.augmentation_grid(originals, preview, out / "augmentation.png", note=note)
    plots.filters(model.get_weights()[0], out / "filters.png", note=note)


def explain_worst(model, data, probabilities, path: Path) -> None:
    """A page for the worst mistake, or, where there is none, for the first test image."""
    worst = int([*metrics.worst_mistakes(data.test_labels, probabilities), 0][0])
    image, label = data.test_images[worst], int(data.test_labels[worst])
    explain(
        model, image, path, label, data.class_names, f"Test image {worst} of {data.name}, through the network and back"
    )
