"""A disk that is full, and folders that are shared: what was saved before stays whole, a failure is told in one line
and leaves no litter, and two runs never write into one folder.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest
from children import newest, one_line

from minicnn.errors import CheckpointError
from minicnn.files import lock

SHORT = ["--epochs", 2, "--batch-size", 32]
LITTLE = 500_000  # bytes: less than a checkpoint or a model
BETWEEN = 3_000_000  # less than a checkpoint, more than a model


def litter(out):
    return [file.name for file in out.iterdir() if file.name.endswith(".tmp")]


@pytest.fixture(scope="module")
def reference(nursery, tmp_path_factory):
    return nursery.model(tmp_path_factory.mktemp("reference") / "out", *SHORT)


def begin(nursery, out):
    """A run that was interrupted after some steps."""
    child = nursery.start(out, *SHORT, every=1)
    child.until(lambda: newest(out) > 0)
    child.send(signal.SIGTERM)
    assert child.wait() == 143
    return (out / "checkpoint.npz").read_bytes()


@pytest.mark.parametrize("begun", [False, True])
def test_a_file_size_limit_is_told_and_the_checkpoint_before_it_stays(begun, nursery, reference, tmp_path):
    out = tmp_path / "out"
    kept = begin(nursery, out) if begun else None
    child = nursery.run(out, *SHORT, "--resume", every=1, most=LITTLE)
    assert child.code == 1
    assert one_line(child.said) == f"error: {out / 'checkpoint.npz'}: cannot be written (File too large)"
    assert litter(out) == []
    if begun:
        assert (out / "checkpoint.npz").read_bytes() == kept
    assert nursery.model(out, *SHORT, "--resume") == reference


def test_a_run_that_was_told_to_keep_going_ends_with_the_same_model(nursery, reference, tmp_path):
    out = tmp_path / "out"
    child = nursery.run(out, *SHORT, "--keep-going", every=2, most=BETWEEN)
    assert child.code == 0, child.said
    warning = f"warning: {out / 'checkpoint.npz'}: cannot be written (File too large); going on"
    assert child.said.count(warning) == 5  # after steps 2 and 4, each of two epochs, and the last step
    assert (out / "model.npz").read_bytes() == reference
    assert litter(out) == []
    assert not (out / "checkpoint.npz").exists()


def test_a_model_that_cannot_be_written_is_named(nursery, tmp_path):
    child = nursery.run(tmp_path / "out", *SHORT, "--keep-going", most=LITTLE)
    assert child.code == 1
    assert str(tmp_path / "out" / "model.npz") in one_line(child.said)
    assert "File too large" in one_line(child.said)
    assert litter(tmp_path / "out") == []


def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(nursery, reference, tmp_path):
    """On a file system of eight megabytes, where the system lets one be mounted: room for one checkpoint and not for two."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a file system; a file-size limit does the same to the program")
    try:
        out = disk / "out"
        child = nursery.run(out, *SHORT, every=1)
        assert child.code == 1
        assert one_line(child.said) == f"error: {out / 'checkpoint.npz'}: cannot be written (No space left on device)"
        assert newest(out) == 1
        assert litter(out) == []
        child = nursery.run(out, *SHORT, "--resume", "--keep-going", every=1)
        assert "cannot be written (No space left on device); going on" in child.said
        assert "Traceback" not in child.said
        assert newest(out) >= 1
        subprocess.run(["mount", "-o", "remount,size=40m", str(disk)], check=True)
        child = nursery.run(out, *SHORT, "--resume")
        assert child.code == 0, child.said
        assert (out / "model.npz").read_bytes() == reference
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# ---------------------------------------------------------------------------------------------------------------
# Two runs in one folder


def test_a_second_run_in_a_folder_is_refused_and_the_first_unharmed(nursery, reference, tmp_path):
    out = tmp_path / "out"
    first = nursery.start(out, *SHORT, every=1)
    first.until(lambda: newest(out) > 0)
    for options in (SHORT, [*SHORT, "--resume"]):
        second = nursery.run(out, *options)
        assert second.code == 1
        assert one_line(second.said) == f"error: {out}: another run is writing there"
    assert first.wait() == 0
    assert (out / "model.npz").read_bytes() == reference


def test_a_lock_holds_against_threads_and_processes_and_ends_with_its_block(tmp_path):
    code = "import sys, minicnn.files as f, pathlib\nwith f.lock(pathlib.Path(sys.argv[1])): print('got it')"

    def another_process():
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
        return done.stdout or done.stderr.splitlines()[-1]

    refused = []

    def another_thread():
        try:
            with lock(tmp_path):
                pass
        except CheckpointError as error:
            refused.append(str(error))

    with lock(tmp_path), lock(tmp_path):
        assert another_process().endswith(f"CheckpointError: {tmp_path}: another run is writing there")
        thread = threading.Thread(target=another_thread)
        thread.start()
        thread.join()
    assert refused == [f"{tmp_path}: another run is writing there"]
    assert another_process() == "got it\n"
