"""Start the child until its model is loaded."""

from __future__ import annotations

import logging

from jobs.outage import pause
from worker.metrics import Metrics
from worker.model_process import ChildLostError, ModelProcess
from worker.protocol import Ready
from worker.stop import Stop

_MAX_PAUSE_SECONDS = 60.0

_log = logging.getLogger(__name__)


def load(child: ModelProcess, metrics: Metrics, stop: Stop) -> Ready:
    """Start the child, and again with exponential backoff if it dies while loading, as for lack of memory.

    Raises:
        ModelRefusedError: the model cannot be loaded.
        StopRequested: a signal came meanwhile.
    """
    failures = 0
    while True:
        try:
            with stop.interrupts():
                ready = child.start()
        except ChildLostError as error:
            seconds = pause(failures, _MAX_PAUSE_SECONDS)
            failures += 1
            metrics.child_restarts.inc()
            _log.error("%s; it is started again in %.2f s", error, seconds)
            stop.wait(seconds)
        else:
            metrics.load_seconds.set(ready.load_seconds)
            return ready
