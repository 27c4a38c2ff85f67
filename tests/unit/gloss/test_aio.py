"""The asyncio client against the same scripted server."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

import grpc
import pytest

from gloss import AsyncClient, ExplanationFailedError, GlossError, v1
from tests.unit.gloss import fake


def run(address: str, body: Callable[[AsyncClient], Awaitable[None]]) -> None:
    """Run `body` with a client in an event loop of its own."""

    async def main() -> None:
        async with AsyncClient(address, timeout=10) as client:
            await body(client)

    asyncio.run(main())


def test_calls_and_streams(address: str) -> None:
    async def body(client: AsyncClient) -> None:
        replies = await asyncio.gather(*(client.next_token(f"prompt {number}", top_k=2) for number in range(8)))
        assert all(len(reply.predictions[0].top) == 2 for reply in replies)
        assert [reply.text async for reply in client.generate("hello")] == [" Paris", "."]
        async for reply in client.generate("hello"):
            assert reply.text == " Paris"
            break

    run(address, body)


def test_errors_and_retries(address: str, script: fake.Script) -> None:
    script.failures["NextToken"] += [grpc.StatusCode.UNAVAILABLE, fake.bad_field("top_k", "too small")]

    async def body(client: AsyncClient) -> None:
        with pytest.raises(GlossError) as caught:
            await client.next_token("hello")
        assert (caught.value.reason, caught.value.field) == ("INVALID_FIELD", "top_k")

    run(address, body)
    assert script.attempts["NextToken"] == 2


def test_explain_watch_and_list(address: str, script: fake.Script) -> None:
    async def body(client: AsyncClient) -> None:
        seen: list[v1.Explanation] = []
        why = await client.explain(fake.TEXT, "lime", on_progress=seen.append)
        assert why.result.attributions
        assert len(seen) == 4
        assert why.spec == seen[0].spec
        assert (await client.estimate(fake.TEXT, "lime")).progress.evaluations_planned == 32

        queued = await client.explain(fake.TEXT, wait=False)
        script.watches += [[queued, grpc.StatusCode.UNAVAILABLE], [queued]]
        states = [explanation.state async for explanation in client.watch(queued.name)]
        assert states[-1] == v1.EXPLANATION_STATE_SUCCEEDED
        assert [one.name async for one in client.list(page_size=1)] == ["explanations/2", "explanations/1"]

        script.end = v1.EXPLANATION_STATE_FAILED
        with pytest.raises(ExplanationFailedError):
            await client.explain("another prompt")

    run(address, body)


def test_leaving_a_watch_early_ends_the_call(address: str) -> None:
    async def body(client: AsyncClient) -> None:
        queued = await client.explain(fake.TEXT, wait=False)
        async for explanation in client.watch(queued.name):
            assert explanation.state == v1.EXPLANATION_STATE_RUNNING
            break

    run(address, body)


def test_a_closed_client_says_so_and_a_cancelled_task_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Semaphore(0)

    def stuck(self, request, context):
        begun.release()
        while context.is_active():
            time.sleep(0.005)

    monkeypatch.setattr(fake.Inference, "Score", stuck)

    async def body(client: AsyncClient) -> None:
        calls = [asyncio.ensure_future(client.score("a", " b")) for _ in range(2)]
        for _ in calls:
            await asyncio.to_thread(begun.acquire)
        calls[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await calls[0]
        await client.close()
        with pytest.raises(GlossError, match="is closed"):
            await calls[1]
        with pytest.raises(GlossError, match="is closed"):
            await client.models()
        with pytest.raises(GlossError, match="is closed"):
            [reply async for reply in client.generate("hello")]

    with fake.serve() as (stuck_address, _):
        run(stuck_address, body)
