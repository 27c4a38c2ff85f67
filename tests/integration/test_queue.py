"""Whose turn it is, and that no job is lost or done twice wherever a worker dies, on a real Redis."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest
from redis import Redis

from gloss import v1 as pb
from jobs import attempts as attempts_module
from jobs import names
from jobs.access import Access
from jobs.attempts import Attempt, AttemptStore
from jobs.errors import AttemptEndedError, ExplanationNotFoundError, QueueFullError, WrongStateError
from jobs.rq import open_queue
from jobs.store import ExplanationStore
from tests.integration.explanations import FINAL, lime

MODEL = pb.ModelVersion(name="tiny", digest="d" * 64)
QUEUE = names.queue("tiny")
RESULT = pb.ExplanationResult(text="found")
ALICE, BOB, CAROL = (Access(f"key:{name}") for name in ("alice", "bob", "carol"))
ADMIN = Access("key:root", admin=True)


class Worker:
    """What RQ and a worker do to Redis, a step at a time: whoever stops in between has died there."""

    def __init__(self, client: Redis, attempts: AttemptStore) -> None:
        self.client, self.attempts = client, attempts
        self.queue = open_queue(QUEUE, client)
        self.key = ""
        self.attempt: Attempt | None = None

    @property
    def execution(self) -> str:
        return f"{self.key}:run"

    def take(self) -> bool:
        """Take the next job; false where none waits."""
        taken = self.client.lmove(self.queue.key, self.queue.intermediate_queue_key)
        self.key = taken.decode() if taken else ""
        return bool(taken)

    def register(self) -> None:
        """Say who works on it, with a heartbeat that has run out already."""
        self.client.zadd(self.queue.started_job_registry.key, {self.execution: 1})
        self.client.lrem(self.queue.intermediate_queue_key, 1, self.key)

    def begin(self) -> None:
        self.attempt = self.attempts.begin(self.key)

    def run(self, seconds: float) -> None:
        """Let the attempt have run for a while since it was last heard of."""
        self.client.hincrby(names.record(self.key), "accounted", -round(1000 * seconds))
        self.attempts.progress(self.attempt, pb.Progress(evaluations_done=1))

    def give_way(self, checkpoint: bytes = b"checkpoint") -> None:
        self.attempts.give_way(self.attempt, checkpoint)

    def succeed(self) -> None:
        self.attempts.succeed(self.attempt, RESULT)

    def release(self, *, lost: bool = False) -> None:
        self.attempts.release(QUEUE, self.key, self.execution, lost=lost)


@pytest.fixture
def worker(client: Redis, attempts: AttemptStore) -> Worker:
    return Worker(client, attempts)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that were taken and never registered count as stranded at the second look."""
    monkeypatch.setattr(attempts_module, "STRANDED_MS", 0)


def owner_of(key: str) -> str:
    names_of = {each.owner: each.tenant.removeprefix("key:") for each in (ALICE, BOB, CAROL, ADMIN)}
    parsed = names.parse_key(key)
    assert parsed is not None
    return names_of[parsed[1]]


def served(worker: Worker, seconds: dict[str, float], limit: int = 1000) -> Iterator[str]:
    """Whose jobs are done one after the other, where each takes as long as its owner's do."""
    for _ in range(limit):
        if not worker.take():
            return
        worker.register()
        worker.begin()
        who = owner_of(worker.key)
        worker.run(seconds[who])
        worker.succeed()
        worker.release()
        yield who


def create(store: ExplanationStore, access: Access, count: int, first: int = 0) -> list[str]:
    return [store.create(lime(seed=first + seed), MODEL, access=access).name for seed in range(count)]


class TestTurns:
    def test_tenants_whose_jobs_take_as_long_alternate(self, store, worker):
        for access in (ALICE, BOB, CAROL):
            create(store, access, 4)
        order = list(served(worker, dict.fromkeys(("alice", "bob", "carol"), 5)))
        assert [set(order[i : i + 3]) for i in range(0, 12, 3)] == [{"alice", "bob", "carol"}] * 4

    def test_within_a_tenant_the_oldest_is_first(self, store, worker):
        created = create(store, ALICE, 5)
        taken = []
        for _ in served(worker, {"alice": 1}):
            taken.append(names.resource(worker.key))
        assert taken == created

    def test_it_is_time_that_is_shared_and_not_jobs(self, store, worker):
        create(store, ALICE, 4)
        create(store, BOB, 60)
        order = list(served(worker, {"alice": 9, "bob": 0.3}))
        longs = [place for place, who in enumerate(order) if who == "alice"]
        assert len(order) == 64
        assert all(later - earlier >= 20 for earlier, later in pairwise(longs[:3]))

    def test_who_comes_anew_gets_nothing_back_and_waits_for_nobodys_past(self, store, worker):
        create(store, ALICE, 40)
        assert list(served(worker, {"alice": 60}, 20)) == ["alice"] * 20
        create(store, BOB, 20)
        order = list(served(worker, {"alice": 5, "bob": 5}, 12))
        assert abs(order.count("alice") - order.count("bob")) <= 2
        assert "bob" in order[:2]

    def test_who_pauses_gets_nothing_back(self, store, worker):
        create(store, ALICE, 40)
        create(store, BOB, 1)
        list(served(worker, {"alice": 5, "bob": 0.1}, 20))
        create(store, BOB, 20, first=100)
        order = list(served(worker, {"alice": 5, "bob": 5}, 12))
        assert abs(order.count("alice") - order.count("bob")) <= 2

    def test_one_that_runs_is_charged_as_it_runs(self, store, client, attempts):
        """So that two workers that fall free at once do not both take the jobs of who has a long one running."""
        create(store, ALICE, 3)
        create(store, BOB, 3)
        first, second = Worker(client, attempts), Worker(client, attempts)
        assert first.take()
        first.register()
        first.begin()
        first.run(5)
        other = {"alice": "bob", "bob": "alice"}[owner_of(first.key)]
        assert list(served(second, {"alice": 1, "bob": 1}, 3)) == [other] * 3

    def test_a_lost_job_comes_first(self, store, worker):
        create(store, ALICE, 2)
        create(store, BOB, 2)
        assert worker.take()
        lost = worker.key
        worker.register()
        worker.begin()
        worker.run(100)
        worker.release(lost=True)
        assert worker.take()
        assert worker.key == lost

    def test_nobody_is_charged_while_nobody_waits(self, store, worker, client):
        create(store, ALICE, 1)
        list(served(worker, {"alice": 100}))
        assert not worker.take()
        create(store, ALICE, 3, first=10)
        create(store, BOB, 3)
        assert set(served(worker, {"alice": 5, "bob": 5}, 2)) == {"alice", "bob"}
        list(served(worker, {"alice": 5, "bob": 5}))
        assert not client.keys("gloss:waiting:*")

    def test_old_jobs_of_the_version_before_are_done_first(self, store, worker, client):
        """It kept all that waited in RQ's own list."""
        [old] = create(store, ALICE, 1)
        others = create(store, BOB, 3)
        for key in [*client.keys("gloss:waiting:*"), *client.keys("gloss:served:*")]:
            client.delete(key)
        for name in others:
            client.rpush(worker.queue.key, names.key(name.removeprefix("explanations/"), BOB.owner))
        assert store.queue_depth("tiny") == 4
        create(store, CAROL, 1)
        order = []
        for _ in served(worker, {"alice": 1, "bob": 1, "carol": 1}):
            order.append(names.resource(worker.key))
        assert order[:4] == [old, *others]
        assert len(order) == 5

    def test_a_waiting_list_that_is_none_is_begun_anew(self, store, worker, client):
        create(store, BOB, 1)
        client.set(f"gloss:waiting:{QUEUE}:{ALICE.owner}", "text")
        create(store, ALICE, 2)
        assert sorted(served(worker, {"alice": 1, "bob": 1})) == ["alice", "alice", "bob"]


class TestLimit:
    def test_a_full_tenant_keeps_nobody_else_out(self, client):
        store = ExplanationStore(client, max_queued=3)
        create(store, ALICE, 3)
        with pytest.raises(QueueFullError):
            create(store, ALICE, 1, first=3)
        create(store, BOB, 3)
        with pytest.raises(QueueFullError):
            create(store, BOB, 1, first=3)
        assert store.queue_depth("tiny") == 6

    def test_what_runs_needs_no_place(self, client, worker):
        store = ExplanationStore(client, max_queued=3)
        names_of = create(store, ALICE, 3)
        assert worker.take()
        worker.register()
        worker.begin()
        create(store, ALICE, 1, first=3)
        with pytest.raises(QueueFullError):
            create(store, ALICE, 1, first=4)
        for name in names_of[1:]:
            store.cancel(name, access=ALICE)
        assert store.queue_depth("tiny") == 1
        create(store, ALICE, 2, first=4)


class TestGivingWay:
    def begun(self, worker: Worker) -> None:
        assert worker.take()
        worker.register()
        worker.begin()

    def test_comes_last_of_its_tenant_and_goes_on_in_the_same_attempt(self, store, worker):
        first, second = create(store, ALICE, 2)
        self.begun(worker)
        worker.run(7)
        worker.attempts.give_way(
            worker.attempt, b"half", pb.Progress(evaluations_done=5), pb.ExplanationResult(text="so far")
        )
        worker.release()
        waiting = store.get(first, access=ALICE)
        assert (waiting.state, waiting.attempt) == (pb.EXPLANATION_STATE_QUEUED, 1)
        assert (waiting.partial_result.text, waiting.progress.evaluations_done) == ("so far", 5)
        assert store.queue_depth("tiny") == 2
        self.begun(worker)
        assert names.resource(worker.key) == second
        worker.succeed()
        worker.release()
        self.begun(worker)
        assert names.resource(worker.key) == first
        assert (worker.attempt.number, worker.attempt.checkpoint) == (1, b"half")
        assert worker.attempt.ran_seconds == pytest.approx(7, abs=1)
        assert worker.attempt.waited_seconds < 5
        running = store.get(first, access=ALICE)
        assert (running.state, running.attempt, running.start_time) == (
            pb.EXPLANATION_STATE_RUNNING, 1, waiting.start_time,
        )  # fmt: skip
        worker.run(2)
        worker.give_way()
        worker.release()
        self.begun(worker)
        assert worker.attempt.ran_seconds == pytest.approx(9, abs=1)

    def test_a_new_attempt_has_all_its_time(self, store, worker):
        create(store, ALICE, 1)
        self.begun(worker)
        worker.run(7)
        worker.give_way()
        worker.release()
        self.begun(worker)
        worker.release(lost=True)
        self.begun(worker)
        assert (worker.attempt.number, worker.attempt.ran_seconds) == (2, 0)
        assert worker.attempt.checkpoint == b"checkpoint"

    def test_is_one_step_where_its_answer_is_lost(self, store, worker):
        create(store, ALICE, 1)
        self.begun(worker)
        worker.give_way()
        worker.give_way()
        worker.release()
        assert store.queue_depth("tiny") == 1

    def test_after_it_the_attempt_writes_nothing(self, store, client, attempts):
        [name] = create(store, ALICE, 1)
        first, second = Worker(client, attempts), Worker(client, attempts)
        self.begun(first)
        first.give_way()
        stale = (first.give_way, first.succeed, lambda: attempts.progress(first.attempt, pb.Progress()))
        for write in stale[1:]:
            with pytest.raises(AttemptEndedError):
                write()
        first.release()
        self.begun(second)
        assert second.attempt.number == first.attempt.number
        for write in stale:
            with pytest.raises(AttemptEndedError):
                write()
        second.succeed()
        assert store.get(name, access=ALICE).result == RESULT

    @pytest.mark.parametrize("end", ["cancel", "delete"])
    def test_what_was_ended_meanwhile_stays_so(self, store, worker, client, end):
        for when in ("before", "before its release", "while it waits"):
            [name] = create(store, ALICE, 1)
            self.begun(worker)
            if when != "before":
                worker.give_way()
            if when == "while it waits":
                worker.release()
            getattr(store, end)(name, access=ALICE)
            if when == "before":
                with pytest.raises(AttemptEndedError):
                    worker.give_way()
            worker.release(lost=True)
            assert not worker.take()
            assert store.queue_depth("tiny") == 0
            assert not client.keys("rq:job:*")


class TestDeath:
    """A worker dies after so many of its steps, and another goes on."""

    STEPS = ("nothing", "take", "register", "begin", "run", "give_way", "release")

    @pytest.mark.parametrize("last", STEPS)
    def test_nothing_is_lost_or_done_twice(self, store, client, attempts, impatient, last):
        [mine] = create(store, ALICE, 1)
        [other] = create(store, BOB, 1)
        dying = Worker(client, attempts)
        for step in self.STEPS[1 : self.STEPS.index(last) + 1]:
            getattr(dying, step)(*([1] if step == "run" else []))
        died_on = dying.key

        for _ in range(2):  # looks at what nobody has registered
            attempts.recover(QUEUE)
        living = Worker(client, attempts)
        order = list(served(living, {"alice": 1, "bob": 1}))
        assert sorted(order) == ["alice", "bob"]
        for name, access in ((mine, ALICE), (other, BOB)):
            ended = store.get(name, access=access)
            key = names.key(name.removeprefix("explanations/"), access.owner)
            lost = key == died_on and last in {"register", "begin", "run"}
            assert (ended.state, ended.result) == (pb.EXPLANATION_STATE_SUCCEEDED, RESULT)
            assert int(client.hget(names.record(key), "lost")) == lost
            assert ended.attempt == (2 if lost and last != "register" else 1)
        assert not client.keys("rq:job:*")
        assert not client.keys("gloss:waiting:*")

    @pytest.mark.parametrize("seed", range(3))
    def test_workers_that_die_at_random_steps(self, store, client, impatient, seed):
        rng = random.Random(seed)
        attempts = AttemptStore(client, retention_seconds=60, max_attempts=1000)
        created: dict[str, Access] = {}
        succeeded: Counter[str] = Counter()
        gone: set[str] = set()
        working = [self._steps(Worker(client, attempts), rng, succeeded) for _ in range(3)]

        for step in range(600):
            draw = rng.random()
            if draw < 0.15 and step < 450:
                access = rng.choice((ALICE, BOB, CAROL))
                created[store.create(lime(seed=step), MODEL, access=access).name] = access
            elif draw < 0.18 and created:
                name = rng.choice(list(created))
                try:
                    getattr(store, rng.choice(("cancel", "delete")))(name, access=created[name])
                    gone.add(name)
                except (WrongStateError, ExplanationNotFoundError):
                    pass
            elif draw < 0.24:
                working[rng.randrange(3)] = self._steps(Worker(client, attempts), rng, succeeded)
            elif draw < 0.32:
                # Only what is not worked on is recovered: heartbeats of the living have not run out.
                self._recover(client, attempts, working)
            else:
                next(working[rng.randrange(3)])
            self._check(client, store)

        working = []
        for _ in range(3):
            self._recover(client, attempts, working)
        finishing = Worker(client, attempts)
        while finishing.take():
            finishing.register()
            finishing.begin()
            if finishing.attempt is not None:
                finishing.succeed()
                succeeded[finishing.key] += 1
            finishing.release()
        assert len(created) > 30
        for name, access in created.items():
            key = names.key(name.removeprefix("explanations/"), access.owner)
            if name not in gone:
                assert store.get(name, access=access).state == pb.EXPLANATION_STATE_SUCCEEDED
                assert succeeded[key] == 1
            assert succeeded[key] <= 1
        assert store.queue_depth("tiny") == 0
        assert not client.keys("rq:job:*")

    @staticmethod
    def _steps(worker: Worker, rng: random.Random, succeeded: Counter[str]) -> Iterator[str]:
        """A worker's life; between two of its steps it may die. Yields the job that is in its hands."""
        while True:
            worker.key = ""
            yield ""
            if not worker.take():
                continue
            yield worker.key
            worker.register()
            yield worker.key
            worker.begin()
            while worker.attempt is not None:
                yield worker.key
                act = rng.choice(("run", "run", "give_way", "succeed"))
                try:
                    getattr(worker, act)(*([rng.random()] if act == "run" else []))
                except AttemptEndedError:
                    break
                if act == "succeed":
                    succeeded[worker.key] += 1
                if act != "run":
                    yield worker.key
                    break
            worker.release(lost=rng.random() < 0.5)

    @staticmethod
    def _recover(client: Redis, attempts: AttemptStore, working: list[Iterator[str]]) -> None:
        queue = open_queue(QUEUE, client)
        held = {life.gi_frame.f_locals["worker"].key for life in working}
        registry = queue.started_job_registry.key
        for composite in client.zrange(registry, 0, -1):
            alive = composite.decode().partition(":")[0] in held
            client.zadd(registry, {composite: 2**40 if alive else 1})
        stranded = {key.decode() for key in client.lrange(queue.intermediate_queue_key, 0, -1)}
        if not stranded & held:
            attempts.recover(QUEUE)

    @staticmethod
    def _check(client: Redis, store: ExplanationStore) -> None:
        """Every explanation that has not ended is in one place, and the next one is where workers look for it."""
        queue = open_queue(QUEUE, client)
        ready = [key.decode() for key in client.lrange(queue.key, 0, -1)]
        waiting = [key.decode() for each in client.keys("gloss:waiting:*") for key in client.lrange(each, 0, -1)]
        taken = [key.decode() for key in client.lrange(queue.intermediate_queue_key, 0, -1)]
        started = [each.decode().partition(":")[0] for each in client.zrange(queue.started_job_registry.key, 0, -1)]
        found = Counter([*ready, *waiting, *taken, *started])
        assert set(found.values()) <= {1}
        for explanation in store.list(1000, access=ADMIN)[0]:
            if explanation.state not in FINAL:
                [key] = [key for key in found if names.resource(key) == explanation.name]
                del found[key]
        assert store.queue_depth("tiny") == len(ready) + len(waiting)
