"""Who waits for whom while calls are refused: a real event loop and a real thread, and the order of what they do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from server import interpreter
from server.interpreter import SharedInterpreter

GREEDY, MODEST = "greedy", "modest"


class Bench:
    """A loop, a model's thread that follows a script, and a log of what happened in which order."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.shared = SharedInterpreter(self.loop, self.loop.call_soon_threadsafe)
        self.log: list[str] = []
        self.stepped = threading.Event()
        """Whether the model's thread has waited once."""

    def in_loop(self, function: Callable[[], None]) -> None:
        """Call a function in the loop and wait for it, from the model's thread."""
        done = threading.Event()

        def call() -> None:
            function()
            done.set()

        self.loop.call_soon_threadsafe(call)
        assert done.wait(10)

    async def flood(self, calls: int, then: Callable[[], None] = lambda: None) -> None:
        """Refuse calls one after the other, without a pause."""
        for _ in range(calls):
            self.shared.note_refusal(GREEDY)
            await asyncio.sleep(0)
        then()


def log_of(model: Callable[[Bench], None]) -> list[str]:
    """What happens in which order beside an idle loop, while the model's thread does as `model` says."""

    async def scenario() -> list[str]:
        bench = Bench()
        await asyncio.to_thread(model, bench)
        return bench.log

    return asyncio.run(scenario())


def log_beside(calls: Callable[[Bench], Awaitable[None]], model: Callable[[Bench], None]) -> list[str]:
    """As `log_of`, beside a loop that has refused a call and goes on with `calls`."""

    async def scenario() -> list[str]:
        bench = Bench()
        bench.shared.note_refusal(GREEDY)
        await asyncio.gather(asyncio.to_thread(model, bench), calls(bench))
        return bench.log

    return asyncio.run(scenario())


def wait_and_step(bench: Bench) -> None:
    """Let the loop catch up, and then step, in the model's thread."""
    bench.shared.let_loop_catch_up()
    bench.log.append("step")
    bench.stepped.set()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no wait ends because a machine is slow."""
    monkeypatch.setattr(interpreter, "_STEP_SECONDS", 10)
    monkeypatch.setattr(interpreter, "_LOOP_SECONDS", 10)
    monkeypatch.setattr(interpreter, "_REFUSED_SECONDS", 60)


def test_the_loop_works_during_a_step_if_nobody_is_refused() -> None:
    def model(bench: Bench) -> None:
        with bench.shared.step():
            bench.in_loop(lambda: bench.shared.note_acceptance(MODEST))
            bench.in_loop(lambda: bench.log.append("loop"))
            bench.log.append("step")
        bench.shared.let_loop_catch_up()

    assert log_of(model) == ["loop", "step"]


def test_the_loop_waits_for_the_step_after_a_refusal() -> None:
    def model(bench: Bench) -> None:
        with bench.shared.step():
            bench.in_loop(lambda: bench.shared.note_refusal(GREEDY))
            bench.loop.call_soon_threadsafe(bench.log.append, "loop")
            bench.log.append("step")

    assert log_of(model) == ["step", "loop"]


def test_the_loop_waits_from_the_start_of_the_next_step() -> None:
    def model(bench: Bench) -> None:
        bench.in_loop(lambda: bench.shared.note_refusal(GREEDY))
        with bench.shared.step():
            bench.loop.call_soon_threadsafe(bench.log.append, "loop")
            bench.log.append("step")

    assert log_of(model) == ["step", "loop"]


def test_the_loop_waits_once_for_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "_STEP_SECONDS", 0.001)

    def model(bench: Bench) -> None:
        with bench.shared.step():
            bench.in_loop(lambda: bench.shared.note_refusal(GREEDY))
            bench.in_loop(lambda: None)  # behind the wait
            monkeypatch.setattr(interpreter, "_STEP_SECONDS", 10)
            bench.in_loop(lambda: bench.shared.note_refusal(GREEDY))
            bench.in_loop(lambda: bench.log.append("loop"))
            bench.log.append("step")

    assert log_of(model) == ["loop", "step"]


def test_the_model_waits_until_the_loop_has_caught_up() -> None:
    async def calls(bench: Bench) -> None:
        await bench.flood(500, lambda: bench.log.append("caught up"))

    assert log_beside(calls, wait_and_step) == ["caught up", "step"]


@pytest.mark.parametrize(("caller", "order"), [(MODEST, ["step", "caught up"]), (GREEDY, ["caught up", "step"])])
def test_a_modest_caller_is_not_kept_waiting(caller: str, order: list[str]) -> None:
    async def calls(bench: Bench) -> None:
        await bench.flood(100)
        bench.shared.note_acceptance(caller)
        while caller == MODEST and not bench.stepped.is_set():
            await bench.flood(1)
        await bench.flood(100, lambda: bench.log.append("caught up"))

    assert log_beside(calls, wait_and_step) == order


def test_the_model_does_not_wait_if_a_modest_caller_waits_already() -> None:
    def model(bench: Bench) -> None:
        stuck, stepped = threading.Event(), threading.Event()

        def work() -> None:
            stuck.set()
            stepped.wait(5)
            bench.log.append("caught up")

        with bench.shared.step():
            bench.in_loop(lambda: bench.shared.note_acceptance(MODEST))
            bench.in_loop(lambda: bench.shared.note_refusal(GREEDY))
        bench.loop.call_soon_threadsafe(work)
        assert stuck.wait(10)
        bench.shared.let_loop_catch_up()
        bench.log.append("step")
        stepped.set()
        bench.shared.let_loop_catch_up()
        bench.log.append("second step")

    assert log_of(model) == ["step", "caught up", "second step"]


def test_calls_of_which_nothing_else_is_known_are_waited_for() -> None:
    async def calls(bench: Bench) -> None:
        for _ in range(500):
            bench.shared.note_arrival()
            await asyncio.sleep(0)
        bench.log.append("caught up")

    assert log_beside(calls, wait_and_step) == ["caught up", "step"]


def test_modest_callers_do_not_end_two_waits_in_a_row() -> None:
    def model(bench: Bench) -> None:
        bench.shared.let_loop_catch_up()
        bench.stepped.set()
        bench.in_loop(lambda: bench.shared.note_refusal(GREEDY))
        bench.shared.let_loop_catch_up()
        bench.log.append("second")

    async def calls(bench: Bench) -> None:
        await bench.flood(100)
        while not bench.stepped.is_set():
            bench.shared.note_acceptance(MODEST)
            await bench.flood(1)
        for _ in range(200):
            await bench.flood(1)
            bench.shared.note_acceptance(MODEST)
        bench.log.append("caught up")

    assert log_beside(calls, model) == ["caught up", "second"]


def test_a_wait_may_be_shorter_than_others() -> None:
    def model(bench: Bench) -> None:
        bench.shared.let_loop_catch_up(0.001)
        bench.log.append("step")
        bench.stepped.set()

    async def calls(bench: Bench) -> None:
        while not bench.stepped.is_set():
            await bench.flood(1)
        bench.log.append("caught up")

    assert log_beside(calls, model) == ["step", "caught up"]


def preempted_by(callers: list[str], caller: str) -> bool:
    """Whether a step of some `callers` is preempted by a call of a `caller`."""

    def model(bench: Bench) -> None:
        bench.in_loop(lambda: bench.shared.note_refusal(GREEDY))
        bench.shared.note_batch()
        with bench.shared.step(callers):
            bench.in_loop(lambda: bench.shared.note_refusal(GREEDY))
            assert not bench.shared.is_preempted
            bench.in_loop(lambda: bench.shared.note_acceptance(caller))
            bench.log.append(str(bench.shared.is_preempted))

    return log_of(model) == ["True"]


def test_a_step_of_refused_callers_is_preempted_by_others_alone() -> None:
    assert preempted_by([GREEDY, GREEDY], MODEST)
    assert not preempted_by([GREEDY], GREEDY)


@pytest.mark.parametrize("callers", [[], [MODEST], [GREEDY, MODEST]])
def test_a_step_of_others_is_not_preempted(callers: list[str]) -> None:
    def model(bench: Bench) -> None:
        bench.in_loop(lambda: bench.shared.note_refusal(GREEDY))
        with bench.shared.step(callers):
            bench.loop.call_soon_threadsafe(bench.shared.note_acceptance, "another")
            bench.log.append(str(bench.shared.is_preempted))

    assert log_of(model) == ["False"]


def test_refusals_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "_REFUSED_SECONDS", 0.0)
    monkeypatch.setattr(interpreter, "_STEP_SECONDS", 0.001)
    assert not preempted_by([GREEDY], MODEST)


def test_who_is_refused_once_in_a_while_is_remembered() -> None:
    def model(bench: Bench) -> None:
        bench.in_loop(lambda: bench.shared.note_refusal(GREEDY))
        for _ in range(3):
            bench.in_loop(lambda: bench.shared.note_refusal("another"))
            bench.shared.let_loop_catch_up()
        bench.log.append(str(bench.shared.was_refused(GREEDY)))

    assert log_of(model) == ["True"]


def test_of_those_who_were_refused_long_ago_none_is_remembered_for_a_later_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        shared = Bench().shared
        shared.note_refusal(GREEDY)
        assert shared.was_refused(GREEDY)
        assert not shared.was_refused(MODEST)
        monkeypatch.setattr(interpreter, "_REFUSED_SECONDS", 0.0)  # as if much time had passed
        shared.note_refusal("another")
        monkeypatch.setattr(interpreter, "_REFUSED_SECONDS", 60)
        assert not shared.was_refused(GREEDY)
        assert shared.was_refused("another")

    asyncio.run(scenario())


def test_the_loop_works_during_a_preemptible_step_until_it_is_preempted() -> None:
    def model(bench: Bench) -> None:
        bench.in_loop(lambda: bench.shared.note_refusal(GREEDY))
        with bench.shared.step([GREEDY]):
            bench.in_loop(lambda: bench.shared.note_refusal(GREEDY))
            bench.in_loop(lambda: bench.log.append("loop"))
            bench.in_loop(lambda: bench.shared.note_acceptance(MODEST))
            bench.loop.call_soon_threadsafe(bench.log.append, "waited")
            bench.log.append("step")

    assert log_of(model) == ["loop", "step", "waited"]


def test_the_loop_does_not_wait_for_a_step_because_of_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "_STEP_SECONDS", 30)  # longer than the test waits for the loop

    def model(bench: Bench) -> None:
        begun = threading.Event()
        bench.in_loop(lambda: bench.shared.note_refusal(GREEDY))
        bench.loop.call_soon_threadsafe(begun.wait, 10)
        with bench.shared.step():
            pass  # the loop has no time yet to wait for it
        with bench.shared.step([GREEDY]):
            begun.set()
            bench.in_loop(lambda: bench.log.append("loop"))
            bench.log.append("step")

    assert log_of(model) == ["loop", "step"]


def test_a_call_that_comes_between_a_batch_and_its_step_preempts_it() -> None:
    def model(bench: Bench) -> None:
        bench.in_loop(lambda: bench.shared.note_refusal(GREEDY))
        bench.shared.note_batch()
        bench.in_loop(lambda: bench.shared.note_acceptance(MODEST))
        with bench.shared.step([GREEDY]):
            bench.log.append(str(bench.shared.is_preempted))

    assert log_of(model) == ["True"]


def test_few_of_those_who_are_refused_beside_an_idle_model_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "_MAX_REFUSED", 10)

    async def scenario() -> None:
        bench = Bench()
        for number in range(100):
            bench.shared.note_refusal(number)
        assert len(bench.shared._refused) == 10

    asyncio.run(scenario())
