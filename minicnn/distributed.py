"""Training on several processes, on one machine or on many: data parallelism.

The gradient of a batch is a sum over its images. So each of p processes, called ranks, takes a share of the batch through
a network of its own, forward and backward; one sum over all ranks, an Allreduce, gives each the whole batch's gradient;
and each takes the same step of the optimizer. They began with the same weights, and so they keep the same weights:

    for each batch, on every rank:
        outputs = model.forward(my share of the batch);  model.backward(...)
        grads = sum over ranks of (my images / the batch's) * grads        one Allreduce of the flat vector
        optimizer.step()

(Dean et al., Large scale distributed deep networks, 2012; Goyal et al., Accurate, large minibatch SGD, 2017.) A batch is
what all ranks take together, so that p ranks train as one does, only sooner. Batch normalisation sees a rank's own share
alone; the running statistics are the mean over the ranks. Augmentation and dropout draw by the rank too.

    mpiexec -n 4 minicnn train

The ranks talk over MPI: pip install "minicnn-numba[mpi]". A program of one's own is a function of the ranks:

    distributed.job(lambda ranks: model.fit(images, labels, ranks=ranks) and 0)

Only the first rank prints and writes files. After every step each rank has the same state, so its checkpoint is
everybody's, and a run goes on at any number of ranks.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout

import numpy as np

from minicnn.errors import DivergedError
from minicnn.extras import need
from minicnn.say import warn

SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")  # what MPICH's and Open MPI's mpiexec tell a process
LOST = (
    "error: the job ended early: a rank was killed, or said why; with a checkpoint it goes on (minicnn train: --resume)"
)


class Ranks:
    """This process among those that mpiexec began, given mpi4py's communicator; without one, the only process there is."""

    def __init__(self, comm=None):
        self.comm, self.rank, self.size = comm, comm.rank if comm else 0, comm.size if comm else 1
        self.key = (self.rank,) if comm else ()  # what its random numbers come from, besides seed, epoch and batch

    def share(self, index: np.ndarray) -> tuple[np.ndarray, float]:
        """The part of a batch that is this rank's, and its weight: how much of the batch that is.

        Where a batch has fewer images than there are ranks, some take its first image with weight 0.
        """
        mine = index[self.rank :: self.size]
        return (mine, len(mine) / len(index)) if len(mine) else (index[:1], 0.0)

    def combine(self, parameters, weight: float, loss: float, correct: int) -> tuple[float, int]:
        """Make `parameters.grads` and the running statistics those of the whole batch; its loss and correct answers."""
        if not self.comm:
            return loss, correct
        grads, statistics = parameters.grads, parameters.statistics
        mine = weight * np.concatenate((grads, statistics, [loss, 0]), dtype=grads.dtype)
        mine[-1] = correct if weight else 0
        sums = np.empty_like(mine)
        self.comm.Allreduce(mine, sums)
        grads[...], statistics[...], (loss, correct) = np.split(sums, (grads.size, grads.size + statistics.size))
        return float(loss), int(correct)

    def mean(self, function: Callable, x: np.ndarray, y: np.ndarray) -> Iterable[float]:
        """function(x, y), which gives means over images, each rank having done its share of them."""
        if not self.comm:
            return function(x, y)
        mine, weight = self.share(np.arange(len(x)))
        return self.comm.allreduce(weight * np.array(function(x[mine], y[mine]))).tolist()

    def from_first(self, function: Callable):
        """What function() gives on the first rank."""
        return self.comm.bcast(None if self.rank else function()) if self.comm else function()

    def agree(self, owners: list) -> None:
        """Let every owner of a state have the first rank's."""
        if self.comm:
            for owner, state in zip(owners, self.comm.bcast([owner.state() for owner in owners]), strict=True):
                owner.restore(state)

    def check(self, parameters, epoch: int) -> None:
        """DivergedError where the ranks' weights are not the same to the bit."""
        if not self.comm:
            return
        digest = hashlib.sha256(parameters.values.tobytes() + parameters.statistics.tobytes()).hexdigest()
        told = self.comm.allgather(digest)
        if others := [i for i, one in enumerate(told) if one != told[0]]:
            raise DivergedError(f"weights: after epoch {epoch} those of ranks {others} are not those of rank 0")

    def neighbours(self) -> int:
        """How many ranks are on this machine."""
        names = self.comm.allgather(platform.node()) if self.comm else [platform.node()]
        return names.count(platform.node())

    def leave(self, code: int, error: str = "") -> int:
        """End together: after a failure at once, the first rank telling why if it knows; else when all have done."""
        if code:
            if self.rank:
                time.sleep(2)  # what all ranks found wrong, the first one tells
                warn(f"rank {self.rank}: {error.strip()}")
            time.sleep(0.5)  # mpiexec passes on no more after an abort
            self.comm.Abort(code)
        done = self.comm.Ibarrier()
        while not done.Test():  # a wait of MPI's own would burn a core
            time.sleep(0.05)
        return code


def job(main: Callable[[Ranks], int]) -> int:
    """Run main(ranks) on every rank, and alone where no mpiexec began this; returns its exit code.

    Where it fails on one rank, or one is killed, the whole job ends.
    """
    if not any(int(os.environ.get(name, 1)) > 1 for name in SIZES):
        return main(Ranks())
    os.environ.setdefault("MPIR_CVAR_SUPPRESS_ABORT_MESSAGE", "1")  # `leave` has told
    try:
        ranks = Ranks(need("mpi4py.MPI", "mpi").COMM_WORLD)
    except (ImportError, RuntimeError) as error:  # RuntimeError: it finds no MPI
        raise SystemExit(f"error: {error}") from error
    if ranks.rank:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first rank saves, and then ends all
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said:
            code = _code(main, ranks)
        return ranks.leave(code, said.getvalue())
    tell = f"import sys; sys.stdin.read() or print({LOST!r}, file=sys.stderr)"
    command = [sys.executable, "-IS", "-c", tell]  # mpiexec kills with no last word
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as widow:
        code = _code(main, ranks)
        widow.communicate(b"done")
    return ranks.leave(code)


def _code(main: Callable, ranks: Ranks) -> int:
    """The exit code of main(ranks), however it ends."""
    try:
        return main(ranks)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
