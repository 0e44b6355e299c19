"""What is said while something runs: lines and progress bars.

They tell, and nothing depends on them: a stream that is closed, or full, or that nobody reads any more, ends no run.
"""

from __future__ import annotations

import sys
from contextlib import suppress

from tqdm import tqdm


def say(text: str) -> None:
    """A line to standard output."""
    _write(sys.stdout, text)


def warn(text: str) -> None:
    """A line to standard error."""
    _write(sys.stderr, text)


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


def bar(*steps, hidden: bool, **options) -> tqdm:
    """A progress bar on standard error, as tqdm's; hidden too where that is no terminal, or closed."""
    closed = sys.stderr is None or getattr(sys.stderr, "closed", False)
    return tqdm(*steps, file=_Forgiving(sys.stderr), disable=True if hidden or closed else None, **options)
