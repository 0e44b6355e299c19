"""The notebook: what is committed are the outputs of a full run, and all of it runs on the sample."""

from __future__ import annotations

import ast
import json
import re
from importlib.util import find_spec
from pathlib import Path

import matplotlib
import pytest

from minicnn.data.sources import SAMPLE_FOLDER
from minicnn.recipes import RECIPES

NOTEBOOK = Path(__file__).parents[1] / "examples" / "fashion_mnist.ipynb"
WIDGET = "application/vnd.jupyter.widget-view+json"
PLACES = r"(?<![\w.])(?:/(?:home|root|tmp|opt|usr|var|mnt|work|Users)\b|[A-Za-z]:\\|~/)|https?://|file:"


def code(notebook):
    """Its code cells."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def text(cells):
    """All that the cells put out as text."""
    found = []
    for output in (output for cell in cells for output in cell["outputs"]):
        parts = [output.get("text", ""), *(v for k, v in output.get("data", {}).items() if k.startswith("text/"))]
        found += ["".join(part) for part in parts]
    return "\n".join(found)


def only_defines(cell):
    """Whether a cell has nothing to show, since it only says what a class or function is."""
    return all(isinstance(node, ast.ClassDef | ast.FunctionDef) for node in ast.parse("".join(cell["source"])).body)


@pytest.fixture(scope="module")
def committed():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


def test_it_was_run_from_top_to_bottom_and_every_cell_shows_something(committed):
    cells = code(committed)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    silent = [cell["execution_count"] for cell in cells if not cell["outputs"] and not only_defines(cell)]
    assert silent == []


def test_nothing_went_wrong_and_nobody_was_warned(committed):
    outputs = [output for cell in code(committed) for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert {output["name"] for output in outputs if output["output_type"] == "stream"} == {"stdout"}
    assert "Warning" not in text(code(committed))


def test_its_outputs_are_those_of_the_full_data(committed):
    said = text(code(committed))
    assert "Fashion-MNIST: 60,000 training images, 10,000 test images" in said
    assert "Fashion-MNIST sample" not in said
    [before] = set(re.findall(r"^test accuracy of the seed's network: +([\d.]+)%$", said, re.MULTILINE))
    [after] = re.findall(r"^of the default recipe's: +([\d.]+)%$", said, re.MULTILINE)
    assert 83 < float(before) < 88 and 92.5 < float(after) < 93.5
    assert re.findall(r"^epoch (\d)/3 ", said, re.M) == list("123") * 4


def test_its_outputs_name_no_folder_machine_or_address(committed):
    assert re.findall(PLACES, text(code(committed))) == []
    assert re.search(PLACES, "at /home/me") and re.search(PLACES, "(C:\\data)") and not re.search(PLACES, "epoch 1/3")


def test_it_is_small_enough_to_be_looked_at(committed):
    assert NOTEBOOK.stat().st_size < 3_000_000
    pictures = sum("image/png" in output.get("data", {}) for cell in code(committed) for output in cell["outputs"])
    assert pictures > 20


def test_what_it_says_in_prose_is_what_the_recipes_are(committed):
    prose = " ".join("".join(cell["source"]) for cell in committed["cells"] if cell["cell_type"] == "markdown")
    prose = " ".join(prose.split())
    seed, default = RECIPES["seed"], RECIPES["default"]
    assert f"up to {seed.augment.rotation} degrees either way, {seed.augment.zoom:.0%} of zoom and shift" in prose
    assert seed.augment.shift == seed.augment.zoom and seed.augment.vertical_flip and not default.augment.vertical_flip
    assert f"batches of {default.batch_size}" in prose and f"trains for {default.epochs} epochs" in prose
    for link in re.findall(r"\]\(([^)#]+)\)", prose):
        assert (NOTEBOOK.parent / link).exists(), link


def of_project_files(notebook):
    """The first cell, and those further down that show what it read in the project's folder."""
    first, *others = code(notebook)
    return [first, *(cell for cell in others if re.search("ablation|readme", "".join(cell["source"])))]


@pytest.mark.parametrize("beside", [True, False])
def test_away_from_the_checkout_it_says_at_the_top_what_is_missing_and_goes_on(
    committed, tmp_path, monkeypatch, capsys, beside
):
    pytest.importorskip("IPython", reason="the extra notebook brings it")
    first, *others = of_project_files(committed)
    monkeypatch.chdir(NOTEBOOK.parent if beside else tmp_path)
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    shown, space = [], {}
    with matplotlib.rc_context():
        exec("".join(first["source"]), space)
        missing = re.findall(r"^(\S+) is not here: ", capsys.readouterr().out, re.MULTILINE)
        space["display"] = lambda thing: shown.append(thing.data)
        for cell in others:
            exec("".join(cell["source"]), space)
        space["plt"].close("all")
    tables = ["".join(output["data"].get("text/markdown", "")) for cell in others for output in cell["outputs"]]
    tables = [table for table in tables if table]
    assert len(others) == 3 and len(tables) == 2
    if beside:
        assert missing == [] and shown == tables
    else:
        assert missing == ["benchmarks/ablation.md", "README.md"]
        assert shown == ["*(the file that this table is taken from is not here)*"] * 2


def test_no_cell_but_the_first_reads_a_file_of_the_project(committed):
    assert not [cell["execution_count"] for cell in code(committed)[1:] if re.search(r"\.\./", "".join(cell["source"]))]


@pytest.mark.slow
def test_it_runs_on_the_sample(monkeypatch):
    import nbformat  # the extra "notebook" has them
    from nbclient import NotebookClient

    monkeypatch.setenv("MINICNN_DATA", str(SAMPLE_FOLDER))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in code(notebook):
        cell["outputs"], cell["execution_count"] = [], None
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    said = text(code(notebook))
    assert "Fashion-MNIST sample: 2,000 training images, 1,000 test images" in said
    assert "white: pixel31" in said
    assert "the kernel is flipped" in said
    outputs = [output for cell in code(notebook) for output in cell["outputs"]]
    bars = [output for output in outputs if WIDGET in output.get("data", {})]
    assert len(bars) == (12 if find_spec("ipywidgets") else 0)  # one for each epoch of the four trainings
    errors = [output for output in outputs if output.get("name") == "stderr"]
    assert all("".join(output["text"]).startswith("Compiling kernels (once)") for output in errors), errors
