"""Steps part by part: whole prompts as a padded batch, then the sequences that grow."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

from torch import Tensor

from ml.models.base import Chunk, StepResult
from ml.models.fallback.padded_batches import Logits

S = TypeVar("S")
"""What is kept of a sequence."""


class SerialRunner(ABC, Generic[S]):
    """A runner of models that cannot mix rows; see `ml.models.base.Runner`. It caches no prefixes."""

    bytes = 0
    is_preemptible = False

    def __init__(self, logits: Logits, *, pads: bool = True) -> None:
        """Run whole prompts by the model's own `logits`. `pads`: whether that pads them, or runs each alone."""
        self._logits = logits
        self.pads = pads
        self._numbers = itertools.count()
        self.sequences: dict[int, S] = {}
        """By number."""

    @abstractmethod
    def new(self) -> S:
        """A sequence without tokens."""

    @abstractmethod
    def advance(self, sequences: Sequence[S], chunks: Sequence[Chunk]) -> list[Tensor]:
        """Read a chunk of each of some sequences. Returns what is asked for of each, float32 [logits, vocabulary]."""

    def begin(self) -> int:
        """See `Runner.begin`."""
        number = next(self._numbers)
        self.sequences[number] = self.new()
        return number

    def step(self, chunks: Sequence[Chunk]) -> StepResult:
        """See `Runner.step`."""
        prompts = [i for i, chunk in enumerate(chunks) if chunk.sequence is None]
        growing = {i: self.sequences[chunk.sequence] for i, chunk in enumerate(chunks) if chunk.sequence is not None}
        found: dict[int, Tensor] = {}
        lengths = [len(chunks[i].ids) for i in prompts]
        if prompts:
            logits = self._logits([chunks[i].ids for i in prompts], [chunks[i].logits for i in prompts])
            found.update(zip(prompts, logits, strict=True))
        if growing:
            found.update(zip(growing, self.advance(list(growing.values()), [chunks[i] for i in growing]), strict=True))
        padding = len(lengths) * max(lengths) - sum(lengths) if prompts and self.pads else 0
        every = range(len(chunks))
        computed = sum(len(chunk.ids) for chunk in chunks)
        return StepResult([found[i] for i in every], computed, padding, [0] * len(chunks))

    def drop(self, sequence: int) -> None:
        """See `Runner.drop`."""
        self.sequences.pop(sequence, None)

    def insert_prefixes(self) -> None:
        """There is no prefix cache."""
