"""Run batches of tasks, measure them, and find out which task of a failed batch is to blame."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from ml.models.base import LanguageModel, Runner
from ml.runtime.preemption import PreemptedError, preemptible
from server.calls import Done, Work
from server.errors import of_model
from server.metrics import Metrics
from server.tasks import Outcome, run

_logger = logging.getLogger(__name__)


class Batches:
    """Runs batches. For the model's thread."""

    def __init__(self, models: Mapping[str, LanguageModel], runners: Mapping[str, Runner], metrics: Metrics) -> None:
        self._models = models
        self._runners = runners
        self._metrics = metrics

    def run(self, batch: Sequence[Work], is_preempted: Callable[[], bool]) -> Done:
        """Run a batch and measure it.

        Raises:
            PreemptedError: it was preempted, and is to run again.
        """
        began = time.monotonic()
        model = batch[0].call.model
        try:
            with preemptible(is_preempted):
                outcome = self._values(model, batch)
            seconds = time.monotonic() - began
            self._observe(batch, outcome, began, seconds)
        except PreemptedError:
            self._metrics.of_model(model).preempted.inc()
            raise
        except Exception as error:  # noqa: BLE001 -- it belongs to the callers of the batch, not to this thread
            failed = [of_model(model, error)] * len(batch)
            return Done(batch, failed, [None] * len(batch), time.monotonic() - began)
        return Done(batch, outcome.values, outcome.cached_tokens, seconds)

    def _values(self, model: str, batch: Sequence[Work]) -> Outcome:
        """Values of a batch. Where they fail together, each runs alone, so that only the culprit's caller sees it."""
        namespaces = [work.call.namespace for work in batch]
        try:
            return run(self._models[model], self._runners[model], [work.task for work in batch], namespaces)
        except PreemptedError:
            raise
        except Exception as error:  # noqa: BLE001 -- whatever it is, it belongs to a caller, not to this thread
            if len(batch) == 1:
                return Outcome([of_model(model, error)], [None], 0)
            _logger.warning("batch of %d failed, running one by one: %s", len(batch), type(error).__name__)
            alone = [self._values(model, [work]) for work in batch]
            return Outcome(
                [value for outcome in alone for value in outcome.values],
                [tokens for outcome in alone for tokens in outcome.cached_tokens],
                sum(outcome.tokens_computed for outcome in alone),
                sum(outcome.tokens_padding for outcome in alone),
            )

    def _observe(self, batch: Sequence[Work], outcome: Outcome, began: float, seconds: float) -> None:
        metrics = self._metrics.of_model(batch[0].model)
        useful = sum(len(work.task.ids) for work in batch)
        metrics.batch_size.observe(len(batch))
        metrics.batch_tokens.observe(outcome.tokens_computed + outcome.tokens_padding)
        metrics.batch_seconds.observe(seconds)
        metrics.prompt_tokens.inc(useful)
        metrics.padding_tokens.inc(outcome.tokens_padding)
        metrics.saved_tokens.inc(max(0, useful - outcome.tokens_computed))
        metrics.note_cached([tokens for tokens in outcome.cached_tokens if tokens is not None])
        for work in batch:
            metrics.queue_seconds.observe(began - work.call.began)
