"""The scikit-learn classifier, where scikit-learn is installed: its own checks, and what images need."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "search.py"
NEED = pytest.mark.skipif(not importlib.util.find_spec("sklearn"), reason="scikit-learn is not installed")

# What MiniCNNClassifier does not promise, and why.
EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": (
        "a weight of 2 is an image's loss twice, in the same step; an image that is there twice comes in two batches"
    ),
}


@pytest.fixture
def classifier():
    return pytest.importorskip("minicnn.sklearn").MiniCNNClassifier


@NEED
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_own_checks_pass(classifier):
    from sklearn.utils.estimator_checks import check_estimator

    found = check_estimator(classifier(random_state=0), expected_failed_checks=EXPECTED, on_fail=None, on_skip=None)
    assert [(c["check_name"], c["exception"]) for c in found if c["status"] == "failed"] == []
    assert {check["check_name"] for check in found if check["status"] == "xfail"} == set(EXPECTED)
    assert sum(check["status"] == "passed" for check in found) > 40


def stripes(n=60):
    """Images with an upright or a level stripe, and the words for it."""
    rng = np.random.default_rng(0)
    images, upright = np.zeros((n, 8, 8), np.uint8), rng.integers(0, 2, n)
    for image, up, at in zip(images, upright, rng.integers(0, 8, n), strict=True):
        (image.T if up else image)[at] = 255
    return images, np.array(["level", "upright"])[upright]


@NEED
def test_images_and_text_labels_are_learnt_and_the_same_seed_gives_the_same(classifier):
    from sklearn.base import clone

    images, words = stripes()
    model = classifier(epochs=20, learning_rate=3e-3, random_state=1).fit(images, words)
    assert model.score(images, words) == 1 and model.classes_.tolist() == ["level", "upright"]
    assert model.model_.input_shape == (8, 8, 1) and model.model_.layers[0].name == "conv2d_1"
    assert len(model.history_["loss"]) == 20
    probabilities = model.predict_proba(images)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    flat = clone(model).set_params(image_shape=(8, 8, 1)).fit(images.reshape(60, 64), words)
    np.testing.assert_array_equal(flat.predict_proba(images.reshape(60, 64)), probabilities)


@NEED
def test_layers_of_ones_own_and_weights_of_images(classifier):
    from minicnn import Dense, Flatten

    images, words = stripes()
    model = classifier(layers=lambda shape, classes: [Flatten(), Dense(classes)], epochs=2, random_state=0)
    one = model.fit(images, words, sample_weight=np.arange(60)).predict_proba(images)
    assert [type(layer) for layer in model.model_.layers] == [Flatten, Dense]
    assert not np.array_equal(one, model.fit(images, words).predict_proba(images))
    with pytest.raises(ValueError, match="optimizer: got 'adagrad', expected one of adam, "):
        model.set_params(optimizer="adagrad").fit(images, words)


@NEED
@pytest.mark.skipif(not importlib.util.find_spec("optuna"), reason="Optuna is not installed")
def test_the_search_runs_on_the_sample(tmp_path):
    command = [sys.executable, str(EXAMPLE), "--epochs", "2", "--trials", "6"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [grid] = re.findall(r"^grid: \{'batch_size': \d+, 'learning_rate': 0.00\d\} gives ([\d.]+)%", done.stdout, re.M)
    [best, given_up] = re.findall(r"gives ([\d.]+)% held out; (\d) of 6 trials given up", done.stdout)[0]
    scores = re.findall(r"([\d.]+)% of the sample's test images$", done.stdout, re.M)
    assert len(scores) == 2 and min(map(float, (grid, best, *scores))) > 60 and 1 <= int(given_up) <= 4


def test_without_scikit_learn_one_line_says_what_to_install(tmp_path):
    code = "import sys; sys.modules['sklearn'] = None; import minicnn; import minicnn.sklearn"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.search(r'^ImportError: minicnn.sklearn: .*: pip install "minicnn-numba\[sklearn\]"$', done.stderr, re.M)
