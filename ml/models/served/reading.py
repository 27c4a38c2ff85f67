"""Which sequences to ask about, for the log-probabilities of continuations after prompts: pure, without a request.

Where an engine gives those of chosen tokens at the next position, a continuation's last token is asked for by its id:
prompts are then read as they stand, an engine can use its prefix cache, and continuations that only end differently
share a request. What stands before the last token is read off the sequence itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ml.models.objective import FloatArray
from ml.models.served.completions import Answer, Query

_MAX_TOKENS = 16384
"""Tokens of one request, so that it takes an engine no longer than a cancellation may."""


@dataclass
class Way:
    """One sequence behind every prompt, and the columns of the result that it gives.

    Attributes:
        appended: what is read behind a prompt.
        given: the tokens asked for by their ids, each with its columns.
        own: for places in `appended`, the columns of the token there.
    """

    appended: tuple[int, ...]
    given: dict[int, list[int]] = field(default_factory=dict)
    own: dict[int, list[int]] = field(default_factory=dict)

    @property
    def tail(self) -> int:
        """How many last tokens of the sequence have to be looked at."""
        return len(self.appended) - min(self.own, default=len(self.appended))


def ways(continuations: Sequence[Sequence[int]], given_ids: int) -> list[Way]:
    """What to read behind a prompt, so that each token of the continuations is looked at once.

    Args:
        given_ids: how many tokens may be asked for by their ids at one position.
    """
    starts = [0, *itertools.accumulate(map(len, continuations))]
    found: dict[tuple[int, ...], Way] = {}
    read: dict[tuple[int, ...], list[int]] = {}  # columns of a token with what precedes it
    # The longest first: what others begin with is read off it.
    for index in sorted(range(len(continuations)), key=lambda index: -len(continuations[index])):
        continuation = tuple(continuations[index])
        for length in range(1, len(continuation) + 1):
            before, column = continuation[:length], starts[index] + length - 1
            if before not in read:
                read[before] = _columns(found, continuation, length, given_ids)
            read[before].append(column)
    return list(found.values())


def _columns(
    found: dict[tuple[int, ...], Way], continuation: tuple[int, ...], length: int, given_ids: int
) -> list[int]:
    """Where to note the columns of the token that ends the continuation's first `length`, on a way that reads it."""
    appended = continuation[:-1] if given_ids else continuation
    way = found.setdefault(appended, Way(appended))
    if length > len(appended):
        if len(way.given) < given_ids:
            return way.given.setdefault(continuation[-1], [])
        way = found.setdefault(continuation, Way(continuation))
    return way.own.setdefault(length - 1, [])


@dataclass(frozen=True)
class Part:
    """One request: a query, and the rows of the result that each of its sequences is for.

    Attributes:
        rows: for each sequence the prompts that it is made of; equal ones are asked for once.
    """

    query: Query
    way: Way
    rows: tuple[tuple[int, ...], ...]

    def write(self, answers: Sequence[Answer], values: FloatArray) -> None:
        """Put what was answered where it belongs, in `values` [prompts, columns]."""
        for prompts, answer in zip(self.rows, answers, strict=True):
            rows = list(prompts)
            for (_, columns), value in zip(self.way.given.items(), answer.given, strict=True):
                values[np.ix_(rows, columns)] = value
            before = len(self.way.appended) - self.way.tail
            for place, columns in self.way.own.items():
                values[np.ix_(rows, columns)] = answer.tail[place - before].log_probability


def parts(
    prompts: Sequence[Sequence[int]],
    chosen: Sequence[Way],
    size: int,
    *,
    salt: str = "",
    stands_back: bool = False,
) -> Iterator[Part]:
    """The requests for `prompts`, of at most `size` sequences each.

    They come in the order of their tokens: those that begin alike follow one another, and meet in a prefix cache what
    was computed a moment before.
    """
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        by_prompt.setdefault(tuple(prompt), []).append(row)
    ordered = sorted(by_prompt)
    for way in chosen:
        some: list[tuple[int, ...]] = []
        tokens = 0
        for prompt in ordered:
            length = len(prompt) + len(way.appended)
            if some and (len(some) == size or tokens + length > _MAX_TOKENS):
                yield _part(some, way, by_prompt, salt, stands_back)
                some, tokens = [], 0
            some.append(prompt)
            tokens += length
        if some:
            yield _part(some, way, by_prompt, salt, stands_back)


def _part(
    some: Sequence[tuple[int, ...]],
    way: Way,
    by_prompt: dict[tuple[int, ...], list[int]],
    salt: str,
    stands_back: bool,
) -> Part:
    query = Query(
        sequences=tuple(prompt + way.appended for prompt in some),
        given=tuple(way.given),
        tail=way.tail,
        salt=salt,
        stands_back=stands_back,
    )
    return Part(query, way, tuple(tuple(by_prompt[prompt]) for prompt in some))
