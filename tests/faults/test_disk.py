"""A disk that is full, and folders that are shared: what was saved before stays whole, a failure is told in one line
and leaves no litter, and two runs never write into one folder. Links, pipes, modes and owners outlive what is written.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import stat
import subprocess
import sys
import threading
from contextlib import suppress

import numpy as np
import pytest
from children import newest, one_line

from minicnn import Checkpoint, Dense, Sequential, archive, files, plots
from minicnn.callbacks import Callback, CSVLogger
from minicnn.data import save_csv, save_idx
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


# ---------------------------------------------------------------------------------------------------------------
# What stands where a file is to be written


class Stopped(Exception):
    pass


class Stop(Callback):
    """End a run at a step, or never at step 0."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, run):
        if run.step == self.step:
            raise Stopped


def fit(**options):
    model, images = Sequential([Dense(3)], (4,)), np.arange(24, dtype=np.float32).reshape(6, 4)
    with suppress(Stopped):
        model.fit(images, np.arange(6) % 3, 1, 1, verbose=False, **options)
    return model


def write_checkpoint(path):
    """The first call is a run that is interrupted, the second its rest; each saves several times."""
    fit(checkpoint=Checkpoint(path, every=1), callbacks=[Stop(0 if path.exists() else 4)])


WRITERS = {
    "model.npz": lambda path: fit().save(path),
    "checkpoint.npz": write_checkpoint,
    "checkpoint.npz.previous": lambda path: write_checkpoint(path.with_suffix("")),
    "history.csv": lambda path: fit(callbacks=[CSVLogger(path)]),
    "images.csv": lambda path: save_csv(path, np.zeros((2, 2, 2, 1), np.uint8), np.arange(2)),
    "images.idx": lambda path: save_idx(path, np.zeros((2, 2, 2), np.uint8)),
    "images.idx.gz": lambda path: save_idx(path, np.zeros((2, 2, 2), np.uint8)),
    "curves.png": lambda path: plots.curves({"loss": [1.0, 0.5], "accuracy": [0.1, 0.9]}, path),
}


@pytest.fixture(params=WRITERS)
def written(request, tmp_path, numpy_backend):
    """Where a file of each kind is to be, and what writes it; neither that nor the test leaves litter."""
    yield tmp_path / request.param, WRITERS[request.param]
    assert list(tmp_path.rglob(".*.tmp")) == []


def write_again(path, write):
    """Replace a file by a newer one, which lies where the older did."""
    os.utime(path, (0, 0))
    write(path)
    assert path.stat().st_mtime > 0


def test_a_link_stays_and_its_target_is_written(written):
    path, write = written
    target = path.parent / "elsewhere" / "target"
    target.parent.mkdir()
    path.symlink_to(target)
    write(path)
    assert target.is_file()
    assert os.readlink(path) == str(target)
    write_again(path, write)
    assert os.readlink(path) == str(target)
    assert os.listdir(target.parent) == ["target"]


def test_a_file_that_is_replaced_keeps_its_mode(written):
    path, write = written
    write(path)
    path.chmod(0o640)
    write_again(path, write)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give a file away")
def test_a_file_that_is_replaced_keeps_its_owner(written):
    path, write = written
    write(path)
    os.chown(path, 12345, 54321)
    write_again(path, write)
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 54321)


def test_a_new_file_has_the_mode_that_the_umask_leaves(written):
    path, write = written
    before = os.umask(0o027)
    try:
        write(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_what_is_no_regular_file_is_refused_by_name_and_stays(written):
    path, write = written
    os.mkfifo(path)
    other_end = os.open(path, os.O_RDWR)  # without one, whoever opens the pipe by mistake would hang
    with pytest.raises((OSError, CheckpointError), match=re.escape(str(path))) as caught:
        write(path)
    os.close(other_end)
    assert "got a device, pipe or socket, expected a regular file" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_a_missing_folder_is_told_by_the_name_of_the_file_unless_it_can_be_made(written):
    path, write = written
    path = path.parent / "missing" / path.name
    if path.name.startswith("checkpoint"):
        write(path)
        assert path.is_file()
        return
    with pytest.raises(FileNotFoundError, match=re.escape(str(path))):
        write(path)
    assert not path.parent.exists()


def test_a_checkpoint_may_be_a_link_to_another_disk(tmp_path, monkeypatch, numpy_backend):
    path, disk = tmp_path / "checkpoint.npz", tmp_path / "disk"
    disk.mkdir()
    path.symlink_to(disk / "checkpoint.npz")
    replace = os.replace

    def replace_within_a_disk(old, new):
        if disk in (old.parent, new.parent) and old.parent != new.parent:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(old), None, str(new))
        replace(old, new)

    monkeypatch.setattr(files.os, "replace", replace_within_a_disk)
    write_checkpoint(path)
    assert newest(tmp_path) == 3
    assert path.is_symlink()
    for file in (path, path.with_name("checkpoint.npz.previous")):
        with archive.reading(file, "a checkpoint"):
            pass


def test_a_run_writes_all_its_files_through_links_and_another_one_after_it_too(nursery, reference, tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    names = ["checkpoint.npz", "checkpoint.npz.previous", "history.csv", "metrics.json", "model.npz"]
    for name in names:
        (out / name).symlink_to(elsewhere / name)
    for _ in range(2):
        assert nursery.model(out, *SHORT) == reference
        assert [name for name in names if not (out / name).is_symlink()] == []
        assert sorted(os.listdir(elsewhere)) == names
