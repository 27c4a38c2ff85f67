"""Short sequences in the fast way, longer ones in the way that is right for all.

Some models are ordinary ones up to a length only, and which way a sequence goes is decided by its own length: nobody's
long prompt makes another's wait, or changes what it is answered.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from ml.models.base import Chunk, Runner, StepResult


@dataclass(eq=False)
class _Growing:
    """A sequence: its tokens, and its number in the runner that it is in."""

    runner: Runner
    number: int
    ids: list[int] = field(default_factory=list)


class RunnerByLength:
    """Runs sequences of up to `limit` tokens with one runner and longer ones with another; see `Runner`.

    A sequence that outgrows the limit is read again by the other runner, once.
    """

    pads = False

    def __init__(self, short: Runner, long: Runner, limit: float) -> None:
        self._short, self._long, self._limit = short, long, limit
        self._numbers = itertools.count()
        self._sequences: dict[int, _Growing] = {}

    @property
    def bytes(self) -> int:
        """Memory of cached prefixes."""
        return self._short.bytes + self._long.bytes

    @property
    def is_preemptible(self) -> bool:
        """Whether short sequences are."""
        return self._short.is_preemptible

    def begin(self) -> int:
        """See `Runner.begin`."""
        number = next(self._numbers)
        self._sequences[number] = _Growing(self._short, self._short.begin())
        return number

    def step(self, chunks: Sequence[Chunk]) -> StepResult:
        """See `Runner.step`."""
        routed = [self._routed(chunk) for chunk in chunks]
        logits: dict[int, Tensor] = {}
        cached: dict[int, int] = {}
        computed = padding = 0
        for runner in (self._short, self._long):
            chosen = [i for i, (its, _) in enumerate(routed) if its is runner]
            if not chosen:
                continue
            result = runner.step([routed[i][1] for i in chosen])
            logits.update(zip(chosen, result.logits, strict=True))
            cached.update(zip(chosen, result.cached_tokens, strict=True))
            computed += result.tokens_computed
            padding += result.tokens_padding
        for chunk in chunks:
            if chunk.sequence is not None:
                self._sequences[chunk.sequence].ids.extend(chunk.ids)
        every = range(len(chunks))
        return StepResult([logits[i] for i in every], computed, padding, [cached[i] for i in every])

    def drop(self, sequence: int) -> None:
        """See `Runner.drop`."""
        if growing := self._sequences.pop(sequence, None):
            growing.runner.drop(growing.number)

    def insert_prefixes(self) -> None:
        """See `Runner.insert_prefixes`."""
        self._short.insert_prefixes()
        self._long.insert_prefixes()

    def _routed(self, chunk: Chunk) -> tuple[Runner, Chunk]:
        """The runner that a chunk goes to, and the chunk as it is known there."""
        if chunk.sequence is None:
            return self._short if len(chunk.ids) <= self._limit else self._long, chunk
        growing, ids = self._sequences[chunk.sequence], chunk.ids
        if growing.runner is self._short and len(growing.ids) + len(ids) > self._limit:
            self._short.drop(growing.number)
            growing.runner, growing.number = self._long, self._long.begin()
            ids = [*growing.ids, *ids]
        return growing.runner, replace(chunk, ids=ids, sequence=growing.number)
