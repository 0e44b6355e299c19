"""Files from strangers: a model or a checkpoint that is damaged or made to do harm is refused in one line that names the
field, after little work and under 200 MB; and whatever bytes a file holds, it loads or raises the error that is documented.

A hostile file is written by hand here, member by member, for no decent library would write it.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import warnings
import zipfile

import numpy as np
import pytest
from children import counted, measured
from hypothesis import given, settings
from hypothesis import strategies as st

import minicnn
from minicnn import BatchNorm, Checkpoint, Conv2D, Dense, Flatten, LeakyReLU, Residual, Sequential, archive
from minicnn.data import load_csv, load_idx, save_csv, save_idx
from minicnn.errors import CheckpointError, DataError, ModelFileError
from minicnn.model_files import describe, load_weights

pytestmark = pytest.mark.usefixtures("numpy_backend")
MEMBERS = 100_000


def small(seed=0):
    return Sequential([Dense(3)], (4,), seed=seed)


CONFIG = describe(small())
ARRAYS = {"dense_1/w": np.ones((4, 3), np.float32), "dense_1/b": np.ones(3, np.float32)}


def npy(array, **header):
    """An array as .npy; its header may say something else."""
    file = io.BytesIO()
    if header:
        usual = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
        np.lib.format.write_array_header_1_0(file, usual | header)
        file.write(array.tobytes())
    else:
        np.lib.format.write_array(file, array)
    return file.getvalue()


def members(config=None, **arrays):
    """(name, bytes) of a file's members; an array is given by the end of its name, and None leaves it out."""
    text = json.dumps(CONFIG | (config or {})).encode() if not isinstance(config, bytes) else config
    found = {"config": npy(np.frombuffer(text, np.uint8))} | {name: npy(array) for name, array in ARRAYS.items()}
    for name, content in arrays.items():
        found["dense_1/" + name if name in "wb" else name] = content
    return [(f"{name}.npy", content) for name, content in found.items() if content is not None]


def stored(path, members, method=zipfile.ZIP_STORED):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", method) as file:
        warnings.simplefilter("ignore")  # names that stand there twice
        for name, content in members:
            file.writestr(name, content)


def layers(*described):
    return {"layers": list(described)}


RELU = {"class": "ReLU"}


# ---------------------------------------------------------------------------------------------------------------
# Files that no library would write


def entry(name, size, offset, crc=0):
    """A member in the list at the end of a zip file."""
    fixed = struct.pack(
        "<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 33, crc, size, size, len(name), 0, 0, 0, 0, 0, offset
    )
    return fixed + name


def local(name, size, crc=0):
    """What stands before a member's bytes."""
    return struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 33, crc, size, size, len(name), 0) + name


def end(count, directory, offset):
    return struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), offset, 0)


def many_members(path, count, said):
    directory = entry(b"a", 0, 0) * count
    path.write_bytes(directory + end(said, directory, 0))


def overlapping(path, units=1_000_000, count=60):
    """Arrays of four megabytes, each beginning a little behind the one before it: a file of four, a model of 240."""
    names = [f"dense_{i}/w.npy".encode() for i in range(1, count + 1)]
    content, begins = np.zeros(units, np.float32).tobytes(), []
    for i, name in reversed(list(enumerate(names))):
        header = npy(np.zeros(0, np.float32), shape=(units, 1) if i % 2 else (1, units))
        body = (header + content)[: len(header) + 4 * units]
        before = local(name, len(body), zipfile.crc32(body)) + header
        begins.insert(0, (name, len(body), zipfile.crc32(body), len(before)))
        content = before + content
    described = [{"class": "Dense", "units": 1 if i % 2 else units, "use_bias": False} for i in range(count)]
    text = npy(np.frombuffer(json.dumps(CONFIG | {"input_shape": [1]} | layers(*described)).encode(), np.uint8))
    first = local(b"config.npy", len(text), zipfile.crc32(text)) + text
    directory, at = entry(b"config.npy", len(text), 0, zipfile.crc32(text)), len(first)
    for name, size, crc, length in begins:
        directory += entry(name, size, at, crc)
        at += length
    path.write_bytes(first + content + directory + end(count + 1, directory, len(first + content)))


def with_gap(path):
    """Three gigabytes of nothing before the list of members; on the disk they take no place."""
    stored(path, members())
    content = path.read_bytes()
    at = content.rfind(b"PK\5\6")
    (offset,) = struct.unpack_from("<I", content, at + 16)
    with open(path, "r+b") as file:
        file.seek(offset + 3_000_000_000)
        file.write(content[offset:at] + end(3, content[offset:at], offset + 3_000_000_000))


def claiming(path, size):
    """A member that says it has so many bytes."""
    directory = entry(b"config.npy", size, 0)
    start = local(b"config.npy", size)
    path.write_bytes(start + directory + end(1, directory, len(start)))


def with_zip64_end(path):
    stored(path, members())
    content = path.read_bytes()
    at = content.rfind(b"PK\5\6")
    record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 2**40, 2**40, 2**40, 0)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, at, 1)
    path.write_bytes(content[:at] + record + locator + end(65535, b"", 0))


def edited(**header):
    return lambda path: stored(path, members(w=npy(ARRAYS["dense_1/w"], **header)))


def with_members(*extra, **changes):
    return lambda path: stored(path, [*members(**changes), *extra])


def dense(**arguments):
    return with_members(config=layers({"class": "Dense", "units": 3, **arguments}))


def layer(name, **arguments):
    return with_members(config=layers({"class": name, **arguments}))


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


DEEP = RELU
for _ in range(150):
    DEEP = {"class": "Residual", "layers": [DEEP, RELU]}
WIDE = RELU
for _ in range(19):
    WIDE = {"class": "Residual", "layers": [WIDE, *[RELU] * 250]}
OBJECTS = io.BytesIO()
np.lib.format.write_array(OBJECTS, np.array([Evil()], object), allow_pickle=True)

HOSTILE = {
    # sizes
    "shape bomb": (
        edited(shape=(10**9, 10**9)),
        r"dense_1/w is float32 \(1000000000, 1000000000\), expected .*\(4, 3\)",
    ),
    "shape of another length": (edited(shape=(4, 4)), r"dense_1/w is float32 \(4, 4\)"),
    "negative shape": (edited(shape=(-4, -3)), "dense_1/w: header"),
    "shape of a hundred dimensions": (edited(shape=(1,) * 100), r"dense_1/w is float32 \(1, 1"),
    "fewer numbers": (with_members(w=npy(ARRAYS["dense_1/w"])[:-4]), "dense_1/w has another length"),
    "more numbers": (with_members(w=npy(ARRAYS["dense_1/w"]) + b"1234"), "dense_1/w has another length"),
    "10^9 units": (dense(units=10**9), r"dense_1/w is float32 \(4, 3\), expected float32 \(4, 1000000000\)"),
    "10^9 filters": (
        with_members(
            config={"input_shape": [9, 9, 1]} | layers({"class": "Conv2D", "filters": 10**9, "kernel_size": 3})
        ),
        "conv2d_1/b is missing",
    ),
    "10^9 pixels": (
        with_members(
            config={"input_shape": [10**9, 10**9, 10**9]} | layers({"class": "Flatten"}, {"class": "Dense", "units": 3})
        ),
        r"dense_1/w is float32 \(4, 3\), expected float32 \(10{27}, 3\)",
    ),
    "a number of 4000 digits": (dense(units=int("9" * 4000)), r"dense_1/b is float32 \(3,\)"),
    "zip bomb": (lambda path: stored(path, members(w=bytes(10**8)), zipfile.ZIP_DEFLATED), "'config': is compressed"),
    "gap of gigabytes": (with_gap, "3,000,000,... bytes belong to no array"),
    "claims 4 GB": (lambda path: claiming(path, 2**32 - 2), "config: 4,294,967,294 bytes, expected at most"),
    # the list of members
    "twice": (with_members(("dense_1/w.npy", npy(ARRAYS["dense_1/w"]))), "'dense_1/w': stands in the file twice"),
    "missing": (with_members(w=None), "dense_1/w is missing"),
    "no config": (lambda path: stored(path, members()[1:]), "config: missing"),
    "one more": (with_members(("more.npy", npy(np.zeros(3)))), "'more' is not of the layers"),
    "upwards": (with_members(("../evil.npy", npy(np.zeros(3)))), r"'\.\./evil' is not of the layers"),
    "absolute": (with_members(("/evil.npy", npy(np.zeros(3)))), "'/evil' is not of the layers"),
    "a name with control characters": (with_members(("a\n\x1b[2J.npy", b"")), r"'a\\n\\x1b\[2J' is not of the layers"),
    "a long name": (with_members(("a" * 60_000, b"")), "'a{60}…' is not of the layers"),
    "100,000 members": (
        lambda path: many_members(path, MEMBERS, 65535),
        "members: got 65,535 or more, expected at most",
    ),
    "100,000 members, said to be 3": (lambda path: many_members(path, MEMBERS, 3), "members: got 100,000 or more"),
    "10,000 members": (lambda path: many_members(path, 10_000, 10_000), "'a': stands in the file twice"),
    # what Python 3.13 finds out by itself
    "overlapping": (overlapping, "members: .* bytes in a file of .*, expected that none overlap|Overlapped entries"),
    "zip64 end": (with_zip64_end, "members: got 65,535 or more"),
    # arrays
    "float64": (with_members(w=npy(np.ones((4, 3)))), r"dense_1/w is float64 \(4, 3\), expected float32"),
    "big-endian": (with_members(w=npy(np.ones((4, 3), ">f4"))), "dense_1/w is >f4"),
    "objects": (with_members(w=OBJECTS.getvalue()), "dense_1/w is object|dense_1/w: header"),
    "a pickle": (with_members(w=pickle.dumps(Evil())), "dense_1/w: begins with"),
    "fields": (edited(descr=[("a", "<f4"), ("b", "<f4")]), "dense_1/w: header"),
    "2 GB a number": (edited(descr="|V2000000000", shape=(1,)), "dense_1/w"),
    "Fortran order": (edited(fortran_order=True), "dense_1/w: in Fortran order"),
    "nested header": (with_members(w=b"\x93NUMPY\1\0" + struct.pack("<H", 9000) + b"-" * 9000), "dense_1/w: header"),
    "NaN": (with_members(w=npy(np.full((4, 3), np.nan, np.float32))), "dense_1/w: got NaN"),
    # the description
    "5 MB of description": (
        with_members(config=b"{" + b" " * 5_000_000 + b"}"),
        "config: 5,000,130 bytes, expected at most",
    ),
    "a million lists": (with_members(config=layers(*[[]] * 980_000)), r"layers\[0\]: expected a layer's class"),
    "nested JSON": (with_members(config=b"[" * 500_000), "recursion"),
    "a list": (with_members(config=b"[]"), "config: got list"),
    "later format": (with_members(config={"format": 3}), "got format 3, expected 2: of another version of minicnn"),
    "50,000 layers": (
        with_members(config=layers(*[RELU] * 50_000)),
        "layers: got 50,000, expected at most",
    ),
    "layers 150 deep": (
        with_members(config=layers(DEEP)),
        "Residual: got 21 of them one in another, expected at most 20",
    ),
    "layers wide and deep": (with_members(config=layers(WIDE, {"class": "Dense", "units": 4})), "dense_1/b is float32"),
    "unknown layer": (layer("Explode"), "layer 'Explode' is not known"),
    "a name of the module": (layer("__builtins__"), "layer '__builtins__' is not known"),
    "a base class": (layer("Layer"), "layer 'Layer' is not known"),
    "units of text": (dense(units="3"), "units: got '3'"),
    "units of true": (dense(units=True), "units: got True"),
    "units of 3.0": (dense(units=3.0), "units: got 3.0"),
    "bias of text": (dense(use_bias="yes"), "use_bias: got 'yes', expected True or False"),
    "slope of text": (layer("LeakyReLU", negative_slope="1"), "negative_slope: got '1', expected a finite number"),
    "slope of infinity": (layer("LeakyReLU", negative_slope=float("inf")), "negative_slope: got inf"),
    "slope a layer": (layer("LeakyReLU", layers=[RELU]), r"negative_slope: got ReLU\(\)"),
    "momentum of text": (layer("BatchNorm", momentum="0.9"), "momentum: got '0.9'"),
    "epsilon of infinity": (layer("BatchNorm", epsilon=float("inf")), "epsilon: got inf"),
    "rate of 2": (layer("Dropout", rate=2), "rate: got 2"),
    "kernel of three": (layer("Conv2D", filters=1, kernel_size=[1, 2, 3]), r"kernel_size: got \[1, 2, 3\]"),
    "activation of code": (dense(activation="os.system"), "activation: got 'os.system'"),
    "activation a list": (dense(activation=[]), "layers.0."),
    "initializer of code": (dense(kernel_initializer="eval"), "initializer: got 'eval'"),
    "another argument": (dense(build="x"), "build"),
    "2 MB of an argument's name": (
        layer("Residual", **{"a" * 2_000_000: {"class": "Residual", "layers": [RELU] * 4_900}}),
        r"layers\[0\]: Residual: .*'a{60}",
    ),
    "2 MB of an argument's name, and a mistake in it": (
        layer(
            "Residual", **{"a" * 2_000_000: {"class": "Residual", "layers": [*[RELU] * 4_900, {"class": "Explode"}]}}
        ),
        r"layer 'Explode' is not known; .* \(at layers\[0\]\.a{60}\.layers\[4900\]\)$",
    ),
    "name as an argument": (dense(self=1), "layers.0.: Dense"),
    "no list of layers": (with_members(config={"layers": "Dense"}), "layers: got 'Dense', expected list"),
    "input of floats": (with_members(config={"input_shape": [4.0]}), r"input_shape: got \[4.0\]"),
    "input of 1.2 million ones": (
        with_members(
            config={"input_shape": [1] * 1_200_000} | layers(*[{"class": "Residual", "layers": [RELU]}] * 2_000)
        ),
        r"input_shape: got \[1, 1, .*",
    ),
    "input of 33 ones": (
        with_members(config={"input_shape": [1] * 33}),
        r"input_shape: got \[1, 1, .*, expected whole",
    ),
    "input of nothing": (with_members(config={"input_shape": []}), "input"),
    "seed below 0": (with_members(config={"seed": -1}), "seed: got -1"),
    "seed of text": (with_members(config={"seed": "0"}), "seed: got '0'"),
    "float16": (with_members(config={"dtype": "float16"}), "dtype: got 'float16'"),
    "mean of NaN": (with_members(config={"mean": [float("nan")] * 4, "std": [1.0] * 4}), "mean: got"),
    "standard deviation of 5e-324": (
        with_members(config={"mean": [0.5] * 4, "std": [5e-324] * 4}),
        r"mean and std: got .*5e-324, .*, expected .pixel - mean. / std finite",
    ),
    "mean of 1e300": (with_members(config={"mean": [1e300] * 4, "std": [1.0] * 4}), "std: got"),
    "standard deviation of 0": (with_members(config={"mean": [0.0] * 4, "std": [0.0] * 4}), "std: got"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_model_is_refused_at_once_by_name(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, message = HOSTILE[case]
    make(tmp_path / "model.npz")
    found = measured(minicnn.load, tmp_path / "model.npz")
    assert isinstance(found.error, ModelFileError), found
    with pytest.raises(ModelFileError, match=rf"model\.npz: .*({message})"):
        raise found.error
    assert len(str(found.error).splitlines()) == 1
    assert str(found.error).isprintable()
    assert found.megabytes < 200
    work = counted(archive, minicnn.load, tmp_path / "model.npz")
    assert work.calls < 2_000_000
    assert work.handed < 50_000_000
    assert 0 < work.read < 10_000_000
    assert os.listdir(tmp_path) == ["model.npz"]


def test_what_the_hostile_files_are_made_from_is_a_model(tmp_path):
    stored(tmp_path / "model.npz", members())
    np.testing.assert_array_equal(minicnn.load(tmp_path / "model.npz").parameters.values, 1)


# ---------------------------------------------------------------------------------------------------------------
# Weights of another model


def conv(units=3, filters=2):
    return Sequential([Conv2D(filters, 3), BatchNorm(), Flatten(), Dense(units)], (5, 5, 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            conv,
            r"arrays do not fit this model: batchnorm_1/beta is missing; .*'dense_1/w'|dense_1/w is float32 \(4, 3\)",
        ),
        (lambda: Sequential([Dense(5)], (4,)), r"dense_1/b is float32 \(3,\), expected float32 \(5,\); dense_1/w is"),
        (lambda: Sequential([Dense(3)], (4,), dtype="float64"), r"dense_1/b is float32 \(3,\), expected float64"),
        (
            lambda: Sequential([Residual(LeakyReLU()), Dense(3, use_bias=False)], (4,)),
            "'dense_1/b' is not of this model",
        ),
    ],
)
def test_weights_of_another_model_are_refused_with_all_that_differs(make, message, tmp_path):
    small().save(tmp_path / "model.npz")
    model = make()
    before = model.parameters.values.copy(), model.parameters.statistics.copy()
    with pytest.raises(ModelFileError, match=message):
        load_weights(model, tmp_path / "model.npz")
    np.testing.assert_array_equal(model.parameters.values, before[0])
    np.testing.assert_array_equal(model.parameters.statistics, before[1])


def test_weights_of_a_later_format_are_refused(tmp_path):
    stored(tmp_path / "model.npz", members(config={"format": 3}))
    model = small()
    before = model.parameters.values.copy()
    with pytest.raises(ModelFileError, match=r"model\.npz: got format 3, expected 2: of another version of minicnn$"):
        load_weights(model, tmp_path / "model.npz")
    np.testing.assert_array_equal(model.parameters.values, before)


def of_format_1(path):
    """A model as version 0.1 wrote it."""
    described = {"class": "Dense", "units": 3, "use_bias": True, "activation": None, "kernel_initializer": "glorot"}
    config = {"format": 1, "input_shape": [4], "dtype": "float32", "seed": 0, "mean": None, "deviation": None}
    stored(path, members(json.dumps(config | layers(described)).encode()))


@pytest.mark.parametrize("read", [minicnn.load, lambda path: small().load_weights(path)], ids=["load", "load_weights"])
def test_a_model_of_the_version_before_is_refused_in_one_line_that_says_so(read, tmp_path):
    of_format_1(tmp_path / "model.npz")
    with pytest.raises(ModelFileError) as caught:
        read(tmp_path / "model.npz")
    assert str(caught.value) == f"{tmp_path / 'model.npz'}: got format 1, expected 2: of another version of minicnn"


# ---------------------------------------------------------------------------------------------------------------
# Every byte, every length


def outcome_of_model(path):
    """What a model file holds, or None where it is refused."""
    try:
        model = minicnn.load(path)
    except ModelFileError as error:
        assert len(str(error).splitlines()) == 1
        return None
    return model.parameters.values.tobytes(), json.dumps(describe(model))


X, Y = np.random.default_rng(0).standard_normal((6, 4)), np.arange(6) % 3


def outcome_of_checkpoint(path):
    """How a run ends that goes on from a checkpoint, or None where it is refused."""
    model = small()
    try:
        history = model.fit(X, Y, 2, 3, "sgd", verbose=False, checkpoint=Checkpoint(path))
    except CheckpointError as error:
        assert len(str(error).splitlines()) == 1
        assert not model.parameters.values.any() or np.array_equal(model.parameters.values, small().parameters.values)
        return None
    return model.parameters.values.tobytes(), json.dumps(history)


def write_model(path):
    small().save(path)
    return outcome_of_model


def write_checkpoint(path):
    outcome_of_checkpoint(path)
    path.with_name(path.name + ".previous").unlink()
    return outcome_of_checkpoint


@pytest.fixture(params=[write_model, write_checkpoint], ids=["model", "checkpoint"])
def file(request, tmp_path):
    """A small file, and what reads it."""
    path = tmp_path / "file.npz"
    return path, request.param(path)


def check(file, contents):
    """Each is refused, or is as good as the whole one."""
    path, outcome = file
    whole = outcome(path)
    assert whole is not None
    for content in contents:
        path.write_bytes(content)
        assert outcome(path) in (None, whole)


def flipped(content, at, bits):
    return content[:at] + bytes([content[at] ^ bits]) + content[at + 1 :]


def test_a_flipped_byte_or_a_cut_is_refused_or_changes_nothing(file):
    content = file[0].read_bytes()
    check(file, (flipped(content, at, 1 << at % 8) for at in range(3, len(content), 41)))
    file[0].write_bytes(content)
    check(file, (content[:length] for length in range(0, len(content), 61)))


@pytest.mark.slow
def test_every_byte_flipped_is_refused_or_changes_nothing(file):
    content = file[0].read_bytes()
    check(file, (flipped(content, at, 1 << at % 8) for at in range(len(content))))


@pytest.mark.slow
def test_every_length_of_a_cut_is_refused(file):
    content = file[0].read_bytes()
    check(file, (content[:length] for length in range(len(content))))


@pytest.mark.slow
def test_every_byte_of_a_file_that_numpy_wrote_is_refused_or_changes_nothing(tmp_path):
    """It has no checksum but those of its members."""
    path = tmp_path / "model.npz"
    small().save(path)
    with np.load(path) as arrays:
        np.savez(path, **arrays)
    content = path.read_bytes()
    check((path, outcome_of_model), (flipped(content, at, 1 << at % 8) for at in range(len(content))))


# ---------------------------------------------------------------------------------------------------------------
# Any bytes at all


def read_csv(path):
    return load_csv(path, shape=(2, 2, 1))


def read_idx(path):
    return load_idx(path, path.with_name("labels"))


def read_checkpoint(path):
    try:
        small().fit(X, Y, 2, 3, "sgd", verbose=False, checkpoint=Checkpoint(path))
    finally:
        path.with_name(path.name + ".previous").unlink(missing_ok=True)


PIXELS, LABELS = np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1), np.array([0, 1, 2])
READERS = {
    "model": (minicnn.load, lambda path: small().save(path), ModelFileError),
    "checkpoint": (read_checkpoint, outcome_of_checkpoint, CheckpointError),
    "csv": (read_csv, lambda path: save_csv(path, PIXELS, LABELS), DataError),
    "idx": (read_idx, lambda path: save_idx(path, PIXELS[..., 0]), DataError),
    "idx.gz": (read_idx, lambda path: save_idx(path, PIXELS[..., 0]), DataError),
}


@pytest.fixture(scope="module", params=READERS)
def reader(request, tmp_path_factory):
    """A file of each kind: its path, its bytes, what reads it, and the error that this documents."""
    path = tmp_path_factory.mktemp("any") / f"file.{request.param}"
    read, write, error = READERS[request.param]
    save_idx(path.with_name("labels"), LABELS.astype(np.uint8))
    minicnn.use_backend("numpy")
    write(path)
    return path, path.read_bytes(), read, error


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_bytes_load_or_raise_the_documented_error(reader, data):
    path, whole, read, error = reader
    content = bytearray(whole)
    if data.draw(st.booleans(), label="arbitrary"):
        content = data.draw(st.binary(max_size=300))
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            start = data.draw(st.integers(0, len(content)))
            stop = start + data.draw(st.integers(0, 8))
            content[start:stop] = data.draw(st.binary(max_size=8))
    path.write_bytes(content)
    try:
        read(path)
    except error as caught:
        assert len(str(caught).splitlines()) == 1
        assert path.name in str(caught)


def test_a_variance_below_0_is_refused_by_name(tmp_path):
    model = minicnn.Sequential([minicnn.BatchNorm()], (4,))
    model.layers[0].variance.value[2] = -0.5
    model.save(tmp_path / "model.npz")
    with pytest.raises(ModelFileError, match=r"batchnorm_1/variance: got -0.5, expected at least 0$"):
        minicnn.load(tmp_path / "model.npz")
    with pytest.raises(ModelFileError, match=r"batchnorm_1/variance: got -0.5"):
        model.load_weights(tmp_path / "model.npz")


@pytest.mark.parametrize(
    "history",
    [
        {"loss": [1.0], "accuracy": []},
        {"loss": [1.0], "accuracy": [0.1, 0.2]},
        {"loss": [1.0], "accuracy": ["0.1"]},
        {"loss": [1.0], "accuracy": [None]},
        {"loss": ["1.0"], "accuracy": [0.1]},
        {"accuracy": [0.1]},
    ],
)
def test_a_history_that_no_run_can_have_is_refused_when_it_is_read(history, tmp_path):
    run, runs = small(), []

    class Keep(minicnn.callbacks.Callback):
        def on_train_begin(self, run):
            runs.append(run)

    run.fit(X, Y, 1, verbose=False, callbacks=Keep())
    (run,) = runs
    state = run.state()
    with pytest.raises(ValueError, match=r"^history: expected a number for each metric and each of 1 epochs"):
        run.restore(state | {"history": history})
    run.restore(state)
