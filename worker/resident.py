"""An RQ worker whose jobs run in one resident child.

RQ's own workers start a process for each job, which would load the model each time, or run jobs in the worker itself,
where nothing can stop them. Here the parent is all that RQ sees: it takes jobs, keeps their heartbeats, hears commands
and lets go of jobs. The child does nothing but explain, and writes what it finds to the explanation's record. RQ's
record of a job is only its place in the queue.
"""

from __future__ import annotations

import contextlib
import logging
import time
from types import FrameType
from typing import Any, cast

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.exceptions import DeserializationError, StopRequested
from rq.executions import Execution
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import now
from rq.worker import Worker, WorkerStatus

from jobs.attempts import AttemptStore
from jobs.rq import GlossJob, TaskNotAllowedError, open_queue
from worker.metrics import Metrics
from worker.model_process import ChildLostError, ModelProcess, ModelRefusedError
from worker.protocol import Began, Ended
from worker.stop import Stop

HEARTBEAT_SECONDS = 1.0
HEARTBEAT_TTL = 6
"""Seconds without a heartbeat after which others take a worker's job over."""

_TICK_SECONDS = 0.1

_log = logging.getLogger(__name__)


class ResidentWorker(Worker):
    """RQ's work loop around a `ModelProcess`. `refusal` is set where it ended because the model cannot be loaded."""

    max_connection_wait_time = 2.0

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
    ) -> None:
        self.refusal: ModelRefusedError | None = None
        self._store = store
        self._child = child
        self._metrics = metrics
        self._stop = stop
        super().__init__(
            # One queue a worker: with two, RQ pops jobs in a way that loses them when the worker dies.
            [open_queue(queue, redis)],
            name=name,
            connection=redis,
            job_class=GlossJob,
            serializer=JSONSerializer,
            job_monitoring_interval=2,
            maintenance_interval=1,
            worker_ttl=17,
        )

    # The job

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Have the child perform one job, and let go of it."""
        execution = self.prepare_execution(job)
        self.prepare_job_execution(job, remove_from_intermediate_queue=True)
        try:
            cast("GlossJob", job).check()
            outcome = self._supervise(job, execution)
        except (TaskNotAllowedError, DeserializationError) as error:
            _log.error("dropped job %s: %s", job.id, error)
            outcome = "refused"
        self._let_go(job, queue, execution, outcome)
        self.set_state(WorkerStatus.IDLE)

    def _supervise(self, job: Job, execution: Execution) -> str:
        """Watch over the child until its job is over. Returns the outcome that it tells, or "lost"."""
        started = beaten = time.monotonic()
        killed = False
        try:
            self._child.run(job.id)
            while True:
                message = self._child.receive(_TICK_SECONDS)
                if isinstance(message, Began):
                    self._metrics.began(message)
                elif isinstance(message, Ended):
                    self._child.rest()
                    self._metrics.ended(message)
                    return message.outcome
                if self._stop.overdue:
                    self._child.interrupt()
                if self._child.deaf:
                    _log.warning("the model's process ignores its interruption and is replaced")
                    killed = True
                    self._child.kill()
                    raise ChildLostError
                if time.monotonic() - beaten >= HEARTBEAT_SECONDS:
                    self._beat(job, execution)
                    beaten = time.monotonic()
        except ChildLostError:
            self._child.rest()
            self._metrics.lost(time.monotonic() - started)
            if not killed:
                _log.error("the model's process died (%s) during %s", self._child.exit_status(), job.id)
            return "interrupted" if killed else "lost"

    def _beat(self, job: Job, execution: Execution) -> None:
        try:
            self.maintain_heartbeats(job, execution)
            if self._store.cancel_requested(job.id):  # the command may have got lost
                self._child.interrupt()
        except RedisError as error:
            _log.warning("no heartbeat, Redis cannot be reached: %s", error)

    def _let_go(self, job: Job, queue: Queue, execution: Execution, outcome: str) -> None:
        while True:
            try:
                if outcome != "overtaken":  # else it is in another worker's hands
                    # Whatever the child says, an explanation that has not ended counts as lost, lest it runs for ever.
                    lost = outcome != "interrupted"
                    self._store.release(queue.name, job.id, execution.composite_key, lost=lost)
                with self.connection.pipeline() as pipeline:
                    self.cleanup_execution(job, pipeline, execution)
                    pipeline.execute()
                return
            except RedisError as error:
                # Unreleased, the job would be run again when its heartbeat has run out.
                _log.warning("could not let go of %s, trying again: %s", job.id, error)
                if self._stop.requested:
                    return

    def kill_horse(self, *_: Any) -> None:
        """RQ's commands to stop a job end here, in a thread of their own."""
        self._child.interrupt()

    def get_heartbeat_ttl(self, *_: Any, **__: Any) -> int:
        """Seconds for which one heartbeat of a job counts."""
        return HEARTBEAT_TTL

    # The loop

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """Wait for a job, ready to be stopped at once."""
        with self._stop.interrupts():
            return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)

    def run_maintenance_tasks(self) -> None:
        """Replace a child that died, and release the jobs of workers that died."""
        self._replace_child()
        for explanation_id in self._store.recover(self.queues[0].name):
            _log.warning("took over %s from a worker that died", explanation_id)
        self.last_cleaned_at = now()  # type: ignore[assignment]  # rq declares it None

    @property
    def should_run_maintenance_tasks(self) -> bool:
        """Every second, and at once without a child."""
        return not self._child.alive or bool(super().should_run_maintenance_tasks)

    def _replace_child(self) -> None:
        if self._child.alive:
            return
        try:
            with self._stop.interrupts():
                self._metrics.child_restarts.inc()
                self._metrics.load_seconds.set(self._child.start().load_seconds)
        except ModelRefusedError as error:
            self.refusal = error
            raise StopRequested from error

    def check_for_suspension(self, burst: bool) -> None:
        """Stop between two jobs where asked to."""
        if self._stop.requested:
            raise StopRequested
        super().check_for_suspension(burst)

    def _install_signal_handlers(self) -> None:
        """The signals are `Stop`'s."""

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """The signals are `Stop`'s."""
        raise NotImplementedError

    def teardown(self) -> None:
        """Say goodbye to RQ, if Redis listens."""
        if self._stop.forced:
            return
        with contextlib.suppress(RedisError):
            super().teardown()  # type: ignore[no-untyped-call]
