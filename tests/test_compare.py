"""The benchmark program runs, agrees with itself, and writes what it promises."""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
from pathlib import Path

import compare as program
import numpy as np
import pytest
import report
from contestants import CONTESTANTS, Entry
from contestants.ours import MiniCNN, layers
from nets import NETS, channels_first, channels_last, place

import minicnn
from minicnn import engine

PROGRAM = Path(program.__file__)


def compare(*arguments, cwd):
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


@pytest.mark.slow
def test_a_table_a_json_and_a_chart(tmp_path):
    file = tmp_path / "result.json"
    options = ("--nets", "A", "--peers", "minicnn-numpy", "--rounds", 2, "--seconds", 0.05, "--threads", 1, "--start")
    done = compare(*options, "--json", file, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(file.read_text())
    net = result["nets"]["A"]
    assert result["machine"]["threads"] == 1 and result["machine"]["numpy"]
    assert set(net["setup"]) == {"minicnn", "minicnn-numpy"} and not net["failed"]
    for setup in net["setup"].values():
        assert setup["error"]["train"] < 5e-3 and setup["error"]["inference"] < 1e-5 and setup["bytes"] > 2**20
        assert 0 < setup["import"] < setup["first_step"]
    assert net["setup"]["minicnn"]["cold"] > net["setup"]["minicnn"]["first_step"]  # which had to compile
    assert len(net["rounds"]) == 2 and all(r["peak"] > 1e8 for r in net["rounds"])
    for turn in (r[name] for r in net["rounds"] for name in net["setup"]):
        assert set(turn) == {"train", "batch", "one/1", "busy/1"}
        assert all(t["seconds"] > 0 and t["p99"] > 0 for t in turn.values())
    assert "net A" in done.stdout and "minicnn-numpy" in done.stdout
    assert file.with_suffix(".png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_an_unknown_peer_or_net_is_named(tmp_path):
    done = compare("--peers", "caffe", cwd=tmp_path)
    assert done.returncode == 2 and "--peers: got caffe, expected some of" in done.stderr.splitlines()[-1]
    done = compare("--nets", "X", cwd=tmp_path)
    assert done.returncode == 2 and "--nets: got X, expected some of A, B, S" in done.stderr.splitlines()[-1]


# -- the networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_each_layer_gets_its_own_arrays_and_the_shape_that_it_has_in_minicnn(net):
    model = minicnn.Sequential(list(layers(net)), input_shape=net.shape)
    placed = list(place(net, model.get_weights()))
    got = [[array.shape for array in layer.arrays] for layer in placed]
    assert got == [[w.shape for w in layer.weights()] for layer in model.layers]
    shapes = [net.shape, *(layer.output_shape for layer in model.layers)]
    for layer, shape in zip(placed, shapes, strict=False):
        assert np.prod(layer.shape) == np.prod(shape)
        assert layer.shape == shape or len(shape) == 1  # a vector, which keeps the shape of its image


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_channels_first_and_back(net):
    model = minicnn.Sequential(list(layers(net)), input_shape=net.shape)
    for layer in place(net, model.get_weights()):
        for array in layer.arrays:
            np.testing.assert_array_equal(channels_last(layer, channels_first(layer, array)), array)


def test_a_dense_layer_with_channels_first_sees_the_image_with_channels_first():
    layer = next(layer for layer in place(NETS["A"]) if layer.kind == "dense")
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, *layer.shape)), rng.standard_normal((np.prod(layer.shape), 5))
    first = channels_first(layer, w)
    np.testing.assert_allclose(x.transpose(0, 3, 1, 2).reshape(2, -1) @ first.T, x.reshape(2, -1) @ w)


# -- who computes something else or fails --------------------------------------------------------------------------------


def small(tmp_path, monkeypatch, net="D"):
    """What all must compute, of five images."""
    monkeypatch.setitem(NETS, net, NETS[net]._replace(batch=5))
    monkeypatch.setattr(program, "INFERENCE_BATCH", 3)
    truth = program.prepare(net, tmp_path / "data.npz")
    return truth, np.load(tmp_path / "data.npz")


@pytest.fixture
def backend():
    """Whichever backend was in use is in use again afterwards."""
    before = engine.backend()
    yield
    minicnn.use_backend(before)


def test_a_contestant_agrees_with_the_truth_or_is_refused(tmp_path, monkeypatch, backend):
    # smooth: a ReLU that is shut in one precision and open in the other would make a gradient another
    smooth = [("silu",) if layer == ("relu",) else layer for layer in NETS["D"].layers]
    monkeypatch.setitem(NETS, "D", NETS["D"]._replace(layers=smooth))
    truth, data = small(tmp_path, monkeypatch)
    arrays = [data[f"w{i}"] for i in range(len(data.files) - 3)]
    contestant = MiniCNN(NETS["D"], arrays, 1, backend="numpy")
    outputs = contestant.inference(data["many"], 1)()  # before training moves the running statistics
    logits, loss, gradients = contestant.gradients(data["x"], data["y"])
    answer = {"outputs": outputs, "logits": logits, "loss": loss}
    answer |= {f"g{i}": g for i, g in enumerate(gradients)}
    found = program.disagreement(truth, answer, 1e-4)
    assert 0 < found["inference"] < 1e-5 and 0 < found["train"] < 1e-4
    with pytest.raises(RuntimeError, match=r"computes something else: relative error 1\.0e-02 in inference"):
        program.disagreement(truth, answer | {"outputs": truth["outputs"] * 1.01}, 1e-4)
    with pytest.raises(RuntimeError, match="in train"):
        program.disagreement(truth, answer | {"g3": -answer["g3"]}, 1e-4)


def test_a_contestant_that_cannot_be_set_up_is_named_with_the_reason(tmp_path, monkeypatch, backend):
    truth, _ = small(tmp_path, monkeypatch)
    monkeypatch.setitem(CONTESTANTS, "broken", Entry("float32", "json", "ours.Nobody", {}))
    options = argparse.Namespace(cache=str(tmp_path), cases=["one"], threads=1, start=False)
    result = {"setup": {}, "failed": {}}
    with contextlib.ExitStack() as closing:
        assert program.set_up("D", ["broken"], tmp_path, truth, result, options, closing) == []
    assert result == {"setup": {}, "failed": {"broken": "KeyError: 'broken'"}}  # unknown in a process of its own


def test_a_contestant_that_dies_is_named_with_its_last_words(tmp_path):
    process = program.Process("minicnn", 1, str(tmp_path), tmp_path / "errors")
    try:
        with pytest.raises(RuntimeError, match="AttributeError: 'Server' object has no attribute 'dance'"):
            process.ask(do="dance")
        process.process.kill()
        process.process.wait()
        process.errors.write_text("first\nlast words\n")
        with pytest.raises(RuntimeError, match="died at 'memory', or took more than 60 s: last words"):
            process.ask(do="memory")
    finally:
        process.close()


# -- what the numbers say ------------------------------------------------------------------------------------------------


def result(**times):
    """A result with these seconds, contestant by contestant and kind by kind, a number a round."""
    count = len(next(iter(next(iter(times.values())).values())))
    rounds = [{"peak": 1e9} for _ in range(count)]
    for name, kinds in times.items():
        for kind, numbers in kinds.items():
            for turn, number in zip(rounds, numbers, strict=True):
                turn.setdefault(name, {})[kind] = {"seconds": number, "p99": 2 * number}
    setup = {}
    for name in times:
        precision = CONTESTANTS[name].precision
        setup[name] = {"error": {"train": 1e-6, "inference": 1e-7}, "precision": precision, "bytes": 2**20}
    return {"macs": 1000, "batch": 10, "setup": setup, "failed": {"mnn": "not today"}, "rounds": rounds}


def test_a_ratio_is_taken_within_a_round_and_the_best_peer_has_the_least_median_of_them():
    found = result(minicnn={"train": [1, 2, 4]}, jax={"train": [2, 8, 4]}, tensorflow={"train": [1, 3, 9]})
    found["setup"]["minicnn-numpy"] = found["setup"]["minicnn"]
    for turn in found["rounds"]:
        turn["minicnn-numpy"] = {"train": {"seconds": 0.1, "p99": 0.1}}
    assert report.ratios(found, "jax", "train") == [2, 4, 1]
    assert report.best_peer(found, "train", "float32") == "tensorflow"  # ours is no peer, however fast
    assert report.best_peer(found, "batch", "float32") == ""


def test_of_one_image_the_better_number_of_threads_counts():
    found = result(
        minicnn={"one/1": [2, 2], "one/2": [1, 1], "busy/1": [2, 2], "busy/2": [9, 9]},
        onnxruntime={"one/1": [3, 3], "one/2": [4, 4], "busy/1": [4, 6], "busy/2": [9, 9]},
    )
    assert report.kind_of(found, "minicnn", "one") == "one/2" and report.kind_of(found, "minicnn", "busy") == "busy/1"
    assert report.ratios(found, "onnxruntime", "one") == [3, 3] and report.ratios(found, "onnxruntime", "busy") == [
        2,
        3,
    ]
    assert report.p99(found, "onnxruntime", "busy") == 12 and report.p99(found, "minicnn", "busy") == 4


def test_bfloat16_is_measured_against_ours_in_bfloat16_where_that_ran():
    found = result(minicnn={"batch": [4]}, openvino={"batch": [3]})
    assert "256 images, bfloat16, against minicnn\n  A  0.75" in report.summary({"nets": {"A": found}})
    found = result(**{"minicnn": {"batch": [4]}, "minicnn-bfloat16": {"batch": [2]}, "openvino": {"batch": [3]}})
    assert "256 images, bfloat16, against minicnn-bfloat16\n  A  1.50" in report.summary({"nets": {"A": found}})


def test_a_table_names_all_and_who_was_left_out():
    found = report.table("A", result(minicnn={"train": [1, 2]}, jax={"train": [2, 8]}))
    assert "3.00 (2.00 to 4.00)" in found and "left out: mnn: not today" in found


def test_who_fails_in_the_middle_keeps_no_part_and_the_others_go_on():
    found = result(minicnn={"train": [1, 1]}, jax={"train": [2, 2]}, tensorflow={"train": [3, 3]})
    found["rounds"][1]["jax"] = {}
    del found["setup"]["jax"]
    assert report.best_peer(found, "train", "float32") == "tensorflow"
    assert "jax" not in report.table("A", found)


def test_runs_of_different_cases_are_one():
    first = {"machine": {}, "nets": {"A": result(minicnn={"train": [1]}, jax={"train": [2]})}}
    second = {"machine": {}, "nets": {"A": result(minicnn={"batch": [2]}, jax={"batch": [3]})}}
    for results, case in ((first, "train"), (second, "inference")):
        for setup in results["nets"]["A"]["setup"].values():
            setup["error"] = {case: setup["error"][case]}  # that of the cases which were asked for
    found = report.merged([first, second])["nets"]["A"]
    assert found["setup"]["jax"]["error"] == {"train": 1e-6, "inference": 1e-7}
    assert "a training step" in report.table("A", found) and "256 images" in report.table("A", found)


def test_runs_of_different_peers_are_one(tmp_path):
    first = {"machine": {}, "nets": {"A": result(minicnn={"train": [1]}, jax={"train": [2]})}}
    second = {"machine": {}, "nets": {"A": result(minicnn={"train": [2]}, tensorflow={"train": [3]})}}
    found = report.merged([first, second])["nets"]["A"]
    assert report.ratios(found, "tensorflow", "train") == [1.5] and report.ratios(found, "jax", "train") == [2]
    report.chart({"nets": {"A": found}}, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
