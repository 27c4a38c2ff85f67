"""Every foreseen error has its status; the unforeseen says nothing of the inside."""

import logging

import grpc
import pytest
import redis.exceptions
from google.rpc import error_details_pb2, status_pb2

from gloss.v1 import ErrorReason
from jobs import errors as jobs_errors
from ml import errors as ml_errors
from server.errors import (
    DrainingError,
    KeyLimitError,
    MalformedRequestError,
    ModelNotFoundError,
    NoWorkerError,
    OverloadedError,
    StreamAgeError,
    UnauthenticatedError,
    UnreadError,
    of_model,
    to_status,
)

Code = grpc.StatusCode


def decode(error):
    """(code, message, {type name: detail}) of the status for an error."""
    encoded = to_status(error, "/gloss.v1.InferenceService/NextToken")
    [(key, value)] = encoded.trailing_metadata
    assert key == "grpc-status-details-bin"
    status = status_pb2.Status.FromString(value)
    assert (status.code, status.message) == (encoded.code.value[0], encoded.details)
    details = {}
    for part in status.details:
        kind = getattr(error_details_pb2, part.TypeName().rpartition(".")[2])
        message = kind()
        assert part.Unpack(message)
        details[kind.__name__] = message
    return encoded.code, status.message, details


@pytest.mark.parametrize(
    ("error", "code", "reason", "metadata", "field", "retries"),
    [
        (ml_errors.InputError("top_k", "no"), Code.INVALID_ARGUMENT, "INVALID_FIELD", {}, "top_k", False),
        (
            ml_errors.PromptTooLongError("prompts[1].text", 600, 512),
            Code.INVALID_ARGUMENT, "PROMPT_TOO_LONG", {"tokens": "600", "limit": "512"}, "prompts[1].text", False,
        ),
        (
            ml_errors.ReplyTooLargeError("layers", 9, 8),
            Code.INVALID_ARGUMENT, "REPLY_TOO_LARGE", {"bytes": "9", "limit": "8"}, "layers", False,
        ),
        (jobs_errors.PageTokenError(), Code.INVALID_ARGUMENT, "INVALID_FIELD", {}, "page_token", False),
        (
            ModelNotFoundError("x", ("a", "b")),
            Code.NOT_FOUND, "MODEL_NOT_FOUND", {"model": "x", "available": "a,b"}, None, False,
        ),
        (
            jobs_errors.ExplanationNotFoundError("explanations/1"),
            Code.NOT_FOUND, "EXPLANATION_NOT_FOUND", {"name": "explanations/1"}, None, False,
        ),
        (ml_errors.NoAttentionError("lstm"), Code.FAILED_PRECONDITION, "NO_ATTENTION", {"model": "lstm"}, None, False),
        (
            ml_errors.NoChatTemplateError("lstm"),
            Code.FAILED_PRECONDITION, "NO_CHAT_TEMPLATE", {"model": "lstm"}, None, False,
        ),
        (
            jobs_errors.WrongStateError("explanations/1", "SUCCEEDED"),
            Code.FAILED_PRECONDITION, "WRONG_STATE", {"name": "explanations/1", "state": "SUCCEEDED"}, None, False,
        ),
        (
            jobs_errors.RequestIdReusedError("r", "explanations/1"),
            Code.ALREADY_EXISTS, "REQUEST_ID_REUSED", {"request_id": "r", "name": "explanations/1"}, None, False,
        ),
        (OverloadedError(0.25), Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", {}, None, True),
        (jobs_errors.QueueFullError(5), Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", {}, None, True),
        (redis.exceptions.ConnectionError("x"), Code.UNAVAILABLE, "STORE_UNAVAILABLE", {}, None, True),
        (redis.exceptions.TimeoutError("x"), Code.UNAVAILABLE, "STORE_UNAVAILABLE", {}, None, True),
        (redis.exceptions.BusyLoadingError("x"), Code.UNAVAILABLE, "STORE_UNAVAILABLE", {}, None, True),
        (redis.exceptions.AuthenticationError("x"), Code.UNAVAILABLE, "STORE_UNAVAILABLE", {}, None, True),
        (redis.exceptions.OutOfMemoryError("x"), Code.UNAVAILABLE, "STORE_UNAVAILABLE", {}, None, True),
        (redis.exceptions.ResponseError("MISCONF x"), Code.UNAVAILABLE, "STORE_UNAVAILABLE", {}, None, True),
        (
            jobs_errors.DataCorruptError("explanations/1", "spec"),
            Code.DATA_LOSS, "DATA_CORRUPT", {"name": "explanations/1", "part": "spec"}, None, False,
        ),
        (NoWorkerError("m"), Code.UNAVAILABLE, "NO_WORKER", {"model": "m"}, None, True),
        (UnauthenticatedError(), Code.UNAUTHENTICATED, "UNAUTHENTICATED", {}, None, False),
        (
            KeyLimitError("calls", 2, 1.0),
            Code.RESOURCE_EXHAUSTED, "KEY_LIMIT", {"limit": "calls", "value": "2"}, None, True,
        ),
        (DrainingError(), Code.UNAVAILABLE, "DRAINING", {}, None, True),
        (StreamAgeError(60), Code.UNAVAILABLE, "STREAM_AGE", {}, None, True),
        (UnreadError(30), Code.UNAVAILABLE, "STREAM_UNREAD", {"seconds": "30"}, None, True),
        (
            MalformedRequestError("gloss.v1.A"),
            Code.INVALID_ARGUMENT,
            "MALFORMED_REQUEST",
            {"type": "gloss.v1.A"},
            None,
            False,
        ),
        (
            ml_errors.CapabilityError("m", "no"),
            Code.FAILED_PRECONDITION, "NOT_SUPPORTED", {"model": "m"}, None, False,
        ),
    ],
)  # fmt: skip
def test_a_foreseen_error(error, code, reason, metadata, field, retries):  # noqa: PLR0917
    found, message, details = decode(error)
    assert found is code
    assert f"ERROR_REASON_{reason}" in ErrorReason.keys()  # noqa: SIM118 -- an enum, not a dict
    info = details["ErrorInfo"]
    assert (info.reason, info.domain, dict(info.metadata)) == (reason, "gloss.v1", metadata)
    if field is None:
        assert "BadRequest" not in details
    else:
        [violation] = details["BadRequest"].field_violations
        assert violation.field == field
        assert violation.description
        assert message == f"{field}: {violation.description}"
    assert ("RetryInfo" in details) is retries


def test_the_retry_delay_is_the_errors_own():
    _, _, details = decode(OverloadedError(0.25))
    assert details["RetryInfo"].retry_delay.ToTimedelta().total_seconds() == 0.25


def test_equal_refusals_are_one_status_which_sends_nobody_back_too_early():
    assert to_status(OverloadedError(1.02), "/s/m") is to_status(OverloadedError(1.03), "/s/other")
    for seconds in (0.001, 0.25, 1.02, 1.03, 29.99):
        delay = decode(OverloadedError(seconds))[2]["RetryInfo"].retry_delay.ToTimedelta().total_seconds()
        assert seconds <= delay < seconds + 0.05


def test_the_unforeseen_is_logged_beside_its_incident_and_kept_inside(caplog):
    with caplog.at_level(logging.ERROR, logger="server.errors"):
        code, message, details = decode(ZeroDivisionError("the secret inside"))
    assert code is Code.INTERNAL
    assert "secret" not in message
    assert details["ErrorInfo"].reason == "INTERNAL"
    [record] = caplog.records
    assert details["ErrorInfo"].metadata["incident"] in record.getMessage()
    assert "the secret inside" in caplog.text


def test_what_a_model_did_not_foresee_names_the_model_and_nothing_of_the_inside():
    code, message, _ = decode(of_model("tiny", ZeroDivisionError("the secret inside")))
    assert code is Code.INTERNAL
    assert "model 'tiny' failed at this call" in message
    assert "secret" not in message
    foreseen = OverloadedError(1)
    assert of_model("tiny", foreseen) is foreseen


@pytest.mark.parametrize("letter", ["x", "é", "😀", "\n"])
def test_a_long_message_fits_the_trailers(letter):
    status = to_status(ModelNotFoundError(letter * 100_000, (letter * 100_000,)), "/s/m")
    [(_, value)] = status.trailing_metadata
    as_sent = 4 / 3 * len(value) + 3 * len(status.details.encode())  # base64; percent-encoding at its worst
    assert as_sent < 7000
