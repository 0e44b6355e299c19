"""The profile of a training step: its figures add up, it changes nothing, and it can be read and looked at."""

from __future__ import annotations

import itertools
import math
import types

import numpy as np
import pytest

import minicnn
from minicnn import BatchNorm, Conv2D, Dense, Dropout, Flatten, MaxPool2D, ReLU, Residual, Sequential, engine
from minicnn.engine import peak
from minicnn.engine.lanes import best_block
from minicnn.errors import DataError
from minicnn.profiler import LayerProfile, Profile


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (6, 8, 8, 1), dtype=np.uint8), rng.integers(0, 3, 6)


def network():
    block = Residual(Conv2D(4, 3), BatchNorm(), activation="relu")
    layers = [Conv2D(4, 3), BatchNorm(activation="relu"), MaxPool2D(), block, Dropout(0.5), Flatten(), Dense(3)]
    return Sequential(layers, input_shape=(8, 8, 1))


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_a_profile_has_every_step_and_its_multiply_adds(batch, backend):
    minicnn.use_backend(backend)
    try:
        model = network()
        report, steps = model.profile(*batch, steps=2), model.steps
    finally:
        minicnn.use_backend("numba")
    assert [row.name for row in report.layers] == [step.title for step in steps]
    assert (report.layers[1].name == "batchnorm_1") == (backend == "numpy")  # the engine runs it with its ReLU
    first, *others = report.layers
    both = 1 if backend == "numba" else 2  # the engine's first step computes dw and no dx
    assert (first.forward_macs, first.backward_macs) == (6 * 8 * 8 * 9 * 4, both * 6 * 8 * 8 * 9 * 4)
    for row, step in zip(others, steps[1:], strict=True):
        assert (row.forward_macs, row.backward_macs) == (6 * step.macs, 12 * step.macs)
        assert row.forward > 0 and row.backward > 0 and row.memory >= 0
    assert report.total.forward == sum(row.forward for row in report.layers)
    assert report.total.forward_macs == 6 * model.macs
    assert report.batch == 6
    assert ("measured peak" in str(report)) == (backend == "numba")  # NumPy's is not measured
    assert math.isfinite(report.peak) and (report.peak > 0 if backend == "numba" else report.peak == 0)


def test_memory_is_what_the_step_holds(batch):
    convolution = network().profile(*batch, steps=1).layers[0]
    of_convolution = 4 * (6 * 8 * 8 * 4 + 2 * (9 * 4 + 4))  # output, weights, gradients
    of_norm = 6 * 4 * 4 * 4 * (4 + 1) + 4 * (
        2 * 8 + 8
    )  # the pooled output, which pixel won; weights, gradients, statistics
    assert convolution.memory == of_convolution + of_norm


def test_a_blocks_memory_is_that_of_the_steps_inside_it_too(batch):
    model = network()
    report = model.profile(*batch, steps=1)
    [block] = [step for step in model.steps if step.title.startswith("residual_1")]
    inner = sum(
        array.nbytes for step in block.branch for one in (step, *step.inside()) for array in one.buffers.values()
    )
    own = sum(array.nbytes for array in block.buffers.values())
    weights = sum(a.nbytes for w in block.branch[0].layers()[0].weights() for a in (w.value, w.grad))
    [row] = [row for row in report.layers if row.name == block.title]
    assert inner > 0 and row.memory > own + inner + weights  # and batch norm's four arrays


def test_a_profile_changes_no_weight_no_statistic_and_no_later_mask(batch):
    model, other = network(), network()
    before = model.get_weights()
    model.profile(*batch, steps=2)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    images = batch[0].astype(np.float32)
    np.testing.assert_array_equal(model.forward(images, training=True), other.forward(images, training=True))


def test_the_printed_table_has_a_row_a_layer_and_a_total(batch, capsys):
    report = network().profile(*batch, steps=1)
    text = capsys.readouterr().out
    assert text.strip() == str(report)
    lines = text.splitlines()
    assert lines[0].split()[:2] == ["layer", "time"]
    for layer in report.layers:
        assert sum(line.startswith(layer.name + " ") for line in lines) == 1
    assert any(line.startswith("total ") for line in lines)
    assert "peak" in lines[-1] and "6 images" in lines[-1]


def told(most, peak=1e9):
    """Of a step whose layers do 1 GFLOP/s and have at most these shares of the peak."""
    layers = [LayerProfile(f"layer_{i}", 1.0, 1.0, 5 * 10**8, 5 * 10**8, 0, share) for i, share in enumerate(most)]
    head, _, *rows, ending = str(Profile(layers, 6, peak)).splitlines()
    cut = slice(head.index("of peak"), head.index("of peak") + 7)
    return [row[cut].strip() for row in rows if not row.startswith("-")], ending


def test_no_share_of_the_peak_is_told_that_cannot_be():
    shares, ending = told([1, 6.25], 4e8)
    assert shares == ["-"] * 3 and ", too low to be true: other programs had the cores" in ending
    shares, ending = told([6.25, 6.25], 4e8)
    assert shares == ["250%"] * 3 and "other programs" not in ending
    assert told([1], 1e9)[0] == ["100%"] * 2
    assert told([1], 0.0) == ([""] * 2, "a step of 6 images: 2000.0 ms, and the optimizer's")


def test_a_peak_measured_too_low_is_told_once_and_its_shares_are_not(batch, monkeypatch, capsys):
    monkeypatch.setattr(engine, "measured_peak", lambda dtype: 1.0)
    figure = network().profile(*batch, steps=1).chart()
    text = capsys.readouterr().out
    assert "%" not in text and text.count("too low to be true") == 1
    assert {label.get_text() for label in figure.axes[0].texts} == {"", "- of peak"}


def test_only_convolutions_of_more_than_a_pixel_pass_the_peak_and_bfloat16_doubles_it(batch):
    model = Sequential([Conv2D(4, 3), ReLU(), Conv2D(4, 1), Flatten(), Dense(3)], (8, 8, 1), precision="bfloat16")
    most = [row.most for row in model.profile(*batch, steps=1).layers]
    assert (most[0], most[1], most[-1]) == (2 / 0.16, 2, 2)


def test_the_peak_is_that_of_the_best_round_however_long_the_others_waited(monkeypatch):
    now, waits = [0.0], itertools.cycle([0.02, 1e-4, 0.004, 1e-4, 0.001])
    lanes, threads = best_block(np.float32).shape[1] // 2, minicnn.get_threads()

    def computes(work, block, numbers, threads):
        now[0] += peak.SUMS * peak.ROUNDS / 2 / 4e9 + next(waits)  # two multiply-adds a cycle, at 4 GHz

    monkeypatch.setattr(peak, "_multiply_add", computes)
    monkeypatch.setattr(peak, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    assert 0.9 < peak.peak() / (2 * 2 * lanes * threads * 4e9) <= 1
    assert now[0] < 0.15


def test_without_a_peak_the_chart_has_no_shares(batch):
    minicnn.use_backend("numpy")
    try:
        figure = network().profile(*batch, steps=1).chart()
    finally:
        minicnn.use_backend("numba")
    assert {label.get_text() for label in figure.axes[0].texts} == {""}


def test_the_chart_is_a_picture(batch, tmp_path):
    path = tmp_path / "profile.png"
    figure = network().profile(*batch, steps=1).chart(path)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "dense_1" in [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_a_profile_refuses_what_training_refuses(batch):
    with pytest.raises(DataError, match="labels: got 3 at index 0"):
        network().profile(batch[0], np.full(6, 3))
    with pytest.raises(ValueError, match="steps: got 0"):
        network().profile(*batch, steps=0)
