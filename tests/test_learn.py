"""The exercises: stubs that give nothing away, the library's code that is right, and wrong answers told by what is wrong."""

from __future__ import annotations

import ast
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minicnn
import minicnn.learn
from minicnn.__main__ import main as minicnn_command
from minicnn.layers.windows import add_windows, windows
from minicnn.learn import commands, sandbox
from minicnn.learn.exercises import EXERCISES, find
from minicnn.learn.grading import attempt, judge
from minicnn.learn.sandbox import Limits, grade
from minicnn.learn.sources import load, solution, source, stub

NAMES = [exercise.name for exercise in EXERCISES]
FAST = [name for name in NAMES if name != "training_step"]


@pytest.fixture(autouse=True)
def numpy_backend():
    minicnn.use_backend("numpy")
    yield
    minicnn.use_backend("numba")


def verdict(name, student):
    exercise = find(name)
    return judge(exercise, attempt(exercise, student))


def in_process(exercise, path, limits=None):
    """As sandbox.grade, but in this process."""
    return judge(exercise, sandbox.try_file(exercise, path)) if path.exists() else grade(exercise, path)


def answer(name):
    """A student's file with the library's own code in it."""
    exercise = find(name)
    text = stub(exercise)
    module = inspect.getmodule(exercise.owner).__name__
    owner = exercise.owner.__name__ if inspect.isclass(exercise.owner) else exercise.parts[0]
    given = (
        f"import {module} as original\nglobals().update({{k: v for k, v in vars(original).items() if k[0] != '_'}})\n"
    )
    body = "".join(f"{source(exercise, part)}\n" for part in exercise.parts)
    if not inspect.isclass(exercise.owner):
        return f"{given}\n{body}"
    functions = ", ".join(f"{part}={part}" for part in exercise.parts)
    assert f"class {owner}(" in text
    return f"{given}\n{body}\n{owner} = type('{owner}', ({owner},), dict({functions}))\n"


# ---------------------------------------------------------------------------------------------------------------
# Stubs, and the library's own code


@pytest.mark.parametrize("name", NAMES)
def test_a_stub_gets_nothing_and_says_that_it_is_not_written(name, tmp_path):
    exercise, path = find(name), tmp_path / f"{name}.py"
    path.write_text(stub(exercise))
    found = judge(exercise, attempt(exercise, load(exercise, path)))
    assert (found.passed, found.message) == (False, f"{exercise.parts[0]} is not written yet")


@pytest.mark.parametrize("name", NAMES)
def test_the_librarys_own_code_is_right(name, tmp_path):
    exercise, path = find(name), tmp_path / f"{name}.py"
    assert verdict(name, solution(exercise)) == (True, "right")
    path.write_text(answer(name))
    assert judge(exercise, attempt(exercise, load(exercise, path))) == (True, "right")


@pytest.mark.parametrize("name", NAMES)
def test_no_line_of_the_solution_stands_in_its_stub(name):
    exercise = find(name)
    told = {line.strip() for line in stub(exercise).splitlines()}
    for part in exercise.parts:
        [function] = ast.parse(source(exercise, part)).body
        body = function.body[1:] if ast.get_docstring(function) else function.body
        lines = {line for node in body for line in ast.unparse(node).splitlines()}
        assert not {line.strip() for line in lines} & told
    assert not [node for node in ast.walk(ast.parse(stub(exercise))) if isinstance(node, ast.Return)]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_left_out_of_a_stub_and_edited_in_a_solution_is_there(name):
    exercise = find(name)
    documents = "\n".join(part.__doc__ or "" for part in (exercise.owner, *parts_of(exercise)))
    paragraphs = [p.strip() for p in documents.split("\n\n")]
    for start in exercise.left_out:
        assert sum(p.startswith(start) for p in paragraphs) == 1
        assert start not in stub(exercise)
    for old, _, _ in exercise.mistakes:
        assert any(old in source(exercise, part) for part in exercise.parts)
    assert len(exercise.hints) == 3
    assert len(set(exercise.hints)) == 3


@pytest.mark.parametrize("name", NAMES)
def test_a_stub_does_not_give_away_the_answer_of_another_exercise(name):
    for other in EXERCISES:
        for start in other.left_out if other.owner is find(name).owner else ():
            assert start not in stub(find(name))


def parts_of(exercise):
    return [getattr(exercise.owner, part) for part in exercise.parts]


@pytest.mark.parametrize("name", NAMES)
def test_the_librarys_own_solution_cannot_be_called_from_a_students_file(name):
    exercise = find(name)
    if inspect.isclass(exercise.owner):
        methods = {
            part: lambda self, *a, part=part, **k: getattr(exercise.owner, part)(self, *a, **k)
            for part in exercise.parts
        }
        student = type(exercise.owner.__name__, (exercise.owner,), methods)
    else:

        def student(*a, **k):
            return getattr(exercise.owner, exercise.parts[0])(*a, **k)

    found = verdict(name, student)
    assert not found.passed
    assert "it calls the library's own solution" in found.message


def test_attempts_leave_the_library_as_it_was():
    before = [[getattr(e.owner, part) for part in e.parts] for e in EXERCISES]
    for name in FAST:
        verdict(name, solution(find(name), "return", "raise KeyError; return"))
    assert [[getattr(e.owner, part) for part in e.parts] for e in EXERCISES] == before


def test_exercises_and_museum_import_nothing_of_the_engine():
    files = sorted(Path(minicnn.learn.__file__).parent.rglob("*.py"))
    assert len(files) > 20
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            for name in (f"{getattr(node, 'module', '')}.{name}" for name in names):
                assert "engine" not in name.split("."), file


# ---------------------------------------------------------------------------------------------------------------
# Wrong answers


@pytest.mark.parametrize(("name", "mistake"), [(e.name, m) for e in EXERCISES for m in e.mistakes])
def test_a_known_mistake_is_told_by_its_sentence(name, mistake):
    old, new, sentence = mistake
    found = verdict(name, solution(find(name), old, new))
    assert not found.passed
    assert f"hint: {sentence}\n" in found.message


def dense_forward(y):
    def forward(self, x, training=False):
        self.save_for_backward(x)
        return y(x, self.w.value, self.b.value)

    return dict(forward=forward)


def dense_backward(dx=lambda dy, x, w: dy @ w.T, dw=lambda dy, x: x.T @ dy, db=lambda dy: dy.sum(axis=0)):
    def backward(self, dy):
        (x,) = self.saved
        self.w.grad[...], self.b.grad[...] = dw(dy, x), db(dy)
        return dx(dy, x, self.w.value)

    return dict(backward=backward)


def added(self, dy):
    (x,) = self.saved
    self.w.grad += x.T @ dy
    self.b.grad += dy.sum(axis=0)
    return dy @ self.w.value.T


def replaced(self, dy):
    (x,) = self.saved
    self.w.grad, self.b.grad = x.T @ dy, dy.sum(axis=0)
    return dy @ self.w.value.T


def not_written(self, dy):
    return dy @ self.w.value.T


def overwrites_dy(self, dy):
    (x,) = self.saved
    self.w.grad[...], self.b.grad[...] = x.T @ dy, dy.sum(axis=0)
    dx = dy @ self.w.value.T
    dy *= 2
    return dx


def matrix(x, window):
    patches = windows(x, window)
    return patches.reshape(-1, np.prod(patches.shape[3:]))


def conv(x, w, window):
    n, oh, ow = windows(x, window).shape[:3]
    return (matrix(x, window) @ w.reshape(-1, w.shape[3])).reshape(n, oh, ow, -1)


def dw(dy, x, window):
    return (matrix(x, window).T @ dy.reshape(-1, dy.shape[3])).reshape(*window.size, x.shape[3], dy.shape[3])


def dx(dy, w, x_shape, window):
    return add_windows(np.einsum("nijf,pqcf->nijpqc", dy, w), x_shape, window)


def dw_by_loop(update):
    def loop(dy, x, window):
        patches = windows(x, window)
        found = np.zeros((*patches.shape[3:], dy.shape[3]), x.dtype)
        for n, i, j in np.ndindex(patches.shape[:3]):
            share = patches[n, i, j][..., None] * dy[n, i, j]
            found = share if update == "=" else found + share
        return found

    return loop


def one_image(function):
    return lambda dy, x, window: function(dy[:1], x[:1], window)


def put_windows(by, update):
    """add_windows by a loop over positions, or over the pixels of a window."""

    def put(dwindows, x_shape, window):
        (n, h, w, c), (_, oh, ow, kh, kw, _) = x_shape, dwindows.shape
        ((top, bottom), (left, right)), (s, t), (d, e) = window.padding, window.stride, window.dilation
        padded = np.zeros((n, h + top + bottom, w + left + right, c), dwindows.dtype)
        for i, j in np.ndindex((oh, ow) if by == "position" else (kh, kw)):
            if by == "position":
                at = slice(i * s, i * s + d * kh, d), slice(j * t, j * t + e * kw, e)
                piece = dwindows[:, i, j]
            else:
                at = slice(i * d, i * d + s * oh, s), slice(j * e, j * e + t * ow, t)
                piece = dwindows[:, :, :, i, j]
            place = padded[:, at[0], at[1]]
            place[...] = piece[:, : place.shape[1], : place.shape[2]] + (place if update == "+=" else 0)
        return padded[:, top : top + h, left : left + w]

    return put


def padding_kept(dwindows, x_shape, window):
    n, h, w, c = x_shape
    (a, b), (d, e) = window.padding
    return add_windows(dwindows, (n, a + h + b, d + w + e, c), window._replace(padding=((0, 0), (0, 0))))


def with_window(function, **changes):
    return lambda *a: function(*a[:-1], a[-1]._replace(**{k: f(a[-1]) for k, f in changes.items()}))


def pool(winners, fill=-np.inf):
    """Max pooling whose backward asks `winners` for the share of each pixel of (n, oh, ow, kh*kw, c)."""

    def forward(self, x, training=False):
        view = windows(x, self.window, fill)
        self.save_for_backward(view.reshape(*view.shape[:3], -1, view.shape[5]), x.shape)
        return view.max(axis=(3, 4))

    def backward(self, dy):
        flat, x_shape = self.saved
        share = winners(flat) * dy[:, :, :, None]
        return add_windows(share.reshape(*flat.shape[:3], *self.pool_size, -1), x_shape, self.window)

    return dict(forward=forward, backward=backward)


def all_largest(flat):
    return flat == flat.max(axis=3, keepdims=True)


def last_largest(flat):
    last = flat.shape[3] - 1 - flat[:, :, :, ::-1].argmax(axis=3)
    return np.arange(flat.shape[3])[:, None] == last[:, :, :, None]


def shared_largest(flat):
    return all_largest(flat) / all_largest(flat).sum(axis=3, keepdims=True)


def adam(correct=True, epsilon=True, sign=1, beta=("beta1", "beta2"), power=True):
    def update(self, w, dw, m, s, rate, keep):
        b1, b2 = getattr(self, beta[0]), getattr(self, beta[1])
        m[...] = b1 * m + (1 - b1) * dw
        s[...] = b2 * s + (1 - b2) * dw**2
        steps = self.steps if power else 1
        c1, c2 = (1 - b1**steps, 1 - b2**steps) if correct else (1, 1)
        w *= keep
        w -= sign * rate * (m / c1) / (np.sqrt(s / c2) + (self.epsilon if epsilon else 0))

    return dict(update=update)


def not_in_place(self, w, dw, m, s, rate, keep):
    m[...] = self.beta1 * m + (1 - self.beta1) * dw
    s[...] = self.beta2 * s + (1 - self.beta2) * dw**2
    w = w * keep - rate * m


def naive_softmax(self, logits, truth, weights):
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return -(weights[:, None] * truth * np.log(p)).sum(), weights[:, None] * (p - truth)


def softmax(self, logits, truth, weights, sign=1, scale=1, axis=1):
    shifted = logits - logits.max(axis=axis, keepdims=True)
    p = np.exp(shifted) / np.exp(shifted).sum(axis=axis, keepdims=True)
    log = shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
    return float(-(weights[:, None] * truth * log).sum()), sign * scale * weights[:, None] * (p - truth)


def batch_norm(self, dy, dx=lambda dy, xhat, s, g: g * s * dy):
    xhat, inverse_std = self.saved
    axes = tuple(range(dy.ndim - 1))
    self.gamma.grad[...], self.beta.grad[...] = (dy * xhat).sum(axis=axes), dy.sum(axis=axes)
    return dx(dy, xhat, inverse_std, self.gamma.value)


def means_swapped(self, dy):
    xhat, _ = self.saved
    axes = tuple(range(dy.ndim - 1))
    self.gamma.grad[...], self.beta.grad[...] = (dy * xhat).mean(axis=axes), dy.mean(axis=axes)


WRONG = [
    ("dense_forward", dense_forward(lambda x, w, b: x @ w), "the bias is missing"),
    ("dense_forward", dense_forward(lambda x, w, b: x @ w - b), "the bias is subtracted"),
    ("dense_forward", dense_forward(lambda x, w, b: (x @ w + b).T), "transpose"),
    ("dense_forward", dense_forward(lambda x, w, b: -(x @ w + b)), "the sign is wrong"),
    ("dense_forward", dense_forward(lambda x, w, b: (x @ w + b)[:, None]), "the shape is wrong: reshape"),
    ("dense_forward", dense_forward(lambda x, w, b: (x @ w + b).astype(np.float64)), "got float64, expected float32"),
    ("dense_forward", dense_forward(lambda x, w, b: None), "got NoneType, expected an array of shape (4, 5)"),
    ("dense_forward", dense_forward(lambda x, w, b: x @ w.reshape(5, 3).T + b), "by a reshape: transpose"),
    ("dense_forward", dense_forward(lambda x, w, b: x @ W), "NameError: name 'W' is not defined"),  # noqa: F821
    ("dense_backward", dense_backward(dw=lambda dy, x: x.T @ dy / len(x)), "a mean where a sum is meant"),
    ("dense_backward", dense_backward(db=lambda dy: dy.mean(axis=0)), "a mean where a sum is meant"),
    ("dense_backward", dense_backward(db=lambda dy: dy[-1]), "only the last image's share"),
    ("dense_backward", dense_backward(dw=lambda dy, x: -x.T @ dy), "the sign is wrong"),
    ("dense_backward", dense_backward(dw=lambda dy, x: np.outer(x[0], dy[0])), "only the first image's share"),
    ("dense_backward", dense_backward(dw=lambda dy, x: np.outer(x[-1], dy[-1])), "only the last image's share"),
    ("dense_backward", dense_backward(dx=lambda dy, x, w: (dy @ w.T).T), "transpose"),
    ("dense_backward", dense_backward(dx=lambda dy, x, w: dy), "that is dy as it came in"),
    ("dense_backward", dense_backward(dx=lambda dy, x, w: dy @ w.reshape(5, 3)), "by a reshape"),
    ("dense_backward", dense_backward(dx=lambda dy, x, w: dy @ w), "matmul: Input operand 1 has a mismatch"),
    ("dense_backward", dict(backward=added), "write = and not +="),
    ("dense_backward", dict(backward=replaced), "write self.w.grad[...] = ..."),
    ("dense_backward", dict(backward=not_written), "the gradient was not written"),
    ("dense_backward", dict(backward=overwrites_dy), "dy was changed in place"),
    ("relu", dict(f=lambda s, x: np.maximum(x, 0), derivative=lambda s, x, y: x), "dx: "),
    ("relu", dict(f=lambda s, x: np.maximum(x, 0), derivative=lambda s, x, y: x >= 0), "at 0 the gate is shut"),
    ("relu", dict(f=lambda s, x: x, derivative=lambda s, x, y: x > 0), "that is x as it came in"),
    ("softmax_cross_entropy", dict(formula=naive_softmax), "NaN"),
    ("softmax_cross_entropy", dict(formula=lambda *a: softmax(*a, sign=-1)), "the sign is wrong"),
    ("softmax_cross_entropy", dict(formula=lambda *a: softmax(*a, scale=4)), "dlogits lacks the images' weights"),
    ("softmax_cross_entropy", dict(formula=lambda *a: softmax(*a, scale=2)), "every number is 2 times"),
    (
        "softmax_cross_entropy",
        dict(formula=lambda *a: softmax(*a)[0]),
        "formula gave float, expected the pair (loss, dlogits)",
    ),
    ("softmax_cross_entropy", dict(formula=lambda *a: softmax(*a, axis=0)), "loss: got"),
    ("windows", lambda x, window, fill: windows(x, window, 0), "the padding is 0 and not `fill`"),
    ("windows", lambda x, window, fill: WINDOWS(x, window._replace(stride=(1, 1)), fill), "the stride is forgotten"),
    ("windows", lambda x, window, fill: WINDOWS(x, window._replace(stride=window.stride[::-1]), fill), "are swapped"),
    (
        "windows",
        lambda x, window, fill: WINDOWS(x, window._replace(dilation=(1, 1)), fill),
        "the dilation is forgotten",
    ),
    ("windows", lambda x, window, fill: WINDOWS(x, window, fill).transpose(0, 1, 2, 5, 3, 4), "transpose"),
    ("windows", lambda x, window, fill: WINDOWS(x, window, fill).transpose(0, 1, 2, 4, 3, 5), "transpose"),
    ("windows", lambda x, window, fill: WINDOWS(x, window, fill)[:, :, :, ::-1, ::-1], "flipped along axes (3, 4)"),
    ("convolution_forward", lambda x, w, v: conv(x, w[::-1, ::-1], v), "the kernel is flipped"),
    (
        "convolution_forward",
        lambda x, w, v: conv(x, w.transpose(1, 0, 2, 3).reshape(w.shape), v),
        "rows and columns of the kernel",
    ),
    (
        "convolution_forward",
        lambda x, w, v: conv(x, swapped(w), v),
        "channels and filters of w are swapped",
    ),
    (
        "convolution_forward",
        lambda x, w, v: conv(x, w.transpose(2, 0, 1, 3).reshape(w.shape), v),
        "the axes of w are mixed up",
    ),
    ("convolution_forward", with_window(conv, stride=lambda v: (1, 1)), "the stride is forgotten"),
    ("convolution_forward", with_window(conv, padding=lambda v: ((0, 0), (0, 0))), "the padding is forgotten"),
    ("convolution_forward", with_window(conv, padding=lambda v: v.padding[::-1]), "paddings of rows and columns"),
    ("convolution_forward", lambda x, w, v: conv(x, w, v).transpose(0, 3, 1, 2), "transpose"),
    ("convolution_forward", lambda x, w, v: conv(x, w, v) / len(x), "divided by the number of images"),
    ("convolution_db", lambda dy: dy.sum(axis=0), "a sum is missing: your axes (0, 1)"),
    ("convolution_db", lambda dy: dy.sum(axis=(1, 2)), "a sum is missing: your axes (0,)"),
    ("convolution_db", lambda dy: dy.sum(axis=(0, 1, 2), keepdims=True), "the shape is wrong"),
    ("convolution_db", lambda dy: dy.sum(), "summed over too many axes"),
    ("convolution_db", lambda dy: dy.sum(axis=(1, 2, 3)), "summed over the wrong axes"),
    ("convolution_db", lambda dy: dy.mean(axis=(0, 1, 2)), "divided by images times positions, 84"),
    ("convolution_db", lambda dy: dy.mean(axis=0).sum(axis=(0, 1)), "divided by the number of images, 2"),
    ("convolution_db", lambda dy: dy[-1].sum(axis=(0, 1)), "only the last image's share"),
    ("convolution_db", lambda dy: dy[:, -1, -1].sum(axis=0), "only the last position's share"),
    ("convolution_db", lambda dy: dy[:, 0].sum(axis=(0, 1)), "only the first row of positions"),
    ("convolution_dw", lambda dy, x, v: dw(dy, x, v)[::-1, ::-1], "flipped along axes (0, 1)"),
    ("convolution_dw", lambda dy, x, v: dw(dy, x, v).transpose(0, 1, 3, 2), "transpose"),
    ("convolution_dw", lambda dy, x, v: dw(dy, x, v).transpose(1, 0, 2, 3), "transpose"),
    ("convolution_dw", lambda dy, x, v: dw(rows_for_columns(dy), x, v), "rows and columns of dy are swapped"),
    ("convolution_dw", lambda dy, x, v: dw(dy, x, v) / len(x), "divided by the number of images"),
    ("convolution_dw", one_image(dw), "only the first image's share"),
    ("convolution_dw", dw_by_loop("="), "only one position of the last image"),
    ("convolution_dw", lambda dy, x, v: dw(last_position(dy), x, v), "only the last position's share"),
    ("add_windows", put_windows("position", "="), "+= and not ="),
    ("add_windows", put_windows("pixel", "="), "+= and not ="),
    ("add_windows", with_window(put_windows("pixel", "+="), stride=lambda v: (1, 1)), "the stride is forgotten"),
    ("add_windows", padding_kept, "the padding was not removed"),
    ("add_windows", lambda d, s, v: np.zeros(s), "all zeros"),
    ("add_windows", lambda d, s, v: np.roll(put_windows("pixel", "+=")(d, s, v), 1, 2), "off by one"),
    ("convolution_dx", lambda dy, w, s, v: dx(dy, w[::-1, ::-1], s, v), "the kernel is flipped"),
    ("convolution_dx", lambda dy, w, s, v: dx(dy, swapped(w), s, v), "channels and filters of w are swapped"),
    ("convolution_dx", lambda dy, w, s, v: dx(rows_for_columns(dy), w, s, v), "rows and columns of dy are swapped"),
    ("convolution_dx", lambda dy, w, s, v: -dx(dy, w, s, v), "the sign is wrong"),
    ("convolution_dx", with_window(dx, stride=lambda v: (1, 1)), "the stride is forgotten"),
    ("convolution_dx", lambda dy, w, s, v: put_windows("position", "=")(spread(dy, w), s, v), "+= and not ="),
    ("convolution_dx", lambda dy, w, s, v: padding_kept(spread(dy, w), s, v), "the padding was not removed"),
    ("convolution_dx", lambda dy, w, s, v: dx(dy, w, s, v)[:, :-1], "off by one along axis 1"),
    ("max_pool", pool(all_largest), "only the first gets the gradient, not each of them"),
    ("max_pool", pool(last_largest), "the first wins, counted row by row"),
    ("max_pool", pool(shared_largest), "the first wins, counted row by row"),
    ("max_pool", pool(all_largest, fill=0), "not each of them"),
    ("batch_norm_backward", dict(backward=batch_norm), "two terms are missing"),
    ("batch_norm_backward", dict(backward=lambda s, dy: batch_norm(s, dy, lambda d, x, i, g: i * d)), "dx: "),
    ("batch_norm_backward", dict(backward=means_swapped), "a mean where a sum is meant"),
    ("adam", adam(correct=False), "the bias correction is missing"),
    ("adam", adam(power=False), "beta to the power of self.steps"),
    ("adam", adam(epsilon=False), "epsilon is missing"),
    ("adam", adam(sign=-1), "go against the gradient"),
    ("adam", adam(beta=("beta2", "beta1")), "beta1 and beta2 are swapped"),
    ("adam", dict(update=not_in_place), "that is w as it came in"),
    ("training_step", lambda run, index: None, "the weights"),
    ("training_step", lambda run, index: run.model.backward(np.zeros((4, 4))), "needs a forward with training=True"),
    ("relu", dict(f=lambda s, x: np.maximum(x, 0), derivative=lambda s, x, y: np.sign(x)), "-1 below 0"),
    ("softmax_cross_entropy", dict(formula=lambda s, z, t, w: softmax(s, z, t, np.full(len(t), 1 / len(t)))), "a mean"),
    (
        "dense_forward",
        dict(forward=lambda s, x, training: x @ s.w.value + s.b.value),
        "forward kept 0 arrays, expected 1",
    ),
    ("dense_backward", dense_backward(db=lambda dy: dy.sum()), "summed over too many axes: the axes (0,)"),
    ("dense_backward", dense_backward(dw=lambda dy, x: x.T @ np.ones_like(dy)), "dy is not used"),
    ("windows", lambda x, window, fill: one_axis(WINDOWS, 0)(x, window, fill), "the stride of the rows is forgotten"),
    (
        "windows",
        lambda x, window, fill: one_axis(WINDOWS, 1)(x, window, fill),
        "the stride of the columns is forgotten",
    ),
    (
        "windows",
        lambda x, window, fill: undilated(WINDOWS, 0)(x, window, fill),
        "the dilation of the rows is forgotten",
    ),
    ("windows", lambda x, window, fill: one_sided(x, window, fill), "all padding is below and to the right"),
    ("windows", lambda x, window, fill: without_last(WINDOWS(x, window, fill), 1), "index of axis 1 is wrong"),
    (
        "convolution_forward",
        lambda x, w, v: conv(x, w.reshape(w.shape[3], -1).T.reshape(w.shape), v),
        "flattened as if",
    ),
    ("convolution_forward", lambda x, w, v: channels_first(x, w, v), "are flattened in different orders"),
    ("convolution_forward", lambda x, w, v: conv(x[..., :1], w[:, :, :1], v), "only the first channel's share"),
    ("convolution_dw", lambda dy, x, v: dw(np.ones_like(dy), x, v), "the answer for a dy of ones"),
    ("convolution_dw", lambda dy, x, v: dw(without_last(dy, 2), x, v), "the last column of positions is missing"),
    ("add_windows", lambda d, s, v: WINDOWS_BACK(d, s, v)[:, 0:0], "it is empty: x[a:-b] is where b is 0"),
    ("add_windows", lambda d, s, v: WINDOWS_BACK(d[:, :, :, ::-1, ::-1], s, v), "the windows are flipped"),
    ("add_windows", lambda d, s, v: WINDOWS_BACK(without_last(d, 1), s, v), "the last row of positions is missing"),
    (
        "add_windows",
        lambda d, s, v: WINDOWS_BACK(without_last(d, 4), s, v),
        "the last column of each window is missing",
    ),
    ("add_windows", lambda d, s, v: undilated(WINDOWS_BACK, 0)(d, s, v), "the dilation of the rows is forgotten"),
    ("convolution_dx", lambda dy, w, s, v: dx(dy, w[::-1], s, v), "the kernel is flipped"),
    ("convolution_dx", lambda dy, w, s, v: dx(dy[..., :1], w[..., :1], s, v), "only the first filter's share"),
    ("convolution_dx", lambda dy, w, s, v: dx(dy, w, s, v) * (1 + 1e-7), "nearly right"),
    ("convolution_dx", lambda dy, w, s, v: None, "is there a return at its end?"),
    ("training_step", lambda run, index: setattr(run, "seen", 1), "the weights stay as they were"),
]
WINDOWS, WINDOWS_BACK = windows, add_windows  # the library's, as they were before they are withheld


def one_axis(function, axis):
    """With stride 1 along one axis, and as many positions as there should be."""

    def strided(x, window, fill):
        oh, ow = window.positions(x.shape[1:])
        stride = (1, window.stride[1]) if axis == 0 else (window.stride[0], 1)
        return function(x, window._replace(stride=stride), fill)[:, :oh, :ow]

    return strided


def undilated(function, axis):
    def called(a, b, c):
        given = [b, c] if hasattr(b, "dilation") else [c, b]
        dilation = (1, given[0].dilation[1]) if axis == 0 else (given[0].dilation[0], 1)
        return function(a, *[v._replace(dilation=dilation) if hasattr(v, "dilation") else v for v in (b, c)])

    return called


def one_sided(x, window, fill):
    (top, bottom), (left, right) = window.padding
    return WINDOWS(x, window._replace(padding=((0, top + bottom), (0, left + right))), fill)


def without_last(array, axis):
    rest = array.copy()
    rest[(slice(None),) * axis + (-1,)] = 0
    return rest


def channels_first(x, w, window):
    patches = WINDOWS(x, window).transpose(0, 1, 2, 5, 3, 4)
    n, oh, ow = patches.shape[:3]
    return (patches.reshape(n * oh * ow, -1) @ w.reshape(-1, w.shape[3])).reshape(n, oh, ow, -1)


def last_position(dy):
    alone = np.zeros_like(dy)
    alone[:, -1, -1] = dy[:, -1, -1]
    return alone


def swapped(w):
    return w.transpose(0, 1, 3, 2).reshape(w.shape)


def rows_for_columns(dy):
    return dy.transpose(0, 2, 1, 3).reshape(dy.shape)


def spread(dy, w):
    return np.einsum("nijf,pqcf->nijpqc", dy, w)


@pytest.mark.parametrize(("name", "wrong", "hint"), WRONG, ids=[f"{i}-{w[0]}" for i, w in enumerate(WRONG)])
def test_a_wrong_answer_is_refused_and_told_how_it_is_wrong(name, wrong, hint):
    exercise = find(name)
    student = type(exercise.owner.__name__, (exercise.owner,), wrong) if isinstance(wrong, dict) else wrong
    found = verdict(name, student)
    assert not found.passed
    assert hint in found.message


def test_the_hint_names_the_first_number_that_differs_and_its_axes():
    def wrong(dy, w, x_shape, window):
        right = dx(dy, w, x_shape, window)
        right[1, 2, 3, 0] += 1
        return right

    message = verdict("convolution_dx", wrong).message
    assert "dx: 1 of 800 numbers differ, first [1, 2, 3, 0] (image 1, row 2, column 3, channel 0): got " in message
    assert "inputs: dy (2, 6, 7, 9), w (3, 4, 5, 9), x_shape (2, 8, 10, 5), size (3, 4)" in message


# ---------------------------------------------------------------------------------------------------------------
# The child process

ENDINGS = {
    "while True: pass": "stopped after 4 seconds: is there a loop that does not end?",
    "import os; os._exit(0)": "it ended without an answer",
    "import os; os._exit(3)": "it ended the whole program, exit code 3",
    "import sys; sys.exit('bye')": "it ends the whole program: sys.exit('bye')",
    "f = lambda: f(); f()": "RecursionError: maximum recursion depth exceeded",
    "import ctypes; ctypes.string_at(0)": "the whole program crashed: SIGSEGV",
    "numbers = np.ones(250_000_000)": "line 5: it asks for more memory than there is",
    "many = [bytearray(10_000_000) for _ in range(200)]": "line 5: it asks for more memory than there is",
    "while True: print('again ' * 1000)": "line 5: it prints or writes too much",
    "import threading; threading.Thread(target=threading.Event().wait).start(); 1 / 0": "line 5: ZeroDivisionError",
    "raise KeyboardInterrupt": "the whole program crashed: SIGINT",
    "1 / 0": "line 5: ZeroDivisionError: division by zero",
}


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="limits and signals are those of POSIX systems")
@pytest.mark.parametrize("line", ENDINGS)
def test_whatever_a_students_file_does_is_survived_and_told_in_one_line(line, tmp_path):
    path = tmp_path / "convolution_db.py"
    path.write_text(f"import numpy as np\n\n\ndef convolve_db(dy):\n    {line}\n")
    limits = Limits(seconds=4 if "4 seconds" in ENDINGS[line] else 60, memory=400_000_000)
    passed, message = grade(find("convolution_db"), path, limits)
    told = [text for text in message.splitlines() if not text.startswith(("    printed: ", "    inputs: "))]
    assert (passed, len(told)) == (False, 1)
    assert ENDINGS[line] in told[0]
    assert len(message) < 20_000


FILES = {
    "def convolve_db(dy:\n": "line 1: SyntaxError: '(' was never closed",
    "import nowhere\n": "line 1: ModuleNotFoundError: No module named 'nowhere'",
    "x = 1\n": "function convolve_db is missing",
    "convolve_db = 3\n": "convolve_db is no function",
    "def convolve_db(dy):\n\treturn 1\n        return 2\n": "line 3: TabError: inconsistent use of tabs",
    "\0": "null bytes",
    "def convolve_db():\n    pass\n": "TypeError: convolve_db() takes 0 positional arguments but 1 was given",
}


@pytest.mark.parametrize("text", FILES)
def test_files_that_cannot_be_graded_are_told_in_one_line(text, tmp_path):
    path = tmp_path / "convolution_db.py"
    path.write_text(text, encoding="utf-8")
    passed, message = in_process(find("convolution_db"), path)
    assert not passed
    assert FILES[text] in message
    assert len(message.splitlines()) == 1 or "inputs: " in message


def test_what_a_file_prints_is_shown_below_the_verdict(tmp_path):
    path = tmp_path / "convolution_db.py"
    text = "import numpy\nnumpy.sum = None\nfor i in range(12): print('ü', i)\n" + answer("convolution_db")
    path.write_text(text, encoding="utf-8")
    passed, message = grade(find("convolution_db"), path)
    shown = [f"    printed: ü {i}" for i in range(10)]
    assert (passed, message.splitlines()) == (True, ["right", *shown, "    printed: ... and 2 lines more"])
    assert np.sum([1, 2]) == 3  # what it does to NumPy stays in its process


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("class Dense:\n    pass\n", "expected a class that derives from the library's"),
        ("from minicnn.layers.dense import Dense\n", "Dense.backward is missing"),
        ("from minicnn.layers import dense\nclass Dense(dense.Dense):\n    pass\n", "Dense.backward is missing"),
        ("Dense = 1\n", "expected a class that derives from the library's"),
    ],
)
def test_a_class_that_is_not_as_it_was_is_told(text, told, tmp_path):
    path = tmp_path / "dense_backward.py"
    path.write_text(text)
    passed, message = in_process(find("dense_backward"), path)
    assert not passed
    assert told in message


def test_what_the_child_wrote_is_read_as_it_was_and_anything_else_is_no_answer(tmp_path):
    exercise, path = find("dense_backward"), tmp_path / "answer.npz"
    attempts = attempt(exercise, solution(exercise))
    sandbox.write(attempts, path)
    assert judge(exercise, sandbox._read(path)) == (True, "right")
    assert sandbox._read(tmp_path / "nowhere.npz") == []
    for text in (b"", b"PK\x03\x04", b"nonsense"):
        path.write_bytes(text)
        assert sandbox._read(path) == []
    np.savez(path, json=np.array('[[{}, {}, [], ""]]'))
    assert not judge(exercise, sandbox._read(path)).passed


# ---------------------------------------------------------------------------------------------------------------
# The commands


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *arguments):
    """(exit code, lines on standard output, lines on standard error)."""
    code = commands.main(list(arguments))
    said = capsys.readouterr()
    return code, said.out.splitlines(), said.err.splitlines()


def test_from_start_to_right(folder, capsys, monkeypatch):
    monkeypatch.setattr(commands, "grade", in_process)
    code, out, _ = run(capsys, "start", "convolution_db")
    assert (code, len(out)) == (0, 1)
    path = folder / "convolution_db.py"
    assert path.read_text() == stub(find("convolution_db"))
    code, out, err = run(capsys, "start", "convolution_db.py")
    assert (code, out, err) == (1, [], ["error: convolution_db.py: it is there already, and is not overwritten"])

    code, out, _ = run(capsys, "check", "convolution_db")
    assert code == 1
    assert out[0] == "convolution_db.py: not yet: convolve_db is not written yet"
    path.write_text(answer("convolution_db"))
    code, out, _ = run(capsys, "check")
    assert (code, out[0]) == (0, "convolution_db.py: right")
    assert out[1].endswith("start convolution_dw")

    (folder / "relu.py").write_text(stub(find("relu")))
    code, out, _ = run(capsys, "check")
    assert (code, out[-1]) == (1, "1 of 2 are right")
    code, out, _ = run(capsys, "list")
    assert code == 0
    assert [line.split()[:2] for line in out if " convolution_d" in line] == [
        ["right", "convolution_db"],
        [".", "convolution_dw"],
        [".", "convolution_dx"],
    ]
    assert [line for line in out if line.startswith("not yet")] == [
        "not yet  relu                    " + find("relu").task
    ]


def test_gradescopes_results_hold_every_exercise_and_nothing_else_is_printed(folder, capsys):
    (folder / "convolution_db.py").write_text("print('a line')\n" + answer("convolution_db"))
    (folder / "relu.py").write_text("def f(:\n")
    code, out, err = run(capsys, "check", "--json")
    results = json.loads("\n".join(out))
    assert (code, err, list(results)) == (0, [], ["tests"])
    assert [test["name"] for test in results["tests"]] == NAMES
    for test in results["tests"]:
        assert set(test) == {"name", "score", "max_score", "status", "output"}
        assert (test["max_score"], test["status"]) == (1, "passed" if test["score"] else "failed")
    found = {test["name"]: (test["score"], test["output"].splitlines()[0]) for test in results["tests"]}
    assert found["convolution_db"] == (1, "right")
    assert found["relu"] == (0, "line 1: SyntaxError: invalid syntax")
    assert found["adam"] == (0, "there is no such file")
    code, out, _ = run(capsys, "check", "convolution_db", "--json")
    assert [test["name"] for test in json.loads("\n".join(out))["tests"]] == ["convolution_db"]


def test_hints_come_one_by_one(capsys):
    for number in (1, 2, 3):
        code, out, _ = run(capsys, "hint", "convolution_dx", str(number))
        assert (code, out[0]) == (0, find("convolution_dx").hints[number - 1])
        assert len(out) == (2 if number < 3 else 1)
    assert run(capsys, "hint", "relu") == run(capsys, "hint", "relu", "1")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["start", "nonsense"], "error: nonsense: no such exercise; there are dense_forward, dense_backward, "),
        (["hint", "nonsense"], "error: nonsense: no such exercise"),
        (["check", "nonsense"], "error: nonsense: no such exercise"),
        (["check", "relu"], "error: relu.py: no such file; begin with: minicnn learn start relu"),
        (
            ["check"],
            "error: no exercise is in this folder; begin one with: minicnn learn start dense_forward",
        ),
        (["check", "--seconds", "0"], "error: --seconds: got 0, expected more than 0"),
        (["check", "--seconds", "nan"], "error: --seconds: got nan, expected more than 0"),
        (["train"], "error: none of your exercises is right yet"),
        (["train", "--epochs", "0"], "error: --epochs: got 0, expected at least 1"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, told, folder, capsys):
    code, out, err = run(capsys, *arguments)
    assert (code, out, len(err)) == (1, [], 1)
    assert err[0].startswith(told)


def test_the_command_minicnn_learn_is_the_same(folder, capsys):
    assert minicnn_command(["learn", "hint", "relu"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == find("relu").hints[0]
    for arguments in (["nonsense"], ["learn"], ["learn", "nonsense"], ["learn", "hint", "relu", "4"]):
        with pytest.raises(SystemExit) as caught:
            minicnn_command(arguments)
        assert caught.value.code == 2
    for started, told in (
        (["minicnn", "learn"], "minicnn learn"),
        (["minicnn.learn"], "python -m minicnn.learn"),
    ):
        run_it = [sys.executable, "-m", *started]
        assert f"usage: {told} [-h]" in subprocess.run([*run_it, "--help"], capture_output=True, text=True).stdout
        done = subprocess.run([*run_it, "hint", "relu"], capture_output=True, text=True)
        assert done.stdout.endswith(f"More: {told} hint relu 2\n")


def test_a_network_of_the_students_parts_trains_as_the_librarys_does(folder, capsys, monkeypatch):
    data = minicnn.load_fashion_mnist("sample", verbose=False)
    few = type(data)(*[v[:300] if isinstance(v, np.ndarray) else v for v in vars(data).values()])
    monkeypatch.setattr(commands, "load_fashion_mnist", lambda *a, **k: few)
    monkeypatch.setattr(commands, "grade", in_process)
    for name in NAMES:
        (folder / f"{name}.py").write_text(answer(name))
    code, out, _ = run(capsys, "train", "--epochs", "2")
    assert code == 0
    assert out[0] == f"yours: {', '.join(NAMES)}"
    assert out[1] == "the library's: nothing"
    rows = [line.split() for line in out[3:5]]
    assert [row[0] for row in rows] == ["1", "2"]
    assert all(mine == theirs for _, mine, theirs in rows)


def test_an_error_in_the_network_is_told_in_one_line(folder, capsys, monkeypatch):
    monkeypatch.setattr(commands, "grade", lambda exercise, path: judge(exercise, []))
    (folder / "convolution_db.py").write_text("def convolve_db(dy):\n    return dy.sum()[0]\n")
    code, _, err = run(capsys, "train")
    assert code == 1
    assert err == ["error: in the network: IndexError: invalid index to scalar variable."]
