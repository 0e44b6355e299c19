"""Ctrl-C and SIGTERM that let a training step end and be saved."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress

from minicnn.say import warn


class Signals:
    """While it lasts, the first SIGINT or SIGTERM is only noted, and a second one ends the process at once.

    Only in the main thread, and only where the program has no handler of its own.
    """

    got = 0

    def __enter__(self) -> Signals:
        ours = threading.current_thread() is threading.main_thread()
        usual = (signal.SIG_DFL, signal.default_int_handler)
        numbers = (signal.SIGINT, signal.SIGTERM) if ours else ()
        self.before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) in usual}
        for number in self.before:
            signal.signal(number, self._note)
        return self

    def _note(self, number, frame) -> None:
        if self.got:
            os._exit(128 + number)
        self.got = number
        with suppress(RuntimeError):  # the signal came amid a print
            warn("\nsaving, to go on later; once more to quit at once")

    def leave(self) -> None:
        """Raise what the signal asks for, if there was one."""
        if self.got == signal.SIGINT:
            raise KeyboardInterrupt
        if self.got:
            raise SystemExit(128 + self.got)

    def __exit__(self, *error) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
