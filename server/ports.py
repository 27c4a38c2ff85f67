"""Taking ports, and saying why one cannot be had in words that help."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

T = TypeVar("T")


class StartError(Exception):
    """The server cannot start. The message is one line for the person who started it; `exit_code` is for the shell."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def address(host: str, port: int) -> str:
    """``HOST:PORT``, with the brackets that an IPv6 address needs."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def take(what: str, prefix: str, host: str, port: int, bind: Callable[[], T]) -> T:
    """The result of `bind`, which listens on `host`:`port`; `prefix` starts the names of the two's variables.

    Raises:
        StartError: it cannot, with exit code 2.
    """
    try:
        return bind()
    except (OSError, RuntimeError) as error:
        # gRPC keeps the operating system's reason to itself, so ask again.
        reason = error if isinstance(error, OSError) else _refusal(host, port) or error
        if isinstance(reason, OSError) and reason.errno == errno.EADDRINUSE:
            message = f"{what} port {port} is taken; set {prefix}PORT to a free port, or to 0 for any"
        else:
            message = f"cannot listen on {address(host, port)} for {what}: {reason}; see {prefix}HOST and {prefix}PORT"
        raise StartError(message, 2) from None


def probe(host: str, port: int) -> None:
    """Listen for a moment.

    Raises:
        OSError: the operating system's reason why nobody can listen there now.
    """
    family, kind, protocol, _, target = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    with closing(socket.socket(family, kind, protocol)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(target)
        listener.listen()


def _refusal(host: str, port: int) -> OSError | None:
    try:
        probe(host, port)
    except OSError as error:
        return error
    return None
