"""Pictures of a training run: curves, mistakes, confusion, augmentation, filters and feature maps.

Every function returns a matplotlib figure, and saves it when given a `path`, as its ending says: .png, .svg, .pdf.
Figures are built from matplotlib's objects and never with pyplot, so nothing here needs a display, leaves a window
open or changes a global setting; a figure that ends a notebook cell shows itself. `note` is printed on a bright band
across the top, for what nobody may overlook, such as scores from the bundled sample. Arrays that do not fit raise a
DataError. The line colours are those of Okabe and Ito (Color Universal Design, 2008); those and the colour
maps are safe for the colour-blind.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import CenteredNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from minicnn.errors import DataError
from minicnn.files import atomic_write
from minicnn.metrics import calibration, check_labels, confusions, ratio, worst_mistakes

BLUE, VERMILION, AMBER, GREY = "#0072B2", "#D55E00", "#E69F00", "#8A8A8A"
TITLE, TEXT, SMALL = 13, 10, 8  # font sizes in points
DPI = 110


def curves(history: Mapping[str, Sequence[float]], path: str | Path | None = None, note: str = "") -> Figure:
    """Loss (left) and accuracy (right) by epoch, with the last epoch's values written out.

    `history` holds "loss", a number per epoch, and may hold "accuracy" (0 to 1), "val_loss" and "val_accuracy"; other
    keys are ignored. All of them need the same length, at least 1. Without accuracy, loss is all there is.
    """
    keys = ["loss", *(key for key in ("accuracy", "val_loss", "val_accuracy") if key in history)]
    series = {key: np.asarray(history.get(key, ()), dtype=float) for key in keys}
    epochs = len(series["loss"])
    if epochs == 0 or any(values.shape != (epochs,) for values in series.values()):
        got = ", ".join(f"{values.size} of {key}" for key, values in series.items())
        raise DataError(f"history: expected a number per epoch, and at least one, for each key; got {got}")
    if "accuracy" not in series:
        figure = _figure(5.5, 3.8, "Loss by epoch", note)
        _curve_pair(figure.subplots(), "loss", series["loss"], series.get("val_loss"), "{:.3f}")
        return _finish(figure, path)
    figure = _figure(10, 3.8, "Loss and accuracy by epoch", note)
    left, right = figure.subplots(1, 2)
    _curve_pair(left, "loss", series["loss"], series.get("val_loss"), "{:.3f}")
    _curve_pair(right, "accuracy", series["accuracy"], series.get("val_accuracy"), "{:.1%}")
    right.yaxis.set_major_formatter(PercentFormatter(1.0))
    return _finish(figure, path)


def _curve_pair(axes: Axes, what: str, training: np.ndarray, validation: np.ndarray | None, form: str) -> None:
    lines = [(training, "training", BLUE, "o-")]
    if validation is not None:
        lines.append((validation, "validation", VERMILION, "s--"))
    upper = max(lines, key=lambda line: line[0][-1])
    for line in lines:
        values, label, colour, style = line
        axes.plot(np.arange(1, len(values) + 1), values, style, color=colour, label=label, markersize=4)
        if np.isfinite(values[-1]):
            side = "center" if len(lines) == 1 else "bottom" if line is upper else "top"
            axes.annotate(
                form.format(values[-1]), (len(values), values[-1]), (8, 0), textcoords="offset points",
                ha="left", va=side, color=colour, size=TEXT, weight="bold",
            )  # fmt: skip
    axes.margins(x=0.03, y=0.12)
    axes.set_xlabel("epoch", size=TEXT)
    axes.set_ylabel(what, size=TEXT)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.tick_params(labelsize=SMALL)
    axes.grid(color=GREY, alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=TEXT, frameon=False)


def errors(
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    path: str | Path | None = None,
    count: int = 36,
    note: str = "",
) -> Figure:
    """The `count` worst mistakes, sorted by predicted minus true probability: the surest wrong answers first.

    images (n, h, w, c), uint8 or float; labels (n,), the true classes; probabilities (n, classes).
    Under each image stand what the model said and what is true, each with the probability it was given.
    """
    images = _checked("images", images, "(n, h, w, c)")
    probabilities = _checked("probabilities", probabilities, "(n, classes)")
    expected = (len(images), len(class_names))
    if probabilities.shape != expected:
        raise DataError(f"probabilities: expected {expected}, images by class names, got {probabilities.shape}")
    labels, predicted = check_labels(labels, probabilities.argmax(axis=1), len(class_names))
    mistakes = worst_mistakes(labels, probabilities)
    worst = mistakes[: max(count, 0)]

    columns = min(6, max(4, len(worst)))
    rows = -(-len(worst) // columns)
    figure = _figure(1.65 * columns, 1.85 * rows, _errors_title(len(worst), len(mistakes), len(labels)), note)
    for axes, i in zip(_tiles(figure, rows, columns), worst, strict=False):
        _show(axes, _unit(images[i]))
        for line, word, k, colour in ((0, "said", predicted[i], VERMILION), (1, "true", labels[i], BLUE)):
            text = f"{word}: {_name(class_names[k])} {probabilities[i, k]:.0%}"
            _caption(axes, text, "below", 3 + 11 * line, colour)
    return _finish(figure, path)


def _errors_title(shown: int, wrong: int, total: int) -> str:
    if wrong == 0:
        return f"No mistakes in {total:,} images"
    which = f"All {wrong:,}" if shown == wrong else f"The {shown:,} worst of {wrong:,}"
    return f"{which} mistakes in {total:,} images"


def confusion(matrix: np.ndarray, class_names: Sequence[str], path: str | Path | None = None, note: str = "") -> Figure:
    """The confusion matrix (classes, classes), rows the truth: counts, coloured by their share of the row.

    What is right (the diagonal, blue, 0 to 100%, with its recall) and what is wrong (orange, up to the worst)
    have a colour scale each: on a common one the diagonal would leave every mistake equally pale. Beyond 34
    classes the cells have no room for counts.
    """
    matrix, classes = _checked_matrix(matrix, class_names), len(class_names)
    share = ratio(matrix, matrix.sum(axis=1, keepdims=True))
    right = np.eye(classes, dtype=bool)
    wrong_scale = ScalarMappable(Normalize(0, share[~right].max(initial=0) or 1), "Oranges")
    right_scale = ScalarMappable(Normalize(0, 1), "Blues")
    colours = np.where(right[..., None], right_scale.to_rgba(share), wrong_scale.to_rgba(share))

    cell = min(0.68, 12 / classes)  # inches
    total, hits = int(matrix.sum()), int(np.trace(matrix))
    title = f"Accuracy {hits / max(total, 1):.2%}: {hits:,} of {total:,} right"
    figure = _figure(max(cell * classes + 2.3, 5), cell * classes + 1.1, title, note)
    axes = figure.subplots()
    axes.imshow(colours)
    if cell > 0.35:
        _print_counts(axes, matrix, share, colours, size=min(SMALL, 13 * cell))
    look: dict[str, Any] = {"labels": [_name(name) for name in class_names], "size": min(SMALL, 50 * cell)}
    axes.set_xticks(range(classes), rotation=40 if classes <= 12 else 90, ha="right", rotation_mode="anchor", **look)
    axes.set_yticks(range(classes), **look)
    axes.set_xlabel("predicted", size=TEXT)
    axes.set_ylabel("true", size=TEXT)
    bar = figure.colorbar(wrong_scale, ax=axes, fraction=0.04, pad=0.02, format=PercentFormatter(1.0))
    bar.set_label("wrong: share of the true class", size=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    return _finish(figure, path)


def _print_counts(axes: Axes, matrix: np.ndarray, share: np.ndarray, colours: np.ndarray, size: float) -> None:
    dark = colours[..., :3] @ (0.299, 0.587, 0.114) < 0.55  # luma, ITU-R BT.601
    for i, j in np.ndindex(matrix.shape):
        text = f"{matrix[i, j]:,}" + (f"\n{share[i, j]:.0%}" if i == j else "")
        colour = "white" if dark[i, j] else "black" if matrix[i, j] else GREY
        axes.text(j, i, text, color=colour, size=size, ha="center", va="center")


def mistakes(matrix: np.ndarray, class_names: Sequence[str], path: str | Path | None = None, note: str = "") -> Figure:
    """Where the remaining errors are: each class' recall, the worst first (left), and which are taken for which (right).

    `matrix` is a confusion matrix (classes, classes), rows the truth.
    """
    matrix, names = _checked_matrix(matrix, class_names), [_name(name) for name in class_names]
    recall, pairs = ratio(np.diagonal(matrix), matrix.sum(axis=1)), confusions(matrix)
    errors = int(matrix.sum() - np.trace(matrix))
    figure = _figure(11, 0.32 * max(len(names), 10) + 0.7, f"Where the {errors:,} errors are", note)
    left, right = figure.subplots(1, 2)
    order = np.argsort(recall, kind="stable")
    bars = left.barh(range(len(order)), recall[order], color=BLUE)
    left.set_yticks(range(len(order)), [names[i] for i in order])
    left.bar_label(bars, [f"{recall[i]:.1%}" for i in order], padding=3, fontsize=SMALL)
    left.set_xlabel("recall: share of the class that was recognised", size=TEXT)
    left.set_xlim(0, 1.12)
    left.xaxis.set_major_formatter(PercentFormatter(1.0))
    bars = right.barh(range(len(pairs)), [k for *_, k in pairs], color=VERMILION)
    right.set_yticks(range(len(pairs)), [f"{names[i]} called {names[j]}" for i, j, _ in pairs])
    right.bar_label(bars, [f"{k:,}: {k / errors:.0%} of all" for *_, k in pairs], padding=3, fontsize=SMALL)
    right.set_xlabel("images", size=TEXT)
    right.margins(x=0.25)
    for axes in (left, right):
        axes.invert_yaxis()
        axes.tick_params(labelsize=SMALL)
        axes.spines[["top", "right"]].set_visible(False)
    return _finish(figure, path)


def reliability(
    labels: np.ndarray, probabilities: np.ndarray, path: str | Path | None = None, bins: int = 15, note: str = ""
) -> Figure:
    """Whether the model's probabilities can be believed: its accuracy (bars) at each confidence, and how many images there.

    labels (n,), probabilities (n, classes). Bars below the diagonal mean too sure, above it not sure enough.
    """
    found = calibration(labels, probabilities, bins)
    figure = _figure(5, 5.2, f"Expected calibration error {found.error:.2%}", note)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges = np.arange(bins) / bins
    upper.bar(edges, found.accuracy, 1 / bins, align="edge", color=BLUE, edgecolor="white", label="accuracy")
    upper.plot([0, 1], [0, 1], "--", color=GREY, label="confidence = accuracy")
    seen = found.count > 0
    upper.plot(found.confidence[seen], found.accuracy[seen], "o", color=VERMILION, markersize=4, label="mean of a bin")
    lower.bar(edges, found.count, 1 / bins, align="edge", color=AMBER, edgecolor="white")
    lower.set_yscale("log")
    upper.set_ylabel("share that was correct", size=TEXT)
    lower.set_ylabel("images", size=TEXT)
    lower.set_xlabel("confidence: the highest probability", size=TEXT)
    for axes in (upper, lower):
        axes.tick_params(labelsize=SMALL)
        axes.spines[["top", "right"]].set_visible(False)
    upper.legend(fontsize=SMALL, frameon=False, loc="upper left")
    return _finish(figure, path)


def augmentation_grid(
    originals: np.ndarray, augmented: np.ndarray, path: str | Path | None = None, note: str = ""
) -> Figure:
    """Originals (k, h, w, c) in the first column, to their right m augmented of each, (k, m, h, w, c)."""
    originals = _checked("originals", originals, "(k, h, w, c)")
    augmented = _checked("augmented", augmented, "(k, m, h, w, c)")
    if augmented.shape[:1] + augmented.shape[2:] != originals.shape:
        raise DataError(f"augmented: expected (k, m, h, w, c) for originals {originals.shape}, got {augmented.shape}")
    k, m = augmented.shape[:2]
    figure = _figure(max(0.95 * m + 1.2, 4), 0.95 * k + 0.3, "Augmentation", note)
    grid = _tiles(figure, k, m + 1).reshape(k, m + 1)
    for row, original, copies in zip(grid, _unit(originals), _unit(augmented), strict=True):
        for axes, image in zip(row, (original, *copies), strict=True):
            _show(axes, image)
    _caption(grid[0, 0], "original", "above")
    _caption(grid[0, 1], "augmented", "above")
    return _finish(figure, path)


def filters(kernels: np.ndarray, path: str | Path | None = None, note: str = "") -> Figure:
    """The first 64 filters of a convolution, kernels (kh, kw, c, n), as tiles on one scale.

    Three input channels are shown as colours, with grey for zero; otherwise red is positive, blue negative
    and white zero, and several channels are averaged.
    """
    kernels = _checked("kernels", kernels, "(kh, kw, c, n)")
    kh, kw, c, n = kernels.shape
    tiles = np.moveaxis(kernels, -1, 0)[:64]
    tiles = tiles if c == 3 else tiles.mean(axis=-1, keepdims=True)
    signed = CenteredNorm(halfrange=float(np.abs(tiles).max()) or 1.0)

    columns = min(8, max(4, len(tiles)))
    rows = -(-len(tiles) // columns)
    shown = f"The first 64 of {n} filters" if n > 64 else f"{n} filter{'s' * (n > 1)}"
    figure = _figure(0.8 * columns + 1, 0.8 * rows, f"{shown}, {kh} × {kw} × {c}", note)
    grid = _tiles(figure, rows, columns)
    for axes, tile in zip(grid, tiles, strict=False):
        axes.imshow(signed(tile) if c == 3 else tile[..., 0], cmap="RdBu_r", norm=signed)
        axes.set_axis_on()
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color(GREY)
    if c != 3:
        bar = figure.colorbar(ScalarMappable(signed, "RdBu_r"), ax=list(grid), aspect=30, pad=0.02)
        bar.ax.tick_params(labelsize=SMALL)
    return _finish(figure, path)


def feature_maps(
    image: np.ndarray, maps: Mapping[str, np.ndarray], path: str | Path | None = None, note: str = ""
) -> Figure:
    """What each layer makes of one image (h, w, c): the first 8 channels of its output, a row a layer.

    `maps` goes from a layer's name to its output (h, w, c), in the order in which to show them. Dark is a
    layer's lowest value, bright its highest: maps of one row can be compared, those of two rows cannot.
    """
    image = _checked("image", image, "(h, w, c)")
    layers = {name: _checked(f"maps[{name!r}]", values, "(h, w, c)") for name, values in maps.items()}
    figure = _figure(9, 0.95 * (len(layers) + 1), "Feature maps: the first 8 channels of each layer", note)
    grid = _tiles(figure, len(layers) + 1, 8).reshape(-1, 8)
    _show(grid[0, 0], _unit(image))
    for row, values in zip(grid[1:], layers.values(), strict=True):
        scale = Normalize(values.min(), values.max())
        for axes, channel in zip(row, np.moveaxis(values, -1, 0), strict=False):
            axes.imshow(channel, cmap="viridis", norm=scale)
    for row, (name, values) in zip(grid, [("image", image), *layers.items()], strict=True):
        _caption(row[0], f"{_name(name)}\n{' × '.join(map(str, values.shape))}", "left", 8)
    return _finish(figure, path)


class Picture(Figure):
    """A figure that ends a notebook cell shows itself; a plain Figure does so only once pyplot is loaded."""

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.savefig(png, format="png")
        return png.getvalue()


def profile(report, path: str | Path | None = None, note: str = "") -> Figure:
    """A bar for each layer of a `profiler.Profile`: milliseconds forward and backward, and the share of the peak."""
    names = [layer.name for layer in report.layers]
    forward, backward = ([1e3 * getattr(layer, way) for layer in report.layers] for way in ("forward", "backward"))
    total = sum(forward) + sum(backward)
    title = f"A training step of {report.batch} images: {total:.1f} ms"
    figure = _figure(8, 1.2 + 0.32 * len(names), title, note)
    axes = figure.subplots()
    axes.barh(names, forward, color=BLUE, label="forward")
    bars = axes.barh(names, backward, left=forward, color=AMBER, label="backward")
    shares = [f"{share} of peak" if share else "" for share in map(report.share, report.layers)]
    axes.bar_label(bars, shares, padding=4, fontsize=SMALL)
    axes.invert_yaxis()
    axes.margins(x=0.14)
    axes.set_xlabel("milliseconds", size=TEXT)
    axes.tick_params(labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=TEXT, frameon=False, loc="lower right")
    return _finish(figure, path)


def _figure(width: float, height: float, title: str, note: str) -> Picture:
    """An empty figure with room of width x height inches below its title and note."""
    lines = textwrap.wrap(_plain(note), int(11 * width))
    band = 0.12 + 0.2 * len(lines) if lines else 0.0
    head = band + 0.45
    whole = height + head
    figure = Picture((width, whole), dpi=DPI)
    FigureCanvasAgg(figure)
    margin = 0.06 / width, 0.06 / whole
    rect = (*margin, 1 - 2 * margin[0], 1 - head / whole - margin[1])
    figure.set_layout_engine("constrained", rect=rect, w_pad=0.07, h_pad=0.07)
    figure.text(0.5, 1 - (band + 0.25) / whole, title, size=TITLE, weight="bold", ha="center", va="center")
    if lines:
        strip = Rectangle((0, 1 - band / whole), 1, band / whole, transform=figure.transFigure, color=AMBER)
        figure.add_artist(strip)
        figure.text(
            0.5, 1 - band / 2 / whole, "\n".join(lines),
            size=TEXT, weight="bold", color="black", ha="center", va="center",
        )  # fmt: skip
    return figure


def _finish(figure: Picture, path: str | Path | None) -> Picture:
    """Save it, `path` never holding half a picture."""
    if path is not None:
        with atomic_write(path) as file:
            figure.savefig(file, format=Path(path).suffix[1:] or "png")
    return figure


def _tiles(figure: Figure, rows: int, columns: int) -> np.ndarray:
    """rows x columns bare axes for images, flat, row by row."""
    if rows == 0:
        return np.empty(0, dtype=object)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    return grid


def _show(axes: Axes, image: np.ndarray) -> None:
    """Draw an image (h, w, c) of numbers from 0 to 1: in colour if c is 3, else grey, the mean of c."""
    axes.imshow(image if image.shape[-1] == 3 else image.mean(axis=-1), cmap="gray", vmin=0, vmax=1)


def _caption(axes: Axes, text: str, side: str, distance: float = 4, color: str | None = None) -> None:
    """Write "above", "below" or "left" of a tile, so many points away from it."""
    xy, toward, ha, va = {
        "above": ((0.5, 1), (0, 1), "center", "bottom"),
        "below": ((0.5, 0), (0, -1), "center", "top"),
        "left": ((0, 0.5), (-1, 0), "right", "center"),
    }[side]
    offset = (distance * toward[0], distance * toward[1])
    axes.annotate(
        text, xy, offset, xycoords="axes fraction", textcoords="offset points",
        ha=ha, va=va, size=SMALL, color=color,
    )  # fmt: skip


def _unit(images: np.ndarray) -> np.ndarray:
    """Images scaled to 0 .. 1: uint8 by 255, anything else by its own lowest and highest value."""
    if images.dtype == np.uint8:
        return images / np.float32(255)
    low, high = images.min(), images.max()
    return (images - low) / ((high - low) or 1)


def _checked(name: str, values: np.ndarray, shape: str) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != shape.count(",") + 1 or values.size == 0:
        raise DataError(f"{name}: expected shape {shape}, none of them 0, got {values.shape}")
    if values.dtype.kind not in "uif":
        raise DataError(f"{name}: expected numbers, got dtype {values.dtype}")
    if not np.isfinite(values).all():
        raise DataError(f"{name}: expected finite numbers, got NaN or infinity")
    return values


def _checked_matrix(matrix: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    matrix, classes = _checked("matrix", matrix, "(classes, classes)"), len(class_names)
    if matrix.shape != (classes, classes):
        raise DataError(f"matrix: expected shape {(classes, classes)} for {classes} class names, got {matrix.shape}")
    if not np.issubdtype(matrix.dtype, np.integer) or (matrix < 0).any():
        raise DataError(f"matrix: expected counts of 0 or more, got {matrix.dtype} down to {matrix.min()}")
    return matrix


def _name(name: str) -> str:
    """A class or layer name that fits its place and is not read as a formula."""
    return _plain(name if len(name) <= 16 else name[:15] + "…")


def _plain(text: str) -> str:
    return text.replace("$", r"\$")
