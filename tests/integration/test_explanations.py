"""ExplanationService over real gRPC and a real Redis. The test plays the worker, through the same store."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from gloss import v1 as pb
from gloss.durations import duration, seconds
from jobs import names
from jobs.attempts import AttemptStore
from jobs.connection import connect
from tests.integration.explanations import lime, wait_for
from tests.integration.serving import Code, Served, refused, serve

EXPLANATIONS = "gloss.v1.ExplanationService"


@pytest.fixture(scope="module")
def served(redis_server, tiny_gpt2: Path) -> Iterator[Served]:
    with serve([tiny_gpt2], redis_url=redis_server.url) as server:
        yield server


class Worker:
    """A worker that does what the test says."""

    def __init__(self, redis, digest: str) -> None:
        self.redis = redis
        self.store = AttemptStore(redis)
        self.queue = names.queue("tiny-gpt2")
        self.digest = digest
        self.heartbeat()

    def heartbeat(self) -> None:
        self.store.heartbeat(self.queue, self.digest, "test-worker", 60)

    def retire(self) -> None:
        self.store.retire(self.queue, self.digest, "test-worker")

    def begin(self, explanation: pb.Explanation):
        attempt = self.store.begin(explanation.name.removeprefix("explanations/"))
        assert attempt is not None
        return attempt


@pytest.fixture
def worker(redis_url, load_model, tiny_gpt2) -> Iterator[Worker]:
    """A worker for the served model, on an empty Redis."""
    with connect(redis_url, patient=False) as client:
        yield Worker(client, load_model(tiny_gpt2).info.digest)


def basic(explanation: pb.Explanation) -> pb.Explanation:
    """The explanation without what was asked."""
    kept = pb.Explanation()
    kept.CopyFrom(explanation)
    kept.ClearField("spec")
    return kept


def create(served, spec=None, **fields) -> pb.Explanation:
    return served.explanations.CreateExplanation(pb.CreateExplanationRequest(spec=spec or lime(), **fields), timeout=20)


def test_create_queues_and_get_reads(served, worker, load_model, tiny_gpt2):
    before = served.metric("gloss_explanations_created_total", method="lime")
    created = create(served)
    assert created.name.startswith("explanations/")
    assert created.state == pb.EXPLANATION_STATE_QUEUED
    assert created.spec.model == "tiny-gpt2"
    assert created.model.digest == load_model(tiny_gpt2).info.digest
    assert served.explanations.GetExplanation(pb.GetExplanationRequest(name=created.name)) == created
    assert served.metric("gloss_explanations_created_total", method="lime") == before + 1
    wait_for(lambda: served.metric("gloss_explanation_queue_depth", model="tiny-gpt2") == 1)


def test_equal_specs_share_one_explanation_unless_told_otherwise(served, worker):
    first = create(served)
    assert create(served).name == first.name
    named = lime()
    named.model = "tiny-gpt2"
    assert create(served, named).name == first.name
    assert create(served, fresh=True).name != first.name
    assert create(served, lime(seed=1)).name != first.name


def test_a_request_id_is_one_explanation(served, worker):
    first = create(served, request_id="r-1", fresh=True)
    assert create(served, request_id="r-1", fresh=True).name == first.name
    other = pb.CreateExplanationRequest(spec=lime(seed=7), request_id="r-1")
    refusal = refused(served.explanations.CreateExplanation, other)
    assert (refusal.code, refusal.reason) == (Code.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert refusal.metadata == {"request_id": "r-1", "name": first.name}


def test_list_pages_newest_first(served, worker):
    made = [create(served, lime(seed=seed)).name for seed in range(5)]
    found, token = [], ""
    while True:
        page = served.explanations.ListExplanations(pb.ListExplanationsRequest(page_size=2, page_token=token))
        found += [explanation.name for explanation in page.explanations]
        token = page.next_page_token
        if not token:
            break
    assert found == made[::-1]
    succeeded = pb.ListExplanationsRequest(state=pb.EXPLANATION_STATE_SUCCEEDED)
    assert not served.explanations.ListExplanations(succeeded).explanations
    refusal = refused(served.explanations.ListExplanations, pb.ListExplanationsRequest(page_token="nonsense"))  # noqa: S106
    assert (refusal.code, refusal.field) == (Code.INVALID_ARGUMENT, "page_token")


def test_watch_follows_an_explanation_to_its_end(served, worker):
    created = create(served)
    stream = served.explanations.WatchExplanation(pb.WatchExplanationRequest(name=created.name), timeout=20)
    seen = [next(stream).explanation]
    attempt = worker.begin(created)
    seen.append(next(stream).explanation)
    worker.store.progress(attempt, pb.Progress(evaluations_done=3, evaluations_planned=9, stage=pb.STAGE_EXPLAINING))
    while seen[-1].progress.evaluations_done != 3:
        seen.append(next(stream).explanation)
    worker.store.succeed(attempt, pb.ExplanationResult(text="done"))
    seen += [message.explanation for message in stream]
    assert [explanation.state for explanation in (seen[0], seen[1], seen[-1])] == [
        pb.EXPLANATION_STATE_QUEUED,
        pb.EXPLANATION_STATE_RUNNING,
        pb.EXPLANATION_STATE_SUCCEEDED,
    ]
    assert seen[-1].result.text == "done"
    again = list(served.explanations.WatchExplanation(pb.WatchExplanationRequest(name=created.name), timeout=20))
    assert [message.explanation for message in again] == seen[-1:]


def test_each_method_has_the_view_that_suits_it_and_takes_any(served, worker):
    created = create(served)
    worker.store.succeed(worker.begin(created), pb.ExplanationResult(text="done"))

    def seen(method: str, **view) -> pb.Explanation:
        if method == "List":
            [found] = served.explanations.ListExplanations(pb.ListExplanationsRequest(**view)).explanations
            return found
        if method == "Watch":
            [last] = served.explanations.WatchExplanation(pb.WatchExplanationRequest(name=created.name, **view))
            return last.explanation
        return served.explanations.GetExplanation(pb.GetExplanationRequest(name=created.name, **view))

    for method, default in {"Get": True, "List": False, "Watch": False}.items():
        assert seen(method).HasField("spec") is default
        assert not seen(method, view=pb.EXPLANATION_VIEW_BASIC).HasField("spec")
        assert seen(method, view=pb.EXPLANATION_VIEW_FULL).spec == created.spec
    for request in (
        (served.explanations.GetExplanation, pb.GetExplanationRequest(name=created.name, view=7)),
        (served.explanations.ListExplanations, pb.ListExplanationsRequest(view=7)),
        (served.explanations.WatchExplanation, pb.WatchExplanationRequest(name=created.name, view=7)),
    ):
        refusal = refused(*request)
        assert (refusal.code, refusal.field) == (Code.INVALID_ARGUMENT, "view")


class TestValidateOnly:
    def test_answers_what_creating_it_would_and_queues_nothing(self, served, worker):
        before = served.metric("gloss_explanations_created_total", method="lime")
        checked = create(served, validate_only=True)
        assert not served.explanations.ListExplanations(pb.ListExplanationsRequest()).explanations
        assert served.metric("gloss_explanations_created_total", method="lime") == before
        assert checked.progress.evaluations_planned >= 30
        assert checked.progress.tokens_planned > checked.progress.evaluations_planned

        created = create(served)
        for field in ("name", "state", "create_time"):
            created.ClearField(field)
        assert checked == created

    def test_needs_no_worker_and_no_room_in_the_queue(self, redis_server, worker, tiny_gpt2):
        with serve([tiny_gpt2], redis_url=redis_server.url, max_queued=1) as server:
            create(server)
            worker.retire()
            assert create(server, lime(seed=1), validate_only=True).progress.evaluations_planned

    def test_needs_no_redis(self, tiny_gpt2):
        with serve([tiny_gpt2]) as server:
            checked = create(server, validate_only=True)
        assert checked.progress.evaluations_planned
        assert not checked.progress.HasField("remaining_duration")

    def test_refuses_what_creating_it_would_refuse(self, served, worker):
        bad_target = lime()
        bad_target.target.next_token.id = 2**30
        for fields in (
            {"spec": pb.ExplanationSpec()},
            {"spec": lime(text=" ")},
            {"spec": lime(text="word " * 3000)},
            {"spec": bad_target},
            {"spec": lime(), "request_id": "é"},
        ):
            dry, real = (
                refused(
                    served.explanations.CreateExplanation, pb.CreateExplanationRequest(**fields, validate_only=only)
                )
                for only in (True, False)
            )
            assert vars(dry) == vars(real)

    def test_tells_a_time_once_workers_have_measured_how_fast_they_are(self, served, worker):
        assert not create(served, validate_only=True).progress.HasField("remaining_duration")
        worker.store.measured(worker.digest, "lime", 1000, 4)
        logged = create(served, validate_only=True).progress
        assert seconds(logged.remaining_duration) == pytest.approx(logged.tokens_planned / 250)
        hurried = lime()
        hurried.budget.max_duration.CopyFrom(duration(seconds(logged.remaining_duration) / 2))
        assert create(served, hurried, validate_only=True).progress.remaining_duration == hurried.budget.max_duration

    def test_a_study_too(self, served, worker):
        probe = pb.BiasProbe(templates=["a {} b"], groups=[pb.SwapSet(label=label, words=["c"]) for label in "xy"])
        request = pb.CreateExplanationRequest(study=pb.StudySpec(bias_probe=probe), validate_only=True)
        checked = served.explanations.CreateExplanation(request)
        assert (checked.method, checked.prompt_preview) == ("bias_probe", "a {} b")
        assert checked.study.bias_probe == probe
        assert checked.progress.evaluations_planned == 2


def test_cancel_and_delete(served, worker):
    created = create(served)
    for _ in range(2):  # Cancelling again changes nothing.
        cancelled = served.explanations.CancelExplanation(pb.CancelExplanationRequest(name=created.name))
        assert cancelled.state == pb.EXPLANATION_STATE_CANCELLED
    done = create(served, lime(seed=1))
    worker.store.succeed(worker.begin(done), pb.ExplanationResult())
    refusal = refused(served.explanations.CancelExplanation, pb.CancelExplanationRequest(name=done.name))
    assert (refusal.code, refusal.reason) == (Code.FAILED_PRECONDITION, "WRONG_STATE")
    assert refusal.metadata == {"name": done.name, "state": "SUCCEEDED"}
    served.explanations.DeleteExplanation(pb.DeleteExplanationRequest(name=done.name))
    gone = refused(served.explanations.GetExplanation, pb.GetExplanationRequest(name=done.name))
    assert (gone.code, gone.reason) == (Code.NOT_FOUND, "EXPLANATION_NOT_FOUND")


def test_what_nobody_knows_is_not_found(served, worker):
    name = "explanations/" + "0" * 32
    for method, kind in [
        (served.explanations.GetExplanation, pb.GetExplanationRequest),
        (served.explanations.WatchExplanation, pb.WatchExplanationRequest),
        (served.explanations.CancelExplanation, pb.CancelExplanationRequest),
        (served.explanations.DeleteExplanation, pb.DeleteExplanationRequest),
    ]:
        refusal = refused(method, kind(name=name))
        assert (refusal.code, refusal.reason) == (Code.NOT_FOUND, "EXPLANATION_NOT_FOUND")
        assert refusal.metadata == {"name": name}


def test_what_cannot_be_read_is_reported_as_such_and_hides_nothing_else(served, worker):
    other = create(served, lime(seed=1))
    name = create(served).name
    worker.redis.hset(names.record(name.removeprefix("explanations/")), "attempt", "many")
    for method, kind in [
        (served.explanations.GetExplanation, pb.GetExplanationRequest),
        (served.explanations.WatchExplanation, pb.WatchExplanationRequest),
    ]:
        refusal = refused(method, kind(name=name))
        assert (refusal.code, refusal.reason) == (Code.DATA_LOSS, "DATA_CORRUPT")
        assert refusal.metadata == {"name": name, "part": "attempt"}
    assert list(served.explanations.ListExplanations(pb.ListExplanationsRequest()).explanations) == [basic(other)]
    assert create(served).name != name

    key = names.events(other.name.removeprefix("explanations/"))
    for spoil in (lambda: worker.redis.set(key, "something"), lambda: worker.redis.xadd(key, {"something": "else"})):
        worker.redis.delete(key)
        spoil()
        assert refused(served.explanations.WatchExplanation, pb.WatchExplanationRequest(name=other.name)).metadata == {
            "name": other.name,
            "part": "events",
        }


def test_one_too_long_for_a_reply_is_left_out_of_lists(redis_server, worker, tiny_gpt2):
    with serve([tiny_gpt2], redis_url=redis_server.url, max_message_bytes=16 * 1024) as server:
        short = create(server)
        long = create(server, lime(seed=1))
        error = pb.ExplanationError(message="x" * 20_000).SerializeToString()
        worker.redis.hset(names.record(long.name.removeprefix("explanations/")), "error", error)
        assert list(server.explanations.ListExplanations(pb.ListExplanationsRequest()).explanations) == [basic(short)]


def test_rows_that_no_reply_could_hold_are_refused_before_anything_is_computed(redis_server, worker, tiny_gpt2):
    with serve([tiny_gpt2], redis_url=redis_server.url, max_message_bytes=16 * 1024) as server:
        asked = lime(text=" ".join(["the"] * 40))
        asked.target.generation.max_tokens = 4
        asked.rows.unit = pb.FEATURE_UNIT_TOKEN
        assert create(server, asked).name
        asked.target.generation.max_tokens = 30
        for validate_only in (False, True):
            request = pb.CreateExplanationRequest(spec=asked, validate_only=validate_only)
            refusal = refused(server.explanations.CreateExplanation, request)
            assert (refusal.code, refusal.reason) == (Code.INVALID_ARGUMENT, "REPLY_TOO_LARGE")
            assert refusal.metadata["limit"] == str(16 * 1024)
            assert int(refusal.metadata["bytes"]) > 16 * 1024
            assert refusal.field == "spec.rows"


def test_without_a_worker_nothing_is_queued(served, worker):
    worker.retire()
    refusal = refused(served.explanations.CreateExplanation, pb.CreateExplanationRequest(spec=lime()))
    assert (refusal.code, refusal.reason) == (Code.UNAVAILABLE, "NO_WORKER")
    assert refusal.metadata == {"model": "tiny-gpt2"}
    assert refusal.retry_seconds
    assert not served.explanations.ListExplanations(pb.ListExplanationsRequest()).explanations


def test_a_worker_with_other_weights_does_not_count(served, worker):
    worker.retire()
    worker.digest = "f" * 64
    worker.heartbeat()
    refusal = refused(served.explanations.CreateExplanation, pb.CreateExplanationRequest(spec=lime()))
    assert refusal.reason == "NO_WORKER"


def test_a_full_queue_refuses(redis_server, worker, tiny_gpt2):
    with serve([tiny_gpt2], redis_url=redis_server.url, max_queued=1) as server:
        create(server)
        refusal = refused(server.explanations.CreateExplanation, pb.CreateExplanationRequest(spec=lime(seed=1)))
        assert (refusal.code, refusal.reason) == (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert refusal.retry_seconds


def test_a_stream_ends_by_age_and_by_the_servers_end(redis_server, worker, tiny_gpt2):
    with serve([tiny_gpt2], redis_url=redis_server.url, watch_seconds=0.3) as server:
        request = pb.WatchExplanationRequest(name=create(server).name)
        refusal = refused(server.explanations.WatchExplanation, request)
        assert (refusal.code, refusal.reason) == (Code.UNAVAILABLE, "STREAM_AGE")
    with serve([tiny_gpt2], redis_url=redis_server.url) as server:
        stream = server.explanations.WatchExplanation(request, timeout=20)
        next(stream)
        stopping = threading.Thread(target=lambda: server.on_loop(server.server.stop()))
        stopping.start()
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert caught.value.code() is Code.UNAVAILABLE
        stopping.join()


def test_redis_away_is_unavailable_at_once_and_inference_is_unharmed(private_redis, load_model, tiny_gpt2):
    with serve([tiny_gpt2], redis_url=private_redis.url) as server:
        with connect(private_redis.url, patient=False) as client:
            Worker(client, load_model(tiny_gpt2).info.digest)
        wait_for(lambda: server.health(EXPLANATIONS) == "SERVING")
        name = create(server).name
        stream = server.explanations.WatchExplanation(pb.WatchExplanationRequest(name=name), timeout=20)
        next(stream)

        private_redis.stop()
        for method, request in [
            (server.explanations.CreateExplanation, pb.CreateExplanationRequest(spec=lime(seed=2))),
            (server.explanations.GetExplanation, pb.GetExplanationRequest(name=name)),
            (server.explanations.ListExplanations, pb.ListExplanationsRequest()),
            (server.explanations.WatchExplanation, pb.WatchExplanationRequest(name=name)),
            (server.explanations.CancelExplanation, pb.CancelExplanationRequest(name=name)),
        ]:
            before = time.perf_counter()
            refusal = refused(method, request)
            assert time.perf_counter() - before < 2
            assert (refusal.code, refusal.reason) == (Code.UNAVAILABLE, "STORE_UNAVAILABLE")
            assert refusal.retry_seconds
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert caught.value.code() is Code.UNAVAILABLE
        assert server.next_token("The capital of France is").predictions
        wait_for(lambda: server.health(EXPLANATIONS) == "NOT_SERVING")
        assert server.health("gloss.v1.InferenceService") == "SERVING"
        assert "gloss_explanation_queue_depth" in server.page()

        private_redis.start()
        wait_for(lambda: server.health(EXPLANATIONS) == "SERVING")
        assert server.explanations.GetExplanation(pb.GetExplanationRequest(name=name)).name == name


def test_a_redis_that_hangs_is_unavailable_within_two_seconds(private_redis, load_model, tiny_gpt2):
    with serve([tiny_gpt2], redis_url=private_redis.url) as server:
        with connect(private_redis.url, patient=False) as client:
            Worker(client, load_model(tiny_gpt2).info.digest)
            client.execute_command("CLIENT", "PAUSE", 5000, "ALL")
        before = time.perf_counter()
        refusal = refused(server.explanations.ListExplanations, pb.ListExplanationsRequest())
        assert time.perf_counter() - before < 2.5
        assert refusal.reason == "STORE_UNAVAILABLE"
        assert server.next_token("The capital of France is").predictions
        assert server.page()
