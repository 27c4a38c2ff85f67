"""Texts in the making: the model's thread takes one step of all of them after the other.

Between two steps texts join and leave, so a new one waits for a step and for a place, never for another text's end
when there is one. A text's place is the memory for its keys and values; how many there are follows from a bound on
that memory. Whose turn it is to get a place, or to have a chunk of a prompt read, the queue says (`server.batching`).

What a text's caller has not read yet is bounded. A text whose caller does not read pauses: it keeps its place while
nobody else wants it. When its caller reads on, it goes on, if need be by reading its own text anew. How long a caller
may take to read is not decided here; see `server.streams`.
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
from server.prefill import Prefill, chunk_tokens
from server.running_texts import RunningTexts, Step
from server.text_stream import Stream
from server.throughput import Turnover

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GenerationLimits:
    """Bounds of what is generated at once."""

    texts: int = 16
    """Texts of one model that grow together."""

    bytes: int = 1024**3
    """Memory for keys and values of one model's texts; at least one text has a place."""

    displaced: int = 128
    """Texts of all models that paused and gave their place to another."""

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
    """All texts that have a place, or gave it away. What is not said to be otherwise is for the model's thread."""

    def __init__(
        self,
        models: Mapping[str, LanguageModel],
        runners: Mapping[str, Runner],
        limits: GenerationLimits,
        metrics: Metrics,
        *,
        wait: Callable[[Prefill], None],
        deliver: Callable[[Prefill, Any], None],
    ) -> None:
        """Run texts of `models`.

        Args:
            wait: lets a text wait in the queue for its next chunk, or for a place.
            deliver: tells a text's caller a step, a value, or an error.
        """
        self._models = models
        self._runners = runners
        self._limits = limits
        self._metrics = metrics
        self._wait_in_queue = wait
        self._deliver = deliver
        self._displaced: list[Prefill] = []
        """Texts that paused, and whose place another took."""
        self._running: dict[str, RunningTexts] = {}
        self._turnovers = {name: Turnover() for name in models}
        self._unread = False
        """Whether a text that paused has been dropped since memory was last given back."""
        metrics.generations.labels("growing").set_function(lambda: float(sum(not s.paused for s in self._placed())))
        metrics.generations.labels("paused").set_function(
            lambda: float(len(self._displaced) + sum(s.paused for s in self._placed()))
        )

    @property
    def busy(self) -> bool:
        """Whether there is anything to do beside what waits in the queue."""
        return any(text.left or (text.is_read and not text.waits_for_reader()) for text in self._placed()) or any(
            text.left or not text.waits_for_reader() for text in self._displaced
        )

    def item(self, text: Prefill) -> Item[Any]:
        """What waits in the queue for the next chunk of `text`; for whoever holds the engine's lock."""
        size = chunk_tokens(self._models[text.model].info)
        tokens, later = text.next_tokens(size)
        shared = (text.model, "chunks") if self._runners[text.model].pads else text.model
        return Item(
            text,
            tokens=tokens,
            later_tokens=later,
            chunk_tokens=size,
            batch_key=text if text.alone else shared,
            caller=text.caller,
            call=text,
            padded=False,
            deadline=text.deadline,
            pool=text.model if text.number is None else None,
        )

    def free(self) -> dict[Hashable, int]:
        """How many places there are, by model: those that are free, and those of texts that pause."""
        found: dict[Hashable, int] = dict.fromkeys(
            self._models, 1
        )  # Where nothing ran yet, what a place takes is not known.
        for name, running in self._running.items():
            paused = sum(text.waits_for_reader() for text in running)
            found[name] = running.capacity - len(running) + min(paused, self._limits.displaced - len(self._displaced))
        return found

    def ends_per_second(self, model: str) -> float:
        """How often a place becomes free of late; for any thread. Infinite where nothing is known."""
        running = self._running.get(model)
        return float("inf") if running is None else self._turnovers[model].per_second(running.capacity)

    def step(self, prompts: Sequence[Prefill]) -> None:
        """Read a chunk of each of `prompts`, and let every text that is read and does not pause grow by a token."""
        begun = [text for text in prompts if not text.left and (text.number is not None or self._begin(text))]
        for name, running in list(self._running.items()):
            with self._failures_of(name):
                for text in [text for text in running if text.left]:
                    self._unread |= text.paused
                    self._leave(running, text)
        displaced, self._displaced = self._displaced, []
        for text in displaced:
            self._wait(text)
        for name, running in list(self._running.items()):
            for step in running.schedule([text for text in begun if text in running]):
                with self._failures_of(name, *step):
                    self._run(running, step)
                if self._running.get(name) is not running:  # it failed, and all sequences are lost
                    break
        if self._unread and not (self._displaced or self._placed()):
            self._unread = False
            give_back()

    @contextmanager
    def _failures_of(self, model: str, *party: Prefill) -> Iterator[None]:
        """Whatever fails within costs all of a model's texts their sequences, and nobody else anything.

        All are read anew: those of `party`, whose fault it may be, each alone, so that only the culprit's caller is
        told. Where it can only be the fault of one, its caller is told at once.
        """
        try:
            yield
        except Exception as error:  # noqa: BLE001 -- nobody knows whose fault it is
            lost = self._running.pop(model, None)
            texts = dict.fromkeys([*(lost or ()), *party])
            _logger.warning(
                "model=%s a step of %d texts failed, %d texts are lost: %s",
                model,
                len(party),
                len(texts),
                type(error).__name__,
            )
            for text in texts:
                if lost and text in lost:
                    with suppress(Exception):
                        lost.leave(text)
                if text.ended:
                    continue
                if text not in party or (len(party) > 1 and text.read_anew_alone()):
                    self._wait(text)
                else:
                    self._deliver(text, of_model(model, error))

    def _wait(self, text: Prefill) -> None:
        """Let a text wait for its next chunk or for a place; or, where it pauses without one, for its reader."""
        if text.left:
            self._unread |= text.paused
        elif text.number is None and text.waits_for_reader():
            self._displaced.append(text)
        else:
            self._wait_in_queue(text)

    def _begin(self, text: Prefill) -> bool:
        """Give a text a place, if need be that of one that pauses. Returns whether it has one now."""
        running = self._running.get(text.model)
        if running is not None and running.full:
            with self._failures_of(text.model):
                paused = next(each for each in running if each.paused)
                self._displaced.append(paused)
                self._leave(running, paused)
        with self._failures_of(text.model, text):
            self._running_of(text.model).begin(text)
        return text.number is not None

    def _running_of(self, model: str) -> RunningTexts:
        if model not in self._running:
            info, capacity = self._models[model].info, self._limits.capacity(self._models[model])
            self._running[model] = RunningTexts(model, self._runners[model], capacity, chunk_tokens(info))
        return self._running[model]

    def _leave(self, running: RunningTexts, text: Prefill) -> None:
        self._turnovers[text.model].note(running.leave(text))

    def _run(self, running: RunningTexts, step: Step) -> None:
        """Take a step of some of a model's texts."""
        began = time.monotonic()
        prompts = [text for text in step if not text.is_read]
        for text in prompts:
            if not text.queue_seconds:
                text.queue_seconds = began - text.began
                self._metrics.of_model(text.model).queue_seconds.observe(text.queue_seconds)
        result = running.run(step)
        self._observe(step, result, prompts)
        rows = {text: logits for (text, chunk), logits in zip(step.items(), result.logits, strict=True) if chunk.logits}
        for text in [text for text in step if text not in rows]:
            text.model_seconds += time.monotonic() - began
            self._wait(text)
        if rows:
            self._advance(running, rows, began)
        if prompts:
            insert_prefixes(running.model, running.runner)

    def _observe(self, step: Step, result: StepResult, prompts: Collection[Prefill]) -> None:
        """Count what was read of `prompts`, and note of those that were read to their end what was cached of them."""
        for (text, chunk), cached in zip(step.items(), result.cached_tokens, strict=True):
            if text not in prompts:
                continue
            metrics = self._metrics.of_model(text.model)
            metrics.prompt_tokens.inc(len(chunk.ids))
            metrics.saved_tokens.inc(cached)
            if text.is_read:
                metrics.note_cached([text.read_cached])

    def _advance(self, running: RunningTexts, rows: Mapping[Prefill, Tensor], began: float) -> None:
        """Choose the next token of texts, each by its row of logits, answer long prompts, and tell the callers."""
        texts = [text for text in rows if isinstance(text, Stream)]
        found: dict[Prefill, Any] = dict(rows)
        if texts:
            logits = torch.cat([rows[text] for text in texts])
            found.update(zip(texts, torch.log_softmax(logits.double(), dim=-1).cpu().numpy(), strict=True))
        seconds = time.monotonic() - began
        answers: dict[Prefill, Any] = {}
        again: list[Prefill] = []
        for text, numbers in found.items():
            text.model_seconds += seconds
            try:
                answers[text] = text.answer(numbers)
            except Exception as error:  # noqa: BLE001 -- a text that cannot go on ends alone
                # Numbers that are none may be of a prompt that was read beside its own.
                if isinstance(error, GlossError) and text.read_anew_alone():
                    again.append(text)
                else:
                    answers[text] = of_model(text.model, error)
                    text.ended = True
        generated = sum(isinstance(text, Stream) for text in answers)
        self._metrics.of_model(running.model).generated_tokens.inc(generated)
        try:
            for text in (*(text for text in answers if text.ended), *again):
                self._leave(running, text)
            for text in again:
                self._wait(text)
        finally:
            for text, answer in answers.items():  # Only now: who hears of an end may count on the place.
                self._deliver(text, answer)

    def _placed(self) -> list[Prefill]:
        """Texts that have a place; for any thread."""
        return [text for running in list(self._running.values()) for text in list(running)]
