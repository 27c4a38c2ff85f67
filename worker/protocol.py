"""Messages between the worker's processes: one JSON object a line.

The parent sends the child `Run`; the child answers `Began` (unless there is nothing to do) and always `Ended`. Of each
request to an external engine it reports by `Asked`. Before all that, the child says once whether it could load the
model: `Ready` or `Refused`.

The parent sends the fork server `Fork`, together with two descriptors, and `Signal`; it answers `Forked`, and sends
`Exited` when a child has ended.
"""

from __future__ import annotations

import json
import os
import select
from collections import deque
from collections.abc import Iterator
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
    """An attempt has begun, or goes on, after the explanation has waited for so many seconds."""

    method: str
    waited_seconds: float


@dataclass(frozen=True)
class Ended:
    """The child is free again.

    `outcome` is succeeded, failed, cancelled, interrupted (it may be resumed), yielded (to others that wait), overtaken
    (by a newer attempt), lost (it could not be written) or skipped (there was nothing to do). The costs are those of
    the whole explanation, 0 where it has not ended.
    """

    outcome: str
    seconds: float = 0.0
    evaluations: int = 0
    tokens_computed: int = 0
    tokens_saved: int = 0


@dataclass(frozen=True)
class Asked:
    """A request to the engine that serves the model elsewhere has ended; `in_flight` are prompts that others hold.

    `outcome` and the tokens are those of `ml.models.served.exchange.Exchange`.
    """

    outcome: str
    seconds: float
    in_flight: int
    prompt_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True)
class Fork:
    """Start a child, whose standard input and output are the two descriptors that come with this message."""

    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Signal:
    """Send a signal to a child, if it runs."""

    pid: int
    number: int


@dataclass(frozen=True)
class Forked:
    """A child runs."""

    pid: int


@dataclass(frozen=True)
class Exited:
    """A child has ended; `status` is its exit code, or the number of a signal as a negative one."""

    pid: int
    status: int


Message = Run | Ready | Refused | Began | Ended | Asked | Fork | Signal | Forked | Exited

_KINDS: dict[str, type[Message]] = {
    kind.__name__: kind for kind in (Run, Ready, Refused, Began, Ended, Asked, Fork, Signal, Forked, Exited)
}


def encode(message: Message) -> bytes:
    """Encode a message as one line of JSON."""
    return json.dumps({"kind": type(message).__name__, **asdict(message)}).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Decode a line that `encode` wrote."""
    fields = json.loads(line)
    return _KINDS[fields.pop("kind")](**fields)


class Lines:
    """Messages of bytes that come in pieces."""

    def __init__(self) -> None:
        self._incomplete = b""

    def feed(self, received: bytes) -> Iterator[Message]:
        """Yield the messages that are complete with `received`."""
        *lines, self._incomplete = (self._incomplete + received).split(b"\n")
        for line in lines:
            yield decode(line)


class Inbox:
    """Messages from a pipe, with a time-out."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines = Lines()
        self._messages: deque[Message] = deque()

    def receive(self, timeout: float | None) -> Message | None:
        """Receive the next message; None if none came within `timeout` seconds, which None waits for without end.

        Raises:
            EOFError: the other side has closed the pipe.
        """
        while not self._messages:
            readable, _, _ = select.select([self._descriptor], [], [], timeout)
            if not readable:
                return None
            received = os.read(self._descriptor, 65536)
            if not received:
                raise EOFError
            self._messages.extend(self._lines.feed(received))
        return self._messages.popleft()
