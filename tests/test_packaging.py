"""The source distribution: built without a warning, it holds all that its tests need."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from minicnn.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]
FOLDERS = (".ci", "benchmarks", "examples", "minicnn", "tests")
KINDS = ("", ".py", ".md", ".png", ".gz", ".json", ".ipynb", ".mjs", ".html", ".css")
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


def setuptools_is_missing_or_old():
    try:
        return int(metadata.version("setuptools").split(".")[0]) < 77
    except metadata.PackageNotFoundError:
        return True


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(setuptools_is_missing_or_old(), reason="setuptools is not as new as pyproject.toml asks for"),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy to build from, without what an earlier build or a test run left behind."""
    copy = tmp_path_factory.mktemp("source")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, copy)
    return copy


@pytest.fixture(scope="module")
def unpacked(source, tmp_path_factory):
    """The folder that the source distribution unpacks to."""
    folder = tmp_path_factory.mktemp("sdist")
    build(source, folder, "sdist")
    [archive] = folder.glob("*.tar.gz")
    shutil.unpack_archive(archive, folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def build(source, target, kind):
    """Build as `python -m build` does, but with the setuptools that is installed."""
    command = [sys.executable, "-W", "error", "-c", BUILD, f"build_{kind}", str(target)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}  # it would warn of that
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warning" not in (done.stdout + done.stderr).lower()


def files(folder):
    found = (path for name in FOLDERS for path in (folder / name).rglob("*") if path.is_file())
    return {path.relative_to(folder) for path in found if path.suffix in KINDS}


def test_the_source_distribution_holds_every_file(source, unpacked):
    assert files(unpacked) == files(source)
    assert {"INDEX.md", "LICENSE", "MANIFEST.in", "README.md", "SECURITY.md"} < {
        path.name for path in unpacked.iterdir()
    }


def test_the_tests_of_the_source_distribution_are_found_and_run(unpacked):
    environment = os.environ | {"PYTHONPATH": str(unpacked), "PYTHONDONTWRITEBYTECODE": "1"}
    pytest_there = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    for arguments in (["--collect-only"], ["tests/test_accuracy.py", "tests/test_house.py"]):
        done = subprocess.run(
            [*pytest_there, *arguments], cwd=unpacked, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def wheel(unpacked, tmp_path_factory):
    """The wheel, built from the source distribution, without a warning."""
    folder = tmp_path_factory.mktemp("wheel")
    build(unpacked, folder, "wheel")
    [path] = folder.glob("*.whl")
    return path


MODEL = """
import sys, minicnn
from minicnn import Dense, Flatten, Sequential, load_fashion_mnist
assert minicnn.__file__.startswith(sys.argv[1]), minicnn.__file__
data = load_fashion_mnist("sample", verbose=False)
model = Sequential([Flatten(), Dense(10)])
model.class_names = data.class_names
model.fit(data.train_images, data.train_labels, verbose=False)
model.save("model.npz")
"""


def test_the_wheel_holds_all_that_its_commands_need(wheel, tmp_path):
    house, work = tmp_path / "a house", tmp_path / "mein ordner"
    shutil.unpack_archive(wheel, house, "zip")
    work.mkdir()
    commands = [
        ["-c", MODEL, str(house)],
        ["-m", "minicnn", "--version"],
        ["-m", "minicnn", "evaluate", "model.npz", "--data", "sample"],
        ["-m", "minicnn", "explain", "model.npz", "--data", "sample"],
        ["-m", "minicnn", "export", "model.npz", "predict.py"],
        ["-m", "minicnn.learn", "start", "convolution_dx"],
        ["-m", "minicnn.learn.museum"],
    ]
    for command in commands:
        environment = os.environ | {"PYTHONPATH": str(house)}
        done = subprocess.run([sys.executable, *command], cwd=work, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"
    written = {path.name for path in work.iterdir()}
    assert written == {"model.npz", "explain.html", "predict.py", "convolution_dx.py"}
    index = (ROOT / "INDEX.md").read_text(encoding="utf-8")
    [told] = house.glob("*.dist-info/METADATA")
    assert index.strip() in told.read_text(encoding="utf-8")


def test_the_index_names_extras_and_commands_that_there_are(wheel, tmp_path):
    shutil.unpack_archive(wheel, tmp_path, "zip")
    [path] = tmp_path.glob("*.dist-info")
    extras = set(metadata.PathDistribution(path).metadata.get_all("Provides-Extra"))
    index = (ROOT / "INDEX.md").read_text(encoding="utf-8")
    [paragraph] = [text for text in index.split("\n\n") if "is an extra" in text]
    named = set(re.findall(r"`([a-z]+)`", paragraph))
    assert len(named) > 3 and named <= extras, named - extras
    commands = set(re.findall(r"^    minicnn (\S+)", index, re.M))
    assert len(commands) > 4 and commands <= COMMANDS.keys()
