"""Heartbeats of a worker: as long as its model is ready, whatever Redis does, and taken back in the end."""

import logging
import threading

import pytest

from jobs import names
from jobs.attempts import AttemptStore
from jobs.connection import connect
from jobs.outage import Outage
from jobs.store import ExplanationStore
from worker.liveness import Liveness

DIGEST = "d" * 64


@pytest.fixture(autouse=True)
def frequent(monkeypatch):
    monkeypatch.setattr("worker.liveness.HEARTBEAT_SECONDS", 0.01)


@pytest.fixture
def client(redis_url):
    with connect(redis_url) as client:
        yield client


@pytest.fixture
def away():
    """A client of a Redis that is not there."""
    with connect("unix:///nowhere/redis.sock", patient=False) as away:
        yield away


def liveness(store, *, ready=lambda: True, on_depth=lambda depth: None) -> Liveness:
    outage = Outage(logging.getLogger("test"))
    queue = names.queue("tiny")
    return Liveness(store, queue=queue, digest=DIGEST, worker="w1", ready=ready, on_depth=on_depth, outage=outage)


def test_says_so_while_ready_and_takes_it_back(client):
    heartbeats = threading.Semaphore(0)
    alive = liveness(AttemptStore(client), on_depth=lambda depth: heartbeats.release())
    assert alive.heartbeat()
    store = ExplanationStore(client)
    assert store.worker_alive("tiny", DIGEST)
    with alive:
        for _ in range(5):
            assert heartbeats.acquire(timeout=5)
    assert not store.worker_alive("tiny", DIGEST)


def test_is_silent_without_a_model(client):
    asked = threading.Semaphore(0)

    def ready() -> bool:
        asked.release()
        return False

    with liveness(AttemptStore(client), ready=ready, on_depth=pytest.fail):
        for _ in range(5):
            assert asked.acquire(timeout=5)
    assert not ExplanationStore(client).worker_alive("tiny", DIGEST)


def test_survives_redis_being_away(away):
    alive = liveness(AttemptStore(away), on_depth=pytest.fail)
    assert not alive.heartbeat()
    with alive:
        pass


def test_does_not_wait_for_what_is_blocked(away, monkeypatch, caplog):
    monkeypatch.setattr("worker.liveness._RETIRE_SECONDS", 0.01)
    blocked, free = threading.Event(), threading.Event()

    class Blocked(AttemptStore):
        def heartbeat(self, *_) -> int:
            blocked.set()
            return int(free.wait())

    with (alive := liveness(Blocked(away))):
        assert blocked.wait(5)
    assert "could not remove this worker" in caplog.text
    free.set()
    alive._thread.join(5)
