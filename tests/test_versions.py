"""What benchmarks/versions.py tries is what pyproject.toml names, and an interpreter that is missing is told in one line."""

from __future__ import annotations

import pytest

pytest.importorskip("tomllib", reason="benchmarks/versions.py needs Python 3.11")
import versions

from minicnn.versions import OLDEST


def test_the_oldest_python_is_the_projects_and_the_packages_are_those_it_names():
    pythons = versions.pythons()
    assert pythons[0] == OLDEST["Python"] and len(pythons) > 3
    assert {
        "numpy",
        "numba",
        "matplotlib",
        "tqdm",
        "pytest",
        "onnx",
        "fastapi",
        "uvicorn",
        "pillow",
        "ipywidgets",
    } <= versions.named()
    assert not {"torch", "tensorflow"} & versions.named()


def test_a_missing_interpreter_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    def uv(*arguments):
        raise RuntimeError("error: No interpreter found for Python 3.15\n\nhint: none")

    monkeypatch.setattr(versions, "uv", uv)
    assert versions.environment(tmp_path / "new", "3.15") is None
    assert capsys.readouterr().out == "Python 3.15: no interpreter (error: No interpreter found for Python 3.15)\n"
