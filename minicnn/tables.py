"""Tables: of text for the terminal, of HTML for notebooks."""

from __future__ import annotations

import html
from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells in columns; rules set the first row, the head, and the last, the total, apart.

    The first two columns are aligned to the left, the others to the right.
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def html_table(rows: Sequence[Sequence[object]]) -> str:
    """Rows of cells as HTML, the first row being the head; numbers with four digits."""

    def line(row: Sequence[object], cell: str) -> str:
        return "<tr>" + "".join(f"<{cell}>{html.escape(short(value))}</{cell}>" for value in row) + "</tr>"

    return f"<table>{line(rows[0], 'th')}{''.join(line(row, 'td') for row in rows[1:])}</table>"


def short(value: object) -> str:
    """A number with four digits, anything else as text."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def size(count: float) -> str:
    """A number of bytes, for people."""
    return f"{count / 1024:,.1f} KiB" if count < 2**20 else f"{count / 2**20:,.1f} MiB"
