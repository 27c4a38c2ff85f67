"""How many prompts are in flight."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from ml.models.served.window import Window, asked_by


class Clock:
    """Time that passes when asked to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Load:
    """A crowd behind a window, and an engine that answers so many prompts a second, by how many it has at once."""

    def __init__(self, window: Window, clock: Clock, throughput: list[tuple[int, float]]) -> None:
        self.window, self.clock, self.throughput = window, clock, throughput

    async def answer(self, rounds: int) -> None:
        size = 4
        for _ in range(rounds):
            waiting = asyncio.create_task(self._hold(10 * self.window.limit))
            held = asyncio.create_task(self._hold(1))
            await asyncio.sleep(0)
            limit = self.window.limit
            rate = next(rate for largest, rate in self.throughput if limit <= largest)
            for _ in range(max(1, limit // size)):
                self.clock.now += size / rate
                self.window.answered(size)
            for task in (waiting, held):
                task.cancel()
            await asyncio.gather(waiting, held, return_exceptions=True)

    async def _hold(self, prompts: int) -> None:
        async with self.window.held(prompts):
            await asyncio.Event().wait()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 10))


def test_prompts_in_flight_are_bounded_and_in_order() -> None:
    async def work() -> None:
        window = Window(4, Clock())
        order: list[int] = []
        largest = 0

        async def ask(number: int, prompts: int) -> None:
            nonlocal largest
            async with window.held(prompts):
                order.append(number)
                largest = max(largest, window.in_flight)
                await asyncio.sleep(0)

        await asyncio.gather(*(ask(number, 3 if number == 2 else 1) for number in range(8)))
        assert order == list(range(8))
        assert largest == 4
        assert window.in_flight == 0

    run(work())


def test_callers_take_turns_and_keep_the_order_of_their_own() -> None:
    async def work() -> None:
        window = Window(1, Clock())
        order: list[str] = []

        async def ask(name: str) -> None:
            with asked_by(name[0]):
                async with window.held(1):
                    order.append(name)

        async with window.held(1):
            waiting = [asyncio.create_task(ask(name)) for name in ("a1", "a2", "a3", "a4", "b1", "b2", "c1", "d1")]
            await asyncio.sleep(0)
            for left in (1, -1):
                waiting[left].cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert order == ["a1", "b1", "c1", "a3", "b2", "a4"]
        assert not window._waiting

    run(work())


def test_a_request_larger_than_the_window_goes_alone() -> None:
    async def work() -> None:
        window = Window(4, Clock())
        async with window.held(9):
            assert window.in_flight == 9
        async with window.held(1), window.held(3):
            waiting = asyncio.create_task(window.held(9).__aenter__())
            await asyncio.sleep(0)
            assert not waiting.done()
        await waiting
        assert window.in_flight == 9

    run(work())


def test_whoever_stops_waiting_leaves_nothing_behind() -> None:
    async def work() -> None:
        window = Window(1, Clock())
        ran: list[int] = []

        async def ask(number: int) -> None:
            async with window.held(1):
                ran.append(number)

        async with window.held(1):
            waiting = [asyncio.create_task(ask(number)) for number in range(4)]
            await asyncio.sleep(0)
            waiting[0].cancel()
            await asyncio.sleep(0)
        waiting[1].cancel()  # it was admitted just now, and has not run
        await asyncio.gather(*waiting, return_exceptions=True)
        assert ran == [2, 3]
        assert window.in_flight == 0

    run(work())


def test_the_window_grows_for_as_long_as_it_pays() -> None:
    async def work() -> None:
        clock = Clock()
        window = Window(1024, clock)
        await Load(window, clock, [(64, 100.0), (128, 190.0), (256, 300.0), (10**6, 310.0)]).answer(60)
        assert window.limit == 256
        assert window.request == 128

    run(work())


def test_the_window_stays_within_its_bound() -> None:
    async def work() -> None:
        clock = Clock()
        window = Window(128, clock)
        await Load(window, clock, [(64, 100.0), (10**6, 200.0)]).answer(20)
        assert window.limit == 128

    run(work())


@pytest.mark.parametrize("largest", [1, 2, 3, 100, 1000])
def test_requests_fill_the_window_and_are_no_larger_than_engines_take(largest: int) -> None:
    async def work() -> None:
        clock = Clock()
        window = Window(largest, clock)
        await Load(window, clock, [(2**power, 2.0**power) for power in range(12)]).answer(120)
        assert window.limit == largest
        assert 1 <= window.request <= min(max(1, largest // 2), 256)

    run(work())


def test_an_overloaded_engine_halves_the_window_which_grows_again_later() -> None:
    async def work() -> None:
        clock = Clock()
        window = Window(64, clock)
        for _ in range(10):
            window.overloaded()
        assert window.limit == window.request == 1
        load = Load(window, clock, [(1, 1.0), (2, 2.0), (4, 4.0), (10**6, 8.0)])
        await load.answer(5)
        assert window.limit == 1
        await load.answer(100)
        assert window.limit > 4

    run(work())
