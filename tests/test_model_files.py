"""Models in files: what is saved comes back to the bit, and what is no model is refused with one clear line."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest

import minicnn
from minicnn import (
    AveragePool2D,
    BatchNorm,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalMaxPool2D,
    Layer,
    LeakyReLU,
    Residual,
    Sequential,
    initializers,
)
from minicnn.errors import ModelFileError, ShapeError


@pytest.fixture(autouse=True)
def numpy_backend():
    minicnn.use_backend("numpy")
    yield
    minicnn.use_backend("numba")


IMAGES = np.random.default_rng(0).integers(0, 256, (20, 12, 10, 2)).astype(np.uint8)
LABELS = np.arange(20) % 3


class Shift(Layer):
    """A layer of one's own: adds one learnt number to each channel, and counts its training passes."""

    def __init__(self, start: float, label: str = "shift"):
        self.start, self.label = start, label

    def build(self, input_shape, parameters):
        self.by = parameters.add("by", input_shape[-1:], lambda shape, rng: np.full(shape, self.start))
        self.count = parameters.add_statistic("count", (1,), 0.0)
        return input_shape

    def forward(self, x, training=False):
        self.count.value += training
        return x + self.by.value

    def backward(self, dy):
        self.by.grad[...] = dy.reshape(-1, dy.shape[-1]).sum(axis=0)
        return dy


def everything(own=False, **options):
    """A model with every kind of argument in it."""
    block = Residual(
        DepthwiseConv2D((3, 2), padding=(1, 1), kernel_initializer="glorot"),
        BatchNorm(0.8, 1e-4, activation="relu"),
        Residual(Conv2D(4, 3, use_bias=False), Dropout(0.1)),
        projection=Conv2D(4, (1, 2), padding=(0, 1)),
        activation="leaky_relu",
    )
    layers = [
        Conv2D(4, 3, stride=(2, 1), dilation=(1, 2), groups=2, activation="gelu"),
        AveragePool2D(2, padding="same"),
    ]
    layers += [*([Shift(0.5, label="é")] if own else []), block, LeakyReLU(0.3), GlobalMaxPool2D()]
    return Sequential([*layers, Dense(3, kernel_initializer=initializers.he)], (12, 10, 2), **options)


def trained(**options):
    model = everything(**options)
    model.fit(IMAGES, LABELS, epochs=2, batch_size=8, verbose=False)
    return model


def dense(path, **changes):
    """A small saved model with some of its arrays, or of its config, changed; None leaves one out."""
    Sequential([Dense(3)], (4,)).save(path)
    with np.load(path) as archive:
        arrays = dict(archive)
    config = json.loads(arrays["config"].tobytes())
    for name, value in changes.items():
        if name in config:
            config[name] = value
        else:
            arrays["dense_1/" + name] = value
    arrays["config"] = np.frombuffer(json.dumps(config).encode(), np.uint8)
    with open(path, "wb") as file:
        np.savez(file, **{name: array for name, array in arrays.items() if array is not None})
    return path


# ---------------------------------------------------------------------------------------------------------------
# There and back


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", [0, np.int64(3)])
def test_a_loaded_model_predicts_the_same_bits(tmp_path, dtype, seed):
    model = trained(dtype=dtype, seed=seed)
    model.save(tmp_path / "a model.npz")
    twin = minicnn.load(tmp_path / "a model.npz")
    np.testing.assert_array_equal(twin.predict(IMAGES), model.predict(IMAGES))
    assert (twin.input_shape, twin.dtype, twin.seed) == (model.input_shape, dtype, seed)
    assert [str(layer) for layer in twin.layers] == [
        str(layer).replace(str(initializers.he), "'he'") for layer in model.layers
    ]
    for a, b in zip(twin.get_weights(), model.get_weights(), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_the_standardisation_is_part_of_the_model(tmp_path):
    model = trained()
    assert model.scale.mean.shape == (2,)
    model.save(tmp_path / "model.npz")
    twin = minicnn.load(tmp_path / "model.npz")
    np.testing.assert_array_equal(twin.scale.mean, model.scale.mean)
    np.testing.assert_array_equal(twin.scale.std, model.scale.std)


def test_an_untrained_model_and_one_trained_on_floats_have_none(tmp_path):
    model = everything()
    model.fit(IMAGES / 255, LABELS, verbose=False)
    model.save(tmp_path / "model.npz")
    twin = minicnn.load(tmp_path / "model.npz")
    assert twin.scale.mean is twin.scale.std is None
    np.testing.assert_array_equal(twin.predict(IMAGES), model.predict(IMAGES))


def test_layers_of_ones_own_are_loaded_when_they_are_named(tmp_path):
    path = tmp_path / "model.npz"
    model = trained(own=True)
    model.save(path)
    twin = minicnn.load(path, layers=[Shift])
    np.testing.assert_array_equal(twin.predict(IMAGES), model.predict(IMAGES))
    assert twin.layers[2].label == "é"
    assert twin.layers[2].count.value == 6
    with pytest.raises(ModelFileError, match=r"layer 'Shift' is not known; give layers of your own as load\("):
        minicnn.load(path)


def test_a_layer_may_hold_another_under_any_name(tmp_path):
    class Twice(Layer):
        def __init__(self, layer: Layer):
            self.layer = layer

        def layers(self):
            return [self, *self.layer.layers()]

        def build(self, input_shape, parameters):
            self.layer.name = self.name + "/inner"
            return self.layer.build(input_shape, parameters)

        def forward(self, x, training=False):
            return 2 * self.layer.forward(x, training)

    model = Sequential([Twice(Dense(3))], (4,))
    model.save(tmp_path / "model.npz")
    twin = minicnn.load(tmp_path / "model.npz", layers=[Twice])
    x = np.ones((2, 4))
    np.testing.assert_array_equal(twin.predict(x), model.predict(x))


def test_a_loaded_model_can_be_trained_further(tmp_path):
    model = trained()
    model.save(tmp_path / "model.npz")
    twin = minicnn.load(tmp_path / "model.npz")
    before = twin.parameters.values.copy()
    twin.fit(IMAGES, LABELS, verbose=False)
    assert not np.array_equal(twin.parameters.values, before)


def test_saving_leaves_the_model_as_it_is_and_nothing_else_in_the_folder(tmp_path):
    model = trained()
    before = model.parameters.values.copy()
    for _ in range(2):
        model.save(tmp_path / "model")
    np.testing.assert_array_equal(model.parameters.values, before)
    assert os.listdir(tmp_path) == ["model"]  # under the very name that was asked for


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    trained().save(path)
    kept = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        everything().save(path)
    assert path.read_bytes() == kept
    assert os.listdir(tmp_path) == ["model.npz"]


def test_nothing_in_the_file_is_a_pickle(tmp_path):
    path = tmp_path / "model.npz"
    trained(own=True).save(path)
    with np.load(path, allow_pickle=False) as archive:
        assert all(archive[name].dtype.kind in "fu" for name in archive.files)


# ---------------------------------------------------------------------------------------------------------------
# What is no model


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_a_pickle_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Evil()))
    np.savez(tmp_path / "inside.npz", config=np.array([Evil()], object))
    weight = dense(tmp_path / "weight.npz", w=np.array([Evil()], object))
    for path in (tmp_path / "bare.npz", tmp_path / "inside.npz", weight):
        with pytest.raises(ModelFileError, match=r"\.npz: (not a model file of minicnn|arrays do not fit)"):
            minicnn.load(path)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"w": None}, "arrays do not fit the layers: dense_1/w is missing$"),
        ({"extra": np.zeros(2)}, "arrays do not fit the layers: 'dense_1/extra' is not of the layers$"),
        (
            {"w": np.zeros((3, 4), np.float32)},
            r"arrays do not fit the layers: dense_1/w is float32 \(3, 4\), expected float32 \(4, 3\)$",
        ),
        ({"w": np.zeros((4, 3))}, r"arrays do not fit .*: dense_1/w is float64 \(4, 3\), expected float32 \(4, 3\)$"),
        (
            {"w": np.zeros((4, 3), ">f4"), "b": None},
            r"arrays do not fit the layers: dense_1/b is missing; dense_1/w is >f4 \(4, 3\), expected float32 \(4, 3\)$",
        ),
        ({"format": 3}, "got format 3, expected 2: of another version of minicnn$"),
        ({"format": 1}, "got format 1, expected 2: of another version of minicnn$"),
        ({"format": None}, "got format None, expected 2: of another version of minicnn$"),
        ({"layers": [{"class": "Explode"}]}, "layer 'Explode' is not known"),
        ({"layers": [{"class": "Layer"}]}, "layer 'Layer' is not known"),
        ({"layers": [{"class": "Dense"}]}, "not a model file of minicnn .*units"),
        ({"layers": [{"class": "Dense", "units": -1}]}, "not a model file of minicnn .*units: got -1"),
        ({"layers": [{"class": "Dense", "units": 3, "more": 1}]}, "not a model file of minicnn .*more"),
        (
            {"layers": [{"class": "Dense", "units": 10**15}]},
            r"arrays do not fit .* expected float32 \(4, 1000000000000000\)$",
        ),
        ({"layers": [{"units": 3}]}, "not a model file of minicnn .*class"),
        ({"layers": []}, "not a model file of minicnn"),
        ({"layers": 3}, "not a model file of minicnn"),
        ({"layers": ["Dense"]}, "not a model file of minicnn"),
        ({"layers": [{"class": ["Dense"]}]}, "not a model file of minicnn"),
        ({"input_shape": [5, 5]}, "not a model file of minicnn .*dense_1"),
        ({"input_shape": None}, "not a model file of minicnn"),
        ({"dtype": "float16"}, "not a model file of minicnn .*float16"),
        ({"seed": -1}, "not a model file of minicnn"),
        ({"mean": [1.0, 2.0]}, "not a model file of minicnn"),
        ({"mean": "none"}, "not a model file of minicnn"),
    ],
)
def test_a_file_that_was_tampered_with_is_refused(tmp_path, changes, message):
    with pytest.raises(ModelFileError, match=rf"model\.npz: {message}") as caught:
        minicnn.load(dense(tmp_path / "model.npz", **changes))
    assert len(str(caught.value).splitlines()) == 1


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def archive(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as writer:
        for name, content in members.items():
            writer.writestr(f"{name}.npy", content)
    return file.getvalue()


HUGE = npy(np.zeros(3, np.uint8)).replace(b"(3,), }" + 12 * b" ", b"(3" + 12 * b"0" + b",), }")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 nothing that one could unzip",
        b"label,pixel1\n1,2\n",
        npy(np.zeros(3)),
        archive(),
        archive(config=npy(np.zeros(3, np.uint8))),
        archive(config=npy(np.frombuffer(b"[]", np.uint8))),
        archive(config=npy(np.frombuffer(b"{}", np.uint8))),
        archive(config=npy(np.frombuffer(b"\xff\xfe", np.uint8))),
        archive(config=npy(np.frombuffer(b"[" * 100_000, np.uint8))),
        archive(config=b"\x93NUMPY"),
        archive(config=b"text"),
        archive(config=HUGE),
    ],
    ids=range(13),
)
def test_what_is_no_model_is_refused(tmp_path, content):
    path = tmp_path / "model.npz"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"model\.npz: (not a model file of minicnn|got format None)") as caught:
        minicnn.load(path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    path = tmp_path / "model.npz"
    Sequential([Dense(3)], (4,)).save(path)
    content = path.read_bytes()
    for length in range(0, len(content), 23):
        path.write_bytes(content[:length])
        with pytest.raises(ModelFileError, match="not a model file of minicnn"):
            minicnn.load(path)


@pytest.mark.parametrize("by_numpy", [False, True])
def test_a_damaged_byte_never_passes_unseen(tmp_path, by_numpy):
    path = tmp_path / "model.npz"
    Sequential([Dense(3)], (4,)).save(path)
    with np.load(path) as archive:
        arrays = dict(archive)
    if by_numpy:
        np.savez(path, **arrays)
    assert minicnn.load(path).layers[0].units == 3
    content = path.read_bytes()
    correct = arrays["dense_1/w"]
    for at in range(0, len(content), 7):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
        try:
            model = minicnn.load(path)
        except ModelFileError:
            continue
        np.testing.assert_array_equal(model.layers[0].w.value, correct)  # a byte that means nothing, such as a date


def test_a_compressed_file_is_refused_because_nobody_knows_how_large_it_is(tmp_path):
    path = tmp_path / "model.npz"
    Sequential([Dense(3)], (4,)).save(path)
    with np.load(path) as archive:
        np.savez_compressed(path, **archive)
    with pytest.raises(ModelFileError, match="'config': is compressed, expected it to be stored as it is"):
        minicnn.load(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(ModelFileError, match=r"gone\.npz: no such file"):
        minicnn.load(tmp_path / "gone.npz")
    with pytest.raises(ModelFileError, match="not a model file of minicnn"):
        minicnn.load(tmp_path)
    with pytest.raises(OSError, match="no folder"):
        everything().save(tmp_path / "no folder" / "model.npz")


# ---------------------------------------------------------------------------------------------------------------
# Weights by themselves


def test_weights_move_from_one_model_to_another():
    model, other = trained(), everything(seed=1)
    weights = model.get_weights()
    other.set_weights(weights)
    x = IMAGES / 255 - 0.5
    np.testing.assert_array_equal(other.predict(x), model.predict(x))
    weights[0][...] = 0  # they were copies
    assert model.get_weights()[0].any()
    assert other.get_weights()[0].any()


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda w: w[:-1], ShapeError, r"weights: got \d+ arrays, expected \d+"),
        (lambda w: [*w, w[0]], ShapeError, r"weights: got \d+ arrays"),
        (
            lambda w: [*w[:-1], np.zeros((1, 3))],
            ShapeError,
            r"dense_1/b: got float64 of shape \(1, 3\), expected numbers of shape \(3,\)",
        ),
        (
            lambda w: [*w[:-1], 0.0],
            ShapeError,
            r"dense_1/b: got float64 of shape \(\), expected numbers of shape \(3,\)",
        ),
        (lambda w: [*w[:-1], ["a", "b", "c"]], ShapeError, "dense_1/b: got <U1 of shape"),
    ],
)
def test_set_weights_takes_all_or_nothing(spoil, error, message):
    model = everything()
    before = model.parameters.values.copy(), model.parameters.statistics.copy()
    with pytest.raises(error, match=message):
        model.set_weights(spoil([w + 1 for w in model.get_weights()]))
    np.testing.assert_array_equal(model.parameters.values, before[0])
    np.testing.assert_array_equal(model.parameters.statistics, before[1])


@pytest.mark.parametrize("make", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_a_copy_is_a_model_of_its_own(make):
    model = Sequential(
        [Conv2D(4, 3), DepthwiseConv2D(3), Residual(BatchNorm(), Dropout(0.1)), Flatten(), Dense(3)], (12, 10, 2)
    )
    model.fit(IMAGES, LABELS, verbose=False)
    twin = make(model)
    np.testing.assert_array_equal(twin.predict(IMAGES), model.predict(IMAGES))
    for a, b in zip(twin.arrays().values(), model.arrays().values(), strict=True):
        assert np.shares_memory(
            a.value, twin.parameters.statistics if a.name in ("mean", "variance") else twin.parameters.values
        )
        assert not hasattr(a, "grad") or np.shares_memory(a.grad, twin.parameters.grads)
        assert not np.shares_memory(a.value, b.value)
    before = model.get_weights()
    for one in (twin, model):
        one.fit(IMAGES, LABELS, epochs=2, verbose=False)
    for a, b, old in zip(twin.get_weights(), model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)  # both went the same way
        assert not np.array_equal(a, old)


# ---------------------------------------------------------------------------------------------------------------
# What the classes are called, and what the training images were


def test_class_names_and_the_range_of_floats_travel_with_the_file(tmp_path):
    model = Sequential([Flatten(), Dense(3)], (12, 10, 2))
    assert model.class_names is None
    model.class_names = ("cat", "dog", "<b>ö")
    model.fit(IMAGES / 100 - 1, LABELS, verbose=False)
    model.save(tmp_path / "m.npz")
    again = minicnn.load(tmp_path / "m.npz")
    assert again.class_names == copy.deepcopy(model).class_names == pickle.loads(pickle.dumps(model)).class_names
    assert again.class_names == ["cat", "dog", "<b>ö"] and again.scale.range == model.scale.range == (
        -1.0,
        255 / 100 - 1,
    )
    other = Sequential([Flatten(), Dense(3)], (12, 10, 2))
    other.load_weights(tmp_path / "m.npz")
    assert other.scale.range == model.scale.range and other.class_names is None


@pytest.mark.parametrize(
    "names", [["a", "b"], "abc", ["a", "b", 3], ["a", "b", ""], ["a", "b", "c" * 201], {"a", "b", "c"}]
)
def test_class_names_that_do_not_fit_are_refused(names):
    model = Sequential([Flatten(), Dense(3)], (2, 2, 1))
    with pytest.raises(ValueError, match=r"class_names: got .*, expected 3 names of 1 to 200 characters"):
        model.class_names = names


def with_config(path, **changes):
    """The file with other values in its description."""
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    (name,) = [name for name in parts if b'"input_shape"' in parts[name]]
    array = np.load(io.BytesIO(parts[name]))
    config = json.loads(array.tobytes() if array.dtype == np.uint8 else str(array)) | changes
    buffer, text = io.BytesIO(), json.dumps(config)
    np.save(buffer, np.frombuffer(text.encode(), np.uint8) if array.dtype == np.uint8 else np.array(text))
    with zipfile.ZipFile(path, "w") as file:
        for key, content in (parts | {name: buffer.getvalue()}).items():
            file.writestr(key, content)


@pytest.mark.parametrize(
    "changes",
    [
        *({"class_names": v} for v in (["a"] * 4, ["a", "b", None], "abc", {"a": 1}, ["a", "b", "c" * 10**6], 7, True)),
        *(
            {"range": v}
            for v in ([1], [1, 0], [0, 1, 2], ["0", "1"], "01", 7, [0, None], [0, float("inf")], [[0], [1]])
        ),
    ],
)
def test_class_names_and_ranges_that_are_none_are_refused(tmp_path, changes):
    model = Sequential([Flatten(), Dense(3)], (2, 2, 1))
    model.save(tmp_path / "m.npz")
    with_config(tmp_path / "m.npz", class_names=["a", "b", "c"], range=[0, 1])
    assert minicnn.load(tmp_path / "m.npz").class_names == ["a", "b", "c"]
    with_config(tmp_path / "m.npz", **changes)
    with pytest.raises(ModelFileError) as caught:
        minicnn.load(tmp_path / "m.npz")
    assert next(iter(changes)) in str(caught.value) and len(str(caught.value)) < 600 and "\n" not in str(caught.value)
