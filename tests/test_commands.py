"""The command `minicnn`: what it lists, what each of its commands does, and mistakes told in one line."""

import numpy as np
import pytest

from minicnn import Dense, Flatten, Sequential, load_fashion_mnist, metrics, use_backend
from minicnn.__main__ import COMMANDS
from minicnn.__main__ import main as minicnn


@pytest.fixture(autouse=True)
def numpy_backend():
    use_backend("numpy")
    yield
    use_backend("numba")


@pytest.fixture
def model(tmp_path):
    """(a model with random weights, its file)."""
    made = Sequential([Flatten(), Dense(10)], seed=3)
    made.scale.learn(load_fashion_mnist("sample", verbose=False).train_images)
    made.save(tmp_path / "model.npz")
    return made, str(tmp_path / "model.npz")


def test_without_a_command_all_are_listed(capsys):
    assert minicnn([]) == 2
    listed = capsys.readouterr().out
    for name, (_, does) in COMMANDS.items():
        assert name in listed and does.split()[0] in listed


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_help_that_names_it(name, capsys):
    with pytest.raises(SystemExit) as ended:
        minicnn([name, "--help"])
    assert ended.value.code == 0
    assert name in capsys.readouterr().out.splitlines()[0]


def test_evaluate_tells_what_the_model_scores_class_by_class(model, tmp_path, capsys):
    made, path = model
    data = load_fashion_mnist("sample", verbose=False)
    predicted = made.predict_classes(data.test_images)
    assert minicnn(["evaluate", path, "--data", "sample", "--out", str(tmp_path / "pictures")]) == 0
    told = capsys.readouterr().out
    accuracy = np.mean(predicted == data.test_labels)
    assert f"test accuracy {accuracy:.2%}" in told and "ONLY A SAMPLE" not in told
    recall = metrics.per_class(data.test_labels, predicted, data.class_names)["Ankle boot"]["recall"]
    (line,) = [line for line in told.splitlines() if line.startswith("Ankle boot")]
    assert f"{recall:.1%}" in line
    assert {p.name for p in (tmp_path / "pictures").iterdir()} == {
        "errors.png",
        "confusion.png",
        "mistakes.png",
        "reliability.png",
    }


def test_evaluate_tells_mistakes_in_one_line(model, tmp_path, capsys):
    assert minicnn(["evaluate", str(tmp_path / "none.npz")]) == 1
    assert minicnn(["evaluate", model[1], "--data", "nowhere"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("none.npz: no such file") and second.startswith("error: nowhere: no such folder")
