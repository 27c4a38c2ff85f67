"""The store of explanations on a real Redis."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError

from gloss import v1 as pb
from jobs import names, watch
from jobs.attempts import AttemptStore
from jobs.connection import connect
from jobs.errors import (
    AttemptEndedError,
    ExplanationNotFoundError,
    PageTokenError,
    QueueFullError,
    RequestIdReusedError,
    WrongStateError,
)
from jobs.rq import GlossJob, TaskNotAllowedError, open_queue
from jobs.store import ExplanationStore
from tests.integration.explanations import lime

MODEL = pb.ModelVersion(name="tiny", digest="d" * 64)
QUEUE = names.queue("tiny")
RESULT = pb.ExplanationResult(text="found")
PARTIAL = pb.ExplanationResult(text="so far")
ERROR = pb.ExplanationError(reason=pb.ERROR_REASON_INTERNAL, message="no")


def id_of(explanation: pb.Explanation) -> str:
    return explanation.name.removeprefix("explanations/")


def take(client) -> str:
    """Take the next job off the queue and register it, as a worker does; RQ's name of the execution."""
    queue = open_queue(QUEUE, client)
    explanation_id = client.lmove(queue.key, queue.intermediate_queue_key).decode()
    client.lrem(queue.intermediate_queue_key, 1, explanation_id)
    client.zadd(queue.started_job_registry.key, {f"{explanation_id}:run": time.time() + 6})
    return f"{explanation_id}:run"


class TestCreate:
    def test_answers_what_was_asked(self, store, client):
        spec = lime(40, seed=3)
        explanation = store.create(spec, MODEL)
        assert explanation.state == pb.EXPLANATION_STATE_QUEUED
        assert explanation.model == MODEL
        assert explanation.spec.model == "tiny"
        assert explanation.spec.budget == spec.budget
        assert explanation.attempt == 0
        assert abs(explanation.create_time.ToSeconds() - time.time()) < 5
        assert not explanation.HasField("start_time")
        assert not explanation.HasField("expire_time")
        assert store.get(explanation.name) == explanation

    def test_makes_a_job_that_rq_can_read(self, store, client):
        explanation = store.create(lime(), MODEL)
        queue = open_queue(QUEUE, client)
        assert client.lrange(queue.key, 0, -1) == [id_of(explanation).encode()]
        assert client.sismember(queue.redis_queues_keys, queue.key)
        job = queue.fetch_job(id_of(explanation))
        job.check()
        assert job.get_status() == "queued"
        assert job.origin == QUEUE
        assert client.hget(job.key, "timeout") == b"-1"
        # The scripts spell RQ's keys by themselves.
        prelude = store._scripts._scripts["create"].script
        prelude = prelude if isinstance(prelude, str) else prelude.decode()
        assert job.key == f"rq:job:{job.id}"
        assert queue.key == f"rq:queue:{QUEUE}"
        assert queue.intermediate_queue_key == f"rq:queue:{QUEUE}:intermediate"
        assert queue.started_job_registry.key == f"rq:wip:{QUEUE}"
        for prefix in ("'rq:job:'", "'rq:queue:'", "':intermediate'", "'rq:wip:'"):
            assert prefix in prelude

    def test_shares_equal_questions_to_equal_models(self, store):
        first = store.create(lime(), MODEL)
        assert store.create(lime(), MODEL) == first
        named = lime()
        named.model = "tiny"
        assert store.create(named, MODEL).name == first.name
        assert store.create(lime(31), MODEL).name != first.name
        assert store.create(lime(), pb.ModelVersion(name="tiny", digest="e" * 64)).name != first.name
        assert store.create(lime(), pb.ModelVersion(name="other", digest="d" * 64)).name != first.name

    def test_shares_what_has_succeeded(self, store, attempts):
        first = store.create(lime(), MODEL)
        attempts.succeed(attempts.begin(id_of(first)), RESULT)
        assert store.create(lime(), MODEL).result == RESULT

    def test_asks_again_when_it_failed_or_was_cancelled(self, store, attempts):
        first = store.create(lime(), MODEL)
        attempts.fail(attempts.begin(id_of(first)), ERROR)
        second = store.create(lime(), MODEL)
        assert second.name != first.name
        store.cancel(second.name)
        assert store.create(lime(), MODEL).name not in {first.name, second.name}

    def test_asks_again_when_told_to_and_shares_the_newest(self, store):
        first = store.create(lime(), MODEL)
        fresh = store.create(lime(), MODEL, fresh=True)
        assert fresh.name != first.name
        assert store.create(lime(), MODEL).name == fresh.name

    @pytest.mark.parametrize("fresh", [False, True])
    def test_every_attempt_knows_whether_to_compute_anew(self, store, attempts, fresh):
        name = id_of(store.create(lime(), MODEL, fresh=fresh))
        assert [attempts.begin(name).fresh for _ in range(2)] == [fresh, fresh]

    def test_remembers_request_ids(self, store):
        first = store.create(lime(), MODEL, request_id="one", fresh=True)
        assert store.create(lime(), MODEL, request_id="one", fresh=True).name == first.name
        with pytest.raises(RequestIdReusedError) as caught:
            store.create(lime(31), MODEL, request_id="one")
        assert caught.value.name == first.name
        assert caught.value.request_id == "one"
        store.delete(first.name)
        assert store.create(lime(31), MODEL, request_id="one").name != first.name

    def test_remembers_request_ids_of_shared_ones(self, store):
        first = store.create(lime(), MODEL)
        assert store.create(lime(), MODEL, request_id="two").name == first.name
        store.cancel(first.name)
        assert store.create(lime(), MODEL, request_id="two").name == first.name

    def test_refuses_when_too_many_wait(self, client):
        store = ExplanationStore(client, max_queued=2)
        first = store.create(lime(seed=1), MODEL)
        store.create(lime(seed=2), MODEL)
        with pytest.raises(QueueFullError) as caught:
            store.create(lime(seed=3), MODEL)
        assert caught.value.limit == 2
        assert store.create(lime(seed=1), MODEL).name == first.name  # needs no place
        store.create(lime(seed=3), pb.ModelVersion(name="other", digest="e"))  # another queue
        store.cancel(first.name)
        store.create(lime(seed=3), MODEL)
        assert store.queue_depth("tiny") == 2

    def test_many_at_once_make_one(self, store):
        with ThreadPoolExecutor(16) as pool:
            created = list(pool.map(lambda _: store.create(lime(), MODEL).name, range(64)))
        assert len(set(created)) == 1
        assert store.queue_depth("tiny") == 1

    def test_many_at_once_never_exceed_the_limit(self, client):
        store = ExplanationStore(client, max_queued=5)

        def create(seed: int) -> bool:
            try:
                store.create(lime(seed=seed), MODEL)
            except QueueFullError:
                return False
            return True

        with ThreadPoolExecutor(16) as pool:
            assert sum(pool.map(create, range(40))) == 5
        assert store.queue_depth("tiny") == 5


class TestGet:
    @pytest.mark.parametrize("name", ["", "explanations/", "explanations/" + "0" * 32, "explanations/*", "x/y", "\0"])
    def test_unknown_names(self, store, name):
        for method in (store.get, store.cancel, store.delete):
            with pytest.raises(ExplanationNotFoundError) as caught:
                method(name)
            assert caught.value.name == name


class TestView:
    """What is asked may be long, and is read from Redis only for the view that shows it."""

    ASKED = lime(text="word " * 200_000)

    @pytest.fixture(params=["queued", "running", "succeeded", "failed", "cancelled"])
    def name(self, store, attempts, request) -> str:
        """An explanation in each of its states."""
        name = store.create(self.ASKED, MODEL, cost=pb.Progress(evaluations_planned=30)).name
        if request.param != "queued":
            attempt = attempts.begin(id_of(store.get(name)))
            attempts.progress(attempt, pb.Progress(evaluations_done=1), PARTIAL)
        if request.param == "succeeded":
            attempts.succeed(attempt, RESULT)
        elif request.param == "failed":
            attempts.fail(attempt, ERROR)
        elif request.param == "cancelled":
            store.cancel(name)
        return name

    def test_basic_is_full_without_the_spec(self, store, name):
        full = store.get(name, pb.EXPLANATION_VIEW_FULL)
        assert full.spec.prompt == self.ASKED.prompt
        full.ClearField("spec")
        assert store.get(name, pb.EXPLANATION_VIEW_BASIC) == full

    def test_lists_leave_out_results_in_either_view(self, store, name):
        for view in (pb.EXPLANATION_VIEW_BASIC, pb.EXPLANATION_VIEW_FULL):
            expected = store.get(name, view)
            for field in ("partial_result", "result"):
                expected.ClearField(field)
            assert store.list(view=view)[0] == [expected]

    def test_basic_does_not_read_what_was_asked(self, store, client):
        name = store.create(self.ASKED, MODEL).name
        for read in (store.get, lambda _, view: store.list(view=view)):
            sent = {}
            for view in (pb.EXPLANATION_VIEW_BASIC, pb.EXPLANATION_VIEW_FULL):
                before = client.info("stats")["total_net_output_bytes"]
                read(name, view)
                sent[view] = client.info("stats")["total_net_output_bytes"] - before
            assert sent[pb.EXPLANATION_VIEW_FULL] > 1_000_000
            assert sent[pb.EXPLANATION_VIEW_BASIC] < 50_000

    def test_every_view_tells_the_method_and_how_the_prompt_begins(self, store):
        chat = pb.Chat(messages=[pb.ChatMessage(content="Be brief."), pb.ChatMessage(content="Why?")])
        prompts = {"é" * 200: pb.Prompt(text="é" * 300), "Why?": pb.Prompt(chat=chat)}
        prompts[""] = pb.Prompt(token_ids=pb.TokenIds(ids=[1, 2]))
        for preview, prompt in prompts.items():
            created = store.create(pb.ExplanationSpec(prompt=prompt, kernel_shap=pb.KernelShap()), MODEL)
            for view in (pb.EXPLANATION_VIEW_BASIC, pb.EXPLANATION_VIEW_FULL):
                seen = store.get(created.name, view)
                assert (seen.method, seen.prompt_preview) == ("kernel_shap", preview)


class TestThroughput:
    DIGEST = MODEL.digest

    def test_is_known_once_a_worker_has_told_it(self, store, attempts):
        assert store.throughput(self.DIGEST, "lime") is None
        attempts.measured(self.DIGEST, "lime", 3000, 1.5)
        assert store.throughput(self.DIGEST, "lime") == pytest.approx(2000)
        assert store.throughput(self.DIGEST, "occlusion") is None
        assert store.throughput("e" * 64, "lime") is None

    def test_follows_what_is_measured_of_late(self, store, attempts):
        attempts.measured(self.DIGEST, "lime", 1000, 10)
        for _ in range(30):
            attempts.measured(self.DIGEST, "lime", 1000, 1)
        assert store.throughput(self.DIGEST, "lime") == pytest.approx(1000, rel=0.02)

    def test_is_forgotten_after_a_while(self, attempts, client):
        attempts.measured(self.DIGEST, "lime", 1000, 1)
        assert client.pttl(names.throughput(self.DIGEST, "lime")) > 0

    @pytest.mark.parametrize("value", [b"", b"many", b"nan", b"inf", b"-1", b"1e308", b"0", b"\xff", None])
    @pytest.mark.parametrize("field", ["tokens", "seconds"])
    def test_what_is_no_number_is_none_and_is_replaced(self, store, attempts, client, field, value):
        key = names.throughput(self.DIGEST, "lime")
        attempts.measured(self.DIGEST, "lime", 1000, 1)
        client.hdel(key, field) if value is None else client.hset(key, field, value)
        assert store.throughput(self.DIGEST, "lime") is None or value == b"1e308"
        attempts.measured(self.DIGEST, "lime", 1000, 1)
        assert store.throughput(self.DIGEST, "lime") is not None

    def test_another_type_is_none_and_is_replaced(self, store, attempts, client):
        client.set(names.throughput(self.DIGEST, "lime"), "fast")
        assert store.throughput(self.DIGEST, "lime") is None
        attempts.measured(self.DIGEST, "lime", 1000, 1)
        assert store.throughput(self.DIGEST, "lime") == pytest.approx(1000)


class TestList:
    def test_newest_first_without_results(self, store, attempts):
        created = [store.create(lime(seed=seed), MODEL) for seed in range(3)]
        attempt = attempts.begin(id_of(created[0]))
        attempts.progress(attempt, pb.Progress(evaluations_done=1), PARTIAL)
        found, token = store.list()
        assert [e.name for e in found] == [e.name for e in reversed(created)]
        assert token == ""
        assert found[2].progress.evaluations_done == 1
        assert not found[2].HasField("partial_result")
        attempts.succeed(attempt, RESULT)
        assert not store.list()[0][2].HasField("result")

    def test_pages_are_stable(self, store):
        created = [store.create(lime(seed=seed), MODEL).name for seed in range(7)][::-1]
        first, token = store.list(3)
        store.create(lime(seed=100), MODEL)
        store.delete(first[-1].name)
        second, token = store.list(3, token)
        third, end = store.list(3, token)
        assert [e.name for e in (*first, *second, *third)] == created
        assert end == ""
        assert len(store.list(7)[0]) == 7

    def test_the_last_page_may_be_full(self, store):
        for seed in range(4):
            store.create(lime(seed=seed), MODEL)
        _, token = store.list(2)
        found, token = store.list(2, token)
        assert len(found) == 2
        assert token == ""

    def test_a_page_of_long_questions_is_short(self, store):
        long = [lime(text=f"{number} " + "word " * 70_000) for number in range(7)]
        created = [store.create(spec, MODEL).name for spec in long][::-1]
        found, tokens = [], [""]
        while tokens[-1] or not found:
            page, token = store.list(5, tokens[-1], view=pb.EXPLANATION_VIEW_FULL)
            assert 1 <= len(page) <= 2
            assert sum(explanation.ByteSize() for explanation in page) < 1.1e6
            found += page
            tokens.append(token)
        assert [explanation.name for explanation in found] == created
        assert len(store.list(5)[0]) == 5  # without them

    def test_by_state(self, store, attempts):
        created = [store.create(lime(seed=seed), MODEL) for seed in range(5)]
        attempts.begin(id_of(created[0]))
        attempts.succeed(attempts.begin(id_of(created[1])), RESULT)
        attempts.fail(attempts.begin(id_of(created[2])), ERROR)
        store.cancel(created[3].name)
        states = (pb.EXPLANATION_STATE_RUNNING, pb.EXPLANATION_STATE_SUCCEEDED, pb.EXPLANATION_STATE_FAILED)
        states = (*states, pb.EXPLANATION_STATE_CANCELLED, pb.EXPLANATION_STATE_QUEUED)
        for state, explanation in zip(states, created, strict=True):
            found, _ = store.list(state=state)
            assert [e.name for e in found] == [explanation.name]
            assert found[0].state == state

    @pytest.mark.parametrize("token", ["x", "AAAA", "QUxMIA==", "é", "QUxMICo="])
    def test_refuses_foreign_tokens(self, store, token):
        with pytest.raises(PageTokenError):
            store.list(2, token)

    def test_refuses_a_token_of_another_state(self, store):
        for seed in range(3):
            store.create(lime(seed=seed), MODEL)
        _, token = store.list(1, state=pb.EXPLANATION_STATE_QUEUED)
        with pytest.raises(PageTokenError):
            store.list(1, token)
        assert store.list(1, token, pb.EXPLANATION_STATE_QUEUED)[0]

    def test_forgets_what_has_expired(self, client):
        store = ExplanationStore(client, retention_seconds=0.05)
        gone = store.create(lime(seed=1), MODEL).name
        kept = store.create(lime(seed=2), MODEL).name
        store.cancel(gone)
        deadline = time.monotonic() + 5
        while client.exists(names.record(gone.split("/")[1])):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert [e.name for e in store.list()[0]] == [kept]
        assert store.list(state=pb.EXPLANATION_STATE_CANCELLED)[0] == []
        assert client.zcard(names.index()) == client.zcard(names.index("QUEUED")) == 1
        assert client.zcard(names.index("CANCELLED")) == 0
        left = [key.decode() for key in client.keys("*")]
        assert not [key for key in left if gone.split("/")[1] in key]


class TestAttempts:
    def test_begin_report_succeed(self, store, attempts):
        name = store.create(lime(), MODEL).name
        attempt = attempts.begin(name.split("/")[1])
        assert attempt.number == 1
        assert attempt.checkpoint is None
        assert attempt.model == MODEL
        assert attempt.question == store.get(name).spec
        attempts.progress(attempt, pb.Progress(evaluations_done=7, stage=pb.STAGE_EXPLAINING), PARTIAL, b"\0\xff")
        running = store.get(name)
        assert running.state == pb.EXPLANATION_STATE_RUNNING
        assert running.attempt == 1
        assert running.progress.evaluations_done == 7
        assert running.partial_result == PARTIAL
        assert running.HasField("start_time")
        attempts.progress(attempt, pb.Progress(evaluations_done=8))
        assert store.get(name).partial_result == PARTIAL
        attempts.succeed(attempt, RESULT, pb.Progress(evaluations_done=9))
        done = store.get(name)
        assert done.state == pb.EXPLANATION_STATE_SUCCEEDED
        assert done.result == RESULT
        assert not done.HasField("partial_result")
        assert done.progress.evaluations_done == 9
        assert done.expire_time.ToMilliseconds() - done.end_time.ToMilliseconds() == 60_000

    def test_a_study_lives_as_an_explanation_does(self, store, attempts):
        probe = pb.BiasProbe(templates=["{} said"], groups=[pb.SwapSet(label=label, words=["a"]) for label in "ab"])
        study = pb.StudySpec(bias_probe=probe)
        name = store.create(study, MODEL).name
        assert store.create(study, MODEL).name == name
        attempt = attempts.begin(name.split("/")[1])
        assert attempt.question == pb.StudySpec(model=MODEL.name, bias_probe=probe)
        so_far = pb.StudyResult(target=pb.ResolvedTarget(description="so far"))
        attempts.progress(attempt, partial=so_far)
        running = store.get(name)
        assert running.WhichOneof("question") == "study"
        assert running.partial_study_result == so_far
        found = pb.StudyResult(bias_probe=pb.BiasProbeResult())
        attempts.succeed(attempt, found)
        done = store.get(name)
        assert done.study_result == found
        assert not any(map(done.HasField, ("spec", "result", "partial_result", "partial_study_result")))
        [listed] = store.list()[0]
        assert (listed.method, listed.prompt_preview) == ("bias_probe", "{} said")

    def test_an_empty_result_is_a_result(self, store, attempts):
        name = store.create(lime(), MODEL).name
        attempts.succeed(attempts.begin(name.split("/")[1]), pb.ExplanationResult())
        assert store.get(name).HasField("result")

    def test_fail_keeps_the_partial_result(self, store, attempts):
        name = store.create(lime(), MODEL).name
        attempt = attempts.begin(name.split("/")[1])
        attempts.progress(attempt, partial=PARTIAL)
        attempts.fail(attempt, ERROR)
        failed = store.get(name)
        assert failed.state == pb.EXPLANATION_STATE_FAILED
        assert failed.error == ERROR
        assert failed.partial_result == PARTIAL
        with pytest.raises(WrongStateError) as caught:
            store.cancel(name)
        assert caught.value.state == "FAILED"

    def test_what_was_cancelled_never_succeeds(self, store, attempts):
        name = store.create(lime(), MODEL).name
        attempt = attempts.begin(name.split("/")[1])
        attempts.progress(attempt, partial=PARTIAL)
        cancelled = store.cancel(name)
        assert cancelled.state == pb.EXPLANATION_STATE_CANCELLED
        assert cancelled.partial_result.text == PARTIAL.text
        assert cancelled.partial_result.cost.stop_reason == pb.STOP_REASON_CANCELLED
        assert attempts.cancel_requested(attempt.id)
        for write in (
            lambda: attempts.succeed(attempt, RESULT),
            lambda: attempts.fail(attempt, ERROR),
            lambda: attempts.progress(attempt, pb.Progress(), RESULT),
        ):
            with pytest.raises(AttemptEndedError) as caught:
                write()
            assert caught.value.state == "CANCELLED"
        assert store.cancel(name) == cancelled
        assert store.get(name) == cancelled
        assert attempts.begin(attempt.id) is None

    def test_an_older_attempt_writes_nothing(self, store, attempts):
        name = store.create(lime(), MODEL).name
        first = attempts.begin(name.split("/")[1])
        attempts.progress(first, checkpoint=b"half")
        second = attempts.begin(first.id)
        assert second.number == 2
        assert second.checkpoint == b"half"
        for write in (lambda: attempts.succeed(first, RESULT), lambda: attempts.progress(first, partial=RESULT)):
            with pytest.raises(AttemptEndedError) as caught:
                write()
            assert caught.value.state == "RUNNING"
        attempts.succeed(second, RESULT)
        assert store.get(name).attempt == 2

    def test_a_deleted_one_takes_no_writes(self, store, attempts, client):
        name = store.create(lime(), MODEL).name
        attempt = attempts.begin(name.split("/")[1])
        store.delete(name)
        with pytest.raises(AttemptEndedError) as caught:
            attempts.succeed(attempt, RESULT)
        assert caught.value.state == ""
        assert not client.exists(names.record(attempt.id))
        assert attempts.cancel_requested(attempt.id)
        assert store.list()[0] == []

    def test_a_repeated_step_is_one_step(self, store, attempts, client):
        """Redis's answer may get lost, and the client sends the step again."""
        name = store.create(lime(), MODEL).name
        attempt = attempts.begin(name.split("/")[1])
        token = client.hget(names.record(attempt.id), "token")
        assert attempts._scripts("begin", attempt.id, token, *attempts._limits)[0] == 1
        attempts.succeed(attempt, RESULT)
        attempts.succeed(attempt, RESULT)
        assert store.get(name).result == RESULT

    def test_cancel_and_success_race_to_one_end(self, store, attempts):
        outcomes = set()
        for seed in range(30):
            name = store.create(lime(seed=seed), MODEL).name
            attempt = attempts.begin(name.split("/")[1])

            def succeed(attempt=attempt) -> bool:
                try:
                    attempts.succeed(attempt, RESULT)
                except AttemptEndedError:
                    return False
                return True

            def cancel(name=name) -> bool:
                try:
                    store.cancel(name)
                except WrongStateError:
                    return False
                return True

            with ThreadPoolExecutor(2) as pool:
                succeeded, cancelled = pool.submit(succeed), pool.submit(cancel)
                assert succeeded.result() != cancelled.result()
            explanation = store.get(name)
            assert explanation.HasField("result") == succeeded.result()
            outcomes.add(explanation.state)
        assert outcomes <= {pb.EXPLANATION_STATE_SUCCEEDED, pb.EXPLANATION_STATE_CANCELLED}

    def test_one_of_many_begins_first(self, store, attempts):
        explanation_id = id_of(store.create(lime(), MODEL))
        attempts = AttemptStore(attempts._redis, max_attempts=100)
        with ThreadPoolExecutor(8) as pool:
            numbers = [attempt.number for attempt in pool.map(attempts.begin, [explanation_id] * 8)]
        assert sorted(numbers) == list(range(1, 9))


class TestHands:
    """Jobs between workers' hands."""

    def test_a_finished_job_is_forgotten(self, store, attempts, client):
        store.create(lime(), MODEL)
        execution = take(client)
        attempt = attempts.begin(execution.split(":")[0])
        attempts.succeed(attempt, RESULT)
        attempts.release(QUEUE, attempt.id, execution, lost=False)
        assert not client.keys("rq:job:*")
        assert not client.keys("rq:wip:*")
        assert store.queue_depth("tiny") == 0

    def test_an_interrupted_job_is_next_again(self, store, attempts, client):
        name = store.create(lime(seed=1), MODEL).name
        store.create(lime(seed=2), MODEL)
        execution = take(client)
        attempt = attempts.begin(execution.split(":")[0])
        attempts.progress(attempt, partial=PARTIAL, checkpoint=b"half")
        for _ in range(5):  # what is not lost may go on as often as it takes
            attempts.release(QUEUE, attempt.id, execution, lost=False)
            explanation = store.get(name)
            assert explanation.state == pb.EXPLANATION_STATE_QUEUED
            assert explanation.partial_result == PARTIAL
            assert store.queue_depth("tiny") == 2
            execution = take(client)
            attempt = attempts.begin(execution.split(":")[0])
            assert attempt.checkpoint == b"half"
        assert attempt.number == 6

    def test_a_job_that_loses_its_workers_fails(self, store, attempts, client):
        name = store.create(lime(), MODEL).name
        for number in (1, 2, 3):
            execution = take(client)
            attempt = attempts.begin(execution.split(":")[0])
            assert attempt.number == number
            attempts.progress(attempt, partial=PARTIAL)
            attempts.release(QUEUE, attempt.id, execution, lost=True)
        failed = store.get(name)
        assert failed.state == pb.EXPLANATION_STATE_FAILED
        assert failed.error.reason == pb.ERROR_REASON_WORKER_LOST
        assert failed.error.metadata == {"attempts": "3"}
        assert failed.partial_result == PARTIAL
        assert store.queue_depth("tiny") == 0
        assert not client.keys("rq:job:*")

    def test_a_job_lost_before_it_began_counts_too(self, store, attempts, client):
        name = store.create(lime(), MODEL).name
        for _ in range(3):
            execution = take(client)
            attempts.release(QUEUE, execution.split(":")[0], execution, lost=True)
        assert store.get(name).error.reason == pb.ERROR_REASON_WORKER_LOST

    def test_dead_workers_jobs_are_recovered_once(self, store, attempts, client):
        name = store.create(lime(), MODEL).name
        execution = take(client)
        attempt = attempts.begin(execution.split(":")[0])
        assert attempts.recover(QUEUE) == []  # its heartbeat is young
        client.zadd(f"rq:wip:{QUEUE}", {execution: time.time() - 2})
        with ThreadPoolExecutor(8) as pool:
            recovered = [found for ids in pool.map(lambda _: attempts.recover(QUEUE), range(8)) for found in ids]
        assert recovered == [attempt.id]
        assert store.get(name).state == pb.EXPLANATION_STATE_QUEUED
        assert store.queue_depth("tiny") == 1
        # The worker was not dead after all, and lets go of what is no longer its own.
        attempts.release(QUEUE, attempt.id, execution, lost=True)
        assert store.queue_depth("tiny") == 1
        assert client.hget(names.record(attempt.id), "lost") == b"1"

    def test_jobs_that_were_popped_and_never_registered_are_recovered(self, store, attempts, client, monkeypatch):
        store.create(lime(), MODEL)
        queue = open_queue(QUEUE, client)
        client.lmove(queue.key, queue.intermediate_queue_key)
        assert attempts.recover(QUEUE) == []
        monkeypatch.setattr("jobs.attempts.STRANDED_MS", 0)
        assert len(attempts.recover(QUEUE)) == 1
        assert store.queue_depth("tiny") == 1
        assert client.llen(queue.intermediate_queue_key) == 0

    def test_cancelling_tells_the_worker(self, store, attempts, client):
        name = store.create(lime(), MODEL).name
        execution = take(client)
        attempt = attempts.begin(execution.split(":")[0])
        client.hset(f"rq:job:{attempt.id}", "worker_name", "w1")
        with client.pubsub(ignore_subscribe_messages=True) as channel:
            channel.subscribe("rq:pubsub:w1")
            channel.get_message(timeout=1)
            store.cancel(name)
            message = channel.get_message(timeout=5)
        assert attempt.id.encode() in message["data"]
        assert b"stop-job" in message["data"]

    def test_workers_are_alive_while_they_say_so(self, store, attempts):
        assert not store.worker_alive("tiny", "d1")
        store.create(lime(), MODEL)
        assert attempts.heartbeat(QUEUE, "d1", "w1", 60) == 1
        attempts.heartbeat(QUEUE, "d2", "w2", 60)
        assert store.worker_alive("tiny", "d1")
        assert not store.worker_alive("tiny", "d")
        attempts.retire(QUEUE, "d1", "w1")
        assert not store.worker_alive("tiny", "d1")
        attempts.heartbeat(QUEUE, "d1", "w1", 0)
        assert not store.worker_alive("tiny", "d1")
        assert store.worker_alive("tiny", "d2")

    def test_only_the_task_is_allowed(self, client):
        queue = open_queue(QUEUE, client)
        job = queue.create_job("os.system", args=("true",), job_id="x")
        job.save()
        with pytest.raises(TaskNotAllowedError):
            GlossJob.fetch("x", client, queue.serializer).perform()


class TestWatch:
    @pytest.fixture
    def watched(self, redis_url):
        async def follow(explanation_id, on_wake):
            async with redis.asyncio.Redis.from_url(redis_url) as client:
                async for _ in watch.changes(client, explanation_id):
                    await on_wake()

        return lambda explanation_id, on_wake: asyncio.run(asyncio.wait_for(follow(explanation_id, on_wake), 20))

    def test_one_that_has_ended_wakes_once(self, watched, store):
        explanation = store.create(lime(), MODEL)
        store.cancel(explanation.name)
        wakes = []

        async def wake():
            wakes.append(store.get(explanation.name).state)

        watched(id_of(explanation), wake)
        assert wakes == [pb.EXPLANATION_STATE_CANCELLED]

    def test_wakes_with_every_change_and_ends_with_the_last(self, watched, store, attempts):
        explanation = store.create(lime(), MODEL)
        states = []
        steps = iter(
            [
                lambda: steps_taken.append(attempts.begin(id_of(explanation))),
                lambda: attempts.progress(steps_taken[0], pb.Progress(evaluations_done=1)),
                lambda: attempts.succeed(steps_taken[0], RESULT),
            ]
        )
        steps_taken = []

        async def wake():
            seen = store.get(explanation.name)
            states.append((seen.state, seen.progress.evaluations_done))
            next(steps, lambda: None)()

        watched(id_of(explanation), wake)
        queued, running = pb.EXPLANATION_STATE_QUEUED, pb.EXPLANATION_STATE_RUNNING
        assert states == [(queued, 0), (running, 0), (running, 1), (pb.EXPLANATION_STATE_SUCCEEDED, 1)]

    def test_many_changes_are_seen_together(self, watched, store, attempts):
        explanation = store.create(lime(), MODEL)
        attempt = attempts.begin(id_of(explanation))
        seen = []

        async def wake():
            seen.append(store.get(explanation.name).progress.evaluations_done)
            if len(seen) == 1:
                for done in range(1, 500):
                    attempts.progress(attempt, pb.Progress(evaluations_done=done))
            elif len(seen) == 2:
                store.cancel(explanation.name)

        watched(id_of(explanation), wake)
        assert seen == [0, 499, 499]

    def test_ends_when_it_is_deleted(self, watched, store):
        explanation = store.create(lime(), MODEL)
        wakes = []

        async def wake():
            wakes.append(1)
            if len(wakes) == 1:
                store.delete(explanation.name)

        watched(id_of(explanation), wake)
        assert len(wakes) == 2

    def test_ends_at_once_where_there_is_none(self, watched):
        wakes = []

        async def wake():
            wakes.append(1)

        watched(names.new_id(), wake)
        assert wakes == [1]

    def test_ends_when_redis_loses_the_record(self, watched, store, client, monkeypatch):
        monkeypatch.setattr("jobs.watch._BLOCK_MS", 50)
        explanation = store.create(lime(), MODEL)

        async def wake():
            client.flushall()

        watched(id_of(explanation), wake)


def test_redis_away_passes_through(private_redis):
    with connect(private_redis.url, patient=False) as client:
        store = ExplanationStore(client)
        name = store.create(lime(), MODEL).name
        private_redis.stop()
        for call in (lambda: store.get(name), lambda: store.create(lime(), MODEL), store.list):
            with pytest.raises(RedisConnectionError):
                call()
        private_redis.start()
        assert store.get(name).state == pb.EXPLANATION_STATE_QUEUED
