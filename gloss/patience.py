"""When a watch that lost its connection reconnects, and when it gives up."""

from __future__ import annotations

import random
import time

import grpc

from gloss.connection import limit
from gloss.errors import GlossError
from gloss.plans import Watch, is_final
from gloss.v1 import Explanation

CONNECTION_SECONDS = 60.0
"""How long a connection lasts before it is renewed, which detects a peer that vanished silently."""
OUTAGE_SECONDS = 60.0
"""How long the server may be unavailable before a watch gives up: enough for a restart."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0


class Patience:
    """The state of a watch across its connections; the clients do the waiting."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        seconds = limit(watch.timeout)
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._seen = watch.known_to_exist
        self._failures = 0
        self._away_since: float | None = None
        self._greeted = False

    def connection_seconds(self) -> float:
        """How long the next connection may last."""
        self._greeted = False
        if self._deadline is None:
            return CONNECTION_SECONDS
        return max(0.001, min(CONNECTION_SECONDS, self._deadline - time.monotonic()))

    def heard(self, explanation: Explanation) -> bool:
        """Record a message. Returns whether it is the last."""
        self._seen = self._greeted = True
        self._failures, self._away_since = 0, None
        return is_final(explanation.state)

    def pause(self, error: GlossError | None) -> float:
        """Seconds to wait before connecting again.

        Args:
            error: why the connection ended; None if the server closed it before the explanation ended.

        Raises:
            GlossError: the watch gives up, or `error` is not temporary.
        """
        now = time.monotonic()
        if self._deadline is not None and now >= self._deadline:
            raise GlossError(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"{self._watch.request.name} has not ended within {self._watch.timeout:g} s; it goes on without us",
            ) from error
        if error is None or error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
            if self._greeted:  # the regular end of a connection that worked
                return FIRST_PAUSE if error is None else 0.0
        elif error.code is not grpc.StatusCode.UNAVAILABLE or not self._seen:
            raise error

        self._away_since = now if self._away_since is None else self._away_since
        if now - self._away_since >= OUTAGE_SECONDS:
            raise error or GlossError(grpc.StatusCode.UNAVAILABLE, "the server closes the stream without a message")
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * float(1 << min(self._failures, 16)))
        self._failures += 1
        asked = min(LONGEST_PAUSE, error.retry_after or 0.0) if error else 0.0
        pause = max(asked, pause * random.uniform(0.5, 1.0))  # noqa: S311 jitter needs no cryptography
        return pause if self._deadline is None else min(pause, self._deadline - now)
