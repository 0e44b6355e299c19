"""Resuming: a run that dies after any of its steps, and is called again as it was, ends with the same bits as one that
never died, whatever it is made of; and it goes on with nothing that is not its own.

A death is an exception after a step, from which only the file is left. `test_kills.py` kills the real program.
"""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

import minicnn
from minicnn import BatchNorm, Checkpoint, Conv2D, Dense, Dropout, Flatten, Sequential, archive, optimizers, schedules
from minicnn.callbacks import (
    Callback,
    CSVLogger,
    EarlyStopping,
    ModelCheckpoint,
    ReduceLROnPlateau,
    TerminateOnNaN,
)
from minicnn.data import Augment
from minicnn.errors import CheckpointError, ModelFileError
from minicnn.losses import CrossEntropy

pytestmark = pytest.mark.usefixtures("numpy_backend", "no_disk")

RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 256, (10, 6, 6, 2)).astype(np.uint8), np.arange(10) % 3
HELD_OUT = RNG.integers(0, 256, (5, 6, 6, 2)).astype(np.uint8), np.arange(5) % 3
STEPS = 9  # 3 epochs of 10 images in batches of 4, the last one ragged


@pytest.fixture
def no_disk(monkeypatch):
    """Waiting for the disk takes longer than all else, and nothing here cuts the power."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


class Death(Exception):
    pass


class Dies(Callback):
    def __init__(self, step=None):
        self.step = step

    def on_step_end(self, run):
        if run.step == self.step:
            raise Death


def net(**options):
    layers = [
        Conv2D(3, 3, use_bias=False),
        BatchNorm(activation="relu"),
        Dropout(0.3),
        Flatten(),
        Dropout(0.1),
        Dense(3),
    ]
    return Sequential(layers, (6, 6, 2), **options)


def fit(path, model=None, dies=None, every=1, x=X, y=Y, callbacks=(), **options):
    """Train the tiny net; returns all that a run leaves behind."""
    model = model or net()
    settings = dict(epochs=3, batch_size=4, optimizer=optimizers.Adam(0.05), verbose=False) | options
    checkpoint = Checkpoint(path, every=every) if path else None
    history = model.fit(x, y, callbacks=[*callbacks, Dies(dies)], checkpoint=checkpoint, **settings)
    metrics = {name: values for name, values in history.items() if name != "seconds"}
    calls = [layer.calls for layer in model.all_layers() if isinstance(layer, Dropout)]
    return metrics, model.parameters.values, model.parameters.statistics, calls


def assert_same(one, other):
    assert one[0] == other[0]
    np.testing.assert_array_equal(one[1], other[1])
    np.testing.assert_array_equal(one[2], other[2])
    assert one[3] == other[3]


RUNS = {
    "sgd": dict(optimizer=lambda: optimizers.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.01)),
    "rmsprop": dict(optimizer=lambda: optimizers.RMSprop(0.01)),
    "adam": dict(optimizer=lambda: "adam"),
    "adamw": dict(optimizer=lambda: optimizers.AdamW(0.05, clip_norm=0.5)),
    "augmented": dict(augment=lambda: Augment(rotation=20, zoom=0.1, shift=0.2, horizontal_flip=True, erase=2)),
    "scheduled": dict(schedule=lambda: schedules.one_cycle(0.1, STEPS)),
    "a list of rates": dict(schedule=lambda: [0.1 / (1 + i) for i in range(STEPS)].__getitem__),
    "weighted": dict(class_weight=lambda: {1: 3.0}, loss=lambda: CrossEntropy(label_smoothing=0.1)),
    "stopped early": dict(
        epochs=lambda: 6,
        validation_data=lambda: HELD_OUT,
        callbacks=lambda: [
            EarlyStopping(patience=1, min_delta=0.5),
            ReduceLROnPlateau("val_accuracy", 1),
            TerminateOnNaN(),
        ],
    ),
    "in order": dict(shuffle=lambda: False, validation_split=lambda: 0.1),
    "short epochs": dict(steps_per_epoch=lambda: 2),
    "images weighed": dict(sample_weight=lambda: np.arange(10.0)),
    "floats": dict(x=lambda: X / 255, y=lambda: np.eye(3)[Y]),
}


@pytest.mark.parametrize("run", RUNS)
def test_a_run_that_dies_after_any_step_ends_with_the_same_bits(run, tmp_path):
    def options():
        return {name: make() for name, make in RUNS[run].items()}

    whole = fit(None, **options())
    assert_same(fit(tmp_path / "whole.npz", **options()), whole)  # saving changes nothing
    for dies in range(1, STEPS + 1):
        path = tmp_path / f"{dies}.npz"
        every = 1 + dies % 3
        try:
            fit(path, dies=dies, every=every, **options())
        except Death:
            pass
        assert_same(fit(path, every=every, **options()), whole)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_run_that_is_slowed_and_stopped_early_is_so_at_the_same_epochs_after_any_death(backend, tmp_path):
    """Dropout's calls, the best epoch's weights, how long nothing has improved, and the scale of the rate."""
    minicnn.use_backend(backend)

    def options():
        callbacks = [EarlyStopping(patience=3, min_delta=9), ReduceLROnPlateau("val_accuracy", 1, min_delta=1)]
        return dict(epochs=6, validation_data=HELD_OUT, callbacks=callbacks)

    whole = fit(None, **options())
    assert whole[0]["learning_rate"] == [0.05, 0.05, 0.025, 0.0125]  # nothing improves so much but the first epoch
    for dies in range(1, 13):
        path = tmp_path / f"{dies}.npz"
        with pytest.raises(Death):
            fit(path, dies=dies, every=1 + dies % 2, **options())
        assert_same(fit(path, every=1 + dies % 2, **options()), whole)


def test_a_run_may_die_many_times(tmp_path):
    for dies in range(2, STEPS):
        with pytest.raises(Death):
            fit(tmp_path / "run.npz", dies=dies)
    assert_same(fit(tmp_path / "run.npz"), fit(None))


def test_a_run_that_is_over_stays_over(tmp_path):
    first = fit(tmp_path / "run.npz")
    kept = (tmp_path / "run.npz").read_bytes()
    assert_same(fit(tmp_path / "run.npz"), first)
    assert (tmp_path / "run.npz").read_bytes() == kept


def test_history_and_best_models_go_on_too(tmp_path):
    def loggers(folder):
        folder.mkdir(exist_ok=True)
        return [CSVLogger(folder / "history.csv"), ModelCheckpoint(folder / "best.npz", "loss")]

    fit(tmp_path / "a.npz", callbacks=loggers(tmp_path / "whole"))
    with pytest.raises(Death):
        fit(tmp_path / "b.npz", dies=7, callbacks=loggers(tmp_path / "died"))
    fit(tmp_path / "b.npz", callbacks=loggers(tmp_path / "died"))
    whole, died = (
        [line.split(",")[:-1] for line in (tmp_path / name / "history.csv").read_text().splitlines()]
        for name in ("whole", "died")
    )
    assert whole == died
    assert (tmp_path / "whole" / "best.npz").read_bytes() == (tmp_path / "died" / "best.npz").read_bytes()


class Remembers(Callback):
    """Whose memory is first a whole number, then a fraction; and a pair, which JSON does not know."""

    def on_train_begin(self, run):
        self.best, self.pair = 0, (0, "none")

    def on_step_end(self, run):
        self.best, self.pair = self.best + 0.5, (run.step, "some")

    def state(self):
        return {"best": self.best, "pair": self.pair}


def test_a_callback_of_ones_own_remembers(tmp_path):
    callback = Remembers()
    with pytest.raises(Death):
        fit(tmp_path / "run.npz", dies=6, callbacks=[callback])
    fit(tmp_path / "run.npz", callbacks=[callback])
    assert callback.best == STEPS / 2


class Plain:
    """An augmentation of one's own, whose repr is its address."""

    def __init__(self, angle=1):
        self.augment = Augment(rotation=angle)

    def draw(self, n, size, rng):
        return self.augment.draw(n, size, rng)


def test_an_augmentation_of_ones_own_may_be_resumed(tmp_path):
    with pytest.raises(Death):
        fit(tmp_path / "run.npz", dies=5, augment=Plain())
    assert_same(fit(tmp_path / "run.npz", augment=Plain()), fit(None, augment=Plain()))


# ---------------------------------------------------------------------------------------------------------------
# What is not the run's own is refused


@pytest.fixture
def begun(tmp_path):
    with pytest.raises(Death):
        fit(tmp_path / "run.npz", dies=5)
    return tmp_path / "run.npz"


OTHERS = {
    "epochs: got 4, the run had 3": dict(epochs=4),
    "batch_size: got 5, the run had 4": dict(batch_size=5),
    "seed: got 1, the run had 0": dict(seed=1),
    "optimizer: got SGD": dict(optimizer=optimizers.SGD(0.05)),
    "optimizer: got Adam .*0.01": dict(optimizer=optimizers.Adam(0.01)),
    "schedule: got \\[0.01": dict(schedule=schedules.constant(0.01)),
    "schedule: the run had another$": dict(schedule=schedules.one_cycle(0.01, 9)),
    "shuffle: got False, the run had True": dict(shuffle=False),
    "steps_per_epoch: got 2, the run had None": dict(steps_per_epoch=2),
    "data:": dict(sample_weight=np.ones(10)),
    "augment: got Augment": dict(augment=Augment(rotation=5)),
    "loss: got CrossEntropy": dict(loss=CrossEntropy(0.1)),
    "callbacks": dict(callbacks=[TerminateOnNaN()]),
    "model: the run had another$": dict(model=Sequential([Flatten(), Dense(3)], (6, 6, 2))),
    "data: ": dict(x=255 - X),
    "data: got": dict(y=Y[::-1]),
    "validation data: got": dict(validation_data=HELD_OUT),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_runs_settings_are_refused_by_name_and_nothing_changes(name, begun):
    model = OTHERS[name].get("model") or net()
    before = model.parameters.values.copy(), model.parameters.statistics.copy()
    kept = begun.read_bytes()
    with pytest.raises(CheckpointError, match=rf"run\.npz: another run's settings or data: .*{name}") as caught:
        fit(begun, **OTHERS[name] | {"model": model})
    assert len(str(caught.value).splitlines()) == 1
    np.testing.assert_array_equal(model.parameters.values, before[0])
    np.testing.assert_array_equal(model.parameters.statistics, before[1])
    assert model.scale.mean is None  # of the images
    assert begun.read_bytes() == kept


def test_a_run_with_a_layer_that_keeps_its_weights_goes_on_to_the_bit_and_only_so(tmp_path):
    def frozen():
        model = net()
        model.layers[0].trainable = False
        return model

    for dies in range(1, STEPS + 1):
        with pytest.raises(Death):
            fit(tmp_path / f"{dies}.npz", model=frozen(), dies=dies)
        assert_same(fit(tmp_path / f"{dies}.npz", model=frozen()), fit(None, model=frozen()))
    with pytest.raises(CheckpointError, match=r"not trainable: got \[\], the run had \['conv2d_1'\]"):
        fit(tmp_path / "1.npz")


def test_the_other_arithmetic_would_give_other_bits_and_is_refused(begun):
    minicnn.use_backend("numba")
    with pytest.raises(CheckpointError, match="backend: got numba, the run had numpy"):
        fit(begun)


def test_after_a_refusal_the_same_model_can_go_on_with_its_own_run(begun):
    model = net()
    with pytest.raises(CheckpointError, match="data"):
        fit(begun, model=model, x=255 - X)
    assert_same(fit(begun, model=model), fit(None))


# ---------------------------------------------------------------------------------------------------------------
# Damage


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def previous(path):
    return path.with_name(path.name + ".previous")


def test_where_the_newest_file_is_damaged_the_one_before_it_serves_and_is_named(begun, capsys):
    damage(begun)
    assert_same(fit(begun), fit(None))
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{begun}: ")
    assert line.endswith(f"going on from the one before it, {previous(begun)}")


def test_a_damaged_file_never_replaces_the_good_one_before_it(begun):
    """Else a death between the two renames would leave nothing that is whole."""
    good = previous(begun).read_bytes()
    damage(begun)
    with pytest.raises(Death):
        fit(begun, dies=5)
    assert previous(begun).read_bytes() == good


def test_where_both_are_damaged_both_are_named(begun):
    damage(begun)
    damage(previous(begun))
    with pytest.raises(CheckpointError) as caught:
        fit(begun)
    assert f"{begun}: " in str(caught.value)
    assert f"{previous(begun)}: " in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def edited(path, owners=(), **changes):
    """Change what a checkpoint says, with a correct checksum: some values of an owner's state, or all of it where it is
    no dict; None leaves it out."""
    with np.load(path) as file:
        arrays = dict(file)
    config = json.loads(arrays.pop("config").tobytes()) | changes
    for owner, state in dict(owners).items():
        have = config["states"].get(owner, {})
        config["states"][owner] = have | state if isinstance(state, dict) else state
        if state is None:
            del config["states"][owner]
    archive.write(path, config, arrays)


def test_a_history_too_long_to_be_read_again_is_not_written(tmp_path):
    class Talks(Callback):
        def on_epoch_end(self, run):
            run.history["notes"] = ["a" * 3_000_000] * run.epoch

    with pytest.raises(ModelFileError, match=r"run\.npz: 6,.* bytes of description"):
        fit(tmp_path / "run.npz", callbacks=[Talks()])
    assert sorted(os.listdir(tmp_path)) == ["run.npz", "run.npz.previous"]


def test_a_later_format_is_refused_and_not_taken_for_damage(begun):
    edited(begun, format=4)
    kept = begun.read_bytes()
    with pytest.raises(CheckpointError, match=r"run\.npz: format: got 4, expected 3$"):
        fit(begun)
    assert begun.read_bytes() == kept


def test_a_checkpoint_of_the_version_before_is_refused_and_left_as_it_is(tmp_path):
    """As version 0.1 wrote it."""
    model = net()
    config = {"format": 1, "settings": {}, "history": {"loss": [1.0]}, "optimizer_steps": 0, "dropouts": [3, 3]}
    config |= {"epoch": 1, "batch": 0, "step": 3, "right": 0, "seen": 0, "total": 0.0, "seconds": 0.0}
    config |= {"learning_rate": 0.05, "rate_scale": 1.0, "stop": "", "callbacks": [{}]}
    arrays = {"values": model.parameters.values + 1, "states": model.parameters.statistics}
    path, before = tmp_path / "run.npz", model.parameters.values.copy()
    archive.write(path, config, arrays)
    kept = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"run\.npz: format: got 1, expected 3$") as caught:
        fit(path, model=model)
    assert len(str(caught.value).splitlines()) == 1
    np.testing.assert_array_equal(model.parameters.values, before)
    assert model.scale.mean is None
    assert path.read_bytes() == kept
    assert os.listdir(tmp_path) == ["run.npz"]


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ({"run": {"epoch": -1}}, "epoch: got -1"),
        ({"run": {"epoch": 4}}, "epoch: got 4"),
        ({"run": {"batch": 99}}, "batch: got 99"),
        ({"run": {"step": "5"}}, "step: got '5'"),
        ({"run": {"step": 5.0}}, "step: got 5.0"),
        ({"run": {"seen": 2**70}}, "seen: got"),
        ({"run": {"correct": 11}}, "correct: got 11, expected int, 0 to 10"),
        ({"run": {"learning_rate": float("nan")}}, "learning_rate: got nan"),
        ({"run": {"rate_scale": float("inf")}}, "rate_scale: got inf"),
        ({"run": {"stop": 1}}, "stop: got 1"),
        ({"run": {"images": [1]}}, "run: expected the values of epoch, "),
        ({"run": {"history": "ab"}}, "history"),
        ({"run": {"history": {"loss": [1.0, 2.0, 3.0, 4.0, 5.0]}}}, "history"),
        ({"run": {"history": {"loss": ["<script>"]}}}, "history"),
        ({"run": None}, "states: expected those of run, parameters, optimizer, callbacks/0, layers/dropout_1, "),
        ({"run": [1]}, "run: expected the values of epoch, "),
        ({"optimizer": {"steps": True}}, "optimizer: steps: got True"),
        ({"optimizer": {"steps": -1}}, "optimizer: steps: got -1"),
        ({"optimizer": {"mean": 0.0}}, "optimizer: mean: got 0.0"),
        (
            {"optimizer": {"mean": {"shape": [10**9], "dtype": "<f4"}}},
            r"optimizer: mean: got \{'shape': \[1000000000\]",
        ),
        ({"optimizer": {"mean": {"shape": 3, "dtype": "<f4"}}}, "not a checkpoint of minicnn"),
        ({"parameters": {"values": {"shape": [1], "dtype": "|O"}}}, "parameters: values: got"),
        ({"layers/dropout_1": {"calls": [1]}}, r"layers/dropout_1: calls: got \[1\]"),
        ({"layers/dropout_2": {"calls": "a"}}, "layers/dropout_2: calls: got 'a'"),
        ({"layers/dropout_2": {"calls": -1}}, "layers/dropout_2: calls: got -1"),
        ({"layers/dropout_2": None}, "states: expected those of"),
        ({"layers/dense_1": {"units": 1}}, "states: expected those of"),
        ({"callbacks/0": None}, "states: expected those of"),
        ({"callbacks/1": {}}, "states: expected those of"),
        ({"callbacks/0": 3}, "callbacks/0: expected the values of nothing"),
        ({"callbacks/0": {"step": None}}, "callbacks/0: expected the values of nothing"),
        ({"callbacks/0": []}, "callbacks/0: expected the values of nothing"),
        ({"callbacks/0": {"a\nb": {"shape": [2], "dtype": "f4"}}}, "callbacks/0: expected the values of nothing"),
        ("states", "states: expected those of"),
        ("settings", "settings: not those of a run"),
    ],
)
def test_a_checkpoint_that_was_tampered_with_is_refused(begun, states, message):
    previous(begun).unlink()
    edited(begun, **{states: None} if isinstance(states, str) else {"owners": states})
    model = net()
    before = model.parameters.values.copy()
    with pytest.raises(CheckpointError, match=rf"run\.npz: .*{message}") as caught:
        fit(begun, model=model)
    assert len(str(caught.value).splitlines()) == 1
    assert "\x1b" not in str(caught.value)
    np.testing.assert_array_equal(model.parameters.values, before)


def test_a_checkpoint_cannot_send_a_callback_elsewhere(tmp_path):
    """A file from a stranger that names another path would have CSVLogger write there."""
    log = [CSVLogger(tmp_path / "history.csv")]
    with pytest.raises(Death):
        fit(tmp_path / "run.npz", dies=2, callbacks=log)
    edited(tmp_path / "run.npz", {"callbacks/0": {"path": str(tmp_path / "victim")}})
    with pytest.raises(CheckpointError, match="callbacks/0: expected the values of nothing"):
        fit(tmp_path / "run.npz", callbacks=log)
    assert not (tmp_path / "victim").exists()


# ---------------------------------------------------------------------------------------------------------------
# Ctrl-C in a notebook


@pytest.mark.parametrize("path", [None, "run.npz"])
def test_ctrl_c_leaves_the_model_and_its_history_usable(path, tmp_path):
    class Interrupts(Callback):
        def on_step_end(self, run):
            if run.step == 7:
                raise KeyboardInterrupt

    model = net()
    with pytest.raises(KeyboardInterrupt):
        fit(path and tmp_path / path, model=model, callbacks=[Interrupts()])
    assert {name: len(values) for name, values in model.history.items()} == dict.fromkeys(
        ("loss", "accuracy", "learning_rate", "seconds"), 2
    )
    assert np.isfinite(model.predict(X)).all()
