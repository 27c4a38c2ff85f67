"""Explanations whose workers are killed over and over: each ends once, with the result that it would have had."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import count

import pytest
import redis

from deploy.process import Child
from gloss import v1 as pb
from jobs import names
from tests.faults import SCALE
from tests.faults.report import Measure, Row, keep, percentile
from tests.faults.stack import START_SECONDS, Stack, child_of, kill, wait_for
from tests.faults.traffic import QUESTION
from tests.integration.explanations import FINAL, lime

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600 * SCALE)]

JOBS = round(300 * SCALE)
"""Of each scenario, so many that a fast machine is hit several times too."""
SPECS = 10
"""Different ones. Their results are compared with those of an undisturbed run."""
SHORT, LONG = 40, 200
"""Evaluations. One spec in ten is long: it outlives a kill or more."""
CHILD_SECONDS, WORKER_SECONDS = 1.5, 5.0
"""Between two kills of the child; and in which a worker may serve."""
EITHER_SECONDS = 2.0
ATTEMPTS = "50"
"""GLOSS_MAX_ATTEMPTS: an explanation is not to fail because it was hit thrice, which at this rate some are."""
END_SECONDS = 480.0 * SCALE


class Resumptions:
    """Looks at what runs when its process is killed, and how long it takes until a later attempt has begun."""

    def __init__(self, client: redis.Redis) -> None:
        self.seconds: list[float] = []
        self.kills = 0
        self._client = client
        self._hit: dict[str, tuple[float, int]] = {}

    def kill(self, pid: int | None) -> None:
        """Kill a process, and note what ran."""
        running = {key: self._attempt(key) for key in self._running()}
        if not kill(pid):
            return
        now = time.monotonic()
        self.kills += 1
        for key in self._hit.keys() | running.keys():
            # What has not been resumed when the next process dies counts from there.
            self._hit[key] = (now, running.get(key) or self._hit[key][1])

    def look(self) -> None:
        """See what has been resumed."""
        for key, (since, attempt) in list(self._hit.items()):
            state, number = self._client.hmget(names.record(key), "state", "attempt")
            if state == b"RUNNING" and int(number) > attempt:
                self.seconds.append(time.monotonic() - since)
                del self._hit[key]
            elif state not in {b"RUNNING", b"QUEUED"}:
                del self._hit[key]  # its worker died after the end

    def _running(self) -> list[str]:
        return [key.decode() for key in self._client.zrange(names.index("RUNNING"), 0, -1)]

    def _attempt(self, key: str) -> int:
        return int(self._client.hget(names.record(key), "attempt") or 0)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("kills")) as stack:
        stack.start_server()
        start(stack)
        yield stack


@pytest.fixture(scope="module")
def undisturbed(stack: Stack) -> list[list[float]]:
    made = [create(stack, seed) for seed in range(SPECS)]
    client = stack.client()
    wait_for(lambda: all(ended(client, name) for name in made), timeout=120)
    return [values(get(stack, name)) for name in made]


def start(stack: Stack, *, wait: bool = True) -> Child:
    return stack.start_worker(wait=wait, GLOSS_MAX_ATTEMPTS=ATTEMPTS, GLOSS_WORKER_NICE="0")


def serves(worker: Child) -> bool:
    """Whether a worker has come so far that it takes jobs."""
    return "ready " in worker.output()


def create(stack: Stack, seed: int) -> str:
    """A new explanation that shares nothing with earlier ones; acknowledged, so it must end."""
    request = pb.CreateExplanationRequest(spec=lime(SHORT if seed else LONG, seed=seed, text=QUESTION), fresh=True)
    return stack.explanations.CreateExplanation(request, timeout=20).name


def get(stack: Stack, name: str) -> pb.Explanation:
    return stack.explanations.GetExplanation(pb.GetExplanationRequest(name=name), timeout=20)


def ended(client: redis.Redis, name: str) -> bool:
    state = client.hget(names.record(name.removeprefix("explanations/")), "state")
    return state in {pb.ExplanationState.Name(each).removeprefix("EXPLANATION_STATE_").encode() for each in FINAL}


def values(explanation: pb.Explanation) -> list[float]:
    return [value for a in explanation.result.attributions for value in (a.attribution, a.standard_error)]


def survive(
    stack: Stack,
    undisturbed: list[list[float]],
    scenario: str,
    strike: Callable[[Resumptions], float],
    *,
    jobs: int,
    limit: float,
) -> None:
    """Let `jobs` explanations run under `strike`, and judge what came of them.

    Args:
        strike: kills; called again after the seconds that it returns.
        limit: the seconds within which explanations are meant to be resumed.
    """
    client = stack.client()
    resumptions = Resumptions(client)
    began = time.monotonic()
    made = [create(stack, number % SPECS) for number in range(jobs)]
    due = began + strike(resumptions)
    waiting = list(made)
    while waiting:
        resumptions.look()
        waiting = [name for name in waiting if not ended(client, name)]
        if (now := time.monotonic()) >= due:
            due = now + strike(resumptions)
        assert now < began + END_SECONDS, f"{len(waiting)} have not ended"
        time.sleep(0.005)
    seconds = time.monotonic() - began
    found = [get(stack, name) for name in made]
    wrong = [
        name
        for number, (name, explanation) in enumerate(zip(made, found, strict=True))
        if explanation.state != pb.EXPLANATION_STATE_SUCCEEDED
        or values(explanation) != pytest.approx(undisturbed[number % SPECS], abs=1e-5)
    ]
    twice = [name for name in made if ends(client, name) != 1]
    keep(
        Row(
            scenario,
            f"{jobs} explanations of {SHORT} or {LONG} evaluations, {resumptions.kills} kills, "
            f"{len(resumptions.seconds)} of a running one",
            len({*wrong, *twice}),
            [
                Measure("resumed, p50", percentile(resumptions.seconds, 50), "s"),
                Measure("resumed, p95", percentile(resumptions.seconds, 95), "s", limit),
                Measure("all together", seconds, "s"),
            ],
        )
    )
    assert not wrong
    assert not twice
    assert resumptions.kills >= 3
    wait_for(lambda: not client.keys("rq:job:*"))
    assert client.llen(f"rq:queue:{names.queue('transformer')}") == 0


def ends(client: redis.Redis, name: str) -> int:
    """How often an explanation ended."""
    events = client.xrange(names.events(name.removeprefix("explanations/")))
    return sum(fields.get(b"state") in {b"SUCCEEDED", b"FAILED", b"CANCELLED"} for _, fields in events)


def test_the_child_is_killed(stack: Stack, undisturbed: list[list[float]]) -> None:
    [worker] = stack.workers

    def strike(resumptions: Resumptions) -> float:
        resumptions.kill(child_of(worker))
        return CHILD_SECONDS

    survive(stack, undisturbed, f"the child is killed every {CHILD_SECONDS:g} s", strike, jobs=JOBS, limit=2.0)
    assert worker.exit_code() is None, "a worker outlives its children"
    assert "Traceback" not in worker.output()


def test_the_worker_is_killed(stack: Stack, undisturbed: list[list[float]]) -> None:
    """Once it has served for a while; another is started in its place, as an orchestrator does."""
    served = {stack.workers[0].pid}

    def strike(resumptions: Resumptions) -> float:
        [worker] = stack.workers
        if not serves(worker):
            return 0.05
        if worker.pid not in served:
            served.add(worker.pid)
            return WORKER_SECONDS
        resumptions.kill(stack.workers.pop().pid)
        start(stack, wait=False)
        return 0.05

    survive(
        stack,
        undisturbed,
        f"the worker is killed {WORKER_SECONDS:g} s after it came",
        strike,
        jobs=JOBS,
        limit=10.0,
    )


def test_two_workers_are_killed_by_turns(stack: Stack, undisturbed: list[list[float]]) -> None:
    start(stack)
    stack.workers[0].wait_ready(START_SECONDS)
    numbers = count()

    def strike(resumptions: Resumptions) -> float:
        number = next(numbers)
        if number % 5 or not all(map(serves, stack.workers)):
            resumptions.kill(child_of(stack.workers[number % 2]))
        else:
            resumptions.kill(stack.workers.pop(0).pid)
            start(stack, wait=False)
        return EITHER_SECONDS

    scenario = (
        f"two workers, a child of theirs is killed every {EITHER_SECONDS:g} s, each fifth time a worker if both serve"
    )
    survive(stack, undisturbed, scenario, strike, jobs=JOBS, limit=10.0)
