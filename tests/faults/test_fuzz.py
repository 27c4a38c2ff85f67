"""Thousands of calls that nobody would make, and of explanations that nobody thought of."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from gloss import v1 as pb
from tests.faults import SCALE
from tests.faults.fuzz import Fuzzer, not_numbers
from tests.faults.report import Measure, Row, keep
from tests.faults.stack import Stack, child_of, resident_bytes
from tests.integration import contract
from tests.integration.explanations import FINAL

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400 * SCALE)]

CALLS, WARM_CALLS, SPECS = 20_000, 2_000, 1_500
AT_ONCE = 16
ANSWER_SECONDS = 30.0
SPECS_SECONDS = 120.0 * SCALE
"""In which so many of the specs are tried as it takes."""
EVALUATIONS = 24
READ = 3
"""Messages that are read of a stream."""
MALFORMED = 0.15
"""Share of the calls whose bytes are no message, or hardly one."""
FORBIDDEN = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED)

OTHERS = [
    method
    for file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
    for method in service.methods
]
METHODS = [*contract.methods(), *OTHERS]


@pytest.fixture(scope="module")
def models(tiny_llama_chat: Path, tiny_gpt2: Path, tiny_lstm: Path) -> list[Path]:
    return [tiny_llama_chat, tiny_gpt2, tiny_lstm]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, models: list[Path]) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("fuzz"), model=",".join(map(str, models))) as stack:
        for model in models:
            stack.start_worker(wait=False, GLOSS_MODEL=str(model))
        stack.start_server()
        for worker in stack.workers:
            worker.wait_ready(120)
        yield stack


class Caller:
    """Makes fuzzed calls, and counts how they end."""

    def __init__(self, stack: Stack, fuzzer: Fuzzer) -> None:
        self.codes: Counter[grpc.StatusCode] = Counter()
        self.wrong: list[str] = []
        self._address, self._fuzzer = stack.address, fuzzer

    async def make(self, count: int) -> None:
        """Make so many calls, some at once."""
        async with grpc.aio.insecure_channel(self._address) as channel:
            left = iter(range(count))

            async def work() -> None:
                for _ in left:
                    await self._one(channel)

            await asyncio.gather(*(work() for _ in range(AT_ONCE)))

    async def _one(self, channel: grpc.aio.Channel) -> None:
        draw = self._fuzzer.random
        method = draw.choice(METHODS)
        path = f"/{method.containing_service.full_name}/{method.name}"
        takes_many, gives_many = method.client_streaming, method.server_streaming
        if draw.random() < 0.01:
            path = draw.choice((f"{path}s", "/gloss.v1.Nothing/At", "/x", path.lower(), "/" + "y" * 500))
            takes_many = False  # gRPC's client says INTERNAL where it is refused before it has sent all
        data = self._fuzzer.broken(method) if draw.random() < MALFORMED else self._fuzzer.request(method)
        code = await ended(channel, path, data, takes_many=takes_many, gives_many=gives_many)
        self.codes[code] += 1
        if code in FORBIDDEN:
            self.wrong.append(f"{code.name} {path} {data[:400]!r}")


async def ended(
    channel: grpc.aio.Channel, path: str, data: bytes, *, takes_many: bool, gives_many: bool
) -> grpc.StatusCode:
    """The code with which a call ends, OK for a stream whose first messages came."""
    try:
        if takes_many:
            call = channel.stream_stream(path)(iter([data]), timeout=ANSWER_SECONDS)
        elif gives_many:
            call = channel.unary_stream(path)(data, timeout=ANSWER_SECONDS)
        else:
            await channel.unary_unary(path)(data, timeout=ANSWER_SECONDS)
            return grpc.StatusCode.OK
        read = 0
        async for _ in call:
            if (read := read + 1) == READ or path.endswith("Watch"):
                call.cancel()
                return grpc.StatusCode.OK
    except grpc.aio.AioRpcError as error:
        return error.code()
    except asyncio.CancelledError:
        return grpc.StatusCode.CANCELLED
    return grpc.StatusCode.OK


def create_some(stack: Stack, fuzzer: Fuzzer) -> None:
    """Explanations for calls to refer to."""
    spec = pb.ExplanationSpec(prompt=pb.Prompt(text="The cat sat on the mat."), occlusion=pb.Occlusion())
    for number in range(20):
        spec.budget.seed = number
        made = stack.explanations.CreateExplanation(pb.CreateExplanationRequest(spec=spec), timeout=20)
        fuzzer.known.append(made.name)


def test_fuzzed_calls(stack: Stack, models: list[Path]) -> None:
    fuzzer = Fuzzer(0, [model.name for model in models], wild=0.12)
    create_some(stack, fuzzer)
    caller = Caller(stack, fuzzer)
    children = [child_of(worker) for worker in stack.workers]
    asyncio.run(caller.make(WARM_CALLS))
    before = resident_bytes(stack.server.pid)
    began = time.monotonic()
    asyncio.run(caller.make(CALLS - WARM_CALLS))
    seconds = time.monotonic() - began
    after = resident_bytes(stack.server.pid)
    codes = ", ".join(f"{code.name} {number:,}" for code, number in caller.codes.most_common())
    died = sum(process.exit_code() is not None for process in (stack.server, *stack.workers))
    died += [child_of(worker) for worker in stack.workers] != children
    keep(
        Row(
            f"{CALLS:,} fuzzed calls over all {len(METHODS)} methods, {MALFORMED:.0%} of them malformed bytes",
            codes,
            len(caller.wrong) + died,
            [
                Measure("memory, times that after the first tenth", after / before, "", 1.1),
                Measure("calls a second", CALLS / seconds),
            ],
        )
    )
    assert not caller.wrong, "\n".join(caller.wrong[:10])
    assert not died
    assert after < 1.5 * before
    for process in (stack.server, *stack.workers):
        assert "Traceback" not in process.output()
        assert "ended by itself" not in process.output()


def test_accepted_specs(stack: Stack, models: list[Path]) -> None:
    """Whatever is accepted is computed: no explanation fails for a reason of ours, or finds what is no number."""
    fuzzer = Fuzzer(1, [model.name for model in models], wild=0.01, filled=0.3)
    method = next(method for method in contract.methods() if method.name == "CreateExplanation")
    children = [child_of(worker) for worker in stack.workers]
    accepted: list[str] = []
    tried = 0
    wrong: list[str] = []
    reasons: Counter[str] = Counter()
    waiting: list[str] = []
    began = time.monotonic()

    def collect(count: int) -> None:
        """Wait until no more than so many have not ended."""
        while len(waiting) > count:
            found = get(stack, waiting[0])
            if found.state not in FINAL:
                assert time.monotonic() < began + 2 * SPECS_SECONDS, f"not ended: {found}"
                time.sleep(0.01)
                continue
            waiting.pop(0)
            if bad := not_numbers(found):
                wrong.append(f"{bad}: {found.spec or found.study}")
            if found.state != pb.EXPLANATION_STATE_SUCCEEDED:
                reasons[pb.ErrorReason.Name(found.error.reason)] += 1
                if found.error.reason in {pb.ERROR_REASON_INTERNAL, pb.ERROR_REASON_WORKER_LOST}:
                    wrong.append(f"{found.error}: {found.spec or found.study}")

    while len(accepted) < SPECS and time.monotonic() < began + SPECS_SECONDS:
        tried += 1
        request = pb.CreateExplanationRequest.FromString(fuzzer.request(method))
        request.validate_only, request.fresh, request.request_id = False, True, ""
        if request.HasField("spec"):
            cheapen(request.spec)
        elif fuzzer.random.random() < 0.8:
            continue  # a study takes many prompts, and most of what is drawn is too few
        try:
            made = stack.explanations.CreateExplanation(request, timeout=20)
        except grpc.RpcError as error:
            if error.code() in FORBIDDEN:
                wrong.append(f"{error.code()}: {request}")
            continue
        accepted.append(made.name)
        waiting.append(made.name)
        collect(50)
    collect(0)
    died = [child_of(worker) for worker in stack.workers] != children
    keep(
        Row(
            "accepted specs of all methods, computed by three tiny models",
            f"{len(accepted):,} accepted of {tried:,} drawn, in {SPECS_SECONDS:g} s at most; "
            + (", ".join(f"{number} failed with {reason}" for reason, number in reasons.items()) or "all succeeded"),
            len(wrong) + died,
        )
    )
    assert not wrong, "\n".join(wrong[:5])
    assert not died
    assert len(accepted) >= 100
    assert not stack.client().keys("rq:job:*")
    for worker in stack.workers:
        assert "Traceback" not in worker.output()


def cheapen(spec: pb.ExplanationSpec) -> None:
    """Leave what costs much out where the spec leaves it to us, so that many are tried."""
    if not spec.budget.HasField("max_evaluations"):
        spec.budget.max_evaluations = EVALUATIONS
    if not spec.quality.HasField("faithfulness"):
        spec.quality.faithfulness = False


def get(stack: Stack, name: str) -> pb.Explanation:
    return stack.explanations.GetExplanation(pb.GetExplanationRequest(name=name), timeout=20)
