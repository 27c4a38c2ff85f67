"""The texts of one model that have a place, and what its next step reads of each.

A step reads one token of every text that is being decoded, and a bounded number of tokens of others' prompts: a long
prompt is read in chunks, so that nobody waits for more than one of them. Callers take turns with them, and so do
the texts of one caller.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ml.models.base import Chunk, Runner, StepResult
from server.round_robin import RoundRobin
from server.text_stream import Stream

PREFILL_TOKENS = 128
"""Tokens of prompts that one step reads: enough rows to make up for reading the weights, and no more than a batch of
two short prompts, which is what anybody else's next token then waits for. A multiple of the prefix cache's block."""


@dataclass(slots=True)
class _Sequence:
    """A text's sequence in the runner, and how far its prompt, or the text so far, has been read."""

    number: int
    prompt_tokens: int
    read: int = 0
    cached_tokens: int = 0


class RunningTexts:
    """One model's texts that have a place. Iterates over them in the order in which they got it."""

    def __init__(self, runner: Runner, capacity: int) -> None:
        """Have places for `capacity` texts in `runner`."""
        self.runner = runner
        self._capacity = capacity
        self._sequences: dict[Stream, _Sequence] = {}
        self._prefilling: RoundRobin[Stream] = RoundRobin()

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._sequences)

    def __len__(self) -> int:
        return len(self._sequences)

    def __contains__(self, stream: Stream) -> bool:
        return stream in self._sequences

    @property
    def full(self) -> bool:
        """Whether all places are taken."""
        return len(self._sequences) >= self._capacity

    def begin(self, stream: Stream) -> None:
        """Give a text a place."""
        self._sequences[stream] = _Sequence(self.runner.begin(), len(stream.ids))
        self._prefilling.add(stream, stream.caller)

    def leave(self, stream: Stream) -> None:
        """Free a text's sequence."""
        self._prefilling.remove(stream)
        self.runner.drop(self._sequences.pop(stream).number)

    def is_prefilling(self, stream: Stream) -> bool:
        """Whether more of its prompt is to be read."""
        return stream in self._prefilling

    def cached_tokens(self, stream: Stream) -> int:
        """How many of its tokens came from the prefix cache."""
        return self._sequences[stream].cached_tokens

    def schedule(self) -> list[dict[Stream, Chunk]]:
        """What to read next, in one step or two; of texts that pause, nothing.

        A text that is read anew, alone, has a step of its own, and others' prompts wait meanwhile.
        """
        growing = {stream for stream in self._sequences if not stream.waits_for_reader()}
        prompts = [stream for stream in self._prefilling if stream in growing]
        alone = [stream for stream in prompts if stream.alone][:1]
        step = {
            stream: Chunk(stream.ids[-1:], 1, sequence.number)
            for stream, sequence in self._sequences.items()
            if stream in growing and not self.is_prefilling(stream)
        }
        step |= self._chunks([] if alone else prompts)
        return [each for each in (step, self._chunks(alone)) if each]

    def run(self, step: dict[Stream, Chunk]) -> StepResult:
        """Read what was scheduled."""
        result = self.runner.step(list(step.values()))
        for (stream, chunk), cached in zip(step.items(), result.cached_tokens, strict=True):
            if not self.is_prefilling(stream):
                continue
            sequence = self._sequences[stream]
            sequence.read += len(chunk.ids)
            sequence.cached_tokens += cached
            self._prefilling.rotate(stream)
            if chunk.logits:
                self._prefilling.remove(stream)
                stream.alone = False
        return result

    def _chunks(self, prompts: Iterable[Stream]) -> dict[Stream, Chunk]:
        """Chunks of prompts, of at most `PREFILL_TOKENS` altogether; whoever is first has one.

        A chunk is as long as one may be or the last of its prompt: so where prompts are cut does not depend on others.
        """
        chunks: dict[Stream, Chunk] = {}
        left = PREFILL_TOKENS
        for stream in prompts:
            sequence = self._sequences[stream]
            stop = min(sequence.read + PREFILL_TOKENS, sequence.prompt_tokens)
            if stop - sequence.read > left:
                continue
            left -= stop - sequence.read
            ids = stream.ids[sequence.read : stop]
            chunks[stream] = Chunk(ids, int(stop == sequence.prompt_tokens), sequence.number, stream.namespace)
        return chunks
