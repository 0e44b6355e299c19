"""The page that shows every sum: its numbers are minicnn's, in Node and in a real browser."""

import base64
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from minicnn import (
    AveragePool2D,
    BatchNorm,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePool2D,
    GlobalMaxPool2D,
    LeakyReLU,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
    Softmax,
    losses,
    use_backend,
)
from minicnn.errors import DataError, ShapeError
from minicnn.explain import explain, page
from minicnn.explain.commands import main
from minicnn.explain.trace import trace
from minicnn.layers.activations import BY_NAME, Identity, softmax

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def numpy_backend():
    use_backend("numpy")
    yield
    use_backend("numba")


def missing(what):
    """A tool that is not there fails CI; elsewhere it is told, and the test is skipped."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{what} is missing; .ci/run installs it")


def shaken(layers, input_shape, seed):
    """A network whose every array is far from its first values, so that each of them counts."""
    model = Sequential(layers, input_shape=input_shape, seed=seed)
    rng = np.random.default_rng(seed)
    for w in model.arrays().values():
        w.value[...] += rng.uniform(0.05, 0.3, w.shape) * (1 if w.name == "variance" else rng.choice((-1, 1), w.shape))
    return model


def every_activation():
    return [layer for name in BY_NAME if name != "softmax" for layer in (Conv2D(3, 3, activation=name), BatchNorm())]


def networks():
    """Fresh layers and the shape of their images, by name."""
    return {
        "plain": ([Conv2D(4, 3, activation="relu"), MaxPool2D(), Flatten(), Dense(5)], (9, 8, 1)),
        "strides, dilation, groups": (
            [
                Conv2D(6, (3, 5), stride=2, activation="silu"),
                Conv2D(8, 3, dilation=2, groups=2, use_bias=False),
                DepthwiseConv2D((2, 3), stride=(1, 2), padding=1, activation="gelu"),
                GlobalAveragePool2D(),
                Dense(4),
            ],
            (15, 14, 3),
        ),
        "residual": (
            [
                Conv2D(4, 3),
                Residual(Conv2D(4, 3), BatchNorm(activation="relu"), Dropout(0.5), activation="relu"),
                Residual(Residual(Conv2D(4, 3), ReLU()), Conv2D(6, 3, stride=2), projection=Conv2D(6, 1, stride=2)),
                GlobalMaxPool2D(),
                Dense(3),
            ],
            (8, 8, 2),
        ),
        "pools that overlap": (
            [
                Conv2D(3, 3),
                MaxPool2D(3, stride=2, padding="same"),
                AveragePool2D(3, stride=1, padding=1),
                MaxPool2D(2, 1),
                Flatten(),
                Dense(4, activation="tanh"),
                BatchNorm(),
                LeakyReLU(0.2),
                Dense(3),
                Softmax(),
            ],
            (11, 9, 1),
        ),
        "every activation": ([*every_activation(), Flatten(), Dense(3, activation="sigmoid"), Dense(4)], (5, 5, 1)),
        "a regression": ([Flatten(), Dense(6, activation="tanh"), Dense(1)], (4, 4, 1)),
        "images out": ([Conv2D(2, 3, activation="softmax"), Conv2D(1, 3)], (6, 6, 1)),
    }


CUT = "too large, with "  # what is written with a page that holds fewer numbers


def numbers(array):
    return base64.b64encode(np.ascontiguousarray(array, np.float64).tobytes()).decode()


def reference(model, image, label):
    """All of the page's numbers as the layers' own NumPy gives them in float64."""
    seen, nodes = trace(model, image[None], label), {}
    for name, watched in seen.items():
        layer, y, dz = watched.layer, watched.y, watched.dy
        activate = getattr(layer, "activate", None)
        if activate is not None:
            y, dz = activate.x, activate.dx
            if isinstance(activate.layer, Identity):
                assert np.array_equal(y, watched.y)
        found = {"y": numbers(y), "dx": numbers(watched.dx), "channels": {}}
        own = next((top for top in model.all_layers() if top.name == name), None)
        if hasattr(layer, "w"):
            found["dw"] = numbers(layer.w.grad)
            if layer.use_bias:
                found["channels"]["b"] = numbers(layer.b.grad)
        elif isinstance(own, BatchNorm):
            axes = tuple(range(dz.ndim - 1))
            xhat = (watched.x - own.mean.value) / np.sqrt(own.variance.value.astype(np.float64) + own.epsilon)
            found["channels"] = {"gamma": numbers((dz * xhat).sum(axes)), "beta": numbers(dz.sum(axes))}
        nodes[name] = found
    classifies = len(model.output_shape) == 1 and model.output_shape[0] > 1
    result = {"nodes": nodes, "loss": None, "saliency": None, "cam": None}
    if classifies:
        outputs = seen[model.layers[-1].name].y
        p = outputs if model.gives_probabilities else softmax(outputs)
        result["loss"] = float(-np.log(p[0, label]))
    return result


def write_pages(folder):
    rng = np.random.default_rng(5)
    for seed, (name, (layers, shape)) in enumerate(networks().items()):
        model = shaken(layers, shape, seed)
        image = rng.integers(0, 256, shape, dtype=np.uint8) if seed % 2 else rng.standard_normal(shape).astype("f4")
        if seed % 2:
            model.scale.learn(rng.integers(0, 256, (20, *shape), dtype=np.uint8))
        write_page(folder, name, model, image)
    model = shaken([Conv2D(40, 3, groups=2), Flatten(), Dense(60, activation="relu"), Dense(4)], (6, 6, 4), 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "MOST_NUMBERS", 20_000)
        image = rng.standard_normal((6, 6, 4)).astype("f4")
        write_page(folder, CUT + "one layer", model, image)
        patch.setattr(page, "MOST_NUMBERS", 5_200)
        write_page(folder, CUT + "two layers", model, image)


def write_page(folder, name, model, image):
    classifies = len(model.output_shape) == 1 and model.output_shape[0] > 1
    label = 2 if classifies else None
    explain(model, image, folder / f"{name}.html", label)
    found = reference(model, image, label)
    if classifies and not name.startswith(CUT):
        found["saliency"] = numbers(model.saliency(image[None], np.array([2]))[0])
        if any(len(layer.output_shape) == 3 for layer in model.layers):
            found["cam"] = numbers(model.grad_cam(image[None], np.array([2]))[0])
    (folder / f"{name}.json").write_text(json.dumps(found))


def data_of(path):
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text("utf-8"), re.DOTALL).group(1))


def test_node_makes_the_same_sums_for_every_layer_in_both_directions(tmp_path):
    if not (node := shutil.which("node")):
        missing("node (Debian's package nodejs)")
    write_pages(tmp_path)
    done = subprocess.run(
        [node, "--test", str(HERE / "explain" / "sums.test.mjs")],
        env=os.environ | {"PAGES": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert f"pass {len(networks()) + 2}" in done.stdout


def test_the_networks_cover_every_layer():
    used = {type(layer).__name__ for layers, _ in networks().values() for top in layers for layer in top.layers()}
    used |= {BY_NAME[name].__name__ for name in BY_NAME if name != "softmax"}
    assert used == set(page.LAYERS)


def test_a_trace_begins_with_the_gradient_of_the_loss():
    model = shaken([Flatten(), Dense(4)], (3, 3, 1), 0)
    image = np.random.default_rng(0).standard_normal((1, 3, 3, 1)).astype("f4")
    dy = trace(model, image, 1)["dense_1"].dy
    assert np.allclose(dy, losses.CrossEntropy()(model.outputs(image).astype(float), np.array([1]))[1], atol=1e-6)


def test_a_large_network_gives_a_page_of_less_than_3_mb_that_says_what_is_missing(tmp_path):
    model = Sequential([Conv2D(8, 3), Flatten(), Dense(300, activation="relu"), Dense(10)])
    explain(model, np.zeros((28, 28), np.uint8), tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 3_000_000
    kept = data_of(tmp_path / "page.html")["nodes"][2]["kept"]
    assert 50 < len(kept) < 300 and kept == sorted(set(kept))


def test_names_from_outside_are_text_and_the_page_asks_for_nothing(tmp_path):
    evil = "</script><script>alert(1)</script>"
    model = Sequential([Flatten(), Dense(2)], input_shape=(3, 3, 1))
    explain(model, np.zeros((3, 3), np.uint8), tmp_path / "page.html", class_names=[evil, "b"], title=evil)
    text = (tmp_path / "page.html").read_text("utf-8")
    assert evil not in text and data_of(tmp_path / "page.html")["classes"][0] == evil
    assert "default-src 'none'" in text
    outside = [line for line in text.split("\n") if "http" in line and "http://www.w3.org/2000/svg" not in line]
    assert [line for line in outside if "http-equiv" not in line] == []


def test_the_model_is_as_it_was(tmp_path):
    model = shaken([Conv2D(3, 3), BatchNorm(), Flatten(), Dense(4)], (6, 6, 1), 0)
    before = [w.copy() for w in model.get_weights()], model.parameters.grads.copy()
    explain(model, np.zeros((6, 6), np.uint8), tmp_path / "page.html")
    assert all(map(np.array_equal, before[0], model.get_weights()))
    assert np.array_equal(before[1], model.parameters.grads)


class Own(ReLU):
    pass


@pytest.mark.parametrize(
    ("layers", "image", "options", "error", "says"),
    [
        ([Flatten(), Own(), Dense(2)], np.zeros((3, 3)), {}, TypeError, "own_1: got Own, expected one of minicnn's"),
        ([Flatten(), Dense(2)], np.zeros((4, 4)), {}, ShapeError, r"images: got shape \(1, 4, 4\)"),
        ([Flatten(), Dense(2)], np.zeros((3, 3)), {"label": 2}, DataError, "labels: got 2 at index 0, expected 0 to 1"),
        ([Flatten(), Dense(2)], np.zeros((3, 3)), {"class_names": ["a"]}, ValueError, "got 1 names, expected 2"),
        ([Flatten(), Dense(1)], np.zeros((3, 3)), {"label": 0}, ValueError, "label: got 0, expected none"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(layers, image, options, error, says, tmp_path):
    model = Sequential(layers, input_shape=(3, 3, 1))
    with pytest.raises(error, match=says):
        explain(model, image, tmp_path / "page.html", **options)
    assert not (tmp_path / "page.html").exists()


def test_the_command_writes_a_page_and_tells_mistakes_in_one_line(tmp_path, capsys):
    model = Sequential([Flatten(), Dense(10)])
    model.save(tmp_path / "model.npz")
    asked = [str(tmp_path / "model.npz"), "--data", "sample", "--out", str(tmp_path / "a page.html")]
    assert main([*asked, "--image", "7"]) == 0
    assert "image 7 of Fashion-MNIST" in data_of(tmp_path / "a page.html")["title"]
    assert main([*asked, "--image", "1000"]) == 1
    assert "--image: got 1000, expected 0 to 999" in capsys.readouterr().err


# -- a real browser ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        missing("chromium or chromedriver (Debian's packages chromium and chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-sync"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield window
    window.quit()


def open_page(browser, path, width=1280, height=800):
    from selenium.webdriver.support.wait import WebDriverWait

    phone = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    browser.get(path.as_uri())
    WebDriverWait(browser, 60).until(lambda b: "ready" in b.find_element("tag name", "body").get_attribute("class"))
    assert browser.get_log("browser") == []


def told(browser):
    """(name, index, value) of the sum that the page shows."""
    equation = browser.find_element("id", "equation")
    name, at, value = (equation.get_attribute(f"data-{key}") for key in ("name", "at", "value"))
    return name, int(at), float(value)


def hover(browser, map_id, row, column, rows, columns):
    """Move the pointer to the middle of a cell."""
    from selenium.webdriver.common.action_chains import ActionChains

    cells = browser.find_element("id", map_id)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", cells)
    right, down = (column + 0.5) / columns - 0.5, (row + 0.5) / rows - 0.5
    size = cells.size
    ActionChains(browser).move_to_element_with_offset(
        cells, round(right * size["width"]), round(down * size["height"])
    ).perform()


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """(the page, its layers' arrays) of a small trained-like network."""
    use_backend("numpy")
    model = shaken(
        [Conv2D(4, 3, activation="relu"), MaxPool2D(), Conv2D(5, 3, stride=2), Flatten(), Dense(3)], (12, 12, 1), 1
    )
    image = np.random.default_rng(0).integers(0, 256, (12, 12, 1), dtype=np.uint8)
    path = tmp_path_factory.mktemp("a page") / "page.html"
    explain(model, image, path, 1, ["a", "b", "c"])
    return path, trace(model, image[None], 1)


@pytest.mark.slow
def test_a_browser_shows_minicnns_numbers_where_the_pointer_is(browser, opened):
    path, seen = opened
    open_page(browser, path)
    browser.find_element("css selector", '[data-node="conv2d_2"]').click()
    conv = seen["conv2d_2"]
    for row, column in ((0, 0), (2, 1), (1, 2)):
        hover(browser, "map-y", row, column, 3, 3)
        name, at, value = told(browser)
        assert name == "y" and at // 5 == row * 3 + column
        assert value == pytest.approx(conv.y.ravel()[at], abs=1e-5)
        products = browser.find_elements("css selector", "#sum [data-product]")
        shown = [float(cell.get_attribute("data-product")) for cell in products]
        assert 4 <= len(shown) <= 9  # those of one channel; the window lies partly outside at the edges
    browser.find_element("id", "backward").click()
    for row, column in ((0, 0), (5, 4), (3, 3)):
        hover(browser, "map-x", row, column, 6, 6)
        name, at, value = told(browser)
        assert name == "dx" and at // 4 == row * 6 + column
        assert value == pytest.approx(conv.dx.ravel()[at], abs=1e-5)
    for p, q in ((0, 0), (1, 2), (2, 1)):
        hover(browser, "map-w", p, q, 3, 3)
        name, at, value = told(browser)
        assert name == "dw" and at // 20 == p * 3 + q
        assert value == pytest.approx(conv.layer.w.grad.ravel()[at], abs=1e-5)
    shown = browser.find_element("css selector", "#equation").text
    assert f"dw[{p}, {q}" in shown


@pytest.mark.slow
def test_a_browser_is_led_by_keys_alone(browser, opened):
    from selenium.webdriver.common.keys import Keys

    path, seen = opened
    open_page(browser, path)
    cells = browser.find_element("id", "map-y")
    browser.execute_script("arguments[0].focus()", cells)
    _, before, _ = told(browser)
    cells.send_keys(Keys.ARROW_LEFT if before // 4 % 12 else Keys.ARROW_RIGHT)
    _, after, value = told(browser)
    assert abs(after - before) == 4
    assert value == pytest.approx(seen["conv2d_1"].layer.activate.x.ravel()[after], abs=1e-5)
    browser.find_element("tag name", "body").send_keys("b")
    assert told(browser)[0] == "dx"


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_every_layer_of_every_network_is_shown_without_an_error(browser, tmp_path, width):
    write_pages(tmp_path)
    for path in sorted(tmp_path.glob("*.html")):
        open_page(browser, path, width)
        for direction in ("forward", "backward"):
            browser.find_element("id", direction).click()
            for card in browser.find_elements("css selector", ".card"):
                browser.execute_script("arguments[0].click()", card)
                assert browser.find_elements("css selector", "#sum *"), card.get_attribute("data-node")
        browser.find_element("id", "theme").click()
        assert browser.get_log("browser") == []
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth"), path.name
