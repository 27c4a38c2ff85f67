"""Sequences whose prompts are prefilled in chunks: generated texts, and long prompts of which only logits are asked.

Each chunk is an item of the queue (`server.queue`), so no caller waits for the whole of another's prompt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ml.models.base import Chunk, ModelInfo
from server.batching import Item
from server.calls import Work
from server.questions import LogitsTask
from server.tasks import values_of

CHUNK_TOKENS = {"cpu": 128, "cuda": 1024}
"""Prompt tokens that one step prefills in chunks, by the kind of device: enough rows to make up for loading the
weights, and no more than a batch of two short prompts, which is what another caller's next token then waits for.
Multiples of the prefix cache's block."""

SHARED_TOKENS = {"cpu": 64, "cuda": 1024}
"""Tokens that a caller with much waiting has in a step while others come, by the kind of device: about as many as
lengthen a step by half, which has operations to launch and weights to load however few its tokens are."""

_UNCHUNKED = 4
"""Up to so many chunks, a prompt without generation is prefilled in one pass: chunks take nearly twice as long."""


def chunk_tokens(info: ModelInfo) -> int:
    """Prompt tokens that one step of a model prefills in chunks."""
    return _of_device(CHUNK_TOKENS, info)


def shared_tokens(info: ModelInfo) -> int:
    """Tokens that a caller with much waiting has in a step of a model while others come."""
    return _of_device(SHARED_TOKENS, info)


def is_long(info: ModelInfo, tokens: int) -> bool:
    """Whether a prompt of `tokens` is prefilled in chunks although nothing is generated after it."""
    return tokens > _UNCHUNKED * chunk_tokens(info)


def _of_device(sizes: Mapping[str, int], info: ModelInfo) -> int:
    return sizes.get(info.device.partition(":")[0], sizes["cpu"])


class ChunkedSequence:
    """A sequence whose prompt is prefilled chunk by chunk.

    It waits in the queue, runs while it has a sequence of the model's runner (memory for its keys and values), and may
    be preempted: it then loses that memory, and is prefilled again later. The model's thread owns it; methods and
    attributes of the event loop say so.
    """

    deadline = float("inf")
    """When its caller stops waiting, on the engine's clock."""

    def __init__(
        self,
        model: str,
        ids: Sequence[int],
        wake: Callable[[ChunkedSequence], None],
        *,
        caller: Hashable = None,
        namespace: str = "",
        logits: int = 1,
    ) -> None:
        """Prefill `ids`.

        Args:
            wake: notifies the model's thread that the caller has left, or is ready for more.
            caller: who asks; the queue goes round the callers.
            namespace: whose cached prefixes it may use.
            logits: how many of the last positions have their logits computed. They are all in one chunk.
        """
        self.model = model
        self.caller = caller
        self.namespace = namespace
        self.ids = list(ids)
        """The prompt, and what was generated."""
        self.began = time.monotonic()
        self.queue_seconds = 0.0
        """Time until it ran first."""
        self.model_seconds = 0.0
        """Time of the steps that it was part of."""
        self.cached_tokens: int | None = None
        """How many of the prompt's first tokens came from the prefix cache; None before the prompt is prefilled."""
        self.abandoned = False
        """Whether its caller has left. Set on the event loop."""
        self.item: Item[Any] | None = None
        """Its item in the queue; guarded by the engine's lock."""
        self.number: int | None = None
        """Its sequence in the runner; None while it does not run."""
        self.paused = False
        """Whether it waits for its caller to read."""
        self.finished = False
        """Whether its last answer was computed."""
        self.alone = False
        """Whether it runs in steps of its own, after a step with others failed."""
        self.prefilled_from_cache = 0
        """Tokens of this prefill that came from the prefix cache."""
        self.times_given_way = 0
        """How often it was preempted for another caller."""
        self.running_seconds = 0.0
        """Time for which it had a slot, until it last stopped."""
        self._wake = wake
        self._logits = logits
        self._tokens = len(self.ids)  # to prefill: after a preemption the generated tokens too
        self._prefilled = 0
        self._cached = self._read = 0  # of the prompt: tokens that came from the cache, and tokens ever prefilled
        self._started = 0.0
        self._retried_at = -1  # length at which it last ran alone

    def abandon(self) -> None:
        """Stop after the step in progress, and free the memory. For the event loop."""
        if not self.abandoned:
            self.abandoned = True
            self._wake(self)

    def answer(self, numbers: Any) -> Any:
        """Turn logits, or log-probabilities made from them, into the caller's next answer. The last sets `finished`.

        Raises:
            GlossError: they are not a distribution.
        """
        raise NotImplementedError

    def receive(self, answer: Any) -> None:
        """Take an answer, or an error. For the event loop."""
        raise NotImplementedError

    def waits_for_reader(self) -> bool:
        """Whether it pauses until its caller reads on."""
        return False

    def start(self, number: int) -> None:
        """Run as sequence `number` of the runner, which is empty."""
        self.number = number
        self._started = time.monotonic()
        self._tokens, self._prefilled, self.prefilled_from_cache = len(self.ids), 0, 0

    def stop(self) -> None:
        """Run no more."""
        self.number = None
        self._prefilled = 0
        self.running_seconds += time.monotonic() - self._started

    @property
    def is_prefilled(self) -> bool:
        """Whether the next step decodes."""
        return self._prefilled == self._tokens

    def next_tokens(self, size: int) -> tuple[int, int]:
        """Tokens of the next chunk, about `size`, and tokens that remain after it.

        Every chunk but the last has `size` tokens, so where a prompt is cut does not depend on other sequences.
        """
        total = len(self.ids) if self.number is None else self._tokens
        stop = self._prefilled + size
        if stop > total - self._logits:
            stop = total
        return stop - self._prefilled, total - stop

    def chunk(self, size: int) -> Chunk:
        """The next chunk, of about `size` tokens."""
        tokens, remaining = self.next_tokens(size)
        ids = self.ids[self._prefilled : self._prefilled + tokens]
        return Chunk(ids, 0 if remaining else self._logits, self.number, self.namespace)

    def note_prefilled(self, chunk: Chunk, cached_tokens: int) -> None:
        """Count a chunk as prefilled."""
        # After a preemption the cache has what this sequence itself computed.
        self._cached += max(0, self._prefilled + cached_tokens - max(self._prefilled, self._read))
        self._prefilled += len(chunk.ids)
        self._read = max(self._read, self._prefilled)
        self.prefilled_from_cache += cached_tokens
        if self.is_prefilled:
            self.alone = False
            if self.cached_tokens is None:  # not after a preemption
                self.cached_tokens = self._cached

    def retry_alone(self) -> bool:
        """After a step with others failed: decide whether to retry in steps of its own, which it does once a length."""
        before, self._retried_at = self._retried_at, len(self.ids)
        self.alone = before != len(self.ids)
        return self.alone


class LongPrompt(ChunkedSequence):
    """A task about logits whose prompt is too long for one step."""

    def __init__(
        self, work: Work, task: LogitsTask, wake: Callable[[ChunkedSequence], None], caller: Hashable, deadline: float
    ) -> None:
        """Prefill the prompt of `task`, which is that of `work`."""
        call = work.call
        super().__init__(call.model, task.ids, wake, caller=caller, namespace=call.namespace, logits=task.rows)
        self.deadline = deadline
        self.work = work
        self._task = task

    def answer(self, numbers: Tensor) -> Any:
        """The task's value, from `numbers` float32 [logits, vocabulary]; see `ChunkedSequence.answer`."""
        [value] = values_of([self._task], [numbers])
        self.finished = True
        return value

    def receive(self, answer: Any) -> None:
        """See `ChunkedSequence.receive`."""
        call = self.work.call
        call.model_seconds += self.model_seconds
        call.receive(self.work.index, answer, self.cached_tokens or 0)
