"""Texts in the making: the model's thread takes one step of all of them after the other.

Between two steps texts join and leave, so a new one waits for a step and for a place, never for another text's end
when there is room. A text's place is the memory for its keys and values; how many there are follows from a bound on
that memory.

What a text's caller has not read yet is bounded. A text whose caller does not read pauses: it keeps its place while
nobody else wants it. When its caller reads on, it goes on, if need be by reading its own text anew. How long a caller
may take to read is not decided here; see `server.streams`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

import torch

from ml.errors import GlossError
from ml.generation import Generation, Step
from ml.memory import give_back
from ml.models.base import Chunk, LanguageModel, Runner
from server.errors import OverloadedError, of_model
from server.metrics import Metrics

_logger = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0
"""After which a refused caller is told to try again: about a short text's time."""

_MAX_UNREAD = 32
"""Steps of one text that wait for its caller to read them, up to 12 KB each; then the text pauses."""


@dataclass(frozen=True)
class GenerationLimits:
    """Bounds of what is generated at once."""

    texts: int = 16
    """Texts of one model that grow together."""

    bytes: int = 1024**3
    """Memory for keys and values of one model's texts; at least one text has a place."""

    waiting: int = 128
    """Texts of all models that wait for a place, and likewise those that paused and gave theirs to another."""

    def capacity(self, model: LanguageModel) -> int:
        """How many texts of `model` may grow together."""
        return max(1, min(self.texts, self.bytes // max(1, model.sequence_bytes)))


class Stream:
    """One text on its way to its caller. Iterate over its steps on the event loop; whoever stops says `leave`."""

    def __init__(
        self, model: str, ids: Sequence[int], generation: Generation, wake: Callable[[], None], namespace: str = ""
    ) -> None:
        self.model = model
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
        self._read_anew = -1
        self._steps: asyncio.Queue[_Packed | Exception] = asyncio.Queue()
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

    def receive(self, item: _Packed | Exception) -> None:
        """Take what comes next, for the caller to read. For the event loop."""
        if not self.left:
            self._steps.put_nowait(item)

    def note(self, step: Step) -> None:
        """Count `step` as computed. For the model's thread."""
        self.ids.append(step.token_id)
        self._computed += 1

    def may_be_read_anew(self) -> bool:
        """Whether to try once more after a step with others failed: once at each length. For the model's thread."""
        before, self._read_anew = self._read_anew, len(self.ids)
        return before != len(self.ids)

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
class _Packed:
    """A step that waits for its caller. As Python's numbers, a thousand alternatives would take ten times as much."""

    step: Step
    ids: array[int]
    log_probabilities: array[float]

    @classmethod
    def of(cls, step: Step) -> _Packed:
        ids = array("i", [id_ for id_, _ in step.top])
        return cls(replace(step, top=()), ids, array("d", [nats for _, nats in step.top]))

    def unpacked(self) -> Step:
        return replace(self.step, top=tuple(zip(self.ids, self.log_probabilities, strict=True)))


@dataclass
class _Growing:
    """One model's texts that have a place, and the number of the runner's sequence that each is."""

    runner: Runner
    capacity: int
    streams: dict[Stream, int] = field(default_factory=dict)

    def leave(self, stream: Stream) -> None:
        self.runner.drop(self.streams.pop(stream))


def insert_prefixes(model: str, runner: Runner) -> None:
    """Let `runner` cache what it computed. Where it cannot, prompts to come only take longer."""
    try:
        runner.insert_prefixes()
    except Exception:
        _logger.exception("model=%s cannot cache prefixes", model)


class Generations:
    """All texts. `offer` is for any thread that holds the engine's lock, the rest for the model's thread."""

    def __init__(
        self,
        models: Mapping[str, LanguageModel],
        runners: Mapping[str, Runner],
        limits: GenerationLimits,
        metrics: Metrics,
        deliver: Callable[[Stream, _Packed | Exception], None],
    ) -> None:
        self._models = models
        self._runners = runners
        self._limits = limits
        self._metrics = metrics
        self._deliver = deliver
        self._waiting: deque[Stream] = deque()
        self._displaced: list[Stream] = []
        """Texts that paused, and whose place another took."""
        self._growing: dict[str, _Growing] = {}
        self._unread = False
        """Whether a text that paused has been dropped since memory was last given back."""
        metrics.generations.labels("waiting").set_function(lambda: float(len(self._waiting)))
        metrics.generations.labels("growing").set_function(lambda: float(sum(not s.paused for s in self._placed())))
        metrics.generations.labels("paused").set_function(
            lambda: float(len(self._displaced) + sum(s.paused for s in self._placed()))
        )

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return any(stream.left or self._has_capacity(stream) for stream in self._waiting) or any(
            stream.left or not stream.waits_for_reader() for stream in (*self._placed(), *self._displaced)
        )

    def offer(self, stream: Stream) -> None:
        """Let a text wait for a place.

        Raises:
            OverloadedError: too many wait already.
        """
        if len(self._waiting) >= self._limits.waiting:
            raise OverloadedError(_RETRY_SECONDS)
        self._waiting.append(stream)

    def step(self) -> None:
        """Let every text grow by a token, but those that pause, and one of each model begin."""
        for name, growing in list(self._growing.items()):
            with self._failures_of(name):
                for stream in [stream for stream in growing.streams if stream.left]:
                    self._unread |= stream.paused
                    growing.leave(stream)
                if taking := [stream for stream in growing.streams if not stream.waits_for_reader()]:
                    self._grow(growing, taking)
        displaced, self._displaced = self._displaced, []
        for stream in displaced:
            if not stream.left:
                (self._displaced if stream.waits_for_reader() else self._waiting).append(stream)
        begun: set[str] = set()
        # Whoever has no place yet goes round once and keeps the order of arrival.
        for _ in range(len(self._waiting)):
            stream = self._waiting.popleft()
            if stream.left:
                continue
            try:
                growing = self._growing_of(stream.model)
            except Exception as error:  # noqa: BLE001 -- whatever it is, it belongs to the caller, not to this thread
                self._deliver(stream, of_model(stream.model, error))
                continue
            if stream.model in begun or not self._has_capacity(stream):
                self._waiting.append(stream)
                continue
            begun.add(stream.model)
            with self._failures_of(stream.model, stream):
                if len(growing.streams) >= growing.capacity:
                    self._displace(growing)
                self._begin(growing, stream)
        if self._unread and not (self._waiting or self._displaced or self._placed()):
            self._unread = False
            give_back()

    @contextmanager
    def _failures_of(self, model: str, *starting: Stream) -> Iterator[None]:
        """Whatever fails within costs all of a model's texts their sequences, and nobody else anything.

        Each of several texts is read anew, alone, so that only the culprit's caller is told.

        Args:
            starting: a text that may have no place yet.
        """
        try:
            yield
        except Exception as error:  # noqa: BLE001 -- nobody knows whose fault it is
            lost = self._growing.pop(model, None)
            streams = dict.fromkeys([*(lost.streams if lost else ()), *starting])
            _logger.warning("model=%s a step of %d texts failed: %s", model, len(streams), type(error).__name__)
            for stream in streams:
                if lost and stream in lost.streams:
                    with suppress(Exception):
                        lost.leave(stream)
                if len(streams) > 1 and not stream.ended and stream.may_be_read_anew():
                    self._waiting.append(stream)
                elif not stream.ended:
                    self._deliver(stream, of_model(model, error))

    def _growing_of(self, model: str) -> _Growing:
        if model not in self._growing:
            served = self._models[model]
            self._growing[model] = _Growing(self._runners[model], self._limits.capacity(served))
        return self._growing[model]

    def _has_capacity(self, stream: Stream) -> bool:
        """Whether its model has a place for it, or a text that pauses and can give its own."""
        growing = self._growing.get(stream.model)
        if growing is None or len(growing.streams) < growing.capacity:
            return True
        return len(self._displaced) < self._limits.waiting and any(s.waits_for_reader() for s in growing.streams)

    def _displace(self, growing: _Growing) -> None:
        """Take the place of a text that pauses."""
        stream = next(stream for stream in growing.streams if stream.paused)
        self._displaced.append(stream)
        growing.leave(stream)

    def _begin(self, growing: _Growing, stream: Stream) -> None:
        """Read a text's prompt, or the text so far, and choose its next token."""
        began = time.monotonic()
        stream.queue_seconds = stream.queue_seconds or began - stream.began
        number = growing.streams[stream] = growing.runner.begin()
        try:
            result = growing.runner.step([Chunk(stream.ids, 1, number, stream.namespace)])
        except Exception as error:  # noqa: BLE001 -- whatever it is, it belongs to the caller, not to this thread
            growing.leave(stream)
            self._deliver(stream, of_model(stream.model, error))
            return
        self._metrics.tokens.labels(stream.model, "prompt").inc(len(stream.ids))
        [cached] = result.cached_tokens
        self._metrics.tokens.labels(stream.model, "saved").inc(cached)
        self._metrics.note_cached(stream.model, [cached])
        if stream.cached_tokens is None:  # not where it reads its own text anew
            stream.cached_tokens = cached
        self._advance(growing, result.logits[0], [stream], began)
        insert_prefixes(stream.model, growing.runner)

    def _grow(self, growing: _Growing, taking: list[Stream]) -> None:
        """One step of a model's texts, of those that are `taking` part."""
        began = time.monotonic()
        result = growing.runner.step([Chunk(stream.ids[-1:], 1, growing.streams[stream]) for stream in taking])
        self._advance(growing, torch.cat(list(result.logits)), taking, began)

    def _advance(self, growing: _Growing, logits: torch.Tensor, streams: list[Stream], began: float) -> None:
        """Choose the next token of some texts, each by its row of `logits`, and tell their callers."""
        log_probabilities = torch.log_softmax(logits.double(), dim=-1).cpu().numpy()
        seconds = time.monotonic() - began
        deliveries: list[tuple[Stream, _Packed | Exception]] = []
        ended: list[Stream] = []
        for stream, row in zip(streams, log_probabilities, strict=True):
            stream.model_seconds += seconds
            item: Step | Exception
            try:
                if row[0] != row[0]:
                    raise GlossError(
                        f"model {stream.model!r} gives no probabilities (not a number); its weights may be damaged"
                    )
                item = stream.generation.advance(row)
                stream.note(item)
            except Exception as error:  # noqa: BLE001 -- a text that cannot go on ends alone
                item = of_model(stream.model, error)
            if isinstance(item, Exception) or item.finish is not None:
                stream.ended = True
                ended.append(stream)
            deliveries.append((stream, item if isinstance(item, Exception) else _Packed.of(item)))
        self._metrics.tokens.labels(streams[0].model, "generated").inc(len(streams))
        try:
            for stream in ended:
                growing.leave(stream)
        finally:
            for stream, packed in deliveries:  # Only now: who hears of an end may count on the place.
                self._deliver(stream, packed)

    def _placed(self) -> list[Stream]:
        """Texts that have a place; for any thread."""
        return [stream for growing in list(self._growing.values()) for stream in list(growing.streams)]
