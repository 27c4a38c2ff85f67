"""Explanations whose data is spoiled, one in each way of `corruptions`: they end, and nobody else is harmed."""

import contextlib
import logging
import signal
import time

import pytest
from redis.exceptions import ResponseError

from gloss import v1 as pb
from jobs import names
from jobs.attempts import AttemptStore
from jobs.errors import AttemptEndedError, DataCorruptError, ExplanationNotFoundError, StoreError
from jobs.outage import Outage
from jobs.store import ExplanationStore
from tests.integration.corruptions import CORRUPTIONS
from tests.integration.explanations import lime
from worker.metrics import Metrics
from worker.model_process import ModelProcess
from worker.resident import ResidentWorker
from worker.stop import Stop

MODEL = pb.ModelVersion(name="tiny", digest="d" * 64)
FINAL = (pb.EXPLANATION_STATE_SUCCEEDED, pb.EXPLANATION_STATE_FAILED, pb.EXPLANATION_STATE_CANCELLED)
UNREADABLE = "unreadable"


@pytest.fixture
def victims(store) -> dict[str, str]:
    """The explanation of each corruption, by the corruption's name."""
    specs = {corruption: lime(seed=seed) for seed, corruption in enumerate(CORRUPTIONS)}
    return {corruption: store.create(spec, MODEL, request_id=corruption).name for corruption, spec in specs.items()}


def id_of(name: str) -> str:
    return name.removeprefix("explanations/")


def listed(store: ExplanationStore, view: pb.ExplanationView = pb.EXPLANATION_VIEW_BASIC) -> list[str]:
    found, token = [], ""
    while True:
        page, token = store.list(20, token, view=view)
        found += [explanation.name for explanation in page]
        if not token:
            return found


def spoil(client, victims: dict[str, str]) -> None:
    assert len(victims) > 100
    for corruption, name in victims.items():
        CORRUPTIONS[corruption](client, id_of(name))


def state(
    store: ExplanationStore, name: str, view: pb.ExplanationView = pb.EXPLANATION_VIEW_FULL
) -> pb.Explanation | str:
    """The explanation, or that it is reported as unreadable or gone."""
    try:
        return store.get(name, view)
    except DataCorruptError as error:
        return UNREADABLE if error.name == name else f"{error.name} is blamed"
    except ExplanationNotFoundError:
        return "gone"


def test_callers_go_on(victims, store, attempts, client):
    bystanders = {store.create(lime(seed=1000 + seed), MODEL).name for seed in range(1, 4)}
    spoil(client, victims)

    # What lists do not show of an explanation, they do not read.
    unseen = {name for corruption, name in victims.items() if corruption.startswith(("result is", "partial is"))}
    for view in (pb.EXPLANATION_VIEW_BASIC, pb.EXPLANATION_VIEW_FULL):
        seen = {name: state(store, name, view) for name in victims.values()}
        readable = {name for name, found in seen.items() if isinstance(found, pb.Explanation)}
        assert {found for name, found in seen.items() if name not in readable} == {UNREADABLE, "gone"}
        assert set(listed(store, view)) == readable | unseen | bystanders
    for wanted in pb.ExplanationState.values():
        store.list(state=wanted)
    attempts.recover(names.queue("tiny"))
    for name in bystanders:
        assert store.cancel(name).state == pb.EXPLANATION_STATE_CANCELLED


def test_what_cannot_be_read_can_be_asked_again(victims, store, client):
    spoil(client, victims)
    for seed, (corruption, name) in enumerate(victims.items()):
        seen = state(store, name)
        again = store.create(lime(seed=seed), MODEL, request_id=corruption)
        assert again == seen or again.state == pb.EXPLANATION_STATE_QUEUED, corruption
        assert store.get(again.name) == again, corruption


def test_what_cannot_be_read_can_be_cancelled_and_deleted(victims, store, client):
    spoil(client, victims)
    for corruption, name in victims.items():
        with contextlib.suppress(StoreError):
            store.cancel(name)
        if state(store, name) != "gone":
            store.delete(name)
        assert state(store, name) == "gone", corruption
    assert listed(store) == []


@pytest.fixture
def resident(redis_url, monkeypatch):
    """Make a worker whose child succeeds with whatever it can begin."""
    monkeypatch.setattr("jobs.attempts.STRANDED_MS", 0)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)}
    stop = Stop(grace_seconds=0.1)
    stop.install()
    child = ModelProcess(["tests.unit.worker.scripted_child", "succeed", redis_url])
    child.start()

    def make(client) -> ResidentWorker:
        store = AttemptStore(client, max_attempts=3)
        outage = Outage(logging.getLogger("test"))
        queue, metrics = names.queue("tiny"), Metrics()
        return ResidentWorker(
            queue, client, name="w1", store=store, child=child, metrics=metrics, stop=stop, outage=outage
        )

    yield make
    stop.uninstall()
    child.stop()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_workers_end_each_once_and_go_on(resident, victims, store, client, caplog):
    after = store.create(lime(seed=1000), MODEL).name
    spoil(client, victims)
    worker = resident(client)
    pid = worker._child.pid
    for _ in range(2):  # what had no readable job is found stranded by the second
        worker.last_cleaned_at = None
        worker.work(burst=True)

    assert store.get(after).state == pb.EXPLANATION_STATE_SUCCEEDED
    assert worker._child.pid == pid
    assert worker._child.alive
    assert store.queue_depth("tiny") == 0
    queue = worker.queues[0].name
    assert not client.exists(f"rq:queue:{queue}:intermediate", f"rq:wip:{queue}")
    assert not client.keys("rq:job:*")
    assert not [record for record in caplog.records if record.exc_info]

    outcomes = set()
    for corruption, name in victims.items():
        ended = state(store, name)
        if isinstance(ended, pb.Explanation):
            outcomes.add(ended.state)
            assert ended.state in FINAL, corruption
            assert ended.attempt <= 1, corruption
            if ended.state == pb.EXPLANATION_STATE_FAILED:
                assert ended.error.reason == pb.ERROR_REASON_DATA_CORRUPT, corruption
                assert ended.error.metadata["part"], corruption
        if ended != "gone":  # it goes in time
            assert client.pttl(names.record(id_of(name))) > 0, corruption
            assert client.zscore("gloss:expiry", id_of(name)), corruption
    assert outcomes == {pb.EXPLANATION_STATE_SUCCEEDED, pb.EXPLANATION_STATE_FAILED}


def test_attempts_under_way_end(victims, store, attempts, client):
    """A worker that is at work when it happens can report, settle and let go, or learns that it is over."""
    queue = names.queue("tiny")
    client.delete(f"rq:queue:{queue}")
    begun = {}
    for corruption, name in victims.items():
        client.zadd(f"rq:wip:{queue}", {f"{id_of(name)}:run": time.time() + 60})
        begun[corruption] = attempts.begin(id_of(name))
    spoil(client, victims)
    for corruption, attempt in begun.items():
        with contextlib.suppress(AttemptEndedError):
            attempts.progress(attempt, pb.Progress(evaluations_done=1), pb.ExplanationResult(), b"checkpoint")
        attempts.cancel_requested(attempt.id)
        with contextlib.suppress(AttemptEndedError):
            attempts.succeed(attempt, pb.ExplanationResult(), pb.Progress())
        attempts.release(queue, attempt.id, f"{attempt.id}:run", lost=True)
        seen = state(store, victims[corruption])
        if isinstance(seen, pb.Explanation):
            assert seen.state in FINAL or attempt.id.encode() in client.lrange(f"rq:queue:{queue}", 0, -1), corruption
    assert not client.exists(f"rq:wip:{queue}")
    store.list()


def test_strange_members_of_what_is_shared_are_passed_over(resident, store, attempts, client, caplog):
    queue = names.queue("tiny")
    strange = [b"", b"\xff\xfe", b":", b"a:b", b"*", b"0" * 32, b"F" * 31, "é".encode() * 16, bytes(1 << 20)]
    name = store.create(lime(), MODEL).name
    for member in strange:
        for state in ("ALL", "QUEUED"):
            client.zadd(names.index(state), {member: 0})
        client.zadd("gloss:expiry", {member: 0})
        client.zadd(names.workers(queue), {member: 1e15})
        client.zadd(f"rq:wip:{queue}", {member: 0})
        client.lpush(f"rq:queue:{queue}", member)
        client.lpush(f"rq:queue:{queue}:intermediate", member)
    client.set(f"gloss:stranded:{queue}", "something")

    assert listed(store) == [name]
    assert [e.name for e in store.list(state=pb.EXPLANATION_STATE_QUEUED)[0]] == [name]
    assert not store.worker_alive("tiny", MODEL.digest)
    worker = resident(client)
    worker.work(burst=True)
    attempts.recover(queue)
    assert store.get(name).state == pb.EXPLANATION_STATE_SUCCEEDED
    assert store.queue_depth("tiny") == 0
    assert not client.exists(f"rq:queue:{queue}:intermediate", f"rq:wip:{queue}", f"gloss:stranded:{queue}")
    assert not [record for record in caplog.records if record.exc_info]


def test_a_shared_key_of_another_type_is_blamed_on_no_explanation(resident, store, client):
    """Whoever mends it finds what waited waiting."""
    for key in (f"rq:wip:{names.queue('tiny')}", f"rq:queue:{names.queue('tiny')}:intermediate", "gloss:expiry"):
        name = store.create(lime(), MODEL, fresh=True).name
        client.set(key, "something")
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            resident(client).work(burst=True)
        client.delete(key)
        assert store.get(name).state == pb.EXPLANATION_STATE_QUEUED
        resident(client).work(burst=True)
        assert store.get(name).state == pb.EXPLANATION_STATE_SUCCEEDED
        assert store.get(name).attempt == 1


def test_what_is_no_command_is_ignored(resident, store, client):
    worker = resident(client)
    worker.bootstrap("CRITICAL")
    for message in (b"", b"\xff", b"[]", b"7", b"{}", b'{"command": []}', b'{"command": "stop-job"}'):
        worker.handle_payload({"data": message})
    worker.handle_payload({"data": None})
    assert worker.pubsub_thread.is_alive()
    worker.teardown()
