"""Training on several processes: what they learn together, and how they end. The processes are those of tests/ranks.py."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scaling

from minicnn import distributed
from minicnn.distributed import Ranks

HERE = Path(__file__).parent
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
INSTALLED = MPIEXEC and importlib.util.find_spec("mpi4py")
needs_mpi = pytest.mark.skipif(not INSTALLED, reason='needs mpi4py and mpiexec: pip install -e ".[mpi]"')
TIMEOUT = 300  # of a job that hangs


def start(ranks, program, *arguments):
    """A job of so many ranks, all of it on this machine."""
    options = []
    if ranks > 1:
        told = subprocess.run([MPIEXEC, "--version"], capture_output=True, text=True, check=False).stdout
        open_mpi = "Open MPI" in told
        options = ["--allow-run-as-root", "--oversubscribe"] if open_mpi else ["-iface", "lo"]
        options = [MPIEXEC, "-n", str(ranks), *options]
    return subprocess.Popen(
        [*options, sys.executable, *map(str, (program, *arguments))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "FI_TCP_IFACE": "lo"},
    )


def finish(job):
    """(exit code, standard output, standard error) of a job."""
    try:
        out, err = job.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        job.terminate()
        raise
    return job.returncode, out, err


def train(ranks, out, **options):
    out.mkdir(exist_ok=True)
    return finish(start(ranks, HERE / "ranks.py", out, json.dumps(options)))


def result(out):
    with np.load(out / "result.npz") as file:
        return file["values"], file["statistics"], json.loads(str(file["history"]))


def trained(ranks, out, **options):
    """What a job that ended well has learnt."""
    code, _, err = train(ranks, out, **options)
    assert code == 0, err
    return result(out)


def ours(err):
    """The lines of standard error that are not mpiexec's."""
    return [line for line in err.splitlines() if "error:" in line or line.startswith(("rank", "Traceback"))]


def same(a, b):
    return np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return trained(1, tmp_path_factory.mktemp("alone"))


@needs_mpi
@pytest.mark.parametrize("ranks", [2, 4])  # the last batch has three images: one of four ranks has none
def test_without_batch_norm_ranks_learn_what_one_process_learns(ranks, alone, tmp_path):
    values, _, history = trained(ranks, tmp_path)
    assert len(history["loss"]) * 13 >= 50
    np.testing.assert_allclose(values, alone[0], atol=1e-5)
    assert np.abs(values - alone[0]).max() > 0, "the sums are the same to the bit: were there several ranks?"
    for name, column in alone[2].items():
        np.testing.assert_allclose(history[name], column, atol=1e-5, err_msg=name)
    assert history["accuracy"] == alone[2]["accuracy"]


@needs_mpi
def test_with_weights_of_classes_and_images_too_ranks_learn_what_one_process_learns(alone, tmp_path):
    expected = trained(1, tmp_path / "alone", weighted=True)
    values, _, history = trained(4, tmp_path / "ranks", weighted=True)
    assert np.abs(expected[0] - alone[0]).max() > 1e-2
    np.testing.assert_allclose(values, expected[0], atol=1e-5)
    np.testing.assert_allclose(history["loss"], expected[2]["loss"], atol=1e-5)


@needs_mpi
def test_a_run_is_the_same_to_the_bit_for_a_number_of_ranks(tmp_path):
    first, second = (trained(2, tmp_path / name, noise=True) for name in "ab")
    assert same(first, second) and first[2] == second[2]
    assert not np.allclose(first[0], trained(1, tmp_path / "c", noise=True)[0], atol=1e-3)


@needs_mpi
def test_only_the_first_rank_prints_and_writes(tmp_path):
    code, out, _ = train(3, tmp_path, epochs=2)
    lines = out.splitlines()
    assert code == 0 and [line.split()[1] for line in lines] == ["1/2", "2/2"]
    assert {path.name for path in tmp_path.iterdir()} == {"history.csv", "result.npz"}


@needs_mpi
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_the_job_with_one_line_and_the_checkpoint_goes_on(rank, tmp_path):
    whole = trained(2, tmp_path / "whole", noise=True, checkpoint=True)
    code, _, err = train(2, tmp_path / "killed", noise=True, checkpoint=True, mishap="kill", rank=rank)
    assert code and ours(err) == [distributed.LOST]
    for ranks in (1, 2, 3):
        shutil.copytree(tmp_path / "killed", tmp_path / f"{ranks}")
        values = trained(ranks, tmp_path / f"{ranks}", noise=True, checkpoint=True)
        assert same(values, whole) == (ranks == 2)
        assert len(values[2]["loss"]) == 4


@needs_mpi
@pytest.mark.parametrize("rank", [0, 1])
def test_weights_that_differ_are_one_clear_error(rank, tmp_path):
    code, _, err = train(2, tmp_path, mishap="spoil", rank=rank)
    assert code and ours(err) == ["error: weights: after epoch 2 those of ranks [1] are not those of rank 0"]
    assert not (tmp_path / "result.npz").exists()


@needs_mpi
def test_an_error_of_one_rank_ends_the_job_and_says_whose_it_is(tmp_path):
    code, _, err = train(2, tmp_path, mishap="raise", rank=1)
    assert code and err.count("ValueError: a mishap of one rank") == 1
    assert any(line.startswith("rank 1: ") for line in err.splitlines())


@needs_mpi
def test_an_error_that_all_ranks_find_is_told_once(tmp_path):
    program = HERE.parent / "examples" / "train_fmnist.py"
    for arguments, told in ((["--data", tmp_path / "none"], "none"), (["--epochs", "0"], "--epochs")):
        code, _, err = finish(start(3, program, *arguments, "--out", tmp_path / "out"))
        assert code and len([line for line in err.splitlines() if "error:" in line and told in line]) == 1, err
        assert distributed.LOST not in err


@needs_mpi
def test_ctrl_c_saves_and_the_run_goes_on(tmp_path):
    whole = trained(2, tmp_path / "whole", noise=True, checkpoint=True)
    (tmp_path / "cut").mkdir()
    options = dict(noise=True, checkpoint=True)
    job = start(2, HERE / "ranks.py", tmp_path / "cut", json.dumps(options | {"mishap": "wait"}))
    while not (tmp_path / "cut" / "checkpoint.npz").exists() and job.poll() is None:
        time.sleep(0.01)
    job.send_signal(signal.SIGINT)
    code, _, err = finish(job)
    assert code and "saving, to go on later" in err and not (tmp_path / "cut" / "result.npz").exists()
    assert same(trained(2, tmp_path / "cut", **options), whole)


@needs_mpi
@pytest.mark.slow
def test_the_example_trains_on_two_ranks(tmp_path):
    program, arguments = HERE.parent / "examples" / "train_fmnist.py", ["--data", "sample", "--epochs", "1"]
    code, out, err = finish(start(2, program, *arguments, "--out", tmp_path / "a run"))
    assert code == 0, err
    assert out.count("epoch 1/1") == 1 and out.count("test accuracy") == 1
    metrics = json.loads((tmp_path / "a run" / "metrics.json").read_text())
    assert metrics["ranks"] == 2 and metrics["epochs"] == 1


# ---------------------------------------------------------------------------------------------------------------
# Without MPI


def test_a_ring_sends_two_parts_less_than_twice_the_whole():
    assert scaling.ring_allreduce(1, 1e6, 8e6, 1.0) == 0
    assert scaling.ring_allreduce(4, 1e6, 8e6, 0.0) == pytest.approx(2 * 3 / 4)
    assert scaling.ring_allreduce(4, 1e6, 8e6, 0.1) == pytest.approx(2 * 3 / 4 + 6 * 0.1)


@pytest.mark.parametrize(("count", "size"), [(128, 4), (10, 3), (2, 4)])
def test_shares_are_equal_and_hold_each_image_once(count, size):
    index = np.random.default_rng(0).permutation(count)
    shares = [Ranks(SimpleNamespace(rank=rank, size=size)).share(index) for rank in range(size)]
    taken = [mine for mine, weight in shares if weight]
    assert sorted(np.concatenate(taken)) == list(range(count))
    assert max(map(len, taken)) - min(map(len, taken)) <= 1 and all(len(mine) for mine, _ in shares)
    assert [weight * count for _, weight in shares] == pytest.approx(
        [len(mine) if weight else 0 for mine, weight in shares]
    )


def test_one_process_never_loads_mpi4py(tmp_path):
    code = f"""
import runpy, sys
sys.argv = ["ranks.py", {str(tmp_path)!r}, '{{"epochs": 1}}']
try:
    runpy.run_path({str(HERE / "ranks.py")!r}, run_name="__main__")
except SystemExit as end:
    assert not end.code
assert "mpi4py" not in sys.modules and "minicnn.distributed" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "result.npz").exists()


def test_without_mpi4py_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(SystemExit, match=r'^error: mpi4py is not installed: pip install "[\w-]+\[mpi\]"$'):
        distributed.job(lambda ranks: 0)
