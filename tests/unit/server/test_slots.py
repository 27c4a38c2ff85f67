"""Slots for sequences: a free one is anybody's; else whoever has few gets one of whoever has most."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.slots import Slots


def test_a_free_place_is_for_anybody() -> None:
    slots = Slots(2, ["a"] * 14)
    for _ in range(2):
        assert slots.may_start("a")
        slots.start("a")
    assert not slots.may_start("a")


@pytest.mark.parametrize(
    ("holders", "caller", "may"),
    [
        ({"a": 16}, "b", True),
        ({"a": 13, "b": 3}, "b", True),
        ({"a": 12, "b": 4}, "b", False),  # half of an equal share
        ({"a": 2}, "b", True),
        ({"a": 1}, "b", False),  # somebody would have none
        ({"a": 8, "b": 8}, "c", True),
        ({"a": 8, "b": 6, "c": 2}, "c", True),
        ({"a": 8, "b": 5, "c": 3}, "c", False),
        ({str(number): 1 for number in range(16)}, "b", False),  # more callers than slots
        ({}, "a", False),
    ],
)
def test_who_has_few_gets_one_of_whoever_has_most(holders: dict[str, int], caller: str, may: bool) -> None:
    slots = Slots(0, Counter(holders).elements())
    assert slots.may_start(caller) is may


@given(st.lists(st.integers(1, 16), min_size=1, max_size=8), st.lists(st.integers(0, 9), max_size=64))
def test_nobody_who_gave_a_place_may_take_it_back(held: list[int], wanted: list[int]) -> None:
    """So slots do not go to and fro, and no more sequences run than there are slots."""
    slots = Slots(0, Counter(dict(enumerate(held))).elements())
    for caller in wanted:
        if slots.may_start(caller):
            giver = slots.giver()
            slots.start(caller)
            assert not slots.may_start(giver)
