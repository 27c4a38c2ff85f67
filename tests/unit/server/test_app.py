"""How the server ends what it began."""

import asyncio

from server.app import _cancel


def test_a_task_that_swallows_a_cancellation_is_cancelled_again():
    async def stubborn(swallowed: list[int]) -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed.append(1)
                if len(swallowed) == 2:
                    raise

    async def run() -> None:
        swallowed: list[int] = []
        task = asyncio.ensure_future(stubborn(swallowed))
        await asyncio.sleep(0)
        await asyncio.wait_for(_cancel(task), 10)
        assert len(swallowed) == 2

    asyncio.run(run())
