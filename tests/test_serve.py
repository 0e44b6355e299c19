"""The server of examples/serve.py, run as its user runs it and asked over the loopback."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minicnn import Dense, Flatten, Sequential, load_fashion_mnist

SERVE = Path(__file__).parents[1] / "examples" / "serve.py"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model():
    data = load_fashion_mnist("sample", verbose=False)
    made = Sequential([Flatten(), Dense(10)], (28, 28, 1), seed=3)
    made.scale.learn(data.train_images)
    made.class_names = data.class_names
    return made


@pytest.fixture(scope="module")
def address(model, tmp_path_factory):
    """Where a server of the model listens, at a port that was free."""
    path = tmp_path_factory.mktemp("a model") / "model.npz"
    model.save(path)
    command = [sys.executable, str(SERVE), str(path), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            said = ""
            while not (found := re.search(r"running on (http://127\.0\.0\.1:\d+)", said)):
                line = server.stderr.readline()
                assert line, f"the server ended: {said}"
                said += line
            yield found.group(1)
        finally:
            server.terminate()


def ask(address, content, kind="application/octet-stream"):
    """(status, answer) of one image that is sent."""
    request = urllib.request.Request(f"{address}/predict", content, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)["detail"]


def test_bytes_and_files_are_answered_as_the_model_answers_many_at_once(address, model):
    images = load_fashion_mnist("sample", verbose=False).test_images[:40]
    files = [io.BytesIO() for _ in images]
    for image, file in zip(images, files, strict=True):
        Image.fromarray(image[..., 0]).save(file, "PNG")
    sent = [(image.tobytes(), "application/octet-stream") for image in images]
    sent += [(file.getvalue(), "image/png") for file in files]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda what: ask(address, *what), sent))
    assert {status for status, _ in answers} == {200}
    expected = np.concatenate([model.predict(images)] * 2)
    found = np.array([[answer["probabilities"][name] for name in model.class_names] for _, answer in answers])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert [answer["class"] for _, answer in answers] == [model.class_names[k] for k in expected.argmax(axis=1)]
    assert len({answer["class"] for _, answer in answers}) > 1


def test_what_is_no_image_is_refused_in_one_line(address):
    expected = "expected 784, uint8 of shape (28, 28, 1), or a file with Content-Type: image/..."
    assert ask(address, bytes(783)) == (400, f"image: got 783 bytes, {expected}")
    assert ask(address, b"") == (400, f"image: got 0 bytes, {expected}")
    assert ask(address, bytes(784), "image/png") == (415, "image: got 784 bytes that cannot be read as image/png")
    assert ask(address, bytes(10_000_001)) == (413, "image: got more than 10,000,000 bytes")
    assert ask(address, bytes(784))[0] == 200


@pytest.mark.parametrize("told", ["no such file", "the model takes other input than uint8 images"])
def test_a_model_that_cannot_be_served_is_told_in_one_line(told, tmp_path):
    path = tmp_path / "model.npz"
    if "file" not in told:
        Sequential([Flatten(), Dense(10)], (28, 28, 1)).save(path)
    done = subprocess.run([sys.executable, str(SERVE), str(path)], capture_output=True, text=True)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ") and told in line


@pytest.mark.parametrize(("example", "missing"), [("serve", "uvicorn"), ("search", "optuna")])
def test_an_extra_that_is_missing_is_named_in_one_line(example, missing):
    path = SERVE.with_name(f"{example}.py")
    code = f"import runpy, sys; sys.modules[{missing!r}] = None; runpy.run_path({str(path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert missing in line and line.endswith(f': pip install "minicnn-numba[{example}]"')
