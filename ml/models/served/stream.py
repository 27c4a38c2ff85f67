"""Many requests under way at once, whose answers are let through where they are known to be of the same model.

Nothing in an answer says which weights made it. So some short prompts go with each request, and what comes back about
them is compared with what the model that was there at the start says of them.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ml.errors import EngineModelChangedError, EngineUnavailableError
from ml.models.objective import FloatArray
from ml.models.served.abilities import Abilities
from ml.models.served.asking import ask
from ml.models.served.carried import MAX_CARRIED, carried
from ml.models.served.client import EngineClient
from ml.models.served.completions import Answer, Likely, Query
from ml.models.served.fingerprint import Fingerprint, difference, numbers
from ml.models.served.reading import Part

_MAX_WRITTEN = 8
"""Requests that are written and wait to be sent, so that an engine has the next one at once."""

_TRIALS = 3
"""So many answers that are not the model's, while it is what the engine computes, and it is no accident."""

_GONE_SECONDS = 5.0
"""After which a replica that does not answer is given up, where there are others."""

_MAX_EXPECTED = 1024
"""Kinds of requests of which it is remembered what the model says of their prompts."""

Kind = tuple[tuple[int, ...], int]
"""Which given tokens are asked for, and how many of a prompt's own."""


@dataclass(frozen=True)
class Answered:
    """A request with its answers, one a sequence."""

    part: Part
    answers: list[Answer]


class Engine:
    """An external engine, as it was found at the start, and the connection to it of one event loop."""

    def __init__(self, client: EngineClient, abilities: Abilities, fingerprint: Fingerprint) -> None:
        self.client = client
        self.abilities = abilities
        self.fingerprint = fingerprint
        self._ids = tuple(itertools.chain(*fingerprint.query.sequences))
        self._expected: dict[Kind, FloatArray] = {}
        self._expecting = asyncio.Lock()
        self._patience = None if len(client.address.replicas) == 1 else _GONE_SECONDS

    @property
    def request(self) -> int:
        """How many prompts to put into one request, beside those that it carries."""
        return max(1, self.client.window.request - MAX_CARRIED)

    async def answer(self, part: Part) -> Answered:
        """Ask one request of the model that was there at the start.

        Raises:
            EngineModelChangedError: another one answers.
            EngineError: there is no answer, or none of use.
        """
        query = part.query
        known = carried(query, self._ids, self.abilities)
        # Behind the others: no answer is computed later.
        asked = replace(known, sequences=(*query.sequences, *known.sequences))
        strange = 0
        while True:
            reply = await ask(self.client, asked, self.abilities)
            own, beside = reply.value[: len(query.sequences)], reply.value[len(query.sequences) :]
            try:
                distance = difference(numbers(beside, known.tail), await self._said(known, reply.replica))
                if distance <= self.fingerprint.tolerance:
                    return Answered(part, [replace(each, given=each.given[: len(query.given)]) for each in own])
                await self.fingerprint.check(self.client, self.abilities, reply.replica, patience=self._patience)
            except EngineUnavailableError:
                if self._patience is None:
                    raise
                continue  # nobody knows what it computed before it went away; it rests, and another is asked
            strange += 1
            if strange == _TRIALS:
                raise EngineModelChangedError(self.client.address.model, distance, self.fingerprint.tolerance)

    async def listed(
        self, sequences: Iterable[Sequence[int]], top: int, *, salt: str = "", patience: float | None = None
    ) -> list[Likely]:
        """The `top` most likely tokens in the place of each sequence's last.

        By what an engine says of a prompt's own tokens, which holds where it cuts lists of next tokens short.

        Raises:
            EngineError: there is no answer, or none of use.
        """
        query = Query(tuple(sequences), tail=1, top=top, salt=salt)
        reply = await ask(self.client, query, self.abilities, patience=patience)
        return [each.tail[0].top for each in reply.value]

    async def stream(self, parts: Iterator[Part]) -> AsyncIterator[list[Answered]]:
        """The answers to `parts`, some at a time and in any order. Closing it ends what is under way.

        Raises:
            EngineModelChangedError: the model is another one; what was let through before is right.
            EngineError: there is no answer, or none of use.
        """
        under_way: set[asyncio.Task[Answered]] = set()
        try:
            while True:
                while len(under_way) < _MAX_WRITTEN and (part := next(parts, None)) is not None:
                    under_way.add(asyncio.create_task(self.answer(part)))
                if not under_way:
                    return
                done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                yield [task.result() for task in done]
                under_way -= done
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _said(self, known: Query, replica: str) -> FloatArray:
        """What the model that was there at the start says of prompts that are carried. The first to ask asks `replica`.

        Raises:
            EngineModelChangedError: it computes another model.
            EngineError: it does not answer.
        """
        kind = known.given, known.tail
        async with self._expecting:
            if kind not in self._expected:
                if len(self._expected) == _MAX_EXPECTED:
                    self._expected.clear()
                self._expected[kind] = await self._learned(known, replica)
            return self._expected[kind]

    async def _learned(self, known: Query, replica: str) -> FloatArray:
        fixed = self.fingerprint.query
        # In one request, as nobody knows whether the same model answers the next.
        asked = replace(known, sequences=(*fixed.sequences, *known.sequences), tail=max(fixed.tail, known.tail))
        for _ in range(_TRIALS):
            reply = await ask(
                self.client, asked, self.abilities, replica=replica, patience=self._patience, queued=False
            )
            found = reply.value
            first = [replace(each, given=()) for each in found[: len(fixed.sequences)]]
            distance = difference(numbers(first, fixed.tail), self.fingerprint.values)
            if distance <= self.fingerprint.tolerance:
                return numbers(found[len(fixed.sequences) :], known.tail)
        raise EngineModelChangedError(self.client.address.name, distance, self.fingerprint.tolerance)
