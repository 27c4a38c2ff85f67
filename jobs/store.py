"""Explanations as their callers see them: created, looked up, listed, cancelled, deleted."""

from __future__ import annotations

import functools
import logging
import math
from typing import cast

from redis import Redis
from redis.exceptions import ResponseError
from rq.command import send_command

from gloss import v1 as pb
from jobs import names, question, record
from jobs.access import UNNAMED, Access
from jobs.errors import (
    DataCorruptError,
    ExplanationNotFoundError,
    QueueFullError,
    RequestIdReusedError,
    WrongStateError,
)
from jobs.listing import Listing
from jobs.outage import is_of_another_type
from jobs.record import Question, pack, state_name
from jobs.rq import new_job, open_queue
from jobs.scripts import Scripts

DEFAULT_RETENTION_SECONDS = 24 * 3600.0
DEFAULT_MAX_QUEUED = 1000

_LARGEST_BYTES = 256 << 20
"""The most bytes of one explanation. A larger record counts as corrupt."""

_log = logging.getLogger(__name__)


class ExplanationStore:
    """The store of explanations in Redis.

    Every change is one atomic step. Safe for use from several threads. While Redis cannot be reached or refuses, every
    method raises `redis.exceptions.RedisError`.

    Callers are kept apart by the keys of what is stored: `access` says whose are looked for, and what belongs to others
    is not there. Equal questions and request ids are those of one tenant.

    Args:
        redis: a client that answers bytes (``decode_responses`` off).
        retention_seconds: how long an explanation is kept after it has ended. One that waits is kept until it ends.
        max_queued: how many explanations of one tenant may wait for the workers of one model.
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
        self._listing = Listing(redis, self._scripts, max_summary_bytes)

    def create(
        self,
        asked: Question,
        model: pb.ModelVersion,
        *,
        cost: pb.Progress | None = None,
        request_id: str = "",
        fresh: bool = False,
        access: Access = UNNAMED,
    ) -> pb.Explanation:
        """Queue an explanation or a study, or answer the one that exists.

        An equal question on a model of equal digest is the same explanation, unless that one failed or was cancelled,
        or `fresh` is set: then it is computed again, and from no values that were computed for others. An equal
        `request_id` is the same explanation for as long as one is retained. One that cannot be read is forgotten.
        `cost` is its progress until work on it begins.

        Raises:
            QueueFullError: too many wait.
            RequestIdReusedError: `request_id` came before with another question or model.
        """
        create = functools.partial(
            self._create, asked, model, cost=cost, request_id=request_id, fresh=fresh, owner=access.owner
        )
        key = create()
        try:
            return self._get(key)
        except DataCorruptError as error:
            _log.error("forgotten, as it is asked for again: %s", error)
            self._delete(key)
            return self._get(create())

    def _create(
        self,
        asked: Question,
        model: pb.ModelVersion,
        *,
        cost: pb.Progress | None,
        request_id: str,
        fresh: bool,
        owner: str,
    ) -> str:
        queue = open_queue(names.queue(model.name), self._redis)
        key = names.key(names.new_id(), owner)
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
        job = new_job(queue, key).to_dict(include_meta=False)
        verdict, found = self._scripts(
            "create",
            *(key, queue.name, question.spec_hash(asked, model), request_id),
            *(int(fresh), self._max_queued, self._retention_ms, len(fields)),
            *(item for pair in (*fields.items(), *job.items()) for item in pair),
        )
        found = str(found, "utf-8", errors="replace")
        if verdict == b"full":
            raise QueueFullError(self._max_queued)
        if verdict == b"reused":
            raise RequestIdReusedError(request_id, names.resource(found))
        return found

    def get(
        self, name: str, view: pb.ExplanationView = pb.EXPLANATION_VIEW_FULL, *, access: Access = UNNAMED
    ) -> pb.Explanation:
        """One explanation in a view, with its results.

        Raises:
            ExplanationNotFoundError: there is none of that name.
            DataCorruptError: it cannot be read.
        """
        return self._get(self.key(name, access), view)

    def _get(self, key: str, view: pb.ExplanationView = pb.EXPLANATION_VIEW_FULL) -> pb.Explanation:
        fields = record.fields(view, results=True)
        [answer] = self._scripts("look", _LARGEST_BYTES, 0, len(fields), *fields, key)
        if not answer:
            raise ExplanationNotFoundError(names.resource(key))
        explanation = record.read(key, view, fields, answer)
        if explanation.state == pb.EXPLANATION_STATE_SUCCEEDED and not (
            explanation.HasField("result") or explanation.HasField("study_result")
        ):
            raise DataCorruptError(names.resource(key), "result")
        return explanation

    def list(
        self,
        page_size: int = 50,
        token: str = "",
        state: pb.ExplanationState = pb.EXPLANATION_STATE_UNSPECIFIED,
        view: pb.ExplanationView = pb.EXPLANATION_VIEW_BASIC,
        *,
        access: Access = UNNAMED,
    ) -> tuple[list[pb.Explanation], str]:
        """Explanations without their results, newest first, and the token of the next page ("" after the last).

        A page may end before `page_size`, as what was asked may be long. Pages are stable: what is created meanwhile
        appears on none of the later ones. An explanation that cannot be read is left out and logged.

        Raises:
            PageTokenError: the token is not one of this list's, or was given out for another `state`.
        """
        self._scripts("purge")
        word = "ALL" if state == pb.EXPLANATION_STATE_UNSPECIFIED else state_name(state)
        return self._listing.page([names.index(word, owner) for owner in access.lists], page_size, token, view)

    def cancel(self, name: str, *, access: Access = UNNAMED) -> pb.Explanation:
        """End an explanation that has not ended; it keeps its partial result. Cancelling again changes nothing.

        Raises:
            ExplanationNotFoundError: there is none of that name.
            WrongStateError: it has succeeded or failed already.
            DataCorruptError: it cannot be read; where that allows it, it is cancelled anyway.
        """
        key = self.key(name, access)
        before = self._cancel(key)
        if before in {"SUCCEEDED", "FAILED"}:
            raise WrongStateError(name, before)
        return self._get(key)

    def _cancel(self, key: str) -> str:
        answer = self._scripts("cancel", key, self._retention_ms)
        if answer is None:
            raise ExplanationNotFoundError(names.resource(key))
        before, worker = (str(part, "utf-8", errors="replace") for part in answer)
        if worker:
            # Only the quicker way: it may get lost, and the worker also learns of it at its next report.
            send_command(self._redis, worker, "stop-job", job_id=key)
        return before

    def delete(self, name: str, *, access: Access = UNNAMED) -> None:
        """Cancel an explanation where needed, and forget it.

        Raises:
            ExplanationNotFoundError: there is none of that name.
        """
        self._delete(self.key(name, access))

    def _delete(self, key: str) -> None:
        self._cancel(key)
        self._scripts("delete", key)

    def key(self, name: str, access: Access = UNNAMED) -> str:
        """The key of the explanation of that name, as far as the caller may see it; whether it exists is not looked at.

        Raises:
            ExplanationNotFoundError: the name is none that was ever given out.
        """
        explanation_id = names.parse_resource(name)
        if explanation_id is None:
            raise ExplanationNotFoundError(name)
        if not access.admin:
            return names.key(explanation_id, access.owner)
        # The keys of an id lie between it and it with the character after the dash.
        lowest, highest = f"[{explanation_id}-", f"({explanation_id}."
        found = cast("list[bytes]", self._redis.zrangebylex(names.index(owner=names.OWNED), lowest, highest))
        return found[0].decode(errors="replace") if found else explanation_id

    def worker_alive(self, model: str, digest: str) -> bool:
        """Whether a worker holds that very model, loaded and ready or at work."""
        members = self._scripts("alive", names.workers(names.queue(model)))
        return any(member.startswith(f"{digest} ".encode()) for member in members)

    def queue_depth(self, model: str) -> int:
        """How many explanations wait for the workers of a model."""
        return int(self._scripts("depth", names.queue(model)))

    def throughput(self, digest: str, method: str) -> float | None:
        """Tokens per second that workers with a model recently processed by a method; None where unknown."""
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
