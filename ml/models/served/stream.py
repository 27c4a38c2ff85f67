"""Many requests under way at once, whose answers are let through once the model is known to be the same.

Nothing in an answer says which weights made it. So a replica's fingerprint is asked for again and again: what came
between two that are equal is from the model that was there at the start. Until then answers are held back, and where
the fingerprint has changed, they are never seen.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ml.errors import EngineUnavailableError
from ml.models.served.abilities import Abilities
from ml.models.served.client import EngineClient
from ml.models.served.completions import PATH, Answer, Likely, Query, answers, body
from ml.models.served.probe import ask
from ml.models.served.reading import Part
from ml.models.served.verification import Fingerprint

_CHECK_SECONDS = 1.0
"""Between two looks at the fingerprint, while requests are under way."""

_GONE_SECONDS = 5.0
"""After which a replica that does not answer is given up, where there are others."""

_MAX_WRITTEN = 8
"""Requests that are written and wait to be sent, so that an engine has the next one at once."""


@dataclass(frozen=True)
class Answered:
    """A request with its answers, one a sequence."""

    part: Part
    answers: list[Answer]
    replica: str


class Engine:
    """An external engine, as it was found at the start, and the connection to it of one event loop."""

    def __init__(self, client: EngineClient, abilities: Abilities, fingerprint: Fingerprint) -> None:
        self.client = client
        self.abilities = abilities
        self.fingerprint = fingerprint
        self._clock = asyncio.get_running_loop().time

    async def answer(self, part: Part) -> Answered:
        """Ask one request. Nobody has checked yet who answered.

        Raises:
            EngineError: there is no answer, or none of use.
        """
        query, model = part.query, self.client.address.model
        reply = await self.client.post(
            PATH,
            body(model, query, self.abilities),
            lambda data: answers(data, model, query, self.abilities),
            prompts=len(query.sequences),
        )
        return Answered(part, reply.value, reply.replica)

    async def listed(
        self, sequences: Iterable[Sequence[int]], top: int, *, salt: str = "", patience: float | None = None
    ) -> list[Likely]:
        """The `top` most likely tokens in the place of each sequence's last.

        By what an engine says of a prompt's own tokens, which holds where it cuts lists of next tokens short.

        Raises:
            EngineError: there is no answer, or none of use.
        """
        query = Query(tuple(sequences), tail=1, top=top, salt=salt)
        found = await ask(self.client, query, self.abilities, patience=patience)
        return [each.tail[0].top for each in found]

    async def stream(self, parts: Iterator[Part]) -> AsyncIterator[list[Answered]]:
        """The answers to `parts`, some at a time and in any order. Closing it ends what is under way.

        Raises:
            EngineModelChangedError: the model is another one; what was let through before is right.
            EngineError: there is no answer, or none of use.
        """
        under_way: set[asyncio.Task[Answered]] = set()
        held: list[Answered] = []  # answered, and not checked
        checking: list[Answered] = []  # what the check under way is about
        check: asyncio.Task[set[str]] | None = None
        checked = self._clock()
        try:
            while True:
                while len(under_way) < _MAX_WRITTEN and (part := next(parts, None)) is not None:
                    under_way.add(asyncio.create_task(self.answer(part)))
                due = not under_way or self._clock() - checked >= _CHECK_SECONDS
                if held and check is None and due:
                    checking, held = held, []
                    check = asyncio.create_task(self._check({each.replica for each in checking}))
                if not under_way and check is None:
                    return
                waiting: set[asyncio.Task[Any]] = {*under_way} if check is None else {*under_way, check}
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if check is not None and check in done:
                    gone = await check
                    check, checked = None, self._clock()
                    yield [each for each in checking if each.replica not in gone]
                    parts = itertools.chain([each.part for each in checking if each.replica in gone], parts)
                for task in under_way & done:
                    held.append(await task)
                under_way -= done
        finally:
            left: list[asyncio.Task[Any]] = [*under_way, *([] if check is None else [check])]
            for each in left:
                each.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _check(self, replicas: set[str]) -> set[str]:
        """Those of `replicas` that went away after they had answered, so that nobody can tell what they computed.

        Raises:
            EngineModelChangedError: one computes another model.
            EngineError: the only one does not answer.
        """
        single = len(self.client.address.replicas) == 1

        async def is_gone(replica: str) -> bool:
            try:
                patience = None if single else _GONE_SECONDS
                await self.fingerprint.check(self.client, self.abilities, replica, patience=patience)
            except EngineUnavailableError:
                if single:
                    raise
                return True
            return False

        asked = sorted(replicas)
        gone = await asyncio.gather(*map(is_gone, asked))
        return set(itertools.compress(asked, gone))
