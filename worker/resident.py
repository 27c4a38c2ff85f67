"""An RQ worker whose jobs run in one resident child.

RQ's own workers start a process for each job, which would load the model each time, or run jobs in the worker itself,
where nothing can stop them. Here RQ only sees the parent, which takes jobs, sends their heartbeats, follows commands
and releases jobs. The child only explains, and writes results to the explanation's record. RQ's record of a job only
serves as its place in the queue.
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import Any, cast

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.exceptions import DequeueTimeout, DeserializationError, StopRequested
from rq.executions import Execution
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import now
from rq.worker import Worker, WorkerStatus

from jobs.attempts import AttemptStore
from jobs.outage import Outage, is_of_another_type, pause
from jobs.rq import GlossJob, TaskNotAllowedError, open_queue
from worker.loading import load
from worker.metrics import Metrics
from worker.model_process import ChildLostError, ModelProcess
from worker.protocol import Asked, Began, Ended
from worker.stop import Stop

HEARTBEAT_SECONDS = 1.0
HEARTBEAT_TTL = 6
"""Seconds without a heartbeat after which others take over a worker's job."""

_TICK_SECONDS = 0.1
_RECONNECT_SECONDS = 2.0

_log = logging.getLogger(__name__)


class ResidentWorker(Worker):
    """RQ's worker around a `ModelProcess`, with a loop of its own: one job that RQ cannot read would end RQ's.

    Args:
        queue: RQ's name of the queue.
        redis: a client that retries through a restart of Redis.
        name: a unique name.
        store: the explanations' store.
        child: the process with the model, started.
        metrics: the worker's metrics.
        stop: the request to stop.
        outage: logs failures of Redis.
    """

    def __init__(
        self,
        queue: str,
        redis: Redis,
        *,
        name: str,
        store: AttemptStore,
        child: ModelProcess,
        metrics: Metrics,
        stop: Stop,
        outage: Outage,
    ) -> None:
        self._store = store
        self._child = child
        self._metrics = metrics
        self._stop = stop
        self._outage = outage
        super().__init__(
            # One queue per worker: from several, RQ pops jobs such that they are lost when the worker dies.
            [open_queue(queue, redis)],
            name=name,
            connection=redis,
            job_class=GlossJob,
            serializer=JSONSerializer,
            job_monitoring_interval=2,
            maintenance_interval=1,
            worker_ttl=17,
        )

    def work(self, burst: bool = False) -> None:  # type: ignore[override]
        """Take jobs until a signal stops it; with `burst`, until none waits.

        Raises:
            RedisError: Redis is unavailable. This worker cannot go on: make another one.
            ModelRefusedError: the child had to be replaced, and the model cannot be loaded any more.
        """
        try:
            self.bootstrap("CRITICAL")  # `Outage` logs errors of Redis, once
            while True:
                self.check_for_suspension(burst)
                taken = self.dequeue_job_and_maintain_ttl(None if burst else self.dequeue_timeout)
                if taken is None:
                    return
                self.execute_job(*taken)
                self.heartbeat()
        except StopRequested:
            return
        finally:
            self.teardown()

    # The job

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Have the child run one job, and release it."""
        job.origin = queue.name  # whatever its record says
        try:
            cast("GlossJob", job).check()
            execution = self.prepare_execution(job)
            self.prepare_job_execution(job, remove_from_intermediate_queue=True)
        except (TaskNotAllowedError, DeserializationError) as error:
            self._refuse(job.id, error)
        except RedisError as error:
            if not _is_about(job.id, error):
                raise
            self._refuse(job.id, error)
        else:
            outcome = self._supervise(job, execution)
            self._release(job, queue, execution, outcome)
        self.set_state(WorkerStatus.IDLE)

    def _refuse(self, job_id: str, error: Exception) -> None:
        _log.error("dropped job %.64s, which cannot be run: %s %.300s", job_id, type(error).__name__, error)
        self._store.refuse(self.queues[0].name, job_id)

    def _supervise(self, job: Job, execution: Execution) -> str:
        """Supervise the child until its job is over. Returns the outcome that it sends, or "lost"."""
        started = last_heartbeat = time.monotonic()
        killed = False
        try:
            self._child.run(job.id)
            while True:
                message = self._child.receive(_TICK_SECONDS)
                if isinstance(message, Began):
                    self._metrics.began(message)
                elif isinstance(message, Asked):
                    self._metrics.asked(message)
                elif isinstance(message, Ended):
                    self._child.finished()
                    self._metrics.ended(message)
                    return message.outcome
                if self._stop.overdue:
                    self._child.interrupt()
                if self._child.unresponsive:
                    _log.warning("the model's process ignores its interruption and is replaced")
                    killed = True
                    self._child.kill()
                    raise ChildLostError
                if time.monotonic() - last_heartbeat >= HEARTBEAT_SECONDS:
                    self._heartbeat(job, execution)
                    last_heartbeat = time.monotonic()
        except ChildLostError:
            self._child.finished()
            self._metrics.lost(time.monotonic() - started)
            if not killed:
                _log.error("the model's process died (%s) during %s", self._child.exit_status(), job.id)
            return "interrupted" if killed else "lost"

    def _heartbeat(self, job: Job, execution: Execution) -> None:
        try:
            self.maintain_heartbeats(job, execution)
            if self._store.cancel_requested(job.id):  # the command may have been lost
                self._child.interrupt()
        except RedisError as error:
            self._outage.failed("heartbeat", error)
        else:
            self._outage.passed("heartbeat")

    def _release(self, job: Job, queue: Queue, execution: Execution, outcome: str) -> None:
        failures = 0
        while True:
            try:
                if outcome != "overtaken":  # else another worker has it
                    # An explanation that has not ended counts as lost in any other case, or it would run for ever.
                    lost = outcome not in {"interrupted", "yielded"}
                    self._store.release(queue.name, job.id, execution.composite_key, lost=lost)
                with self.connection.pipeline() as pipeline:
                    self.cleanup_execution(job, pipeline, execution)
                    pipeline.execute()
            except RedisError as error:
                if _is_about(job.id, error):  # RQ's record of the execution, which is not needed any more
                    return
                # Unreleased, the job would run again when its heartbeat expires.
                self._outage.failed("release", error)
                if self._stop.requested:
                    return
                self._stop.wait(pause(failures))
                failures += 1
            else:
                self._outage.passed("release")
                return

    def kill_horse(self, *_: Any) -> None:
        """Stop the job. RQ calls it for its commands, in a thread of its own."""
        self._child.interrupt()

    def handle_payload(self, message: dict[str, Any]) -> None:
        """Follow a command; anything else is logged and ignored."""
        try:
            super().handle_payload(message)  # type: ignore[no-untyped-call]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            _log.warning("ignored an invalid command: %s", error)

    def _pubsub_exception_handler(self, exc: Exception, pubsub: Any, pubsub_thread: Any) -> None:
        # If a command is lost, the next heartbeat stops the job.
        if isinstance(exc, RedisError):
            time.sleep(_RECONNECT_SECONDS)
        else:
            _log.warning("no longer listening to commands: %s", exc)
            pubsub_thread.stop()

    def get_heartbeat_ttl(self, *_: Any, **__: Any) -> int:
        """Seconds that one heartbeat of a job counts."""
        return HEARTBEAT_TTL

    # The loop

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """Wait for a job until a signal comes; None if `timeout` is None and no job waits."""
        self.set_state(WorkerStatus.IDLE)
        while True:
            with self._stop.interrupts():
                self.heartbeat()
                if self.should_run_maintenance_tasks:
                    self.run_maintenance_tasks()
                try:
                    taken = self.queue_class.dequeue_any(
                        self.queues,
                        timeout,
                        connection=self.connection,
                        job_class=self.job_class,
                        serializer=self.serializer,
                    )
                except DequeueTimeout:
                    taken = None
                except StopRequested:
                    raise
                except Exception as error:
                    # RQ reports which job it could not read. An id that is not even text is dropped as stranded.
                    job_id = getattr(error, "job_id", None)
                    if isinstance(error, RedisError) and (job_id is None or not is_of_another_type(error)):
                        raise
                    if job_id is not None:
                        self._refuse(job_id, error)
                    continue
                self._outage.passed("work")
                if taken is None and self._store.others_wait(self.queues[0].name):
                    # RQ has dropped the next job, which had no record, and no other was chosen since.
                    self.run_maintenance_tasks()
                elif taken is not None or timeout is None:
                    return taken

    def run_maintenance_tasks(self) -> None:
        """Replace a child that died, and release the jobs of workers that died."""
        self._replace_child()
        for explanation_id in self._store.recover(self.queues[0].name):
            _log.warning("took over %.64s from a worker that died", explanation_id)
        self.last_cleaned_at = now()  # type: ignore[assignment]  # rq declares it None

    @property
    def should_run_maintenance_tasks(self) -> bool:
        """Every second, and at once without a child."""
        return not self._child.alive or bool(super().should_run_maintenance_tasks)

    def _replace_child(self) -> None:
        if not self._child.alive:
            self._metrics.child_restarts.inc()
            load(self._child, self._metrics, self._stop)

    def check_for_suspension(self, burst: bool) -> None:
        """Stop between two jobs if a signal has come."""
        if self._stop.requested:
            raise StopRequested
        super().check_for_suspension(burst)

    def teardown(self) -> None:
        """Unregister from RQ, if Redis answers."""
        if self._stop.forced:
            return
        with contextlib.suppress(RedisError):
            super().teardown()  # type: ignore[no-untyped-call]


def _is_about(job_id: str, error: RedisError) -> bool:
    """Whether an error is due to a key of this job."""
    return is_of_another_type(error) and job_id in str(error)
