"""Continuous batching: the model's thread takes one step of all running sequences after another.

Sequences start and stop between steps, so a new one waits for a step and for memory, never for another's end while
memory is free. How many may run follows from a bound on the memory of their keys and values. Which of the waiting ones
starts, and whose prompt is prefilled next, is up to the queue (`server.queue`).

What a caller has not read of its text is bounded. A text whose caller does not read pauses. It keeps its memory until
another sequence needs it; then it is preempted, and is prefilled again, with what it had generated, when its caller
reads on. `server.streams` decides how long a caller may take to read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ml.errors import GlossError
from ml.memory import give_back
from ml.models.base import LanguageModel, Runner, StepResult
from server.batching import Item
from server.errors import of_model
from server.metrics import Metrics
from server.running_sequences import RunningSequences, Step
from server.sequences import ChunkedSequence, chunk_tokens
from server.slots import Slots
from server.text_stream import Stream
from server.throughput import Turnover

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GenerationLimits:
    """Bounds on running sequences."""

    sequences: int = 16
    """Running sequences of one model."""

    bytes: int = 1024**3
    """Memory for keys and values of one model's running sequences; one may always run."""

    preempted: int = 128
    """Preempted sequences of all models."""

    def capacity(self, model: LanguageModel) -> int:
        """How many sequences of `model` may run at once."""
        return max(1, min(self.sequences, self.bytes // max(1, model.sequence_bytes)))


def insert_prefixes(model: str, runner: Runner) -> None:
    """Let `runner` cache the prefixes that it computed. A failure costs only time for later prompts."""
    try:
        runner.insert_prefixes()
    except Exception:
        _logger.exception("model=%s cannot cache prefixes", model)


class Generations:
    """All sequences that run or were preempted. For the model's thread, except where a method says otherwise."""

    def __init__(
        self,
        models: Mapping[str, LanguageModel],
        runners: Mapping[str, Runner],
        limits: GenerationLimits,
        metrics: Metrics,
        *,
        wait: Callable[[ChunkedSequence], None],
        deliver: Callable[[ChunkedSequence, Any], None],
    ) -> None:
        """Run sequences of `models`.

        Args:
            wait: puts a sequence into the queue, for its next chunk or to start.
            deliver: sends a sequence's caller a step, a value, or an error.
        """
        self._models = models
        self._runners = runners
        self._limits = limits
        self._metrics = metrics
        self._enqueue = wait
        self._deliver = deliver
        self._preempted: list[ChunkedSequence] = []
        self._running: dict[str, RunningSequences] = {}
        self._turnovers = {name: Turnover() for name in models}
        self._unread = False
        """Whether a paused sequence was abandoned since memory was last returned to the system."""
        metrics.generations.labels("running").set_function(
            lambda: float(sum(not s.paused for s in self._all_running()))
        )
        metrics.generations.labels("paused").set_function(
            lambda: float(len(self._preempted) + sum(s.paused for s in self._all_running()))
        )

    @property
    def busy(self) -> bool:
        """Whether there is anything to do besides what waits in the queue."""
        return any(
            sequence.abandoned or (sequence.is_prefilled and not sequence.waits_for_reader())
            for sequence in self._all_running()
        ) or any(sequence.abandoned or not sequence.waits_for_reader() for sequence in self._preempted)

    def callers(self) -> set[Hashable]:
        """Whose texts are generated now, those left out that their callers do not read."""
        return {sequence.caller for sequence in self._all_running() if not sequence.waits_for_reader()}

    def item(self, sequence: ChunkedSequence) -> Item[Any]:
        """The queue's item for the next chunk of `sequence`. The caller holds the engine's lock."""
        size = chunk_tokens(self._models[sequence.model].info)
        tokens, later = sequence.next_tokens(size)
        shared = (sequence.model, "chunks") if self._runners[sequence.model].pads else sequence.model
        return Item(
            sequence,
            tokens=tokens,
            model=sequence.model,
            later_tokens=later,
            chunk_tokens=size,
            batch_key=sequence if sequence.alone else shared,
            caller=sequence.caller,
            call=sequence,
            padded=False,
            deadline=sequence.deadline,
            needs_slot=sequence.number is None,
        )

    def slots(self) -> dict[str, Slots]:
        """The slots of each model. Free are also those whose callers have left, or that paused sequences give up."""
        # Before the first one runs, the memory of a sequence is not known.
        found = {name: Slots(1) for name in self._models if name not in self._running}
        for name, running in self._running.items():
            staying = [sequence for sequence in running if not sequence.abandoned]
            holders = [sequence.caller for sequence in staying if not sequence.waits_for_reader()]
            paused = max(0, min(len(staying) - len(holders), self._limits.preempted - len(self._preempted)))
            found[name] = Slots(running.capacity - len(staying) + paused, holders)
        return found

    def ends_per_second(self, model: str) -> float:
        """How many sequences of `model` ended per second of late; infinite where nothing is known. For any thread."""
        running = self._running.get(model)
        return float("inf") if running is None else self._turnovers[model].per_second(running.capacity)

    def step(self, prompts: Sequence[ChunkedSequence]) -> float:
        """Prefill a chunk of each of `prompts`, and decode a token of every running sequence that does not pause.

        Returns the seconds that the chunks took: of the steps that prefilled some, as much as is theirs by tokens.
        """
        ran = [sequence for sequence in prompts if sequence.number is not None]
        for name, running in list(self._running.items()):
            with self._failures_of(name):
                for sequence in [sequence for sequence in running if sequence.abandoned]:
                    self._unread |= sequence.paused
                    self._stop(running, sequence)
        # A failure puts those that ran back into the queue: they do not start here.
        started = [
            sequence
            for sequence in prompts
            if not sequence.abandoned and (sequence in ran or self._start(sequence, prompts))
        ]
        preempted, self._preempted = self._preempted, []
        for sequence in preempted:
            self._wait(sequence)
        seconds = 0.0
        for name, running in list(self._running.items()):
            chunks = [sequence for sequence in started if sequence in running]
            for step in running.schedule(chunks):
                began = time.monotonic()
                with self._failures_of(name, *step):
                    self._run(running, step)
                tokens = {sequence: len(chunk.ids) for sequence, chunk in step.items()}
                prefilled = sum(tokens.get(sequence, 0) for sequence in chunks)
                seconds += (time.monotonic() - began) * prefilled / sum(tokens.values())
                if self._running.get(name) is not running:  # It failed, and all sequences lost their memory.
                    break
        if self._unread and not (self._preempted or self._all_running()):
            self._unread = False
            give_back()
        return seconds

    @contextmanager
    def _failures_of(self, model: str, *batch: ChunkedSequence) -> Iterator[None]:
        """Handle an error in a step: every running sequence of the model is prefilled again.

        Those of `batch`, any of which may have caused it, run alone next, so that only the caller of the one that fails
        again gets the error. A batch of one gets it at once.
        """
        try:
            yield
        except Exception as error:  # noqa: BLE001 -- which sequence caused it is not known
            lost = self._running.pop(model, None)
            sequences = dict.fromkeys([*(lost or ()), *batch])
            _logger.warning(
                "model=%s a step of %d sequences failed, %d are prefilled again: %s",
                model,
                len(batch),
                len(sequences),
                type(error).__name__,
            )
            for sequence in sequences:
                if lost and sequence in lost:
                    with suppress(Exception):
                        lost.stop(sequence)
                if sequence.finished:
                    continue
                if sequence not in batch or (len(batch) > 1 and sequence.retry_alone()):
                    self._wait(sequence)
                else:
                    self._deliver(sequence, of_model(model, error))

    def _wait(self, sequence: ChunkedSequence) -> None:
        """Let a sequence wait in the queue, or, where it is preempted and paused, for its reader."""
        if sequence.abandoned:
            self._unread |= sequence.paused
        elif sequence.number is None and sequence.waits_for_reader():
            self._preempted.append(sequence)
        else:
            self._enqueue(sequence)

    def _start(self, sequence: ChunkedSequence, beside: Collection[ChunkedSequence]) -> bool:
        """Let a sequence run, and preempt one that is not `beside` it if need be. Returns whether it runs now."""
        running = self._running.get(sequence.model)
        if running is not None and running.full:
            may_be_paused = sum(each.paused for each in self._preempted) < self._limits.preempted
            giving = running.giving_way(sequence.caller, beside, may_be_paused=may_be_paused)
            if giving is None:
                self._wait(sequence)
                return False
            with self._failures_of(sequence.model):
                self._preempted.append(giving)
                if giving.paused:
                    self._stop(running, giving)
                else:  # It takes a slot again: only the other's end lets one more start.
                    giving.times_given_way += 1
                    running.stop(giving)
        with self._failures_of(sequence.model, sequence):
            self._running_of(sequence.model).start(sequence)
        return sequence.number is not None

    def _running_of(self, model: str) -> RunningSequences:
        if model not in self._running:
            info, capacity = self._models[model].info, self._limits.capacity(self._models[model])
            self._running[model] = RunningSequences(model, self._runners[model], capacity, chunk_tokens(info))
        return self._running[model]

    def _stop(self, running: RunningSequences, sequence: ChunkedSequence) -> None:
        """Free the memory of a sequence, and count its time in a slot as one that has ended."""
        running.stop(sequence)
        self._turnovers[sequence.model].note(sequence.running_seconds)
        sequence.running_seconds = 0.0

    def _run(self, running: RunningSequences, step: Step) -> None:
        """Run one step of a model."""
        began = time.monotonic()
        prompts = [sequence for sequence in step if not sequence.is_prefilled]
        for sequence in prompts:
            if not sequence.queue_seconds:
                sequence.queue_seconds = began - sequence.began
                self._metrics.of_model(sequence.model).queue_seconds.observe(sequence.queue_seconds)
        result = running.run(step)
        self._observe(step, result, prompts)
        rows = {
            sequence: logits
            for (sequence, chunk), logits in zip(step.items(), result.logits, strict=True)
            if chunk.logits
        }
        for sequence in [sequence for sequence in step if sequence not in rows]:
            sequence.model_seconds += time.monotonic() - began
            self._wait(sequence)
        if rows:
            self._answer(running, rows, began)
        if prompts:
            insert_prefixes(running.model, running.runner)

    def _observe(self, step: Step, result: StepResult, prompts: Collection[ChunkedSequence]) -> None:
        """Count the prompt tokens of a step, and the cached ones of each prompt that is prefilled now."""
        for (sequence, chunk), cached in zip(step.items(), result.cached_tokens, strict=True):
            if sequence not in prompts:
                continue
            metrics = self._metrics.of_model(sequence.model)
            metrics.prompt_tokens.inc(len(chunk.ids))
            metrics.saved_tokens.inc(cached)
            if sequence.is_prefilled:
                metrics.note_cached([sequence.prefilled_from_cache])

    def _answer(self, running: RunningSequences, rows: Mapping[ChunkedSequence, Tensor], began: float) -> None:
        """Turn each sequence's logits into its next token, or a long prompt's value, and send them to the callers."""
        streams = [sequence for sequence in rows if isinstance(sequence, Stream)]
        found: dict[ChunkedSequence, Any] = dict(rows)
        if streams:
            logits = torch.cat([rows[stream] for stream in streams])
            found.update(zip(streams, torch.log_softmax(logits.double(), dim=-1).cpu().numpy(), strict=True))
        seconds = time.monotonic() - began
        answers: dict[ChunkedSequence, Any] = {}
        retried: list[ChunkedSequence] = []
        for sequence, numbers in found.items():
            sequence.model_seconds += seconds
            answering = time.monotonic()
            try:
                answers[sequence] = sequence.answer(numbers)
            except Exception as error:  # noqa: BLE001 -- a sequence that cannot go on ends alone
                # A prompt beside it in the step may have made its logits NaN.
                if isinstance(error, GlossError) and sequence.retry_alone():
                    retried.append(sequence)
                else:
                    answers[sequence] = of_model(sequence.model, error)
                    sequence.finished = True
            sequence.model_seconds += time.monotonic() - answering
        generated = sum(isinstance(sequence, Stream) for sequence in answers)
        self._metrics.of_model(running.model).generated_tokens.inc(generated)
        try:
            for sequence in (sequence for sequence in answers if sequence.finished):
                self._stop(running, sequence)
            for sequence in retried:
                running.stop(sequence)
                self._wait(sequence)
        finally:  # After the memory is freed: a caller who learns of an end may count on it.
            for sequence, answer in answers.items():
                self._deliver(sequence, answer)

    def _all_running(self) -> list[ChunkedSequence]:
        """Running sequences of all models. For any thread."""
        return [sequence for running in list(self._running.values()) for sequence in list(running)]
