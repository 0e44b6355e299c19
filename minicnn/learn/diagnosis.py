"""How an answer is wrong, found by trying: which known mistake gives just these numbers?

Four tables, tried in this order. The mistakes of the exercise (see exercises.py) are edits of the solution. `ANSWERS`
are changes of the right answer, such as its transpose. `INPUTS` are changes of what went in, such as a flipped kernel:
the library's solution is run on them. `PLACES` look at where the answer is wrong. Each has its sentence.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator

import numpy as np

from minicnn.layers.windows import Window, add_windows
from minicnn.learn.exercises import Exercise
from minicnn.learn.sources import solution


def wrong(got: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Where two arrays of one shape differ by more than rounding."""
    double = np.result_type(got.dtype, expected.dtype) != np.float32 and got.dtype != np.float32
    size = np.abs(expected).max(initial=1e-3)
    got, expected = np.asarray(got, float), np.asarray(expected, float)
    return ~(np.abs(got - expected) <= (1e-9 if double else 1e-4) * size)


def same(got: np.ndarray, expected: np.ndarray) -> bool:
    """Whether shape and numbers are the same, up to rounding."""
    return got.shape == expected.shape and not wrong(got, expected).any()


def diagnose(exercise: Exercise, case: dict, name: str, got: np.ndarray, expected: np.ndarray) -> str:
    """The sentence for the first known mistake that explains the answer, or ""."""
    if got.shape == expected.shape and np.isnan(got).any():
        return "NaN: a division 0 / 0, infinity - infinity (does exp overflow?), or the root of a negative number"
    if got.shape == expected.shape and np.isinf(got).any():
        return "infinity: the exp of a large number, a division by 0, or log(0)"
    with np.errstate(all="ignore"):
        tries = (_own(exercise, case, name, got, expected), *(f(case, got, expected) for f in ANSWERS), "")
        for sentence in tries:
            if sentence:
                return sentence
        return _inputs(exercise, case, name, got, expected) or next(
            filter(None, (f(case, got, expected) for f in PLACES)), ""
        )


def _own(exercise: Exercise, case: dict, name: str, got: np.ndarray, expected: np.ndarray) -> str:
    """A mistake of this exercise."""
    for old, new, sentence in exercise.mistakes:
        if _gives(exercise, solution(exercise, old, new), case, name, got, expected):
            return sentence
    return ""


def _gives(exercise: Exercise, tried, case: dict, name: str, got: np.ndarray, expected: np.ndarray) -> bool:
    """Whether a solution gives just this answer, or a larger one that begins with it, where its shape is as it should be."""
    try:
        found = np.asarray(exercise.run(tried, **copy.deepcopy(case))[name])
        if found.ndim == got.ndim and got.shape == expected.shape:
            found = found[tuple(slice(n) for n in got.shape)]
        return same(got, found)
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
    ):  # what is wrong may not run at all
        return False


# -- changes of the right answer ---------------------------------------------------------------------------------


def sign(case, got, expected) -> str:
    """The numbers are minus what they should be."""
    return "the sign is wrong: every number is minus what it should be" if same(got, -expected) else ""


def unchanged(case, got, expected) -> str:
    """The answer is an input as it came in."""
    for name, value in case.items():
        if isinstance(value, np.ndarray) and same(got, value):
            return f"that is {name} as it came in: where is the result written?"
    return ""


def not_written(case, got, expected) -> str:
    """The answer is empty, zero, or what stood in the gradient before."""
    if not got.size and expected.size:
        return "it is empty: x[a:-b] is where b is 0; write x[a : a + length]"
    if not got.any():
        return "all zeros: nothing was written into it"
    if same(got, np.full_like(expected, 7)):
        return "the gradient was not written: it is what stood there before; write self.w.grad[...] = ..."
    if same(got - 7, expected):
        return "the gradient was added to what stood there: write = and not +=, for every backward writes it anew"
    return ""


def transposed(case, got, expected) -> str:
    """The axes are in another order."""
    if got.ndim != expected.ndim or not 2 <= got.ndim <= 6:
        return ""
    for axes in itertools.permutations(range(expected.ndim)):
        turned = expected.transpose(axes)
        if list(axes) == sorted(axes):
            continue
        if same(got, turned):
            return f"the numbers are right and the axes are not: transpose, for yours are {axes} of those expected"
        if got.shape == expected.shape and same(got, turned.reshape(expected.shape)):
            return f"axes are mixed up by a reshape: transposed {axes}, then reshaped; reshape moves no axis"
    return ""


def reshaped(case, got, expected) -> str:
    """The shape is another one, of the same numbers."""
    if got.size == expected.size and same(got.ravel(), expected.ravel()):
        return "the numbers are right, in order, and the shape is wrong: reshape"
    if got.ndim == expected.ndim and all(g == e or 1 in (g, e) for g, e in zip(got.shape, expected.shape, strict=True)):
        if same(np.broadcast_to(got, np.broadcast_shapes(got.shape, expected.shape)), expected):
            return "an axis has length 1: broadcast it"
    return ""


def flipped(case, got, expected) -> str:
    """The answer is reversed along some of its first four axes."""
    for count in range(1, min(expected.ndim, 4) + 1):
        for axes in itertools.combinations(range(expected.ndim), count):
            if same(got, np.flip(expected, axes)):
                return f"the answer is flipped along axes {axes}: nothing is turned round here"
    return ""


def counts(case: dict) -> dict[str, int]:
    """What a sum may have been divided by, or multiplied with, by mistake."""
    first = case.get("dy", case.get("x", case.get("logits")))
    found = {"the number of images": len(first)} if first is not None else {}
    if first is not None and first.ndim == 4:
        n, h, w, _ = first.shape
        found |= {"the number of positions": h * w, "images times positions": n * h * w}
    if "window" in case:
        found["the pixels of a window"] = math.prod(case["window"].size)
    return found


def factor(case, got, expected) -> str:
    """Every number is the same number of times too large."""
    if got.shape != expected.shape or not expected.any():
        return ""
    at = np.unravel_index(np.abs(expected).argmax(), expected.shape)
    ratio = float(got[at] / expected[at])
    if not math.isfinite(ratio) or ratio == 0 or not same(got, expected * ratio):
        return ""
    if math.isclose(ratio, 1, rel_tol=1e-4):
        return "nearly right: are there numbers of less precision on the way, such as float32?"
    for what, count in counts(case).items():
        if math.isclose(ratio * count, 1, rel_tol=1e-5) and count > 1:
            return f"every number is divided by {what}, {count}: a mean where a sum is meant"
        if math.isclose(ratio, count, rel_tol=1e-5) and count > 1:
            return f"every number is multiplied by {what}, {count}: a sum where a mean is meant, or counted too often"
    return f"every number is {ratio:.6g} times what it should be" if got.size > 1 else ""


def not_summed(case, got, expected) -> str:
    """Some axes of the answer had to be summed over."""
    for count in range(1, got.ndim - expected.ndim + 1):
        for axes in itertools.combinations(range(got.ndim), count):
            if same(got.sum(axis=axes), expected):
                return f"contributions add, and a sum is missing: your axes {axes} must be summed over"
    if 0 < expected.ndim == got.ndim:
        for axis in range(got.ndim):
            if same(got.sum(axis=axis, keepdims=True), expected):
                return f"contributions add, and a sum is missing: sum over your axis {axis}"
    return ""


def summed_too_much(case, got, expected) -> str:
    """Some axes were summed over that should have stayed."""
    for count in range(1, expected.ndim + 1):
        for axes in itertools.combinations(range(expected.ndim), count):
            summed = expected.sum(axis=axes)
            kept = expected.sum(axis=axes, keepdims=True)
            if same(got, summed) or same(got, kept) or same(got, np.broadcast_to(kept, expected.shape)):
                return f"summed over too many axes: the axes {axes} of the answer should still be there"
    return ""


def padding_left(case, got, expected) -> str:
    """The answer still has its padding."""
    window = case.get("window")
    if window is None or got.ndim != expected.ndim or got.ndim != 4 or got.shape == expected.shape:
        return ""
    (top, bottom), (left, right) = window.padding
    inside = got[:, top : got.shape[1] - bottom, left : got.shape[2] - right]
    return "the padding was not removed: cut it off at the end" if same(inside, expected) else ""


def shifted(case, got, expected) -> str:
    """The image is moved by a pixel."""
    if got.shape != expected.shape or got.ndim < 4:
        return ""
    for axis, step in itertools.product((1, 2), (1, -1)):
        if same(np.roll(got, -step, axis)[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1]):
            return f"off by one: everything is moved by a pixel along axis {axis}"
    return ""


ANSWERS = (
    *(sign, unchanged, not_written, padding_left, reshaped, transposed, flipped, factor),
    *(not_summed, summed_too_much, shifted),
)

# -- changes of what went in -------------------------------------------------------------------------------------


def one(array: np.ndarray, *index) -> np.ndarray:
    """The array with 0 everywhere but at this index."""
    alone = np.zeros_like(array)
    alone[index] = array[index]
    return alone


def without(array: np.ndarray, *index) -> np.ndarray:
    """The array with 0 at this index."""
    rest = array.copy()
    rest[index] = 0
    return rest


def turned(array: np.ndarray, *axes: int) -> np.ndarray:
    """The array transposed and then reshaped to what it was: the same numbers in wrong places."""
    return np.ascontiguousarray(array.transpose(axes)).reshape(array.shape)


def changed_arrays(case: dict) -> Iterator[tuple[dict, str]]:
    """The case with an array changed, and the sentence."""
    for name in ("w", "x", "dy"):
        array = case.get(name)
        if array is None or array.ndim != 4:
            continue
        if name == "w":
            kh, kw, c, f = array.shape
            for flipped_w in (array[::-1, ::-1], array[::-1], array[:, ::-1]):
                yield {"w": flipped_w}, "the kernel is flipped: here w is not turned round, in no direction"
            first = array.reshape(f, -1).T.reshape(array.shape)
            yield {"w": first}, "w is flattened as if filters came first: they are its last axis, w.reshape(-1, f)"
            mixed = array.reshape(c, kh, kw, f).transpose(1, 2, 0, 3)
            yield {"w": mixed}, "windows and w are flattened in different orders: in both (kh, kw, c), channels last"
            yield {"w": one(array, ..., 0, slice(None))}, "only the first channel's share: sum over the channels"
            yield {"w": one(array, ..., 0)}, "only the first filter's share: sum over the filters"
            for i, which in ((0, "first"), (-1, "last")):
                sentence = f"the {which} {{}} of the kernel is missing: does a loop begin late or end early?"
                yield {"w": without(array, i)}, sentence.format("row")
                yield {"w": without(array, slice(None), i)}, sentence.format("column")
            yield {"w": turned(array, 1, 0, 2, 3)}, "rows and columns of the kernel are swapped"
            yield {"w": turned(array, 0, 1, 3, 2)}, "channels and filters of w are swapped: transpose, do not reshape"
            yield {"w": turned(array, 2, 0, 1, 3)}, "the axes of w are mixed up: (kh, kw, c, f), the channels behind"
        else:
            yield {name: turned(array, 0, 2, 1, 3)}, f"rows and columns of {name} are swapped"
            yield {name: turned(array, 0, 3, 1, 2)}, f"the axes of {name} are mixed up: channels come last, not first"
            yield {name: turned(array, 0, 2, 3, 1)}, f"the axes of {name} are mixed up: channels come last, not first"
            yield {name: turned(array, 1, 2, 0, 3)}, f"the axes of {name} are mixed up: images come first"
            yield {name: array[:, ::-1, ::-1]}, f"{name} is flipped in rows and columns"
    if "dy" in case:
        yield {"dy": np.ones_like(case["dy"])}, "that is the answer for a dy of ones: dy is not used"
    if "dwindows" in case:
        sentence = "the windows are flipped: their pixel (p, q) belongs p rows down and q columns to the right"
        yield {"dwindows": case["dwindows"][:, :, :, ::-1, ::-1]}, sentence
    if case.get("w", np.zeros(0)).ndim == 2:
        w = case["w"]
        for mixed in (w.T.reshape(w.shape), w.reshape(w.shape[::-1]).T):
            yield {"w": mixed}, "rows and columns of w are swapped by a reshape: transpose"
    if "b" in case:
        yield {"b": np.zeros_like(case["b"])}, "the bias is missing"
        yield {"b": -case["b"]}, "the bias is subtracted"
        yield {"b": 2 * case["b"]}, "the bias is added twice"


def fewer(case: dict) -> Iterator[tuple[dict, str]]:
    """The case with only a part of dy or dwindows, and the sentence."""
    for name in ("dy", "dwindows"):
        array = case.get(name)
        if array is None:
            continue
        for i, which in ((0, "first"), (-1, "last")):
            yield {name: one(array, i)}, f"only the {which} image's share: sum over the images, += and not ="
            if array.ndim >= 4:
                yield (
                    {name: one(array, slice(None), i, i)},
                    f"only the {which} position's share: sum over the positions, += and not =",
                )
                yield (
                    {name: one(array, slice(None), i)},
                    f"only the {which} row of positions: sum over all, += and not =",
                )
                yield (
                    {name: one(array, slice(None), slice(None), i)},
                    f"only the {which} column of positions: sum over all, += and not =",
                )
                yield {name: one(array, i, i, i)}, f"only one position of the {which} image: sum over all, += and not ="
        axes = ("image", "row of positions", "column of positions", "row of each window", "column of each window")
        for (axis, what), (i, which) in itertools.product(enumerate(axes), ((0, "first"), (-1, "last"))):
            if axis < (array.ndim - 1 if array.ndim >= 4 else 1):
                rest = without(array, *[slice(None)] * axis, i)
                yield {name: rest}, f"the {which} {what} is missing: does a loop begin late or end early?"


def changed_windows(case: dict) -> Iterator[tuple[dict, str]]:
    """The case with another window, and the sentence."""
    window = case.get("window")
    if window is None:
        return
    (top, left), none = window.padding, ((0, 0), (0, 0))
    (s, t), (d, e) = window.stride, window.dilation
    for change, sentence in (
        ({"stride": (1, 1)}, "the stride is forgotten: window i begins at pixel i * stride"),
        ({"stride": (1, t)}, "the stride of the rows is forgotten: window i begins at row i * window.stride[0]"),
        ({"stride": (s, 1)}, "the stride of the columns is forgotten: window j begins at column j * window.stride[1]"),
        ({"stride": window.stride[::-1]}, "the strides of rows and columns are swapped"),
        ({"stride": (window.stride[0],) * 2}, "columns have a stride of their own, window.stride[1]"),
        ({"stride": (window.stride[1],) * 2}, "rows have a stride of their own, window.stride[0]"),
        ({"padding": none}, "the padding is forgotten"),
        ({"padding": (top[::-1], left[::-1])}, "the sides of the padding are swapped: top and left come first"),
        ({"padding": (left, top)}, "the paddings of rows and columns are swapped"),
        ({"padding": ((top[0],) * 2, (left[0],) * 2)}, "the padding below and to the right is another"),
        ({"padding": ((sum(top), 0), (sum(left), 0))}, "all padding is above and to the left: each side has its own"),
        ({"padding": ((0, sum(top)), (0, sum(left)))}, "all padding is below and to the right: each side has its own"),
        ({"dilation": (1, 1)}, "the dilation is forgotten: the pixels of a window are `dilation` apart"),
        ({"dilation": (1, e)}, "the dilation of the rows is forgotten: a window's are window.dilation[0] apart"),
        ({"dilation": (d, 1)}, "the dilation of the columns is forgotten: a window's are window.dilation[1] apart"),
        ({"dilation": window.dilation[::-1]}, "the dilations of rows and columns are swapped"),
        ({"dilation": window.stride, "stride": window.dilation}, "stride and dilation are swapped"),
        ({"size": window.size[::-1]}, "rows and columns of the window's size are swapped"),
    ):
        yield {"window": Window(**(window._asdict() | change))}, sentence


NUMBERS = (
    ("fill", lambda v: {"fill": 0.0}, "the padding is 0 and not `fill`"),
    ("steps", lambda v: {"steps": 1}, "the bias correction is that of step 1: beta to the power of self.steps"),
    ("steps", lambda v: {"steps": 10**9}, "the bias correction is missing: both means begin at 0 and are too small"),
    ("steps", lambda v: {"steps": v - 1}, "the step counts from 1: self.steps has grown already"),
    ("steps", lambda v: {"steps": v + 1}, "self.steps has grown already: it is this step's number"),
    ("rate", lambda v: {"rate": -v}, "the sign of the step is wrong: go against the gradient"),
    ("rate", lambda v: {"rate": 1.0}, "the rate is missing"),
    ("keep", lambda v: {"keep": 1.0}, "w *= keep is missing"),
    ("epsilon", lambda v: {"epsilon": 1e-300}, "epsilon is missing"),
    ("gamma", lambda v: {"gamma": np.ones_like(v)}, "gamma is missing"),
    ("beta", lambda v: {"beta": np.zeros_like(v)}, "beta is missing"),
)


def numbers(case: dict) -> Iterator[tuple[dict, str]]:
    """The case with a number changed, and the sentence."""
    for name, change, sentence in NUMBERS:
        if name in case:
            yield change(case[name]), sentence
    if "beta1" in case:
        yield {"beta1": case["beta2"], "beta2": case["beta1"]}, "beta1 and beta2 are swapped"


INPUTS = (changed_arrays, fewer, changed_windows, numbers)


def _inputs(exercise: Exercise, case: dict, name: str, got: np.ndarray, expected: np.ndarray) -> str:
    """A change of what went in."""
    own = solution(exercise)
    for change, sentence in itertools.chain.from_iterable(table(case) for table in INPUTS):
        if _gives(exercise, own, case | change, name, got, expected):
            return sentence
    return ""


# -- where it is wrong -------------------------------------------------------------------------------------------


def overlapping(case, got, expected) -> str:
    """Right only at pixels that one window sees."""
    window, shape = case.get("window"), case.get("x_shape", np.shape(case.get("x")))
    if window is None or got.shape != expected.shape != () or expected.shape != shape:
        return ""
    n, _, _, c = shape
    places = (n, *window.positions(shape[1:]), *window.size, c)
    windows_of = add_windows(np.ones(places), shape, window)
    differ = wrong(got, expected)
    if differ.any() and not differ[windows_of <= 1].any() and differ[windows_of > 1].mean() > 0.3:
        return "right where one window sees a pixel, wrong where several do: their shares add, += and not ="
    return ""


def at_ties(case, got, expected) -> str:
    """Wrong in an input with equal numbers in a window."""
    if "window" not in case or "x" not in case or got.shape != expected.shape != () or got.shape != case["x"].shape:
        return ""
    x = case["x"]
    if len(np.unique(x)) < x.size and math.isclose(got.sum(), expected.sum(), rel_tol=1e-9, abs_tol=1e-9):
        return "of equal numbers in a window the first wins, counted row by row, and it alone gets the gradient"
    if len(np.unique(x)) < x.size:
        return "of equal numbers in a window only the first gets the gradient, not each of them"
    return ""


def one_index(case, got, expected) -> str:
    """One index of an axis, the first or the last, is alone right or alone wrong."""
    if got.shape != expected.shape or not got.ndim:
        return ""
    differ = wrong(got, expected)
    for axis, length in enumerate(got.shape):
        share = differ.mean(axis=tuple(a for a in range(got.ndim) if a != axis))
        for i, which in ((0, "first"), (length - 1, "last")):
            others = np.delete(share, i)
            if length > 2 and share[i] == 0 and others.min() > 0.9:
                return f"only the {which} index of axis {axis} is right: is there a loop or a sum that ends early?"
            if length > 2 and share[i] > 0.9 and not others.any():
                return f"only the {which} index of axis {axis} is wrong: does a loop begin late or end early?"
    return ""


def wrong_shape(case, got, expected) -> str:
    """What the two shapes tell."""
    if got.shape == expected.shape:
        return ""
    if sorted(got.shape) == sorted(expected.shape):
        return "the same lengths in another order, so axes are transposed"
    off = [a for a, (g, e) in enumerate(zip(got.shape, expected.shape, strict=False)) if g != e]
    if got.ndim == expected.ndim and all(abs(got.shape[a] - expected.shape[a]) == 1 for a in off):
        return f"off by one along axis {off[0]}: does a loop or a slice end early or late?"
    return ""


PLACES = (overlapping, at_ties, one_index, wrong_shape)
