"""Texts in the making: the model's thread takes one step of all of them after the other.

Between two steps texts join and leave, so a new one waits for a step and for a place, never for another text's end
when there is one. A text's place is the memory for its keys and values; how many there are follows from a bound on
that memory. Callers take turns in getting places, and their prompts are read in chunks; see `server.running_texts`.

What a text's caller has not read yet is bounded. A text whose caller does not read pauses: it keeps its place while
nobody else wants it. When its caller reads on, it goes on, if need be by reading its own text anew. How long a caller
may take to read is not decided here; see `server.streams`.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch

from ml.errors import GlossError
from ml.generation import Step
from ml.memory import give_back
from ml.models.base import Chunk, LanguageModel, Runner, StepResult
from server.errors import OverloadedError, of_model
from server.metrics import Metrics
from server.round_robin import RoundRobin
from server.running_texts import RunningTexts
from server.text_stream import PackedStep, Stream

_logger = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0
"""After which a refused caller is told to try again: about a short text's time."""


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
        deliver: Callable[[Stream, PackedStep | Exception], None],
    ) -> None:
        self._models = models
        self._runners = runners
        self._limits = limits
        self._metrics = metrics
        self._deliver = deliver
        self._arrived: deque[Stream] = deque()
        """Texts that were offered since the last step; other threads touch nothing else."""
        self._waiting: RoundRobin[Stream] = RoundRobin()
        self._displaced: list[Stream] = []
        """Texts that paused, and whose place another took."""
        self._running: dict[str, RunningTexts] = {}
        self._unread = False
        """Whether a text that paused has been dropped since memory was last given back."""
        metrics.generations.labels("waiting").set_function(self._waiting_texts)
        metrics.generations.labels("growing").set_function(lambda: float(sum(not s.paused for s in self._placed())))
        metrics.generations.labels("paused").set_function(
            lambda: float(len(self._displaced) + sum(s.paused for s in self._placed()))
        )

    @property
    def busy(self) -> bool:
        """Whether there is anything to do; for the model's thread."""
        return (
            bool(self._arrived)
            or any(stream.left or self._has_capacity(stream) for stream in self._waiting)
            or any(stream.left or not stream.waits_for_reader() for stream in (*self._placed(), *self._displaced))
        )

    def offer(self, stream: Stream) -> None:
        """Let a text wait for a place.

        Raises:
            OverloadedError: too many wait already.
        """
        if self._waiting_texts() >= self._limits.waiting:
            raise OverloadedError(_RETRY_SECONDS)
        self._arrived.append(stream)

    def step(self) -> None:
        """Give places to texts that wait, and let every text that does not pause grow by a token, or be read on."""
        for name, running in list(self._running.items()):
            with self._failures_of(name):
                for stream in [stream for stream in running if stream.left]:
                    self._unread |= stream.paused
                    running.leave(stream)
        self._admit()
        for name, running in list(self._running.items()):
            for chunks in running.schedule():
                with self._failures_of(name, *chunks):
                    self._run(name, running, chunks)
                if self._running.get(name) is not running:  # it failed, and all sequences are lost
                    break
        if self._unread and not (self._waiting or self._displaced or self._placed()):
            self._unread = False
            give_back()

    def _admit(self) -> None:
        """Give places to texts that wait, callers in turn."""
        while self._arrived:
            stream = self._arrived.popleft()
            self._waiting.add(stream, stream.caller)
        displaced, self._displaced = self._displaced, []
        for stream in displaced:
            if not stream.left and stream.waits_for_reader():
                self._displaced.append(stream)
            elif not stream.left:
                self._waiting.add(stream, stream.caller)
        for stream in list(self._waiting):
            if stream.left:
                self._waiting.remove(stream)
            elif self._has_capacity(stream):
                self._begin(stream)

    @contextmanager
    def _failures_of(self, model: str, *party: Stream) -> Iterator[None]:
        """Whatever fails within costs all of a model's texts their sequences, and nobody else anything.

        All are read anew: those of `party`, whose fault it may be, each alone, so that only the culprit's caller is
        told. Where it can only be the fault of one, its caller is told at once.
        """
        try:
            yield
        except Exception as error:  # noqa: BLE001 -- nobody knows whose fault it is
            lost = self._running.pop(model, None)
            streams = dict.fromkeys([*(lost or ()), *party])
            _logger.warning(
                "model=%s a step of %d texts failed, %d texts are lost: %s",
                model,
                len(party),
                len(streams),
                type(error).__name__,
            )
            for stream in streams:
                if lost and stream in lost:
                    with suppress(Exception):
                        lost.leave(stream)
                if stream.ended:
                    continue
                if stream not in party or (len(party) > 1 and stream.read_anew_alone()):
                    self._waiting.add(stream, stream.caller)
                else:
                    self._deliver(stream, of_model(model, error))

    def _running_of(self, model: str) -> RunningTexts:
        if model not in self._running:
            capacity = self._limits.capacity(self._models[model])
            self._running[model] = RunningTexts(self._runners[model], capacity)
        return self._running[model]

    def _has_capacity(self, stream: Stream) -> bool:
        """Whether its model has a place for it, or a text that pauses and can give its own."""
        running = self._running.get(stream.model)
        if running is None or not running.full:
            return True
        return len(self._displaced) < self._limits.waiting and any(s.waits_for_reader() for s in running)

    def _begin(self, stream: Stream) -> None:
        """Give a text a place, if need be that of one that pauses. Its caller has had a turn."""
        self._waiting.rotate(stream)
        self._waiting.remove(stream)
        running = self._running.get(stream.model)
        if running is not None and running.full:
            with self._failures_of(stream.model):
                self._displace(running)
        with self._failures_of(stream.model, stream):
            self._running_of(stream.model).begin(stream)

    def _displace(self, running: RunningTexts) -> None:
        """Take the place of a text that pauses."""
        stream = next(stream for stream in running if stream.paused)
        self._displaced.append(stream)
        running.leave(stream)

    def _run(self, model: str, running: RunningTexts, chunks: dict[Stream, Chunk]) -> None:
        """Take a step of some of a model's texts."""
        began = time.monotonic()
        prompts = [stream for stream in chunks if running.is_prefilling(stream)]
        for stream in prompts:
            stream.queue_seconds = stream.queue_seconds or began - stream.began
        result = running.run(chunks)
        self._observe(running, chunks, result, prompts)
        grown = [stream for stream, chunk in chunks.items() if chunk.logits]
        for stream in chunks.keys() - set(grown):
            stream.model_seconds += time.monotonic() - began
        if grown:
            self._advance(running, torch.cat(list(result.logits)), grown, began)
        if prompts:
            insert_prefixes(model, running.runner)

    def _observe(
        self, running: RunningTexts, chunks: dict[Stream, Chunk], result: StepResult, prompts: Collection[Stream]
    ) -> None:
        """Count what was read of `prompts`, and note of those that were read to their end what was cached of them."""
        for (stream, chunk), cached in zip(chunks.items(), result.cached_tokens, strict=True):
            if stream not in prompts:
                continue
            metrics = self._metrics.of_model(stream.model)
            metrics.prompt_tokens.inc(len(chunk.ids))
            metrics.saved_tokens.inc(cached)
            if not running.is_prefilling(stream):
                tokens = running.cached_tokens(stream)
                metrics.note_cached([tokens])
                if stream.cached_tokens is None:  # not where it reads its own text anew
                    stream.cached_tokens = tokens

    def _advance(self, running: RunningTexts, logits: torch.Tensor, streams: list[Stream], began: float) -> None:
        """Choose the next token of some texts, each by its row of `logits`, and tell their callers."""
        log_probabilities = torch.log_softmax(logits.double(), dim=-1).cpu().numpy()
        seconds = time.monotonic() - began
        deliveries: list[tuple[Stream, PackedStep | Exception]] = []
        ended: list[Stream] = []
        again: list[Stream] = []
        for stream, row in zip(streams, log_probabilities, strict=True):
            stream.model_seconds += seconds
            if row[0] != row[0] and stream.read_anew_alone():  # it may be of a prompt that was read beside its own
                again.append(stream)
                continue
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
            deliveries.append((stream, item if isinstance(item, Exception) else PackedStep.of(item)))
        self._metrics.of_model(streams[0].model).generated_tokens.inc(len(deliveries))
        try:
            for stream in (*ended, *again):
                running.leave(stream)
            for stream in again:
                self._waiting.add(stream, stream.caller)
        finally:
            for stream, packed in deliveries:  # Only now: who hears of an end may count on the place.
                self._deliver(stream, packed)

    def _waiting_texts(self) -> int:
        """How many texts wait for a place; for any thread."""
        return len(self._arrived) + len(self._waiting)

    def _placed(self) -> list[Stream]:
        """Texts that have a place; for any thread."""
        return [stream for running in list(self._running.values()) for stream in list(running)]
