"""Real workers that lose their child, their parent, their Redis, or their place."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from deploy.process import Child
from deploy.redis import RedisServer
from gloss import v1 as pb
from jobs import names
from jobs.connection import connect
from jobs.errors import StoreError
from jobs.store import ExplanationStore
from ml.explain import Run
from ml.models.loading import load
from schema.convert import to_question
from tests.fixtures.processes import ProcessFactory, environment
from tests.integration.corruptions import CORRUPTIONS
from tests.integration.explanations import ended, lime, model_of, under_way, wait_for

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform != "linux", reason="finds and watches processes in /proc"),
]

Start = Callable[..., Child]

# Enough work to be disturbed in its midst, and little enough to be done again.
EVALUATIONS = 1500


@pytest.fixture(scope="module")
def server(tmp_path_factory, redis_server) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("faults-redis")) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with connect(server.url, patient=False) as client:
        yield client


@pytest.fixture(scope="module")
def store(client: redis.Redis) -> ExplanationStore:
    return ExplanationStore(client)


@pytest.fixture(scope="module")
def start(server: RedisServer, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    started: list[Child] = []

    def start(**settings: str) -> Child:
        log = tmp_path_factory.mktemp("worker") / "log"
        env = environment(GLOSS_REDIS_URL=server.url, GLOSS_MODEL=str(tiny_llama), **settings)
        started.append(Child("worker", [sys.executable, "-m", "worker"], log, env))
        return started[-1]

    yield start
    for worker in started:
        worker.kill()
        print(worker.output())


@pytest.fixture(scope="module")
def workers(start: Start) -> Iterator[list[Child]]:
    """The worker that the tests of this module share, last in the list: a start takes seconds."""
    workers: list[Child] = []
    yield workers
    if workers and workers[-1].exit_code() is None:
        child = child_of(workers[-1])
        assert workers[-1].terminate(20)
        assert workers[-1].exit_code() == 0
        assert not runs(child)


@pytest.fixture
def worker(workers: list[Child], start: Start) -> Child:
    """The shared worker, started anew where the test before has ended it."""
    if not workers or workers[-1].exit_code() is not None:
        workers.append(start(GLOSS_GRACE_SECONDS="0.2"))
    workers[-1].wait_ready(180)
    return workers[-1]


@pytest.fixture
def model(worker: Child, client: redis.Redis) -> pb.ModelVersion:
    return model_of(client, worker.wait_ready(180)["queue"])


def child_of(worker: Child) -> int:
    """The process with the model: the child of the worker's fork server."""
    return only_child(only_child(worker.pid))


def only_child(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return int(wait_for(lambda: children.read_text().split())[0])


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def values(explanation: pb.Explanation) -> list[float]:
    assert explanation.state == pb.EXPLANATION_STATE_SUCCEEDED, explanation
    return [value for a in explanation.result.attributions for value in (a.attribution, a.standard_error)]


def undisturbed(folder: Path, spec: pb.ExplanationSpec) -> list[float]:
    """The same explanation in this process: the worker would have cached its values."""
    *_, last = Run(load(str(folder), device="cpu"), to_question(spec))
    assert last.result is not None
    return [value for a in last.result.attributions for value in (a.attribution, a.standard_error)]


def test_a_killed_child_is_replaced_and_its_job_resumed(worker, model, store, client, tiny_llama):
    name = store.create(lime(EVALUATIONS), model).name
    first = under_way(store, name, evaluations=EVALUATIONS // 10)
    child = child_of(worker)
    os.kill(child, signal.SIGKILL)
    again = wait_for(lambda: e if (e := store.get(name)).attempt == 2 else None, timeout=60)
    explanation = ended(store, name, timeout=60)

    assert again.start_time.ToMilliseconds() > first.start_time.ToMilliseconds()
    assert explanation.attempt == 2
    assert values(explanation) == pytest.approx(undisturbed(tiny_llama, lime(EVALUATIONS)), abs=1e-5)
    assert child_of(worker) != child
    assert not runs(child)
    wait_for(lambda: not client.keys("rq:job:*"))
    assert store.queue_depth(model.name) == 0


def test_a_job_ends_while_redis_is_away(worker, model, store, server):
    name = store.create(lime(EVALUATIONS, seed=2), model).name
    under_way(store, name)
    child = child_of(worker)
    server.stop()
    # With its last heartbeat the parent says when it has noticed; the child goes on for the seconds that are left.
    wait_for(lambda: "Redis cannot be reached" in worker.output())
    server.start()
    explanation = ended(store, name, timeout=60)
    assert explanation.state == pb.EXPLANATION_STATE_SUCCEEDED, explanation.error
    assert child_of(worker) == child
    assert ended(store, store.create(lime(20, seed=2), model).name).state == pb.EXPLANATION_STATE_SUCCEEDED
    wait_for(lambda: store.worker_alive(model.name, model.digest))


@pytest.mark.slow
def test_another_worker_takes_over_when_one_is_killed(worker, start, model, store):
    busy = store.create(lime(1_000_000, seed=3), model).name
    under_way(store, busy)
    second = start()
    second.wait_ready(180)  # if it came later, the first one would take turns with both explanations
    name = store.create(lime(1_000_000, seed=4), model).name
    under_way(store, name)
    orphan = child_of(second)
    second.kill()
    wait_for(lambda: not runs(orphan), timeout=5)
    store.cancel(busy)
    wait_for(lambda: store.get(name).attempt == 2, timeout=60)
    under_way(store, name)
    store.cancel(name)


@pytest.mark.slow  # it loads twice; `TestLoading` has a child that loads nothing
def test_a_child_killed_while_it_loads_is_started_again(worker_process: ProcessFactory, tiny_llama: Path):
    worker = worker_process(wait=False, GLOSS_MODEL=str(tiny_llama))
    first = child_of(worker)
    os.kill(first, signal.SIGKILL)
    worker.child.wait_ready(180)
    assert child_of(worker) != first
    [line] = [line for line in worker.log.splitlines() if "SIGKILL while loading" in line]
    assert "started again" in line


def test_a_redis_that_refuses_is_waited_for_in_peace(worker, model, store, client):
    name = store.create(lime(EVALUATIONS, seed=6), model).name
    under_way(store, name)
    child = child_of(worker)
    before = len(worker.output())
    client.config_set("maxmemory", 1)
    client.config_resetstat()
    started = time.monotonic()

    def refused() -> int:
        statistics = client.info("commandstats")
        return sum(kind["rejected_calls"] + kind["failed_calls"] for kind in statistics.values())

    wait_for(lambda: refused() >= 10, timeout=60)
    assert time.monotonic() - started > 0.2  # each step of a busy retry takes less than a millisecond
    wait_for(lambda: worker.output()[before:].count("Redis refuses") == 2, timeout=60)  # parent and child both met it
    client.config_set("maxmemory", 0)
    explanation = ended(store, name, timeout=60)
    assert explanation.state == pb.EXPLANATION_STATE_SUCCEEDED, explanation.error
    assert ended(store, store.create(lime(20, seed=6), model).name).state == pb.EXPLANATION_STATE_SUCCEEDED
    assert child_of(worker) == child
    wait_for(lambda: worker.output()[before:].count("Redis answers again") == 2)  # to parent and child
    said = worker.output()[before:].splitlines()
    assert len([line for line in said if "Redis refuses" in line]) == 2
    assert len(said) < 10


def test_what_cannot_be_used_does_not_end_the_child(worker, model, store, client):
    busy = store.create(lime(1_000_000, seed=7), model).name
    under_way(store, busy)
    # A child without a model has them all. Those of jobs never come to the child.
    some = [kind for kind in CORRUPTIONS if not any(part in kind for part in ("job", "executions"))][::3]
    victims = {corruption: store.create(lime(20, seed=n), model, fresh=True).name for n, corruption in enumerate(some)}
    after = store.create(lime(20, seed=1000), model).name
    for corruption, name in victims.items():
        CORRUPTIONS[corruption](client, name.split("/")[1])
    child = child_of(worker)
    store.cancel(busy)
    assert ended(store, after, timeout=60).state == pb.EXPLANATION_STATE_SUCCEEDED
    assert child_of(worker) == child
    wait_for(lambda: not client.keys("rq:job:*"))
    for corruption, name in victims.items():
        try:
            explanation = store.get(name)
        except StoreError:
            continue
        if explanation.state == pb.EXPLANATION_STATE_FAILED:
            assert explanation.error.reason == pb.ERROR_REASON_DATA_CORRUPT, corruption
        else:
            assert explanation.state == pb.EXPLANATION_STATE_SUCCEEDED, corruption
        assert explanation.attempt <= 1, corruption
    assert "Traceback" not in worker.output()


def test_sigterm_puts_the_job_back(worker, model, store, client):
    name = store.create(lime(1_000_000, seed=5), model).name
    key = f"gloss:checkpoint:{name.split('/')[1]}"
    wait_for(lambda: client.exists(key))
    # Of workers that earlier tests killed, the signs of life run out by themselves.
    wait_for(lambda: len(store._scripts("alive", names.workers(names.queue(model.name)))) == 1)
    child = child_of(worker)
    assert worker.terminate(10)
    assert worker.exit_code() == 0
    assert not runs(child)

    explanation = store.get(name)
    assert explanation.state == pb.EXPLANATION_STATE_QUEUED
    assert explanation.attempt == 1
    assert store.queue_depth(model.name) == 1
    assert client.exists(key)
    assert not store.worker_alive(model.name, model.digest)
    store.cancel(name)
    assert not client.keys("rq:job:*")


def test_a_taken_port_is_named(worker_process: ProcessFactory, tiny_llama: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        worker = worker_process(wait=False, GLOSS_MODEL=str(tiny_llama), GLOSS_WORKER_METRICS_PORT=str(port))
        wait_for(lambda: worker.child.exit_code() is not None, timeout=60)
    assert worker.child.exit_code() == 2
    [line] = worker.log.splitlines()
    assert str(port) in line
    assert "GLOSS_WORKER_METRICS_PORT" in line


def test_a_wrong_setting_is_named(worker_process: ProcessFactory):
    worker = worker_process(wait=False, GLOSS_MODEL="a,b", GLOSS_MAX_ATTEMPTS="0")
    wait_for(lambda: worker.child.exit_code() is not None, timeout=60)
    assert worker.child.exit_code() == 2
    first, second = worker.log.splitlines()
    assert "GLOSS_MODEL" in first
    assert "GLOSS_MAX_ATTEMPTS" in second


def test_a_model_that_cannot_be_loaded_ends_the_worker(worker_process: ProcessFactory, tmp_path: Path):
    worker = worker_process(wait=False, GLOSS_MODEL=str(tmp_path / "nowhere"))
    wait_for(lambda: worker.child.exit_code() is not None, timeout=100)
    assert worker.child.exit_code() == 1
    [line] = worker.log.splitlines()
    assert "nowhere" in line
