"""How long until 94%: the recipe `fast94` in minicnn, and the same network and recipe in PyTorch, by turns.

    python -m pip install -e ".[bench]"
    python benchmarks/fast94.py --seeds 3

Both train on all 60,000 images and score the test images once, after the last epoch. PyTorch gets what makes it fast on a
CPU: channels last, a fused optimizer, and augmentation of a whole batch at once. The seconds are those of training, without
imports, reading and scoring. A run that is complete in the folder is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from accuracy import finished, spread
from torch import nn
from tqdm import tqdm

from minicnn.data import load_fashion_mnist
from minicnn.files import atomic_write
from minicnn.layers import BatchNorm, Conv2D, Dense, GlobalMaxPool2D, MaxPool2D
from minicnn.recipes import RECIPES
from minicnn.say import say

RECIPE = RECIPES["fast94"]


class GlobalMax(nn.Module):
    """The largest number of each channel."""

    def forward(self, x):
        return x.amax((2, 3))


def network() -> nn.Sequential:
    """The recipe's layers, one by one, with first weights as He et al. (2015) draw them."""
    found, channels = [], 1
    for layer in RECIPE.network():
        if isinstance(layer, Conv2D):
            found.append(nn.Conv2d(channels, layer.filters, 3, padding=1, bias=False))
            channels = layer.filters
            nn.init.kaiming_normal_(found[-1].weight)
        elif isinstance(layer, BatchNorm):
            found += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        elif isinstance(layer, MaxPool2D):
            found.append(nn.MaxPool2d(2))
        elif isinstance(layer, GlobalMaxPool2D):
            found.append(GlobalMax())
        elif isinstance(layer, Dense):
            found.append(nn.Linear(channels, layer.units))
            nn.init.kaiming_normal_(found[-1].weight)
            nn.init.zeros_(found[-1].bias)
        else:
            raise ValueError(f"network: got {layer!r}, which has no counterpart here")
    return nn.Sequential(*found).to(memory_format=torch.channels_last)


def augmented(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Standardised images (n, 1, 28, 28), moved, mirrored and erased as the recipe says, each on its own."""
    augment, n = RECIPE.augment, len(images)
    pad, size = augment.crop_padding, images.shape[-1]
    background = images.min()  # black, as it is after standardisation
    framed = nn.functional.pad(images, (pad, pad, pad, pad), value=float(background))
    step = torch.arange(size)
    rows = step + torch.from_numpy(rng.integers(0, 2 * pad + 1, (n, 1)))
    columns = step + torch.from_numpy(rng.integers(0, 2 * pad + 1, (n, 1)))
    if augment.horizontal_flip:
        mirrored = torch.from_numpy(rng.random((n, 1)) < 0.5)
        columns = torch.where(mirrored, columns.flip(1), columns)
    moved = framed[torch.arange(n)[:, None, None], 0, rows[:, :, None], columns[:, None, :]]
    if augment.erase:
        centre = torch.from_numpy(rng.integers(0, size, (2, n, 1))) - augment.erase // 2
        inside = [(step >= first) & (step < first + augment.erase) for first in centre]
        moved[inside[0][:, :, None] & inside[1][:, None, :]] = 0
    return moved[:, None].contiguous(memory_format=torch.channels_last)


def train(seed: int, x, y) -> nn.Sequential:
    """A trained network."""
    torch.manual_seed(seed)
    rng, model, chosen = np.random.default_rng(seed), network(), next(iter(RECIPE.optimizers.values()))()
    kernels = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": chosen.weight_decay}, {"params": others, "weight_decay": 0.0}]
    betas = chosen.beta1, chosen.beta2
    optimizer = torch.optim.AdamW(groups, chosen.learning_rate, betas, chosen.epsilon, fused=True)
    loss = nn.CrossEntropyLoss(label_smoothing=RECIPE.loss.label_smoothing)
    batches = math.ceil(len(x) / RECIPE.batch_size)
    rate = RECIPE.schedule(chosen.learning_rate, RECIPE.epochs * batches)
    model.train()
    for step in tqdm(range(RECIPE.epochs * batches), desc=f"seed {seed}", unit="batch", leave=False):
        if step % batches == 0:
            order = torch.from_numpy(rng.permutation(len(x)))
        index = order[step % batches * RECIPE.batch_size :][: RECIPE.batch_size]
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.zero_grad(set_to_none=True)
        loss(model(augmented(x[index], rng)), y[index]).backward()
        optimizer.step()
    return model.eval()


def trained(seed: int, data, out: Path) -> dict:
    """PyTorch's run with that seed: test accuracy and seconds, from its file where it is complete."""
    path = out / f"pytorch-{seed}.json"
    if path.exists():
        return json.loads(path.read_text())
    mean, std = data.train_images.mean() / 255, data.train_images.std() / 255
    x, test = (
        torch.from_numpy(((images[..., 0] / 255 - mean) / std).astype(np.float32))[:, None]
        for images in (data.train_images, data.test_images)
    )
    start = time.perf_counter()
    model = train(seed, x, torch.from_numpy(data.train_labels))
    seconds = time.perf_counter() - start
    with torch.inference_mode():
        predicted = torch.cat([model(part).argmax(1) for part in test.split(256)])
    accuracy = (predicted == torch.from_numpy(data.test_labels)).float().mean().item()
    with atomic_write(path) as file:
        file.write(json.dumps({"accuracy": accuracy, "seconds": seconds}).encode())
    return {"accuracy": accuracy, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description="How long until 94%: the recipe `fast94` in minicnn and in PyTorch.")
    parser.add_argument("--seeds", type=int, default=3, help="how many: 0, 1, 2, ...")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--data", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/fast94"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = load_fashion_mnist(options.data)
    runs = {"minicnn": [], "PyTorch": []}
    for seed in range(options.seeds):
        folder = finished("fast94", seed, options.out, ["--data", options.data, "--threads", options.threads])
        ours = json.loads((folder / "metrics.json").read_text())
        seconds = ours["epochs"] * ours["seconds_per_epoch"]
        runs["minicnn"].append({"accuracy": ours["test_accuracy"], "seconds": seconds})
        runs["PyTorch"].append(trained(seed, data, options.out))
    print(f"\n{data.name}\n\n| {RECIPE.epochs} epochs | test accuracy | seconds |\n|---|---|---|")
    for name, found in runs.items():
        seconds = sorted(run["seconds"] for run in found)
        accuracy = spread([run["accuracy"] for run in found])
        say(f"| {name} | {accuracy} | {statistics.median(seconds):.0f} ({seconds[0]:.0f} to {seconds[-1]:.0f}) |")


if __name__ == "__main__":
    main()
