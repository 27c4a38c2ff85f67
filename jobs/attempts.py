"""Explanations as the worker sees them: begun, reported on, ended, or released."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import cast

from redis import Redis
from redis.exceptions import ResponseError

from gloss import v1 as pb
from jobs import names
from jobs.errors import AttemptEndedError, DataCorruptError
from jobs.outage import is_of_another_type
from jobs.record import Question, Record, Result, pack
from jobs.scripts import Scripts
from jobs.store import DEFAULT_RETENTION_SECONDS

STRANDED_MS = 5000
"""How long a job may be popped from the queue and registered with no worker before it counts as stranded."""

_KEPT_OF_EARLIER = 0.8
"""Of the measurements before, at each new one: about the last five count."""
_THROUGHPUT_MS = 7 * 24 * 3600 * 1000

_MAX_CHECKPOINT_BYTES = 256 << 20
"""A larger one is none of ours, and reading it might take the process's memory."""


@dataclass(frozen=True)
class Attempt:
    """One attempt at an explanation, or a part of one that has yielded to others in between.

    Attributes:
        id: the explanation's key.
        number: counts attempts from 1.
        token: of this part; only what the newest one writes is taken.
        waited_seconds: since the explanation was last put into the queue.
        ran_seconds: how long earlier parts of this attempt have run.
        fresh: whether it must compute all values itself, even those that the worker knows from other explanations.
    """

    id: str
    number: int
    token: str
    question: Question
    model: pb.ModelVersion
    checkpoint: bytes | None
    waited_seconds: float
    ran_seconds: float = 0.0
    fresh: bool = False

    @property
    def owner(self) -> str:
        """Whose explanation it is; "" where it has no owner."""
        return (names.parse_key(self.id) or ("", ""))[1]


class AttemptStore:
    """The worker's side of the store. Every change is one atomic step, and safe to repeat when its answer got lost.

    Args:
        redis: a client that answers bytes (``decode_responses`` off).
        retention_seconds: how long an explanation is kept after it has ended.
        max_attempts: how many attempts may lose their worker before the explanation fails with WORKER_LOST.
    """

    def __init__(
        self, redis: Redis, *, retention_seconds: float = DEFAULT_RETENTION_SECONDS, max_attempts: int = 3
    ) -> None:
        self._redis = redis
        self._scripts = Scripts(redis)
        self._retention_ms = round(retention_seconds * 1000)
        lost = pb.ExplanationError(
            reason=pb.ERROR_REASON_WORKER_LOST,
            message=f"the worker died in each of {max_attempts} attempts; a smaller budget or prompt may help",
            metadata={"attempts": str(max_attempts)},
        )
        self._limits = (max_attempts, lost.SerializeToString(), _corrupt("record"), self._retention_ms)

    def begin(self, key: str) -> Attempt | None:
        """Begin the next attempt, or go on with one that has yielded.

        None where the explanation has ended, is deleted, or has lost too many attempts.

        Raises:
            DataCorruptError: what is stored of the explanation cannot be used; it has failed.
        """
        token = uuid.uuid4().hex
        begun = self._scripts("begin", key, token, *self._limits)
        if begun is None:
            return None
        if isinstance(begun, bytes):
            raise DataCorruptError(names.resource(key), begun.decode())
        number, waited_ms, ran_ms = begun
        wanted = ("spec", "model", "fresh")
        row = cast("list[bytes | None]", self._redis.hmget(names.record(key), wanted))
        if row == [None] * len(wanted):  # deleted between the two steps
            return None
        fields = {field: value for field, value in zip(wanted, row, strict=True) if value is not None}
        record = Record(key, fields)
        try:
            return Attempt(
                id=key,
                number=number,
                token=token,
                question=record.question(),
                model=record.message("model", pb.ModelVersion),
                checkpoint=self._checkpoint(key),
                waited_seconds=waited_ms / 1000,
                ran_seconds=ran_ms / 1000,
                fresh="fresh" in fields,
            )
        except DataCorruptError as error:
            error_fields = ("error", _corrupt(error.part))
            self._scripts("finish", key, token, "FAILED", self._retention_ms, *error_fields)
            raise

    def _checkpoint(self, key: str) -> bytes | None:
        """Return the checkpoint of the attempt before; None where there is none, or it cannot be read."""
        stored = names.checkpoint(key)
        try:
            if self._redis.strlen(stored) > _MAX_CHECKPOINT_BYTES:
                return None
            return cast("bytes | None", self._redis.get(stored))
        except ResponseError as error:
            if is_of_another_type(error):
                return None
            raise

    def progress(
        self,
        attempt: Attempt,
        progress: pb.Progress | None = None,
        partial: Result | None = None,
        checkpoint: bytes | None = None,
    ) -> None:
        """Write how far the attempt is, and what it knows so far.

        Raises:
            AttemptEndedError: it was cancelled, deleted or overtaken; nothing was written.
        """
        self._write("report", attempt, checkpoint or b"", *_pairs(progress, partial=partial))

    def give_way(
        self,
        attempt: Attempt,
        checkpoint: bytes,
        progress: pb.Progress | None = None,
        partial: Result | None = None,
    ) -> None:
        """Interrupt the attempt, which goes on from this checkpoint once others had their turn.

        Its job waits again from when it is released; that counts as no loss.

        Raises:
            AttemptEndedError: it was cancelled, deleted or overtaken; nothing was written.
        """
        self._write("yield", attempt, checkpoint, *_pairs(progress, partial=partial))

    def others_wait(self, queue: str) -> bool:
        """Whether a job waits in a queue."""
        return bool(self._scripts("depth", queue))

    def succeed(self, attempt: Attempt, result: Result, progress: pb.Progress | None = None) -> None:
        """End the explanation with its result.

        Raises:
            AttemptEndedError: the attempt is over; nothing was written.
        """
        self._write("finish", attempt, "SUCCEEDED", self._retention_ms, *_pairs(progress, result=result))

    def fail(self, attempt: Attempt, error: pb.ExplanationError) -> None:
        """End the explanation with an error; it keeps its partial result.

        Raises:
            AttemptEndedError: the attempt is over; nothing was written.
        """
        self._write("finish", attempt, "FAILED", self._retention_ms, "error", error.SerializeToString())

    def cancel_requested(self, key: str) -> bool:
        """Whether the explanation was cancelled or deleted."""
        try:
            return self._redis.hget(names.record(key), "state") in {b"CANCELLED", None}
        except ResponseError as error:
            if is_of_another_type(error):  # whatever is there, the explanation is not
                return True
            raise

    def release(self, queue: str, key: str, execution: str, *, lost: bool) -> None:
        """Release a job: drop it where its explanation has ended, else put it back into the queue.

        It comes first there, unless it has given way: then it comes last of its tenant's.

        Args:
            queue: RQ's name of the queue.
            key: which explanation.
            execution: RQ's composite key of the execution. Where it is no longer registered, another worker has
                released the job already and nothing is changed.
            lost: whether an explanation that has not ended lost its worker, which counts towards `max_attempts`.
        """
        self._scripts("release", queue, key, execution, int(lost), *self._limits)

    def refuse(self, queue: str, job_id: str) -> None:
        """Drop a job that cannot be run; its explanation fails with DATA_CORRUPT, if it has not ended."""
        limits = (*self._limits[:2], _corrupt("job"), self._retention_ms)
        self._scripts("refuse", queue, job_id, *limits)

    def recover(self, queue: str) -> list[str]:
        """Release the jobs of workers that died, and return their ids. Any number of workers may do so at once."""
        recovered = self._scripts("recover", queue, *self._limits, STRANDED_MS)
        return [found.decode(errors="replace") for found in recovered]

    def measured(self, digest: str, method: str, tokens: int, seconds: float) -> None:
        """Note that a method took a worker so long for so many planned tokens, for the estimates of what comes."""
        kept, kept_ms = _KEPT_OF_EARLIER, _THROUGHPUT_MS
        self._scripts("measure", names.throughput(digest, method), tokens, seconds, kept, kept_ms)

    def heartbeat(self, queue: str, digest: str, worker: str, seconds: float) -> int:
        """Count a worker that holds the model of `digest` as alive for `seconds`. Returns how many jobs wait."""
        return int(self._scripts("heartbeat", queue, names.workers(queue), f"{digest} {worker}", round(seconds * 1000)))

    def retire(self, queue: str, digest: str, worker: str) -> None:
        """Count a worker as gone, before its last heartbeat runs out."""
        self._redis.zrem(names.workers(queue), f"{digest} {worker}")

    def _write(self, script: str, attempt: Attempt, *arguments: str | bytes | float) -> None:
        state = self._scripts(script, attempt.id, attempt.token, *arguments)
        if state is not None:
            raise AttemptEndedError(attempt.id, state.decode(errors="replace"))


def _corrupt(part: str) -> bytes:
    error = pb.ExplanationError(
        reason=pb.ERROR_REASON_DATA_CORRUPT,
        message=f"what was stored of the explanation could not be read ({part}); create it again",
        metadata={"part": part},
    )
    return error.SerializeToString()


def _pairs(progress: pb.Progress | None, **parts: Result | None) -> list[str | bytes]:
    """The record's fields and what to write into them."""
    pairs = {field: pack(field, part) for field, part in parts.items() if part is not None}
    if progress is not None:
        pairs["progress"] = progress.SerializeToString()
    return [item for pair in pairs.items() for item in pair]
