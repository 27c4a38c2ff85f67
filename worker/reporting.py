"""Write progress and partial results to the explanation's record, at a bounded rate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from redis.exceptions import RedisError

from jobs.attempts import Attempt, AttemptStore
from jobs.outage import Outage
from ml.result import ExplanationResult, StudyResult, Update
from schema import convert

REPORT_SECONDS = 0.25
CHECKPOINT_SECONDS = 1.0
"""The longest time between two checkpoints of a young attempt. The first comes with the second report: otherwise
workers
that always die sooner would never make progress."""
_CHECKPOINT_SHARE = 0.05
"""The largest share of the time for checkpoints, which are large for long explanations."""
_AWAY_SECONDS = 2.0
_AWAY_SHARE = 0.2
"""The largest share of the time for failing writes while Redis is unavailable."""


def reported(
    updates: Iterable[Update], store: AttemptStore, attempt: Attempt, checkpoint: Callable[[], bytes], outage: Outage
) -> Iterator[Update]:
    """Pass updates through and write them to the record: the first result at once, later ones a few times a second.

    While Redis is unavailable, the work goes on without reports.

    Raises:
        AttemptEndedError: the attempt was cancelled, deleted or overtaken.
    """
    report = _Reporter(store, attempt, checkpoint, outage)
    for update in updates:
        report(update)
        yield update


class _Reporter:
    def __init__(self, store: AttemptStore, attempt: Attempt, checkpoint: Callable[[], bytes], outage: Outage) -> None:
        self._store = store
        self._attempt = attempt
        self._checkpoint = checkpoint
        self._outage = outage
        self._shown_result = False
        self._unshown: ExplanationResult | StudyResult | None = None
        self._next_report = 0.0
        self._began = time.monotonic()
        self._next_checkpoint = self._began + REPORT_SECONDS

    def __call__(self, update: Update) -> None:
        self._unshown = update.result or self._unshown
        first_result = self._unshown is not None and not self._shown_result
        if not first_result and time.monotonic() < self._next_report:
            return
        partial = None if self._unshown is None else convert.from_result(self._unshown)
        asked = time.monotonic()
        try:
            self._store.progress(self._attempt, convert.from_progress(update.progress), partial, self._saved())
        except RedisError as error:
            self._outage.failed("report", error)
            now = time.monotonic()
            self._next_report = now + max(_AWAY_SECONDS, (now - asked) / _AWAY_SHARE)
            return
        self._outage.passed("report")
        self._shown_result = self._shown_result or partial is not None
        self._unshown = None
        self._next_report = time.monotonic() + REPORT_SECONDS

    def _saved(self) -> bytes | None:
        started = time.monotonic()
        if started < self._next_checkpoint:
            return None
        saved = self._checkpoint()
        took = time.monotonic() - started
        doubled = started - self._began
        self._next_checkpoint = started + max(min(doubled, CHECKPOINT_SECONDS), took / _CHECKPOINT_SHARE)
        return saved
