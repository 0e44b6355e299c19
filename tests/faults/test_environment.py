"""The command where little can be relied on: no home, no terminal, the C locale, output in ASCII, warnings as errors,
Python without asserts or docstrings, an install that cannot be written, and a path that needs quoting. And what it says
when it fails.

Several conditions are combined in a run where the output tells which of them failed. test_engine.py holds read-only
installs and cold caches for the kernels, test_examples.py the console's other mistakes.
"""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from children import TRAIN, one_line

import minicnn
from minicnn.data import load_fashion_mnist, save_csv

PICTURES = 7
BENCHMARKS = ("ablation", "accuracy", "compare", "fast94")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a few images as CSV, in a path with a space and an umlaut."""
    made = tmp_path_factory.mktemp("ein ort") / "größer 'é' 数"
    made.mkdir()
    data = load_fashion_mnist("sample", verbose=False)
    save_csv(made / "train it.csv", data.train_images[:40], data.train_labels[:40])
    save_csv(made / "test.csv", data.test_images[:20], data.test_labels[:20])
    return made


def run(folder, *arguments, python=(), script=TRAIN, cwd=None, stdin=subprocess.DEVNULL, **changes):
    """Run the command; a change of the environment to None unsets."""
    environment = {k: v for k, v in (os.environ | changes).items() if v is not None}
    files = ["--train-csv", folder / "train it.csv", "--test-csv", folder / "test.csv"]
    command = [sys.executable, *python, str(script), *map(str, [*files, "--epochs", 1, *arguments])]
    pipes = dict(stdin=stdin, capture_output=True, text=True, encoding="utf-8", errors="replace")
    return subprocess.run(command, cwd=cwd or folder, env=environment, timeout=300, **pipes)


def check(done, out):
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    assert {"metrics.json", "model.npz", "checkpoint.npz", "history.csv"} < {file.name for file in out.iterdir()}
    assert len(list(out.glob("*.png"))) == PICTURES
    model = minicnn.load(out / "model.npz")
    assert np.isfinite(model.predict(np.zeros((2, 28, 28, 1), np.uint8))).all()


NO_HOME = dict(HOME=None, XDG_CACHE_HOME=None, USERPROFILE=None, MPLCONFIGDIR=None)
C_LOCALE = dict(LC_ALL="C", LANG="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING=None)


@pytest.mark.slow
def test_without_asserts_and_with_warnings_as_errors_it_runs(folder):
    done = run(folder, "--backend", "numpy", "--out", "streng ö/out", python=["-O", "-W", "error"])
    check(done, folder / "streng ö" / "out")


@pytest.mark.slow
def test_without_docstrings_it_runs_on_compiled_kernels(folder):
    done = run(folder, "--out", "ohne ö/out", python=["-OO", "-W", "error"])
    check(done, folder / "ohne ö" / "out")


@pytest.mark.parametrize("script", ["examples/train_fmnist.py", *(f"benchmarks/{name}.py" for name in BENCHMARKS)])
def test_without_docstrings_the_help_says_what_a_program_is_for(script):
    command = [sys.executable, "-OO", str(TRAIN.parents[1] / script), "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    if "No module named 'torch'" in done.stderr:
        pytest.skip("PyTorch is not installed")
    assert done.returncode == 0, done.stderr
    usage, description, *_ = done.stdout.split("\n\n")
    assert usage.startswith("usage: ") and description.endswith(".")


@pytest.mark.slow
def test_where_only_ascii_can_be_printed_it_runs_and_a_path_is_told_in_escapes(folder):
    out = "ascii ö/out"
    done = run(folder, "--backend", "numpy", "--out", out, PYTHONIOENCODING="ascii")
    check(done, folder / out)
    assert done.stdout.splitlines()[-1] == r"results and pictures: ascii \xf6/out"
    done = run(folder, "--backend", "numpy", "--out", out, "--resume", PYTHONIOENCODING="ascii")
    check(done, folder / out)
    assert r"going on from ascii \xf6/out/checkpoint.npz: " in done.stdout


def test_where_only_ascii_can_be_printed_the_data_are_exported(folder):
    command = [sys.executable, "-m", "minicnn.data", "export-csv", "ascii ö", "--source", "sample"]
    done = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"written to ascii \\xf6\n"), done.stderr
    assert len(list((folder / "ascii ö").glob("*.csv"))) == 2


@pytest.mark.slow
def test_in_the_c_locale_it_runs_and_says_what_is_wrong(folder):
    done = run(folder, "--backend", "numpy", "--out", "c ö/out", **C_LOCALE)
    check(done, folder / "c ö" / "out")
    done = run(folder, "--data", "nö", "--out", "x", **C_LOCALE)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert one_line(done.stderr).startswith("error: ")


@pytest.mark.slow
def test_without_a_home_from_a_read_only_install_it_runs_and_writes_nothing_there(folder, tmp_path):
    """Root may write where nobody else may: that nothing changed tells, and a HOME that is a file."""
    install = tmp_path / "in stall"
    shutil.copytree(TRAIN.parents[1] / "minicnn", install / "minicnn", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(TRAIN.parent, install / "examples")
    for file in [install, *install.rglob("*")]:
        file.chmod(0o555 if file.is_dir() else 0o444)
    before = sorted(install.rglob("*"))
    away = NO_HOME | dict(PYTHONPATH=str(install), PYTHONDONTWRITEBYTECODE="1", HOME=str(TRAIN))
    done = run(folder, "--backend", "numpy", "--out", "ro", script=install / "examples" / TRAIN.name, **away)
    assert sorted(install.rglob("*")) == before
    for file in [install, *install.rglob("*")]:
        file.chmod(0o755)
    check(done, folder / "ro")


@pytest.mark.slow
def test_no_message_needs_a_terminal(folder):
    done = run(folder, "--backend", "numpy", "--out", "no terminal", "--validation", "0", stdin=None)
    assert "\r" not in done.stdout
    check(done, folder / "no terminal")


def unheard():
    """A pipe whose reader has left, as in `... | head -0`."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.slow
@pytest.mark.parametrize("closing", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_run_with_closed_streams_or_without_a_reader_ends_as_any_other(closing, folder):
    out = folder / f"closed {len(closing)} {closing[0]}"
    files = [
        "--train-csv",
        "train it.csv",
        "--test-csv",
        "test.csv",
        "--epochs",
        "1",
        "--backend",
        "numpy",
        "--out",
        out,
    ]
    command = ["sh", "-c", f'exec "$@" {closing}', "sh", sys.executable, TRAIN, *files]
    writer = unheard()
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer, timeout=300)
    os.close(writer)
    check(SimpleNamespace(returncode=done.returncode, stderr=""), out)


@pytest.mark.slow
def test_in_a_terminal_it_runs(folder):
    """A pseudo-terminal: progress bars are drawn there."""
    leader, follower = pty.openpty()
    files = ["--train-csv", "train it.csv", "--test-csv", "test.csv", "--epochs", "1", "--backend", "numpy"]
    command = [sys.executable, str(TRAIN), *files, "--out", "terminal"]
    with subprocess.Popen(command, cwd=folder, stdin=follower, stdout=follower, stderr=follower) as child:
        os.close(follower)
        said = b""
        try:
            while part := os.read(leader, 65536):
                said += part
        except OSError:  # how Linux says that the other side is closed
            pass
        os.close(leader)
    assert child.returncode == 0, said
    assert b"Traceback" not in said
    assert b"epoch 1/1" in said


# ---------------------------------------------------------------------------------------------------------------
# Mistakes


def broken_checkpoint(folder: Path) -> None:
    (folder / "checkpoint.npz").write_bytes(b"PK")


MISTAKES = {
    "an output that is a file": (lambda out: out.write_text(""), [], "out"),
    "a checkpoint that is none": (lambda out: (out.mkdir(), broken_checkpoint(out)), ["--resume"], "checkpoint.npz"),
    "an unfinished run": (lambda out: (out.mkdir(), broken_checkpoint(out)), [], "holds an unfinished run"),
    "a checkpoint that is a folder": (
        lambda out: (out / "checkpoint.npz").mkdir(parents=True),
        ["--resume"],
        "checkpoint.npz",
    ),
    "a history that is a folder": (lambda out: (out / "history.csv").mkdir(parents=True), [], "history.csv"),
    "a model that is a folder": (lambda out: (out / "model.npz").mkdir(parents=True), [], "model.npz"),
    "data that is damaged": (
        lambda out: out.with_name("bad.csv").write_text("1,2\n"),
        ["--train-csv", "bad.csv"],
        "bad.csv",
    ),
    "a plateau without validation": (lambda out: None, ["--recipe", "seed", "--validation", "0"], "validation"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_and_no_traceback(case, tmp_path, nursery):
    prepare, options, named = MISTAKES[case]
    prepare(tmp_path / "out")
    if "--train-csv" in options:
        save_csv(tmp_path / "test.csv", np.zeros((2, 28, 28, 1), np.uint8), np.array([0, 1]))
        command = [sys.executable, str(TRAIN), "--train-csv", "bad.csv", "--test-csv", "test.csv", "--out", "out"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        code, said = done.returncode, done.stderr
    else:
        child = nursery.run(tmp_path / "out", "--epochs", 1, "--backend", "numpy", *options, images=16)
        code, said = child.code, child.said
    assert code == 1, said
    assert named in one_line(said)
