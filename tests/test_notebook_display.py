"""What a notebook shows of the things that one has there: one line in text, a table in HTML; and its progress bars."""

from __future__ import annotations

import io
import sys
import types
from xml.etree import ElementTree

import numpy as np
import pytest
from tqdm import tqdm

import minicnn
from minicnn import BatchNorm, Conv2D, Dense, Flatten, MaxPool2D, ReLU, Residual, Sequential, optimizers, plots, say
from minicnn.run import History


@pytest.fixture(autouse=True)
def numpy_backend():
    minicnn.use_backend("numpy")
    yield
    minicnn.use_backend("numba")


def net(**options):
    block = Residual(Conv2D(3, 3), BatchNorm(activation="relu"), projection=Conv2D(3, 1), activation="relu")
    return Sequential([Conv2D(2, 3), ReLU(), block, MaxPool2D(), Flatten(), Dense(4)], (6, 6, 1), **options)


def cells(thing):
    """The table's rows, as its HTML says it; an error where that is not well formed."""
    return [["".join(cell.itertext()) for cell in row] for row in ElementTree.fromstring(thing._repr_html_())]


def test_a_models_repr_makes_it_again_and_its_html_is_the_summary():
    model = net(seed=3)
    twin = eval(repr(model), vars(minicnn))
    np.testing.assert_array_equal(model.parameters.values, twin.parameters.values)
    head, first, *_, total = cells(model)
    assert head == ["layer", "output", "parameters", "MACs", "memory"]
    assert first[:4] == ["conv2d_1", "(6, 6, 2)", "20", "648"] and total[0] == "total"
    assert "conv2d_1" in str(model)


def test_a_history_is_told_by_its_last_epoch_and_shown_by_all():
    history = History(loss=[2.0, 0.123456], accuracy=[0.5, 0.75])
    assert repr(history) == "History of 2 epochs, the last: loss 0.1235, accuracy 0.75"
    assert cells(history) == [["epoch", "loss", "accuracy"], ["1", "2", "0.5"], ["2", "0.1235", "0.75"]]
    assert repr(History()) == "History of 0 epochs" and cells(History()) == [["epoch"]]
    assert cells(History({"<b>": ["a & b"]})) == [["epoch", "<b>"], ["1", "a & b"]]


def test_a_history_plots_itself(tmp_path):
    figure = History(loss=[2.0, 1.0], accuracy=[0.5, 0.75]).plot(tmp_path / "curves.svg")
    assert [axes.lines[0].get_ydata().tolist() for axes in figure.axes] == [[2.0, 1.0], [0.5, 0.75]]
    assert (tmp_path / "curves.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize("name", optimizers.BY_NAME)
def test_an_optimizers_repr_makes_it_again(name):
    optimizer = optimizers.get(name)
    optimizer.learning_rate = 0.25
    twin = eval(repr(optimizer), vars(optimizers))
    assert vars(twin) == vars(optimizer)
    assert ["learning_rate", "0.25"] in cells(optimizer)


def test_a_gradient_checks_report_is_its_table():
    report = minicnn.gradcheck(Dense(2), np.random.default_rng(0).standard_normal((2, 3)))
    assert repr(report) == str(report)
    assert ElementTree.fromstring(report._repr_html_()).text == str(report)


def test_a_diagnosis_is_its_table_and_its_verdicts_are_plain():
    images = np.random.default_rng(0).integers(0, 256, (96, 6, 6, 1)).astype(np.uint8)
    report = net().diagnose(images, np.arange(96) % 4)
    assert repr(report) == str(report)
    head, *rows = cells(report)
    assert head == ["check", "", "found", "advice"]
    for row, verdict in zip(rows, report.verdicts, strict=True):
        assert type(verdict.ok) is bool
        assert row == [
            verdict.name,
            *(("ok", verdict.found, "") if verdict.ok else ("LOOK", verdict.found, verdict.advice)),
        ]
    assert {row[1] for row in rows} == {"ok", "LOOK"}  # of noise nothing can be learnt


@pytest.mark.parametrize("notebook", [False, True])
def test_a_profile_is_printed_or_in_a_notebook_shown_and_not_both(notebook, monkeypatch):
    stream = Stream() if notebook else io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    report = net().profile(np.ones((5, 6, 6, 1), np.float32), np.zeros(5, int), steps=1)
    assert stream.getvalue() == ("" if notebook else f"{report}\n")
    assert repr(report).startswith("Profile of a step of 5 images: ") and "\n" not in repr(report)
    head, *rows, total = cells(report)
    assert head[:3] == ["layer", "time", "forward"] and total[0] == "total"
    assert [row[0] for row in rows] == [layer.name for layer in report.layers]


def test_a_dataset_is_told_in_a_line_and_shown_class_by_class():
    data = minicnn.load_fashion_mnist("sample", verbose=False)
    line = "Dataset Fashion-MNIST sample: 2,000 training and 1,000 test images (28, 28, 1), 10 classes, from "
    assert repr(data) == line + data.source
    head, first, *_, total = cells(data)
    assert head == ["Fashion-MNIST sample", "training images", "test images"]
    assert first == ["T-shirt/top", str((data.train_labels == 0).sum()), str((data.test_labels == 0).sum())]
    assert total == ["total", "2000", "1000"]


# ---------------------------------------------------------------------------------------------------------------
# Feature maps


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_feature_maps_are_every_layers_output_in_use_as_copies(backend):
    minicnn.use_backend(backend)
    model = net()
    images = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 1)).astype(np.uint8)
    model.fit(images, np.arange(3), verbose=False)
    before = model.parameters.values.copy()
    outputs, maps = model.outputs(images), model.feature_maps(images)
    inside = ["conv2d_1", "batchnorm_2", "conv2d_3"]
    top = ["conv2d_1", "relu_1", *(f"residual_1/{name}" for name in inside), "residual_1"]
    assert list(maps) == [*top, "maxpool2d_1", "flatten_1", "dense_1"]
    assert {name: maps[name].shape[1:] for name in maps} == {l.name: l.output_shape for l in model.all_layers()}
    np.testing.assert_allclose(maps["dense_1"], outputs, atol=1e-5)
    np.testing.assert_array_equal(maps["relu_1"], np.maximum(maps["conv2d_1"], 0))
    summed = maps["residual_1/batchnorm_2"] + maps["residual_1/conv2d_3"]
    np.testing.assert_allclose(maps["residual_1"], np.maximum(summed, 0), atol=1e-6)
    kept = {name: y.copy() for name, y in maps.items()}
    model.predict(images[::-1])
    for y in model.feature_maps(images[::-1]).values():
        y[...] = 7
    for name in maps:
        np.testing.assert_array_equal(maps[name], kept[name])
    np.testing.assert_array_equal(model.parameters.values, before)
    assert not [layer for layer in model.all_layers() if "forward" in vars(layer)]


def test_feature_maps_of_one_image_are_what_the_picture_takes():
    model, image = net(), np.random.default_rng(0).random((6, 6, 1))
    one, several = model.feature_maps(image), model.feature_maps(image[None])
    for name in one:
        np.testing.assert_array_equal(one[name], several[name][0])
    plots.feature_maps(image, {name: y for name, y in one.items() if y.ndim == 3})


def test_feature_maps_leave_a_residual_block_of_ones_own_as_it_is():
    class Mine(Residual):
        pass

    model = Sequential([Mine(Conv2D(1, 3)), Flatten()], (4, 4, 1))
    assert list(model.feature_maps(np.ones((4, 4, 1)))) == ["mine_1", "flatten_1"]
    assert not [layer for layer in model.all_layers() if "forward" in vars(layer)]


# ---------------------------------------------------------------------------------------------------------------
# Progress bars


class Stream(io.StringIO):
    """As a kernel's standard error, which is no terminal."""


Stream.__module__ = "ipykernel.iostream"


@pytest.mark.parametrize(("module", "shown"), [("tqdm.auto", True), ("tqdm.asyncio", False)])
def test_in_a_notebook_the_bar_is_tqdms_own_where_ipywidgets_is_installed(module, shown, monkeypatch):
    auto = types.ModuleType("tqdm.auto")
    auto.tqdm = type("tqdm", (tqdm,), {"__module__": module})
    monkeypatch.setitem(sys.modules, "tqdm.auto", auto)
    monkeypatch.setattr(sys, "stderr", Stream())
    with say.bar(total=3, hidden=False) as bar:
        assert type(bar) is auto.tqdm and bar.disable is not shown
    with say.bar(total=3, hidden=True) as bar:
        assert type(bar) is say._Bar and bar.disable


def test_elsewhere_no_more_of_tqdm_is_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)  # importing it would be an error
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with say.bar(total=3, hidden=False) as bar:
        assert type(bar) is say._Bar and bar.disable
