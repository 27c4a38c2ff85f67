"""Short prompts that go with each request: what is said of them shows which model answered. Pure, without a request."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import replace

from ml.models.served.abilities import Abilities
from ml.models.served.completions import Query

MAX_CARRIED = 4
"""Prompts that go with one request at most, and log-probabilities by which a model is distinguished from others."""

_TOKENS = 8
"""Of each: too few for a prefix cache, which would know them from before."""


def carried(asked: Query, ids: Iterable[int], abilities: Abilities) -> Query:
    """The prompts that go with `asked`, cut from `ids`, and what is asked of all prompts of that request alike.

    That is what `asked` wants to know, and log-probabilities of some more given tokens where it wants few.
    """
    ids = tuple(ids)
    given = asked.given
    if given:
        more = (token for token in dict.fromkeys(ids) if token not in given)
        given += tuple(itertools.islice(more, max(0, min(MAX_CARRIED, abilities.given_ids) - len(given))))
    count = math.ceil(MAX_CARRIED / (len(given) + asked.tail))
    # Of a tail, the first token has one before it.
    length = max(_TOKENS, asked.tail + 1)
    endless = itertools.cycle(ids)
    sequences = tuple(tuple(itertools.islice(endless, length)) for _ in range(count))
    return replace(asked, sequences=sequences, given=given)
