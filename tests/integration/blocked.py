"""A server or a worker that blocks in C wherever it connects to Redis, once a file exists, as while a name is resolved.

`python -m tests.integration.blocked server FILE`
"""

import importlib
import sys
import threading
from pathlib import Path
from typing import Any

from redis.connection import UnixDomainSocketConnection

from tests.fixtures.blocking import block

connect = UnixDomainSocketConnection._connect


def connect_or_block(self: UnixDomainSocketConnection) -> Any:
    """In place of redis-py's own."""
    if Path(sys.argv[2]).exists():
        print("blocked in", threading.current_thread().name, flush=True)
        block()
    return connect(self)


if __name__ == "__main__":
    UnixDomainSocketConnection._connect = connect_or_block  # type: ignore[method-assign]
    ending: Any = importlib.import_module({"server": "server.app", "worker": "worker.stop"}[sys.argv[1]])
    ending._END_SECONDS = 0.5
    sys.exit(importlib.import_module(f"{sys.argv[1]}.__main__").main())
