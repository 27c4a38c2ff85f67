"""Real workers whose explanations give way to others, and lose nothing by it, whoever is killed meanwhile."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from google.protobuf.message import Message
from redis import Redis

from deploy.process import Child
from deploy.redis import RedisServer
from gloss import v1 as pb
from jobs.access import Access
from jobs.connection import connect
from jobs.store import ExplanationStore
from ml.explain import start as start_work
from ml.models.base import LanguageModel
from schema.convert import from_result, to_question
from tests.fixtures.processes import environment
from tests.integration.explanations import FINAL, ended, lime, model_of, under_way, wait_for
from tests.integration.test_worker import METHODS, STUDIES, metric
from tests.integration.test_worker_faults import child_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="finds and watches processes in /proc"),
    pytest.mark.timeout(300),  # a worker's start takes a while on a busy machine
]

SLICE = 0.5
ALICE, BOB = Access("key:alice"), Access("key:bob")
LONG = 4000
"""Evaluations of an explanation that takes many slices."""


@pytest.fixture(scope="module")
def server(tmp_path_factory, redis_server) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("slices-redis")) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: RedisServer) -> Iterator[Redis]:
    with connect(server.url, patient=False) as client:
        yield client


@pytest.fixture(scope="module")
def store(client: Redis) -> ExplanationStore:
    return ExplanationStore(client)


@pytest.fixture(scope="module")
def llama(load_model: Callable[[Path], LanguageModel], tiny_llama: Path) -> LanguageModel:
    """The workers' model, in this process."""
    return load_model(tiny_llama)


@pytest.fixture
def start(server: RedisServer, client: Redis, tiny_llama: Path, tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Start a worker with settings of the test's own, on an empty Redis."""
    client.flushall()
    started: list[Child] = []

    def start(**settings: str) -> Child:
        env = environment(GLOSS_REDIS_URL=server.url, GLOSS_MODEL=str(tiny_llama), **settings)
        worker = Child("worker", [sys.executable, "-m", "worker"], tmp_path / f"log-{len(started)}", env)
        started.append(worker)
        worker.ready = worker.wait_ready(180)
        return worker

    yield start
    for worker in started:
        worker.kill()
        print(worker.output())


def yields(worker: Child, method: str) -> float:
    return metric(worker, f'gloss_job_yields_total{{method="{method}"}}')


def numbers(message: Message) -> Iterator[float]:
    """All that a message holds of numbers, but for times and for tokens, which depend on what was read together."""
    for field, value in message.ListFields():
        timed = field.message_type is not None and field.message_type.full_name == "google.protobuf.Duration"
        if timed or field.name in {"tokens_computed", "tokens_saved"}:
            continue
        for part in value if field.is_repeated else [value]:
            if isinstance(part, Message):
                yield from numbers(part)
            elif isinstance(part, (int, float)):
                yield float(part)


def same(found: Message, expected: Message) -> bool:
    """Whether two results are equal, as far as values computed in other company can be."""
    pairs = zip(numbers(found), numbers(expected), strict=True)
    return all(math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-5) for one, other in pairs)


def undisturbed(
    model: LanguageModel, asked: pb.ExplanationSpec | pb.StudySpec
) -> pb.ExplanationResult | pb.StudyResult:
    """The same question's answer in this process."""
    *_, last = start_work(model, to_question(asked))
    assert last.result is not None
    return from_result(last.result)


def test_a_long_one_of_another_tenant_lets_short_ones_pass(start, store, client, llama):
    worker = start(GLOSS_JOB_SLICE_SECONDS=str(SLICE))
    model = model_of(client, worker.ready["queue"])
    long = store.create(lime(LONG), model, access=ALICE).name
    wait_for(lambda: store.get(long, access=ALICE).state == pb.EXPLANATION_STATE_RUNNING)
    for count in range(8):
        short = pb.ExplanationSpec(prompt=pb.Prompt(text=f"one two three {count}"), occlusion=pb.Occlusion())
        name = store.create(short, model, access=BOB).name
        wait_for(lambda name=name: store.get(name, access=BOB).state in FINAL, timeout=60)
        # Not in seconds, as this machine may be busy: it waits for one slice of the long one, or two.
        assert yields(worker, "lime") <= 2 * (count + 1)
    assert store.get(long, access=ALICE).state not in FINAL, "too short for this test"

    explanation = wait_for(lambda: e if (e := store.get(long, access=ALICE)).state in FINAL else None, timeout=180)
    assert explanation.attempt == 1
    assert yields(worker, "lime") >= 4
    assert same(explanation.result, undisturbed(llama, lime(LONG)))
    assert metric(worker, 'gloss_jobs_total{method="lime",outcome="succeeded"}') == 1
    assert metric(worker, 'gloss_jobs_total{method="lime",outcome="lost"}') == 0


def test_a_long_one_lets_others_of_its_own_tenant_pass(start, store, client):
    worker = start(GLOSS_JOB_SLICE_SECONDS=str(SLICE))
    model = model_of(client, worker.ready["queue"])
    long = store.create(lime(1_000_000), model).name
    under_way(store, long)
    for seed in range(3):
        assert ended(store, store.create(lime(20, seed=seed), model).name).state == pb.EXPLANATION_STATE_SUCCEEDED
    assert store.cancel(long).attempt == 1


def test_one_that_nobody_waits_for_goes_on(start, store, client):
    worker = start(GLOSS_JOB_SLICE_SECONDS="0.01")
    explanation = ended(store, store.create(lime(500), model_of(client, worker.ready["queue"])).name)
    assert explanation.state == pb.EXPLANATION_STATE_SUCCEEDED
    assert yields(worker, "lime") == 0


def test_every_method_finds_what_it_finds_undisturbed(start, store, client, llama):
    worker = start(GLOSS_JOB_SLICE_SECONDS="0.001")
    model = model_of(client, worker.ready["queue"])
    asked: dict[str, pb.ExplanationSpec | pb.StudySpec] = {
        name: pb.ExplanationSpec(
            prompt=pb.Prompt(text="one two three four five six seven eight nine ten eleven twelve"),
            budget=pb.Budget(max_evaluations=300),
            **{name: method},
        )
        for name, method in METHODS.items()
    } | {name: pb.StudySpec(**{name: method}) for name, method in STUDIES.items()}
    created = {name: store.create(spec, model, fresh=True).name for name, spec in asked.items()}
    for name, spec in asked.items():
        explanation = ended(store, created[name], timeout=120)
        assert explanation.state == pb.EXPLANATION_STATE_SUCCEEDED, explanation.error
        assert explanation.attempt == 1
        found = explanation.study_result if explanation.HasField("study_result") else explanation.result
        assert same(found, undisturbed(llama, spec)), name
    assert sum(yields(worker, name) for name in asked) > len(asked)


def test_only_the_time_in_which_it_runs_counts(start, store, client):
    worker = start(GLOSS_JOB_SLICE_SECONDS="0.3", GLOSS_MAX_JOB_SECONDS="2")
    model = model_of(client, worker.ready["queue"])
    # Neither of these two may end before its limit, and each has the worker for half of the time.
    endless = [store.create(lime(1_000_000, seed=seed), model).name for seed in range(2)]
    began = time.monotonic()
    for name in endless:
        explanation = ended(store, name, timeout=60)
        assert explanation.error.reason == pb.ERROR_REASON_TIME_LIMIT
        assert explanation.error.metadata["seconds"] == "2"
        assert explanation.attempt == 1
    assert time.monotonic() - began > 3.5
    assert yields(worker, "lime") >= 4


def test_the_budgets_duration_is_that_of_the_work(start, store, client):
    worker = start(GLOSS_JOB_SLICE_SECONDS="0.3")
    model = model_of(client, worker.ready["queue"])
    began = time.monotonic()
    created = []
    for seed in range(2):
        spec = lime(1_000_000, seed=seed)
        spec.budget.max_duration.FromSeconds(2)
        created.append(store.create(spec, model).name)
    for name in created:
        cost = ended(store, name, timeout=60).result.cost
        assert cost.stop_reason == pb.STOP_REASON_DURATION
        assert 1.5 < cost.duration.ToTimedelta().total_seconds() < 3.5
    assert time.monotonic() - began > 3.5
    assert yields(worker, "lime") >= 4


@pytest.mark.parametrize("victim", ["child", "worker"])
def test_killed_while_they_give_way(start, store, client, llama, victim):
    settings = {"GLOSS_JOB_SLICE_SECONDS": "0.2", "GLOSS_MAX_ATTEMPTS": "100"}
    worker = start(**settings)
    model = model_of(client, worker.ready["queue"])
    spec = {seed: lime(200, seed=seed) for seed in range(2)}
    created = {seed: store.create(spec[seed], model, access=(ALICE, BOB)[seed % 2], fresh=True).name for seed in spec}

    def all_of_them() -> list[pb.Explanation]:
        return [store.get(name, access=(ALICE, BOB)[seed % 2]) for seed, name in created.items()]

    def all_ended() -> bool:
        return all(explanation.state in FINAL for explanation in all_of_them())

    def another_gave_way(worker: Child, before: float) -> bool:
        return yields(worker, "lime") > before or all_ended()

    for _ in range(2 if victim == "child" else 1):
        # Right after somebody has given way, when the next one is about to begin.
        before = yields(worker, "lime")
        wait_for(partial(another_gave_way, worker, before), timeout=60)
        if victim == "child":
            os.kill(child_of(worker), signal.SIGKILL)
        else:
            worker.kill()
            worker = start(**settings)
    wait_for(all_ended, timeout=180)
    for seed, explanation in enumerate(all_of_them()):
        assert explanation.state == pb.EXPLANATION_STATE_SUCCEEDED, explanation.error
        expected = undisturbed(llama, spec[seed])
        # The cost counts what was computed again.
        assert [each.attribution for each in explanation.result.attributions] == pytest.approx(
            [each.attribution for each in expected.attributions], abs=1e-5
        )
    assert not client.keys("rq:job:*")
