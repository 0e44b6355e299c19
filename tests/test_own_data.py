"""One's own images: files, folders of them, CSV files of any form, and what does not fit into memory."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import minicnn
from minicnn.data import load_csv, load_dataset, load_idx, load_image_folder, read_image, save_idx, split, storage
from minicnn.errors import DataError, ShapeError
from minicnn.explain.page import describe
from minicnn.recipes import RECIPES, small_network, small_vgg


def picture(h=20, w=30, seed=0):
    """A smooth coloured picture, uint8 (h, w, 3), whose corners differ."""
    y, x = np.mgrid[0:h, 0:w]
    return np.stack([x * 255 // (w - 1), y * 255 // (h - 1), np.full_like(x, 40 * seed % 256)], axis=2).astype(np.uint8)


def saved(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


# --- one image file ---


def test_an_image_of_the_asked_size_is_read_as_it_is(tmp_path):
    path = saved(tmp_path / "a b.png", picture())
    np.testing.assert_array_equal(read_image(path, (20, 30)), picture())
    np.testing.assert_array_equal(read_image(str(path), (20, 30), invert=True), 255 - picture())
    assert read_image(path, 8, channels=1).shape == (8, 8, 1)


def test_what_juts_out_is_cut_off_and_nothing_is_distorted(tmp_path):
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 15:25] = 200
    np.testing.assert_array_equal(read_image(saved(tmp_path / "wide.png", wide), 10), wide[:, 15:25])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path, orientation):
    """Of the eight ways in which a camera may have been held."""
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: np.rot90(a, -1),
    }[orientation](picture())
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "x.png", np.ascontiguousarray(stored), exif=exif)
    np.testing.assert_array_equal(read_image(path, (20, 30)), picture())


def test_grey_alpha_palette_and_sixteen_bits_become_colour(tmp_path):
    grey = picture()[..., 0]
    np.testing.assert_array_equal(read_image(saved(tmp_path / "l.png", grey), (20, 30)), np.stack([grey] * 3, axis=2))
    np.testing.assert_array_equal(read_image(tmp_path / "l.png", (20, 30), 1)[..., 0], grey)
    deep = saved(tmp_path / "16.png", grey.astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_image(deep, (20, 30), 1)[..., 0], grey)
    alpha = np.zeros((4, 4, 4), np.uint8)
    alpha[:2, :, 3] = 255  # black above, nothing below
    seen = read_image(saved(tmp_path / "rgba.png", alpha), 4)
    assert (seen[:2] == 0).all() and (seen[2:] == 255).all()
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.save(tmp_path / "p.gif")
    assert read_image(tmp_path / "p.gif", 4)[2, 2].tolist() == [0, 0, 255]
    image.save(tmp_path / "t.png", transparency=1)
    assert read_image(tmp_path / "t.png", 4)[2, 2].tolist() == [255, 255, 255]
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "c.jpg")
    assert read_image(tmp_path / "c.jpg", 4)[2, 2, 0] > 200


def refused(path, *expected):
    with pytest.raises(DataError) as caught:
        read_image(path, 8)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert all(text in str(caught.value) for text in expected)


def test_files_that_are_no_images_are_refused_in_one_line(tmp_path, monkeypatch):
    refused(tmp_path / "none.png", "No such file")
    refused(tmp_path, "Is a directory")
    (tmp_path / "a.png").write_text("no picture")
    refused(tmp_path / "a.png", "cannot identify image file")
    (tmp_path / "b.eps").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    )  # runs a program
    refused(tmp_path / "b.eps", "cannot identify image file")
    content = saved(tmp_path / "c.jpg", picture(200, 200)).read_bytes()
    (tmp_path / "c.jpg").write_bytes(content[: len(content) // 2])
    refused(tmp_path / "c.jpg", "truncated")


def test_any_damage_to_a_file_is_an_image_or_a_data_error(tmp_path):
    for end in ("png", "jpg", "gif", "tif", "webp"):
        path = saved(tmp_path / f"x.{end}", picture())
        content, rng = path.read_bytes(), np.random.default_rng(0)
        for _ in range(60):
            damaged = bytearray(content)
            for place in rng.integers(0, len(content), 3):
                damaged[place] = rng.integers(256)
            path.write_bytes(damaged)
            try:
                assert read_image(path, 8).shape == (8, 8, 3)
            except DataError as error:
                assert "\n" not in str(error)


def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path):
    Image.new("1", (12_000, 10_000)).save(tmp_path / "bomb.png")
    tracemalloc.start()
    try:
        refused(tmp_path / "bomb.png", "pixels")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_without_pillow_the_extra_is_named(tmp_path):
    code = "import sys, minicnn; sys.modules['PIL'] = None\nminicnn.data.read_image('x.png', 8)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'pip install "minicnn-numba[images]"' in done.stderr.splitlines()[-1]


def test_no_module_imports_pillow_before_it_is_needed():
    for path in Path(minicnn.__file__).parent.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            assert "PIL" not in ast.unparse(node) or isinstance(node, ast.FunctionDef), f"{path} imports Pillow"


# --- a folder of images for each class ---


def photos(folder, counts, size=(9, 12)):
    for label, (name, count) in enumerate(counts.items()):
        for i in range(count):
            saved(folder / name / f"{i}.png", np.full((*size, 3), 50 * label + i, np.uint8))
    return folder


def test_a_folder_is_split_by_class(tmp_path):
    folder = photos(tmp_path / "my photos", {"dog": 10, "cat": 50})
    dataset = load_image_folder(folder, 8)
    assert (dataset.name, dataset.class_names, dataset.is_sample) == ("my photos", ("cat", "dog"), False)
    assert dataset.train_images.shape[1:] == (8, 8, 3) and dataset.test_images.dtype == np.uint8
    assert len(dataset.train_images) + len(dataset.test_images) == 60 and dataset.test_labels.dtype == np.int64
    assert 3 <= (dataset.test_labels == 0).sum() <= 20 and 1 <= (dataset.test_labels == 1).sum() <= 9
    for images, labels in ((dataset.train_images, dataset.train_labels), (dataset.test_images, dataset.test_labels)):
        np.testing.assert_array_equal(images[:, 0, 0, 0] < 50, labels == 1)  # dog's were drawn first
    drawn = {*dataset.train_images[:, 0, 0, 0], *dataset.test_images[:, 0, 0, 0]}
    assert len(drawn) == 60
    with pytest.raises(ValueError, match="test: got 1, expected a finite number, above 0 and below 1"):
        load_image_folder(folder, 8, test=1)


def test_a_file_stays_on_its_side_when_others_come_go_or_are_renamed(tmp_path):
    folder = photos(tmp_path, {"dog": 40, "cat": 40})
    before = {*load_image_folder(folder, 8).test_images[:, 0, 0, 0]}
    photos(tmp_path, {"ape": 5})
    shutil.rmtree(folder / "ape")
    saved(folder / "cat" / "00.png", picture())
    (folder / "dog" / "7.png").unlink()
    (folder / "dog" / "9.png").rename(folder / "cat" / "first.png")
    data = load_image_folder(folder, 8)
    new = picture()[0, 0, 0], 7  # what came, and what went
    assert {*data.test_images[:, 0, 0, 0]} - {*new} == before - {*new}


def test_a_small_class_has_a_test_image_where_it_has_two(tmp_path):
    data = load_image_folder(photos(tmp_path, {"a": 2, "b": 3, "c": 1}), 8)
    trained, tested = np.bincount(data.train_labels, minlength=3), np.bincount(data.test_labels, minlength=3)
    assert trained.min() == 1 and tested[:2].min() == 1 and tested[2] == 0


def test_train_and_test_folders_are_taken_as_they_are(tmp_path):
    photos(tmp_path / "train", {"a": 3, "b": 2})
    photos(tmp_path / "test", {"a": 1})
    dataset = load_dataset(tmp_path, size=(6, 8), channels=1)
    assert dataset.train_images.shape == (5, 6, 8, 1) and len(dataset.test_images) == 1
    assert dataset.class_names == ("a", "b")
    photos(tmp_path / "test", {"c": 1})
    with pytest.raises(DataError, match="got c, expected the classes of"):
        load_image_folder(tmp_path, 8)


def test_files_that_cannot_be_read_are_named_and_left_out(tmp_path, capsys):
    folder = photos(tmp_path, {"a": 10, "b": 10})
    (folder / "a" / "notes.txt").write_text("no image")
    (folder / "b" / ".DS_Store").write_text("hidden")
    dataset = load_image_folder(folder, 8, verbose=False)
    assert len(dataset.train_images) + len(dataset.test_images) == 20
    assert (
        capsys.readouterr().err
        == f"data: {folder}/a/notes.txt: cannot be read as an image: cannot identify image file; left out\n"
    )
    for i in range(40):
        (folder / "b" / f"{i}.png").write_text(f"broken {i}")
    with pytest.raises(DataError, match="no training image in b"):
        load_image_folder(folder, 8, verbose=False)
    said = capsys.readouterr().err.splitlines()
    assert len(said) < 30 and re.fullmatch(
        r"data: of \d+ training files \d\d cannot be read and are left out", said[10]
    )


def test_folders_of_another_kind_are_refused(tmp_path):
    with pytest.raises(DataError, match="none: cannot be read: No such file"):
        load_image_folder(tmp_path / "none", 8)
    saved(tmp_path / "x.png", picture())
    with pytest.raises(DataError, match="expected one with image files for each class"):
        load_image_folder(tmp_path, 8)
    with pytest.raises(DataError, match=r"give a size, such as size=32 \(--size 32\)"):
        load_dataset(photos(tmp_path, {"a": 2, "b": 2}))


def test_folders_that_are_empty_or_hold_too_few_images_are_refused_by_name(tmp_path):
    (tmp_path / "flat" / "empty").mkdir(parents=True)
    saved(tmp_path / "flat" / "x.png", picture())
    with pytest.raises(
        DataError, match=f"^no image files in {tmp_path}/flat, expected some in a folder for each class$"
    ):
        load_image_folder(tmp_path / "flat", 8)
    few = photos(tmp_path / "few", {"a": 1, "b": 1})
    with pytest.raises(DataError, match=f"^{few}: too few images \\(2\\) to set some aside for a test$"):
        load_image_folder(few, 8)
    (photos(tmp_path / "parts" / "train", {"a": 1}).parent / "test").mkdir()
    with pytest.raises(DataError, match=f"^no image files in {tmp_path}/parts/test, "):
        load_image_folder(tmp_path / "parts", 8)


# --- CSV and IDX of one's own ---


def test_csv_with_the_label_last_and_in_words(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("p0,p1,p2,p3,animal\n1,2,3,4,dog\n5,6,7,8,big cat\n")
    images, labels = load_csv(path, label="animal", shape=(2, 2, 1), classes=["big cat", "dog"])
    assert images.tolist() == [[[[1], [2]], [[3], [4]]], [[[5], [6]], [[7], [8]]]] and labels.tolist() == [1, 0]
    again, _ = load_csv(path, label=-1, shape=(2, 2, 1), classes=["big cat", "dog"])
    np.testing.assert_array_equal(again, images)
    path.write_text('dog,1,2,3,4\n"big cat",5,6,7,8\n')
    again, labels = load_csv(path, shape=(2, 2, 1), classes=["big cat", "dog"])
    np.testing.assert_array_equal(again, images)
    assert labels.tolist() == [1, 0]


def test_csv_with_a_header_of_numbers_or_of_rows_and_columns(tmp_path):
    path = tmp_path / "x.csv"
    for header, label in (("0,1,label,2,3", "label"), ("1x1,1x2,digit,2x1,2x2", "digit"), ("a,b,what,d,e", 2)):
        path.write_text(f"{header}\n1,2,9,3,4\n")
        images, labels = load_csv(path, label=label, shape=(2, 2, 1))
        assert images.ravel().tolist() == [1, 2, 3, 4] and labels.tolist() == [9]


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("dog,1\n", {}, "line 1, field label: got 'dog', expected a whole number from 0 to 9; for labels in words"),
        ("dog,1\ncow,2\n", {"classes": ["cat", "dog"]}, "line 2, field label: got 'cow', expected one of cat, dog"),
        ("kind,x\n1,2\n", {}, "line 1: no column 'label' among 'kind', 'x'"),
        ("1,2\n", {"label": 2}, "label: got 2, expected a column's name or an index from -2 to 1"),
        ("1,2\n", {"classes": ["a", "a"]}, "classes: got .*expected 1 to 256, each once"),
        ("1,2\n", {"classes": 1000}, "classes: got .*expected 1 to 256"),
        ("label,x\n", {"classes": ["a"]}, "no rows"),
    ],
)
def test_csv_of_another_form_is_refused(tmp_path, text, options, expected):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError, match=expected):
        load_csv(tmp_path / "x.csv", shape=(1, 1, 1), **options)


def test_idx_with_more_classes(tmp_path):
    save_idx(tmp_path / "i", np.zeros((2, 3, 3), np.uint8))
    save_idx(tmp_path / "l", np.array([3, 46], np.uint8))
    assert load_idx(tmp_path / "i", tmp_path / "l", classes=47)[1].tolist() == [3, 46]
    with pytest.raises(DataError, match="is 46, expected 0 to 45"):
        load_idx(tmp_path / "i", tmp_path / "l", classes=46)


# --- what does not fit into memory ---


def mapped(array):
    while array is not None and not isinstance(array, np.memmap):
        array = array.base
    return array is not None


def test_large_images_are_mapped_and_split_without_being_copied(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "MAPPED", 5000)
    pixels = np.random.default_rng(0).integers(0, 256, (4000, 5, 5), dtype=np.uint8)
    labels = np.arange(4000) % 10
    save_idx(tmp_path / "i", pixels)
    save_idx(tmp_path / "l", labels.astype(np.uint8))
    images, read = load_idx(tmp_path / "i", tmp_path / "l")
    assert mapped(images) and not images.flags.writeable
    np.testing.assert_array_equal(images[..., 0], pixels)
    (train, _), (held, _) = split(images, read, 0.25)
    assert mapped(train) and mapped(held) and len(held) == 1000
    whole = split(pixels[..., None], labels, 0.25)
    np.testing.assert_array_equal(held, whole[1][0])
    np.testing.assert_array_equal(train, whole[0][0])
    rows = "\n".join(",".join(map(str, (label, *image.ravel()))) for image, label in zip(pixels, labels, strict=True))
    (tmp_path / "x.csv").write_text(rows)
    monkeypatch.setattr("minicnn.data.csv_files.CHUNK", 10_000)
    images, read = load_csv(tmp_path / "x.csv", shape=(5, 5, 1))
    assert mapped(images)
    np.testing.assert_array_equal(images[..., 0], pixels)
    np.testing.assert_array_equal(read, labels)
    folder = load_image_folder(photos(tmp_path / "p", {"a": 40, "b": 40}), 8)
    assert mapped(folder.train_images) and not mapped(folder.test_images)
    assert sorted(np.unique(folder.train_images)) == sorted({*folder.train_images[:, 0, 0, 0]})


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_model_learns_from_and_answers_mapped_images_without_copying_them(tmp_path, backend, dtype):
    shape = (60_000, 12, 12, 1)
    images = np.memmap(tmp_path / "x", dtype, "w+", shape=shape)
    images[::7] = 1
    labels = np.arange(60_000) % 2
    minicnn.use_backend(backend)
    try:
        model = minicnn.Sequential([minicnn.MaxPool2D(4), minicnn.Flatten(), minicnn.Dense(2)], shape[1:])
        model.fit(images[:600], labels[:600], batch_size=100, verbose=False)  # what is compiled takes memory too
        model.predict(images[:600])
        tracemalloc.start()
        try:
            history = model.fit(images, labels, batch_size=1000, validation_data=(images, labels), verbose=False)
            answers = model.predict(images)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    finally:
        minicnn.use_backend("numba")
    assert answers.shape == (60_000, 2) and np.isfinite(history["val_loss"]).all()
    assert peak < images.nbytes / 2 if dtype == np.float32 else peak < images.nbytes


# --- a model asked about a file ---


@pytest.fixture
def model():
    """Trained on grey images that are dark on the whole, with the class of the brighter half."""
    rng = np.random.default_rng(0)
    images = np.zeros((200, 12, 12, 1), np.uint8)
    labels = rng.integers(0, 2, 200)
    images[labels == 0, 2:5, 3:9] = 220
    images[labels == 1, 7:10, 3:9] = 220
    minicnn.use_backend("numpy")
    model = minicnn.Sequential([minicnn.Flatten(), minicnn.Dense(2)], (12, 12, 1))
    model.fit(images, labels, epochs=30, optimizer=minicnn.optimizers.Adam(0.01), verbose=False)
    model.class_names = ["above", "below"]
    yield model
    minicnn.use_backend("numba")


def test_predict_takes_a_path_or_several(tmp_path, model):
    above = np.zeros((12, 12), np.uint8)
    above[2:5, 3:9] = 220
    paths = [saved(tmp_path / "a b.png", above), str(saved(tmp_path / "c.png", above[::-1].copy()))]
    assert model.class_names[model.predict_classes(paths[0])] == "above"
    assert model.predict_classes(paths).tolist() == [0, 1]
    both = model.predict(paths)
    assert both.shape == (2, 2)
    np.testing.assert_allclose(model.predict(paths[1]), both[1], rtol=1e-4)
    np.testing.assert_allclose(model.predict(above), both[0], rtol=1e-4)
    with pytest.raises(DataError, match=r"none\.png: cannot be read as an image: No such file"):
        model.predict("none.png")
    with pytest.raises(ValueError, match="invert: got True and an array, expected paths"):
        model.predict(above, invert=True)


def test_a_white_background_is_told_of_and_invert_helps(tmp_path, model):
    paper = np.full((48, 48, 3), 255, np.uint8)
    paper[28:40, 12:36] = 30
    path = saved(tmp_path / "photo.jpg", paper)
    with pytest.warns(UserWarning, match=r"bright edge, and the model was trained on dark images.*invert=True") as told:
        model.predict(path)
    assert told[0].filename == __file__
    saved(tmp_path / "black.png", np.zeros((12, 12), np.uint8))
    with pytest.warns(UserWarning, match="bright edge, .*; leave invert=True out"):
        model.predict(tmp_path / "black.png", invert=True)
    assert model.class_names[model.predict_classes(path, invert=True)] == "below"


def test_a_model_without_rows_and_columns_takes_no_path():
    with pytest.raises(ShapeError, match=r"got a path, and the model takes \(3,\)"):
        minicnn.Sequential([minicnn.Dense(2)], (3,)).predict("x.png")


def test_a_page_takes_the_names_of_the_model(model):
    page = describe(model, np.zeros((12, 12, 1), np.uint8))
    assert page["classes"] == ["above", "below"]


# --- a network for any images ---


@pytest.mark.parametrize("size", [(8, 8, 1), (11, 30, 3), (28, 28, 1), (32, 32, 3), (65, 64, 1), (256, 256, 3)])
def test_the_small_network_fits_any_size_and_number_of_classes(size):
    minicnn.use_backend("numpy")
    try:
        model = minicnn.Sequential(small_network(size, 7), size)
        assert model.predict(np.zeros((1, *size), np.uint8)).shape == (1, 7)
    finally:
        minicnn.use_backend("numba")
    last = next(layer.output_shape for layer in reversed(model.layers) if isinstance(layer, minicnn.Conv2D))
    assert 4 <= min(last[:2]) <= 11 and last[2] == 128 and model.parameter_count < 450_000


def test_the_small_network_of_the_usual_size_is_the_default_recipes():
    described = [
        [(type(layer), layer.config()) for layer in net] for net in (small_network((28, 28, 1), 10), small_vgg())
    ]
    assert described[0] == described[1]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_take_any_number_of_classes(name):
    assert [RECIPES[name].model(classes=k).output_shape for k in (2, 10, 47)] == [(2,), (10,), (47,)]


@pytest.mark.parametrize("size", [(7, 28, 1), (28, 257, 1), (28, 28, 2), (28, 28)])
def test_other_sizes_are_refused(size):
    with pytest.raises(ShapeError, match="8 to 256 rows and columns, 1 or 3 channels"):
        small_network(size, 10)


def test_the_small_network_learns_a_folder_of_small_photos(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(60):
        for name, channel in (("red", 0), ("blue", 2)):
            noise = rng.integers(0, 90, (14, 20, 3), dtype=np.uint8)
            noise[..., channel] += 120
            saved(tmp_path / name / f"{i}.png", noise)
    data = load_dataset(tmp_path, size=8, verbose=False)
    minicnn.use_backend("numpy")
    try:
        model = minicnn.Sequential(small_network(data.train_images.shape[1:], len(data.class_names)), (8, 8, 3))
        model.class_names = data.class_names
        model.fit(data.train_images, data.train_labels, epochs=2, batch_size=16, verbose=False)
        assert model.evaluate(data.test_images, data.test_labels).accuracy == 1
        assert model.class_names[model.predict_classes(tmp_path / "red" / "0.png")] == "red"
    finally:
        minicnn.use_backend("numba")
