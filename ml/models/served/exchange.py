"""One request to an engine and what became of it: how it ended, what it cost, whether trying again may help."""

from __future__ import annotations

import json
import math
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time
from typing import Any, Generic, TypeVar

import httpx2

from ml.errors import EngineError

T = TypeVar("T")

_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same request may be answered."""

_OVERLOADED = frozenset({429, 503})
_KEY_WANTED = frozenset({401, 403})
_LONGEST_REASON = 300
"""Characters of an engine's own message that are repeated."""

_LONGEST_REST = 3600.0
"""Seconds of rest that an engine may ask for; a slip of its clock must not end it for good."""

LARGEST_ANSWER = 256 * 2**20
"""Bytes, whatever is asked."""

MALFORMED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What reading an answer of another form than expected may raise."""


@dataclass(frozen=True)
class Exchange:
    """One request that has ended, for whoever counts.

    Attributes:
        outcome: "ok", "overloaded", "failed", "unusable", "refused", "away", or "cancelled".
        in_flight: prompts that are asked for at this moment, its own among them.
        prompt_tokens: as the engine counts them; of them `cached_tokens` were in its prefix cache, as far as it says.
    """

    outcome: str
    seconds: float
    in_flight: int
    prompt_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True)
class Reply(Generic[T]):
    """What was made of an answer, and the replica that gave it."""

    value: T
    replica: str


class UnusableError(Exception):
    """An answer lacks what was asked for, or holds what is no number. The message says what."""


class RefusedError(EngineError):
    """The engine says that the request itself is wrong; `status` is its own."""

    def __init__(self, model: str, status: int, message: str) -> None:
        super().__init__(model, message)
        self.status = status


class TransientError(Exception):
    """A request failed that may be tried again; `retry_after` are seconds that the engine asks to wait."""

    def __init__(self, outcome: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.retry_after = retry_after


def check(response: httpx2.Response, content: bytes, model: str) -> None:
    """Make sure that a response, whose body is `content`, is an answer.

    Raises:
        TransientError: it is none, and the next one may be.
        RefusedError: it is none, and none will be.
    """
    status = response.status_code
    if status == httpx2.codes.OK:
        return
    message = _message(content)
    if status in _TRANSIENT:
        outcome = "overloaded" if status in _OVERLOADED else "failed"
        raise TransientError(outcome, f"it answered {status}: {message}", _retry_after(response))
    if status in _KEY_WANTED:
        raise RefusedError(model, status, f"the engine refuses the key in GLOSS_ENGINE_KEY ({status})")
    if response.has_redirect_location:
        # Not followed: whoever answers there was not named, and would get the key.
        raise RefusedError(model, status, f"the engine sends its callers elsewhere ({status}); name that address")
    raise RefusedError(model, status, f"the engine refuses the request ({status}): {message}")


def check_plain(response: httpx2.Response) -> None:
    """Make sure that a response comes as it is: what is small when compressed may be larger than memory.

    Raises:
        TransientError: it is compressed, though nobody asked for that.
    """
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding != "identity":
        raise TransientError("unusable", f"it is encoded as {encoding[:40]!r}, and was to come as it is")


async def content_of(response: httpx2.Response, largest: int = LARGEST_ANSWER) -> bytes:
    """A response's whole body, of at most so many bytes.

    Raises:
        TransientError: it is longer, or compressed.
    """
    check_plain(response)
    content = bytearray()
    async for some in response.aiter_raw():
        content += some
        if len(content) > largest:
            raise TransientError("unusable", f"it is longer than {largest} bytes, and nothing that was asked for is")
    return bytes(content)


def parsed(content: bytes | str) -> Any:
    """What JSON says.

    Raises:
        UnusableError: it says that something went wrong.
        ValueError, RecursionError: it is no JSON, or says of one thing two.
    """
    data = json.loads(content, object_pairs_hook=_unambiguous)
    if isinstance(data, dict) and data.get("error"):
        raise UnusableError(f"it is an error: {_said(data)}")
    return data


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice in one object")
    return found


def broken(error: httpx2.RequestError | TimeoutError) -> TransientError:
    """An error of the connection, in words. Its address is left out: callers see this."""
    match next((each for each in _chain(error) if isinstance(each, ssl.SSLError | socket.gaierror)), error):
        case ssl.SSLCertVerificationError() as found:
            trusted = "SSL_CERT_FILE names a file of the authorities to trust"
            reason = f"its certificate is not trusted ({found.verify_message}); {trusted}"
        case ssl.SSLError() as found:
            reason = f"no encrypted connection can be made ({found.reason}); is it an address for http?"
        case socket.gaierror():
            reason = "its host's name cannot be resolved"
        case httpx2.ConnectTimeout() | httpx2.ConnectError():
            reason = "nothing accepts connections there"
        case httpx2.TimeoutException() | TimeoutError():
            reason = "it took too long"
        case _:
            reason = f"the connection broke ({type(error).__name__})"
    return TransientError("away", reason)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what made it happen: the libraries between wrap that in their own."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def usage(data: Any) -> dict[str, int]:
    """Tokens by an engine's own count, as `Exchange` names them; 0 where it reports none."""
    found = data.get("usage") if isinstance(data, dict) else None
    if not isinstance(found, dict):
        return {}
    details = found.get("prompt_tokens_details") or {}
    return {
        "prompt_tokens": max(0, int(found.get("prompt_tokens") or 0)),
        "cached_tokens": max(0, int(details.get("cached_tokens") or 0)),
    }


def _message(content: bytes) -> str:
    """What an engine says is wrong."""
    try:
        return _said(json.loads(content))
    except MALFORMED:
        return _line(content[: 4 * _LONGEST_REASON].decode(errors="replace"))


def _said(data: Any) -> str:
    """The message of an error, by OpenAI's form or any other."""
    found = data["error"]["message"] if isinstance(data.get("error"), dict) else data.get("message", data)
    return _line(found)


def _line(found: Any) -> str:
    return str(found).strip().partition("\n")[0][:_LONGEST_REASON]


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds that the engine asks to wait, by a number or a date."""
    value = response.headers.get("Retry-After", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time()
        except (ValueError, OverflowError):
            return None
    return None if math.isnan(seconds) else min(max(0.0, seconds), _LONGEST_REST)
