"""The child process with the model, as the parent sees it: started, given jobs, interrupted, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, cast

from worker.protocol import Inbox, Message, Ready, Refused, Run, encode

INTERRUPT = signal.SIGUSR1
"""Asks the child to stop its job; it keeps the model."""

RESPONSE_SECONDS = 1.0
"""How long an interrupted child may go on before it counts as unresponsive."""

_CHECKOUT = Path(__file__).parents[1]
_STOP_SECONDS = 3.0


class ModelRefusedError(Exception):
    """The child cannot load the model; the message says why."""


class ChildLostError(Exception):
    """The child has died."""


class ModelProcess:
    """A child process that loads the model once and then performs one job after the other.

    It ends with this process, even by kill -9. Start it in the main thread: Linux counts a child's parent as dead when
    the thread that started it ends.

    Args:
        command: the child's program, which is given this process's id as its last argument.
    """

    def __init__(self, command: Sequence[str] = (sys.executable, "-m", "worker.child")) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._inbox = Inbox(-1)
        self._busy = False
        self._interrupted_at: float | None = None
        # Guards the two above: a signal must reach the job that it was meant for, or none.
        self._lock = threading.Lock()

    @property
    def alive(self) -> bool:
        """Whether the child runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def unresponsive(self) -> bool:
        """Whether the child was interrupted and has gone on for too long."""
        with self._lock:
            return self._interrupted_at is not None and time.monotonic() - self._interrupted_at > RESPONSE_SECONDS

    def start(self) -> Ready:
        """Start a child and wait until its model is loaded.

        Raises:
            ModelRefusedError: it cannot load the model.
            ChildLostError: it died while loading.
        """
        self.kill()  # it is dead already, but its pipes are open
        path = os.pathsep.join(filter(None, (str(_CHECKOUT), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [*self._command, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._inbox = Inbox(cast("IO[bytes]", self._process.stdout).fileno())
        try:
            while (message := self.receive(1.0)) is None:
                pass
        except ChildLostError:
            raise ChildLostError(f"the model's process ended with {self.exit_status()} while loading") from None
        except BaseException:
            self.kill()
            raise
        if isinstance(message, Refused):
            self.stop()
            raise ModelRefusedError(message.message)
        return cast("Ready", message)

    def run(self, explanation_id: str) -> None:
        """Send the child a job.

        Raises:
            ChildLostError: the child has died.
        """
        with self._lock:
            self._busy, self._interrupted_at = True, None
        try:
            pipe = cast("IO[bytes]", cast("subprocess.Popen[bytes]", self._process).stdin)
            pipe.write(encode(Run(explanation_id)))
            pipe.flush()
        except BrokenPipeError:
            raise ChildLostError from None

    def receive(self, timeout: float) -> Message | None:
        """Receive the child's next message; None if none came within `timeout` seconds.

        Raises:
            ChildLostError: the child has died.
        """
        try:
            return self._inbox.receive(timeout)
        except EOFError:
            raise ChildLostError from None

    def finished(self) -> None:
        """Note that the job is over, so that nothing is interrupted any more. Call it when `Ended` has come."""
        with self._lock:
            self._busy, self._interrupted_at = False, None

    def interrupt(self) -> None:
        """Ask the child to stop the job that it is on, if any. May be called from any thread."""
        with self._lock:
            if self._busy and self._process is not None and self._interrupted_at is None:
                self._interrupted_at = time.monotonic()
                self._process.send_signal(INTERRUPT)

    def exit_status(self) -> str:
        """Return how the child ended: an exit code or a signal's name."""
        status = cast("subprocess.Popen[bytes]", self._process).wait()
        return f"exit code {status}" if status >= 0 else signal.Signals(-status).name

    def kill(self) -> None:
        """End the child by force, and wait for it."""
        self.finished()
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._close()

    def stop(self) -> None:
        """End the child, by closing its pipe where it is idle, and wait for it."""
        if self._process is None:
            return
        with contextlib.suppress(BrokenPipeError):
            cast("IO[bytes]", self._process.stdin).close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0 if self._busy else _STOP_SECONDS)
        self.kill()

    def _close(self) -> None:
        process = cast("subprocess.Popen[bytes]", self._process)
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(BrokenPipeError):
                cast("IO[bytes]", pipe).close()
