"""The museum: each mistake passes its weak test and fails its strong one; the library's own code passes both."""

from __future__ import annotations

import json
import pkgutil
import re
from pathlib import Path

import museum as measurement
import pytest

import minicnn
from minicnn.errors import ShapeError
from minicnn.learn import museum
from minicnn.learn.museum.__main__ import main

FILES = [file.name for file in pkgutil.iter_modules(museum.__path__) if not file.name.startswith("_")]
BY_GRADCHECK = {
    *("pool_assigns", "pool_returns_early", "pool_ties", "stride_forgotten", "stride_does_not_divide"),
    *("flatten_disconnected", "bias_mean"),
}
every_exhibit = pytest.mark.parametrize("name", FILES)


@pytest.fixture(autouse=True)
def backend():
    """The layers as they are to be read."""
    minicnn.use_backend("numpy")
    yield
    minicnn.use_backend("numba")


def test_every_file_is_in_the_catalogue_and_is_measured():
    assert sorted(museum.CATALOGUE) == FILES
    assert len(FILES) >= 14
    assert set(measurement.EXPERIMENTS) == set(museum.accuracies()) == set(FILES)


@every_exhibit
def test_the_weak_test_passes_with_the_mistake_and_without(name):
    exhibit = museum.exhibit(name)
    exhibit.weak_test()
    exhibit.weak_test(exhibit.RIGHT)


@every_exhibit
def test_the_strong_test_fails_with_the_mistake(name):
    with pytest.raises((AssertionError, ShapeError)):
        museum.exhibit(name).strong_test()


@every_exhibit
def test_the_strong_test_passes_with_the_library(name):
    exhibit = museum.exhibit(name)
    exhibit.strong_test(exhibit.RIGHT)


@every_exhibit
def test_gradcheck_catches_what_it_can(name, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "minicnn.learn.museum._tools.gradcheck", lambda *given: asked.append(1) or minicnn.gradcheck(*given)
    )
    with pytest.raises((AssertionError, ShapeError)):
        museum.exhibit(name).strong_test()
    assert bool(asked) == (name in BY_GRADCHECK)


@every_exhibit
def test_a_docstring_says_what_where_why_and_how_and_names_its_source(name):
    exhibit = museum.exhibit(name)
    text = " ".join(exhibit.__doc__.split())
    for heading in (
        "What was wrong.",
        "Where it was found.",
        "Why nobody noticed.",
        "What it costs.",
        "How it is caught.",
    ):
        assert heading in text
    assert re.search(r"\w+/[\w.-]+ #\d+|\w+/[\w.-]+, [\w/]+\.py", text)
    for word in re.findall(r"[\w-]+/[\w.-]+", exhibit.SOURCE):
        assert word in text


def test_the_tour_has_a_line_for_each_exhibit(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in FILES:
        [line] = [line for line in lines if line.split()[0] == name]
        assert museum.title(name) in line
        assert len(re.findall(r"\d+\.\d%|ShapeError", line)) == 2


def test_one_exhibit_is_shown_with_its_figures(capsys):
    assert main(["pool_ties"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Max pooling that pays every winner in full.")
    assert f"\nFound in: {museum.exhibit('pool_ties').SOURCE}\n" in text
    assert len(re.findall(r"Accuracy with.*: +\d+\.\d%", text)) == 2


def test_an_exhibit_that_is_not_there_is_refused(capsys):
    with pytest.raises(ValueError, match="no exhibit 'pool'"):
        museum.exhibit("pool")
    with pytest.raises(SystemExit):
        main(["pool"])


def test_the_figures_are_those_of_the_benchmark():
    written = json.loads((Path(measurement.__file__).parent / "museum.json").read_text())
    assert written == json.loads((Path(museum.__file__).parent / "accuracy.json").read_text())
    for result in written["exhibits"].values():
        assert len(result["without"]) == written["seeds"]
        assert isinstance(result["with"], str) or len(result["with"]) == written["seeds"]
