"""Which running sequence gives way to another."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

from server.running_sequences import RunningSequences
from server.sequences import ChunkedSequence


def running(*callers: str) -> tuple[RunningSequences, list[ChunkedSequence]]:
    """Sequences of `callers`; each has one token more than the one before."""
    numbers = itertools.count()
    runner: Any = SimpleNamespace(begin=lambda: next(numbers), drop=lambda _: None)
    found = RunningSequences("model", runner, len(callers), 128)
    sequences = [ChunkedSequence("model", [5] * (i + 1), print, caller=caller) for i, caller in enumerate(callers)]
    for sequence in sequences:
        found.start(sequence)
    return found, sequences


def test_the_one_with_the_least_to_prefill_gives_way() -> None:
    found, sequences = running("small", "greedy", "greedy", "greedy")
    assert found.giving_way("other", [], may_be_paused=True) is sequences[1]
    assert found.giving_way("other", sequences[:2], may_be_paused=True) is sequences[2]


def test_none_gives_way_again_before_the_others_of_its_caller_did() -> None:
    found, sequences = running("greedy", "greedy", "greedy")
    order = []
    for _ in range(6):
        giving = found.giving_way("other", [], may_be_paused=True)
        assert giving is not None
        giving.times_given_way += 1
        order.append(sequences.index(giving))
    assert order == [0, 1, 2, 0, 1, 2]


def test_who_holds_hardly_more_gives_nothing() -> None:
    """Also where those of whoever holds most have a part in the step."""
    found, sequences = running("small", "greedy", "greedy", "greedy")
    assert found.giving_way("other", sequences[1:], may_be_paused=True) is None
    assert found.giving_way("small", [], may_be_paused=True) is sequences[1]


def test_paused_ones_keep_their_memory_while_no_more_may_be_preempted() -> None:
    found, sequences = running("greedy", "greedy", "greedy")
    sequences[0].waits_for_reader = lambda: True  # type: ignore[method-assign]
    sequences[0].paused = True
    assert found.giving_way("other", [], may_be_paused=True) is sequences[0]
    assert found.giving_way("other", [], may_be_paused=False) is sequences[1]
