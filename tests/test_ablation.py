"""benchmarks/ablation.py: what it compares differs in one thing from the recipe, and the table says what the runs say."""

from __future__ import annotations

import importlib.util
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "ablation.py"


@pytest.fixture(scope="module")
def ablation():
    spec = importlib.util.spec_from_file_location("ablation", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("study", ["short_study", "long_study"])
def test_variants_differ_from_the_recipe_in_one_thing(ablation, study):
    recipes = getattr(ablation, study)()
    base = recipes.pop("as it is")
    for name, recipe in recipes.items():
        changed = {field.name for field in fields(base) if getattr(recipe, field.name) != getattr(base, field.name)}
        rate = {"optimizers", "schedule"} if "constant rate" in name else set()
        assert changed == rate or len(changed) == 1, name
        assert recipe.model().output_shapes[-1] == (10,), name


def test_averaged_weights_are_the_moving_average(ablation):
    class Parameters:
        values, states = np.array([1.0, 2.0]), np.array([5.0])

    class Run:
        epochs, batches, step = 1, 2, 1

        class model:
            parameters = Parameters

    average = ablation.Average(0.75)
    average.on_train_begin(Run)
    average.on_step_end(Run)
    np.testing.assert_array_equal(Parameters.values, [1, 2])  # nothing is replaced before the last step
    Run.step, Parameters.values, Parameters.states = 2, np.array([5.0, 2.0]), np.array([1.0])
    average.on_step_end(Run)
    np.testing.assert_allclose(Parameters.values, [2, 2])
    np.testing.assert_allclose(Parameters.states, [4])


def test_the_table_compares_with_the_recipe_as_it_is(ablation, capsys):
    def run(name, accuracy, seconds):
        return {"name": name, "accuracy": accuracy, "seconds": seconds}

    ablation.report(
        [run("as it is", 0.93, 10), run("worse", 0.92, 20), run("as it is", 0.91, 10), run("worse", 0.90, 30)]
    )
    *_, first, second = capsys.readouterr().out.splitlines()
    assert first == "| as it is | 92.00% ± 1.41 | +0.00 | 1.00 |"
    assert second == "| worse | 91.00% ± 1.41 | -1.00 | 2.50 |"
