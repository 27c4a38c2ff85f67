"""A text on its way from the model's thread to its caller, who may read slower than it grows."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ml.errors import GlossError
from ml.generation import Generation, Step
from server.prefill import Prefill

_MAX_UNREAD = 32
"""Steps of one text that wait for its caller to read them, up to 12 KB each; then the text pauses."""


class Stream(Prefill):
    """One text on its way to its caller. Iterate over its steps on the event loop; whoever stops says `leave`.

    Its `ids` are the prompt and what was generated.
    """

    def __init__(
        self,
        model: str,
        ids: Sequence[int],
        generation: Generation,
        wake: Callable[[Prefill], None],
        *,
        caller: Hashable = None,
        namespace: str = "",
    ) -> None:
        """Continue `ids` by `generation`; see `Prefill`."""
        super().__init__(model, ids, wake, caller=caller, namespace=namespace)
        self.generation = generation
        self._steps: asyncio.Queue[PackedStep | Exception] = asyncio.Queue()
        # The model's thread counts what it computed, the event loop what was taken: neither writes the other's number.
        self._computed = self._taken = 0

    def leave(self) -> None:
        """Give the place up after the step under way, and what was not read at once."""
        while not self._steps.empty():
            self._steps.get_nowait()
        super().leave()

    def answer(self, numbers: npt.NDArray[np.float64]) -> PackedStep:
        """The next step, by the log-probabilities `numbers` [vocabulary]; see `Prefill.answer`."""
        if numbers[0] != numbers[0]:
            raise GlossError(f"model {self.model!r} gives no probabilities (not a number); its weights may be damaged")
        step = self.generation.advance(numbers)
        self.ids.append(step.token_id)
        self._computed += 1
        self.ended = step.finish is not None
        return PackedStep.of(step)

    def receive(self, answer: PackedStep | Exception) -> None:
        """Take what comes next, for the caller to read. For the event loop."""
        if not self.left:
            self._steps.put_nowait(answer)

    def waits_for_reader(self) -> bool:
        """Whether it pauses: from too much that is unread until all of it has been read. For the model's thread."""
        unread = self._computed - self._taken
        self.paused = unread > 0 if self.paused else unread >= _MAX_UNREAD
        return self.paused

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Step:
        """The next step.

        Raises:
            StopAsyncIteration: the last one came before.
            Exception: what went wrong in the model.
        """
        if self.left:
            raise StopAsyncIteration
        try:
            item = await self._steps.get()
        except asyncio.CancelledError:
            self.leave()
            raise
        if isinstance(item, Exception):
            self.left = True
            raise item
        step = item.unpacked()
        self.left = step.finish is not None
        self._taken += 1
        if self._computed == self._taken:  # If it paused, it goes on.
            self._wake(self)
        return step


@dataclass(frozen=True, slots=True)
class PackedStep:
    """A step that waits for its caller. As Python's numbers, a thousand alternatives would take ten times as much."""

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
