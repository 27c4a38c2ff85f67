"""The completions API: what is asked of some sequences of tokens, and what comes back.

Sequences are asked about by their ids, and tokens come back by theirs. The engine generates one token behind each, as
it must, and nobody looks at it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml.models.served.abilities import Abilities, OwnTokens
from ml.models.served.exchange import LARGEST_ANSWER, UnusableError

PATH = "/v1/completions"

BEHIND = 1
"""The priority of requests that let others pass; 0 is everybody's, and lower numbers go first."""

_LEAST = -9999.0
"""What stands for minus infinity, which JSON has not."""

_ROUNDING = 1e-3
"""Nats by which a log-probability may be above 0."""

_FRAME, _OF_A_POSITION, _OF_A_NUMBER = 2**20, 2**10, 2**9
"""Bytes that a reply may have: beside all positions, of each one, and of each number there."""

_ID = "token_id:"


@dataclass(frozen=True)
class Query:
    """What is asked of some sequences alike.

    Attributes:
        sequences: token ids, each at least one.
        given: ids whose log-probabilities at the next position are asked for.
        tail: of how many last tokens of each sequence the log-probabilities are asked for; the first one has none.
        top: how many of the most likely tokens to list: of the next ones, or of each position of the tail.
        salt: keeps what the engine caches of these sequences apart from what it caches for others.
        stands_back: whether others' requests go first.
        text: sent in the place of the one sequence, which must be its tokens.
    """

    sequences: tuple[Sequence[int], ...]
    given: tuple[int, ...] = ()
    tail: int = 0
    top: int = 0
    salt: str = ""
    stands_back: bool = False
    text: str | None = None


Likely = tuple[tuple[int, float], ...]
"""Tokens with natural log-probabilities, most likely first."""


@dataclass(frozen=True)
class Position:
    """What is known of one token of a sequence; `rank` is None where the engine does not say."""

    log_probability: float
    rank: int | None
    top: Likely


@dataclass(frozen=True)
class Answer:
    """What came back about one sequence.

    Attributes:
        given: natural log-probabilities of the ids that were given.
        top: the most likely next tokens; none where the engine cut its list short.
        tail: of the last tokens.
    """

    given: tuple[float, ...] = ()
    top: Likely = ()
    tail: tuple[Position, ...] = ()


def body(model: str, query: Query, abilities: Abilities) -> dict[str, Any]:
    """The request that asks `query` of `model`."""
    asked: dict[str, Any] = {
        "model": model,
        "prompt": [list(each) for each in query.sequences] if query.text is None else [query.text],
        "max_tokens": 1,
        "temperature": 0,
        "return_tokens_as_token_ids": True,
    }
    if query.salt and abilities.salt:
        asked["cache_salt"] = query.salt
    if query.stands_back and abilities.priority:
        asked["priority"] = BEHIND
    if query.given:
        asked |= {"logprobs": len(query.given), "logprob_token_ids": list(query.given)}
    elif query.top and not query.tail:
        asked["logprobs"] = query.top
    if query.tail and abilities.own_tokens is OwnTokens.PROMPT_LOGPROBS:
        asked["prompt_logprobs"] = query.top
    elif query.tail:
        asked |= {"echo": True, "logprobs": max(1, query.top), "max_tokens": abilities.echoed_tokens}
    return asked


def longest_answer(asked: Mapping[str, Any]) -> int:
    """Bytes that the answer to a request may have: more than any that holds what is asked for and nothing else."""
    prompts = asked["prompt"]
    if isinstance(prompts, str) or isinstance(next(iter(prompts), 0), int):
        prompts = [prompts]
    positions: int = len(prompts) * max(1, asked["max_tokens"])
    if asked.get("echo") or "prompt_logprobs" in asked or "return_token_ids" in asked:
        positions += sum(map(len, prompts))
    listed = max(asked.get("logprobs") or 0, asked.get("prompt_logprobs") or 0, len(asked.get("logprob_token_ids", ())))
    return min(LARGEST_ANSWER, _FRAME + positions * (_OF_A_POSITION + listed * _OF_A_NUMBER))


def answers(data: Any, model: str, query: Query, abilities: Abilities) -> list[Answer]:
    """What an engine's answer says of each sequence, in the query's order.

    Raises:
        UnusableError: it lacks a sequence or a number, or is another model's.
        LookupError, TypeError, ValueError, AttributeError: it lacks something else.
    """
    if data["model"] != model:
        raise UnusableError(f"it is from a model {data['model']!r}, and {model!r} was asked")
    choices = {choice["index"]: choice for choice in data["choices"]}
    if len(choices) != len(data["choices"]) or choices.keys() != set(range(len(query.sequences))):
        raise UnusableError(f"it has {len(data['choices'])} answers to {len(query.sequences)} prompts")
    return [_answer(choices[index], sequence, query, abilities) for index, sequence in enumerate(query.sequences)]


def _answer(choice: Any, sequence: Sequence[int], query: Query, abilities: Abilities) -> Answer:
    given: tuple[float, ...] = ()
    top: Likely = ()
    if query.given:
        found = choice["logprobs"]["top_logprobs"][0]
        given = tuple(number(found[f"{_ID}{token}"]) for token in query.given)
    elif query.top and not query.tail:
        top = likely(choice["logprobs"]["top_logprobs"][0], query.top, abilities)
    if not query.tail:
        return Answer(given, top)
    if abilities.own_tokens is OwnTokens.PROMPT_LOGPROBS:
        return Answer(given, top, tuple(_prompt_positions(choice["prompt_logprobs"], sequence, query, abilities)))
    return Answer(given, top, tuple(_echoed_positions(choice["logprobs"], sequence, query, abilities)))


def _prompt_positions(found: Any, sequence: Sequence[int], query: Query, abilities: Abilities) -> Iterator[Position]:
    if len(found) != len(sequence):
        raise UnusableError(f"it has {len(found)} positions of a prompt of {len(sequence)} tokens")
    start = max(1, len(sequence) - query.tail)
    for token, position in zip(sequence[start:], found[start:], strict=True):
        own = position[str(token)]
        named: Iterable[tuple[int, float]] = ()
        if query.top:
            named = ((known(int(key), abilities), number(each["logprob"])) for key, each in position.items())
        yield Position(number(own["logprob"]), own.get("rank"), _whole(_ordered(named, query.top), query.top))


def _echoed_positions(found: Any, sequence: Sequence[int], query: Query, abilities: Abilities) -> Iterator[Position]:
    values, tops = found["token_logprobs"], found.get("top_logprobs")
    if len(values) not in {len(sequence), len(sequence) + abilities.echoed_tokens}:
        raise UnusableError(f"it echoes {len(values)} tokens of a prompt of {len(sequence)}")
    for place in range(max(1, len(sequence) - query.tail), len(sequence)):
        yield Position(number(values[place]), None, _whole(likely(tops[place], query.top, abilities), query.top))


def likely(found: Any, top: int, abilities: Abilities) -> Likely:
    """The `top` most likely tokens of a position's, which are named by their ids; none where the list was cut short.

    vLLM fills a list up with token 0 at minus infinity, behind the token that it chose, where requests for given ids
    are in the same batch. What was chosen need not be what is most likely.
    """
    if not top:
        return ()
    named = [(token_id(name, abilities), number(value)) for name, value in found.items()]
    cut = len(named) < top or any(value == -math.inf for _, value in named)
    return () if cut else _ordered(named, top)


def _whole(listed: Likely, top: int) -> Likely:
    """`listed`, which must be `top` tokens.

    Raises:
        UnusableError: it is fewer.
    """
    if len(listed) != top:
        raise UnusableError(f"it lists {len(listed)} tokens of one position, and {top} were asked for")
    return listed


def token_id(name: str, abilities: Abilities) -> int:
    """The id in a token's name.

    Raises:
        UnusableError: it is named by its text, which may be that of several, or is none of the vocabulary.
    """
    if not name.startswith(_ID):
        raise UnusableError("it names tokens by their texts, which may be those of several")
    return known(int(name.removeprefix(_ID)), abilities)


def known(token: int, abilities: Abilities) -> int:
    """`token`, which must be one of the vocabulary.

    Raises:
        UnusableError: it is none.
    """
    if not 0 <= token < abilities.vocabulary_size:
        raise UnusableError(f"it names a token {token}, and the vocabulary has {abilities.vocabulary_size}")
    return token


def number(value: Any) -> float:
    """A log-probability as it came.

    Raises:
        UnusableError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not value <= _ROUNDING:
        raise UnusableError(f"it has {str(value)[:40]} in the place of a log-probability")
    return -math.inf if value <= _LEAST else float(value)


def _ordered(found: Iterable[tuple[int, float]], top: int) -> Likely:
    return tuple(sorted(found, key=lambda each: (-each[1], each[0]))[:top])
