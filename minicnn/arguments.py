"""Arguments checked: each is taken as the plain Python type that a file can keep, or refused in one line.

Whole numbers, NumPy's and fractions are taken where they are meant, and truth values are no numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import TypeVar

import numpy as np

Value = TypeVar("Value")

WHOLE = int, Integral  # the usual one first: the other takes longer to ask for
PIXELS = 2**40  # sums of as many still fit in 64 bits


def integer(value, name: str, least: int = 1, most: float = math.inf) -> int:
    """A whole number within these limits."""
    if not isinstance(value, WHOLE) or isinstance(value, bool) or not least <= int(value) <= most:
        limit = "" if most == math.inf else f" and at most {most:,}"
        raise ValueError(f"{name}: got {value!r}, expected a whole number of at least {least}{limit}")
    return int(value)


def pair(value, name: str, least: int = 1) -> tuple[int, int]:
    """A number of pixels, for rows and columns alike, or a pair of them."""
    values = (value, value) if isinstance(value, Integral) else value
    try:
        first, second = (integer(v, name, least, PIXELS) for v in values)
    except (TypeError, ValueError):
        raise ValueError(
            f"{name}: got {value!r}, expected a whole number or a pair of them, each {least} to {PIXELS:,}"
        ) from None
    return first, second


def number(
    value,
    name: str,
    least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
) -> float:
    """A finite number, within what limits there are."""
    try:
        got = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:
        got = math.inf
    if not math.isfinite(got) or not (least <= got <= most and above < got < below):
        limits = {"at least": least, "above": above, "below": below, "at most": most}
        told = " and ".join(f"{word} {limit:g}" for word, limit in limits.items() if math.isfinite(limit))
        raise ValueError(f"{name}: got {value!r}, expected a finite number{f', {told}' if told else ''}")
    return got


def flag(value, name: str) -> bool:
    """True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name}: got {value!r}, expected True or False")
    return bool(value)


def choice(value, name: str, table: Mapping[str, Value], other: str = "") -> Value:
    """What stands in the table under this name; `other` tells what else might have been given."""
    if not isinstance(value, str) or value not in table:
        raise ValueError(f"{name}: got {value!r}, expected {other}one of {', '.join(table)}")
    return table[value]


def shape(value, name: str) -> tuple[int, ...]:
    """One whole number or more, without the batch axis, such as (28, 28, 1)."""
    try:
        numbers = tuple(integer(n, name) for n in value) if 1 <= len(value) <= 32 else ()
    except (TypeError, ValueError):
        numbers = ()
    if not numbers:
        raise ValueError(f"{name}: got {value!r}, expected whole numbers of at least 1, such as (28, 28, 1)"[:300])
    return numbers
