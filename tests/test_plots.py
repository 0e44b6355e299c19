"""What the pictures promise: the right content, readable text, whole files, no display."""

from __future__ import annotations

import copy
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from minicnn import plots
from minicnn.errors import DataError

NAMES = ["T-shirt/top", "Trouser", "Ankle boot"]
PNG = b"\x89PNG\r\n\x1a\n"
rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 256, (5, 28, 28, 1), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1], np.uint8)
# Image 1 is right; the mistakes' margins are 0.2, 0.9, 0.5 and 0.1.
PROBABILITIES = np.array([[0.3, 0.5, 0.2], [0, 1, 0], [0.92, 0.06, 0.02], [0.2, 0.1, 0.7], [0.45, 0.35, 0.2]])
HISTORY = {
    "loss": [0.9, 0.5, 0.41],
    "accuracy": [0.7, 0.8, 0.853],
    "val_loss": [0.8, 0.6, 0.52],
    "val_accuracy": [0.7, 0.8, 0.831],
    "learning_rate": [1e-3] * 3,
}
MATRIX = np.array([[900, 4, 96], [0, 1000, 0], [10, 0, 2990]])
MAPS = {"conv2d_1": rng.normal(size=(28, 28, 12)), "max_pool2d_1": rng.normal(size=(14, 14, 3))}

CALLS = {
    "curves": (plots.curves, [HISTORY]),
    "errors": (plots.errors, [IMAGES, LABELS, PROBABILITIES, NAMES]),
    "confusion": (plots.confusion, [MATRIX, NAMES]),
    "mistakes": (plots.mistakes, [MATRIX, NAMES]),
    "reliability": (plots.reliability, [LABELS, PROBABILITIES]),
    "augmentation_grid": (plots.augmentation_grid, [IMAGES[:2], np.stack([IMAGES[:3], IMAGES[2:]])]),
    "filters": (plots.filters, [rng.normal(size=(5, 5, 1, 6))]),
    "feature_maps": (plots.feature_maps, [IMAGES[0], MAPS]),
}
every_plot = pytest.mark.parametrize(("plot", "arguments"), CALLS.values(), ids=CALLS)


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def images_shown(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


@every_plot
def test_a_plot_saves_one_whole_png_and_leaves_its_input_alone(plot, arguments, tmp_path):
    path = tmp_path / "a folder" / "picture.png"
    path.parent.mkdir()
    before = copy.deepcopy(arguments)
    assert isinstance(plot(*arguments, path=path), Figure)
    assert [file.name for file in path.parent.iterdir()] == ["picture.png"]
    assert path.read_bytes().startswith(PNG)
    assert 1_000 < path.stat().st_size < 400_000
    np.testing.assert_equal(arguments, before)


@every_plot
def test_a_note_is_written_on_a_band_and_only_when_given(plot, arguments):
    note = "bundled SAMPLE"
    plain, noted = plot(*arguments), plot(*arguments, note=note)
    assert note in words(noted) and note not in words(plain)
    noted.canvas.draw()
    corner = np.asarray(noted.canvas.buffer_rgba())[2, 2, :3]
    assert corner.tolist() == [0xE6, 0x9F, 0x00]


@every_plot
def test_text_stays_inside_the_picture_and_does_not_overlap(plot, arguments, monkeypatch):
    drawn, draw = [], Text.draw
    monkeypatch.setattr(Text, "draw", lambda text, renderer: (drawn.append(text), draw(text, renderer)))
    figure = plot(*arguments, note="bundled SAMPLE, not the data set's score, " * 4)
    figure.canvas.draw()
    seen = [text for text in drawn if text.get_text() and text.get_visible()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in seen]
    assert len(boxes) > 3
    width, height = figure.canvas.get_width_height()
    outside = [text for text, b in boxes if b.x0 < 0 or b.y0 < 0 or b.x1 > width or b.y1 > height]
    assert outside == []
    level = [(text, box) for text, box in boxes if text not in NAMES]  # slanted names have wide boxes
    collisions = [(a, b) for (a, one), (b, other) in combinations(level, 2) if one.overlaps(other)]
    assert collisions == []


@every_plot
def test_a_figure_shows_itself_in_a_notebook(plot, arguments):
    assert plot(*arguments)._repr_png_().startswith(PNG)


def test_pyplot_is_never_imported():
    code = (
        "import sys; from minicnn import plots;"
        "plots.curves({'loss': [1.0], 'accuracy': [0.5]})._repr_png_();"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_failed_save_keeps_the_old_picture(tmp_path, monkeypatch):
    def write_half(figure, path, **options):
        path.write(PNG)
        raise OSError("disk full")

    path = tmp_path / "curves.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(Figure, "savefig", write_half)
    with pytest.raises(OSError, match="disk full"):
        plots.curves(HISTORY, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_curves_draw_every_series_by_epoch_and_write_out_the_last_values():
    figure = plots.curves(HISTORY)
    loss, accuracy = figure.axes
    assert [line.get_ydata().tolist() for line in loss.lines] == [HISTORY["loss"], HISTORY["val_loss"]]
    assert [line.get_ydata().tolist() for line in accuracy.lines] == [
        HISTORY["accuracy"],
        HISTORY["val_accuracy"],
    ]
    assert loss.lines[0].get_xdata().tolist() == [1, 2, 3]
    assert {"0.410", "0.520", "85.3%", "83.1%"} <= set(words(figure))


@pytest.mark.parametrize("last", [0.41, 0.4101, 0.4099])
def test_curves_that_end_together_keep_their_values_apart(last):
    figure = plots.curves({**HISTORY, "val_loss": [0.8, 0.6, last]})
    figure.canvas.draw()
    one, other = (text.get_window_extent() for text in figure.axes[0].texts)
    assert min(one.y1, other.y1) <= max(one.y0, other.y0) + 0.01  # pixels


@pytest.mark.parametrize("epochs", [1, 2, 5, 30])
def test_curves_mark_whole_epochs_only(epochs):
    figure = plots.curves({"loss": np.linspace(1, 0.5, epochs), "accuracy": np.linspace(0.5, 1, epochs)})
    low, high = figure.axes[0].get_xlim()
    ticks = [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high]
    assert ticks and all(tick == int(tick) for tick in ticks)
    assert figure.axes[0].lines[0].get_marker() == "o"


def test_curves_survive_a_loss_that_is_not_finite():
    history = {
        "loss": [1.0, np.nan],
        "accuracy": [0.5, 0.1],
        "val_loss": [1.0, np.inf],
        "val_accuracy": [0.5, 0.2],
    }
    assert plots.curves(history)._repr_png_().startswith(PNG)


def test_errors_show_the_worst_mistakes_first_with_both_probabilities():
    figure = plots.errors(IMAGES, LABELS, PROBABILITIES, NAMES, count=3)
    shown = images_shown(figure)
    assert len(shown) == 3
    for got, i in zip(shown, [2, 3, 0], strict=True):
        np.testing.assert_allclose(got, IMAGES[i, :, :, 0] / 255, rtol=1e-6)
    assert words(figure.axes[0]) == ["said: T-shirt/top 92%", "true: Ankle boot 2%"]
    assert "The 3 worst of 4 mistakes in 5 images" in words(figure)


def test_errors_say_when_there_are_few_or_none():
    few = plots.errors(IMAGES, LABELS, PROBABILITIES, NAMES)
    assert "All 4 mistakes in 5 images" in words(few) and len(images_shown(few)) == 4
    none = plots.errors(IMAGES, PROBABILITIES.argmax(axis=1), PROBABILITIES, NAMES)
    assert words(none) == ["No mistakes in 5 images"]
    assert none._repr_png_().startswith(PNG)


def test_long_names_and_dollar_signs_are_written_as_they_are():
    figure = plots.errors(IMAGES, LABELS, PROBABILITIES, ["a$b$", "c" * 40, "d"])
    assert r"true: a\$b\$ 30%" in words(figure)
    assert "said: " + "c" * 15 + "… 50%" in words(figure)


def test_confusion_prints_counts_recall_and_accuracy():
    figure = plots.confusion(MATRIX, NAMES)
    assert {"900\n90%", "1,000\n100%", "2,990\n100%", "96", "4", "0"} <= set(words(figure))
    assert "Accuracy 97.80%: 4,890 of 5,000 right" in words(figure)


def test_confusion_gives_mistakes_a_colour_scale_of_their_own():
    light = images_shown(plots.confusion(MATRIX, NAMES))[0][..., :3].sum(axis=-1)
    assert light[0, 2] < 1  # 9.6% is the worst mistake, and as dark as orange gets
    assert light[0, 2] < light[0, 1] < light[1, 0]


def test_confusion_text_contrasts_with_its_cell():
    figure = plots.confusion(MATRIX, NAMES)
    colours = {text.get_text(): text.get_color() for text in figure.axes[0].texts}
    assert colours["900\n90%"] == colours["96"] == "white"
    assert colours["4"] == "black"


def test_confusion_takes_an_empty_row_one_class_and_many_classes():
    assert "0\n0%" in words(plots.confusion(np.array([[3, 1], [0, 0]]), NAMES[:2]))
    assert "7\n100%" in words(plots.confusion(np.array([[7]]), NAMES[:1]))
    wide = plots.confusion(np.eye(50, dtype=int), [str(i) for i in range(50)])
    assert len(wide.axes[0].texts) == 0 and max(wide.get_size_inches()) < 16


def test_mistakes_sort_classes_by_recall_and_name_the_most_frequent_confusions():
    figure = plots.mistakes(MATRIX, NAMES)
    figure.canvas.draw()  # which writes the ticks
    text = words(figure)
    recalls = [word for word in text if word.endswith("%") and "." in word]
    assert recalls[:3] == ["90.0%", "99.7%", "100.0%"]
    assert "T-shirt/top called Ankle boot" in text and "96: 87% of all" in text
    assert any("110 errors" in word for word in text)


def test_mistakes_can_be_drawn_when_there_are_none():
    assert "Where the 0 errors are" in words(plots.mistakes(np.diag([5, 5, 5]), NAMES))


def test_reliability_draws_each_bin_as_high_as_its_share_of_right_answers():
    labels, sure = np.array([0, 0, 1, 1]), np.array([0.95, 0.95, 0.95, 0.55])
    probabilities = np.stack([sure, 1 - sure], axis=1)
    figure = plots.reliability(labels, probabilities, bins=10)
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == pytest.approx([0] * 9 + [2 / 3])
    assert "Expected calibration error 35.00%" in words(figure)


def test_augmentation_grid_has_an_original_and_its_copies_in_each_row():
    copies = rng.random((2, 3, 28, 28, 1), dtype=np.float32)
    shown = images_shown(plots.augmentation_grid(IMAGES[:2], copies))
    assert len(shown) == 8
    np.testing.assert_allclose(shown[4], IMAGES[1, :, :, 0] / 255, rtol=1e-6)
    scaled = (copies - copies.min()) / (copies.max() - copies.min())
    np.testing.assert_allclose(shown[7], scaled[1, 2, :, :, 0], rtol=1e-6)


@pytest.mark.parametrize(("channels", "count", "tiles"), [(1, 6, 6), (1, 1, 1), (3, 5, 5), (16, 130, 64)])
def test_filters_share_one_scale_around_zero(channels, count, tiles):
    kernels = rng.normal(size=(3, 5, channels, count))
    figure = plots.filters(kernels)
    drawn = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(drawn) == tiles
    if channels == 3:
        assert all(0 <= tile.get_array().min() and tile.get_array().max() <= 1 for tile in drawn)
        extreme = np.abs(kernels).max()
        np.testing.assert_allclose(drawn[1].get_array(), 0.5 + kernels[..., 1] / (2 * extreme))
    else:
        np.testing.assert_allclose(drawn[-1].get_array(), kernels[..., tiles - 1].mean(axis=2))
        assert len({tile.get_clim() for tile in drawn}) == 1
        assert sum(drawn[0].get_clim()) == 0


def test_filters_that_are_all_zero_can_be_drawn():
    assert plots.filters(np.zeros((3, 3, 1, 2)))._repr_png_().startswith(PNG)


def test_feature_maps_show_eight_channels_a_layer_with_name_and_shape():
    figure = plots.feature_maps(IMAGES[0], MAPS)
    shown = images_shown(figure)
    assert [len(image) for image in shown] == [28] + [28] * 8 + [14] * 3
    np.testing.assert_array_equal(shown[8], MAPS["conv2d_1"][..., 7])
    assert {"image\n28 × 28 × 1", "conv2d_1\n28 × 28 × 12", "max_pool2d_1\n14 × 14 × 3"} <= set(words(figure))


def test_a_path_says_what_kind_of_picture(tmp_path):
    for name, start in (("a.png", PNG), ("a", PNG), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")):
        plots.curves(HISTORY, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    with pytest.raises(ValueError, match="xyz"):
        plots.curves(HISTORY, tmp_path / "a.xyz")
    assert not (tmp_path / "a.xyz").exists()


def test_curves_of_a_regression_are_those_of_its_loss():
    [axes] = plots.curves({"loss": [3.0, 2.0], "val_loss": [4.0, 3.0]}).axes
    assert [line.get_ydata().tolist() for line in axes.lines] == [[3.0, 2.0], [4.0, 3.0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.curves({"accuracy": [1.0]}), "history: .* got 0 of loss, 1 of accuracy"),
        (lambda: plots.curves({"loss": [], "accuracy": []}), "at least one"),
        (lambda: plots.curves({**HISTORY, "val_loss": [1.0]}), "1 of val_loss"),
        (lambda: plots.errors(IMAGES[:4], LABELS, PROBABILITIES, NAMES), r"expected \(4, 3\)"),
        (lambda: plots.errors(IMAGES, LABELS[:4], PROBABILITIES, NAMES), "equal lengths, got 4 and 5"),
        (lambda: plots.errors(IMAGES, LABELS + 1, PROBABILITIES, NAMES), r"labels\[2\] is 3; expected 0 to"),
        (lambda: plots.errors(IMAGES, LABELS, PROBABILITIES * np.nan, NAMES), "probabilities: .* finite"),
        (lambda: plots.errors(IMAGES[..., 0], LABELS, PROBABILITIES, NAMES), r"images: .* \(n, h, w, c\)"),
        (lambda: plots.confusion(MATRIX, NAMES[:2]), r"matrix: expected shape \(2, 2\)"),
        (lambda: plots.confusion(MATRIX / 1000, NAMES), "expected counts of 0 or more, got float64"),
        (lambda: plots.confusion(-MATRIX, NAMES), "down to -2990"),
        (lambda: plots.augmentation_grid(IMAGES[:2], IMAGES[None]), r"augmented: expected \(k, m, h, w, c\)"),
        (lambda: plots.filters(np.zeros((5, 5, 8))), r"kernels: expected shape \(kh, kw, c, n\)"),
        (lambda: plots.filters(np.array([[[["a"]]]])), "kernels: expected numbers"),
        (lambda: plots.feature_maps(IMAGES[0], {"dense_1": np.zeros(10)}), r"maps\['dense_1'\]: expected"),
    ],
)  # fmt: skip
def test_wrong_input_is_refused_by_name(call, message):
    with pytest.raises(DataError, match=message):
        call()
