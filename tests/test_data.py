"""The files: CSV and IDX in and out, malformed ones refused by name, the split, the sample, the CLI."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicnn.data import (
    CLASS_NAMES,
    Dataset,
    duplicates,
    load_csv,
    load_fashion_mnist,
    load_idx,
    load_idx_images,
    load_idx_labels,
    save_csv,
    save_idx,
    split,
)
from minicnn.data import __main__ as cli
from minicnn.data import make_sample as sampling
from minicnn.errors import DataError

SAMPLE = Path(sys.modules["minicnn.data"].__file__).parent / "sample"
HEADER = ",".join(["label", *(f"pixel{i}" for i in range(1, 785))])


def images_and_labels(n=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 28, 28, 1), dtype=np.uint8), rng.integers(0, 10, n)


def csv_lines(images, labels):
    rows = np.concatenate([labels[:, None], images.reshape(len(images), -1)], axis=1)
    return [HEADER, *(",".join(map(str, row)) for row in rows)]


def with_field(line, place, value):
    fields = line.split(",")
    fields[place] = value
    return ",".join(fields)


def refused(load, path, *expected):
    """The load raises a DataError of one line, which names the file and holds all of what is expected."""
    with pytest.raises(DataError) as caught:
        load(path)
    message = str(caught.value)
    for text in (str(path), *expected):
        assert text in message
    assert "\n" not in message and len(message) < 500


# --- CSV ---


def test_csv_comes_back_as_it_was_written(tmp_path):
    images, labels = images_and_labels(1203)
    images[0], images[1] = 0, 255
    save_csv(tmp_path / "a b.csv", images, labels)
    again, again_labels = load_csv(tmp_path / "a b.csv")
    np.testing.assert_array_equal(again, images)
    np.testing.assert_array_equal(again_labels, labels)
    assert again.dtype == np.uint8 and again_labels.dtype == np.int64 and again.flags.c_contiguous
    assert [path.name for path in tmp_path.iterdir()] == ["a b.csv"]


def test_csv_is_written_as_kaggle_writes_it(tmp_path):
    images, labels = images_and_labels(3)
    save_csv(tmp_path / "x.csv", images, labels)
    assert (tmp_path / "x.csv").read_text() == "\n".join([*csv_lines(images, labels), ""])


@given(
    n=st.integers(1, 4),
    h=st.integers(1, 5),
    w=st.integers(1, 5),
    c=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_csv_of_any_image_shape_comes_back(tmp_path_factory, n, h, w, c, seed):
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 256, (n, h, w, c), dtype=np.uint8), rng.integers(0, 3, n)
    save_csv(path, images, labels)
    again, again_labels = load_csv(path, classes=3, shape=(h, w, c))
    np.testing.assert_array_equal(again, images)
    np.testing.assert_array_equal(again_labels, labels)


HARMLESS = {
    "plain": lambda lines: "\n".join([*lines, ""]).encode(),
    "no header": lambda lines: "\n".join([*lines[1:], ""]).encode(),
    "byte-order mark": lambda lines: "\n".join([*lines, ""]).encode("utf-8-sig"),
    "byte-order mark, no header": lambda lines: "\n".join([*lines[1:], ""]).encode("utf-8-sig"),
    "CRLF": lambda lines: "\r\n".join([*lines, ""]).encode(),
    "CR": lambda lines: "\r".join([*lines, ""]).encode(),
    "no last newline": lambda lines: "\n".join(lines).encode(),
    "blank last lines": lambda lines: "\n".join([*lines, "", "", ""]).encode(),
    "blank first lines": lambda lines: "\n".join(["", "", *lines, ""]).encode(),
    "blank first line, byte-order mark, CRLF": lambda lines: "\r\n".join(["", *lines, ""]).encode("utf-8-sig"),
    "blank first line, no header": lambda lines: "\n".join(["", *lines[1:], ""]).encode(),
    "blank line within": lambda lines: "\n".join([*lines[:3], "", *lines[3:]]).encode(),
    "quoted": lambda lines: "\n".join('"' + line.replace(",", '","') + '"' for line in lines).encode(),
    "quoted header": lambda lines: "\n".join(['"' + lines[0].replace(",", '","') + '"', *lines[1:]]).encode(),
    "spaces": lambda lines: "\n".join(line.replace(",", " , ") for line in lines).encode(),
}


@pytest.mark.parametrize("form", HARMLESS)
def test_csv_in_another_form_gives_the_same_arrays(tmp_path, form):
    images, labels = images_and_labels()
    path = tmp_path / "x.csv"
    path.write_bytes(HARMLESS[form](csv_lines(images, labels)))
    again, again_labels = load_csv(path)
    np.testing.assert_array_equal(again, images)
    np.testing.assert_array_equal(again_labels, labels)


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "nan",
        "inf",
        "1.5",
        "3.0",
        "-1",
        "256",
        "1e2",
        "0x10",
        "1#2",
        "1 2",
        "x",
        "9" * 5000,
        "1\0",
        "é",
    ],
)
def test_csv_pixel_that_is_no_byte_is_named(tmp_path, value, header):
    lines = csv_lines(*images_and_labels())[0 if header else 1 :]
    lines[3] = with_field(lines[3], 37, value)
    path = tmp_path / "x.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    refused(load_csv, path, "line 4, field pixel37", repr(value.strip()[:40]), "from 0 to 255")


@pytest.mark.parametrize("value", ["10", "255", "256", "-1", "nan", "", "1.5", "Bag"])
def test_csv_label_out_of_range_is_named(tmp_path, value):
    lines = csv_lines(*images_and_labels())
    lines[5] = with_field(lines[5], 0, value)
    path = tmp_path / "x.csv"
    path.write_text("\n".join(lines))
    refused(load_csv, path, "line 6, field label", repr(value), "from 0 to 9")


def test_csv_first_of_several_faults_is_named(tmp_path):
    lines = csv_lines(*images_and_labels())
    lines[2] = with_field(lines[2], 0, "10")
    lines[4] = "1,2"
    (tmp_path / "x.csv").write_text("\n".join([lines[0], "", *lines[1:]]))
    refused(load_csv, tmp_path / "x.csv", "line 4, field label")


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("columns", [784, 786, 1])
def test_csv_with_another_number_of_columns_is_refused(tmp_path, columns, header):
    lines = [",".join((line + ",7").split(",")[:columns]) for line in csv_lines(*images_and_labels())]
    (tmp_path / "x.csv").write_text("\n".join(lines if header else lines[1:]))
    refused(load_csv, tmp_path / "x.csv", "line 1", str(columns), "785")


def good_lines():
    return csv_lines(*images_and_labels())


BROKEN_CSV = {
    "long row": ("\n".join([*good_lines(), good_lines()[1] + ",7"]), ["line 7: 786 fields", "785"]),
    "truncated row": ("\n".join(good_lines())[:-50], ["line 6", "fields, expected 785"]),
    "trailing commas": (",\n".join(good_lines()), ["line 1", "786"]),
    "comment": ("\n".join([*good_lines()[:2], "# a comment", *good_lines()[2:]]), ["line 3: 1 fields"]),
    "line of spaces": ("\n".join([*good_lines(), "   "]), ["line 7: 1 fields"]),
    "semicolons": ("\n".join(good_lines()).replace(",", ";"), ["line 1: 1 columns", "expected 785"]),
    "header twice": ("\n".join([HEADER, *good_lines()]), ["line 2, field label", "'label'"]),
    "no label in the header": (HEADER.replace("label", "digit"), ["line 1: no column 'label' among 'digit', 'pixel1'"]),
    "pixels in another order": (
        HEADER.replace("pixel5,pixel6", "pixel6,pixel5"),
        ["line 1: 'pixel5' stands after a later pixel"],
    ),
    "half a header": (HEADER[:98], ["line 1: 14 columns, expected 785"]),
    "one column too few in the header": (
        HEADER.removesuffix(",pixel784"),
        ["line 1: 784 columns", "expected 785"],
    ),
    "blank line before half a header": ("\n" + HEADER[:98], ["line 2: 14 columns"]),
    "blank line before a short row": ("\n1,2\n", ["line 2: 2 fields"]),
    "no rows": (HEADER + "\n", ["no rows"]),
    "no rows after a blank line": ("\n" + HEADER + "\n\n", ["no rows"]),
    "no rows, no newline": (HEADER, ["no rows"]),
    "empty": ("", ["no rows"]),
    "only newlines": ("\n\n", ["no rows"]),
    "open quote": (
        "\n".join(good_lines()).replace("\n", '\n"', 1),
        ["line 2, field label: got '\"", "from 0 to 9"],
    ),
    "open quote within": (
        "\n".join([*good_lines()[:2], with_field(good_lines()[2], 784, '"7'), *good_lines()[3:]]),
        ["line 3, field pixel784: got '\"7'"],
    ),
}


@pytest.mark.parametrize("case", BROKEN_CSV)
def test_broken_csv_is_refused(tmp_path, case):
    text, expected = BROKEN_CSV[case]
    (tmp_path / "x.csv").write_text(text)
    refused(load_csv, tmp_path / "x.csv", *expected)


@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9,
        HEADER.encode() + b"\n\xff\xfe,1\n",
        HEADER.encode("utf-16"),
        b"\0",
    ],
)
def test_bytes_that_are_no_text_are_refused(tmp_path, content):
    (tmp_path / "x.csv").write_bytes(content)
    refused(load_csv, tmp_path / "x.csv", "line ")


def test_csv_that_is_no_file_is_refused(tmp_path):
    refused(load_csv, tmp_path)
    refused(load_csv, tmp_path / "none.csv")


def test_arrays_that_are_no_images_are_not_written(tmp_path):
    images, labels = images_and_labels()
    for bad_images, bad_labels in [
        (images.astype(np.float32), labels),
        (images[:0], labels[:0]),
        (images, labels[:4]),
        (images, labels.astype(float)),
        (images, labels - 10),
    ]:
        with pytest.raises(DataError):
            save_csv(tmp_path / "x.csv", bad_images, bad_labels)
    assert not list(tmp_path.iterdir())


def test_interrupted_writing_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "x.csv").write_text("old")
    monkeypatch.setattr("minicnn.data.csv_files._csv_text", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save_csv(tmp_path / "x.csv", *images_and_labels())
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x.csv", "old")]


# --- IDX ---


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_comes_back_as_it_was_written(tmp_path, ending):
    images, labels = images_and_labels()
    save_idx(tmp_path / f"i{ending}", images[..., 0])
    save_idx(tmp_path / f"l{ending}", labels.astype(np.uint8))
    again, again_labels = load_idx(tmp_path / f"i{ending}", tmp_path / f"l{ending}")
    np.testing.assert_array_equal(again, images)
    np.testing.assert_array_equal(again_labels, labels)
    assert again.dtype == np.uint8 and again_labels.dtype == np.int64 and again.flags.writeable


def test_idx_is_the_documented_bytes(tmp_path):
    save_idx(tmp_path / "i", np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert (tmp_path / "i").read_bytes() == bytes.fromhex("00000803 00000001 00000002 00000003 010203040506")


def test_gzip_is_known_by_its_content_and_not_its_name(tmp_path):
    images, _ = images_and_labels()
    save_idx(tmp_path / "plain", images[..., 0])
    (tmp_path / "plain.gz").write_bytes((tmp_path / "plain").read_bytes())
    (tmp_path / "zipped").write_bytes(gzip.compress((tmp_path / "plain").read_bytes()))
    np.testing.assert_array_equal(load_idx_images(tmp_path / "plain.gz"), images)
    np.testing.assert_array_equal(load_idx_images(tmp_path / "zipped"), images)


def header(magic, *shape):
    return struct.pack(f">{1 + len(shape)}I", magic, *shape)


BROKEN_IMAGES = {
    "empty": (b"", ["0 bytes", "16"]),
    "short header": (header(0x803, 1, 28), ["12 bytes", "16"]),
    "labels' magic": (header(0x801, 12) + bytes(12), ["0x00000801", "0x00000803"]),
    "floats' magic": (header(0xD03, 1, 2, 2) + bytes(16), ["0x00000d03", "0x00000803"]),
    "text": (b"label,pixel1,pixel2\n1,2,3\n", ["magic"]),
    "short": (header(0x803, 2, 28, 28) + bytes(1567), ["2 x 28 x 28 = 1568", "1567"]),
    "trailing byte": (header(0x803, 2, 28, 28) + bytes(1569), ["1568", "1569 follow"]),
    "no images": (header(0x803, 0, 28, 28), ["0 x 28 x 28"]),
    "no pixels": (header(0x803, 3, 28, 0), ["3 x 28 x 0"]),
    "absurd": (header(0x803, *[2**32 - 1] * 3) + bytes(100), ["4294967295 x 4294967295 x 4294967295"]),
    "large": (header(0x803, 60000, 28, 28) + bytes(100), ["60000 x 28 x 28"]),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("case", BROKEN_IMAGES)
def test_broken_idx_images_are_refused(tmp_path, case, zipped):
    content, expected = BROKEN_IMAGES[case]
    (tmp_path / "i").write_bytes(gzip.compress(content) if zipped else content)
    refused(load_idx_images, tmp_path / "i", *(expected if not zipped else expected[:1]))


def test_idx_label_out_of_range_is_named(tmp_path):
    save_idx(tmp_path / "l", np.array([1, 9, 10, 3], np.uint8))
    refused(load_idx_labels, tmp_path / "l", "label 2 (from 0) is 10", "0 to 9")


def test_idx_counts_that_differ_are_refused(tmp_path):
    images, labels = images_and_labels()
    save_idx(tmp_path / "i", images[..., 0])
    save_idx(tmp_path / "l", labels[:4].astype(np.uint8))
    with pytest.raises(DataError, match=r"5 images.* 4 labels"):
        load_idx(tmp_path / "i", tmp_path / "l")


def test_idx_that_is_no_file_is_refused(tmp_path):
    refused(load_idx_images, tmp_path)
    refused(load_idx_labels, tmp_path / "none")


def test_damaged_gzip_is_refused(tmp_path):
    good = gzip.compress(header(0x801, 1000) + bytes(range(10)) * 100)
    wrong_sum = good[:-8] + bytes([good[-8] ^ 1]) + good[-7:]
    for content in (
        good[:3],
        good[:20],
        good[:-9],
        good[:-1],
        b"\x1f\x8bnonsense",
        wrong_sum,
        good + b"more",
    ):
        (tmp_path / "l.gz").write_bytes(content)
        refused(load_idx_labels, tmp_path / "l.gz")


def test_gzip_that_claims_too_much_is_refused_unread(tmp_path):
    (tmp_path / "i").write_bytes(gzip.compress(header(0x803, 2**16, 2**16, 2**16)))
    refused(load_idx_images, tmp_path / "i", "65536 x 65536 x 65536", "expected at most")


def test_gzip_is_written_without_a_date(tmp_path):
    save_idx(tmp_path / "l.gz", np.arange(9, dtype=np.uint8))
    assert (tmp_path / "l.gz").read_bytes()[4:8] == bytes(4)


def test_gzip_bomb_is_not_unfolded(tmp_path):
    (tmp_path / "l.gz").write_bytes(gzip.compress(header(0x801, 10) + bytes(64 << 20)))
    tracemalloc.start()
    refused(load_idx_labels, tmp_path / "l.gz", "more")
    (tmp_path / "l.gz").write_bytes(gzip.compress(header(0x801, 1 << 29) + bytes(1000)))
    refused(load_idx_labels, tmp_path / "l.gz", "1000 follow")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


@given(place=st.integers(0, 60), value=st.integers(0, 255), length=st.integers(0, 80), zipped=st.booleans())
@settings(max_examples=150, deadline=None)
def test_idx_with_any_byte_changed_gives_an_array_or_a_data_error(tmp_path_factory, place, value, length, zipped):
    content = bytearray(header(0x803, 2, 4, 5) + bytes(range(40)))
    content = bytearray(gzip.compress(bytes(content))) if zipped else content
    content[min(place, len(content) - 1)] = value
    path = tmp_path_factory.mktemp("idx") / "i"
    path.write_bytes(content[: max(length, 1)])
    try:
        images = load_idx_images(path)
    except DataError:
        return
    assert images.size == 40


def test_python_without_asserts_refuses_too(tmp_path):
    (tmp_path / "x.csv").write_text(HEADER + "\n1,2\n")
    (tmp_path / "i").write_bytes(header(0x803, 2, 28, 28))
    program = (
        "import sys\nfrom minicnn.data import load_csv, load_idx_images\n"
        "from minicnn.errors import DataError\n"
        "for load, path in ((load_csv, 'x.csv'), (load_idx_images, 'i')):\n"
        "    try:\n        load(path)\n    except DataError:\n        continue\n    sys.exit('accepted')\n"
    )
    done = subprocess.run(
        [sys.executable, "-O", "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def environment():
    """This process' environment, with minicnn importable from any folder."""
    root = str(SAMPLE.parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}


# --- the split ---


@given(
    sizes=st.lists(st.integers(0, 30), min_size=2, max_size=6).filter(lambda sizes: sum(sizes) > 1),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_split_parts_the_images_and_keeps_the_shares(sizes, share, seed):
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(sizes)), sizes))
    images, n = np.arange(len(labels)), len(labels)
    if not 0 < round(share * n) < n:
        return
    (train, train_labels), (held, held_labels) = split(images, labels, share, seed)
    assert len(held) == round(share * n)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held])), images)
    np.testing.assert_array_equal(labels[train], train_labels)
    np.testing.assert_array_equal(labels[held], held_labels)
    for label, size in enumerate(sizes):
        assert abs((held_labels == label).sum() - size * len(held) / n) < 1


def test_split_depends_on_the_seed_alone():
    images, labels = images_and_labels(200)
    first, second, other = (
        split(images, labels, 0.1, 3),
        split(images, labels, 20, 3),
        split(images, labels, 0.1, 4),
    )
    np.testing.assert_array_equal(first[1][0], second[1][0])
    assert not np.array_equal(first[1][0], other[1][0])


@pytest.mark.parametrize("validation", [0, 5, 6, -1, 0.0, 1.0, 0.01, 0.99, float("nan")])
def test_split_with_an_empty_part_is_refused(validation):
    with pytest.raises(DataError, match="expected 1 to 4"):
        split(*images_and_labels(5), validation)


@pytest.mark.parametrize(("n", "share"), [(8, 0.2), (2, 0.5), (3, 0.33)])
def test_a_split_with_an_empty_part_tells_a_share_that_is_taken(n, share):
    with pytest.raises(DataError, match=f"such as {share} [(]on the command line --validation {share}[)]"):
        split(*images_and_labels(n), 0.05)
    assert len(split(*images_and_labels(n), share)[1][0]) >= 1


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_images_for_a_split_are_told(n):
    with pytest.raises(DataError, match=f"validation=0.2: too few images [(]{n}[)] to set some aside"):
        split(*images_and_labels(n), 0.2)


def test_split_of_unequal_lengths_is_refused():
    images, labels = images_and_labels(5)
    with pytest.raises(DataError, match="one for each image"):
        split(images, labels[:4], 0.5)


# --- the bundled sample ---


def test_sample_is_stratified_and_holds_no_image_twice():
    sample = load_fashion_mnist("sample", verbose=False)
    assert sample.train_images.shape == (2000, 28, 28, 1) and sample.test_images.shape == (1000, 28, 28, 1)
    assert np.bincount(sample.train_labels).tolist() == [200] * 10
    assert np.bincount(sample.test_labels).tolist() == [100] * 10
    images = [image.tobytes() for image in (*sample.train_images, *sample.test_images)]
    assert len(set(images)) == 3000
    assert sample.is_sample and "sample" in sample.name and len(sample.class_names) == 10


def test_sample_is_small_and_licensed():
    assert sum(path.stat().st_size for path in SAMPLE.iterdir()) < 1_500_000
    assert "Zalando SE" in (SAMPLE / "LICENSE").read_text()


def test_sample_is_drawn_without_the_images_that_repeat(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "TRAIN_PER_CLASS", 3)
    monkeypatch.setattr(sampling, "TEST_PER_CLASS", 2)
    images, _ = images_and_labels(100)
    labels = np.arange(100) % 10
    images[50:] = images[:50]
    test_images, _ = images_and_labels(50, seed=1)
    test_images[:20] = images[:20]
    parts = images, labels, test_images, labels[:50]
    sampling.make_sample(Dataset("Fashion-MNIST", "here", *parts, False, CLASS_NAMES), tmp_path)
    sample = load_fashion_mnist(tmp_path, verbose=False)
    drawn = {image.tobytes() for image in (*sample.train_images, *sample.test_images)}
    assert len(drawn) == 50 and np.bincount(sample.train_labels).tolist() == [3] * 10
    assert not {image.tobytes() for image in sample.test_images} & {image.tobytes() for image in images}


@pytest.mark.slow
def test_the_full_data_set_is_known_from_idx_and_from_csv_files(tmp_path, monkeypatch):
    monkeypatch.setenv("MINICNN_OFFLINE", "1")
    monkeypatch.delenv("MINICNN_DATA", raising=False)
    full = load_fashion_mnist(verbose=False)
    if full.source == "bundled sample":
        pytest.skip("the full data set is not on this machine")
    cli.export_csv(full, tmp_path)
    for dataset in (full, load_fashion_mnist(tmp_path, verbose=False)):
        assert (dataset.name, dataset.is_sample, dataset.class_names) == ("Fashion-MNIST", False, CLASS_NAMES)


# --- python -m minicnn.data ---


def test_exported_csv_is_the_data_set_again(tmp_path):
    folder = tmp_path / "a new" / "folder"
    assert cli.main(["export-csv", str(folder), "--source", "sample"]) == 0
    sample, again = load_fashion_mnist("sample", verbose=False), load_fashion_mnist(folder, verbose=False)
    for field in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(again, field), getattr(sample, field))
    assert "fashion-mnist_train.csv" in again.source or "CSV" in again.source
    assert again.is_sample and again.name == "Fashion-MNIST sample" and again.class_names == CLASS_NAMES


def test_command_line_fails_with_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for part in ("train", "test"):
        save_csv(tmp_path / f"fashion-mnist_{part}.csv", *images_and_labels())
    for arguments in (
        ["export-csv", "out", "--source", str(tmp_path / "none")],
        ["export-csv", "file", "--source", "sample"],
        ["make-sample", "out", "--source", "sample"],
        ["make-sample", "out", "--source", "."],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "minicnn.data", *arguments],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
        )
        errors = [line for line in done.stderr.splitlines() if not line.startswith(("data: ", "##"))]
        assert done.returncode == 1 and len(errors) == 1 and errors[0].startswith("error: "), done.stderr


def test_command_line_without_a_command_shows_its_usage(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([])
    assert caught.value.code == 2 and "usage: minicnn data" in capsys.readouterr().err


def test_repeated_finds_the_images_that_are_among_others_pixel_by_pixel():
    rng = np.random.default_rng(0)
    among = rng.integers(0, 256, (6, 4, 4, 1), dtype=np.uint8)
    images = np.concatenate([among[2:4], among[:1] ^ 1, among[5:]])
    assert duplicates(images, among).tolist() == [True, True, False, True]
    assert duplicates(images[::-1], among[::-1]).tolist() == [True, False, True, True]
