"""A generated text on its way from the model's thread to its caller, who may read more slowly than it is generated."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ml.errors import GlossError
from ml.generation import Generation, Step
from server.sequences import ChunkedSequence

_MAX_UNREAD = 32
"""Steps of one text that its caller has not read, up to 12 KB each; then the text pauses."""


class Stream(ChunkedSequence):
    """One generated text. Iterate over its steps on the event loop; call `abandon` to stop early."""

    def __init__(
        self,
        model: str,
        ids: Sequence[int],
        generation: Generation,
        wake: Callable[[ChunkedSequence], None],
        *,
        caller: Hashable = None,
        namespace: str = "",
    ) -> None:
        """Continue `ids` by `generation`; see `ChunkedSequence`."""
        super().__init__(model, ids, wake, caller=caller, namespace=namespace)
        self.generation = generation
        self._steps: asyncio.Queue[PackedStep | Exception] = asyncio.Queue()
        # Only the model's thread writes the first, and only the event loop the second.
        self._computed = self._taken = 0

    def abandon(self) -> None:
        """Drop unread steps at once, and stop after the step in progress."""
        while not self._steps.empty():
            self._steps.get_nowait()
        super().abandon()

    def answer(self, numbers: npt.NDArray[np.float64]) -> PackedStep:
        """The next step, by the log-probabilities `numbers` [vocabulary]; see `ChunkedSequence.answer`."""
        if numbers[0] != numbers[0]:
            raise GlossError(f"model {self.model!r} gives no probabilities (not a number); its weights may be damaged")
        step = self.generation.advance(numbers)
        self.ids.append(step.token_id)
        self._computed += 1
        self.finished = step.finish is not None
        return PackedStep.of(step)

    def receive(self, answer: PackedStep | Exception) -> None:
        """Queue a step, or an error, for the caller to read. For the event loop."""
        if not self.abandoned:
            self._steps.put_nowait(answer)

    def waits_for_reader(self) -> bool:
        """Whether it pauses: from too many unread steps until all are read. For the model's thread."""
        unread = self._computed - self._taken
        self.paused = unread > 0 if self.paused else unread >= _MAX_UNREAD
        return self.paused

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Step:
        """The next step.

        Raises:
            StopAsyncIteration: the text is complete.
            Exception: the model failed.
        """
        if self.abandoned:
            raise StopAsyncIteration
        try:
            item = await self._steps.get()
        except asyncio.CancelledError:
            self.abandon()
            raise
        if isinstance(item, Exception):
            self.abandoned = True
            raise item
        step = item.unpacked()
        self.abandoned = step.finish is not None
        self._taken += 1
        if self._computed == self._taken:  # If it paused, it goes on.
            self._wake(self)
        return step


@dataclass(frozen=True, slots=True)
class PackedStep:
    """A step that waits for its caller, in a tenth of the memory that its alternatives take as Python objects."""

    step: Step
    ids: array[int]
    log_probabilities: array[float]

    @classmethod
    def of(cls, step: Step) -> PackedStep:
        """Pack `step`."""
        ids = array("i", [id_ for id_, _ in step.top])
        return cls(replace(step, top=()), ids, array("d", [nats for _, nats in step.top]))

    def unpacked(self) -> Step:
        """The step as it was."""
        return replace(self.step, top=tuple(zip(self.ids, self.log_probabilities, strict=True)))
