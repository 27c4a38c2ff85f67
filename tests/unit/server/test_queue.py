"""The policy of the queue, by its rules: properties over arbitrary queues, and a worked example for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.admission import QueueOverflowError
from server.batching import Item, Limits
from server.queue import Queue, Schedule
from server.slots import Slots

LIMITS = Limits(
    batch_tokens=64, batch_items=4, batch_bytes=100, padding=0.25, shortest=4, waiting_items=200, waiting_tokens=10_000
)


@dataclass(frozen=True)
class Asked:
    """One item of a generated queue."""

    tokens: int
    caller: int
    call: int
    batch_key: int
    output_bytes: int
    expires: bool


ASKED = st.builds(
    Asked,
    tokens=st.integers(1, 100),
    caller=st.integers(0, 3),
    call=st.integers(0, 2),
    batch_key=st.integers(0, 1),
    output_bytes=st.integers(0, 120),
    expires=st.booleans(),
)
NOW, LATER = 10.0, 20.0


def queue_of(asked: list[Asked], limits: Limits = LIMITS) -> tuple[Queue[int], list[Item[int]]]:
    items = [
        Item(
            index,
            tokens=a.tokens,
            model=f"m{a.batch_key}",
            batch_key=a.batch_key,
            caller=a.caller,
            call=(a.caller, a.call),
            output_bytes=a.output_bytes,
            padded=a.batch_key == 0,
            deadline=NOW if a.expires else LATER,
            shared_tokens=None if a.batch_key == 0 else 16,
        )
        for index, a in enumerate(asked)
    ]
    queue: Queue[int] = Queue(limits)
    for item in items:
        queue.offer([item])
    return queue, items


def drain(queue: Queue[int], now: float = NOW) -> list[Schedule[int]]:
    schedules = []
    while len(queue):
        schedules.append(queue.take(now))
    return schedules


def tokens_of(queue: Queue[int]) -> int:
    """Tokens that wait, those of later chunks included."""
    return sum(load.tokens for load in queue.waiting.values())


def simple(payload: int, tokens: int = 8, caller: str = "a", call: str = "1", batch_key: str = "m") -> Item[int]:
    return Item(payload, tokens, "m", batch_key=batch_key, caller=caller, call=call)


@given(st.lists(ASKED, max_size=60))
def test_everything_runs_once_or_expires_once(asked):
    queue, items = queue_of(asked)
    schedules = drain(queue)
    ran = [item for schedule in schedules for item in schedule.batch]
    expired = [item for schedule in schedules for item in schedule.expired]
    assert sorted(item.payload for item in ran + expired) == list(range(len(items)))
    assert all(item.deadline > NOW for item in ran)
    assert all(item.deadline <= NOW for item in expired)
    assert tokens_of(queue) == 0


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=40))
def test_items_expire_when_their_time_is_over(asked):
    queue: Queue[int] = Queue(LIMITS)
    for now in range(22):
        for number, (comes, deadline) in enumerate(asked):
            if comes == now:
                item = simple(number)
                item.deadline = deadline
                queue.put(item)
        schedule = queue.take(now)
        assert all(item.deadline <= now for item in schedule.expired)
        assert all(item.deadline > now for item in schedule.batch)


@given(st.lists(ASKED, max_size=60))
def test_a_batch_keeps_its_bounds(asked):
    queue, _ = queue_of(asked)
    for schedule in drain(queue):
        batch = schedule.batch
        if len(batch) < 2:
            continue  # An item that is too large by itself still runs, alone.
        assert len(batch) <= LIMITS.batch_items
        assert sum(item.output_bytes for item in batch) <= LIMITS.batch_bytes
        assert len({item.batch_key for item in batch}) == 1
        if not batch[0].padded:
            assert sum(item.tokens for item in batch) <= LIMITS.batch_tokens
            continue
        longest = max(item.tokens for item in batch)
        padded = [max(item.tokens, LIMITS.shortest) for item in batch]
        assert len(batch) * longest <= LIMITS.batch_tokens
        assert sum(max(padded) - tokens for tokens in padded) <= LIMITS.padding * len(batch) * max(padded)


@given(st.lists(ASKED, max_size=60))
def test_nothing_waits_while_the_model_is_idle(asked):
    queue, _ = queue_of([Asked(a.tokens, a.caller, a.call, a.batch_key, a.output_bytes, False) for a in asked])
    while len(queue):
        assert queue.take(NOW).batch
    assert queue.take(NOW) == Schedule((), ())


@given(st.lists(ASKED, max_size=60))
def test_a_caller_waits_at_most_one_batch_for_each_other_caller(asked):
    queue, items = queue_of([Asked(a.tokens, a.caller, a.call, a.batch_key, a.output_bytes, False) for a in asked])
    left = Counter(item.caller for item in items)
    waited = dict.fromkeys(left, 0)
    while len(queue):
        batch = queue.take(NOW).batch
        served = {item.caller for item in batch}
        for item in batch:
            left[item.caller] -= 1
        for caller, items_left in left.items():
            waited[caller] = 0 if caller in served or not items_left else waited[caller] + 1
            assert waited[caller] < len(left)


class TestShortBatches:
    """One caller has sent much at once, and others come and go."""

    @staticmethod
    def flooded(shared: int | None = 24) -> Queue[int]:
        queue: Queue[int] = Queue(Limits(batch_tokens=400, batch_items=50))
        for number in range(200):
            item = Item(number, tokens=8, model="m", batch_key="m", caller="greedy", call=number, padded=False)
            item.shared_tokens = shared
            queue.offer([item])
        return queue

    @staticmethod
    def come(queue: Queue[int], callers: int) -> None:
        """Callers with little each."""
        for number in range(callers):
            queue.offer([Item(number, 8, "m", "m", f"modest {number}", number, padded=False, shared_tokens=24)])

    def test_who_is_alone_has_whole_batches(self):
        assert len(self.flooded().take(NOW).batch) == 50

    def test_others_wait_for_few_tokens(self):
        queue = self.flooded()
        self.come(queue, 1)
        assert [item.caller for item in queue.take(NOW).batch] == ["greedy", "modest 0", "greedy"]
        assert len(queue.take(NOW + 0.5).batch) == 3, "the modest one may come again"
        assert len(queue.take(NOW + 1.5).batch) == 50, "it has gone"

    def test_who_has_a_running_text_is_there(self):
        queue = self.flooded()
        assert len(queue.take(NOW, running={"modest"}).batch) == 3
        assert len(queue.take(NOW + 0.9).batch) == 3, "its next text may come"
        assert len(queue.take(NOW + 1.5).batch) == 50, "none is generated any more"

    def test_who_runs_a_text_of_its_own_has_whole_batches(self):
        assert len(self.flooded().take(NOW, running={"greedy"}).batch) == 50

    def test_who_is_not_backlogged_shares_no_batch_with_who_is(self):
        queue = self.flooded()
        self.come(queue, 2)
        queue.take(NOW)
        for moment in (0.1, 0.2):
            self.come(queue, 2)
            assert [item.caller for item in queue.take(NOW + moment).batch] == ["modest 0", "modest 1"]
            assert [item.caller for item in queue.take(NOW + moment).batch] == ["greedy"] * 3

    def test_backlogged_callers_share_batches_while_nobody_else_is_there(self):
        queue = self.flooded()
        queue.offer([Item(n, 8, "m", "m", "grasping", -n, padded=False, shared_tokens=24) for n in range(1, 6)])
        assert [item.caller for item in queue.take(NOW).batch] == ["greedy", "grasping", "greedy"]
        self.come(queue, 1)
        assert [item.caller for item in queue.take(NOW).batch] == ["grasping", "greedy", "modest 0"]

    def test_a_long_prompt_does_not_join_those_of_others_who_join_it(self):
        queue: Queue[int] = Queue(Limits())
        self.come(queue, 1)
        long = [Item(n, 100, "m", "m", "long", n, padded=False, shared_tokens=24) for n in (1, 2)]
        queue.offer(long[:1])
        assert [item.caller for item in queue.take(NOW).batch] == ["modest 0"]
        self.come(queue, 1)
        assert [item.caller for item in queue.take(NOW).batch] == ["long", "modest 0"]

    def test_who_left_before_a_batch_was_taken_changes_nothing(self):
        queue = self.flooded()
        gone = simple(-1, caller="modest")
        queue.offer([gone])
        queue.withdraw([gone])
        assert len(queue.take(NOW).batch) == 50

    def test_one_item_of_every_caller_is_let_in(self):
        queue = self.flooded()
        self.come(queue, 20)
        assert Counter(item.caller for item in queue.take(NOW).batch) == Counter(
            {"greedy": 1, **{f"modest {number}": 1 for number in range(20)}}
        )

    def test_where_a_model_gains_by_it_batches_are_full(self):
        queue = self.flooded(shared=None)
        self.come(queue, 1)
        assert len(queue.take(NOW).batch) == 50


@given(st.lists(ASKED, max_size=40), st.data())
def test_what_is_withdrawn_never_runs(asked, data):
    queue, items = queue_of(asked)
    gone = data.draw(st.sets(st.sampled_from(items))) if items else set()
    queue.withdraw(gone)
    queue.withdraw(gone)  # Again changes nothing.
    assert len(queue) == len(items) - len(gone)
    assert tokens_of(queue) == sum(item.tokens for item in items if item not in gone)
    assert not gone & {item for schedule in drain(queue) for item in schedule.batch + schedule.expired}


@given(st.lists(ASKED, min_size=1, max_size=40))
def test_what_is_put_back_comes_first_among_what_its_callers_ask(asked):
    queue, items = queue_of(asked)
    first = queue.take(NOW)
    queue.put_back(first.batch)
    assert len(queue) == len(items) - len(first.expired)
    assert tokens_of(queue) == sum(item.tokens for item in items if item not in first.expired)
    later = [item for schedule in drain(queue) for item in schedule.batch]
    assert Counter(later) == Counter(set(items) - set(first.expired))
    for caller in {item.caller for item in first.batch}:
        mine = [item for item in later if item.caller == caller and item.batch_key == first.batch[0].batch_key]
        assert mine[0] in first.batch


def test_who_came_meanwhile_goes_before_what_is_put_back():
    queue: Queue[int] = Queue(Limits(batch_items=1))
    queue.offer([simple(0, caller="greedy")])
    batch = queue.take(NOW).batch
    queue.offer([simple(1, caller="another")])
    queue.offer([simple(2, caller="modest")])
    queue.put_back(batch, lambda caller: caller == "modest")
    assert [queue.take(NOW).batch[0].payload for _ in range(3)] == [2, 0, 1]


def test_absent_callers_do_not_go_before_what_is_put_back():
    queue: Queue[int] = Queue(Limits(batch_items=1))
    queue.offer([simple(0, caller="modest")])
    queue.take(NOW)
    queue.offer([simple(1, caller="greedy")])
    batch = queue.take(NOW).batch
    queue.put_back(batch, lambda caller: caller == "modest")
    queue.offer([simple(2, caller="modest")])
    assert [queue.take(NOW).batch[0].payload for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("callers", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("tokens", [20, 48])
def test_all_whose_batches_are_put_back_get_as_much(callers: int, tokens: int):
    queue: Queue[str] = Queue(Limits())
    turns: Counter[Hashable] = Counter()

    def asked(caller: str, tokens: int) -> Item[str]:
        return Item(caller, tokens, "m", "m", caller, object(), padded=False, shared_tokens=64)

    for number in range(64 * callers):
        queue.offer([asked(f"greedy {number % callers}", tokens)])
    for _ in range(64 * callers):
        batch = queue.take(NOW).batch
        if any(item.caller == "modest" for item in batch):
            continue
        if all(item.times_put_back < 3 for item in batch):  # a modest caller comes whenever it may preempt
            queue.offer([asked("modest", 5)])
            queue.put_back(batch, lambda caller: caller == "modest")
        else:
            turns.update(item.caller for item in batch)
    assert len(turns) == callers
    assert max(turns.values()) <= 2 * min(turns.values())


def test_what_is_put_back_expires_like_others():
    queue: Queue[int] = Queue(LIMITS)
    queue.offer([Item(0, 3, "m", "m", "a", "1", deadline=NOW + 1)])
    queue.put_back(queue.take(NOW).batch)
    assert [item.payload for item in queue.take(NOW + 1).expired] == [0]


def test_lengths_go_together_only_where_they_are_padded():
    lengths = [3, 40, 5, 12]
    items = [Item(i, n, "m", "m", caller="a", call="1", padded=False) for i, n in enumerate(lengths)]
    queue: Queue[int] = Queue(LIMITS)
    queue.offer(items)
    assert [item.payload for item in queue.take(NOW).batch] == [0, 1, 2, 3]


@given(st.lists(ASKED, min_size=1, max_size=40))
def test_items_of_equal_length_of_one_call_keep_their_order(asked):
    queue, _ = queue_of([Asked(8, a.caller, a.call, 0, 0, False) for a in asked])
    ran = [item for schedule in drain(queue) for item in schedule.batch]
    for call in {item.call for item in ran}:
        payloads = [item.payload for item in ran if item.call == call]
        assert payloads == sorted(payloads)


def test_one_prompt_beside_a_thousand_runs_in_the_next_batch():
    queue: Queue[int] = Queue(Limits(batch_items=16))
    queue.offer([simple(n, caller="many") for n in range(1000)])
    queue.take(NOW)
    queue.offer([simple(-1, caller="one")])
    assert -1 in [item.payload for item in queue.take(NOW).batch]


def test_calls_of_one_caller_take_turns_too():
    queue: Queue[int] = Queue(Limits(batch_items=4))
    queue.offer([simple(n, call="bulk") for n in range(100)])
    queue.offer([simple(-1, call="interactive")])
    assert -1 in [item.payload for item in queue.take(NOW).batch]


def test_a_caller_of_other_length_gets_its_turn_first():
    queue: Queue[int] = Queue(Limits(batch_items=4))
    queue.offer([simple(n, tokens=500, caller="long") for n in range(100)])
    queue.offer([simple(-1, tokens=3, caller="short")])
    assert [item.payload for item in queue.take(NOW).batch] == [0, 1, 2, 3]
    assert [item.payload for item in queue.take(NOW).batch] == [-1]


def test_similar_lengths_go_together():
    queue: Queue[int] = Queue(Limits(batch_items=3))
    queue.offer([simple(n, tokens=tokens) for n, tokens in enumerate([100, 400, 104, 390, 98, 410])])
    assert [[item.tokens for item in schedule.batch] for schedule in drain(queue)] == [[100, 104, 98], [400, 390, 410]]


def test_short_prompts_share_a_batch_whatever_their_length():
    queue: Queue[int] = Queue(Limits())
    queue.offer([simple(n, tokens=n + 1) for n in range(30)])
    assert len(queue.take(NOW).batch) == 30


def test_a_full_queue_takes_all_of_a_call_or_nothing():
    queue: Queue[int] = Queue(Limits(waiting_items=4))
    queue.offer([simple(n) for n in range(3)])
    with pytest.raises(QueueOverflowError):
        queue.offer([simple(n) for n in range(2)])
    assert len(queue) == 3
    queue.offer([simple(3)])


def test_tokens_bound_the_queue_but_an_empty_one_takes_any_call():
    queue: Queue[int] = Queue(Limits(waiting_tokens=100))
    queue.offer([simple(0, tokens=1000)])
    with pytest.raises(QueueOverflowError):
        queue.offer([simple(1, tokens=1)])


def test_each_model_has_bounds_of_its_own():
    queue: Queue[int] = Queue(Limits(waiting_items=4))
    queue.offer([simple(n, caller="greedy") for n in range(4)])
    other = [Item(n, 8, "other", "other", "greedy", "2") for n in range(4)]
    queue.offer(other)
    for item in (simple(4, caller="greedy"), Item(4, 8, "other", "other", "greedy", "3")):
        with pytest.raises(QueueOverflowError):
            queue.offer([item])
    assert {model: load.items for model, load in queue.waiting.items()} == {"m": 4, "other": 4}
    queue.withdraw(other)
    assert list(queue.waiting) == ["m"]


def chunk(payload: int, tokens: int = 8, caller: str = "a", needs_slot: bool = False, later: int = 0) -> Item[int]:
    """A chunk of a long prompt; a batch has 16 tokens of them."""
    return Item(
        payload,
        tokens=tokens,
        model="m",
        batch_key="m",
        caller=caller,
        call=payload,
        padded=False,
        later_tokens=later,
        chunk_tokens=16,
        needs_slot=needs_slot,
    )


def test_a_batch_has_few_tokens_of_chunks_and_others_fill_it():
    queue: Queue[int] = Queue(Limits())
    queue.offer([chunk(n, caller="long") for n in range(4)])
    queue.offer([simple(n, caller="short") for n in (10, 11, 12)])
    assert {item.payload for item in queue.take(NOW).batch} == {0, 1, 10, 11, 12}
    assert [item.payload for item in queue.take(NOW).batch] == [2, 3]


def test_a_chunk_that_is_longer_than_a_batch_has_of_them_is_the_only_one():
    queue: Queue[int] = Queue(Limits())
    queue.offer([chunk(0, tokens=40), chunk(1)])
    assert [[item.payload for item in schedule.batch] for schedule in drain(queue)] == [[0], [1]]


def test_what_has_no_place_waits_and_holds_up_nobody():
    queue: Queue[int] = Queue(Limits())
    queue.offer([chunk(n, tokens=1, needs_slot=True) for n in range(4)])
    queue.offer([chunk(9), simple(10)])
    assert [item.payload for item in queue.take(NOW).batch] == [9, 10]
    assert queue.take(NOW, {"m": Slots(0)}) == Schedule((), ())
    assert [item.payload for item in queue.take(NOW, {"m": Slots(3)}).batch] == [0, 1, 2]
    assert queue.waiting["m"].sequences == 1
    assert [item.payload for item in queue.take(NOW, {"m": Slots(3)}).batch] == [3]


def test_a_place_goes_to_whoever_has_waited_longest_for_a_turn():
    queue: Queue[int] = Queue(Limits())
    queue.offer([chunk(n, caller="greedy", needs_slot=True) for n in range(3)])
    queue.offer([chunk(10, caller="modest", needs_slot=True)])
    found = [queue.take(NOW, {"m": Slots(1)}).batch[0].payload for _ in range(4)]
    assert found == [0, 10, 1, 2]


def test_whoever_has_few_places_goes_before_whoever_has_all():
    queue: Queue[int] = Queue(Limits())
    queue.offer([chunk(n, caller="greedy", needs_slot=True) for n in range(2)])
    queue.offer([chunk(10 + n, caller="modest", needs_slot=True) for n in range(3)])
    slots = {"m": Slots(0, ["greedy"] * 4)}
    assert [item.payload for item in queue.take(NOW, slots).batch] == [10], "with half of a share, it waits"
    assert queue.take(NOW, slots) == Schedule((), ())


def test_what_follows_a_chunk_counts_as_waiting():
    queue: Queue[int] = Queue(Limits(waiting_tokens=100))
    queue.offer([chunk(0, later=90)])
    assert tokens_of(queue) == 98
    with pytest.raises(QueueOverflowError):
        queue.offer([simple(1, tokens=3)])
    [first] = queue.take(NOW).batch
    queue.put(chunk(first.payload, later=first.later_tokens - 8))
    assert tokens_of(queue) == 90
