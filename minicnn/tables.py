"""Tables of text, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]], left: int = 1, footer: int = 1) -> str:
    """Rows of cells in columns, the first row being the head, set apart by a rule, and the last `footer` rows too.

    The first `left` columns are aligned to the left, the others to the right.
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    rule, end = "-" * len(lines[0]), len(lines) - footer
    return "\n".join([lines[0], rule, *lines[1:end], rule, *lines[end:]])


def size(count: float) -> str:
    """A number of bytes, for people."""
    return f"{count / 1024:,.1f} KiB" if count < 2**20 else f"{count / 2**20:,.1f} MiB"
