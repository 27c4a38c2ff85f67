"""How long calls may wait: by the throughput of their own model, whatever waits for another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from server.batching import Item, Limits
from server.errors import OverloadedError
from server.interpreter import SharedInterpreter
from server.shared_queue import SharedQueue, Waiting

SECONDS = 5.0
SLOW, FAST = 10, 1000
"""Tokens per second."""


@pytest.fixture
def queue() -> Iterator[SharedQueue]:
    """A queue of two models of which it is known how fast they are, the slow one and the fast one."""
    loop = asyncio.new_event_loop()
    queue = SharedQueue(Limits(shortest=1), SECONDS, SharedInterpreter(loop, lambda *_: None))
    queue.note_run([item("slow", SLOW)], 1.0, 1.0)
    queue.note_run([item("fast", FAST)], 1.0, 1.0)
    queue._time_shares.forget()
    yield queue
    loop.close()


def item(model: str, tokens: int, caller: str = "a", *, needs_slot: bool = False) -> Waiting:
    payload = cast("Any", SimpleNamespace(abandoned=False))
    return Item(payload, tokens, model, model, caller, object(), needs_slot=needs_slot)


def enters(queue: SharedQueue, model: str, tokens: int, caller: str = "a") -> bool:
    try:
        queue.offer([item(model, tokens, caller)], ends_per_second=float("inf"))
    except OverloadedError:
        return False
    return True


def fill(queue: SharedQueue, model: str, tokens: int, caller: str = "a") -> int:
    """Let items wait until one is refused. Returns how many tokens of them do."""
    waiting = 0
    while enters(queue, model, tokens, caller):
        waiting += tokens
    return waiting


def test_a_model_that_is_asked_too_much_keeps_no_call_of_another_out(queue: SharedQueue):
    for number in range(20):
        fill(queue, "slow", 5, f"greedy {number}")
    assert not enters(queue, "slow", 5, "modest")
    queue.check_capacity("fast", "modest")
    assert enters(queue, "fast", FAST, "modest"), "a second's worth"
    assert enters(queue, "fast", FAST, "greedy 1"), "and whoever asks"


def test_alone_a_model_has_all_of_the_time_and_else_an_equal_share(queue: SharedQueue):
    assert fill(queue, "slow", 5) == SECONDS * SLOW
    assert fill(queue, "fast", 50) == SECONDS * FAST / 2
    queue.withdraw(list(queue._queue._waiting()))
    assert enters(queue, "fast", FAST)
    assert fill(queue, "slow", 5) == (SECONDS - 1) * SLOW, "what the other model leaves"


@pytest.mark.parametrize("part", [0.0, 0.2, 0.5, 0.9])
def test_what_others_took_of_late_is_left_to_them(queue: SharedQueue, part: float):
    for _ in range(100):
        queue.note_run([item("slow", SLOW)], 0.1 * (1 - part), 0.1 * (1 - part))
        queue.note_run([item("fast", FAST)], 0.1 * part, 0.1 * part)
    speed = queue._throughputs["slow"].tokens_per_second
    left = max(1 - part, 0.5)  # an equal share in any case
    assert fill(queue, "slow", 5) == pytest.approx(left * SECONDS * speed, rel=0.1)


def test_a_refusal_says_how_long_all_takes_that_waits(queue: SharedQueue):
    fill(queue, "slow", 5)
    fill(queue, "fast", 50)
    for model in ("slow", "fast"):
        with pytest.raises(OverloadedError) as caught:
            queue.check_capacity(model, "a")
        assert caught.value.retry_seconds == pytest.approx(1.5 * SECONDS)


def test_a_text_that_is_refused_waits_for_places_too(queue: SharedQueue):
    text = item("slow", 1, needs_slot=True)
    queue.offer([text], ends_per_second=0.1)
    with pytest.raises(OverloadedError) as caught:
        queue.offer([item("slow", 1, needs_slot=True)], ends_per_second=0.1)
    assert caught.value.retry_seconds == pytest.approx(10)
    assert enters(queue, "slow", 1), "it needs none"


def test_a_model_of_which_no_step_has_ended_refuses_nobody(queue: SharedQueue):
    queue.forget_throughput()
    batch = [item("slow", 100)]
    queue.put_back(batch, seconds=60.0)
    assert enters(queue, "slow", 100_000)


def test_a_call_of_more_than_may_wait_is_refused_though_nothing_waits(queue: SharedQueue):
    texts = [item("slow", 1, needs_slot=True) for _ in range(Limits().waiting_items + 1)]
    with pytest.raises(OverloadedError):
        queue.offer(texts, ends_per_second=1.0)
