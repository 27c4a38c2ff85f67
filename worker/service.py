"""The worker's main loop: load the model, send heartbeats, take jobs, and start over after an outage of Redis."""

from __future__ import annotations

import logging
import time
import uuid

from redis.exceptions import RedisError

from jobs import names
from jobs.attempts import AttemptStore
from jobs.connection import connect
from jobs.outage import Outage, pause
from worker.liveness import Liveness
from worker.loading import load
from worker.metrics import Metrics
from worker.model_process import ModelProcess, ModelRefusedError
from worker.resident import ResidentWorker
from worker.settings import Settings
from worker.stop import Stop

_STEADY_SECONDS = 30.0
"""After a run of so many seconds the backoff is reset."""

_log = logging.getLogger(__name__)


def serve(settings: Settings, child: ModelProcess, metrics: Metrics, stop: Stop, address: str) -> None:
    """Load the model, print the ready line, and take jobs until a signal stops it.

    Args:
        address: HOST:PORT of the metrics page, for the ready line.

    Raises:
        ModelRefusedError: the model cannot be loaded, now or later.
        StopRequested: a signal came before it was ready.
    """
    ready = load(child, metrics, stop)
    outage = Outage(_log)
    queue = names.queue(ready.model)
    liveness = Liveness(
        AttemptStore(connect(settings.redis_url, patient=False)),
        queue=queue,
        digest=ready.digest,
        worker=uuid.uuid4().hex,
        ready=lambda: child.alive,
        on_depth=metrics.queue_depth.set,
        outage=outage,
    )
    with stop.interrupts():
        while not liveness.heartbeat():
            stop.wait(1)
    with liveness:
        print(f"ready queue={queue} metrics={address}", flush=True)
        _log.info("explaining %s (digest %.12s)", ready.model, ready.digest)
        failures = 0
        while not stop.requested:
            began = time.monotonic()
            try:
                _work(settings, queue, child=child, metrics=metrics, stop=stop, outage=outage)
            except RedisError as error:
                outage.failed("work", error)
            except ModelRefusedError:
                raise
            except Exception:  # noqa: BLE001 - a worker with its model loaded is worth another try
                _log.exception("unexpected error; starting over")
            failures = failures + 1 if time.monotonic() - began < _STEADY_SECONDS else 0
            stop.wait(pause(failures))


def _work(settings: Settings, queue: str, *, child: ModelProcess, metrics: Metrics, stop: Stop, outage: Outage) -> None:
    redis = connect(settings.redis_url)
    store = AttemptStore(redis, retention_seconds=settings.retention_seconds, max_attempts=settings.max_attempts)
    # RQ needs a unique name.
    name = uuid.uuid4().hex
    ResidentWorker(queue, redis, name=name, store=store, child=child, metrics=metrics, stop=stop, outage=outage).work()
