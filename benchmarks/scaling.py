"""What more ranks are worth: the default recipe's step, measured on two, and on paper for as many machines as one likes.

    mpiexec -n 2 python benchmarks/scaling.py

In interleaved rounds: one rank with two threads on the whole batch, the other asleep; two ranks with one thread each on
half of it; the Allreduce alone; and one rank on smaller batches, which is what it would have to do among more machines.
The last lines are tables for scaling.md, from the medians.
"""

from __future__ import annotations

import sys
import time
from statistics import median

import numpy as np

import minicnn
from minicnn import distributed
from minicnn.recipes import RECIPES
from minicnn.run import Run
from minicnn.training import train_step

BATCH, ROUNDS, STEPS = 128, 15, 5
SHARES = (64, 32, 16, 8, 4, 2, 1)  # images of a smaller batch
MACHINES = (2, 4, 8, 16, 32, 64, 128, 256)
NETWORKS = {"1 Gbit/s, 50 µs": (1e9, 50e-6), "10 Gbit/s, 20 µs": (10e9, 20e-6), "100 Gbit/s, 2 µs": (100e9, 2e-6)}


def ring_allreduce(machines: int, size: float, bandwidth: float, latency: float) -> float:
    """Seconds for a sum of `size` bytes over all machines, in a ring (Patarasuk and Yuan, 2009).

    In 2 (p - 1) rounds each machine sends one p-th to the next: 2 (p - 1) / p * size / bandwidth + 2 (p - 1) * latency.
    bandwidth is in bits a second, latency in seconds a message.
    """
    rounds = 2 * (machines - 1)
    return rounds / machines * size * 8 / bandwidth + rounds * latency


def begun(ranks) -> Run:
    """The default recipe's run on images of noise; the time of a step does not depend on what they show."""
    recipe, rng = RECIPES["default"], np.random.default_rng(0)
    optimizer = next(iter(recipe.optimizers.values()))()
    images = rng.integers(0, 256, (4096, 28, 28, 1), dtype=np.uint8)
    settings = dict(
        epochs=1, batch_size=BATCH, schedule=lambda step: 1e-3, augment=recipe.augment, callbacks=[], seed=0
    )
    same = dict(validation=None, plain_loss=recipe.loss, loss=recipe.loss, optimizer=optimizer, verbose=False)
    run = Run(recipe.model(), images, rng.integers(0, 10, len(images)), **settings, **same, ranks=ranks)
    optimizer.attach(run.model.parameters)
    run.model.scale.learn(images)
    return run


def seconds(run: Run, images: int) -> float:
    """Of a step on so many images, the mean of a few."""
    start = time.perf_counter()
    for i in range(STEPS):
        train_step(run, np.arange(i * images, (i + 1) * images))
    return (time.perf_counter() - start) / STEPS


def wait(ranks) -> None:
    """For the other rank, asleep."""
    done = ranks.comm.Ibarrier()
    while not done.Test():
        time.sleep(0.001)


def measure(ranks) -> dict[object, list[float]]:
    """{what: seconds in each round}; a batch's size stands for one rank with two threads."""
    alone, together = begun(distributed.Ranks()), begun(ranks)
    found = {}
    for _ in range(ROUNDS + 1):  # the first warms up
        if not ranks.rank:
            minicnn.set_threads(2)
            for images in (BATCH, *SHARES):
                found.setdefault(images, []).append(seconds(alone, images))
        wait(ranks)
        minicnn.set_threads(1)
        found.setdefault("2 ranks x 1 thread", []).append(seconds(together, BATCH))
        wait(ranks)
        start = time.perf_counter()
        for _ in range(STEPS):
            ranks.combine(together.model.parameters, 0.5, 0.0, 0)
        found.setdefault("the Allreduce alone", []).append((time.perf_counter() - start) / STEPS)
        wait(ranks)
    return {what: times[1:] for what, times in found.items()}


def spread(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def report(found: dict[object, list[float]], size: int) -> None:
    """What was measured, and what it makes on paper of many machines like this one."""
    print("| a step | ms | the whole batch's time to it |\n|---|---|---|")
    for what, times in found.items():
        name = f"1 rank x 2 threads, {what} images" if isinstance(what, int) else what
        ratio = spread([a / b for a, b in zip(found[BATCH], times, strict=True)])
        print(f"| {name} | {spread([1e3 * t for t in times])} | {ratio} |")
    step = {what: median(times) for what, times in found.items()}
    for title, strong in ((f"{BATCH} images for all machines together", True), (f"{BATCH} for each machine", False)):
        print(f"\n{title}\n\n| machines | {' | '.join(NETWORKS)} |\n|---|{'---|' * len(NETWORKS)}")
        for p in MACHINES:
            cells = []
            for network in NETWORKS.values():
                sum_time = ring_allreduce(p, size, *network)
                one = step[max(1, BATCH // p)] if strong else step[BATCH]
                faster = (1 if strong else p) * step[BATCH] / (one + sum_time)
                cells.append(f"{faster:.1f} ({1e3 * sum_time:.1f} ms)")
            print(f"| {p} | {' | '.join(cells)} |")


def main(ranks) -> int:
    if ranks.size != 2:
        sys.exit("run it as: mpiexec -n 2 python benchmarks/scaling.py")
    found = measure(ranks)
    if not ranks.rank:
        parameters = RECIPES["default"].model().parameters
        report(found, parameters.values.nbytes + parameters.statistics.nbytes)
    return 0


if __name__ == "__main__":
    sys.exit(distributed.job(main))
