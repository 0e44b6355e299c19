"""Augmentation: what is drawn, and what `inputs.make_batch` and its fast twin make of it, against pictures moved by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minicnn
from minicnn import Augment, engine
from minicnn.data import load_fashion_mnist
from minicnn.inputs import Scale


@pytest.fixture(autouse=True, params=["numpy", "numba"])
def backend(request):
    minicnn.use_backend(request.param)
    yield
    minicnn.use_backend("numba")


H, W, C = 9, 7, 2
ALL = Augment(rotation=10, zoom=0.1, shift=0.1, horizontal_flip=True, vertical_flip=True, crop_padding=1, erase=2)
IMAGES = np.random.default_rng(0).integers(1, 256, (5, H, W, C)).astype(np.uint8)  # no 0: that comes from outside


def augmented(augment, n=60, seed=0, images=IMAGES, **changes):
    """n versions of the first image, as floats of the same scale."""
    matrix, holes = augment.draw(n, images.shape[1:3], np.random.default_rng(seed))
    return apply(images, np.zeros(n, np.int64), matrix, holes, **changes)


def apply(images, index, matrix, holes, factor=1.0, shift=0.0):
    """What a network's scale makes of these images: each number times factor plus shift, for uint8 to be exact."""
    scale = Scale()
    scale.std = np.full(images.shape[-1], 1 / (255 * factor))
    scale.mean = -shift * scale.std
    return engine.fast(scale).batch(images, index, np.dtype("float64"), matrix, holes)


def moved(image, matrix):
    """The picture by plain loops: each pixel of the result read between four pixels of the original, 0 outside."""
    h, w, _ = image.shape
    result = np.zeros(image.shape)
    for i in range(h):
        for j in range(w):
            row, column = matrix @ (i, j, 1)
            for p in (math.floor(row), math.floor(row) + 1):
                for q in (math.floor(column), math.floor(column) + 1):
                    if 0 <= p < h and 0 <= q < w:
                        result[i, j] += image[p, q] * (1 - abs(row - p)) * (1 - abs(column - q))
    return result


class Extreme:
    """Draws the largest number each time: the change is then known."""

    def uniform(self, low, high, size):
        return np.full(size, float(high))

    def integers(self, low, high, size):
        return np.full(size, high - 1)

    def choice(self, values, size):
        return np.full(size, values[-1])


def extreme(augment, images=IMAGES):
    matrix, holes = augment.draw(len(images), images.shape[1:3], Extreme())
    return apply(images, np.arange(len(images)), matrix, holes)


# ---------------------------------------------------------------------------------------------------------------
# Each change by itself


def test_nothing_on_changes_nothing():
    assert Augment().draw(5, (H, W), np.random.default_rng(0)) == (None, None)
    np.testing.assert_array_equal(augmented(Augment(), 3), np.stack([IMAGES[0]] * 3))


@pytest.mark.parametrize(
    ("augment", "versions"),
    [
        (Augment(horizontal_flip=True), [IMAGES[0], IMAGES[0, :, ::-1]]),
        (Augment(vertical_flip=True), [IMAGES[0], IMAGES[0, ::-1]]),
        (
            Augment(horizontal_flip=True, vertical_flip=True),
            [IMAGES[0], IMAGES[0, :, ::-1], IMAGES[0, ::-1], IMAGES[0, ::-1, ::-1]],
        ),
    ],
)
def test_flips_are_exact_and_evenly_frequent(augment, versions):
    batch = augmented(augment, 400)
    counts = [sum(np.array_equal(image, version) for image in batch) for version in versions]
    assert sum(counts) == 400
    assert min(counts) > 0.7 * 400 / len(versions)


def test_cropping_moves_by_whole_pixels_exactly():
    pad = 2
    frame = np.pad(IMAGES[0], ((pad, pad), (pad, pad), (0, 0)))
    crops = {(i, j): frame[i : i + H, j : j + W] for i in range(2 * pad + 1) for j in range(2 * pad + 1)}
    found = set()
    for image in augmented(Augment(crop_padding=pad), 300):
        [place] = [place for place, crop in crops.items() if np.array_equal(image, crop)]
        found.add(place)
    assert found == set(crops)


def test_a_quarter_turn_is_a_quarter_turn():
    square = IMAGES[:, :7].copy()
    turned = extreme(Augment(rotation=90), square)
    np.testing.assert_allclose(turned[:, 1:6, 1:6], np.rot90(square, axes=(1, 2))[:, 1:6, 1:6], atol=1e-9)


def test_zoom_makes_the_picture_larger_about_its_centre():
    i, j = np.mgrid[0:H, 0:W]
    ramp = (10 * (i - 4) + (j - 3) + 100.0)[None, :, :, None]
    zoomed = extreme(Augment(zoom=0.5), ramp)
    np.testing.assert_allclose(zoomed[0, ..., 0], 10 * (i - 4) / 1.5 + (j - 3) / 1.5 + 100, rtol=1e-12)


def test_shift_is_a_share_of_the_height_and_of_the_width():
    i, j = np.mgrid[0:H, 0:W]
    ramp = (10.0 * i + j + 5)[None, :, :, None]
    shifted = extreme(Augment(shift=0.1), ramp)[0, : H - 1, : W - 1, 0]
    np.testing.assert_allclose(shifted, (ramp[0, ..., 0] + 10 * 0.1 * H + 0.1 * W)[: H - 1, : W - 1], rtol=1e-12)


def test_rotation_turns_by_at_most_so_many_degrees_either_way():
    matrix, _ = Augment(rotation=30).draw(2000, (H, W), np.random.default_rng(0))
    degrees = np.rad2deg(np.arctan2(matrix[:, 0, 1], matrix[:, 0, 0]))
    assert np.abs(degrees).max() <= 30
    assert degrees.std() == pytest.approx(30 / math.sqrt(3), rel=0.05)
    np.testing.assert_allclose(np.linalg.det(matrix[:, :, :2]), 1, rtol=1e-12)
    middle = np.array([(H - 1) / 2, (W - 1) / 2])
    np.testing.assert_allclose(matrix[:, :, :2] @ middle + matrix[:, :, 2], np.tile(middle, (2000, 1)), rtol=1e-12)


def test_zooms_lie_in_their_range():
    matrix, _ = Augment(zoom=0.2).draw(2000, (H, W), np.random.default_rng(0))
    sizes = 1 / matrix[:, 0, 0]
    assert 0.8 <= sizes.min() < 0.81
    assert 1.19 < sizes.max() <= 1.2
    np.testing.assert_array_equal(matrix[:, 0, 0], matrix[:, 1, 1])


def test_shifts_go_up_and_sideways_independently():
    matrix, _ = Augment(shift=0.2).draw(2000, (H, W), np.random.default_rng(0))
    rows, columns = matrix[:, 0, 2], matrix[:, 1, 2]
    for offsets, extent in ((rows, H), (columns, W)):
        assert 0.19 * extent < np.abs(offsets).max() <= 0.2 * extent
        assert offsets.mean() == pytest.approx(0, abs=0.01 * extent)
    assert np.corrcoef(rows, columns)[0, 1] == pytest.approx(0, abs=0.1)


def test_no_mixture_shears_or_stretches_the_picture():
    linear = ALL.draw(500, (H, W), np.random.default_rng(0))[0][:, :, :2]
    square = linear @ linear.transpose(0, 2, 1)
    np.testing.assert_allclose(square[:, 0, 1], 0, atol=1e-12)
    np.testing.assert_allclose(square[:, 0, 0], square[:, 1, 1], rtol=1e-12)
    assert {-1, 1} == set(np.sign(np.linalg.det(linear)))  # one flip mirrors, two or none do not


@settings(max_examples=20, deadline=None)
@given(
    st.builds(
        Augment,
        rotation=st.sampled_from([0, 10, 90, 180]),
        zoom=st.sampled_from([0, 0.1, 0.9]),
        shift=st.sampled_from([0, 0.1, 1.0]),
        horizontal_flip=st.booleans(),
        vertical_flip=st.booleans(),
        crop_padding=st.sampled_from([0, 2, 20]),
    ),
    st.integers(0, 2**32),
)
def test_every_mixture_is_read_between_the_original_pixels(augment, seed):
    matrix, holes = augment.draw(len(IMAGES), (H, W), np.random.default_rng(seed))
    assert holes is None
    if matrix is None:
        return
    batch = apply(IMAGES, np.arange(len(IMAGES)), matrix, None)
    for image, original, m in zip(batch, IMAGES, matrix, strict=True):
        np.testing.assert_allclose(image, moved(original, m), rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------------------------------------------------------
# Erasing


def test_erasing_sets_a_square_to_the_mean_and_leaves_the_rest():
    """After standardisation the mean is 0; a square that hangs over the edge is cut off there."""
    batch = augmented(Augment(erase=3), 300, factor=2.0, shift=-1.0)
    expected = IMAGES[0] * 2.0 - 1
    sizes = set()
    for image in batch:
        gone = (image == 0).all(axis=2)
        rows, columns = np.flatnonzero(gone.any(axis=1)), np.flatnonzero(gone.any(axis=0))
        assert gone.sum() == len(rows) * len(columns)  # a rectangle
        assert len(rows) == np.ptp(rows) + 1 <= 3
        assert len(columns) == np.ptp(columns) + 1 <= 3
        np.testing.assert_array_equal(image[~gone], expected[~gone])
        sizes.add((len(rows), len(columns)))
    assert sizes == {(a, b) for a in (2, 3) for b in (2, 3)}


def test_the_square_may_lie_anywhere():
    gone = (augmented(Augment(erase=1), 2000) == 0).all(axis=3)
    assert (gone.sum(axis=(1, 2)) == 1).all()
    counts = gone.sum(axis=0)
    assert counts.min() > 0.4 * 2000 / (H * W)


def test_erasing_works_together_with_moving():
    augment = Augment(horizontal_flip=True, erase=2)
    batch = augmented(augment, 50)
    gone = (batch == 0).all(axis=3)
    for image, hole in zip(batch, gone, strict=True):
        assert any(np.array_equal(image[~hole], v[~hole]) for v in (IMAGES[0], IMAGES[0, :, ::-1]))


# ---------------------------------------------------------------------------------------------------------------
# What is drawn


def test_every_image_is_changed_on_its_own():
    matrix, holes = ALL.draw(50, (H, W), np.random.default_rng(0))
    assert matrix.shape == (50, 2, 3)
    assert holes.shape == (50, 4)
    assert len({m.tobytes() for m in matrix}) == 50
    assert len({hole.tobytes() for hole in holes}) > 20
    flips = Augment(horizontal_flip=True, vertical_flip=True).draw(50, (H, W), np.random.default_rng(0))[0]
    assert len({m.tobytes() for m in flips}) == 4


def test_the_seed_decides():
    first, again, other = (ALL.draw(9, (H, W), np.random.default_rng(seed)) for seed in (1, 1, 2))
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)


def test_both_backends_make_the_same_batch():
    matrix, holes = ALL.draw(5, (H, W), np.random.default_rng(0))
    batches = []
    for name in ("numpy", "numba"):
        minicnn.use_backend(name)
        batches.append(apply(IMAGES, np.arange(5), matrix, holes))
    np.testing.assert_allclose(*batches, rtol=1e-9, atol=1e-9)


def test_images_are_gathered_by_index_and_not_modified():
    kept = IMAGES.copy()
    index = np.array([4, 0, 4])
    np.testing.assert_array_equal(apply(IMAGES, index, None, None), IMAGES[index])
    apply(IMAGES, index, *ALL.draw(3, (H, W), np.random.default_rng(0)))
    np.testing.assert_array_equal(IMAGES, kept)


def test_preview_shows_several_versions_of_each_image_on_its_own_scale():
    images = load_fashion_mnist("sample", verbose=False).train_images[:3]
    shown = Augment(rotation=15, horizontal_flip=True).preview(images, count=4, seed=1)
    assert shown.shape == (3, 4, 28, 28, 1)
    assert shown.dtype == np.float32
    assert 200 < shown.max() <= 255.001
    assert len({version.tobytes() for version in shown[0]}) == 4
    np.testing.assert_array_equal(shown, Augment(rotation=15, horizontal_flip=True).preview(images, count=4, seed=1))
    plain = Augment().preview(images, count=2)
    np.testing.assert_array_equal(plain, np.stack([images, images], axis=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rotation": -1}, "rotation: got -1, expected a finite number, at least 0"),
        ({"zoom": math.nan}, "zoom: got nan"),
        ({"zoom": 1.0}, "zoom: got 1.0, expected a finite number, at least 0 and below 1"),
        ({"shift": -0.1}, "shift: got -0.1"),
        ({"crop_padding": -1}, "crop_padding: got -1"),
        ({"crop_padding": 1.5}, "crop_padding: got 1.5, expected a whole number of at least 0"),
        ({"erase": 2.0}, "erase: got 2.0, expected a whole number of at least 0"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Augment(**options)
