"""Explanations as their callers see them: created, looked up, listed, cancelled, deleted."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from typing import cast

from redis import Redis
from rq.command import send_command

from gloss import v1 as pb
from jobs import names
from jobs.errors import (
    ExplanationNotFoundError,
    PageTokenError,
    QueueFullError,
    RequestIdReusedError,
    WrongStateError,
)
from jobs.record import SUMMARY_FIELDS, state_name, to_explanation
from jobs.rq import new_job, open_queue
from jobs.scripts import Scripts

DEFAULT_RETENTION_SECONDS = 24 * 3600.0
DEFAULT_MAX_QUEUED = 1000

_PAGE_BYTES = 1 << 20
"""Of a list's page that holds more than one explanation."""


class ExplanationStore:
    """The store of explanations in Redis.

    Every change is one atomic step. Safe for use from several threads. While Redis cannot be reached, every method
    raises `redis.exceptions.ConnectionError` or `TimeoutError`.

    Args:
        redis: a client that answers bytes (``decode_responses`` off).
        retention_seconds: how long an explanation is kept after it has ended. One that waits is kept until it ends.
        max_queued: how many explanations may wait for the workers of one model.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        retention_seconds: float = DEFAULT_RETENTION_SECONDS,
        max_queued: int = DEFAULT_MAX_QUEUED,
    ) -> None:
        self._redis = redis
        self._scripts = Scripts(redis)
        self._retention_ms = round(retention_seconds * 1000)
        self._max_queued = max_queued

    def create(
        self, spec: pb.ExplanationSpec, model: pb.ModelVersion, *, request_id: str = "", fresh: bool = False
    ) -> pb.Explanation:
        """Queue an explanation, or answer the one that exists.

        An equal spec on a model of equal digest is the same explanation, unless that one failed or was cancelled, or
        `fresh` is set. An equal `request_id` is the same explanation for as long as one is retained.

        Raises:
            QueueFullError: too many wait.
            RequestIdReusedError: `request_id` came before with another spec or model.
        """
        spec = _named(spec, model.name)
        queue = open_queue(names.queue(model.name), self._redis)
        explanation_id = names.new_id()
        fields = {"spec": spec.SerializeToString(deterministic=True), "model": model.SerializeToString()}
        job = new_job(queue, explanation_id).to_dict(include_meta=False)
        verdict, found = self._scripts(
            "create",
            *(explanation_id, queue.name, spec_hash(spec, model), request_id),
            *(int(fresh), self._max_queued, self._retention_ms, len(fields)),
            *(item for pair in (*fields.items(), *job.items()) for item in pair),
        )
        if verdict == b"full":
            raise QueueFullError(self._max_queued)
        if verdict == b"reused":
            raise RequestIdReusedError(request_id, names.resource(found.decode()))
        return self.get(names.resource(found.decode()))

    def get(self, name: str) -> pb.Explanation:
        """One explanation with all that is known of it.

        Raises:
            ExplanationNotFoundError: there is none of that name.
        """
        explanation_id = _parse(name)
        fields = cast("dict[bytes, bytes]", self._redis.hgetall(names.record(explanation_id)))
        if not fields:
            raise ExplanationNotFoundError(name)
        return to_explanation(explanation_id, {field.decode(): value for field, value in fields.items()})

    def list(
        self,
        page_size: int = 50,
        page_token: str = "",
        state: pb.ExplanationState = pb.EXPLANATION_STATE_UNSPECIFIED,
    ) -> tuple[list[pb.Explanation], str]:
        """Explanations without their results, newest first, and the token of the next page ("" after the last).

        A page may end before `page_size`, as what was asked may be long. Pages are stable: what is created meanwhile
        appears on none of the later ones.

        Raises:
            PageTokenError: the token is not one of this list's, or was given out for another `state`.
        """
        self._scripts("purge")
        wanted = "ALL" if state == pb.EXPLANATION_STATE_UNSPECIFIED else state_name(state)
        position = _parse_token(page_token, wanted) if page_token else ""
        found: list[pb.Explanation] = []
        size = 0
        while len(found) < page_size:
            missing = page_size - len(found)
            ids = self._ids_after(position, wanted, missing + 1)
            for explanation_id, explanation in self._summaries(ids[:missing]):
                size += explanation.ByteSize()
                if found and size > _PAGE_BYTES:
                    return found, _make_token(wanted, position)
                found.append(explanation)
                position = explanation_id
            if len(ids) <= missing:
                return found, ""
            position = ids[missing - 1]
        return found, _make_token(wanted, position)

    def cancel(self, name: str) -> pb.Explanation:
        """End an explanation that has not ended; it keeps its partial result. Cancelling again changes nothing.

        Raises:
            ExplanationNotFoundError: there is none of that name.
            WrongStateError: it has succeeded or failed already.
        """
        before = self._cancel(name)
        if before in {"SUCCEEDED", "FAILED"}:
            raise WrongStateError(name, before)
        return self.get(name)

    def delete(self, name: str) -> None:
        """Cancel an explanation where needed, and forget it.

        Raises:
            ExplanationNotFoundError: there is none of that name.
        """
        self._cancel(name)
        self._scripts("delete", _parse(name))

    def worker_alive(self, model: str, digest: str) -> bool:
        """Whether a worker holds that very model, loaded and ready or at work."""
        members = self._scripts("alive", names.workers(names.queue(model)))
        return any(member.decode().startswith(f"{digest} ") for member in members)

    def queue_depth(self, model: str) -> int:
        """How many explanations wait for the workers of a model."""
        return int(self._redis.llen(open_queue(names.queue(model), self._redis).key))

    def _cancel(self, name: str) -> str:
        explanation_id = _parse(name)
        answer = self._scripts("cancel", explanation_id, self._retention_ms)
        if answer is None:
            raise ExplanationNotFoundError(name)
        before, worker = (str(part, "utf-8") for part in answer)
        if worker:
            # Only the quicker way: it may get lost, and the worker also learns of it at its next report.
            send_command(self._redis, worker, "stop-job", job_id=explanation_id)
        return before

    def _ids_after(self, position: str, state: str, count: int) -> Sequence[str]:
        newest = f"({position}" if position else "+"
        ids = cast("Sequence[bytes]", self._redis.zrevrangebylex(names.index(state), newest, "-", start=0, num=count))
        return [explanation_id.decode() for explanation_id in ids]

    def _summaries(self, ids: Sequence[str]) -> Sequence[tuple[str, pb.Explanation]]:
        """Those that are still there, with their ids."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for explanation_id in ids:
                pipeline.hmget(names.record(explanation_id), SUMMARY_FIELDS)
            rows = pipeline.execute()
        found = []
        for explanation_id, row in zip(ids, rows, strict=True):
            fields = {field: value for field, value in zip(SUMMARY_FIELDS, row, strict=True) if value is not None}
            if fields:  # it may have expired between the two looks
                found.append((explanation_id, to_explanation(explanation_id, fields)))
        return found


def spec_hash(spec: pb.ExplanationSpec, model: pb.ModelVersion) -> str:
    """What equal questions to equal models have in common, in hexadecimal."""
    question = _named(spec, model.name).SerializeToString(deterministic=True)
    return hashlib.sha256(model.digest.encode() + b"\0" + question).hexdigest()


def _named(spec: pb.ExplanationSpec, model: str) -> pb.ExplanationSpec:
    # An empty model name means the default model: the same question as the one that spells its name out.
    named = pb.ExplanationSpec()
    named.CopyFrom(spec)
    named.model = model
    return named


def _parse(name: str) -> str:
    explanation_id = names.parse_resource(name)
    if explanation_id is None:
        raise ExplanationNotFoundError(name)
    return explanation_id


def _make_token(state: str, position: str) -> str:
    return base64.urlsafe_b64encode(f"{state} {position}".encode()).decode()


def _parse_token(token: str, state: str) -> str:
    try:
        for_state, position = base64.b64decode(token, altchars=b"-_", validate=True).decode().split(" ")
    except (ValueError, binascii.Error):
        raise PageTokenError from None
    if for_state != state or names.parse_resource(names.resource(position)) is None:
        raise PageTokenError
    return position
