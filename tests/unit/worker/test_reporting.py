"""How often an explanation's record is written."""

import logging

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from jobs.outage import Outage
from ml.result import ExplanationResult, Progress, ResolvedRemoval, ResolvedTarget, Stage, Update
from ml.spec import RemovalKind, Scale
from worker import reporting
from worker.reporting import reported

OUTAGE = Outage(logging.getLogger("test"))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(reporting, "time", clock)
    return clock


class Store:
    def __init__(self) -> None:
        self.written = []
        self.away = False

    def progress(self, attempt, progress, partial, checkpoint) -> None:
        if self.away:
            raise RedisConnectionError("away")
        self.written.append((progress.evaluations_done, partial and partial.base_value, checkpoint))


def update(done: int, base: float | None = None) -> Update:
    target, removal = ResolvedTarget("log p", (), Scale.LOG_PROBABILITY), ResolvedRemoval(RemovalKind.DELETE)
    result = None if base is None else ExplanationResult("text", (), target, removal, (), base, 0.0)
    return Update(Progress(done, 1000, Stage.EXPLAINING), result)


def report(store, clock, updates, checkpoint=lambda: b"saved"):
    def timed():
        for seconds, item in updates:
            clock.now = 100.0 + seconds
            yield item

    return list(reported(timed(), store, object(), checkpoint, OUTAGE))


def test_passes_every_update_on(clock):
    updates = [update(n) for n in range(5)]
    assert report(Store(), clock, [(0, u) for u in updates]) == updates


def test_writes_a_few_times_a_second_and_the_newest_result(clock):
    store = Store()
    report(store, clock, [(n / 100, update(n, base=n)) for n in range(100)])
    assert [done for done, _, _ in store.written] == [0, 25, 50, 75]
    assert [base for _, base, _ in store.written] == [0, 25, 50, 75]


def test_the_first_result_does_not_wait(clock):
    store = Store()
    report(store, clock, [(0, update(1)), (0.01, update(2)), (0.02, update(3, base=7)), (0.03, update(4, base=8))])
    assert store.written == [(1, None, None), (3, 7.0, None)]


def test_a_result_between_two_reports_is_not_lost(clock):
    store = Store()
    report(store, clock, [(0, update(1, base=1)), (0.1, update(2, base=2)), (0.3, update(3)), (0.6, update(4))])
    assert [written[:2] for written in store.written] == [(1, 1.0), (3, 2.0), (4, None)]


def test_checkpoints_come_early_and_then_once_a_second(clock):
    store = Store()
    report(store, clock, [(n / 8, update(n)) for n in range(41)])
    saved = [done for done, _, checkpoint in store.written if checkpoint]
    assert saved == [2, 4, 8, 16, 24, 32, 40]


@pytest.mark.parametrize("life", [0.3, 0.6, 1.2, 5.0])
def test_an_attempt_that_dies_keeps_half_of_its_work(clock, life):
    store = Store()
    report(store, clock, [(n / 1000, update(n)) for n in range(int(life * 1000))])
    *_, saved = [done for done, _, checkpoint in store.written if checkpoint]
    assert saved >= min(0.5, 1 - 1.25 / life) * life * 1000 - 1


def test_slow_checkpoints_come_seldom(clock):
    def checkpoint() -> bytes:
        clock.now += 1
        return b"large"

    store = Store()
    report(store, clock, [(n, update(n)) for n in range(45)], checkpoint)
    assert len([1 for _, _, saved in store.written if saved]) == 3


def test_works_on_while_redis_is_away(clock):
    store = Store()
    store.away = True

    def updates():
        for n in range(100):
            clock.now += 0.1
            if n == 50:
                store.away = False
            yield update(n, base=n)

    assert len(list(reported(updates(), store, object(), lambda: b"", OUTAGE))) == 100
    first = store.written[0]
    assert 50 <= first[0] < 75
    assert first[1] == first[0]
