"""What each rank of tests/test_distributed.py does: train a small network, the first rank writing down what came out."""

import json
import os
import signal
import sys
import time

import numpy as np

import minicnn
from minicnn import Augment, BatchNorm, Checkpoint, Conv2D, Dense, Dropout, Flatten, Sequential, distributed
from minicnn.callbacks import Callback, CSVLogger
from minicnn.say import warn


class Mishap(Callback):
    """At one step, on one rank: "kill", "raise" or "spoil"; or "wait" at every step, for a signal from outside."""

    def __init__(self, kind, rank, ranks, at=20):
        self.kind, self.here, self.at = kind, rank == ranks.rank, at

    def on_step_end(self, run):
        if self.kind == "wait":
            time.sleep(0.02)
        if not self.here or run.step != self.at:
            return
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "raise":
            raise ValueError("a mishap of one rank")
        if self.kind == "spoil":
            run.model.parameters.values[3] += 1e-6


def main(ranks):
    """As minicnn's commands do: a mistake is told in one line."""
    try:
        train(ranks, sys.argv[1], **json.loads(sys.argv[2]))
    except ArithmeticError as error:
        warn(f"error: {error}")
        return 1
    return 0


def train(ranks, out, images=123, epochs=4, noise=False, weighted=False, mishap=None, rank=1, checkpoint=False):
    minicnn.use_backend("numpy")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (images, 6, 6, 1), dtype=np.uint8)
    y = (x.mean(axis=(1, 2, 3)) > 127).astype(int)
    noisy = [BatchNorm(), Dropout(0.2)] if noise else []
    model = Sequential([Conv2D(4, 3, activation="relu"), *noisy, Flatten(), Dense(2)], (6, 6, 1))
    model.fit(
        *(x, y),
        epochs=epochs,
        batch_size=10,
        augment=Augment(shift=0.1, horizontal_flip=True) if noise else None,
        validation_data=(x[:33], y[:33]),
        class_weight=[3.0, 0.5] if weighted else None,
        sample_weight=rng.integers(0, 3, images) if weighted else None,
        callbacks=[CSVLogger(f"{out}/history.csv"), Mishap(mishap, rank, ranks)],
        checkpoint=Checkpoint(f"{out}/checkpoint.npz", every=7) if checkpoint else None,
        ranks=ranks,
    )
    if not ranks.rank:
        history = {k: v for k, v in model.history.items() if k != "seconds"}
        weights = {"values": model.parameters.values, "statistics": model.parameters.statistics}
        np.savez(f"{out}/result.npz", history=json.dumps(history), **weights)


if __name__ == "__main__":
    sys.exit(distributed.job(main))
