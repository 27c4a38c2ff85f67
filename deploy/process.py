"""Child processes that are ready when they say so, and that never outlive their parent."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

# Runs between fork and the real program, where Popen's preexec_fn would not be safe beside gRPC's threads. The kernel
# sends SIGTERM to the program when the thread that started it ends, even by kill -9, and execve keeps that wish.
# A parent that died before the wish was made is noticed by the change of the parent's id.
_TETHER = """\
import os, signal, sys
if sys.platform == "linux":
    import ctypes
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
# A shell without job control ignores SIGINT in what it starts in the background, and execve keeps that.
signal.signal(signal.SIGINT, signal.SIG_DFL)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""

POLL_SECONDS = 0.02


class StartError(Exception):
    """A process did not come up. `exit_code` is its own, or None where it did not exit."""

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Child:
    """A running program with its output in a file.

    It leads a session of its own, so that Ctrl-C in a terminal reaches the parent only, which then stops its children
    in order.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - the command is the caller's own
                [sys.executable, "-ISc", _TETHER, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=pass_fds,
                env={**(os.environ if env is None else env), "PYTHONUNBUFFERED": "1"},
            )

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its process group."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def output(self) -> str:
        """All that it has printed."""
        return self.log.read_text(errors="replace")

    def last_lines(self, count: int = 15) -> str:
        """The end of what it has printed."""
        return "\n".join(self.output().splitlines()[-count:])

    def check(self) -> None:
        """Raise `StartError` if the process has ended."""
        code = self.exit_code()
        if code is not None:
            end = f"ended with exit code {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"
            raise StartError(f"the {self.name} {end}; its last lines ({self.log}):\n{self.last_lines()}", code)

    def wait_ready(self, timeout: float) -> dict[str, str]:
        """Wait for the line ``ready KEY=VALUE ...`` and return its pairs.

        Raises:
            StartError: it ended first, or `timeout` seconds passed.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for line in self.output().splitlines(keepends=True):
                if line.startswith("ready ") and line.endswith("\n"):
                    return dict(pair.split("=", 1) for pair in line.split()[1:])
            self.check()
            time.sleep(POLL_SECONDS)
        raise StartError(
            f"the {self.name} was not ready after {timeout:.0f} s; its last lines ({self.log}):\n{self.last_lines()}"
        )

    def terminate(self, grace: float) -> bool:
        """Ask it to end. Returns whether it did within `grace` seconds."""
        self._process.terminate()
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """End it, and whatever it left behind in its process group, by force."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody left; macOS answers so for zombies
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self, grace: float) -> bool:
        """Ask it to end, and end it by force after `grace` seconds. Returns whether asking was enough."""
        try:
            return self.terminate(grace)
        finally:
            self.kill()
