"""The worker's side of the fork server: start it, fork children, signal them, and wait for their end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from worker.protocol import Exited, Fork, Forked, Lines, Message, Signal, encode

_CHECKOUT = Path(__file__).parents[1]
_POLL_SECONDS = 0.05
_STUCK_SECONDS = 5.0


class ForkServer:
    """A process that has imported everything and forks children of the module `program`.

    It starts with the first child, and again if it died. Start children in the main thread: for Linux, a process's
    parent is dead when the thread that started it ends. Everything else is thread-safe.
    """

    def __init__(self, program: str) -> None:
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._lines = Lines()
        self._forked: list[int] = []
        self._exited: dict[int, int] = {}
        self._lock = threading.Lock()

    def fork(self, arguments: Sequence[str], stdin: int, stdout: int) -> int | None:
        """Start a child whose standard input and output are the given descriptors.

        Returns its process id once it runs, after the imports of a new fork server; None if the fork server died.
        """
        if self._process is None or self._process.poll() is not None or self._control is None:
            self._start()
        control = self._control
        try:
            if control is not None:
                socket.send_fds(control, [encode(Fork(tuple(arguments)))], [stdin, stdout])
        except OSError:
            return None
        while not self._forked:
            if not self._poll(_POLL_SECONDS):
                return None
        return self._forked.pop(0)

    def status(self, pid: int) -> int | None:
        """How a child ended: its exit code, or a signal's number as a negative one; None while it runs."""
        connected = self._poll(0)
        return self._exited.get(pid, None if connected else -signal.SIGKILL)

    def wait(self, pid: int, seconds: float) -> int | None:
        """Wait for a child's end for up to `seconds`. Returns its status, or None."""
        deadline = time.monotonic() + seconds
        while (status := self.status(pid)) is None and time.monotonic() < deadline:
            self._poll(_POLL_SECONDS)
        return status

    def send_signal(self, pid: int, number: int) -> None:
        """Send a signal to a child, unless it has ended and its process id may belong to another process."""
        if self._control is not None:
            with contextlib.suppress(OSError):
                self._control.sendall(encode(Signal(pid, number)))

    def kill(self, pid: int) -> int:
        """Kill a child and wait for its end. Returns its status."""
        self.send_signal(pid, signal.SIGKILL)
        status = self.wait(pid, _STUCK_SECONDS)
        if status is None:  # the fork server does not answer; its children end with it
            self.stop()
            return -signal.SIGKILL
        return status

    def stop(self) -> None:
        """End the fork server, and with it every child."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        with self._lock:
            self._disconnect()

    def resident_bytes(self) -> float:
        """Memory of the fork server, most of it shared with its child; 0 if it does not run or is unknown."""
        try:
            pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1] if self._process else "0"
        except OSError:
            return 0.0
        return float(int(pages) * os.sysconf("SC_PAGE_SIZE"))

    def _start(self) -> None:
        self.stop()
        mine, other = socket.socketpair()
        path = os.pathsep.join(filter(None, (str(_CHECKOUT), os.environ.get("PYTHONPATH"))))
        with other:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", "worker.fork_server", str(os.getpid()), self._program],
                stdin=other.fileno(),
                stdout=2,  # standard output is the worker's own
                env={**os.environ, "PYTHONPATH": path},
            )
        with self._lock:
            self._lines, self._forked, self._control = Lines(), [], mine

    def _poll(self, seconds: float) -> bool:
        """Receive messages of the fork server for up to `seconds`. Returns whether it still runs."""
        with self._lock:
            while self._control is not None:
                readable, _, _ = select.select([self._control], [], [], seconds)
                if not readable:
                    return True
                try:
                    received = self._control.recv(65536)
                except OSError:
                    received = b""
                if not received:
                    self._disconnect()
                for message in self._lines.feed(received):
                    self._take(message)
                seconds = 0
            return False

    def _take(self, message: Message) -> None:
        if isinstance(message, Forked):
            self._forked.append(message.pid)
        elif isinstance(message, Exited):
            self._exited = {message.pid: message.status}  # one child at a time

    def _disconnect(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
