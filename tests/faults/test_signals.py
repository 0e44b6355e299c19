"""Signals: the first SIGINT or SIGTERM lets the step end, saves and exits with 130 or 143; a second one quits at once,
and whichever it was, the run goes on to the same bits.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from children import TRAIN, newest

SHORT = ["--epochs", 2, "--batch-size", 4]  # 23 steps each
FOREVER = 3600  # seconds that an fsync takes: a child that waits for it is killed as one that hangs


@pytest.fixture(scope="module")
def reference(nursery, tmp_path_factory):
    """The model that an undisturbed run ends with."""
    return nursery.model(tmp_path_factory.mktemp("reference") / "out", *SHORT)


def check_that_it_goes_on(nursery, out, reference):
    assert nursery.model(out, *SHORT, "--resume") == reference


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_exits(number, code, nursery, reference, tmp_path):
    child = nursery.start(tmp_path / "out", *SHORT, slow=0.3)
    child.until(lambda: newest(tmp_path / "out") == 23)  # the second epoch is still to come
    child.send(number)
    assert child.wait() == code, child.said
    assert "saving, to go on later; once more to quit at once" in child.said
    assert "Traceback" not in child.said
    assert 23 < newest(tmp_path / "out") < 46
    check_that_it_goes_on(nursery, tmp_path / "out", reference)


@pytest.mark.parametrize(
    ("first", "second", "code"), [(signal.SIGINT, signal.SIGINT, 130), (signal.SIGINT, signal.SIGTERM, 143)]
)
def test_a_second_signal_quits_at_once_amid_a_slow_save(first, second, code, nursery, reference, tmp_path):
    out = tmp_path / "out"
    child = nursery.start(out, *SHORT, every=1, slow=FOREVER)
    child.until(lambda: out.exists() and any(file.name.endswith(".tmp") for file in out.iterdir()))
    child.send(first)
    child.until(lambda: "once more to quit at once" in child.said)
    child.send(second)
    assert child.wait() == code, child.said
    assert "Traceback" not in child.said
    assert newest(out) == -1
    check_that_it_goes_on(nursery, out, reference)
    assert not any(file.name.endswith(".tmp") for file in out.iterdir())


def test_a_signal_before_and_after_training_ends_the_process(nursery, tmp_path):
    """While data is loaded, or results are scored, there is nothing to save."""
    child = nursery.run(tmp_path / "done", *SHORT)
    assert child.code == 0
    child = nursery.start(tmp_path / "done", *SHORT, "--resume", slow=FOREVER)  # an fsync of model.npz
    child.until(lambda: any(file.name.startswith(".model") for file in (tmp_path / "done").iterdir()))
    child.send(signal.SIGINT)
    assert child.wait() == 130
    assert "Traceback" not in child.said
    assert not any(file.name.endswith(".tmp") for file in (tmp_path / "done").iterdir())


@pytest.mark.slow
def test_two_signals_stop_the_command_while_it_compiles(tmp_path):
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "NUMBA_CACHE_DIR": ""}
    command = [sys.executable, str(TRAIN), "--data", "sample", "--out", "out"]
    pipes = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes) as child:
        try:
            while "Compiling kernels" not in child.stderr.readline():
                assert child.poll() is None
            child.send_signal(signal.SIGTERM)
            while "once more to quit" not in child.stderr.readline():
                assert child.poll() is None
            child.send_signal(signal.SIGTERM)
            assert child.wait(300) == 143
            assert newest(tmp_path / "out") == -1  # after the first signal alone, a step would have been saved
            assert "Traceback" not in child.stderr.read()
        finally:
            child.kill()
