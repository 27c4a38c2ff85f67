"""Prompts that are read chunk by chunk, each chunk in another step: those of texts, and long ones that nothing follows.

So nobody's next token waits for the whole of anybody's prompt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from torch import Tensor

from ml.models.base import Chunk, ModelInfo
from server.batching import Item
from server.calls import Work
from server.questions import LogitsTask
from server.tasks import values_of

CHUNK_TOKENS = {"cpu": 128, "cuda": 1024}
"""Tokens of prompts that one step reads in chunks, by the kind of device: enough rows to make up for reading the
weights, and no more than a batch of two short prompts, which is what anybody else's next token then waits for.
Multiples of the prefix cache's block."""

_WHOLE_CHUNKS = 4
"""A prompt that nothing follows is read as a whole up to so many chunks: apart they take nearly twice as long."""


def chunk_tokens(info: ModelInfo) -> int:
    """Tokens of prompts that one step of a model reads in chunks."""
    return CHUNK_TOKENS.get(info.device.partition(":")[0], CHUNK_TOKENS["cpu"])


def is_long(info: ModelInfo, tokens: int) -> bool:
    """Whether a prompt of `tokens` that nothing follows is read in chunks all the same."""
    return tokens > _WHOLE_CHUNKS * chunk_tokens(info)


class Prefill:
    """A prompt that is read chunk by chunk. What is not said to be otherwise is for the model's thread."""

    deadline = float("inf")
    """When nobody waits for it any more, on the engine's clock."""

    def __init__(
        self,
        model: str,
        ids: Sequence[int],
        wake: Callable[[Prefill], None],
        *,
        caller: Hashable = None,
        namespace: str = "",
        logits: int = 1,
    ) -> None:
        """Read `ids`.

        Args:
            wake: tells the model's thread that its caller has left, or wants more.
            caller: who asks; callers take turns.
            namespace: whose cached prefixes it may use.
            logits: after how many of the last tokens logits are asked for. One chunk has all of them.
        """
        self.model = model
        self.caller = caller
        self.namespace = namespace
        self.ids = list(ids)
        self.began = time.monotonic()
        self.queue_seconds = 0.0
        """Time until it had a place."""
        self.model_seconds = 0.0
        """Time of the steps that it was part of."""
        self.cached_tokens: int | None = None
        """How many of the prompt's first tokens came from the prefix cache; None until the prompt was read."""
        self.left = False
        """Whether nobody waits for the rest. Set on the event loop."""
        self.item: Item[Any] | None = None
        """What waits in the queue for its next chunk; guarded by the engine's lock."""
        self.number: int | None = None
        """Its sequence in the runner; None where it has no place."""
        self.paused = False
        """Whether it waits for its caller to read."""
        self.ended = False
        """Whether its last step, or what ended it, is on its way to its caller."""
        self.alone = False
        """Whether it is read anew after a step with others failed, in steps of its own."""
        self._wake = wake
        self._logits = logits
        self._tokens = len(self.ids)
        self._read = 0
        self.read_cached = 0
        """How many of the tokens that were read came from the prefix cache."""
        self._placed = 0.0
        self._read_anew = -1

    def leave(self) -> None:
        """Wait no more, and give the place up after the step under way. For the event loop."""
        if not self.left:
            self.left = True
            self._wake(self)

    def answer(self, numbers: Any) -> Any:
        """What the caller is told, of the logits that were asked for or what was made of them; `ended` at its end.

        Raises:
            GlossError: they are no distribution.
        """
        raise NotImplementedError

    def receive(self, answer: Any) -> None:
        """Take an answer, or an error. For the event loop."""
        raise NotImplementedError

    def waits_for_reader(self) -> bool:
        """Whether it pauses until its caller reads on."""
        return False

    def begin(self, number: int) -> None:
        """Take sequence `number`, which has read nothing."""
        self.number = number
        self._placed = time.monotonic()
        self._tokens, self._read, self.read_cached = len(self.ids), 0, 0

    def end(self) -> float:
        """Give the sequence up. Returns the seconds that it had it."""
        self.number = None
        self._read = 0
        return time.monotonic() - self._placed

    @property
    def is_read(self) -> bool:
        """Whether all of the prompt, or of the text so far, was read."""
        return self._read == self._tokens

    def next_tokens(self, size: int) -> tuple[int, int]:
        """How many tokens the next chunk has, about `size`, and how many are left then.

        A chunk is as long as one may be or the last of its prompt: so where prompts are cut does not depend on others.
        """
        total = len(self.ids) if self.number is None else self._tokens
        stop = self._read + size
        if stop > total - self._logits:
            stop = total
        return stop - self._read, total - stop

    def chunk(self, size: int) -> Chunk:
        """The next chunk, of about `size` tokens."""
        tokens, left = self.next_tokens(size)
        ids = self.ids[self._read : self._read + tokens]
        return Chunk(ids, 0 if left else self._logits, self.number, self.namespace)

    def note_read(self, chunk: Chunk, cached_tokens: int) -> None:
        """Count a chunk as read."""
        self._read += len(chunk.ids)
        self.read_cached += cached_tokens
        if self.is_read:
            self.alone = False
            if self.cached_tokens is None:  # not where it reads its own text anew
                self.cached_tokens = self.read_cached

    def read_anew_alone(self) -> bool:
        """Whether to try once more after a step with others failed: once at each length."""
        before, self._read_anew = self._read_anew, len(self.ids)
        self.alone = before != len(self.ids)
        return self.alone


class LongPrompt(Prefill):
    """A task whose prompt is too long for a step."""

    def __init__(
        self, work: Work, task: LogitsTask, wake: Callable[[Prefill], None], caller: Hashable, deadline: float
    ) -> None:
        """Read the prompt of `task`, which is that of `work`."""
        call = work.call
        super().__init__(call.model, task.ids, wake, caller=caller, namespace=call.namespace, logits=task.rows)
        self.deadline = deadline
        self.work = work
        self._task = task

    def answer(self, numbers: Tensor) -> Any:
        """The task's value, of `numbers` float32 [logits, vocabulary]; see `Prefill.answer`."""
        [value] = values_of([self._task], [numbers])
        self.ended = True
        return value

    def receive(self, answer: Any) -> None:
        """See `Prefill.receive`."""
        call = self.work.call
        call.model_seconds += self.model_seconds
        call.receive(self.work.index, answer, self.cached_tokens or 0)
