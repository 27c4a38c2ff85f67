"""The one task. What every job needs (limits, reports, a final state) wraps the explanation and stays out of it."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from redis.exceptions import RedisError

from jobs import convert
from jobs.attempts import Attempt
from jobs.errors import AttemptEndedError, DataCorruptError
from jobs.outage import pause
from ml.explain import Run
from ml.result import Cost, ExplanationResult, Update
from worker.failures import ModelChangedError, to_error
from worker.interruption import Interrupted, TimeLimitReached
from worker.protocol import Began, Ended
from worker.reporting import reported
from worker.residency import Residency, current

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Work:
    """What is known of an attempt: its last update and last result, and in the end its outcome."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.outcome = "failed"
        self.update: Update | None = None
        self.result: ExplanationResult | None = None

    def follow(self, update: Update) -> None:
        """Note the newest update."""
        self.update = update
        self.result = update.result or self.result

    def ended(self) -> Ended:
        """The message of its end."""
        # An attempt that will be resumed hands its costs on, in its checkpoint.
        final = self.outcome in {"succeeded", "failed", "cancelled"} and self.result is not None
        cost = self.result.cost if final and self.result is not None else Cost()
        seconds = time.monotonic() - self.started
        return Ended(self.outcome, seconds, cost.evaluations, cost.tokens_computed, cost.tokens_saved)


def run_explanation(explanation_id: str) -> Ended:
    """Perform one explanation, from its begin to its final state, and say how it ended."""
    resident = current.get()
    try:
        attempt = persistently(resident, lambda: resident.store.begin(explanation_id))
    except DataCorruptError as error:
        _log.error("failed: %s", error)
        return Ended("failed")
    if attempt is None:
        return Ended("skipped")
    resident.notify(Began(attempt.spec.WhichOneof("method") or "none", attempt.waited_seconds))
    work = Work()
    with settled(resident, attempt, work), resident.interruption.allowed(resident.max_job_seconds):
        explain(resident, attempt, work)
    return work.ended()


def explain(resident: Residency, attempt: Attempt, work: Work) -> None:
    """Explain, from where the attempt before came to."""
    if attempt.model.digest != resident.model.info.digest:
        raise ModelChangedError(expected=attempt.model.digest, actual=resident.model.info.digest)
    run = Run(resident.model, convert.to_spec(attempt.spec), attempt.checkpoint, cache=resident.cache)
    for update in reported(run, resident.reports, attempt, run.checkpoint, resident.outage):
        work.follow(update)


@contextlib.contextmanager
def settled(resident: Residency, attempt: Attempt, work: Work) -> Iterator[None]:
    """Turn the end of the work, whatever it is, into the explanation's state and the work's outcome."""
    store = resident.store
    try:
        try:
            yield
        except (AttemptEndedError, Interrupted):
            raise
        except (Exception, TimeLimitReached) as error:  # noqa: BLE001 - every failure has its place in the record
            failure = to_error(error)
            persistently(resident, lambda: store.fail(attempt, failure))
            work.outcome = "failed"
        else:
            _succeed(resident, attempt, work)
            work.outcome = "succeeded"
    except AttemptEndedError as ended:
        work.outcome = "overtaken" if ended.state in {"QUEUED", "RUNNING"} else "cancelled"
    except Interrupted:
        cancelled = persistently(resident, lambda: store.cancel_requested(attempt.id))
        work.outcome = "cancelled" if cancelled else "interrupted"


def _succeed(resident: Residency, attempt: Attempt, work: Work) -> None:
    update = work.update
    if update is None or update.result is None:
        raise RuntimeError("the explainer ended without a result")
    result, progress = convert.from_result(update.result), convert.from_progress(update.progress)
    persistently(resident, lambda: resident.store.succeed(attempt, result, progress))


def persistently(resident: Residency, step: Callable[[], T]) -> T:
    """Take a step in Redis, however long Redis is away or refuses: its outcome is all that the work was for."""
    failures = 0
    while True:
        try:
            answer = step()
        except RedisError as error:
            resident.outage.failed("settle", error)
            time.sleep(pause(failures))
            failures += 1
        else:
            resident.outage.passed("settle")
            return answer
