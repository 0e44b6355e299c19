"""The house's order: which module may import which, what is public, and that all of it stands without Numba."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import minicnn
from minicnn import versions

HOUSE = Path(minicnn.__file__).parent
README = HOUSE.parent / "README.md"

# From top to bottom: a module, or a package as a whole, imports what stands on lines below its own and nothing else.
LEVELS = """
    __main__
    commands
    learn  explain  export
    options
    minicnn
    sklearn
    recipes
    model
    training  profiler  gradcheck  saliency  diagnose
    checkpoint
    callbacks
    model_files
    run
    network
    frozen
    engine  data  plots
    layers  losses  optimizers  metrics
    inputs  initializers  parameters  seeds  schedules  archive  signals  tables  distributed
    files  memory  arguments  names  say  versions  extras
    errors
"""
LEVEL = {unit: i for i, line in enumerate(LEVELS.split("\n")) for unit in line.split()}


def unit(module):
    """Where a module stands in the table: by its name under minicnn, be it a file or a package."""
    return module.split(".")[1] if "." in module else module


def modules(folder):
    """{dotted name: path} of every file; a package's is that of its __init__.py."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = (folder.name, *path.relative_to(folder).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path):
    """(when it runs, for type checkers only): two sets of dotted names; `from a import b` is a.b, be b a module or not."""
    running, checking = set(), set()

    def visit(node, into):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                visit(child, checking)
            for child in node.orelse:
                visit(child, into)
            return
        if isinstance(node, ast.Import):
            into.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            into.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child, into)

    visit(ast.parse(path.read_text(encoding="utf-8")), running)
    return running, checking


def arrows(folder, checking=False):
    """{module: the modules of the house that it imports}."""
    have, found = modules(folder), {}
    for module, path in have.items():
        named = [name for name in imports(path)[checking] if name.split(".")[0] == folder.name]
        named = [name if name in have else name.rpartition(".")[0] for name in named]
        assert set(named) <= set(have), f"{module} imports {set(named) - set(have)}, which is not there"
        found[module] = set(named) - {module}
    return found


def circle(arrows):
    """A circle of imports, its first module once more at its end; or [] where there is none."""
    left = {module: set(targets) for module, targets in arrows.items()}
    while done := {module for module, targets in left.items() if not targets}:
        left = {module: targets - done for module, targets in left.items() if module not in done}
    way = [min(left)] if left else []
    while way and way[-1] not in way[:-1]:
        way.append(min(left[way[-1]]))
    return way[way.index(way[-1]) :] if way else []


def upward(arrows):
    """The imports between two lines of the table that do not run down."""
    pairs = [(a, b) for a, targets in arrows.items() for b in targets if unit(a) != unit(b)]
    return [f"{a} imports {b}" for a, b in pairs if LEVEL[unit(a)] >= LEVEL[unit(b)]]


def test_every_module_has_its_place_in_the_table_and_every_name_in_it_is_a_module():
    assert {unit(module) for module in modules(HOUSE)} == set(LEVEL)


def test_no_import_goes_in_a_circle():
    assert " imports ".join(circle(arrows(HOUSE))) == ""


def test_every_import_runs_down():
    assert upward(arrows(HOUSE)) == []


def test_what_is_imported_for_type_checkers_only_is_there_and_is_not_imported_otherwise():
    running, checking = arrows(HOUSE), arrows(HOUSE, checking=True)
    assert checking["minicnn.run"] == {"minicnn.callbacks"}
    for module, targets in checking.items():
        assert not targets & running[module]


def test_others_know_the_engine_as_a_whole_and_only_the_engine_knows_numba():
    found = arrows(HOUSE)
    for module, path in modules(HOUSE).items():
        if unit(module) != "engine":
            inner = {name for name in found[module] if name.startswith("minicnn.engine.")}
            foreign = {name for name in imports(path)[0] if name.split(".")[0] in ("numba", "llvmlite")}
            assert not inner | foreign, f"{module} imports {inner | foreign}"
    assert not {name for name in imports(HOUSE / "engine" / "__init__.py")[0] if name.startswith(("numba", "llvmlite"))}


def test_the_reader_of_imports_sees_circles_arrows_up_and_imports_in_functions(tmp_path):
    house = tmp_path / "minicnn"
    for name, text in {
        "__init__": "from minicnn.model import Sequential\n",
        "model": "from minicnn import run, network as n\n",
        "run": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from minicnn.model import Sequential\n"
        "else:\n    import minicnn.network\n",
        "network": "class A:\n    def f(self):\n        if self:\n            from minicnn import engine\n",
        "engine/__init__": "import numpy, minicnn.engine.a as a\n",
        "engine/a": "def f():\n    from minicnn.engine import b\n",
        "engine/b": "try:\n    from minicnn.engine.a import f\nexcept OSError:\n    from minicnn.network import Network\n",
    }.items():
        path = house / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = arrows(house)
    assert found == {
        "minicnn": {"minicnn.model"},
        "minicnn.model": {"minicnn.run", "minicnn.network"},
        "minicnn.run": {"minicnn.network"},
        "minicnn.network": {"minicnn.engine"},
        "minicnn.engine": {"minicnn.engine.a"},
        "minicnn.engine.a": {"minicnn.engine.b"},
        "minicnn.engine.b": {"minicnn.engine.a", "minicnn.network"},
    }
    assert arrows(house, checking=True)["minicnn.run"] == {"minicnn.model"}
    assert upward(found) == ["minicnn.engine.b imports minicnn.network"]
    assert circle(found) == ["minicnn.engine.a", "minicnn.engine.b", "minicnn.engine.a"]
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []


# ---------------------------------------------------------------------------------------------------------------
# What is public


def test_every_public_name_is_there_once():
    assert len(set(minicnn.__all__)) == len(minicnn.__all__)
    assert [name for name in minicnn.__all__ if not hasattr(minicnn, name)] == []
    public = {name for name in vars(minicnn) if not name.startswith("_") and name not in LEVEL}
    assert public <= set(minicnn.__all__)


def test_what_the_readme_uses_is_public():
    text = README.read_text(encoding="utf-8")
    named = {(None, name) for name in re.findall(r"(?<!-m )(?<!from )\bminicnn\.([A-Za-z]\w*)", text)}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "minicnn":
                named |= {(node.module.partition(".")[2] or None, alias.name) for alias in node.names}
    assert {(None, "Sequential"), (None, "use_backend"), (None, "gradcheck"), ("data", "Augment")} <= named
    for module, name in named:
        inside = importlib.import_module(f"minicnn.{module}") if module else minicnn
        assert name in inside.__all__, f"README uses {inside.__name__}.{name}"
    programs = set(re.findall(r"python -m (minicnn[\w.]*)", text))
    assert {"minicnn.data", "minicnn.learn.museum"} <= programs
    for program in programs:
        assert importlib.util.find_spec(f"{program}.__main__"), f"README runs {program}"


# ---------------------------------------------------------------------------------------------------------------
# Without Numba, or with one that is too old

WITHOUT_NUMBA = """
import sys
from importlib import metadata

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("numba", "llvmlite"):
            raise ModuleNotFoundError(f"No module named {name!r}")

def version(name, real=metadata.version):
    if name in ("numba", "llvmlite"):
        raise metadata.PackageNotFoundError(name)
    return real(name)

sys.meta_path.insert(0, Blocked())
metadata.version = version
"""


def run(code, cwd):
    options = dict(capture_output=True, text=True, cwd=cwd, check=False)
    return subprocess.run([sys.executable, "-W", "error", "-c", code], **options)


def test_without_numba_all_works_on_numpy_and_one_line_says_so(tmp_path):
    code = """
import numpy as np
import minicnn
from minicnn import BatchNorm, Checkpoint, Conv2D, Dense, Dropout, Flatten, MaxPool2D, Residual, Sequential

images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
labels = (images.mean(axis=(1, 2, 3)) > 127).astype(int)
block = Residual(Conv2D(4, 3), BatchNorm(), activation="relu")
layers = [Conv2D(4, 3, activation="relu"), block, MaxPool2D(), Dropout(0.1), Flatten(), Dense(2)]
model = Sequential(layers, (8, 8, 1))
assert model.steps == model.layers
before = model.get_weights()
augment = minicnn.Augment(rotation=5, horizontal_flip=True)
model.fit(images, labels, epochs=2, batch_size=20, augment=augment, checkpoint=Checkpoint("run.npz"), verbose=False)
assert not np.array_equal(before[0], model.get_weights()[0])
assert np.isfinite(model.evaluate(images, labels).loss)
probabilities = model.predict(images)
assert probabilities.shape == (60, 2) and np.allclose(probabilities.sum(axis=1), 1, atol=1e-6)
model.save("model.npz")
np.testing.assert_array_equal(minicnn.load("model.npz").predict(images), probabilities)
assert minicnn.gradcheck(Conv2D(2, 3), np.random.default_rng(0).standard_normal((2, 4, 4, 1))).ok
assert model.profile(images[:4], labels[:4], steps=1).peak == 0
minicnn.use_backend("numpy")
try:
    minicnn.use_backend("numba")
except ValueError as error:
    print("refused:", error)
"""
    done = run(WITHOUT_NUMBA + code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"minicnn: Numba is not installed; .* NumPy.*\n", done.stderr)
    assert re.findall(r"refused: .*", done.stdout) == [
        'refused: backend: Numba is not installed, expected "numpy" (or: pip install numba)'
    ]


def test_without_numba_threads_can_be_asked_for_and_set_to_one(tmp_path):
    done = run(WITHOUT_NUMBA + "import minicnn; minicnn.set_threads(1); print(minicnn.get_threads())", tmp_path)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_numba_is_loaded_only_when_its_steps_are_asked_for(tmp_path):
    code = """
import sys
import minicnn
model = minicnn.Sequential([minicnn.Flatten(), minicnn.Dense(2)], (4, 4, 1))
assert "numba" not in sys.modules
minicnn.use_backend("numpy")
model.steps
assert "numba" not in sys.modules
minicnn.use_backend("numba")
assert model.steps != model.layers
assert "numba" in sys.modules
"""
    done = run(code, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("old", "message"),
    [
        ("sys.version = '3.9.18 (main)'", "Python: got version 3.9.18, minicnn needs 3.10 or later"),
        ("found['numpy'] = '1.23.5'", "numpy: got version 1.23.5, minicnn needs 1.24 or later"),
        ("found['numba'] = '0.60.0'", "numba: got version 0.60.0, minicnn needs 0.61 or later"),
    ],
)
def test_what_is_too_old_is_refused_when_minicnn_is_imported(old, message, tmp_path):
    code = f"""
import sys
from importlib import metadata
found = {{name: metadata.version(name) for name in ("numpy", "numba")}}
metadata.version = found.get
{old}
try:
    import minicnn
except ImportError as error:
    print(error)
"""
    done = run(code, tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", message + "\n")


@pytest.mark.parametrize(
    ("version", "taken"),
    [("0.9", False), ("0.59.1", False), ("0.61.0rc1", True), ("0.61.2", True), ("0.100.0", True), ("1.0", True)],
)
def test_versions_of_numba_are_compared_as_numbers(version, taken, monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: version)
    if taken:
        assert versions.installed("numba")
    else:
        with pytest.raises(ImportError, match=f"got version {re.escape(version)}, minicnn needs 0.61 or later"):
            versions.installed("numba")


def test_the_versions_are_those_that_the_project_names():
    project = (HOUSE.parent / "pyproject.toml").read_text()
    assert f'requires-python = ">={versions.OLDEST["Python"]}"' in project
    for name in ("numpy", "numba"):
        assert f'"{name}>={versions.OLDEST[name]}"' in project


def test_a_backend_of_another_name_is_refused():
    with pytest.raises(ValueError, match=r"backend: got 'torch', expected \"numba\" or \"numpy\""):
        minicnn.use_backend("torch")
