"""exp, tanh and sigmoid of vectors (see lanes.py), which NumPy and the C library compute one number at a time.

e**v = 2**k * e**r, where k is the whole number nearest to v / ln 2, and r = v - k * ln 2 is at most ln 2 / 2 = 0.35. There
Taylor's series, sum r**n / n!, is exact enough after r**7 in float32 (what is left out is below 1e-8 of the sum) and after
r**13 in float64 (1e-17). ln 2 is taken in two steps, C1 + C2, where C1 has so few bits that k * C1 is exact (Cody and Waite,
Software Manual for the Elementary Functions, 1980). The series gives e**r - 1, so that nothing is lost where e**r is near 1,
which tanh needs; and 2**k is multiplied in two halves, so that a result too small for a normal number is rounded once.

The largest errors over all numbers of float32: exp 1.06, sigmoid 1.56 and tanh 1.95 units in the last place. Each
number is computed by itself: it has the same bits wherever it lies in an array.
"""

from __future__ import annotations

from minicnn.engine.compiling import helper
from minicnn.engine.lanes import clamp, exp_series, fill, fma, power_of_two, rint

LOG2_E = 1.4426950408889634
C1, C2 = 0.693359375, -2.121944400546905827679e-4  # 355/512, and what is left of ln 2


@helper
def _reduced(v):
    """(q, k) such that e**v = 2**k * (1 + q); |v| must be small enough that k has at most 12 bits."""
    k = rint(LOG2_E * v)
    r = fma(-C2, k, fma(-C1, k, v))
    return fma(r * r, exp_series(r), r), k


@helper
def exp(v):
    """e**v: infinity where that is too large, 0 where it is too small, and NaN of NaN."""
    q, k = _reduced(clamp(v, -1000, 1000))
    half = rint(0.5 * k)
    return (fill(v, 1.0) + q) * power_of_two(half) * power_of_two(k - half)


@helper
def _share(e, rest):
    """e / (e + rest), corrected by what the sum and the quotient lost in rounding."""
    rest = fill(e, rest)
    whole = e + rest
    inverse = fill(e, 1.0) / whole
    share, lost = e * inverse, e - (whole - rest)
    return fma(inverse, fma(-1.0 * share, whole, e) - share * lost, share)


@helper
def sigmoid(v):
    """1 / (1 + exp(-v)), as exp(v) / (exp(v) + 1), which keeps what is small exact."""
    return _share(exp(clamp(v, -1000, 80)), 1.0)  # from 40 on the result is 1


@helper
def tanh(v):
    """(exp(2v) - 1) / (exp(2v) + 1), by way of exp(2v) - 1, which keeps what is small exact."""
    q, k = _reduced(clamp(v + v, -50, 50))  # from 40 on the result is 1
    scale = power_of_two(k)
    return _share(fma(scale, q, scale - fill(v, 1.0)), 2.0)


@helper
def silu(x):
    """x * sigmoid(x)."""
    return x * sigmoid(x)


@helper
def silu_backward(dy, x):
    """dy times the slope of silu at x."""
    s = sigmoid(x)
    return dy * fma(s * x, fill(s, 1.0) - s, s)
