"""From exceptions to gRPC statuses: the one place where the two meet.

`describe` knows every expected error; any other becomes INTERNAL with an incident id, and shows nothing of the inside.
Reasons and their metadata are those of `proto/gloss/v1/error_reason.proto`.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import grpc
import redis.exceptions
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from gloss.v1 import error_reason_pb2
from jobs import errors as jobs_errors
from ml import errors as ml_errors

_logger = logging.getLogger(__name__)

DOMAIN = "gloss.v1"

_ENGINE_RETRY_SECONDS = 5.0
"""Delay before an external engine is asked again after an unusable answer."""

_RETRY_STEP_MS = 50
"""Delays before another try are rounded up to multiples of so many milliseconds: thus many statuses are equal."""

_LONGEST_TEXT = 400
"""Bytes of a message or of a piece of metadata: statuses travel in trailers, which peers accept up to 8 KiB."""


class ModelNotFoundError(Exception):
    """No model called `model` is served here; `available` are."""

    def __init__(self, model: str, available: tuple[str, ...]) -> None:
        super().__init__(f"no model {model!r} is served here; there is {', '.join(available)}")
        self.model = model
        self.available = available


class OverloadedError(Exception):
    """Too much waits for the model; it should be done in about `retry_seconds`."""

    def __init__(self, retry_seconds: float) -> None:
        super().__init__("too much is waiting for the model; try again a little later")
        self.retry_seconds = retry_seconds


class ModelFailedError(RuntimeError):
    """The model called `model` raised an unexpected error, which is the cause."""

    def __init__(self, model: str, error: Exception) -> None:
        reason = str(error).strip().partition("\n")[0]
        super().__init__(f"model {model!r} failed: {type(error).__name__}: {reason}")
        self.model = model
        self.__cause__ = error


class NoWorkerError(Exception):
    """No worker is alive for `model`."""

    def __init__(self, model: str) -> None:
        super().__init__(f"no worker is alive for model {model!r}; start one, or try again later")
        self.model = model


class UnauthenticatedError(Exception):
    """A call came without an API key, or with an unknown one. The message does not say which."""

    def __init__(self) -> None:
        super().__init__("this server requires an API key: send a valid one as metadata authorization: Bearer KEY")


class KeyLimitError(Exception):
    """An API key has reached a limit of its own: `limit` is its name, `value` how much the key is allowed."""

    def __init__(self, limit: str, value: int, retry_seconds: float) -> None:
        what = {"calls": "calls in progress", "prompts_per_minute": "prompts a minute"}[limit]
        super().__init__(f"your API key is allowed {value} {what}; try again a little later")
        self.limit = limit
        self.value = value
        self.retry_seconds = retry_seconds


class DrainingError(Exception):
    """The server is stopping."""

    def __init__(self) -> None:
        super().__init__("the server is stopping; try again on another one or in a while")


class StreamAgeError(Exception):
    """A stream has reached the longest life that the server gives it."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the stream has lived for {seconds:g} seconds, the most that one may; open another to go on")


class UnreadError(Exception):
    """The client of a stream has not read for the `seconds` that the server waits."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the stream was not read for {seconds:g} seconds; open another, and read as it comes")
        self.seconds = seconds


class MalformedRequestError(Exception):
    """A request's bytes are no message of the type `name`."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the request's bytes are not a {name}; send that message, as protobuf serializes it")
        self.name = name


@dataclass(frozen=True)
class Failure:
    """What the caller of a failed call is sent."""

    code: grpc.StatusCode
    reason: str
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    field: str | None = None
    """The request's field that is to blame."""
    retry_seconds: float | None = None
    """Trying again after this many seconds may help."""


def describe(error: Exception) -> Failure | None:  # noqa: PLR0911, PLR0912 -- a table, written as a match
    """What the caller learns of `error`; None for an unexpected one."""
    code, message = grpc.StatusCode, str(error)
    match error:
        case ml_errors.PromptTooLongError():
            sizes = {"tokens": str(error.tokens), "limit": str(error.limit)}
            return Failure(code.INVALID_ARGUMENT, "PROMPT_TOO_LONG", message, sizes, field=error.field)
        case ml_errors.ReplyTooLargeError():
            sizes = {"bytes": str(error.size), "limit": str(error.limit)}
            return Failure(code.INVALID_ARGUMENT, "REPLY_TOO_LARGE", message, sizes, field=error.field)
        case ml_errors.InputError():
            return Failure(code.INVALID_ARGUMENT, "INVALID_FIELD", message, field=error.field)
        case jobs_errors.PageTokenError():
            return Failure(code.INVALID_ARGUMENT, "INVALID_FIELD", message, field="page_token")
        case ModelNotFoundError():
            names = {"model": error.model, "available": ",".join(error.available)}
            return Failure(code.NOT_FOUND, "MODEL_NOT_FOUND", message, names)
        case jobs_errors.ExplanationNotFoundError():
            return Failure(code.NOT_FOUND, "EXPLANATION_NOT_FOUND", message, {"name": error.name})
        case ml_errors.NoAttentionError():
            return Failure(code.FAILED_PRECONDITION, "NO_ATTENTION", message, {"model": error.model})
        case ml_errors.NoChatTemplateError():
            return Failure(code.FAILED_PRECONDITION, "NO_CHAT_TEMPLATE", message, {"model": error.model})
        case jobs_errors.WrongStateError():
            state = {"name": error.name, "state": error.state}
            return Failure(code.FAILED_PRECONDITION, "WRONG_STATE", message, state)
        case jobs_errors.RequestIdReusedError():
            ids = {"request_id": error.request_id, "name": error.name}
            return Failure(code.ALREADY_EXISTS, "REQUEST_ID_REUSED", message, ids)
        case OverloadedError():
            return Failure(code.RESOURCE_EXHAUSTED, "QUEUE_FULL", message, retry_seconds=error.retry_seconds)
        case jobs_errors.QueueFullError():
            return Failure(code.RESOURCE_EXHAUSTED, "QUEUE_FULL", message, retry_seconds=5)
        case jobs_errors.DataCorruptError():
            return Failure(code.DATA_LOSS, "DATA_CORRUPT", message, {"name": error.name, "part": error.part})
        case redis.exceptions.ConnectionError() | redis.exceptions.TimeoutError():
            away = "the store of explanations cannot be reached; inference is unharmed"
            return Failure(code.UNAVAILABLE, "STORE_UNAVAILABLE", away, retry_seconds=2)
        case redis.exceptions.RedisError():
            refused = "the store of explanations refuses for now; inference is unharmed, and the server's log says more"
            return Failure(code.UNAVAILABLE, "STORE_UNAVAILABLE", refused, retry_seconds=2)
        case NoWorkerError():
            return Failure(code.UNAVAILABLE, "NO_WORKER", message, {"model": error.model}, retry_seconds=5)
        case UnauthenticatedError():
            return Failure(code.UNAUTHENTICATED, "UNAUTHENTICATED", message)
        case KeyLimitError():
            allowed = {"limit": error.limit, "value": str(error.value)}
            return Failure(code.RESOURCE_EXHAUSTED, "KEY_LIMIT", message, allowed, retry_seconds=error.retry_seconds)
        case DrainingError():
            return Failure(code.UNAVAILABLE, "DRAINING", message, retry_seconds=1)
        case StreamAgeError():
            return Failure(code.UNAVAILABLE, "STREAM_AGE", message, retry_seconds=0)
        case UnreadError():
            waited = {"seconds": f"{error.seconds:g}"}
            return Failure(code.UNAVAILABLE, "STREAM_UNREAD", message, waited, retry_seconds=0)
        case MalformedRequestError():
            return Failure(code.INVALID_ARGUMENT, "MALFORMED_REQUEST", message, {"type": error.name})
        case ml_errors.EngineModelChangedError():
            differs = {"difference": f"{error.difference:.3g}", "tolerance": f"{error.tolerance:.3g}"}
            return Failure(code.FAILED_PRECONDITION, "MODEL_CHANGED", message, {"model": error.model, **differs})
        case ml_errors.EngineError():
            seconds = getattr(error, "retry_seconds", _ENGINE_RETRY_SECONDS)
            return Failure(
                code.UNAVAILABLE, "ENGINE_UNAVAILABLE", message, {"model": error.model}, retry_seconds=seconds
            )
        case ml_errors.CapabilityError():
            return Failure(code.FAILED_PRECONDITION, "NOT_SUPPORTED", message, {"model": error.model})
        case _:
            return None


def of_model(model: str, error: Exception) -> Exception:
    """`error` as its caller sees it: an unexpected one carries the name of the `model` that raised it."""
    return ModelFailedError(model, error) if describe(error) is None else error


def to_status(error: Exception, method: str) -> grpc.Status:
    """The status with which `method` ends after `error`. An unexpected error is logged with an incident id."""
    failure = describe(error) or _incident(error, method)
    return _encode(
        failure.code,
        failure.reason,
        _clip(failure.message),
        metadata=tuple((key, _clip(value)) for key, value in failure.metadata.items()),
        field=failure.field,
        retry_steps=None if failure.retry_seconds is None else math.ceil(1e3 * failure.retry_seconds / _RETRY_STEP_MS),
    )


def _incident(error: Exception, method: str) -> Failure:
    incident = secrets.token_hex(6)
    _logger.error("incident=%s method=%s", incident, method, exc_info=error)
    what = "an unexpected error occurred"
    if isinstance(error, ModelFailedError):
        # A GlossError's message is written for callers.
        known = isinstance(error.__cause__, ml_errors.GlossError)
        what = str(error.__cause__) if known else f"model {error.model!r} failed at this call"
    message = f"{what}; the server's log has details under incident {incident}"
    return Failure(grpc.StatusCode.INTERNAL, "INTERNAL", message, {"incident": incident})


@lru_cache(256)
def _encode(
    code: grpc.StatusCode,
    reason: str,
    description: str,
    *,
    metadata: tuple[tuple[str, str], ...],
    field: str | None,
    retry_steps: int | None,
) -> grpc.Status:
    """A status. It is kept: an overloaded server sends the same hundreds of times a second, while its model waits."""
    error_reason_pb2.ErrorReason.Value(f"ERROR_REASON_{reason}")  # The contract knows every reason.
    message = f"{field}: {description}" if field else description
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=dict(metadata))]
    if field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if retry_steps is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(retry_steps * _RETRY_STEP_MS)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code.value[0], message=message, details=[_pack(part) for part in details])
    encoded: grpc.Status = rpc_status.to_status(status)
    return encoded


def _pack(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def _clip(text: str) -> str:
    encoded = text.encode(errors="replace")
    return text if len(encoded) <= _LONGEST_TEXT else encoded[:_LONGEST_TEXT].decode(errors="ignore") + "…"
