"""Work on messages: at once, in a thread, in another process; whoever leaves stops it, and callers take turns."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from gloss import v1 as pb
from ml.errors import PromptTooLongError
from ml.models.protocol import ModelInfo
from ml.tokens import Tokenizer
from server import helpers
from server.errors import OverloadedError
from server.helpers import HelperLostError, Helpers
from server.services import conversions
from tests.fixtures.tokenizers import tokenizer
from tests.unit.server.work import die, fail, forever, parent_of, process_of, unsendable

SMALL, MIDDLING, LARGE = 100, 20_000, 1_000_000
SIZES = (SMALL, MIDDLING, LARGE)


@dataclass(frozen=True)
class Model:
    info: ModelInfo
    tokenizer: Tokenizer


MODEL: Any = Model(ModelInfo("tiny", "0", "fake", 1, 1, 0, 1, 400, 512, "cpu", "float32"), tokenizer("gpt2"))


LOOP = asyncio.Runner()


@pytest.fixture(scope="module")
def found() -> Iterator[Helpers]:
    """One for all tests: its warm process starts once."""

    async def make() -> Helpers:
        return Helpers([MODEL])

    with LOOP:
        made = LOOP.run(make())
        yield made
        LOOP.run(made.close())


def on_the_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test on the loop that the helpers are on."""

    @functools.wraps(test)
    def run(**named: Any) -> None:
        LOOP.run(test(**named))

    return run


@pytest.mark.parametrize("size", SIZES)
@on_the_loop
async def test_the_answer_is_the_same_wherever_it_is_made(found: Helpers, size: int):
    request = pb.TokenizeRequest(prompt=pb.Prompt(text="The capital of France is"))
    long = pb.Prompt(text="The capital " * 10_000)
    assert await found.run(size, conversions.tokenized, MODEL, request) == conversions.tokenized(MODEL, request)
    with pytest.raises(PromptTooLongError) as caught:
        await found.run(size, conversions.encoding, MODEL, long)
    assert (caught.value.field, caught.value.limit) == ("prompt.text", 512)
    with pytest.raises(ValueError, match="no"):
        await found.run(size, fail, MODEL)


@on_the_loop
async def test_large_work_has_a_process_of_its_own(found: Helpers):
    assert [await found.run(size, process_of, MODEL) for size in (SMALL, MIDDLING)] == [os.getpid()] * 2
    first, second = [await found.run(LARGE, process_of, MODEL) for _ in range(2)]
    assert len({first, second, os.getpid()}) == 3


@on_the_loop
async def test_what_cannot_be_sent_is_told(found: Helpers):
    with pytest.raises(RuntimeError, match="cannot be sent"):
        await found.run(LARGE, unsendable, MODEL)


async def begun(file: Any) -> int:
    """The process that has begun to work, as `file` names it."""
    async with asyncio.timeout(20):
        while not (named := file.with_name(f"{file.name}.begun")).exists():  # noqa: ASYNC110 -- a process writes it
            await asyncio.sleep(0.01)
    return int(named.read_text())


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@on_the_loop
async def test_who_leaves_ends_the_work_at_once(found: Helpers, tmp_path):
    work = asyncio.create_task(found.run(LARGE, forever, MODEL, str(tmp_path / "one")))
    process = await begun(tmp_path / "one")
    left = time.monotonic()
    work.cancel()
    await asyncio.wait([work])
    while alive(process):
        await asyncio.sleep(0.001)
        assert time.monotonic() < left + 2  # a tenth of it where nobody else computes
    assert await found.run(LARGE, process_of, MODEL)


@on_the_loop
async def test_a_process_that_dies_fails_its_work_alone(found: Helpers, tmp_path):
    other = asyncio.create_task(found.run(LARGE, forever, MODEL, str(tmp_path / "other")))
    await begun(tmp_path / "other")
    with pytest.raises(HelperLostError, match="die"):
        await found.run(LARGE, die, MODEL)
    assert not other.done()
    other.cancel()
    await asyncio.wait([other])


@on_the_loop
async def test_the_warm_process_is_replaced(found: Helpers):
    first = await found.run(LARGE, parent_of, MODEL)
    os.kill(first, signal.SIGKILL)
    process = (await found._warm()).process
    await asyncio.to_thread(process.wait)
    assert await found.run(LARGE, parent_of, MODEL) != first


@on_the_loop
async def test_few_run_at_a_time_and_callers_take_turns(found: Helpers, tmp_path):
    running = [asyncio.create_task(found.run(LARGE, forever, MODEL, str(tmp_path / f"{i}"))) for i in range(2)]
    for i in range(2):
        await begun(tmp_path / f"{i}")
    order: list[str] = []

    async def ask(caller: str) -> None:
        await found.run(LARGE, process_of, MODEL, caller=caller)
        order.append(caller)

    waiting = [asyncio.create_task(ask(caller)) for caller in ("greedy", "greedy", "greedy", "modest", "modest")]
    await asyncio.sleep(0)
    waiting.pop().cancel()
    running[0].cancel()  # one at a time from here on
    await asyncio.gather(*waiting)
    assert order == ["greedy", "modest", "greedy", "greedy"]
    running[1].cancel()
    await asyncio.wait(running)
    assert found._running == 0
    assert not found._waiting_bytes


@on_the_loop
async def test_what_waits_is_bounded_in_bytes(found: Helpers, tmp_path, monkeypatch):
    monkeypatch.setattr(helpers, "_WAITING_BYTES", 2 * LARGE)
    running = [asyncio.create_task(found.run(LARGE, forever, MODEL, str(tmp_path / f"{i}"))) for i in range(4)]
    for i in range(2):
        await begun(tmp_path / f"{i}")
    with pytest.raises(OverloadedError):
        await found.run(LARGE, process_of, MODEL)
    assert await found.run(SMALL, process_of, MODEL)
    for each in running:
        each.cancel()
    await asyncio.wait(running)


@on_the_loop
async def test_whoever_fills_what_waits_keeps_nobody_else_out(found: Helpers, tmp_path, monkeypatch):
    monkeypatch.setattr(helpers, "_WAITING_BYTES", 4 * LARGE)

    def ask(name: str, caller: str) -> asyncio.Task[None]:
        return asyncio.create_task(found.run(LARGE, forever, MODEL, str(tmp_path / name), caller=caller))

    calls = [ask(f"{number}", "greedy") for number in range(6)]
    for number in range(2):
        await begun(tmp_path / f"{number}")
    calls += [ask(f"modest {number}", "modest") for number in range(2)]
    await asyncio.sleep(0)
    for caller in ("greedy", "modest"):
        with pytest.raises(OverloadedError):
            await found.run(LARGE, process_of, MODEL, caller=caller)
    assert not any(call.done() for call in calls)
    for call in calls[:2]:  # one for each caller
        call.cancel()
    await begun(tmp_path / "modest 0")
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    assert not found._waiting_bytes


def test_a_helper_process_does_without_torch():
    program = (
        "import sys, server.helper_process as one\n"
        "[__import__(name) for name in one.MODULES]\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
