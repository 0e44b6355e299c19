"""The benchmark program runs, agrees with itself, and writes what it promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent.parent / "benchmarks" / "compare.py"


def compare(*arguments, cwd):
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


@pytest.mark.slow
def test_a_table_a_json_and_a_chart(tmp_path):
    file = tmp_path / "result.json"
    options = ("--nets", "A", "--peers", "minicnn-numpy", "--rounds", 2, "--seconds", 0.05, "--threads", 1)
    done = compare(*options, "--json", file, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(file.read_text())
    net = result["nets"]["A"]
    assert result["machine"]["threads"] == 1 and result["machine"]["numpy"]
    assert set(net["setup"]) == {"minicnn", "minicnn-numpy"}
    for setup in net["setup"].values():
        assert setup["error"] < 1e-5 and setup["bytes"] > 2**20
        assert 0 < setup["import"] < setup["first_step"]
    assert net["setup"]["minicnn"]["cold"] > net["setup"]["minicnn"]["first_step"]  # which had to compile
    assert len(net["rounds"]) == 2 and all(r["peak"] > 1e8 for r in net["rounds"])
    assert "net A" in done.stdout and "minicnn-numpy" in done.stdout
    assert file.with_suffix(".png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_an_unknown_peer_or_net_is_named(tmp_path):
    done = compare("--peers", "caffe", cwd=tmp_path)
    assert done.returncode == 2 and "--peers: got caffe, expected some of" in done.stderr.splitlines()[-1]
    done = compare("--nets", "C", cwd=tmp_path)
    assert done.returncode == 2 and "--nets: got C, expected some of A, B, S" in done.stderr.splitlines()[-1]
