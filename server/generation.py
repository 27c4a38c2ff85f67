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
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from ml.errors import GlossError
from ml.generation import Generation, Step
from ml.memory import give_back
from ml.models.base import Decoder, LanguageModel, Reader
from server.errors import OverloadedError, of_model
from server.metrics import Metrics

_logger = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0
"""After which a refused caller is told to try again: about a short text's time."""

_MOST_UNREAD = 32
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

    def places(self, model: LanguageModel) -> int:
        """How many texts of `model` may grow together."""
        return max(1, min(self.texts, self.bytes // max(1, model.decoder_bytes)))


class Stream:
    """One text on its way to its caller. Iterate over its steps on the event loop; whoever stops says `leave`."""

    def __init__(self, model: str, ids: Sequence[int], generation: Generation, wake: Callable[[], None]) -> None:
        self.model = model
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
        """Remember that `step` was computed. For the model's thread."""
        self.ids.append(step.token_id)
        self._computed += 1

    def may_be_read_anew(self) -> bool:
        """Whether to try once more after a step with others failed: once at each length. For the model's thread."""
        before, self._read_anew = self._read_anew, len(self.ids)
        return before != len(self.ids)

    def waits_for_reader(self) -> bool:
        """Whether it pauses: from too much that is unread until all of it has been read. For the model's thread."""
        unread = self._computed - self._taken
        self.paused = unread > 0 if self.paused else unread >= _MOST_UNREAD
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
    """One model's texts that have a place, in the decoder's order, and the token that each reads next."""

    decoder: Decoder
    places: int
    streams: list[Stream] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def leave(self, index: int) -> None:
        self.decoder.leave(index)
        self.streams[index], self.tokens[index] = self.streams[-1], self.tokens[-1]
        self.streams.pop()
        self.tokens.pop()


def settle(model: str, reader: Reader) -> None:
    """Let `reader` note what it read. Where it cannot, it only knows less of the prompts to come."""
    try:
        reader.settle()
    except Exception:
        _logger.exception("model=%s cannot note what it read", model)


class Generations:
    """All texts. `offer` is for any thread that holds the engine's lock, the rest for the model's thread."""

    def __init__(
        self,
        models: Mapping[str, LanguageModel],
        readers: Mapping[str, Reader],
        limits: GenerationLimits,
        metrics: Metrics,
        deliver: Callable[[Stream, _Packed | Exception], None],
    ) -> None:
        self._models = models
        self._readers = readers
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
        return any(stream.left or self._has_room(stream) for stream in self._waiting) or any(
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
                for index in reversed(range(len(growing.streams))):
                    if growing.streams[index].left:
                        self._unread |= growing.streams[index].paused
                        growing.leave(index)
                if taking := [i for i, stream in enumerate(growing.streams) if not stream.waits_for_reader()]:
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
            if stream.model in begun or not self._has_room(stream):
                self._waiting.append(stream)
                continue
            begun.add(stream.model)
            with self._failures_of(stream.model, stream):
                if len(growing.streams) >= growing.places:
                    self._displace(growing)
                self._begin(growing, stream)
        if self._unread and not (self._waiting or self._displaced or self._placed()):
            self._unread = False
            give_back()

    @contextmanager
    def _failures_of(self, model: str, *beginning: Stream) -> Iterator[None]:
        """Whatever fails within costs all of a model's texts their decoder's state, and nobody else anything.

        Each of several texts is read anew, alone, so that only the culprit's caller is told.

        Args:
            beginning: a text that may have no place yet.
        """
        try:
            yield
        except Exception as error:  # noqa: BLE001 -- nobody knows whose fault it is
            lost = self._growing.pop(model, None)
            streams = dict.fromkeys([*(lost.streams if lost else ()), *beginning])
            _logger.warning("model=%s a step of %d texts failed: %s", model, len(streams), type(error).__name__)
            for stream in streams:
                if len(streams) > 1 and not stream.ended and stream.may_be_read_anew():
                    self._waiting.append(stream)
                elif not stream.ended:
                    self._deliver(stream, of_model(model, error))

    def _growing_of(self, model: str) -> _Growing:
        if model not in self._growing:
            served = self._models[model]
            self._growing[model] = _Growing(served.decoder(self._readers[model]), self._limits.places(served))
        return self._growing[model]

    def _has_room(self, stream: Stream) -> bool:
        """Whether its model has a place for it, or a text that pauses and can give its own."""
        growing = self._growing.get(stream.model)
        if growing is None or len(growing.streams) < growing.places:
            return True
        return len(self._displaced) < self._limits.waiting and any(s.waits_for_reader() for s in growing.streams)

    def _displace(self, growing: _Growing) -> None:
        """Take the place of a text that pauses."""
        index = next(i for i, stream in enumerate(growing.streams) if stream.paused)
        self._displaced.append(growing.streams[index])
        growing.leave(index)

    def _begin(self, growing: _Growing, stream: Stream) -> None:
        """Read a text's prompt, or the text so far, and choose its next token."""
        began = time.monotonic()
        stream.queue_seconds = stream.queue_seconds or began - stream.began
        try:
            # A copy: what was read is settled only once the next token has joined the text.
            logits = growing.decoder.start(tuple(stream.ids))
        except Exception as error:  # noqa: BLE001 -- whatever it is, it belongs to the caller, not to this thread
            self._deliver(stream, of_model(stream.model, error))
            return
        self._metrics.tokens.labels(stream.model, "prompt").inc(len(stream.ids))
        self._metrics.tokens.labels(stream.model, "saved").inc(growing.decoder.recalled)
        self._metrics.note_recalled(stream.model, [growing.decoder.recalled])
        if stream.cached_tokens is None:  # not where it reads its own text anew
            stream.cached_tokens = growing.decoder.recalled
        growing.streams.append(stream)
        growing.tokens.append(0)
        self._advance(growing, logits.unsqueeze(0), [len(growing.streams) - 1], began)
        settle(stream.model, self._readers[stream.model])

    def _grow(self, growing: _Growing, taking: list[int]) -> None:
        """One step of a model's texts, of those at the indices `taking`."""
        began = time.monotonic()
        everyone = len(taking) == len(growing.streams)
        logits = growing.decoder.step([growing.tokens[i] for i in taking], None if everyone else taking)
        self._advance(growing, logits, taking, began)

    def _advance(self, growing: _Growing, logits: torch.Tensor, indices: list[int], began: float) -> None:
        """Choose the next token of the texts at `indices`, each by its row of `logits`, and tell their callers."""
        log_probabilities = torch.log_softmax(logits.double(), dim=-1).cpu().numpy()
        seconds = time.monotonic() - began
        ended: list[int] = []
        told: list[tuple[Stream, _Packed | Exception]] = []
        for index, row in zip(indices, log_probabilities, strict=True):
            stream = growing.streams[index]
            stream.model_seconds += seconds
            item: Step | Exception
            try:
                if row[0] != row[0]:
                    raise GlossError(
                        f"model {stream.model!r} gives no probabilities (not a number); its weights may be damaged"
                    )
                item = stream.generation.advance(row)
                growing.tokens[index] = item.token_id
                stream.note(item)
            except Exception as error:  # noqa: BLE001 -- a text that cannot go on ends alone
                item = of_model(stream.model, error)
            if isinstance(item, Exception) or item.finish is not None:
                stream.ended = True
                ended.append(index)
            told.append((stream, item if isinstance(item, Exception) else _Packed.of(item)))
        self._metrics.tokens.labels(growing.streams[0].model, "generated").inc(len(indices))
        try:
            for index in reversed(ended):
                growing.leave(index)
        finally:
            for stream, packed in told:  # Only now: who hears of an end may count on the place.
                self._deliver(stream, packed)

    def _placed(self) -> list[Stream]:
        """Texts that have a place; for any thread."""
        return [stream for growing in list(self._growing.values()) for stream in list(growing.streams)]
