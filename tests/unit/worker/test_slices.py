"""How long an explanation has the worker for itself."""

from __future__ import annotations

import logging

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from jobs.outage import Outage
from worker import slices
from worker.slices import CHECK_SECONDS, Slice


class Others:
    """Whether others wait, and how often that was looked at. With an error, Redis is away."""

    def __init__(self) -> None:
        self.wait, self.looks, self.error = False, 0, None

    def __call__(self) -> bool:
        self.looks += 1
        if self.error:
            raise self.error
        return self.wait


@pytest.fixture
def others():
    return Others()


@pytest.fixture
def clock(monkeypatch):
    """The time, which stands still unless the test moves it."""

    class Clock:
        now = 100.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(slices, "time", clock)
    return clock


@pytest.fixture
def ten_seconds(others, clock):
    return Slice(10, others, Outage(logging.getLogger("test")))


def test_nobody_is_asked_before_the_time_is_over(ten_seconds, others, clock):
    others.wait = True
    for _ in range(3):
        assert not ten_seconds.over()
        clock.now += 3.3
    assert others.looks == 0
    clock.now += 0.2
    assert ten_seconds.over()


def test_it_is_over_once_somebody_waits(ten_seconds, others, clock):
    clock.now += 10
    assert not ten_seconds.over()
    others.wait = True
    assert not ten_seconds.over(), "looked at a moment ago"
    assert others.looks == 1
    clock.now += CHECK_SECONDS
    assert ten_seconds.over()


def test_while_redis_is_away_the_work_goes_on(ten_seconds, others, clock):
    others.error, others.wait = RedisConnectionError("away"), True
    clock.now += 10
    assert not ten_seconds.over()
    clock.now += 1
    assert not ten_seconds.over()
    assert others.looks == 1
    others.error = None
    clock.now += 1
    assert ten_seconds.over()
