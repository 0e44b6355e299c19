"""Where the data set is looked for, in which order. The network is a loopback server; apt is a script."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import os
import shutil
import socket
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from minicnn.data import CLASS_NAMES, fetch, load_dataset, load_fashion_mnist, load_idx_images, save_csv, save_idx
from minicnn.data.known import IDX, KNOWN, digest
from minicnn.data.sources import SAMPLE_FOLDER, find_dataset
from minicnn.errors import DataError

NAMES = list(IDX)


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """No data set anywhere, no proxy, no apt, and an empty home."""
    for name in list(os.environ):
        if name.startswith("MINICNN_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("HOME", str(tmp_path / "home of mine"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("MINICNN_MIRRORS", "")
    monkeypatch.setattr(fetch, "DEBIAN_FOLDER", str(tmp_path / "debian"))


@pytest.fixture
def upstream(tmp_path, monkeypatch):
    """A folder with a tiny data set, 20 and 10 images, gzipped; its hashes stand in for the official ones."""
    folder = tmp_path / "up stream"
    folder.mkdir()
    rng, md5 = np.random.default_rng(0), {}
    for name in NAMES:
        n = 20 if "train" in name else 10
        array = rng.integers(0, 256, (n, 28, 28)) if "images" in name else rng.integers(0, 10, n)
        save_idx(folder / f"{name}.gz", array.astype(np.uint8))
        content = gzip.decompress((folder / f"{name}.gz").read_bytes())
        md5[name] = hashlib.md5(content).hexdigest()
    read = load_fashion_mnist(folder, verbose=False)
    digests = digest(read.train_images, read.train_labels), digest(read.test_images, read.test_labels)
    changed = dataclasses.replace(KNOWN["fashion_mnist"], md5=md5, rows=digests)
    monkeypatch.setitem(KNOWN, "fashion_mnist", changed)
    return folder


@pytest.fixture
def serve():
    """Starts a server on the loopback for a handler class; returns its address."""
    servers = []

    def start(handler):
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def files_of(folder):
    return partial(Quiet, directory=str(folder))


def cache():
    return fetch.cache_folder()


def fill(folder, upstream, names=NAMES):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.gz").write_bytes((upstream / f"{name}.gz").read_bytes())
    return folder


def fake_apt(tmp_path, upstream, script="echo > dataset-fashion-mnist_0_all.deb"):
    """Puts on the PATH an apt-get that runs the script and a dpkg-deb that unpacks the upstream folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    target = f"content{fetch.DEBIAN_FOLDER}"
    for name, body in (
        ("apt-get", f'[ "$1" = download ] || exit 9\n{script}'),
        (
            "dpkg-deb",
            f'[ "$1 $3" = "-x content" ] || exit 9\nmkdir -p "{target}"\ncp "{upstream}"/* "{target}"',
        ),
    ):
        (folder / name).write_text(f"#!/bin/sh\nPATH=/bin:/usr/bin\n{body}\n")
        (folder / name).chmod(0o755)


# --- explicit wishes ---


def test_folder_with_idx_files_plain_or_zipped(tmp_path, upstream):
    zipped = load_fashion_mnist(upstream)
    for name in NAMES:
        (tmp_path / name).write_bytes(gzip.decompress((upstream / f"{name}.gz").read_bytes()))
    plain = load_fashion_mnist(str(tmp_path))
    np.testing.assert_array_equal(plain.train_images, zipped.train_images)
    np.testing.assert_array_equal(plain.test_labels, zipped.test_labels)
    assert plain.train_images.shape == (20, 28, 28, 1) and plain.train_images.dtype == np.uint8
    assert plain.test_labels.shape == (10,) and plain.test_labels.dtype == np.int64
    assert not plain.is_sample and plain.name == "Fashion-MNIST" and str(tmp_path) in plain.source


def test_csv_files_by_folder_and_by_name(tmp_path, upstream):
    wanted = load_fashion_mnist(upstream)
    save_csv(tmp_path / "fashion-mnist_train.csv", wanted.train_images, wanted.train_labels)
    save_csv(tmp_path / "fashion-mnist_test.csv", wanted.test_images, wanted.test_labels)
    train_csv, test_csv = tmp_path / "fashion-mnist_train.csv", tmp_path / "fashion-mnist_test.csv"
    for dataset in (load_fashion_mnist(tmp_path), load_fashion_mnist(train_csv=train_csv, test_csv=test_csv)):
        np.testing.assert_array_equal(dataset.train_images, wanted.train_images)
        np.testing.assert_array_equal(dataset.test_labels, wanted.test_labels)


def test_explicit_wish_that_cannot_be_met_is_an_error(tmp_path):
    for options, expected in (
        ({"source": tmp_path / "none"}, "no such folder"),
        (
            {"source": "smaple"},
            "'auto', 'sample' or a folder, or one of fashion_mnist, sample, mnist, kmnist, cifar10",
        ),
        ({"train_csv": "a.csv"}, "both or neither"),
        ({"train_csv": "a.csv", "test_csv": "b.csv"}, "a.csv"),
        ({"source": "sample", "train_csv": "a.csv", "test_csv": "b.csv"}, "one of them"),
    ):
        with pytest.raises(DataError, match=expected):
            load_fashion_mnist(**options)


def test_folder_that_lacks_files_is_told_the_names_looked_for(tmp_path, upstream):
    folder = fill(tmp_path / "some", upstream, NAMES[:3])
    with pytest.raises(DataError) as caught:
        load_fashion_mnist(folder)
    assert all(name in str(caught.value) for name in ("fashion-mnist_train.csv", "fashion-mnist_test.csv", NAMES[3]))
    assert NAMES[0] not in str(caught.value)


def test_folder_with_images_of_another_size_is_refused(tmp_path, upstream):
    folder = fill(tmp_path / "some", upstream)
    save_idx(folder / f"{NAMES[2]}.gz", np.zeros((10, 32, 30), np.uint8))
    with pytest.raises(DataError, match="test images of 32 x 30 pixels, expected 28 x 28 as the training images"):
        load_fashion_mnist(folder)


# --- what was read is known by its content ---


@pytest.mark.parametrize("change", ["other images", "other labels", "a part", "training and test images exchanged"])
def test_other_data_under_the_same_names_is_an_unknown_data_set(tmp_path, upstream, capsys, change):
    """As MNIST's files are, which have the names, the counts and the sizes of Fashion-MNIST's."""
    folder = fill(tmp_path / "some", upstream)
    read = load_fashion_mnist(upstream, verbose=False)
    if change == "other images":
        save_idx(folder / f"{NAMES[0]}.gz", 255 - read.train_images[..., 0])
    elif change == "other labels":
        save_idx(folder / f"{NAMES[3]}.gz", 9 - read.test_labels.astype(np.uint8))
    elif change == "a part":
        save_idx(folder / f"{NAMES[2]}.gz", read.test_images[:9, :, :, 0])
        save_idx(folder / f"{NAMES[3]}.gz", read.test_labels[:9].astype(np.uint8))
    else:
        for one, other in zip(NAMES[:2], NAMES[2:], strict=True):
            (folder / f"{one}.gz").write_bytes((upstream / f"{other}.gz").read_bytes())
            (folder / f"{other}.gz").write_bytes((upstream / f"{one}.gz").read_bytes())
    dataset = load_fashion_mnist(folder)
    assert (dataset.name, dataset.is_sample) == ("unknown data set", False)
    assert dataset.class_names == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    assert capsys.readouterr().err == f"data: loaded unknown data set from files in {folder}\n"


def test_order_and_kind_of_file_do_not_change_what_the_data_is_called(tmp_path, upstream, capsys):
    wanted = load_fashion_mnist(upstream)
    for part in ("train", "test"):
        order = np.random.default_rng(0).permutation(len(getattr(wanted, f"{part}_labels")))
        images, labels = (getattr(wanted, f"{part}_{kind}")[order] for kind in ("images", "labels"))
        save_csv(tmp_path / f"fashion-mnist_{part}.csv", images, labels)
    again = load_fashion_mnist(tmp_path)
    assert (again.name, again.is_sample, again.class_names) == ("Fashion-MNIST", False, CLASS_NAMES)
    assert capsys.readouterr().err.count("loaded Fashion-MNIST from ") == 2


def test_one_image_twice_is_not_the_same_as_once():
    images = np.zeros((3, 28, 28, 1), np.uint8)
    images[2] = 1
    labels = np.zeros(3, np.int64)
    assert digest(images, labels) != digest(images[1:], labels[1:])
    assert digest(images, labels) != digest(images[[0, 2, 2]], labels)


# --- auto: the order ---


def test_minicnn_data_comes_before_all_else(tmp_path, upstream, monkeypatch):
    fill(tmp_path / "debian", upstream)
    monkeypatch.setenv("MINICNN_DATA", str(upstream))
    assert str(upstream) in load_fashion_mnist().source


def test_minicnn_data_that_cannot_be_used_is_an_error(tmp_path, upstream, monkeypatch):
    fill(tmp_path / "debian", upstream)
    monkeypatch.setenv("MINICNN_DATA", str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"MINICNN_DATA: .*none"):
        load_fashion_mnist()


def test_debian_comes_before_the_cache_and_the_cache_before_the_mirrors(tmp_path, upstream, serve, monkeypatch):
    monkeypatch.setenv("MINICNN_MIRRORS", serve(files_of(upstream)))
    assert load_fashion_mnist().source == "web mirrors"
    assert load_fashion_mnist().source == f"cache {cache()}"
    fill(tmp_path / "debian", upstream)
    assert "Debian" in load_fashion_mnist().source


def test_mirrors_come_before_apt_and_apt_before_the_sample(tmp_path, upstream, serve, monkeypatch):
    fake_apt(tmp_path, upstream)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "first"))
    assert "apt" in load_fashion_mnist().source
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "second"))
    monkeypatch.setenv("MINICNN_MIRRORS", serve(files_of(upstream)))
    assert load_fashion_mnist().source == "web mirrors"


def test_every_step_says_what_it_tried_and_the_sample_is_loud(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MINICNN_MIRRORS", "http://127.0.0.1:1/ ftp://example.invalid/")
    dataset = load_fashion_mnist()
    captured = capsys.readouterr()
    assert dataset.is_sample and dataset.source == "bundled sample" and len(dataset.train_images) == 2000
    for text in (
        "MINICNN_DATA",
        str(tmp_path / "debian"),
        str(cache()),
        "127.0.0.1:1/",
        "ftp://",
        "apt",
        "sample",
    ):
        assert text in captured.err
    assert "--data DIR, in Python source=DIR" in captured.err
    assert "ONLY A SAMPLE" in captured.err and "2,000" in captured.err and "1,000" in captured.err
    assert captured.out == ""


def test_quiet_says_nothing(capsys):
    assert load_fashion_mnist(verbose=False).is_sample
    assert capsys.readouterr() == ("", "")


def test_who_wants_no_steps_told_is_told_of_a_download_in_one_line(upstream, serve, monkeypatch, capsys):
    monkeypatch.setenv("MINICNN_MIRRORS", serve(files_of(upstream)))
    lines = ["data: Fashion-MNIST is not on this machine: fetching it"], []
    for said in lines:  # the second time it is in the cache
        assert find_dataset("auto", None, 3, lambda line: None, verbose=True).name == "Fashion-MNIST"
        assert capsys.readouterr().err.splitlines() == said


def test_offline_fetches_nothing(tmp_path, upstream, monkeypatch):
    fake_apt(tmp_path, upstream, script=f"echo > '{tmp_path}/apt was run'")
    monkeypatch.setenv("MINICNN_OFFLINE", "1")
    monkeypatch.setattr(fetch.urllib.request, "urlopen", lambda *_, **__: pytest.fail("went to the network"))
    monkeypatch.setenv("MINICNN_MIRRORS", "http://127.0.0.1:1/")
    assert load_fashion_mnist().is_sample
    assert not (tmp_path / "apt was run").exists()


# --- mirrors and cache ---


def test_downloaded_files_are_kept_and_nothing_else(upstream, serve, monkeypatch):
    monkeypatch.setenv("MINICNN_MIRRORS", serve(files_of(upstream)))
    dataset = load_fashion_mnist()
    assert not dataset.is_sample
    np.testing.assert_array_equal(dataset.train_images, load_fashion_mnist(upstream).train_images)
    assert {path.name: path.read_bytes() for path in cache().iterdir()} == {
        path.name: path.read_bytes() for path in upstream.iterdir()
    }


@pytest.mark.parametrize("damage", ["another image", "truncated", "garbage", "web page", "missing"])
def test_file_with_a_wrong_hash_is_discarded_and_the_next_mirror_tried(
    tmp_path, upstream, serve, monkeypatch, capsys, damage
):
    bad = fill(tmp_path / "bad", upstream)
    path = bad / f"{NAMES[2]}.gz"
    if damage == "another image":
        save_idx(path, np.zeros((10, 28, 28), np.uint8))
    elif damage == "missing":
        path.unlink()
    else:
        good = path.read_bytes()
        path.write_bytes({"truncated": good[:-40], "garbage": b"\x1f\x8bxyz", "web page": b"<html>"}[damage])
    bad_mirror, good_mirror = serve(files_of(bad)), serve(files_of(upstream))
    monkeypatch.setenv("MINICNN_MIRRORS", bad_mirror)
    assert load_fashion_mnist().is_sample
    assert sorted(path.name for path in cache().iterdir()) == [f"{name}.gz" for name in NAMES[:2]]
    capsys.readouterr()
    monkeypatch.setenv("MINICNN_MIRRORS", f"{bad_mirror} {good_mirror}")
    assert not load_fashion_mnist().is_sample
    said = capsys.readouterr().err
    assert f"{bad_mirror}: " in said and f"{good_mirror}: downloaded" in said


def test_damaged_cache_is_said_and_fetched_again(upstream, serve, monkeypatch, capsys):
    monkeypatch.setenv("MINICNN_MIRRORS", serve(files_of(upstream)))
    fill(cache(), upstream)
    damaged = cache() / f"{NAMES[0]}.gz"
    save_idx(damaged, np.zeros((20, 28, 28), np.uint8))
    assert not load_fashion_mnist().is_sample
    assert f"{damaged}: MD5" in capsys.readouterr().err
    assert damaged.read_bytes() == (upstream / damaged.name).read_bytes()


def test_cache_that_cannot_be_written_does_not_stop_the_download(tmp_path, upstream, serve, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("MINICNN_MIRRORS", serve(files_of(upstream)))
    assert load_fashion_mnist().source == "web mirrors"
    assert "not kept in the cache" in capsys.readouterr().err


def test_no_home_is_no_cache(upstream, serve, monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert cache() is None
    monkeypatch.setenv("MINICNN_MIRRORS", serve(files_of(upstream)))
    assert load_fashion_mnist().source == "web mirrors"


def test_mirror_that_sends_without_end_is_cut_off(serve, monkeypatch, capsys):
    class Endless(Quiet):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(bytes(1 << 16))

    monkeypatch.setattr(fetch, "MOST_DOWNLOADED", 1 << 20)
    monkeypatch.setenv("MINICNN_MIRRORS", serve(Endless))
    assert load_fashion_mnist().is_sample
    assert "more than 1048576 bytes" in capsys.readouterr().err


def test_mirror_that_is_no_web_server_or_no_address_is_passed_over(upstream, serve, monkeypatch, capsys):
    class Nonsense(Quiet):
        def do_GET(self):
            self.wfile.write(b"nonsense\r\n\r\n")

    mirrors = (serve(Nonsense), "http://[", "https://", "file:///", serve(files_of(upstream)))
    monkeypatch.setenv("MINICNN_MIRRORS", " ".join(mirrors))
    assert load_fashion_mnist().source == "web mirrors"
    said = capsys.readouterr().err
    assert all(f"data: {mirror}: " in said for mirror in mirrors)


def test_mirror_that_drips_is_given_up(serve, monkeypatch, capsys):
    class Drip(Quiet):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b"x")
                    time.sleep(0.01)

    monkeypatch.setattr(fetch, "DOWNLOAD_SECONDS", 0.2)
    monkeypatch.setattr(fetch, "CONNECT_SECONDS", 60)  # however slowly this machine answers, it is not that
    monkeypatch.setenv("MINICNN_MIRRORS", serve(Drip))
    assert load_fashion_mnist().is_sample
    assert "not complete after 0.2 s" in capsys.readouterr().err


def test_mirror_that_is_silent_is_given_up(monkeypatch, capsys):
    monkeypatch.setattr(fetch, "CONNECT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MINICNN_MIRRORS", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        assert load_fashion_mnist().is_sample
    assert "timed out" in capsys.readouterr().err


# --- apt ---


def test_apt_unpacks_into_the_cache(tmp_path, upstream):
    fake_apt(tmp_path, upstream)
    assert load_fashion_mnist().source == "apt package dataset-fashion-mnist"
    assert sorted(path.name for path in cache().iterdir()) == sorted(f"{name}.gz" for name in NAMES)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo reading; echo 'E: Unable to locate package' >&2; exit 100", "E: Unable to locate package"),
        ("exit 100", "no output"),
        ("true", "no .deb"),
        ("exec sleep 600", "timed out"),
    ],
)
def test_apt_that_fails_is_said_and_passed_over(tmp_path, upstream, monkeypatch, capsys, script, expected):
    if expected == "timed out":  # the others end by themselves, however long that takes here
        monkeypatch.setattr(fetch, "APT_SECONDS", 0.1)
    fake_apt(tmp_path, upstream, script)
    assert load_fashion_mnist().is_sample
    assert expected in capsys.readouterr().err


def test_apt_package_with_other_files_is_not_used(tmp_path, upstream, monkeypatch):
    fake_apt(tmp_path, upstream)
    monkeypatch.setitem(KNOWN["fashion_mnist"].md5, NAMES[0], "0" * 32)
    assert load_fashion_mnist().is_sample
    assert f"{NAMES[0]}.gz" not in {path.name for path in cache().iterdir()}


# --- the other data sets of the table ---


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Makes the upstream files of a data set of the table, with few images, and gives it their hashes."""

    def make(key):
        folder, known, rng = tmp_path / "files of mine", KNOWN[key], np.random.default_rng(1)
        folder.mkdir()
        md5, k = {}, len(known.class_names)
        for name in known.md5:
            if name.endswith(".bin"):
                rows = rng.integers(0, 256, (20, 3073), dtype=np.uint8)
                rows[:, 0] %= 10
                (folder / name).write_bytes(rows.tobytes())
            else:
                array = rng.integers(0, 256, (k, 28, 28)) if "images" in name else np.arange(k)
                save_idx(folder / f"{name}.gz", array.astype(np.uint8))
            md5[name] = hashlib.md5(fetch.file_in(folder, name).read_bytes()).hexdigest()
        archive = known.archive
        if archive:
            shutil.make_archive(
                str(tmp_path / "packed"), "gztar" if "tar" in archive[0] else "zip", tmp_path, folder.name
            )
            served = next(tmp_path.glob("packed.*")).rename(folder / archive[0])
            archive = (archive[0], hashlib.md5(served.read_bytes()).hexdigest())
        monkeypatch.setitem(KNOWN, key, dataclasses.replace(known, md5=md5, archive=archive))
        return folder

    return make


@pytest.mark.parametrize("key", ["mnist", "kmnist", "cifar10", *(key for key in KNOWN if key.startswith("emnist"))])
def test_each_data_set_is_fetched_kept_and_known(small, serve, monkeypatch, key):
    folder = small(key)
    with pytest.raises(DataError, match=f"^{key}: .* is nowhere to be had") as told:
        load_dataset(key, verbose=False)
    known = KNOWN[key]
    address = known.mirrors[0] + (known.archive[0] if known.archive else "")
    files = f"put {', '.join(known.md5)} (.gz or not, from {address}) into a folder that you give as source (--data)"
    assert str(told.value).endswith(f"; {files}, or into {fetch.cache_folder(key)}")
    monkeypatch.setenv("MINICNN_MIRRORS", serve(files_of(folder)))
    first = load_dataset(key, verbose=False)
    monkeypatch.setenv("MINICNN_OFFLINE", "1")
    again, mine = load_dataset(key, verbose=False), load_dataset(folder, verbose=False)
    assert (first.source, again.source) == ("web mirrors", f"cache {fetch.cache_folder(key)}")
    for dataset in (first, again, mine):
        assert (dataset.name, dataset.class_names) == (KNOWN[key].title, KNOWN[key].class_names)
        assert not dataset.is_sample
        np.testing.assert_array_equal(dataset.train_images, first.train_images)
        np.testing.assert_array_equal(dataset.test_labels, first.test_labels)
    if key == "cifar10":
        raw = np.frombuffer((folder / "data_batch_2.bin").read_bytes(), np.uint8).reshape(20, 3073)
        assert first.train_images.shape == (100, 32, 32, 3) and first.test_images.shape == (20, 32, 32, 3)
        assert (
            first.train_images[23, 5, 7, 2] == raw[3, 1 + 2 * 1024 + 5 * 32 + 7] and first.train_labels[23] == raw[3, 0]
        )
    else:
        raw = load_idx_images(fetch.file_in(folder, next(iter(KNOWN[key].md5))))
        upright = raw.transpose(0, 2, 1, 3) if key.startswith("emnist") else raw
        np.testing.assert_array_equal(first.train_images, upright)


def test_files_are_known_by_their_content_whatever_they_are_called(tmp_path, small, upstream, capsys):
    """MNIST's files have the names of Fashion-MNIST's and of KMNIST's."""
    folder = small("kmnist")
    assert load_fashion_mnist(folder, verbose=False).name == "KMNIST"
    assert load_dataset(upstream, verbose=False).name == "Fashion-MNIST"
    (folder / f"{NAMES[1]}.gz").write_bytes((folder / f"{NAMES[3]}.gz").read_bytes())
    assert load_dataset(folder, verbose=False).name == "KMNIST"  # here both hold 0 to 9
    save_idx(folder / f"{NAMES[1]}.gz", np.arange(10, dtype=np.uint8)[::-1])
    assert load_dataset(folder, verbose=False).name == "unknown data set"


def test_files_that_were_put_where_the_error_says_are_taken(small):
    folder = small("kmnist")
    with pytest.raises(DataError) as told:
        load_dataset("kmnist", verbose=False)
    place = Path(str(told.value).rpartition("or into ")[2])
    place.parent.mkdir(parents=True)
    shutil.copytree(folder, place)
    assert load_dataset("kmnist", verbose=False).source == f"cache {place}"


def test_an_archive_with_a_wrong_hash_is_not_opened(small, serve, monkeypatch, capsys):
    folder = small("emnist/digits")
    (folder / "gzip.zip").write_bytes(b"PK" + bytes(100))
    monkeypatch.setenv("MINICNN_MIRRORS", serve(files_of(folder)))
    monkeypatch.setattr(fetch.zipfile, "ZipFile", lambda *_: pytest.fail("opened it"))
    with pytest.raises(DataError, match="nowhere"):
        load_dataset("emnist/digits")
    assert "gzip.zip: MD5" in capsys.readouterr().err


def test_class_names_are_as_many_as_labels():
    classes = {"byclass": 62, "bymerge": 47, "balanced": 47, "letters": 27, "digits": 10, "mnist": 10}
    for key, known in KNOWN.items():
        assert len(known.class_names) == classes.get(key.partition("/")[2], 10)
        assert len(set(known.class_names)) == len(known.class_names)
    assert "".join(KNOWN["emnist/balanced"].class_names[34:40]) == "YZabde"  # after the published mapping
    digests = [md5 for known in KNOWN.values() for md5 in known.md5.values()]
    assert len(set(digests)) == len(digests) == 4 * 9 + 6 and {len(md5) for md5 in digests} == {32}


def test_hashes_are_those_of_the_decompressed_upstream_files():
    md5 = KNOWN["fashion_mnist"].md5[NAMES[1]]
    path = Path(SAMPLE_FOLDER) / f"{NAMES[1]}.gz"
    with pytest.raises(DataError, match=f"decompressed, .*expected {md5}"):
        fetch.verified(path.read_bytes(), NAMES[1], path, md5)
