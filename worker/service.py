"""A worker at its work, whatever becomes of Redis meanwhile."""

from __future__ import annotations

import logging
import uuid

from redis.exceptions import RedisError

from jobs import names
from jobs.attempts import AttemptStore
from jobs.connection import connect
from worker.liveness import Liveness
from worker.metrics import Metrics
from worker.model_process import ModelProcess
from worker.resident import ResidentWorker
from worker.settings import Settings
from worker.stop import Stop

_log = logging.getLogger(__name__)


def serve(settings: Settings, child: ModelProcess, metrics: Metrics, stop: Stop, address: str) -> None:
    """Load the model, say that it is ready, and take jobs until told to stop.

    Args:
        address: HOST:PORT of the metrics page, for the ready line.

    Raises:
        ModelRefusedError: the model cannot be loaded, now or later.
        StopRequested: told to stop before it was ready.
    """
    with stop.interrupts():
        ready = child.start()
    metrics.load_seconds.set(ready.load_seconds)
    queue = names.queue(ready.model)
    liveness = Liveness(
        AttemptStore(connect(settings.redis_url, patient=False)),
        queue=queue,
        digest=ready.digest,
        worker=uuid.uuid4().hex,
        ready=lambda: child.alive,
        on_depth=metrics.queue_depth.set,
    )
    with stop.interrupts():
        while not liveness.beat():
            stop.wait(1)
    with liveness:
        print(f"ready queue={queue} metrics={address}", flush=True)
        _log.info("explaining %s (digest %.12s)", ready.model, ready.digest)
        while not stop.requested:
            # RQ's loop ends by itself when Redis was away for too long.
            try:
                _work(settings, queue, child, metrics, stop)
            except RedisError as error:
                _log.warning("starting anew, Redis cannot be reached: %s", error)
            stop.wait(0.5)


def _work(settings: Settings, queue: str, child: ModelProcess, metrics: Metrics, stop: Stop) -> None:
    redis = connect(settings.redis_url)
    store = AttemptStore(redis, retention_seconds=settings.retention_seconds, max_attempts=settings.max_attempts)
    # RQ wants a name that no worker had before.
    name = uuid.uuid4().hex
    worker = ResidentWorker(queue, redis, name=name, store=store, child=child, metrics=metrics, stop=stop)
    worker.work(logging_level="WARNING")
    if worker.refusal is not None:
        raise worker.refusal
