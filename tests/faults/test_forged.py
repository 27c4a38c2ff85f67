"""A Redis in which somebody has written: nothing of it is run, the queue goes on, and others do not notice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from gloss import v1 as pb
from jobs import names
from tests.faults.forgeries import COMMANDS, forgeries
from tests.faults.report import Measure, Row, keep
from tests.faults.stack import Stack, child_of, wait_for
from tests.faults.traffic import timed
from tests.integration.explanations import FINAL, lime

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

HONEST = 20
ALLOWED = (
    grpc.StatusCode.OK,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.FAILED_PRECONDITION,
)
HUGE = " MiB"
OF_HUGE = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE)
"""What is too large for a reply, or takes Redis too long."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("forged"), model=str(tiny_llama)) as stack:
        stack.start_worker()
        stack.start_server()
        yield stack


def create(stack: Stack, spec: pb.ExplanationSpec) -> str:
    return stack.explanations.CreateExplanation(pb.CreateExplanationRequest(spec=spec, fresh=True), timeout=20).name


def listed(stack: Stack) -> list[str]:
    found, token = [], ""
    while True:
        request = pb.ListExplanationsRequest(page_size=100, page_token=token)
        page = stack.explanations.ListExplanations(request, timeout=20)
        found += [each.name for each in page.explanations]
        if not (token := page.next_page_token):
            return found


def test_forged_content(stack: Stack, tmp_path: Path) -> None:
    client = stack.client()
    [worker] = stack.workers
    canary, queue = tmp_path / "canary", names.queue("tiny-llama")
    kinds = forgeries(canary, queue)
    busy = create(stack, lime(1_000_000))
    victims = {kind: create(stack, lime(20, seed=number)) for number, kind in enumerate(kinds)}
    honest = [create(stack, lime(20, seed=-1 - number & 0xFFFF)) for number in range(HONEST)]
    child = child_of(worker)
    for kind, name in victims.items():
        kinds[kind](client, name.removeprefix("explanations/"))
    for channel in client.pubsub_channels("rq:pubsub:*"):
        for command in COMMANDS:
            client.publish(channel, command)
    unlisted = set(honest) - set(listed(stack))
    stack.explanations.CancelExplanation(pb.CancelExplanationRequest(name=busy), timeout=20)

    def state(name: str) -> pb.ExplanationState:
        return stack.explanations.GetExplanation(pb.GetExplanationRequest(name=name), timeout=20).state

    wait_for(lambda: all(state(name) in FINAL for name in honest), timeout=120)
    unwell = [name for name in honest if state(name) != pb.EXPLANATION_STATE_SUCCEEDED]
    unlisted |= set(honest) - set(listed(stack))
    codes: Counter[grpc.StatusCode] = Counter()
    wrong = []
    service = stack.explanations
    for kind, name in victims.items():
        for ask in (
            lambda name=name: service.GetExplanation(pb.GetExplanationRequest(name=name), timeout=20),
            lambda name=name: next(service.WatchExplanation(pb.WatchExplanationRequest(name=name), timeout=20)),
            lambda name=name: service.CancelExplanation(pb.CancelExplanationRequest(name=name), timeout=20),
            lambda name=name: service.DeleteExplanation(pb.DeleteExplanationRequest(name=name), timeout=20),
        ):
            sample = timed(ask)
            codes[sample.code] += 1
            if sample.code not in ALLOWED and not (HUGE in kind and sample.code in OF_HUGE):
                wrong.append(f"{kind}: {sample.code}")
    executed = canary.exists()
    died = child_of(worker) != child or worker.exit_code() is not None or stack.server.exit_code() is not None
    keep(
        Row(
            "forged content of Redis: what would run code, confuses, is corrupt, or huge",
            f"{len(kinds)} kinds, {len(COMMANDS)} commands, {HONEST} explanations of others; "
            f"{sum(codes.values())} calls for what was forged: "
            + ", ".join(f"{code.name} {number}" for code, number in codes.most_common()),
            len(unwell) + len(unlisted) + len(wrong) + executed + died,
            [Measure("run of what was forged", int(executed), "", 0)],
        )
    )
    assert not executed
    assert not unwell
    assert not unlisted
    assert not wrong, wrong
    assert not died
    after = create(stack, lime(20, seed=99_999))
    wait_for(lambda: state(after) == pb.EXPLANATION_STATE_SUCCEEDED, timeout=60)
    for process in (worker, stack.server):
        assert "Traceback" not in process.output()
