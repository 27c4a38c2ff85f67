"""A text on its way from the model's thread to its caller, who may read slower than it grows."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

from ml.generation import Generation, Step

_MAX_UNREAD = 32
"""Steps of one text that wait for its caller to read them, up to 12 KB each; then the text pauses."""


class Stream:
    """One text on its way to its caller. Iterate over its steps on the event loop; whoever stops says `leave`."""

    def __init__(
        self,
        model: str,
        ids: Sequence[int],
        generation: Generation,
        wake: Callable[[], None],
        *,
        caller: Hashable = None,
        namespace: str = "",
    ) -> None:
        self.model = model
        self.caller = caller
        """Who asks; callers take turns."""
        self.namespace = namespace
        """Whose cached prefixes it may use."""
        self.ids = list(ids)
        """The prompt and what was generated."""
        self.generation = generation
        self.left = False
        """Whether nobody waits for the rest."""
        self.began = time.monotonic()
        self.queue_seconds = 0.0
        """Time until it had a place."""
        self.model_seconds = 0.0
        """Time of the steps that it was part of."""
        self.cached_tokens: int | None = None
        """How many of the prompt's first tokens came from the prefix cache; None until the prompt was read."""
        self.paused = False
        """Whether it waits for its caller to read; for the model's thread."""
        self.ended = False
        """Whether its last step, or what ended it, is on its way to its caller; for the model's thread."""
        self.alone = False
        """Whether it is read anew after a step with others failed, in steps of its own; for the model's thread."""
        self._read_anew = -1
        self._steps: asyncio.Queue[PackedStep | Exception] = asyncio.Queue()
        # The model's thread counts what it computed, the event loop what was taken: neither writes the other's number.
        self._computed = self._taken = 0
        self._wake = wake

    def leave(self) -> None:
        """Give the place up after the step under way, and what was not read at once."""
        while not self._steps.empty():
            self._steps.get_nowait()
        if not self.left:
            self.left = True
            self._wake()

    def receive(self, item: PackedStep | Exception) -> None:
        """Take what comes next, for the caller to read. For the event loop."""
        if not self.left:
            self._steps.put_nowait(item)

    def note(self, step: Step) -> None:
        """Count `step` as computed. For the model's thread."""
        self.ids.append(step.token_id)
        self._computed += 1

    def read_anew_alone(self) -> bool:
        """Whether to try once more after a step with others failed: once at each length. For the model's thread."""
        before, self._read_anew = self._read_anew, len(self.ids)
        self.alone = before != len(self.ids)
        return self.alone

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
            self._wake()
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
