"""benchmarks/accuracy.py: it runs what is not yet there, and the table says what the runs say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import accuracy
import pytest


def metrics(seed, share):
    return {
        "dataset": {"name": "Fashion-MNIST", "is_sample": False},
        **{"recipe": "default", "seed": seed, "epochs": 3, "parameters": 1234, "macs": 5_600_000},
        **{"test_accuracy": share, "test_accuracy_tta": share + 0.01, "test_accuracy_without_duplicates": share - 0.01},
        **{"total_seconds": 10.0 + seed, "seconds_per_epoch": 3.0},
    }


def test_complete_runs_are_not_run_again_and_the_others_are(tmp_path, monkeypatch, capsys):
    started = []

    def run(command, check):
        folder = Path(command[command.index("--out") + 1])
        started.append(command[2:])
        folder.mkdir(parents=True, exist_ok=True)
        seed = int(command[command.index("--seed") + 1])
        (folder / "metrics.json").write_text(json.dumps(metrics(seed, 0.9 + seed / 100)))

    monkeypatch.setattr(accuracy.subprocess, "run", run)
    for seeds, runs in (("1", 1), ("3", 3), ("3", 3)):
        monkeypatch.setattr(
            sys, "argv", ["accuracy.py", "--seeds", seeds, "--out", str(tmp_path), "--", "--threads", "2"]
        )
        accuracy.main()
        assert len(started) == runs
    assert [command[command.index("--seed") + 1] for command in started] == ["0", "1", "2"]
    assert all(command[-2:] == ["--threads", "2"] for command in started)
    line = capsys.readouterr().out.splitlines()[-1]
    shares = "91.00% ± 1.00 | 92.00% ± 1.00 | 90.00% ± 1.00"
    assert line == f"| `default` | 3 | 3 | {shares} | 11 (10 to 12) | 1,234 | 5.6 M |"
    assert len(json.loads((tmp_path / "results.json").read_text())) == 3


@pytest.mark.parametrize("name", ["Fashion-MNIST sample", "unknown data set"])
def test_scores_of_other_data_than_fashion_mnist_are_told_apart(name):
    other = metrics(0, 0.9) | {"dataset": {"name": name, "is_sample": "sample" in name}}
    assert accuracy.row([other])[0] == f"`default` ({name})"


def test_runs_that_are_not_alike_are_not_averaged(tmp_path):
    for seed, epochs in ((0, 3), (1, 1)):
        folder = tmp_path / f"default-{seed}"
        folder.mkdir()
        (folder / "metrics.json").write_text(json.dumps(metrics(seed, 0.9) | {"epochs": epochs}))
    with pytest.raises(SystemExit, match="holds runs of default that are not alike"):
        accuracy.report(tmp_path)


def test_an_unknown_recipe_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["accuracy.py", "--recipes", "default,pie"])
    with pytest.raises(SystemExit):
        accuracy.main()
    assert "--recipes: got pie" in capsys.readouterr().err
