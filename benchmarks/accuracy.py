"""The test accuracy of recipes, each over several seeds.

    python benchmarks/accuracy.py --recipes default --seeds 5
    python benchmarks/accuracy.py --recipes record --seeds 3 -- --threads 2

Every run is `examples/train_fmnist.py` in a process of its own, with a folder of its own: the test images are scored once,
after its last epoch. A run that is complete is not run again, and one that was interrupted goes on where it was. After each
run the table and results.json are written anew from all that is in the folder.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from minicnn.files import atomic_write
from minicnn.recipes import RECIPES
from minicnn.say import say

TRAIN = Path(__file__).parents[1] / "examples" / "train_fmnist.py"
COLUMNS = (
    *("recipe", "runs", "epochs", "test accuracy", "with mirrored images", "without duplicates", "seconds a run"),
    *("parameters", "multiply-adds"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="The test accuracy of recipes, each over several seeds.")
    parser.add_argument("--recipes", default="default", help=f"some of {', '.join(RECIPES)}, with commas between")
    parser.add_argument("--seeds", type=int, default=5, help="how many: 0, 1, 2, ...")
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("rest", nargs="*", help="after --: options that are handed on to train_fmnist.py")
    options = parser.parse_args()
    recipes = options.recipes.split(",")
    for recipe in recipes:
        if recipe not in RECIPES:
            parser.error(f"--recipes: got {recipe}, expected some of {', '.join(RECIPES)}")
    for recipe in recipes:
        for seed in range(options.seeds):
            finished(recipe, seed, options.out, options.rest)
            report(options.out)


def finished(recipe: str, seed: int, out: Path, options: list[str]) -> Path:
    """The folder of that run, complete: what is missing of it is run."""
    folder = out / f"{recipe}-{seed}"
    if not (folder / "metrics.json").exists():
        command = [sys.executable, TRAIN, "--resume", "--recipe", recipe, "--seed", seed, "--out", folder, *options]
        subprocess.run([str(part) for part in command], check=True)
    return folder


def report(out: Path) -> None:
    """Write results.json and print the table of all complete runs in the folder."""
    runs = [json.loads(path.read_text()) for path in sorted(out.glob("*/metrics.json"))]
    with atomic_write(out / "results.json") as file:
        file.write(json.dumps(runs, indent=1).encode())
    print(f"\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for recipe in dict.fromkeys(run["recipe"] for run in runs):
        alike = [run for run in runs if run["recipe"] == recipe]
        kinds = {(run["epochs"], run["parameters"], run["dataset"]["name"]) for run in alike}
        if len(kinds) > 1:
            sys.exit(f"error: {out}: holds runs of {recipe} that are not alike: {sorted(kinds)}; choose another --out")
        say(f"| {' | '.join(row(alike))} |")


def row(runs: list[dict]) -> list[str]:
    """A recipe's cells: means and standard deviations over its runs, and the median run's seconds (fewest to most)."""
    first = runs[0]
    # a run that was interrupted counts at least its epochs, whichever process they ran in
    seconds = sorted(max(run["total_seconds"], run["epochs"] * run["seconds_per_epoch"]) for run in runs)
    keys = "test_accuracy", "test_accuracy_tta", "test_accuracy_without_duplicates"
    name = first["dataset"]["name"]
    return [
        f"`{first['recipe']}`" + ("" if name == "Fashion-MNIST" else f" ({name})"),
        str(len(runs)),
        str(first["epochs"]),
        *(spread([run[key] for run in runs if run[key] is not None]) for key in keys),
        f"{statistics.median(seconds):.0f} ({seconds[0]:.0f} to {seconds[-1]:.0f})",
        f"{first['parameters']:,}",
        f"{first['macs'] / 1e6:.1f} M",
    ]


def spread(shares: list[float]) -> str:
    """Mean and standard deviation, in percent; of one share, itself."""
    deviation = f" ± {100 * statistics.stdev(shares):.2f}" if len(shares) > 1 else ""
    return f"{statistics.mean(shares):.2%}{deviation}" if shares else ""


if __name__ == "__main__":
    main()
