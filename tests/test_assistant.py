"""A second thread that helps with one image changes no bit, is waited for by nobody, and leaves when it should."""

from __future__ import annotations

import os
import threading
import time
import weakref

import numpy as np
import pytest
from hypothesis import assume, given
from test_engine import run
from test_frozen import frozen, images, small
from test_steps import OwnConv2D, assert_same_bits, networks, quick, using_threads

from minicnn import Dense
from minicnn.engine import assistant as module
from minicnn.engine import interpreter, program, threads
from minicnn.engine.assistant import Assistant
from minicnn.engine.lanes import has_bfloat16
from minicnn.network import Network

several_threads = pytest.mark.skipif(threads.MAX_THREADS < 2, reason="one core: nobody could help")


class Willing:
    """In the assistant's place: it joins in everywhere, awake or not."""

    helps = True

    def __init__(self, awake):
        self.awake, self.images = awake, 0

    def joins(self, asked):
        self.images += 1
        if self.awake:
            self.thread = threading.Thread(target=asked.help, args=(20_000_000,))
            self.thread.start()
        return True

    def leaves(self):
        if self.awake:
            self.thread.join()

    def left_out(self):
        pass


def with_help(ask, x, awake):
    """The answers to single images, and how many programs were helped with."""
    for step in ask.steps:
        if isinstance(step, program.Program):
            step.ready = True
    was, module.assistant = module.assistant, Willing(awake)
    try:
        return np.concatenate([ask.outputs(x[i : i + 1]) for i in range(len(x))]), module.assistant.images
    finally:
        module.assistant = was


@pytest.mark.parametrize("awake", [False, True], ids=["asleep", "awake"])
@given(drawn=networks())
@quick(30)
def test_who_does_a_piece_changes_no_bit(awake, drawn):
    network, x, _ = drawn
    assume(not any(isinstance(layer, OwnConv2D) for layer in network.all_layers()))  # NumPy's product of its own
    ask = frozen(network)
    got, helped = with_help(ask, x, awake)
    assert_same_bits([got], [ask.outputs(x)])
    assert helped >= len(x) * any(isinstance(step, program.Program) for step in ask.steps)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("awake", [False, True], ids=["asleep", "awake"])
def test_of_every_kind_of_operation_the_pieces_make_the_whole(awake, precision):
    if precision == "bfloat16" and not has_bfloat16():
        pytest.skip("this processor has no dot product of bfloat16")
    model = small()
    model.precision = precision
    ask, x = frozen(model), images(3, np.uint8)
    assert_same_bits([with_help(ask, x, awake)[0]], [ask.outputs(x)])


@pytest.mark.parametrize("n", [0, 1, 2, 7, 64])
def test_pieces_make_the_whole(n):
    share = getattr(interpreter._share, "py_func", interpreter._share)
    shares = [share((i, 2), n) for i in range(2)]
    assert [i for share in shares for i in share] == list(range(n))


def check_without_a_compiler():
    ask, x = small().frozen(), images(1)
    alone = ask.outputs(x)
    for _ in range(3):
        ask.outputs(x)
    assert module.assistant._thread is None
    helped, count = with_help(ask, x, False)
    return count == 1 and helped.tobytes() == alone.tobytes()


@pytest.mark.slow
def test_in_plain_python_the_caller_does_all_pieces():
    assert run(check_without_a_compiler, NUMBA_DISABLE_JIT=1) == "True"


# ---------------------------------------------------------------------------------------------------------------
# When it helps


class Idle:
    """A program for which there is never anything to do."""

    def __init__(self):
        self.stay, self.helped, self.trial = threading.Event(), threading.Event(), module.Trial()

    def help(self, patience):
        self.patience = patience
        self.helped.set()
        self.stay.wait(60)


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes only when told."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def joins(assistant, served):
    """As a program asks."""
    return assistant.joins(served) or assistant.left_out() or False


@pytest.fixture
def awake(clock):
    """An assistant that serves a program, and the program."""
    with using_threads(2):
        assistant, served = Assistant(), Idle()
        served.trial.enter(module.TOGETHER)
        served.trial.quickest[0] = 0.02
        assert [joins(assistant, served) for _ in range(2)] == [False, False]  # the second image wakes it
        assert served.helped.wait(60)
        assert served.patience >= 0.02 * module.LOOKS  # until the image is over that woke it
        yield assistant, served
        served.stay.set()
        assistant.end()


@several_threads
def test_it_wakes_when_images_come_soon_after_each_other(clock):
    with using_threads(2):
        assistant = Assistant()
        for _ in range(3):
            clock[0] += 2 * module.SOON
            assert not joins(assistant, Idle())
        assert assistant._thread is None


@several_threads
def test_it_serves_one_program_and_one_caller_at_a_time(awake, clock):
    assistant, served = awake
    other = Idle()
    other.trial.enter(module.TOGETHER)
    assert not joins(assistant, other)
    assert assistant.joins(served)
    assert not assistant.joins(served)  # another thread asks meanwhile
    assistant.leaves()
    assert not assistant.joins(served)  # it rests
    clock[0] += module.SHORTEST + module.SOON
    assert [joins(assistant, served) for _ in range(2)] == [False, True]
    assistant.leaves()


@several_threads
def test_it_rests_where_an_image_took_much_longer_and_longer_each_time(awake, clock):
    assistant, served = awake

    def image(seconds):
        assert assistant.joins(served)
        clock[0] += seconds
        assistant.leaves()

    image(1e-4)
    image(3e-4)
    for rest in (module.SHORTEST, 2 * module.SHORTEST, 4 * module.SHORTEST):
        image(5e-4)
        clock[0] += 0.98 * rest
        assert [joins(assistant, served) for _ in range(2)] == [False, False]
        clock[0] += 0.03 * rest
        assert joins(assistant, served)
        assistant.leaves()
    clock[0] += 2 * module.SLICE + 50 * module.SHORTEST
    joins(assistant, served)
    image(5e-4)
    assert assistant._rests_until == pytest.approx(clock[0] + module.SHORTEST)


def answer(awake, clock, alone, together, count):
    """So many single images, of which each takes so many seconds; how many had help."""
    (assistant, served), helped = awake, 0
    for _ in range(count):
        assert assistant.joins(served)
        helped += assistant.helps
        clock[0] += together if assistant.helps else alone
        assistant.leaves()
    return helped


@several_threads
@pytest.mark.parametrize("alone", [1e-4, 1e-2])
def test_it_goes_on_where_it_is_of_use_and_looks_again_after_some_thousand_images(awake, clock, alone):
    few, _, many = module.IMAGES
    awake[1].trial.enter(module.ALONE)
    for _ in range(2):
        assert answer(awake, clock, alone, 0.6 * alone, few) == 0
        assert answer(awake, clock, alone, 0.6 * alone, few + many) == few + many


@several_threads
def test_it_rests_where_it_is_of_little_use(awake, clock):
    assistant, served = awake
    few, *_ = module.IMAGES
    served.trial.enter(module.ALONE)
    for rest in (module.SHORT_REST, 8 * module.SHORT_REST, 64 * module.SHORT_REST, module.LONGEST, module.LONGEST):
        assert answer(awake, clock, 1e-4, 9.5e-5, 2 * few) == few
        clock[0] += 0.99 * rest
        assert [joins(assistant, served) for _ in range(2)] == [False, False]
        clock[0] += 0.02 * rest
        joins(assistant, served) and assistant.leaves()  # then it is compared anew
        served.trial.enter(module.ALONE)
    assert answer(awake, clock, 1e-4, 6e-5, 2 * few) == few
    assert served.trial.rest == module.SHORT_REST


@several_threads
def test_a_question_that_is_refused_does_not_change_how_long_another_took(awake, clock):
    assistant, served = awake
    assert assistant.joins(served)
    clock[0] += 3e-4
    assert not joins(assistant, served)
    clock[0] += 1e-4
    assistant.leaves()
    assert served.trial.quickest[True] == pytest.approx(4e-4)


@several_threads
def test_where_no_thread_can_be_started_images_are_answered_without(monkeypatch, clock):
    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with using_threads(2):
        assistant, served = Assistant(), Idle()
        served.trial.enter(module.TOGETHER)
        assert [joins(assistant, served) for _ in range(4)] == [False] * 4
        assert not assistant._busy.locked()
        assistant.end()


@several_threads
def test_it_keeps_no_program_that_it_no_longer_helps_with(clock):
    with using_threads(2):
        assistant, served = Assistant(), Idle()
        served.trial.enter(module.TOGETHER)
        assert [joins(assistant, served) for _ in range(2)] == [False, False]
        assert served.helped.wait(60)
        served.stay.set()
        kept, end = weakref.ref(served), time.monotonic() + 60
        del served
        while kept() is not None and time.monotonic() < end:
            time.sleep(0.001)
        assert kept() is None
        assistant.end()


def test_a_program_with_little_to_do_has_no_help():
    small = Network([Dense(3)], (4,), seed=0)
    assert not frozen(small).steps[0].ready


@several_threads
def test_with_one_thread_nobody_helps(awake):
    assistant, served = awake
    with using_threads(1):
        assert not assistant.joins(served)
    assert assistant.joins(served)
    assistant.leaves()


@several_threads
def test_nobody_helps_with_what_is_not_compiled(monkeypatch):
    willing = Willing(False)
    monkeypatch.setattr(module, "assistant", willing)
    model, x = small(), images(1)
    assert_same_bits([model.outputs(x)], [model.frozen().outputs(x)])
    assert willing.images == 1


def ask_and_leave():
    """Ask until help came, and end at once."""
    ask, x = small().frozen(), images(1)
    expected, end = ask.outputs(x), time.monotonic() + 60
    while not (module.assistant._program is not None or time.monotonic() > end):
        assert ask.outputs(x).tobytes() == expected.tobytes()
    return module.assistant._program is not None


def ask_after_a_fork():
    """In a child, which has no such thread, an answer has the same bits."""
    ask, x = small().frozen(), images(1)
    expected = ask.outputs(x)
    ask_and_leave()
    child = os.fork()
    if child == 0:
        same = all(ask.outputs(x).tobytes() == expected.tobytes() for _ in range(200))
        os._exit(0 if same else 1)
    return os.waitpid(child, 0)[1] == 0


@several_threads
def test_it_comes_when_asked_and_ends_with_the_process():
    assert run(ask_and_leave) == "True"


@several_threads
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_gets_an_assistant_of_its_own():
    assert run(ask_after_a_fork) == "True"
