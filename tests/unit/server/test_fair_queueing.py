"""Callers share the models' time: what each gets, who waits for whom, and for how long."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Hashable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.admission import Load
from server.batching import Item, Limits
from server.queue import Queue

PRICES = {"slow": 0.01, "fast": 0.0001}
"""Seconds of a token of each model."""

SHARED = 64
CHUNK = 128
TOKENS = 48


class Simulation:
    """A queue, and a clock that each batch moves by what its tokens take."""

    def __init__(
        self, refused: str = "", prices: dict[str, float] = PRICES, predicted: dict[str, float] | None = None
    ) -> None:
        """Simulate callers.

        Args:
            refused: how the names of callers begin who were refused lately.
            predicted: prices that the queue takes for those of the models.
        """
        self._prices = prices
        self.queue: Queue[object] = Queue(
            Limits(shortest=1, waiting_items=10**6, waiting_tokens=10**9),
            (predicted or prices).__getitem__,
            lambda name: bool(refused) and str(name).startswith(refused),
        )
        self.now = 0.0
        self.time: defaultdict[Hashable, float] = defaultdict(float)
        """What each caller had."""
        self._calls = itertools.count()

    def ask(
        self, caller: str, model: str, items: int = 1, tokens: int = TOKENS, *, chunks: bool = False, **how: bool
    ) -> list[Item[object]]:
        call = next(self._calls)
        size: dict[str, Any] = {"chunk_tokens": CHUNK} if chunks else {"shared_tokens": SHARED}
        asked = [Item(object(), tokens, model, model, caller, call, padded=False, **size, **how) for _ in range(items)]
        self.queue.offer(asked)
        return asked

    def run(self) -> list[Item[object]]:
        """Run the next batch."""
        batch = list(self.queue.take(self.now).batch)
        if batch:
            seconds = sum(item.tokens for item in batch) * self._prices[batch[0].model]
            self.now += seconds
            self.queue.charge(batch, seconds, self.now)
            for item in batch:
                self.time[item.caller] += item.tokens * self._prices[item.model]
        return batch

    def run_for(self, seconds: float) -> dict[Hashable, float]:
        """Run batches for so long; what each caller had of it."""
        before, end = dict(self.time), self.now + seconds
        while self.now < end:
            self.run()
        return {name: had - before.get(name, 0.0) for name, had in self.time.items()}

    def until(self, items: list[Item[object]]) -> Iterator[list[Item[object]]]:
        """The batches until all of `items` have run."""
        left = set(items)
        while left:
            batch = self.run()
            left -= set(batch)
            yield batch


def flooded(callers: int = 8, model: str = "slow", **how: str) -> Simulation:
    """Some have sent much for a model, and have had their turns for a while."""
    simulation = Simulation(**how)
    for number in range(callers):
        for _ in range(400):
            simulation.ask(f"greedy {number}", model)
    for _ in range(5 * callers // 2):
        simulation.run()
    return simulation


def test_a_call_of_many_prompts_does_not_wait_for_turns_of_others_that_are_longer_than_all_of_it():
    simulation = flooded()
    eight = simulation.ask("modest", "fast", items=8)
    assert [len(batch) for batch in simulation.until(eight)] == [8]


def with_much_time() -> Simulation:
    """Beside a flood, the modest one has had more time than others."""
    simulation = flooded()
    modest = simulation.ask("modest", "fast")
    assert list(simulation.until(modest)) == [modest]
    simulation.queue.charge(modest, 100.0, simulation.now)
    return simulation


def test_a_call_of_many_prompts_keeps_batches_of_a_slow_model_short():
    simulation = with_much_time()
    simulation.ask("modest", "fast", items=8)
    assert [str(item.caller).split()[0] for item in simulation.run()] == ["greedy"]


def test_a_call_that_takes_as_long_as_those_of_others_does_not():
    simulation = with_much_time()
    simulation.ask("modest", "slow", items=8)
    assert len({item.caller for item in simulation.run()}) == 9


def test_much_of_a_slow_model_is_shared_by_time_with_a_fast_one():
    simulation = flooded(callers=1)
    for _ in range(1000):
        simulation.ask("other", "fast", items=8)
    had = simulation.run_for(10)
    assert abs(had["other"] - had["greedy 0"]) <= 2 * TOKENS * PRICES["slow"]


@given(st.lists(st.tuples(st.floats(0.0001, 0.01), st.integers(1, 200)), min_size=2, max_size=6))
def test_callers_of_different_models_get_equal_shares(asked):
    """Those of one model share batches, in which each has an item, whatever its length."""
    prices = {f"model {number}": price for number, (price, _) in enumerate(asked)}
    simulation = Simulation(prices=prices)
    for model, (_, tokens) in zip(prices, asked, strict=True):
        for _ in range(30):
            simulation.ask(model, model, tokens=tokens)
    longest = max(max(tokens, SHARED) * price for price, tokens in asked)
    while len(simulation.queue.waiting) == len(asked):
        simulation.run()
        had = [simulation.time[model] for model in prices]
        assert max(had) - min(had) <= 2 * longest + 1e-5


def test_who_comes_anew_gets_nothing_back_for_the_past():
    simulation = flooded(callers=1)
    before = simulation.time["greedy 0"]
    for _ in range(1000):
        simulation.ask("new", "fast", items=8)
    while simulation.time["new"] < 5 * TOKENS * PRICES["slow"]:
        simulation.run()
    assert simulation.time["greedy 0"] - before >= 3 * TOKENS * PRICES["slow"]


def test_nobody_waits_for_ever_behind_callers_who_come_anew():
    simulation = Simulation()
    simulation.ask("steady", "fast")
    simulation.run()
    asked = simulation.ask("steady", "fast", items=3)
    for number in range(1000):
        for each in range(4):  # so many at a time that there is always one who has had nothing
            simulation.ask(f"new {number} {each}", "fast", tokens=SHARED)
        ran = simulation.run()
        if asked[-1] in ran:
            break
    assert number < 40


def test_while_nothing_that_waits_can_run_no_time_is_saved_up():
    simulation = Simulation()
    text = simulation.ask("blocked", "fast", needs_slot=True)
    for _ in range(50):
        simulation.ask("other", "slow")
        simulation.run()
    simulation.queue.withdraw(text)
    for _ in range(1000):
        simulation.ask("blocked", "fast")
    simulation.ask("other", "slow")
    start = simulation.now
    while not any(item.caller == "other" for item in simulation.run()):
        pass
    assert simulation.now - start <= 3 * TOKENS * PRICES["slow"]


def test_what_has_no_place_holds_up_no_other_call_of_its_caller():
    simulation = Simulation()
    simulation.ask("caller", "fast", needs_slot=True)
    other = simulation.ask("caller", "fast")
    for _ in range(50):
        simulation.ask("greedy", "slow")
    assert len(list(simulation.until(other))) <= 2


def test_who_was_refused_waits_for_others():
    """One call at a time is no flood, even if it takes more than a ninth of the time."""
    simulation = flooded(refused="greedy")
    for _ in range(20):
        one = simulation.ask("modest", "fast", tokens=5)
        assert [item.caller for batch in simulation.until(one) for item in batch] == ["modest"]
        ran = simulation.run()
        assert [str(item.caller).split()[0] for item in ran] == ["greedy"]


def test_who_was_refused_has_half_of_the_time_beside_another():
    simulation = flooded(refused="greedy")
    for _ in range(4000):
        simulation.ask("heavy", "fast", items=8)
    had = simulation.run_for(30)
    assert abs(had["heavy"] - 15) < 2
    greedy = [had[f"greedy {number}"] for number in range(8)]
    assert max(greedy) - min(greedy) <= 2 * TOKENS * PRICES["slow"]


def test_what_is_put_back_runs_after_who_goes_ahead_whatever_that_one_had():
    simulation = with_much_time()
    modest = simulation.ask("modest", "fast")
    batch = simulation.queue.take(simulation.now).batch
    assert modest[0] not in batch
    simulation.queue.put_back(batch, lambda name: name == "modest")
    assert simulation.run() == modest
    assert simulation.run()[0] is batch[0]


def test_who_joined_the_batches_of_others_does_not_wait_for_as_long_as_that_took():
    simulation = Simulation(prices={**PRICES, "other": 0.0001})
    asked = [
        item
        for _ in range(300)
        for caller, tokens in (("short", 10), ("long", 40))
        for item in simulation.ask(caller, "slow", tokens=tokens)
    ]
    for _ in range(100):
        simulation.run()
    assert simulation.time["long"] > simulation.time["short"] + 10
    simulation.queue.withdraw(asked)
    for _ in range(10_000):
        simulation.ask("new", "fast")
    one, start = simulation.ask("long", "other"), simulation.now
    assert list(simulation.until(one))
    assert simulation.now - start < 3 * SHARED * PRICES["slow"]


@pytest.mark.parametrize("pause", [0.0, 0.5, 1.1, 3.0])
def test_to_go_and_come_back_gains_nothing(pause: float):
    """Neither if what is asked takes a hundred times as long as was predicted."""
    simulation = Simulation(prices={"slow": 0.01, "odd": 1.0}, predicted={"slow": 0.01, "odd": 0.01})
    others = [f"other {number}" for number in range(4)]
    odd = simulation.ask("odd", "odd", tokens=5)
    back = 0.0
    while simulation.now < 150:
        if simulation.queue.waiting.get("slow", Load()).items < 20:
            for other in others:
                simulation.ask(other, "slow")
        if simulation.run() == odd:
            back = simulation.now + pause
        if back and simulation.now >= back:
            odd, back = simulation.ask("odd", "odd", tokens=5), 0.0
    assert simulation.time["odd"] <= 150 / 5 + 2 * 5


@pytest.mark.parametrize("hours", [0, 1])
@pytest.mark.parametrize("seconds", [0.0, 2.0])
def test_while_nothing_waits_all_become_level(hours: int, seconds: float):
    """Who had much in the morning, and comes back in the evening, waits no longer than others.

    Others go on for some `seconds`, or nobody asks any more.
    """
    simulation = Simulation(prices={"slow": 0.01, "odd": 1.0}, predicted={"slow": 0.01, "odd": 0.01})
    waiting = [item for number in range(4) for item in simulation.ask(f"other {number}", "slow", items=50)]
    assert list(simulation.until(simulation.ask("odd", "odd", tokens=5)))
    simulation.run_for(seconds)
    simulation.queue.withdraw(waiting)
    assert not simulation.run()
    simulation.now += 3600 * hours
    for _ in range(100):
        for number in range(4):
            simulation.ask(f"other {number}", "slow")
    one, start = simulation.ask("odd", "odd", tokens=1), simulation.now
    assert list(simulation.until(one))
    assert (simulation.now - start < 5) == bool(hours)


@pytest.mark.parametrize("others", [1, 8])
@pytest.mark.parametrize(("tokens", "chunks"), [(SHARED + 1, False), (100, False), (420, False), (CHUNK, True)])
def test_one_long_prompt_at_a_time_gets_no_more_than_many_short_ones(others: int, tokens: int, chunks: bool):
    simulation = Simulation()
    long = simulation.ask("long", "slow", tokens=tokens, chunks=chunks)
    for _ in range(1500):
        if simulation.queue.waiting["slow"].items <= 20 * others:
            for number in range(others):
                simulation.ask(f"short {number}", "slow", items=10)
        if long[0] in simulation.run():
            long = simulation.ask("long", "slow", tokens=tokens, chunks=chunks)
    assert abs(simulation.time["long"] / simulation.now - 1 / (others + 1)) < 0.02


@given(st.lists(st.integers(SHARED + 1, 500), min_size=2, max_size=6))
def test_callers_of_long_prompts_get_equal_shares(lengths: list[int]):
    simulation = Simulation()
    items = [
        simulation.ask(f"caller {number}", "slow", items=200, tokens=tokens) for number, tokens in enumerate(lengths)
    ]
    for _ in range(20):
        simulation.run()
    had = [simulation.time[one[0].caller] for one in items]
    assert max(had) - min(had) <= 2 * max(lengths) * PRICES["slow"] + 1e-5


def test_callers_of_prompts_of_one_length_share_batches_whatever_it_is():
    simulation = Simulation()
    for number in range(4):
        for _ in range(10):
            simulation.ask(f"caller {number}", "slow", tokens=300)
    assert [len(simulation.run()) for _ in range(10)] == [4] * 10
