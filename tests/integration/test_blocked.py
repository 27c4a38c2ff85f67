"""Processes that are stopped while they block in C, as while the name of Redis's host is resolved."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.process import Child
from deploy.redis import RedisServer
from gloss import v1 as pb
from jobs.connection import connect
from jobs.store import ExplanationStore
from tests.fixtures.processes import environment
from tests.integration.explanations import ended, lime, model_of, under_way, wait_for

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform != "linux", reason="blocks by a mutex of its C library"),
]

Start = Callable[..., Child]


@pytest.fixture
def start(private_redis: RedisServer, tiny_llama: Path, tmp_path: Path) -> Iterator[Start]:
    started: list[Child] = []

    def start(*words: str, model: str = str(tiny_llama)) -> Child:
        env = environment(GLOSS_REDIS_URL=private_redis.url, GLOSS_MODEL=model, GLOSS_GRACE_SECONDS="0.2")
        started.append(Child(words[0], [sys.executable, "-m", *words], tmp_path / f"log-{len(started)}", env))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        print(process.output())


def seconds_to_end(process: Child) -> float:
    """How long a process takes to end after SIGTERM."""
    began = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    wait_for(lambda: process.exit_code() is not None, timeout=30)
    assert process.exit_code() == 0
    return time.monotonic() - began


def says_why(process: Child) -> bool:
    """Whether it says, once, that it ended before everything else had."""
    return process.output().count("ended without waiting for what still blocks") == 1


def test_a_blocked_worker_ends_and_loses_nothing(start: Start, private_redis: RedisServer, tmp_path: Path):
    evaluations, blocking = 3000, tmp_path / "block"
    worker = start("tests.integration.blocked", "worker", str(blocking))
    queue = worker.wait_ready(180)["queue"]
    with connect(private_redis.url, patient=False) as client:
        store = ExplanationStore(client)
        name = store.create(lime(evaluations), model_of(client, queue)).name
        first = under_way(store, name, evaluations=evaluations // 20)
        blocking.touch()
        client.client_kill_filter(_type="normal", skipme=True)
        wait_for(lambda: "blocked in MainThread" in worker.output())
        assert seconds_to_end(worker) < 5
        assert says_why(worker)
        assert store.get(name).state == pb.EXPLANATION_STATE_RUNNING
        start("worker")
        last = ended(store, name, timeout=120)
    assert last.state == pb.EXPLANATION_STATE_SUCCEEDED
    assert last.attempt == first.attempt + 1
    assert last.result.cost.evaluations == evaluations


def test_so_does_a_server_whose_threads_are_blocked(start: Start, tmp_path: Path):
    blocking = tmp_path / "block"
    blocking.touch()
    server = start("tests.integration.blocked", "server", str(blocking))
    server.wait_ready(180)
    wait_for(lambda: "blocked in store" in server.output())
    assert seconds_to_end(server) < 10
    assert says_why(server)


def test_so_does_a_server_that_starts_while_its_engine_is_looked_up(start: Start, tmp_path: Path):
    blocking = tmp_path / "block"
    blocking.touch()
    server = start("tests.integration.blocked", "server", str(blocking), model="vllm+http://engine.invalid:8000/x")
    wait_for(lambda: "blocked in asyncio" in server.output())
    assert seconds_to_end(server) < 10
