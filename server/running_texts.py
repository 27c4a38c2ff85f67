"""The texts of one model that have a place, and what its next step reads of each.

A step reads one token of every text that is being decoded, and chunks of the prompts whose turn it is. Long prompts
that nothing follows have places as texts do, until they are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ml.models.base import Chunk, Runner, StepResult
from server.prefill import Prefill

Step = dict[Prefill, Chunk]
"""What is read of each text in one step."""


class RunningTexts:
    """One model's texts that have a place. Iterates over them in the order in which they got it."""

    def __init__(self, model: str, runner: Runner, capacity: int, chunk_tokens: int) -> None:
        """Have places for `capacity` texts in the `runner` of `model`. Prompts are read `chunk_tokens` at a time."""
        self.model = model
        self.runner = runner
        self.capacity = capacity
        self._chunk_tokens = chunk_tokens
        self._texts: dict[Prefill, None] = {}

    def __iter__(self) -> Iterator[Prefill]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def __contains__(self, text: Prefill) -> bool:
        return text in self._texts

    @property
    def full(self) -> bool:
        """Whether all places are taken."""
        return len(self._texts) >= self.capacity

    def begin(self, text: Prefill) -> None:
        """Give a text a place."""
        text.begin(self.runner.begin())
        self._texts[text] = None

    def leave(self, text: Prefill) -> float:
        """Free a text's place. Returns the seconds that it had it."""
        del self._texts[text]
        number, seconds = text.number, text.end()
        if number is not None:
            self.runner.drop(number)
        return seconds

    def schedule(self, prompts: Sequence[Prefill]) -> list[Step]:
        """What to read next, in one step or two: the next chunks of `prompts`, and a token of all that are decoded.

        Of texts that pause nothing is read. One that is read anew, alone, has a step of its own.
        """
        alone = [text for text in prompts if text.alone]
        step = {
            text: Chunk(text.ids[-1:], 1, text.number)
            for text in self._texts
            if text.is_read and not text.waits_for_reader()
        }
        step |= {text: text.chunk(self._chunk_tokens) for text in prompts if text not in alone}
        return [each for each in (step, *({text: text.chunk(self._chunk_tokens)} for text in alone)) if each]

    def run(self, step: Step) -> StepResult:
        """Read what was scheduled."""
        result = self.runner.step(list(step.values()))
        for (text, chunk), cached in zip(step.items(), result.cached_tokens, strict=True):
            if not text.is_read:
                text.note_read(chunk, cached)
        return result
