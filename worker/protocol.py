"""Messages between the worker's two processes: one JSON object a line.

The parent sends `Run`; the child answers `Began` (unless there is nothing to do) and always `Ended`. Before all that,
the child says once whether it could load the model: `Ready` or `Refused`.
"""

from __future__ import annotations

import json
import os
import select
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Run:
    """Work on this explanation."""

    explanation_id: str


@dataclass(frozen=True)
class Ready:
    """The model is loaded."""

    model: str
    digest: str
    load_seconds: float


@dataclass(frozen=True)
class Refused:
    """The model cannot be loaded; the message is for the person who chose it."""

    message: str


@dataclass(frozen=True)
class Began:
    """An attempt has begun, after so many seconds since the explanation was created."""

    method: str
    waited_seconds: float


@dataclass(frozen=True)
class Ended:
    """The child is free again.

    `outcome` is succeeded, failed, cancelled, interrupted (it may be resumed), overtaken (by a newer attempt), lost (it
    could not be written) or skipped (there was nothing to do). The costs are those of the whole explanation, 0 where it
    has not ended.
    """

    outcome: str
    seconds: float = 0.0
    evaluations: int = 0
    tokens_computed: int = 0
    tokens_saved: int = 0


Message = Run | Ready | Refused | Began | Ended

_KINDS: dict[str, type[Message]] = {kind.__name__: kind for kind in (Run, Ready, Refused, Began, Ended)}


def encode(message: Message) -> bytes:
    """Encode a message as one line of JSON."""
    return json.dumps({"kind": type(message).__name__, **asdict(message)}).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Decode a line that `encode` wrote."""
    fields = json.loads(line)
    return _KINDS[fields.pop("kind")](**fields)


class Inbox:
    """Messages from a pipe, with a time-out."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._unread = b""

    def receive(self, timeout: float) -> Message | None:
        """Receive the next message; None if none came within `timeout` seconds.

        Raises:
            EOFError: the other side has closed the pipe.
        """
        while b"\n" not in self._unread:
            readable, _, _ = select.select([self._descriptor], [], [], timeout)
            if not readable:
                return None
            received = os.read(self._descriptor, 65536)
            if not received:
                raise EOFError
            self._unread += received
        line, self._unread = self._unread.split(b"\n", 1)
        return decode(line)
