"""SIGKILL at any moment: a run that is killed again and again ends with the bits of one that never was, and at every
moment between there is a whole checkpoint to go on from, never older than the last.

A child's file operations are counted, and it is killed before a certain one of them: before, in the middle of, between
and after a write, the fsync, the renames. Or it is killed from outside, after a random time. A handful of kills hit the
command itself, as a user starts it.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from children import TRAIN, measured, newest, sound

from minicnn import say
from minicnn.data import load_fashion_mnist, save_csv

RUN = ["--epochs", 2, "--batch-size", 16]


def left_behind(out: Path) -> list[str]:
    return [file.name for file in out.iterdir() if file.name.endswith(".tmp")]


def killed_until_done(nursery, out, reference, arguments, rng, kills):
    """Kill a run until it ends by itself; returns how many kills it took. Once so many were had, it is left in peace."""
    count, last = 0, -1
    while True:
        aimed = rng.random() < 0.5
        every, die_at = int(rng.integers(1, 4)), int(rng.integers(1, 30)) if aimed else 0
        peace = count >= kills
        child = nursery.start(out, *arguments, "--resume", every=every, die_at=0 if peace else die_at)
        if not aimed and not peace:
            time.sleep(rng.uniform(0, 0.4))
            child.ended() or child.send(signal.SIGKILL)
        code = child.wait()
        assert code in (0, -signal.SIGKILL), child.said
        step = newest(out) if out.exists() else -1
        assert step >= last, f"from step {last} back to {step}"
        last = step
        if code == 0:
            assert (out / "model.npz").read_bytes() == reference
            assert left_behind(out) == []
            return count
        count += 1


def campaign(nursery, folder, kills, recipes, seed):
    """So many kills, over as many runs as it takes."""
    rng, references = np.random.default_rng(seed), {}
    for recipe in recipes:
        out = folder / recipe
        assert nursery.run(out, "--recipe", recipe, *RUN).code == 0
        references[recipe] = (out / "model.npz").read_bytes()
    done = 0
    while done < kills:
        for recipe in recipes:
            out = folder / f"killed {recipe}"
            shutil.rmtree(out, ignore_errors=True)
            done += killed_until_done(nursery, out, references[recipe], ["--recipe", recipe, *RUN], rng, kills - done)


def test_a_killed_run_goes_on_to_the_same_bits(nursery, tmp_path):
    campaign(nursery, tmp_path, 10, ["default"], seed=0)


@pytest.mark.slow
def test_200_kills_change_no_bit(nursery, tmp_path):
    nursery.ask(arguments=["--out", str(tmp_path / "warm"), "--recipe", "seed", "--epochs", "1"])
    campaign(nursery, tmp_path, 200, ["default", "seed"], seed=1)


@pytest.mark.slow
def test_every_moment_of_a_save_may_be_the_last(nursery, tmp_path):
    """Each operation on files of two saves and of the history between them, in turn."""
    short = ["--epochs", 1, "--batch-size", 96, "--validation", 0]
    assert nursery.run(tmp_path / "whole", *short).code == 0
    reference = (tmp_path / "whole" / "model.npz").read_bytes()
    for die_at in range(1, 30):
        out = tmp_path / str(die_at)
        first = nursery.run(out, *short, every=1, die_at=die_at)
        files = {
            name: sound(out / name) for name in ("checkpoint.npz", "checkpoint.npz.previous") if (out / name).exists()
        }
        assert -1 not in files.values()  # a name only ever stands for a whole file
        assert nursery.run(out, *short, "--resume", every=1).code == 0
        assert (out / "model.npz").read_bytes() == reference
        assert left_behind(out) == []
        if first.code == 0:
            break
    assert die_at > 15
    assert first.code == 0


@pytest.mark.slow
def test_the_command_itself_survives_kills(tmp_path):
    data = load_fashion_mnist("sample", verbose=False)
    save_csv(tmp_path / "train.csv", data.train_images[:128], data.train_labels[:128])
    save_csv(tmp_path / "test.csv", data.test_images[:20], data.test_labels[:20])
    options = ["--train-csv", "train.csv", "--test-csv", "test.csv", "--epochs", "4", "--batch-size", "32"]

    def run(out, limit=200.0):
        """The command; SIGKILL ends it after so many seconds."""
        command = [sys.executable, str(TRAIN), *options, "--resume", "--out", out]
        try:
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return
        assert done.returncode == 0, done.stderr

    begun = time.monotonic()
    run("whole")
    usual, rng, last = time.monotonic() - begun, np.random.default_rng(0), -1
    for _ in range(5):
        run("killed", rng.uniform(0.2, 0.6) * usual)
        step = newest(tmp_path / "killed") if (tmp_path / "killed").exists() else -1
        assert step >= last
        last = step
    run("killed")
    assert (tmp_path / "killed" / "model.npz").read_bytes() == (tmp_path / "whole" / "model.npz").read_bytes()
    assert left_behind(tmp_path / "killed") == []


class Deadly(io.StringIO):
    """A terminal that kills the process which draws on it."""

    def isatty(self):
        return True

    def write(self, text):
        os.kill(os.getpid(), signal.SIGKILL)


def draw(stream):
    sys.stderr = stream
    for _ in say.bar(range(3), hidden=False):
        pass
    return stream.getvalue()


def test_a_fork_killed_while_it_draws_a_bar_stops_no_other(monkeypatch):
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    draw(io.StringIO())  # what forks could share is there from now on
    with pytest.raises(AssertionError, match="ended with -9"):
        measured(draw, Deadly())
    assert measured(draw, io.StringIO()).error is None
