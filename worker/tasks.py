"""The only task: run an explanation. Limits, reports and the final state are kept out of the explainer."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from redis.exceptions import RedisError

from jobs import names, question
from jobs.attempts import Attempt
from jobs.errors import AttemptEndedError, DataCorruptError
from jobs.outage import pause
from ml.explain import Problem, StudyProblem, start
from ml.result import Cost, ExplanationResult, Stage, StudyResult, Update
from schema import convert
from worker.context import WorkerContext, current
from worker.failures import ModelChangedError, to_error
from worker.interruption import Interrupted, TimeLimitReached
from worker.protocol import Began, Ended
from worker.reporting import reported
from worker.slices import Slice, YieldedError

T = TypeVar("T")

_log = logging.getLogger(__name__)


class AttemptState:
    """The last update and the last result of an attempt, and in the end its outcome."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.outcome = "failed"
        self.update: Update | None = None
        self.result: ExplanationResult | StudyResult | None = None

    def follow(self, update: Update) -> None:
        """Keep the newest update."""
        self.update = update
        self.result = update.result or self.result

    def ended(self) -> Ended:
        """Return the message that ends the attempt."""
        # The costs of an attempt that will be resumed are in its checkpoint.
        final = self.outcome in {"succeeded", "failed", "cancelled"} and self.result is not None
        cost = self.result.cost if final and self.result is not None else Cost()
        seconds = time.monotonic() - self.started
        return Ended(self.outcome, seconds, cost.evaluations, cost.tokens_computed, cost.tokens_saved)


def run_explanation(explanation_id: str) -> Ended:
    """Run one explanation up to its final state. Returns how it ended."""
    context = current.get()
    try:
        attempt = persistently(context, lambda: context.store.begin(explanation_id))
    except DataCorruptError as error:
        _log.error("failed: %s", error)
        return Ended("failed")
    if attempt is None:
        return Ended("skipped")
    context.notify(Began(attempt.question.WhichOneof("method") or "none", attempt.waited_seconds))
    state = AttemptState()
    limited = context.interruption.allowed(context.max_job_seconds, spent=attempt.ran_seconds)
    with recorded(context, attempt, state), limited:
        explain(context, attempt, state)
    return state.ended()


def explain(context: WorkerContext, attempt: Attempt, state: AttemptState) -> None:
    """Run the explainer, from the checkpoint if there is one.

    Raises:
        YieldedError: the attempt has yielded to others.
    """
    if attempt.model.digest != context.model.info.digest:
        raise ModelChangedError(expected=attempt.model.digest, actual=context.model.info.digest)
    run = start(
        context.model,
        convert.to_question(attempt.question),
        attempt.checkpoint,
        cache=context.cache.write_only() if attempt.fresh else context.cache,
        namespace=attempt.owner if context.caches_by_tenant else "",
        spent=attempt.ran_seconds,
    )
    queue = names.queue(attempt.model.name)
    time_slice = Slice(context.job_slice_seconds, lambda: context.reports.others_wait(queue), context.outage)
    for update in reported(run, context.reports, attempt, run.checkpoint, context.outage):
        state.follow(update)
        if update.progress.stage is not Stage.DONE and run.resumable and time_slice.over():
            _give_way(context, attempt, state, run.checkpoint())
    if state.result is not None:
        _measure(context, attempt, run.problem, state.result.cost)


def _give_way(context: WorkerContext, attempt: Attempt, state: AttemptState, checkpoint: bytes) -> None:
    progress = None if state.update is None else convert.from_progress(state.update.progress)
    partial = None if state.result is None else convert.from_result(state.result)
    persistently(context, lambda: context.store.give_way(attempt, checkpoint, progress, partial))
    raise YieldedError


def _measure(context: WorkerContext, attempt: Attempt, problem: Problem | StudyProblem, cost: Cost) -> None:
    """Record the throughput, for estimates of waiting times. Skipped while Redis is unavailable."""
    tokens = problem.tokens(cost.evaluations)
    if not (cost.evaluations and cost.duration > 0):
        return  # all values came from the cache
    try:
        context.reports.measured(attempt.model.digest, question.method(attempt.question), tokens, cost.duration)
    except RedisError as error:
        context.outage.failed("measure", error)
    else:
        context.outage.passed("measure")


@contextlib.contextmanager
def recorded(context: WorkerContext, attempt: Attempt, state: AttemptState) -> Iterator[None]:
    """Record how the attempt ends, as the explanation's state and the attempt's outcome."""
    store = context.store
    try:
        try:
            yield
        except (AttemptEndedError, Interrupted, YieldedError):
            raise
        except (Exception, TimeLimitReached) as error:  # noqa: BLE001 - every failure has its place in the record
            failure = to_error(error)
            persistently(context, lambda: store.fail(attempt, failure))
            state.outcome = "failed"
        else:
            _succeed(context, attempt, state)
            state.outcome = "succeeded"
    except AttemptEndedError as ended:
        # QUEUED: it has yielded, or another worker has put it back; releasing it now is harmless in both cases.
        state.outcome = {"RUNNING": "overtaken", "QUEUED": "interrupted"}.get(ended.state, "cancelled")
    except YieldedError:
        state.outcome = "yielded"
    except Interrupted:
        cancelled = persistently(context, lambda: store.cancel_requested(attempt.id))
        state.outcome = "cancelled" if cancelled else "interrupted"


def _succeed(context: WorkerContext, attempt: Attempt, state: AttemptState) -> None:
    update = state.update
    if update is None or update.result is None:
        raise RuntimeError("the explainer ended without a result")
    result, progress = convert.from_result(update.result), convert.from_progress(update.progress)
    persistently(context, lambda: context.store.succeed(attempt, result, progress))


def persistently(context: WorkerContext, step: Callable[[], T]) -> T:
    """Do a step in Redis, and retry as long as Redis is unavailable, so that no result is lost."""
    failures = 0
    while True:
        try:
            answer = step()
        except RedisError as error:
            context.outage.failed("record", error)
            time.sleep(pause(failures))
            failures += 1
        else:
            context.outage.passed("record")
            return answer
