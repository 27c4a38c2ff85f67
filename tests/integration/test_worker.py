"""A real worker process on a tiny model, to which nothing bad happens: one process for all of these tests."""

import math
import random
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from rq import Callback
from rq.job import Job
from rq.serializers import JSONSerializer

from deploy.process import Child
from deploy.redis import RedisServer
from gloss import v1 as pb
from gloss.durations import seconds
from jobs import names
from jobs.access import Access
from jobs.connection import connect
from jobs.rq import open_queue
from jobs.store import ExplanationStore
from tests.fixtures.processes import environment
from tests.integration.explanations import FINAL, ended, lime, model_of, under_way, wait_for

STUDY = pb.StudySpec(
    bias_probe=pb.BiasProbe(
        groups=[pb.SwapSet(label="a", words=["king", "father"]), pb.SwapSet(label="b", words=["queen", "mother"])],
        templates=["The {} said that"],
    )
)


@pytest.fixture(scope="module")
def redis_server_here(tmp_path_factory, redis_server):
    # Not the shared database: the worker outlives single tests, which find that one empty.
    with RedisServer(tmp_path_factory.mktemp("worker-redis")) as server:
        yield server


@pytest.fixture(scope="module")
def worker(redis_server_here: RedisServer, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory):
    settings = environment(
        GLOSS_REDIS_URL=redis_server_here.url, GLOSS_MODEL=str(tiny_llama), GLOSS_MAX_JOB_SECONDS="25"
    )
    child = Child("worker", [sys.executable, "-m", "worker"], tmp_path_factory.mktemp("worker") / "log", settings)
    try:
        child.ready = child.wait_ready(180)
        yield child
        assert child.terminate(10)
        assert child.exit_code() == 0
    finally:
        child.kill()
        print(child.output())


@pytest.fixture(scope="module")
def client(redis_server_here):
    with connect(redis_server_here.url, patient=False) as client:
        yield client


@pytest.fixture(scope="module")
def store(client):
    return ExplanationStore(client)


@pytest.fixture(scope="module")
def model(worker, client) -> pb.ModelVersion:
    return model_of(client, worker.ready["queue"])


def metric(worker: Child, series: str) -> float:
    with urllib.request.urlopen(f"http://{worker.ready['metrics']}/metrics", timeout=5) as page:
        values = dict(line.rsplit(" ", 1) for line in page.read().decode().splitlines() if not line.startswith("#"))
    return float(values.get(series, 0))


def test_explains_and_counts(worker, model, store, client):
    def counted() -> float:
        return metric(worker, 'gloss_jobs_total{method="lime",outcome="succeeded"}')

    before = counted()
    evaluations_before = metric(worker, 'gloss_model_evaluations_total{method="lime"}')
    explanation = ended(store, store.create(lime(40), model).name)

    assert explanation.state == pb.EXPLANATION_STATE_SUCCEEDED, explanation.error
    assert explanation.attempt == 1
    assert explanation.result.attributions
    assert explanation.result.trust.verdict != pb.TRUST_VERDICT_UNSPECIFIED
    assert explanation.progress.evaluations_done == explanation.progress.evaluations_planned > 0
    assert not explanation.HasField("partial_result")
    times = (explanation.create_time, explanation.start_time, explanation.end_time, explanation.expire_time)
    assert [t.ToMilliseconds() for t in times] == sorted(t.ToMilliseconds() for t in times)

    wait_for(lambda: counted() == before + 1)
    evaluations = metric(worker, 'gloss_model_evaluations_total{method="lime"}') - evaluations_before
    assert evaluations == explanation.result.cost.evaluations > 0
    assert metric(worker, "gloss_job_waiting_seconds_count") >= 1
    assert metric(worker, 'gloss_job_running_seconds_count{method="lime"}') >= 1
    assert metric(worker, 'gloss_job_tokens_total{kind="computed"}') > 0
    assert metric(worker, "gloss_jobs_running") == 0
    assert metric(worker, "gloss_model_load_seconds") > 0
    assert metric(worker, "gloss_queue_depth") == 0
    # RQ forgets a job that is over.
    wait_for(lambda: not client.keys("rq:job:*") and not client.keys("rq:execution*") and not client.keys("rq:wip*"))


def test_tells_how_fast_it_was_by_its_method(model, store):
    done = ended(store, store.create(lime(60, seed=7), model).name)
    planned = done.progress.tokens_planned
    rate = store.throughput(model.digest, "lime")
    assert rate == pytest.approx(planned / seconds(done.result.cost.duration), rel=3)
    faster = lime(60, seed=7)
    faster.budget.max_duration.FromSeconds(100)  # another spec of the same values
    cached = ended(store, store.create(faster, model).name)
    assert cached.result.cost.evaluations == 0
    assert store.throughput(model.digest, "lime") == rate  # what is not computed says nothing of the speed


@pytest.mark.parametrize("asked", [lime(30, text="six seven eight nine"), STUDY], ids=["explanation", "study"])
def test_a_fresh_one_computes_its_values_anew(model, store, asked):
    done = [ended(store, store.create(asked, model, fresh=fresh).name) for fresh in (False, True, True)]
    first, *anew = (each.study_result.cost if each.HasField("study_result") else each.result.cost for each in done)
    for cost in anew:
        # What it has of hits is its own, as in the first, before which nobody had asked about this text.
        assert (cost.evaluations, cost.cache_hits) == (first.evaluations, first.cache_hits)
        assert cost.tokens_computed == first.tokens_computed > 0
    assert first.evaluations > first.cache_hits


def test_a_fresh_one_leaves_its_values_to_others(model, store):
    fresh = ended(store, store.create(lime(30, seed=12), model, fresh=True).name)
    longer = lime(30, seed=12)
    longer.budget.max_duration.FromSeconds(100)
    assert ended(store, store.create(longer, model).name).result.cost.evaluations == 0
    assert fresh.result.cost.evaluations > 0


def test_tenants_have_values_of_their_own(model, store):
    def computed(tenant: str, seed: int) -> int:
        access = Access(tenant)
        spec = lime(30, text="ten eleven twelve thirteen fourteen")
        spec.budget.seed = seed
        name = store.create(spec, model, access=access).name
        done = wait_for(lambda: e if (e := store.get(name, access=access)).state in FINAL else None)
        return done.result.cost.evaluations

    first = computed("key:alice", 1)
    assert computed("key:bob", 1) == computed("", 1) == first > 0
    assert computed("key:alice", 2) < first


def test_says_that_it_is_alive(model, store, worker):
    assert store.worker_alive(model.name, model.digest)
    assert not store.worker_alive(model.name, "0" * 64)
    assert not store.worker_alive("another", model.digest)


def test_shows_partial_results_while_running(model, store):
    name = store.create(lime(1_000_000, seed=1), model).name
    seen = wait_for(lambda: e if (e := store.get(name)).HasField("partial_result") else None)
    assert seen.state == pb.EXPLANATION_STATE_RUNNING
    assert len(seen.partial_result.attributions) > 20
    later = wait_for(lambda: e if (e := store.get(name)).progress != seen.progress else None)
    assert later.progress.evaluations_done > seen.progress.evaluations_done
    assert later.progress.HasField("remaining_duration")
    store.cancel(name)


def test_cancels_a_running_one_within_a_second_and_keeps_the_model(worker, model, store, client):
    name = store.create(lime(1_000_000, seed=2), model).name
    under_way(store, name, evaluations=50)
    wait_for(lambda: store.get(name).HasField("partial_result"))
    restarts = metric(worker, "gloss_worker_child_restarts_total")

    asked = time.monotonic()
    cancelled = store.cancel(name)
    assert cancelled.state == pb.EXPLANATION_STATE_CANCELLED
    assert cancelled.partial_result.attributions
    assert cancelled.partial_result.cost.stop_reason == pb.STOP_REASON_CANCELLED
    wait_for(lambda: metric(worker, "gloss_jobs_running") == 0, timeout=5)
    took = time.monotonic() - asked
    assert took < 1, f"the worker went on for {took:.2f} s"

    assert metric(worker, 'gloss_jobs_total{method="lime",outcome="cancelled"}') >= 1
    assert ended(store, store.create(lime(20, seed=2), model).name).state == pb.EXPLANATION_STATE_SUCCEEDED
    assert store.get(name).state == pb.EXPLANATION_STATE_CANCELLED
    assert metric(worker, "gloss_worker_child_restarts_total") == restarts
    wait_for(lambda: not client.keys("rq:job:*"))


def test_stops_when_the_command_is_lost(model, store, client, worker):
    name = store.create(lime(1_000_000, seed=3), model).name
    under_way(store, name)
    store._scripts("cancel", name.split("/")[1], 1000)  # what `cancel` does, all but its message to the worker
    wait_for(lambda: metric(worker, "gloss_jobs_running") == 0, timeout=3)


def test_stops_when_it_is_deleted(model, store, worker, client):
    name = store.create(lime(1_000_000, seed=4), model).name
    under_way(store, name)
    store.delete(name)
    wait_for(lambda: metric(worker, "gloss_jobs_running") == 0, timeout=3)
    wait_for(lambda: not client.keys("rq:job:*"))


def test_never_begins_one_that_was_cancelled_in_the_queue(model, store):
    running = store.create(lime(1_000_000, seed=5), model).name
    waiting = store.create(lime(20, seed=5), model).name
    under_way(store, running)
    assert store.queue_depth(model.name) == 1
    store.cancel(waiting)
    assert store.queue_depth(model.name) == 0
    store.cancel(running)
    assert ended(store, store.create(lime(20, seed=6), model).name).state == pb.EXPLANATION_STATE_SUCCEEDED
    assert store.get(waiting).attempt == 0


def test_fails_with_the_callers_own_mistake(model, store):
    spec = lime()
    spec.features.spans.add(start=0, end=100_000)
    explanation = ended(store, store.create(spec, model).name)
    assert explanation.state == pb.EXPLANATION_STATE_FAILED
    assert explanation.error.reason == pb.ERROR_REASON_INVALID_FIELD
    assert "features.spans[0]" in explanation.error.message

    explanation = ended(store, store.create(lime(text="word " * 500), model).name)
    assert explanation.error.reason == pb.ERROR_REASON_PROMPT_TOO_LONG
    assert explanation.error.metadata["limit"] == "128"


METHODS = {
    "occlusion": pb.Occlusion(),
    "lime": pb.Lime(),
    "kernel_shap": pb.KernelShap(),
    "shapley_permutation": pb.ShapleyPermutation(),
    "input_times_gradient": pb.InputTimesGradient(),
    "integrated_gradients": pb.IntegratedGradients(steps=8),
    "attention_rollout": pb.AttentionRollout(),
    "value_zeroing": pb.ValueZeroing(),
    "context_attribution": pb.ContextAttribution(),
    "interactions": pb.Interactions(),
    "hierarchical": pb.Hierarchical(),
}
STUDIES = {
    "global_surrogate": pb.GlobalSurrogate(
        prompts=[
            pb.Prompt(text=" ".join(random.Random(i).sample(["one", "two", "three", "four", "five"], 3)))
            for i in range(90)
        ]
    ),
    "bias_probe": pb.BiasProbe(
        groups=[pb.SwapSet(label="a", words=["one", "two"]), pb.SwapSet(label="b", words=["three", "four"])],
        templates=["the {} three four five", "{} and two"],
    ),
}


def test_no_method_of_the_contract_is_left_out():
    for spec, methods in ((pb.ExplanationSpec, METHODS), (pb.StudySpec, STUDIES)):
        assert set(methods) == {field.name for field in spec.DESCRIPTOR.oneofs_by_name["method"].fields}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_the_contract(model, store, method):
    spec = pb.ExplanationSpec(
        prompt=pb.Prompt(text="one two three four five"),
        budget=pb.Budget(max_evaluations=100),
        **{method: METHODS[method]},
    )
    explanation = ended(store, store.create(spec, model).name)
    assert explanation.state == pb.EXPLANATION_STATE_SUCCEEDED, explanation.error
    result = explanation.result
    assert len(result.attributions) == 5
    assert any(part.attribution for part in result.attributions)
    assert all(math.isfinite(part.attribution) for part in result.attributions)
    assert result.trust.verdict != pb.TRUST_VERDICT_UNSPECIFIED
    assert result.HasField("faithfulness")
    assert bool(result.interactions) == (method == "interactions")
    assert result.HasField("hierarchy") == (method == "hierarchical")
    assert explanation.progress.evaluations_done == explanation.progress.evaluations_planned
    assert explanation.progress.stage == pb.STAGE_DONE


@pytest.mark.parametrize("method", STUDIES)
def test_every_study_of_the_contract(worker, model, store, method):
    done = f'gloss_jobs_total{{method="{method}",outcome="succeeded"}}'
    before = metric(worker, done)
    found = ended(store, store.create(pb.StudySpec(**{method: STUDIES[method]}), model).name)
    assert found.state == pb.EXPLANATION_STATE_SUCCEEDED, found.error
    result = found.study_result
    assert result.WhichOneof("finding") == method
    assert result.target.description.startswith("log p(")
    assert result.trust.verdict != pb.TRUST_VERDICT_UNSPECIFIED
    assert found.progress.evaluations_done == found.progress.evaluations_planned
    assert found.progress.stage == pb.STAGE_DONE
    wait_for(lambda: metric(worker, done) == before + 1)


def test_fails_when_the_model_has_changed(model, store):
    former = pb.ModelVersion(name=model.name, digest="f" * 64)
    explanation = ended(store, store.create(lime(20), former).name)
    assert explanation.state == pb.EXPLANATION_STATE_FAILED
    assert explanation.error.reason == pb.ERROR_REASON_MODEL_CHANGED
    assert explanation.error.metadata == {"expected": former.digest, "actual": model.digest}


@pytest.mark.slow  # it waits for the limit
def test_fails_at_the_time_limit(model, store):
    explanation = ended(store, store.create(lime(10_000_000, seed=7), model).name)
    assert explanation.state == pb.EXPLANATION_STATE_FAILED
    assert explanation.error.reason == pb.ERROR_REASON_TIME_LIMIT
    assert explanation.error.metadata["seconds"] == "25"
    assert explanation.partial_result.attributions


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("os.system", ["touch {}"]),
        ("subprocess.check_call", [["touch", "{}"]]),
        (names.TASK, ["another"]),
        (names.TASK, []),
    ],
)
def test_runs_nothing_but_the_task(function, arguments, model, client, tmp_path):
    store = ExplanationStore(client)
    trace = tmp_path / "ran"
    arguments = [[part.format(trace) for part in a] if isinstance(a, list) else a.format(trace) for a in arguments]
    queue = open_queue(names.queue(model.name), client)
    hostile = Job.create(
        function,
        args=arguments,
        origin=queue.name,
        on_failure=Callback("os.abort"),
        connection=client,
        serializer=JSONSerializer,
    )
    hostile.save()
    queue.push_job_id(hostile.id)
    # The queue is first in, first out: when this one has ended, the hostile one was taken before it.
    explanation = ended(store, store.create(lime(20), model, fresh=True).name)
    assert explanation.state == pb.EXPLANATION_STATE_SUCCEEDED
    assert not trace.exists()
    wait_for(lambda: not client.exists(hostile.key))
