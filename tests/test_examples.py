"""The examples, run as a reader runs them, and the recipes behind them."""

from __future__ import annotations

import csv
import json
import math
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minicnn
from minicnn import Sequential, optimizers
from minicnn.callbacks import ReduceLROnPlateau
from minicnn.commands import check_gradients
from minicnn.commands import train as train_command
from minicnn.data import load_fashion_mnist, save_csv
from minicnn.engine.lanes import has_bfloat16
from minicnn.engine.step import Step
from minicnn.network import Network
from minicnn.recipes import RECIPES

EXAMPLES = Path(__file__).parent.parent / "examples"
TRAIN = EXAMPLES / "train_fmnist.py"
PAGE = "worst.html"
PICTURES = [
    "augmentation.png",
    "confusion.png",
    "curves.png",
    "errors.png",
    "filters.png",
    "mistakes.png",
    "reliability.png",
]


@pytest.fixture(autouse=True)
def default_backend():
    yield
    minicnn.use_backend("numba")


@pytest.fixture(scope="module")
def csv_files(tmp_path_factory):
    """A few of the sample's images in Kaggle's form, in a path that needs quoting."""
    folder = tmp_path_factory.mktemp("größere Daten")
    data = load_fashion_mnist("sample", verbose=False)
    paths = folder / "train it.csv", folder / "test it.csv"
    save_csv(paths[0], data.train_images[:200], data.train_labels[:200])
    save_csv(paths[1], data.test_images[:60], data.test_labels[:60])
    return paths


def run(script, *arguments, folder):
    """Run an example somewhere else, with no display and no settings for Matplotlib."""
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND", "MINICNN_DATA")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8")


def train(folder, *arguments):
    """Train with results in a path with a space and an umlaut; returns (folder, metrics, standard output)."""
    out = folder / "ein läuf" / "results"
    done = run(TRAIN, *arguments, "--epochs", "1", "--out", out.relative_to(folder), folder=folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert {file.name for file in out.iterdir()} == {
        "metrics.json",
        "history.csv",
        "model.npz",
        "checkpoint.npz",
        PAGE,
        *PICTURES,
    }
    return out, json.loads((out / "metrics.json").read_text()), done.stdout


def check_results(out, metrics, images, name="unknown data set"):
    """What every run must leave behind."""
    assert metrics["dataset"]["images"] == images
    assert metrics["dataset"]["name"] == name
    assert metrics["dataset"]["is_sample"] is (name == "Fashion-MNIST sample")
    for share in ("train_accuracy", "validation_accuracy", "test_accuracy"):
        assert 0 <= metrics[share] <= 1
    assert 0 < metrics["test_loss"] < math.inf
    assert 0 < metrics["seconds_per_epoch"] < metrics["total_seconds"]
    assert sum(c["support"] for c in metrics["per_class"].values()) == images["test"]
    with open(out / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1"]
    assert float(rows[0]["accuracy"]) == metrics["train_accuracy"]
    assert float(rows[0]["val_accuracy"]) == metrics["validation_accuracy"]
    for picture in PICTURES:
        assert (out / picture).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "</html>" in (out / PAGE).read_text(encoding="utf-8")


FIELDS = {
    *("dataset", "recipe", "seed", "epochs", "parameters", "macs", "train_accuracy", "validation_accuracy"),
    *("test_accuracy", "test_loss", "per_class", "seconds_per_epoch", "total_seconds"),
}


def test_training_leaves_metrics_pictures_and_a_model_that_scores_the_same(tmp_path, csv_files):
    arguments = ["--train-csv", csv_files[0], "--test-csv", csv_files[1], "--backend", "numpy", "--seed", "3"]
    out, metrics, said = train(tmp_path, *arguments)
    check_results(out, metrics, {"train": 190, "validation": 10, "test": 60})
    assert set(metrics) >= FIELDS
    assert (metrics["recipe"], metrics["seed"], metrics["epochs"]) == ("default", 3, 1)
    assert csv_files[0].name in metrics["dataset"]["source"]
    assert list(metrics["per_class"]) == list("0123456789")
    assert "\nunknown data set: test accuracy " in said
    assert "Fashion-MNIST" not in said and "SAMPLE" not in said

    minicnn.use_backend("numpy")
    model = minicnn.load(out / "model.npz")
    data = load_fashion_mnist(train_csv=csv_files[0], test_csv=csv_files[1], verbose=False)
    found = model.evaluate(data.test_images, data.test_labels)
    assert found.accuracy == metrics["test_accuracy"]
    assert found.loss == pytest.approx(metrics["test_loss"], rel=1e-5)
    assert (model.parameter_count, model.macs) == (metrics["parameters"], metrics["macs"])


def test_the_seed_recipe_trains_with_either_optimizer(tmp_path, csv_files):
    arguments = ["--train-csv", csv_files[0], "--test-csv", csv_files[1], "--backend", "numpy", "--recipe", "seed"]
    out, metrics, _ = train(tmp_path, *arguments, "--optimizer", "adam", "--batch-size", "100")
    check_results(out, metrics, {"train": 180, "validation": 20, "test": 60})
    assert (metrics["recipe"], metrics["optimizer"], metrics["parameters"]) == ("seed", "adam", 887_530)


@pytest.mark.slow
def test_the_bundled_sample_trains_on_compiled_kernels(tmp_path):
    out, metrics, said = train(tmp_path, "--data", "sample")
    check_results(out, metrics, {"train": 1900, "validation": 100, "test": 1000}, "Fashion-MNIST sample")
    assert list(metrics["per_class"]) == list(minicnn.data.CLASS_NAMES)
    assert "THE SCORE IS THAT OF A SMALL SAMPLE" in said
    assert (metrics["dataset"]["source"], metrics["backend"]) == ("bundled sample", "numba")


@pytest.mark.slow
def test_the_command_trains_in_bfloat16_and_goes_on_in_nothing_else(tmp_path):
    given = ["--data", "sample", "--batch-size", "64", "--precision"]
    if not has_bfloat16():
        done = run(TRAIN, *given, "bfloat16", folder=tmp_path)
        assert (done.returncode, "takes a processor with AVX512_BF16" in done.stderr) == (1, True)
        return
    out, metrics, _ = train(tmp_path, *given, "bfloat16")
    assert metrics["precision"] == "bfloat16"
    done = run(TRAIN, *given, "float32", "--epochs", "1", "--resume", "--out", out, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("precision: got float32, the run had bfloat16")


# ---------------------------------------------------------------------------------------------------------------
# Mistakes: one line, and no traceback


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "error: nowhere: no such folder; the source is 'auto', 'sample' or a folder"),
        (["--train-csv", "train.csv"], "error: train_csv is train.csv, test_csv is None: expected both or neither"),
        (["--train-csv", "a.csv", "--test-csv", "b.csv"], "error: a.csv: cannot be read: No such file"),
        (["--data", "sample", "--threads", "1000"], "error: threads: got 1000, expected 1 to "),
        (["--data", "sample", "--out", "a file"], "error: a file: expected a folder, and a file is in the way"),
        (
            ["--data", "sample", "--precision", "bfloat16", "--backend", "numpy"],
            'error: precision: got "bfloat16" with backend "numpy"',
        ),
    ],
)
def test_a_mistake_is_told_in_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "a file").write_text("")
    monkeypatch.chdir(tmp_path)
    assert train_command.main(arguments) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "argument --epochs: got 0, expected a whole number of at least 1"),
        (["--epochs", "two"], "argument --epochs: got two, expected a whole number of at least 1"),
        (["--batch-size", "-5"], "argument --batch-size: got -5, expected"),
        (["--threads", "1.5"], "argument --threads: got 1.5, expected"),
        (["--seed", "-1"], "argument --seed: got -1, expected a whole number of at least 0"),
        (["--recipe", "best"], "argument --recipe: invalid choice: 'best'"),
        (["--backend", "cuda"], "argument --backend: invalid choice: 'cuda'"),
        (["--precision", "half"], "argument --precision: invalid choice: 'half'"),
        (
            ["--optimizer", "sgd"],
            "--optimizer: got sgd; for recipe default: default: adamw, adam; fast94: ",
        ),
    ],
)
def test_a_wrong_flag_is_told_behind_the_usage(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        train_command.main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_mistake_ends_the_process_with_a_code_and_no_traceback(tmp_path):
    done = run(TRAIN, "--data", "no such folder ü", folder=tmp_path)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith(
        "error: no such folder ü: no such folder; the source is 'auto', 'sample' or a folder, or one"
    )
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------------
# The other examples, and the recipes


@pytest.mark.slow
def test_write_a_layer_runs(tmp_path):
    done = run(EXAMPLES / "write_a_layer.py", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Swish: the gradient is correct" in done.stdout
    assert "WrongSwish: the gradient is WRONG" in done.stdout
    assert "accuracy on the sample's test images: " in done.stdout


@pytest.mark.slow
def test_check_gradients_finds_all_correct(tmp_path):
    done = run(EXAMPLES / "check_gradients.py", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "all correct"
    assert "WRONG" not in done.stdout


def test_check_gradients_knows_every_layer():
    cases = check_gradients.cases()
    alone = {type(layer).__name__ for layer, _ in cases if not isinstance(layer, list)}
    assert alone == set(minicnn.layers.__all__) - {"Layer"}


def test_check_gradients_knows_runs_of_layers_that_the_engine_makes_one_step_of():
    cases = check_gradients.cases()
    fused = set()
    for layers, shape in cases:
        if isinstance(layers, list):
            steps = Sequential(layers, shape[1:], dtype="float64").steps
            fused |= {type(step.layer).__name__ for step in steps if isinstance(step, Step) and len(step.fused) > 1}
    assert fused == {"Conv2D", "BatchNorm", "DepthwiseConv2D", "Dense", "Residual"}


def test_the_seed_network_is_the_notebooks():
    recipe = RECIPES["seed"]
    model = recipe.model()
    assert model.parameter_count == 887_530
    assert (recipe.batch_size, recipe.validation, recipe.epochs) == (86, 0.1, 3)
    augment = recipe.augment
    assert (augment.rotation, augment.zoom, augment.shift) == (10, 0.1, 0.1)
    assert augment.horizontal_flip
    assert augment.vertical_flip
    optimizer = recipe.optimizers["rmsprop"]()
    assert isinstance(optimizer, optimizers.RMSprop)
    assert (optimizer.learning_rate, optimizer.rho) == (1e-3, 0.9)
    [plateau] = recipe.callbacks()
    assert isinstance(plateau, ReduceLROnPlateau)
    assert (plateau.patience, plateau.factor, plateau.min_lr) == (3, 0.5, 1e-5)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_build_what_they_announce(name):
    recipe = RECIPES[name]
    one, same, other = recipe.model(1), recipe.model(1), recipe.model(2)
    assert one.output_shape == (10,)
    np.testing.assert_array_equal(one.parameters.values, same.parameters.values)
    assert not np.array_equal(one.parameters.values, other.parameters.values)
    for make in recipe.optimizers.values():
        assert make() is not make()
        schedule = recipe.schedule(make().learning_rate, 100)
        assert max(schedule(step) for step in range(100)) == pytest.approx(make().learning_rate)


def test_a_convolution_by_hand_is_that_of_the_layer(capsys):
    example = runpy.run_path(str(EXAMPLES / "convolution_by_hand.py"))
    rng = np.random.default_rng(0)
    image, kernel, dy = (rng.integers(-4, 5, shape) for shape in ((5, 7), (3, 3), (2, 3)))
    layer = minicnn.Conv2D(1, 3, stride=2, padding="valid", use_bias=False)
    Network([layer], (5, 7, 1), dtype="float64")
    layer.w.value[..., 0, 0] = kernel
    matrix, y = example["forward"](image, kernel)
    np.testing.assert_array_equal(y, layer.forward(image[None, :, :, None].astype(float), training=True)[0, :, :, 0])
    expected = layer.backward(dy[None, :, :, None].astype(float))[0, :, :, 0]
    dw, dx = example["backward"](image, kernel, matrix, dy)
    np.testing.assert_array_equal(dx, expected)
    np.testing.assert_array_equal(dw, layer.w.grad[..., 0, 0])
    np.testing.assert_array_equal(example["flipped"](kernel, dy), expected)
    capsys.readouterr()
    example["main"]()
    said = capsys.readouterr().out
    assert "the two ways to dx agree: True" in said and "<--" not in said
    assert "  dx[2, 2] = 3 + 0 + -3 + 1 = 1\n" in said
