"""A second thread that helps with one image at a time, as long as images come one soon after another.

An operation on one image is cut into two halves. Each thread claims its own half, of which it has in its cache what it
made of the operation before; and the other's, where the other has not claimed that yet. No half begins before both of
the operation before are done. Nobody waits for a thread that has claimed nothing: where the assistant sleeps, or waits
for a core that another process has, the caller does both halves itself. Who does a half changes no bit. What little there
is to do after the last large operation is not cut.

To wake a thread takes as long as an image, so the assistant stays awake, looking for the next one, for half a millisecond
more than one takes. Where several threads ask at once, or an image took much longer than another, for its core is wanted, it
rests: a moment at first, twice as long where that soon happens again. It rests too where it is of little use: two cores that
have no cache in common exchange what each has written more slowly than one alone computes it. So of some thousand images a
few are answered without it, and their times compared.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from typing import Any

from numba import config

from minicnn.engine import threads

CALLER, ASSISTANT = range(2)
# The claims, an array of CLAIMS numbers: first what is to be told of the image, and how many operations are cut in two;
# then, each in a cache line of its own, how many first halves, the caller's, and how many second ones, the assistant's, are
# claimed, all of them or NOTHING where there is no image, and how many halves are done.
CLAIMS, CUT, CLAIMED, DONE, NOTHING = 64, 1, (16, 32), 48, 2**62
SOON = 1e-3  # seconds from the end of an image to the next
LATE = 3e-4  # seconds that an image may take longer than another half as long again
SHORTEST, LONGEST = 0.001, 2.0  # seconds of rest
SLICE = 0.02  # seconds, longer than a thread keeps its core where another wants it
ALONE, COMPARED, TOGETHER = range(3)  # phases, one after the other, and how many images each has
IMAGES = (8, 8, 4000)
WORTH = 0.9  # of its time alone that an image may take with help
SHORT_REST = 0.01  # seconds, where it takes more; eight times as long each time that it does so again
PATIENCE, LOOKS = 5e-4, 4e9  # seconds, beside an image's own, that it looks for the next; a look takes about a cycle
LONGEST_IMAGE = 0.1  # seconds that it waits for an image to end


class Trial:
    """Whether help with a program's images is of use: of some thousand a few are answered without, and times compared."""

    def __init__(self):
        self.rests_until, self.rest = 0.0, SHORT_REST
        self.enter(ALONE)

    def enter(self, phase: int) -> None:
        self.phase, self.left = phase, IMAGES[phase]
        if phase == ALONE:
            self.quickest = [float("inf")] * 2  # of the images without help, and with it

    def count(self, now: float) -> None:
        """After each image."""
        self.left -= 1
        if self.left > 0:
            return
        if self.phase == COMPARED:
            alone, together = self.quickest
            if together > WORTH * alone:
                self.rests_until, self.rest = now + self.rest, min(8 * self.rest, LONGEST)
                self.enter(ALONE)
                return
            self.rest = SHORT_REST
        self.enter((self.phase + 1) % len(IMAGES))


class Assistant:
    """The thread, one for the process. A program has a method `help(patience)`, which returns when no image comes, and a
    `trial`."""

    def __init__(self):
        self._busy, self._wanted, self._thread = threading.Lock(), threading.Event(), None
        self._program: Any = None
        self._next: Any = None
        self._began = self._ended = self._rests_until = 0.0
        self._rest = SHORTEST
        self._ends = config.DISABLE_JIT

    def joins(self, program) -> bool:
        """Whether it is there for this program's next image, after which `leaves` must be called; `helps` says whether
        it helps with it, or looks how long it takes without."""
        now, trial = time.perf_counter(), program.trial
        rests = self._ends or now < self._rests_until or now < trial.rests_until
        if rests or now - self._ended > SOON or threads.get_threads() == 1:
            return False
        if not self._busy.acquire(blocking=False):
            self._rests(now)
            return False
        self._began, self._trial, self.helps = now, trial, trial.phase != ALONE
        if self._program is program or not self.helps:
            return True
        try:
            if self._program is None:
                self._wake(program)
        finally:
            self._busy.release()
        return False

    def leaves(self) -> None:
        """After the image."""
        now, trial = time.perf_counter(), self._trial
        took, quickest = now - self._began, trial.quickest[self.helps]
        self._ended = now
        if took < quickest:
            trial.quickest[self.helps] = took
        elif took > 1.5 * quickest + LATE:
            self._rests(now)
        trial.count(now)
        self._busy.release()

    def left_out(self) -> None:
        """After an image for which it was not there."""
        self._ended = time.perf_counter()

    def _rests(self, now: float) -> None:
        soon_again = now - self._rests_until < SLICE + 3 * self._rest
        self._rest = min(2 * self._rest, LONGEST) if soon_again else SHORTEST
        self._rests_until = now + self._rest

    def _wake(self, program) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="minicnn's assistant", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # there may be no more threads
                self._ends = True
                return
            self._thread = thread
        self._next = program
        self._wanted.set()

    def _work(self) -> None:
        while self._wanted.wait():
            self._wanted.clear()
            if self._ends:
                return
            self._program, self._next = self._next, None
            if self._program is not None:
                alone, _ = self._program.trial.quickest
                self._program.help(int(LOOKS * (PATIENCE + min(alone, LONGEST_IMAGE))))
                self._program = None

    def end(self) -> None:
        """Before the memory goes that it looks at."""
        self._ends = True
        if self._thread is not None:
            self._wanted.set()
            self._thread.join()


assistant = Assistant()
atexit.register(lambda: assistant.end())


def _after_fork() -> None:
    global assistant
    assistant = Assistant()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
