"""The running sequences of one model, and what its next step computes of each.

A step decodes one token of every generated text, and prefills chunks of the prompts that the queue chose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Sequence

from ml.models.base import Chunk, Runner, StepResult
from server.sequences import ChunkedSequence
from server.slots import may_give

Step = dict[ChunkedSequence, Chunk]
"""What one step computes of each sequence."""


class RunningSequences:
    """One model's running sequences. Iterates over them in the order in which they started."""

    def __init__(self, model: str, runner: Runner, capacity: int, chunk_tokens: int) -> None:
        """Let up to `capacity` sequences run. Prompts are prefilled `chunk_tokens` at a time."""
        self.model = model
        self.runner = runner
        self.capacity = capacity
        self._chunk_tokens = chunk_tokens
        self._sequences: dict[ChunkedSequence, None] = {}

    def __iter__(self) -> Iterator[ChunkedSequence]:
        return iter(self._sequences)

    def __len__(self) -> int:
        return len(self._sequences)

    def __contains__(self, sequence: ChunkedSequence) -> bool:
        return sequence in self._sequences

    @property
    def full(self) -> bool:
        """Whether no other sequence can start."""
        return len(self._sequences) >= self.capacity

    def giving_way(
        self, caller: Hashable, beside: Collection[ChunkedSequence], *, may_be_paused: bool
    ) -> ChunkedSequence | None:
        """Which one is preempted for another of `caller`: a paused one, or one of whoever holds most.

        Of the latter's, it is the one that has given way least often, so that none is prefilled again for ever; among
        equals, the one with the least to prefill again. Nothing is lost but that time.

        Args:
            beside: those that have a part in the next step. None of them gives way, nor one of who holds hardly more.
            may_be_paused: whether one more paused one may be preempted.
        """
        active = [each for each in self if not each.waits_for_reader()]
        paused = next((each for each in self if each.paused), None)
        if paused is not None and may_be_paused:
            return paused
        held = Counter(each.caller for each in active)
        others = [each for each in active if each not in beside and may_give(held[each.caller], held[caller])]
        return min(others, key=lambda each: (-held[each.caller], each.times_given_way, len(each.ids)), default=None)

    def start(self, sequence: ChunkedSequence) -> None:
        """Reserve memory for a sequence's keys and values."""
        sequence.start(self.runner.begin())
        self._sequences[sequence] = None

    def stop(self, sequence: ChunkedSequence) -> None:
        """Free a sequence's memory."""
        del self._sequences[sequence]
        number = sequence.number
        sequence.stop()
        if number is not None:
            self.runner.drop(number)

    def schedule(self, prompts: Sequence[ChunkedSequence]) -> list[Step]:
        """Plan the next steps: one that prefills chunks of `prompts` and decodes, and one for each that runs alone.

        Paused sequences take no part.
        """
        alone = [sequence for sequence in prompts if sequence.alone]
        step = {
            sequence: Chunk(sequence.ids[-1:], 1, sequence.number)
            for sequence in self._sequences
            if sequence.is_prefilled and not sequence.waits_for_reader()
        }
        step |= {sequence: sequence.chunk(self._chunk_tokens) for sequence in prompts if sequence not in alone}
        steps = [step, *({sequence: sequence.chunk(self._chunk_tokens)} for sequence in alone)]
        return [each for each in steps if each]

    def run(self, step: Step) -> StepResult:
        """Run a planned step."""
        result = self.runner.step(list(step.values()))
        for (sequence, chunk), cached in zip(step.items(), result.cached_tokens, strict=True):
            if not sequence.is_prefilled:
                sequence.note_prefilled(chunk, cached)
        return result
