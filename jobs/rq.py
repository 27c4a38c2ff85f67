"""RQ as Gloss uses it: JSON instead of pickle, and one function that a job may name."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Mapping
from typing import Any

from redis import Redis
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import now

from jobs import names

_LARGEST_DATA = 1 << 16
"""Bytes of a job's function and arguments; ours has some hundred."""


class TaskNotAllowedError(Exception):
    """A job in the queue asks for something else than `names.TASK`."""


class GlossJob(Job):
    """An RQ job that can run `names.TASK` and nothing else.

    JSON keeps pickle's arbitrary objects out, but a stock job still imports whatever function, callback or webhook its
    record names, and anyone who can write to Redis can write records.
    """

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Read what is to be run of the job's record, and no callback, webhook, time or status."""
        data = raw_data.get(b"data")
        if data is None:
            super().restore({})
            return
        with contextlib.suppress(zlib.error):  # else it is not compressed
            data = zlib.decompressobj().decompress(data, _LARGEST_DATA)
        super().restore({b"data": data, b"origin": raw_data.get(b"origin", b"")})

    @property
    def func(self) -> Any:
        """The function to run.

        Raises:
            TaskNotAllowedError: it is another than `names.TASK`.
        """
        self.check()
        return super().func

    def check(self) -> None:
        """Raise `TaskNotAllowedError` unless this job is `names.TASK` of its own id."""
        arguments: Any = self.args
        if isinstance(arguments, tuple):  # not read back from JSON yet
            arguments = list(arguments)
        if (self.func_name, self.instance, arguments, self.kwargs) != (names.TASK, None, [self.id], {}):
            raise TaskNotAllowedError(f"job {self.id} does not name {names.TASK} of its own id")


def new_job(queue: Queue, explanation_id: str) -> Job:
    """A job for an explanation, not yet written to Redis."""
    job = queue.create_job(
        names.TASK, args=(explanation_id,), job_id=explanation_id, timeout=-1, description=explanation_id
    )
    job.enqueued_at = now()
    return job


def open_queue(name: str, redis: Redis) -> Queue:
    """The queue of that name, as every part of Gloss opens it."""
    return Queue(name, connection=redis, job_class=GlossJob, serializer=JSONSerializer)
