"""Who is let into a full queue: whoever has less than an equal share of it waiting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.admission import Admission, Load, QueueOverflowError

ITEMS, TOKENS = 12, 100


def enters(admission: Admission, caller: object, tokens: int = 1, sequences: int = 0, **limits: float) -> bool:
    """Let an item wait, where it may."""
    load = Load(1, tokens, sequences)
    try:
        admission.check(caller, load, **limits)
    except QueueOverflowError:
        return False
    admission.enter(caller, load)
    return True


def test_one_caller_may_fill_all_of_it():
    admission = Admission(ITEMS, TOKENS)
    assert [enters(admission, "a") for _ in range(ITEMS + 1)] == [True] * ITEMS + [False]


def test_a_caller_with_nothing_waiting_enters_what_another_has_filled():
    admission = Admission(ITEMS, TOKENS)
    while enters(admission, "greedy"):
        pass
    assert [enters(admission, "modest") for _ in range(7)] == [True] * 6 + [False], "an equal share of twelve"
    assert not enters(admission, "greedy")


@pytest.mark.parametrize("limits", [{}, {"max_tokens": TOKENS / 2}])
def test_so_it_is_with_tokens(limits):
    admission = Admission(1000, TOKENS)
    bound = limits.get("max_tokens", TOKENS)
    while enters(admission, "greedy", tokens=10, **limits):
        pass
    assert admission.total.tokens == bound
    assert not enters(admission, "modest", tokens=int(bound) // 2 + 1, **limits)
    assert enters(admission, "modest", tokens=int(bound) // 2, **limits)


def test_tokens_of_any_number_enter_where_none_wait():
    admission = Admission(ITEMS, TOKENS)
    assert enters(admission, "a", tokens=10 * TOKENS)
    assert not enters(admission, "a", tokens=1)


def test_the_first_sequence_may_always_wait():
    admission = Admission(ITEMS, TOKENS)
    assert enters(admission, "a", sequences=1, max_sequences=0.1)
    assert not enters(admission, "a", sequences=1, max_sequences=0.1)
    assert enters(admission, "a", max_sequences=0.1), "it is none"


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(1, 9)), max_size=300))
def test_what_waits_is_bounded_whoever_asks(asked):
    """With n callers by the bound times 1 + 1/2 + ... + 1/n, and by one call."""
    admission = Admission(1000, TOKENS)
    for caller, tokens in asked:
        enters(admission, caller, tokens)
    harmonic = sum(1 / n for n in range(1, 10))
    assert admission.total.tokens <= TOKENS * harmonic + 9


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(0, 1)), max_size=60))
def test_whoever_leaves_is_forgotten(asked):
    admission = Admission(10, TOKENS)
    entered = [item for item in asked if enters(admission, *item)]
    for caller, tokens, sequences in entered:
        admission.leave(caller, Load(1, tokens, sequences))
    assert admission.total == Load()
    assert [enters(admission, "a") for _ in range(11)] == [True] * 10 + [False]
