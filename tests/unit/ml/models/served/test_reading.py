"""What is asked of an engine for the log-probabilities of continuations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.models.served.completions import Answer, Position, Query
from ml.models.served.reading import parts, ways

CONTINUATIONS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=4)
PROMPTS = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=1, max_size=9)


def number(before: Sequence[int], token: int) -> float:
    """Another number for each token behind each sequence."""
    return float(hash((tuple(before), token)) % 10**9)


def answers(query: Query) -> list[Answer]:
    """What an engine would answer, by `number`."""
    return [
        Answer(
            given=tuple(number(sequence, token) for token in query.given),
            tail=tuple(
                Position(number(sequence[:place], sequence[place]), None, ())
                for place in range(len(sequence) - query.tail, len(sequence))
            ),
        )
        for sequence in query.sequences
    ]


@given(prompts=PROMPTS, continuations=CONTINUATIONS, given_ids=st.integers(0, 3), size=st.integers(1, 4))
def test_every_column_of_every_prompt_is_found(
    prompts: list[list[int]], continuations: list[list[int]], given_ids: int, size: int
) -> None:
    chosen = ways(continuations, given_ids)
    found = np.full((len(prompts), sum(map(len, continuations))), np.nan)
    for part in parts(prompts, chosen, size):
        assert len(part.query.given) <= given_ids
        assert len(part.query.sequences) <= size
        part.write(answers(part.query), found)
    expected = [
        [number([*prompt, *each[:place]], each[place]) for each in continuations for place in range(len(each))]
        for prompt in prompts
    ]
    np.testing.assert_array_equal(found, expected)


@given(prompts=PROMPTS, continuations=CONTINUATIONS, given_ids=st.integers(0, 3))
def test_equal_prompts_are_asked_about_once(
    prompts: list[list[int]], continuations: list[list[int]], given_ids: int
) -> None:
    asked = [
        (sequence, part.way.appended)
        for part in parts(prompts, ways(continuations, given_ids), 4)
        for sequence in part.query.sequences
    ]
    assert len(asked) == len(set(asked))


@given(continuations=CONTINUATIONS, given_ids=st.integers(0, 3))
def test_no_token_is_asked_about_twice(continuations: list[list[int]], given_ids: int) -> None:
    prompt = (9, 9)
    asked = [
        (sequence[:place], sequence[place])
        for part in parts([prompt], ways(continuations, given_ids), 4)
        for [sequence] in [part.query.sequences]
        for place in range(len(prompt), len(sequence))
        if place - len(prompt) in part.way.own
    ]
    asked += [
        (part.query.sequences[0], token)
        for part in parts([prompt], ways(continuations, given_ids), 4)
        for token in part.query.given
    ]
    assert len(asked) == len(set(asked))
    needed = {((*prompt, *each[:place]), each[place]) for each in continuations for place in range(len(each))}
    assert set(asked) == needed


@pytest.mark.parametrize("given_ids", [0, 128])
def test_what_others_begin_with_is_read_off_the_longest(given_ids: int) -> None:
    continuations = [[1], [1, 2], [1, 2, 3], [1, 2]]
    [part] = parts([[5]], ways(continuations, given_ids), 4)
    assert part.query.sequences == ((5, 1, 2) if given_ids else (5, 1, 2, 3),)


def test_one_token_is_asked_for_by_its_id_behind_the_prompt_alone() -> None:
    [part] = parts([[5, 6], [5, 7]], ways([[1], [2]], 128), 64)
    assert part.query == Query(sequences=((5, 6), (5, 7)), given=(1, 2))


def test_prompts_that_begin_alike_follow_one_another() -> None:
    prompts = [[1, 2, 3], [4, 5, 6], [1, 2, 4], [4, 5, 7], [1, 2, 5]]
    sequences = [each for part in parts(prompts, ways([[9]], 128), 2) for each in part.query.sequences]
    assert sequences == sorted(map(tuple, prompts))


@pytest.mark.parametrize("length", [1, 100, 20_000])
def test_a_request_is_bounded_by_its_tokens_but_for_one_long_prompt(length: int) -> None:
    prompts = [[index] + [0] * (length - 1) for index in range(300)]
    for part in parts(prompts, ways([[9]], 128), 64):
        tokens = sum(map(len, part.query.sequences))
        assert tokens <= 16_384 or len(part.query.sequences) == 1
