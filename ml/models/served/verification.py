"""Whether an engine's numbers can be believed: its tokenizer is ours, and its model stays the same.

An engine's log-probabilities of a prompt depend on what else it computes in the same batch, in their last digits. So
the same prompts are asked for in changing company at the start: what they differ by is the engine's noise. The numbers
themselves are the model's fingerprint. Later ones that are further from it than noise are another model's.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ml.errors import EngineError, EngineModelChangedError, EngineUnavailableError, ModelLoadError
from ml.models.objective import FloatArray
from ml.models.served.abilities import Abilities
from ml.models.served.client import EngineClient
from ml.models.served.completions import PATH, Answer, Query
from ml.models.served.probe import ask
from ml.spec import Prompt
from ml.tokens import Tokenizer

TEXTS = (
    "The capital of France is Paris, and the river that flows through it is the Seine.",
    "In 1969, two people walked on the moon; it took them 4 days to get there.",
    "Don't you think that's odd? \u201cNo,\u201d she said, \u201cit isn\u2019t.\u201d",
    "Z\u00fcrich, S\u00e3o Paulo and \u6771\u4eac are cities \U0001f98a",
    "def add(a, b):\n    return a + b\n",
)
"""Texts of several kinds: words, numbers, quotes, other scripts, code."""

_COMPANY = (0, 1, 7, 31)
"""How many other prompts are in a request beside those of the fingerprint."""

_TAIL = 4
"""Tokens of each prompt that are looked at."""

_MARGIN = 5.0
"""So many times the largest difference that was seen at the start may still be noise: few trials see no worst case."""

_MIN_TOLERANCE = 1e-3
"""Nats. Two models differ by far more, and rounding on another processor by less."""

_MAX_TOLERANCE = 0.5
"""Nats. An engine whose noise is as large as this cannot be told from another model."""

_TRIALS = 3

_AGREEMENT = 0.05
"""Nats between asking in two ways: by a text or its ids, by a prompt's own tokens or by given ids."""


@dataclass(frozen=True)
class Fingerprint:
    """What an engine says of fixed prompts.

    Attributes:
        query: the prompts, and what is asked of them.
        values: log-probabilities, float64.
        noise: the standard deviation of a log-probability in changing company, nats.
        tolerance: how far a later value may be from these.
    """

    query: Query
    values: FloatArray
    noise: float
    tolerance: float

    def matches(self, values: FloatArray) -> bool:
        """Whether `values` are this model's, as far as noise lets that be told."""
        return difference(values, self.values) <= self.tolerance

    async def check(
        self, client: EngineClient, abilities: Abilities, replica: str, *, patience: float | None = None
    ) -> None:
        """Make sure that `replica` computes the same model as at the start.

        Args:
            patience: seconds to wait for one that is away. Default: the client's.

        Raises:
            EngineModelChangedError: it does not.
            EngineError: it does not answer.
        """
        smallest = np.inf
        for _ in range(_TRIALS):
            found = await ask(client, self.query, abilities, replica=replica, patience=patience, queued=False)
            smallest = min(smallest, difference(numbers(found, self.query.tail), self.values))
            if smallest <= self.tolerance:
                return
        raise EngineModelChangedError(client.address.name, smallest, self.tolerance)


def numbers(found: Sequence[Answer], tail: int) -> FloatArray:
    """The log-probabilities of answers: of given tokens, and of the last `tail` of their own, float64 [answers, n]."""
    own = [[position.log_probability for position in answer.tail] for answer in found]
    rows = [(*answer.given, *values[len(values) - tail :]) for answer, values in zip(found, own, strict=True)]
    return np.array(rows, dtype=np.float64)


def difference(one: FloatArray, other: FloatArray) -> float:
    """The largest difference of two log-probabilities; equal ones differ by none, be they of what cannot be."""
    unequal = one != other
    return float(np.abs(one[unequal] - other[unequal]).max(initial=0.0))


async def fingerprint(client: EngineClient, tokenizer: Tokenizer, abilities: Abilities) -> Fingerprint:
    """Ask for the fingerprint in changing company, on every replica.

    Raises:
        ModelLoadError: replicas differ by more than noise, or the noise is too large for anything.
    """
    sequences = [tuple(tokenizer.encode(Prompt(text)).ids) for text in TEXTS]
    fixed = tuple(sequences[:2])
    given = tuple(dict.fromkeys(itertools.chain(*sequences)))[: min(8, abilities.given_ids)]
    # Not by given ids, of which it is asked again and again: see `completions.likely` for what that does to others.
    query = Query(fixed, tail=_TAIL)
    others = [sequence[:length] for length in range(_TAIL + 1, 16) for sequence in sequences if length <= len(sequence)]
    found: list[FloatArray] = []
    behind: list[FloatArray] = []
    for replica in client.address.replicas:
        for count in _COMPANY:
            company = tuple(others[index % len(others)] for index in range(count))
            asked = replace(query, sequences=(*fixed, *company))
            found.append(numbers(await ask(client, asked, abilities, replica=replica), _TAIL)[: len(fixed)])
            if given:
                asked = replace(asked, given=given, tail=0)
                behind.append(numbers(await ask(client, asked, abilities, replica=replica), 0)[: len(fixed)])
    values = np.mean(found, axis=0)
    differences = np.concatenate([_deviations(found), _deviations(behind)])
    largest = float(np.abs(differences).max())
    if not largest < _MAX_TOLERANCE / _MARGIN:
        raise ModelLoadError(
            f"the engine's log-probabilities of one prompt differ by up to {largest:.2g} nats with what it computes"
            " beside, or from one replica to the other; nothing could be explained by them"
        )
    return Fingerprint(
        query=query,
        values=values,
        noise=float(np.sqrt(np.mean(differences**2))),
        tolerance=max(_MIN_TOLERANCE, _MARGIN * largest),
    )


def _deviations(found: Sequence[FloatArray]) -> FloatArray:
    """How far each number is from its mean over `found`, as one row."""
    return (np.array(found) - np.mean(found, axis=0)).ravel() if found else np.empty(0)


async def check_tokens(client: EngineClient, tokenizer: Tokenizer, replica: str) -> None:
    """Make sure that the engine cuts texts as `tokenizer` does, as far as it tells.

    Raises:
        ModelLoadError: it does not.
        EngineUnavailableError: it does not answer.
    """
    read = await asyncio.gather(*(_ids_of(client, text, replica) for text in TEXTS))
    for text, theirs in zip(TEXTS, read, strict=True):
        ours = tokenizer.encode(Prompt(text)).ids
        if theirs is not None and tuple(theirs) != ours:
            raise ModelLoadError(
                f"the engine cuts {text[:24]!r} into the tokens {_short(theirs)}, and the tokenizer of Gloss into"
                f" {_short(ours)}; set GLOSS_TOKENIZER to that of the model that is served"
            )


async def check_reading(client: EngineClient, tokenizer: Tokenizer, abilities: Abilities, replica: str) -> None:
    """Make sure that the engine reads ids as it reads their text.

    Raises:
        ModelLoadError: it does not.
        EngineError: it does not answer.
    """
    ids = tokenizer.encode(Prompt(TEXTS[0])).ids
    by_ids, by_text = await asyncio.gather(
        _summed(client, ids, abilities, replica), _summed(client, ids, abilities, replica, text=TEXTS[0])
    )
    if not abs(by_ids - by_text) <= _AGREEMENT * len(ids):
        raise ModelLoadError(
            f"the engine finds {TEXTS[0][:24]!r} more likely by {by_text - by_ids:.3g} nats where it is asked by its"
            " text than by its tokens; set GLOSS_TOKENIZER to that of the model that is served"
        )


async def check_ways(client: EngineClient, tokenizer: Tokenizer, abilities: Abilities, replica: str) -> None:
    """Make sure that a token's log-probability is the same by whichever words it is asked for.

    Raises:
        ModelLoadError: it is not, as where an engine was told to give log-probabilities of another temperature.
        EngineError: it does not answer.
    """
    if not abilities.given_ids:
        return
    ids = tokenizer.encode(Prompt(TEXTS[1])).ids
    within, behind = await asyncio.gather(
        ask(client, Query((ids,), tail=1), abilities, replica=replica),
        ask(client, Query((ids[:-1],), given=ids[-1:]), abilities, replica=replica),
    )
    one, other = within[0].tail[0].log_probability, behind[0].given[0]
    if not abs(one - other) <= _AGREEMENT:
        raise ModelLoadError(
            f"the engine gives a token the log-probability {one:.4g} inside a prompt and {other:.4g} behind it; if it"
            " is vLLM, serve with --logprobs-mode raw_logprobs, which is its default"
        )


async def _ids_of(client: EngineClient, text: str, replica: str) -> Sequence[int] | None:
    """The tokens into which the engine cuts `text`; None where it does not tell."""
    asked = {"model": client.address.model, "prompt": text, "max_tokens": 1, "temperature": 0, "return_token_ids": True}

    def read(data: Any) -> Sequence[int] | None:
        [choice] = data["choices"]
        found = choice.get("prompt_token_ids")
        return found if isinstance(found, list) else None

    try:
        return (await client.post(PATH, asked, read, prompts=1, replica=replica)).value
    except EngineUnavailableError:
        raise
    except EngineError:
        return None


async def _summed(
    client: EngineClient, ids: Sequence[int], abilities: Abilities, replica: str, *, text: str | None = None
) -> float:
    """Log-probability of all tokens but the first, asked for by `ids` or by `text`."""
    [answer] = await ask(client, Query((ids,), tail=len(ids) - 1, text=text), abilities, replica=replica)
    return sum(position.log_probability for position in answer.tail)


def _short(ids: Sequence[int]) -> str:
    return f"[{', '.join(map(str, ids[:8]))}{', …' if len(ids) > 8 else ''}]"
