"""Signals as exceptions, where they are allowed."""

import os
import signal
import time

import pytest

from worker.interruption import Interrupted, Interruption, TimeLimitReached
from worker.model_process import INTERRUPT


@pytest.fixture
def interruption():
    before = {number: signal.getsignal(number) for number in (INTERRUPT, signal.SIGALRM)}
    yield Interruption()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_interrupts_what_catches_exceptions(interruption):
    with pytest.raises(Interrupted), interruption.allowed(60):  # noqa: PT012
        try:
            os.kill(os.getpid(), INTERRUPT)
            time.sleep(10)
        except Exception:  # noqa: BLE001 - as explainers and libraries do
            pytest.fail("the interruption was swallowed")


def test_signals_do_nothing_elsewhere(interruption):
    os.kill(os.getpid(), INTERRUPT)
    with interruption.allowed(60):
        pass
    os.kill(os.getpid(), INTERRUPT)


def test_interrupts_once(interruption):
    with pytest.raises(Interrupted), interruption.allowed(60):  # noqa: PT012
        try:
            os.kill(os.getpid(), INTERRUPT)
            time.sleep(10)
        finally:
            os.kill(os.getpid(), INTERRUPT)  # while it is being settled


class Dropping:
    """Python drops what is raised while this is deleted."""

    def __init__(self, work):
        self._work = work

    def __del__(self):
        self._work()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("number", "limit", "error"), [(INTERRUPT, 60, Interrupted), (signal.SIGALRM, 0.02, TimeLimitReached)]
)
def test_what_python_drops_is_raised_again(interruption, monkeypatch, number, limit, error):
    monkeypatch.setattr("worker.interruption._AGAIN_SECONDS", 0.02)

    def struck():
        if number == INTERRUPT:
            os.kill(os.getpid(), INTERRUPT)
        time.sleep(10)  # until the signal

    with pytest.raises(error), interruption.allowed(limit):  # noqa: PT012
        Dropping(struck)
        time.sleep(10)
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_time_is_limited(interruption):
    with pytest.raises(TimeLimitReached) as caught, interruption.allowed(0.02):
        time.sleep(10)
    assert caught.value.seconds == 0.02
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


@pytest.mark.parametrize("spent", [59.98, 60, 100])
def test_time_that_is_spent_already_counts(interruption, spent):
    with pytest.raises(TimeLimitReached) as caught, interruption.allowed(60, spent=spent):
        time.sleep(10)
    assert caught.value.seconds == 60, "the whole limit is reported"
