"""Learning rates over time: functions from the step, counted from 0, to the rate.

model.fit(..., schedule=one_cycle(4e-3, steps=epochs * math.ceil(len(x) / batch_size)))
"""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def constant(rate: float) -> Schedule:
    """The same rate at every step."""
    return lambda step: rate


def step_decay(rate: float, every: int, factor: float = 0.1) -> Schedule:
    """The rate times `factor` after each `every` steps."""
    return lambda step: rate * factor ** (step // every)


def cosine(rate: float, steps: int, final: float = 0.0) -> Schedule:
    """Half a cosine from `rate` down to `final` over `steps` (Loshchilov and Hutter, 2017)."""
    return lambda step: final + (rate - final) * 0.5 * (1 + math.cos(math.pi * min(step / max(1, steps), 1)))


def one_cycle(peak: float, steps: int, warm: float = 0.25, start: float = 0.04, final: float = 0.0) -> Schedule:
    """Up from start*peak to `peak` during the share `warm` of the steps, then down to final*peak, along half cosines.

    (Smith and Topin, 2018)
    """

    def rate(step: int) -> float:
        done = min((step + 1) / max(1, steps), 1)
        if done <= warm:
            return peak * (1 + (start - 1) * 0.5 * (1 + math.cos(math.pi * done / warm)))
        return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (done - warm) / (1 - warm))))

    return rate


def warm_up(schedule: Schedule, steps: int) -> Schedule:
    """The first `steps` of a schedule scaled up from 1/steps to 1."""
    return lambda step: schedule(step) * min(1.0, (step + 1) / max(1, steps))
