"""Explanations as their callers see them: created, looked up, listed, cancelled, deleted."""

from __future__ import annotations

import base64
import binascii
import logging
import math
from collections.abc import Sequence
from typing import cast

from redis import Redis
from redis.exceptions import ResponseError
from rq.command import send_command

from gloss import v1 as pb
from jobs import names, question, record
from jobs.errors import (
    DataCorruptError,
    ExplanationNotFoundError,
    PageTokenError,
    QueueFullError,
    RequestIdReusedError,
    WrongStateError,
)
from jobs.outage import is_of_another_type
from jobs.record import Question, Record, pack, state_name
from jobs.rq import new_job, open_queue
from jobs.scripts import Scripts

DEFAULT_RETENTION_SECONDS = 24 * 3600.0
DEFAULT_MAX_QUEUED = 1000

_PAGE_BYTES = 1 << 20
"""Of a list's page that holds more than one explanation."""
_LARGEST_BYTES = 256 << 20
"""Of one explanation. What is larger is none."""
_MAX_LOGGED = 1000

_log = logging.getLogger(__name__)


class ExplanationStore:
    """The store of explanations in Redis.

    Every change is one atomic step. Safe for use from several threads. While Redis cannot be reached or refuses, every
    method raises `redis.exceptions.RedisError`.

    Args:
        redis: a client that answers bytes (``decode_responses`` off).
        retention_seconds: how long an explanation is kept after it has ended. One that waits is kept until it ends.
        max_queued: how many explanations may wait for the workers of one model.
        max_summary_bytes: an explanation with a longer summary is left out of lists, where no reply could hold it.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        retention_seconds: float = DEFAULT_RETENTION_SECONDS,
        max_queued: int = DEFAULT_MAX_QUEUED,
        max_summary_bytes: int = _LARGEST_BYTES,
    ) -> None:
        self._redis = redis
        self._scripts = Scripts(redis)
        self._retention_ms = round(retention_seconds * 1000)
        self._max_queued = max_queued
        self._max_summary_bytes = max_summary_bytes
        self._logged: set[str] = set()

    def create(
        self,
        asked: Question,
        model: pb.ModelVersion,
        *,
        cost: pb.Progress | None = None,
        request_id: str = "",
        fresh: bool = False,
    ) -> pb.Explanation:
        """Queue an explanation or a study, or answer the one that exists.

        An equal question on a model of equal digest is the same explanation, unless that one failed or was cancelled,
        or `fresh` is set: then it is computed anew, and from no values that were computed for others. An equal
        `request_id` is the same explanation for as long as one is retained. One that cannot be read is forgotten.
        `cost` is its progress until work on it begins.

        Raises:
            QueueFullError: too many wait.
            RequestIdReusedError: `request_id` came before with another question or model.
        """
        try:
            return self.get(self._create(asked, model, cost, request_id, fresh))
        except DataCorruptError as error:
            _log.error("forgotten, as it is asked for again: %s", error)
            self.delete(error.name)
            return self.get(self._create(asked, model, cost, request_id, fresh))

    def _create(
        self, asked: Question, model: pb.ModelVersion, cost: pb.Progress | None, request_id: str, fresh: bool
    ) -> str:
        queue = open_queue(names.queue(model.name), self._redis)
        explanation_id = names.new_id()
        fields: dict[str, str | bytes] = {
            "spec": pack("spec", question.named(asked, model.name)),
            "model": model.SerializeToString(),
            "method": question.method(asked),
            "preview": question.preview(asked),
        }
        if fresh:
            fields["fresh"] = "1"
        if cost is not None:
            fields["progress"] = cost.SerializeToString()
        job = new_job(queue, explanation_id).to_dict(include_meta=False)
        verdict, found = self._scripts(
            "create",
            *(explanation_id, queue.name, question.spec_hash(asked, model), request_id),
            *(int(fresh), self._max_queued, self._retention_ms, len(fields)),
            *(item for pair in (*fields.items(), *job.items()) for item in pair),
        )
        if verdict == b"full":
            raise QueueFullError(self._max_queued)
        if verdict == b"reused":
            raise RequestIdReusedError(request_id, names.resource(str(found, "utf-8", errors="replace")))
        return names.resource(str(found, "utf-8", errors="replace"))

    def get(self, name: str, view: pb.ExplanationView = pb.EXPLANATION_VIEW_FULL) -> pb.Explanation:
        """One explanation in a view, with its results.

        Raises:
            ExplanationNotFoundError: there is none of that name.
            DataCorruptError: it cannot be read.
        """
        explanation_id = _parse(name)
        fields = record.fields(view, results=True)
        [answer] = self._scripts("look", _LARGEST_BYTES, 0, len(fields), *fields, explanation_id)
        if not answer:
            raise ExplanationNotFoundError(name)
        explanation = _read(explanation_id, view, fields, answer)
        if explanation.state == pb.EXPLANATION_STATE_SUCCEEDED and not (
            explanation.HasField("result") or explanation.HasField("study_result")
        ):
            raise DataCorruptError(name, "result")
        return explanation

    def list(
        self,
        page_size: int = 50,
        page_token: str = "",
        state: pb.ExplanationState = pb.EXPLANATION_STATE_UNSPECIFIED,
        view: pb.ExplanationView = pb.EXPLANATION_VIEW_BASIC,
    ) -> tuple[list[pb.Explanation], str]:
        """Explanations without their results, newest first, and the token of the next page ("" after the last).

        A page may end before `page_size`, as what was asked may be long. Pages are stable: what is created meanwhile
        appears on none of the later ones. An explanation that cannot be read is left out, and told in the log.

        Raises:
            PageTokenError: the token is not one of this list's, or was given out for another `state`.
        """
        self._scripts("purge")
        wanted = "ALL" if state == pb.EXPLANATION_STATE_UNSPECIFIED else state_name(state)
        position = _parse_token(page_token, wanted).encode() if page_token else b""
        found: list[pb.Explanation] = []
        size = 0
        while len(found) < page_size:
            missing = page_size - len(found)
            ids = self._ids_after(position, wanted, missing + 1)
            summaries = self._summaries(ids[:missing], view)
            for explanation in summaries:
                if explanation is None:
                    continue
                size += explanation.ByteSize()
                if found and size > _PAGE_BYTES:
                    return found, _make_token(wanted, found[-1])
                found.append(explanation)
            if len(summaries) == len(ids):
                return found, ""
            position = ids[len(summaries) - 1]
        return found, _make_token(wanted, found[-1])

    def cancel(self, name: str) -> pb.Explanation:
        """End an explanation that has not ended; it keeps its partial result. Cancelling again changes nothing.

        Raises:
            ExplanationNotFoundError: there is none of that name.
            WrongStateError: it has succeeded or failed already.
            DataCorruptError: it cannot be read; where that allows it, it is cancelled all the same.
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
        return any(member.startswith(f"{digest} ".encode()) for member in members)

    def queue_depth(self, model: str) -> int:
        """How many explanations wait for the workers of a model."""
        return int(self._redis.llen(open_queue(names.queue(model), self._redis).key))

    def throughput(self, digest: str, method: str) -> float | None:
        """Tokens a second that workers with a model of late went through by a method; None where none has told."""
        try:
            row = cast("list[bytes | None]", self._redis.hmget(names.throughput(digest, method), ("tokens", "seconds")))
            tokens, seconds = (float(value or b"nan") for value in row)
        except ValueError:
            return None
        except ResponseError as error:
            if is_of_another_type(error):
                return None
            raise
        known = 0 < tokens < math.inf and 0 < seconds < math.inf
        return tokens / seconds if known else None

    def probe(self) -> None:
        """Raise what creating an explanation would raise where Redis takes no writes."""
        self._scripts("probe")

    def _cancel(self, name: str) -> str:
        explanation_id = _parse(name)
        answer = self._scripts("cancel", explanation_id, self._retention_ms)
        if answer is None:
            raise ExplanationNotFoundError(name)
        before, worker = (str(part, "utf-8", errors="replace") for part in answer)
        if worker:
            # Only the quicker way: it may get lost, and the worker also learns of it at its next report.
            send_command(self._redis, worker, "stop-job", job_id=explanation_id)
        return before

    def _ids_after(self, position: bytes, state: str, count: int) -> Sequence[bytes]:
        newest = b"(" + position if position else b"+"
        return cast("Sequence[bytes]", self._redis.zrevrangebylex(names.index(state), newest, b"-", start=0, num=count))

    def _summaries(self, ids: Sequence[bytes], view: pb.ExplanationView) -> Sequence[pb.Explanation | None]:
        """The first of `ids`, as many as make a page; None for what has expired meanwhile or cannot be read."""
        if not ids:
            return []
        fields = record.fields(view, results=False)
        answers = self._scripts("look", self._max_summary_bytes, _PAGE_BYTES, len(fields), *fields, *ids)
        return [self._summary(found, view, fields, answer) for found, answer in zip(ids, answers, strict=False)]

    def _summary(
        self, found: bytes, view: pb.ExplanationView, fields: Sequence[str], answer: bytes | Sequence[bytes | None]
    ) -> pb.Explanation | None:
        name = names.resource(found.decode(errors="replace"))
        explanation_id = names.parse_resource(name)
        if not answer or explanation_id is None:
            return None
        try:
            return _read(explanation_id, view, fields, answer)
        except DataCorruptError as error:
            if name not in self._logged and len(self._logged) < _MAX_LOGGED:
                self._logged.add(name)
                _log.error("left out of lists: %s", error)
            return None


def _read(
    explanation_id: str, view: pb.ExplanationView, wanted: Sequence[str], answer: bytes | Sequence[bytes | None]
) -> pb.Explanation:
    if isinstance(answer, bytes):
        raise DataCorruptError(names.resource(explanation_id), answer.decode())
    fields = {field: value for field, value in zip(wanted, answer, strict=True) if value is not None}
    return Record(explanation_id, fields).explanation(view)


def _parse(name: str) -> str:
    explanation_id = names.parse_resource(name)
    if explanation_id is None:
        raise ExplanationNotFoundError(name)
    return explanation_id


def _make_token(state: str, last: pb.Explanation) -> str:
    return base64.urlsafe_b64encode(f"{state} {_parse(last.name)}".encode()).decode()


def _parse_token(token: str, state: str) -> str:
    try:
        for_state, position = base64.b64decode(token, altchars=b"-_", validate=True).decode().split(" ")
    except (ValueError, binascii.Error):
        raise PageTokenError from None
    if for_state != state or names.parse_resource(names.resource(position)) is None:
        raise PageTokenError
    return position
