"""The child process with the model, for the parent: to start it, run jobs in it, interrupt and end it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from worker.children import ForkServer
from worker.protocol import Inbox, Message, Ready, Refused, Run, encode

INTERRUPT = signal.SIGUSR1
"""The signal that stops the child's job; the child keeps the model."""

RESPONSE_SECONDS = 1.0
"""How long an interrupted child may take to stop before it counts as unresponsive."""

_STOP_SECONDS = 3.0


class ModelRefusedError(Exception):
    """The child cannot load the model; the message says why."""


class ChildLostError(Exception):
    """The child has died."""


@dataclass
class _Child:
    """A child that was started, and the pipes to and from it."""

    pid: int
    stdin: IO[bytes]
    stdout: int
    inbox: Inbox

    def close(self) -> None:
        """Close the pipes."""
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()
        os.close(self.stdout)


class ModelProcess:
    """A child process that loads the model once and then runs jobs one by one.

    It is forked by a `ForkServer`, which lives as long as this object, and ends with this process, even by kill -9.
    Start it in the main thread.

    Args:
        program: a module whose `main` is the child's program, and the arguments to it.
    """

    def __init__(self, program: Sequence[str] = ("worker.child",)) -> None:
        module, *self._arguments = program
        self.fork_server = ForkServer(module)
        self._child: _Child | None = None
        self._status: int | None = None
        self._busy = False
        self._interrupted_at: float | None = None
        # Guards the two above: a signal must reach the job that it is for, or none.
        self._lock = threading.Lock()

    @property
    def alive(self) -> bool:
        """Whether the child runs."""
        child = self._child
        return child is not None and self.fork_server.status(child.pid) is None

    @property
    def pid(self) -> int | None:
        """The child's process id."""
        return self._child.pid if self._child else None

    @property
    def unresponsive(self) -> bool:
        """Whether the child was interrupted too long ago and has not stopped."""
        with self._lock:
            return self._interrupted_at is not None and time.monotonic() - self._interrupted_at > RESPONSE_SECONDS

    def start(self) -> Ready:
        """Start a child and wait until its model is loaded.

        Raises:
            ModelRefusedError: it cannot load the model.
            ChildLostError: it died while loading.
        """
        self.kill()  # a previous child is dead, but its pipes are open
        try:
            self._fork()
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
        if not isinstance(message, Ready):
            raise TypeError(f"the child sent {message} before it was ready")
        return message

    def run(self, explanation_id: str) -> None:
        """Send the child a job.

        Raises:
            ChildLostError: the child has died.
        """
        with self._lock:
            self._busy, self._interrupted_at = True, None
        if self._child is None:
            raise ChildLostError
        try:
            self._child.stdin.write(encode(Run(explanation_id)))
            self._child.stdin.flush()
        except BrokenPipeError:
            raise ChildLostError from None

    def receive(self, timeout: float) -> Message | None:
        """Receive the child's next message; None if none came within `timeout` seconds.

        Raises:
            ChildLostError: the child has died.
        """
        if self._child is None:
            raise ChildLostError
        try:
            return self._child.inbox.receive(timeout)
        except EOFError:
            raise ChildLostError from None

    def finished(self) -> None:
        """Call it after `Ended`: from here on there is no job to interrupt."""
        with self._lock:
            self._busy, self._interrupted_at = False, None

    def interrupt(self) -> None:
        """Ask the child to stop its current job, if any. Thread-safe."""
        with self._lock:
            if self._busy and self._child is not None and self._interrupted_at is None:
                self._interrupted_at = time.monotonic()
                self.fork_server.send_signal(self._child.pid, INTERRUPT)

    def exit_status(self) -> str:
        """Wait for the child's end. Returns how it ended: an exit code or a signal's name."""
        if self._child is not None:
            self._status = self.fork_server.wait(self._child.pid, _STOP_SECONDS)
        status = -signal.SIGKILL if self._status is None else self._status
        return f"exit code {status}" if status >= 0 else signal.Signals(-status).name

    def kill(self) -> None:
        """End the child by force, and wait for it."""
        self.finished()
        if self._child is not None:
            self._status = self.fork_server.kill(self._child.pid)
            self._child.close()
            self._child = None

    def stop(self) -> None:
        """End the child, by closing its pipe if it is idle, and the fork server, and wait for both."""
        if self._child is not None:
            with contextlib.suppress(BrokenPipeError):
                self._child.stdin.close()
            if not self._busy:
                self.fork_server.wait(self._child.pid, _STOP_SECONDS)
        self.kill()
        self.fork_server.stop()

    def _fork(self) -> None:
        """Fork a child.

        Raises:
            ChildLostError: the fork server died.
        """
        stdin, to_child = os.pipe()
        from_child, stdout = os.pipe()
        try:
            pid = self.fork_server.fork(self._arguments, stdin, stdout)
        except BaseException:
            os.close(to_child)
            os.close(from_child)
            raise
        finally:
            os.close(stdin)
            os.close(stdout)
        if pid is None:
            os.close(to_child)
            os.close(from_child)
            raise ChildLostError
        self._child = _Child(pid, os.fdopen(to_child, "wb"), from_child, Inbox(from_child))
