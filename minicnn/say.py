"""What is said while something runs: lines and progress bars.

They tell, and nothing depends on them: a stream that is closed, or full, or that nobody reads any more, ends no run.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from contextlib import suppress

from tqdm import tqdm


def say(text: str) -> None:
    """A line to standard output."""
    _write(sys.stdout, text)


def warn(text: str) -> None:
    """A line to standard error."""
    _write(sys.stderr, text)


def advise(text: str) -> None:
    """A Python warning, at the line outside minicnn from which all the calls came."""
    level, frame = 1, sys._getframe()
    while frame.f_back and str(frame.f_globals.get("__name__")).partition(".")[0] == "minicnn":
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)


def in_notebook(stream) -> bool:
    """Whether what is written there appears in a notebook."""
    return type(stream).__module__.startswith("ipykernel")


def _write(stream, text: str) -> None:
    if stream is None:  # it was closed before Python began
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    with suppress(OSError, ValueError):  # an umlaut in ASCII is written as an escape
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


class _Forgiving:
    """A stream whose reader may have left."""

    def __init__(self, stream):
        self.stream = stream

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self.stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self.stream.flush()


class _Bar(tqdm):
    """tqdm's bar with a lock of this process alone. Forks share the lock of tqdm, and where one of them is killed while it
    draws, all others would wait for it for ever."""

    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _Bar.set_lock(threading.RLock()))


def bar(*steps, hidden: bool, **options) -> tqdm:
    """A progress bar on standard error, as tqdm's; hidden too where that is no terminal, or closed. In a notebook it is a
    widget, and hidden where ipywidgets is not installed."""
    closed = sys.stderr is None or getattr(sys.stderr, "closed", False)
    kind: type[tqdm] = _Bar
    if not (hidden or closed) and in_notebook(sys.stderr):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that ipywidgets is not installed
            from tqdm import auto  # brings asyncio

            kind = auto.tqdm
    widget = kind.__module__ == "tqdm.auto"  # and not what it falls back on
    disable = True if hidden or closed else False if widget else None
    return kind(*steps, file=_Forgiving(sys.stderr), disable=disable, **options)
