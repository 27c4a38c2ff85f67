"""How far an engine's numbers are noise, and by which numbers its model is recognized.

An engine's log-probabilities of a prompt depend on what else it computes in the same batch, in their last digits. So
the same prompts are asked for in changing company at the start: what they differ by is the engine's noise. The numbers
themselves are the model's fingerprint. Later ones that are further from it than noise are another model's.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ml.errors import EngineModelChangedError, ModelLoadError
from ml.models.objective import FloatArray
from ml.models.served.abilities import Abilities
from ml.models.served.agreement import TEXTS
from ml.models.served.asking import ask
from ml.models.served.client import EngineClient
from ml.models.served.completions import Answer, Query
from ml.spec import Prompt
from ml.tokens import Tokenizer

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
            reply = await ask(client, self.query, abilities, replica=replica, patience=patience, queued=False)
            smallest = min(smallest, difference(numbers(reply.value, self.query.tail), self.values))
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


async def take_fingerprint(client: EngineClient, tokenizer: Tokenizer, abilities: Abilities) -> Fingerprint:
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
            reply = await ask(client, asked, abilities, replica=replica)
            found.append(numbers(reply.value, _TAIL)[: len(fixed)])
            if given:
                asked = replace(asked, given=given, tail=0)
                reply = await ask(client, asked, abilities, replica=replica)
                behind.append(numbers(reply.value, 0)[: len(fixed)])
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
