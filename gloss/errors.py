"""What a client's caller can meet: every failed call raises a `GlossError`.

GlossError                      a call failed; `code` and `reason` say how
└── ExplanationFailedError      the calls went well, the explanation did not
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from gloss.v1 import EXPLANATION_STATE_CANCELLED, ErrorReason, Explanation

STATUS_DETAILS = "grpc-status-details-bin"
"""Trailing metadata that carries a serialized google.rpc.Status."""
_TOO_LARGE = re.compile(r"Received message larger than max \((\d+) vs\. (\d+)\)")
"""What gRPC says for the server, before the server sees anything."""


class GlossError(Exception):
    """A call failed.

    Attributes:
        code: gRPC status.
        message: what happened and what to do, for a person.
        reason: stable name from the contract's `ErrorReason` without its prefix ("INVALID_FIELD"), or "" where the
            server sent none, for instance because there is no server.
        field: path of the offending field ("prompts[0].text"), or "".
        retry_after: seconds after which trying again may help, or None where the server does not say.
        metadata: further facts, as the contract documents them for each reason.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        field: str = "",
        retry_after: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason
        self.field = field
        self.retry_after = retry_after
        self.metadata = dict(metadata or {})

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field and not self.message.startswith(self.field) else ""
        return f"{self.code.name}: {where}{self.message}"


class ExplanationFailedError(GlossError):
    """An explanation that was waited for ended as FAILED (code ABORTED) or CANCELLED (code CANCELLED).

    Attributes:
        explanation: as it ended; its `partial_result` holds what was known last.
    """

    def __init__(self, explanation: Explanation) -> None:
        if explanation.state == EXPLANATION_STATE_CANCELLED:
            super().__init__(grpc.StatusCode.CANCELLED, f"{explanation.name} was cancelled")
        else:
            error = explanation.error
            super().__init__(
                grpc.StatusCode.ABORTED,
                error.message or f"{explanation.name} failed",
                reason=reason_name(error.reason),
                metadata=error.metadata,
            )
        self.explanation = explanation


def closed() -> GlossError:
    """The error of a call to a client that had been closed, or that was closed under it."""
    return GlossError(grpc.StatusCode.CANCELLED, "this client is closed; make another, or call it within its `with`")


@contextmanager
def unicode_only() -> Iterator[None]:
    """Turn what a text raises that no message can carry into a `GlossError` that says which character it is."""
    try:
        yield
    except UnicodeEncodeError as error:
        text, position = str(error.object), error.start
        name = f"U+{ord(text[position]):04X}"
        before = f", after {text[max(0, position - 20) : position]!r}" if position else ""
        message = f"a text holds {name}, half of a surrogate pair, at position {position}{before}; remove it"
        raise GlossError(grpc.StatusCode.INVALID_ARGUMENT, message) from error


def from_rpc(error: grpc.RpcError) -> GlossError:
    """The `GlossError` of a failed call, of the blocking or of the asyncio API."""
    code = error.code()
    trailers: Any = error.trailing_metadata() or ()  # pairs, in both APIs
    return decode(code, error.details() or code.value[1], trailers)


def decode(code: grpc.StatusCode, message: str, trailers: Iterable[tuple[str, str | bytes]]) -> GlossError:
    """Read the google.rpc.Status among `trailers`, where there is one."""
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and (sizes := _TOO_LARGE.search(message)):
        size, limit = map(int, sizes.groups())
        message = f"what was sent has {size:,} bytes, and the server reads at most {limit:,} at once; shorten it"
    error = GlossError(code, message)
    for key, value in trailers:
        if key != STATUS_DETAILS or not isinstance(value, bytes):
            continue
        for detail in status_pb2.Status.FromString(value).details:
            info, bad, retry = (
                error_details_pb2.ErrorInfo(),
                error_details_pb2.BadRequest(),
                error_details_pb2.RetryInfo(),
            )
            if detail.Unpack(info):
                error.reason = info.reason
                error.metadata = dict(info.metadata)
            elif detail.Unpack(bad) and bad.field_violations:
                error.field = bad.field_violations[0].field
            elif detail.Unpack(retry):
                error.retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    return error


def reason_name(reason: ErrorReason) -> str:
    """The contract's name of a reason, without its prefix; "" where it is not set."""
    return ErrorReason.Name(reason).removeprefix("ERROR_REASON_") if reason in ErrorReason.values() and reason else ""
