"""Redis dies, hangs and refuses under load: inference does not notice, and no explanation is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc
import pytest
import redis

from gloss import v1 as pb
from jobs import names
from tests.faults import outages, traffic
from tests.faults.outages import Outage, small_disk
from tests.faults.report import Measure, Row, keep, percentile
from tests.faults.stack import Stack, wait_for
from tests.integration.explanations import FINAL

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

OUTAGES: dict[str, tuple[Outage, float]] = {
    "Redis: kill -9, and started again at once": (outages.killed, 0),
    "Redis: away for 30 s": (outages.killed, 30),
    "Redis: SIGSTOP for 20 s": (outages.stopped, 20),
    "Redis: maxmemory reached for 10 s": (outages.out_of_memory, 10),
    "Redis: disk full for 10 s": (outages.disk_full, 10),
    "Redis: wrong password for 10 s": (outages.wrong_password, 10),
    "Redis: LOADING for 10 s and more": (outages.loading, 0),
}
BEFORE_SECONDS = AFTER_SECONDS = 2.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("outages")
    with small_disk(folder / "disk"), Stack(folder, redis_folder=folder / "disk") as stack:
        stack.start_worker()
        stack.start_server()
        yield stack


@pytest.fixture(scope="module")
def admin(stack: Stack) -> Iterator[redis.Redis]:
    with redis.Redis(unix_socket_path=str(stack.redis.socket)) as admin:
        yield admin


@pytest.mark.parametrize("scenario", OUTAGES)
def test_an_outage_under_load(stack: Stack, admin: redis.Redis, scenario: str) -> None:
    outage, seconds = OUTAGES[scenario]
    with traffic.next_tokens(stack) as inference, traffic.explanations(stack) as creation:
        time.sleep(BEFORE_SECONDS)
        with outage(stack.redis, admin):
            broken = time.monotonic()
            time.sleep(seconds)
            mended = time.monotonic()
        back = time.monotonic()
        since = back if seconds == 0 else mended
        first = wait_for(lambda: next((s for s in creation.since(since) if s.ok), None), timeout=60)
        time.sleep(AFTER_SECONDS)
    during = [s for s in creation.samples if broken <= s.began < since]
    asked = [s.seconds for s in inference.samples if broken <= s.began < since]
    refused = [s for s in creation.samples if not s.ok]
    slow = [s for s in inference.samples if not s.ok]
    foreign = [s for s in refused if s.code is not grpc.StatusCode.UNAVAILABLE]
    made = [s.reply.name for s in creation.samples if s.ok]
    lost = wait_until_ended(stack, made)
    keep(
        Row(
            scenario,
            f"{len(inference.samples)} NextToken, {len(creation.samples)} Create ({len(during)} of them meanwhile), "
            f"{len(made)} acknowledged",
            len({*lost}) + len(foreign) + len(slow),
            [
                Measure("Create says UNAVAILABLE, slowest", max((s.seconds for s in refused), default=0.0), "s", 2.0),
                Measure("Create works again after", first.began + first.seconds - since, "s", 2.0),
                Measure("NextToken meanwhile, p99", 1e3 * percentile(asked, 99), "ms"),
            ],
        )
    )
    assert not slow, slow
    assert not foreign, foreign
    assert not lost
    assert all(process.exit_code() is None for process in (stack.server, *stack.workers))
    for process in (stack.server, *stack.workers):
        assert "Traceback" not in process.output()


def wait_until_ended(stack: Stack, made: list[str]) -> list[str]:
    """What of the acknowledged explanations did not end well, or not within two minutes."""
    deadline = time.monotonic() + 120

    def state(name: str) -> pb.ExplanationState:
        request = pb.GetExplanationRequest(name=name, view=pb.EXPLANATION_VIEW_BASIC)
        return stack.explanations.GetExplanation(request, timeout=20).state

    lost = []
    for name in made:
        while (found := state(name)) not in FINAL and time.monotonic() < deadline:
            time.sleep(0.05)
        if found != pb.EXPLANATION_STATE_SUCCEEDED:
            lost.append(name)
    return lost


def test_nothing_is_left_of_it(stack: Stack, admin: redis.Redis) -> None:
    """No job is left in the queue or in a worker's hands after all that."""
    wait_for(lambda: not admin.keys("rq:job:*"))
    assert admin.llen(f"rq:queue:{names.queue('transformer')}") == 0
