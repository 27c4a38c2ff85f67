"""A server or a worker that blocks in C where it connects to Redis or looks up a `.invalid` name, once a file exists.

`python -m tests.integration.blocked server FILE`
"""

import importlib
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from redis.connection import UnixDomainSocketConnection

from jobs.ending import stop_at_once
from tests.fixtures.blocking import block

connect, look_up = UnixDomainSocketConnection._connect, socket.getaddrinfo


def connect_or_block(self: UnixDomainSocketConnection) -> Any:
    """In place of redis-py's own."""
    block_once_asked()
    return connect(self)


def look_up_or_block(host: str | bytes | None, *arguments: Any, **options: Any) -> Any:
    """In place of the system's resolver."""
    if host and (host if isinstance(host, bytes) else host.encode()).endswith(b".invalid"):
        block_once_asked()
    return look_up(host, *arguments, **options)


def block_once_asked() -> None:
    """Block, if the file exists."""
    if Path(sys.argv[2]).exists():
        print("blocked in", threading.current_thread().name, flush=True)
        block()


if __name__ == "__main__":
    stop_at_once()  # as the process itself does before it imports anything else
    UnixDomainSocketConnection._connect = connect_or_block  # type: ignore[method-assign]
    socket.getaddrinfo = look_up_or_block
    ending: Any = importlib.import_module({"server": "server.app", "worker": "worker.stop"}[sys.argv[1]])
    ending._END_SECONDS = 0.5
    sys.exit(importlib.import_module(f"{sys.argv[1]}.__main__").main())
