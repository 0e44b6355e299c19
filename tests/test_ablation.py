"""benchmarks/ablation.py: what it compares differs in one thing from the recipe, and the table says what the runs say."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise

import ablation
import ingredients
import numpy as np
import pytest

from minicnn import Conv2D, Sequential, gradcheck
from minicnn.optimizers import AdamW
from minicnn.parameters import Parameters
from minicnn.recipes import RECIPES, small_vgg


@pytest.mark.parametrize("study", ["short_study", "long_study"])
def test_variants_differ_from_the_recipe_in_one_thing(study):
    recipes = getattr(ablation, study)()
    base = recipes.pop("as it is")
    for name, recipe in recipes.items():
        changed = {field.name for field in fields(base) if getattr(recipe, field.name) != getattr(base, field.name)}
        rate = {"optimizers", "schedule"} if "constant rate" in name else set()
        assert changed == rate or len(changed) == 1, name
        assert recipe.model().output_shape == (10,), name


def test_the_way_from_the_seed_to_the_default_is_made_in_three_steps():
    steps = list(ablation.way_study().values())
    changed = [
        {field.name for field in fields(a) if getattr(a, field.name) != getattr(b, field.name)}
        for a, b in pairwise(steps)
    ]
    training = {"batch_size", "optimizers", "schedule", "loss", "validation"}
    assert changed == [{"augment"}, {"network"}, training]
    assert steps[-1] == RECIPES["default"] and replace(steps[0], callbacks=RECIPES["seed"].callbacks) == RECIPES["seed"]


class Run:
    """As much of a training run as a callback sees."""

    def __init__(self, values, statistics, epochs=1, batches=2):
        self.epochs, self.batches, self.step, self.model = epochs, batches, 0, self
        self.parameters = Parameters()
        self.parameters.values, self.parameters.statistics = np.array(values), np.array(statistics)

    def end_step(self, callback, values, statistics=(0.0,)):
        self.step += 1
        self.parameters.values[:], self.parameters.statistics[:] = values, statistics
        callback.on_step_end(self)
        return self.parameters.values


def test_averaged_weights_are_the_moving_average():
    run, average = Run([0.0, 0.0], [0.0]), ingredients.Average(0.75)
    average.on_train_begin(run)
    np.testing.assert_array_equal(run.end_step(average, [1, 2], [5]), [1, 2])  # replaced only after the last step
    np.testing.assert_allclose(run.end_step(average, [5, 2], [1]), [2, 2])
    np.testing.assert_allclose(run.parameters.statistics, [4])


def test_lookahead_goes_half_of_the_way():
    run, lookahead = Run([0.0], [0.0]), ingredients.Lookahead(every=2)
    lookahead.on_train_begin(run)
    assert [run.end_step(lookahead, [w])[0] for w in (1, 4, 3, 6)] == [1, 2, 3, 4]


def test_two_rates():
    one, other = (Sequential(small_vgg(), (8, 8, 1), seed=0) for _ in range(2))
    for model, optimizer in ((one, AdamW(1e-2, weight_decay=0.05)), (other, ingredients.TwoRates(1e-2, 4, 0.05))):
        before = model.parameters.values.copy()
        model.parameters.grads[:] = 1
        optimizer.step(model.parameters)
        model.moved = model.parameters.values - before
    kernels = one.parameters.decayed
    np.testing.assert_array_equal(other.moved[:kernels], one.moved[:kernels])
    np.testing.assert_allclose(other.moved[kernels:], 4 * one.moved[kernels:], rtol=1e-5)


def test_a_triangle():
    rate = ingredients.triangle(2.0, 8)
    np.testing.assert_allclose([rate(step) for step in range(8)], [1, 2, 5 / 3, 4 / 3, 1, 2 / 3, 1 / 3, 0], atol=1e-12)


def test_squeeze_and_excite_has_the_correct_gradient():
    x = np.random.default_rng(0).standard_normal((3, 4, 5, 6))
    report = gradcheck(ingredients.SqueezeExcite(), x)
    assert report.ok, report


def test_first_weights_that_copy():
    layer = Conv2D(6, 3, use_bias=False, kernel_initializer=ingredients.dirac)
    x = np.random.default_rng(0).standard_normal((2, 5, 5, 4)).astype("float32")
    y = Sequential([layer], x.shape[1:], seed=0).forward(x)
    np.testing.assert_array_equal(y[..., :4], x)
    assert np.abs(y[..., 4:]).min() > 0


def test_whitening_makes_patches_uncorrelated_and_does_not_learn():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 12, 12, 1)).astype("float32")
    x += np.roll(x, 1, axis=1) + np.roll(x, 1, axis=2)
    model = Sequential([ingredients.Whitening(), Conv2D(2, 3)], (12, 12, 1), seed=0)
    model.forward(x, training=True)
    model.backward(np.ones((200, 12, 12, 2), "float32"))
    assert not model.steps[1].needs_dx  # nothing before it learns
    kernels = model.layers[0].w.value.copy()
    patches = np.lib.stride_tricks.sliding_window_view(x[..., 0], (3, 3), axis=(1, 2)).reshape(-1, 9)
    np.testing.assert_allclose(np.cov(patches @ kernels.reshape(9, 18)[:, :9], rowvar=False), np.eye(9), atol=0.1)
    np.testing.assert_array_equal(kernels[..., 9:], -kernels[..., :9])
    AdamW(0.1, weight_decay=0.5).step(model.parameters)
    model.forward(2 * x, training=True)
    np.testing.assert_array_equal(model.layers[0].w.value, kernels)


def test_the_table_compares_with_the_recipe_as_it_is(capsys):
    def run(name, accuracy, seconds):
        return {"name": name, "accuracy": accuracy, "seconds": seconds}

    ablation.report(
        [run("as it is", 0.93, 10), run("worse", 0.92, 20), run("as it is", 0.91, 10), run("worse", 0.90, 30)]
    )
    *_, first, second = capsys.readouterr().out.splitlines()
    assert first == "| as it is | 92.00% ± 1.41 | +0.00 | 1.00 |"
    assert second == "| worse | 91.00% ± 1.41 | -1.00 | 2.50 |"
