"""Peers that speak HTTP/2 as far as it suits them, over plain sockets: thousands of them cost a scenario nothing."""

from __future__ import annotations

import resource
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS = 0x0, 0x1, 0x4
_END_HEADERS = 0x4


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def _literal(name: str, value: str) -> bytes:
    """A header as HPACK writes it without any table; both under 127 bytes."""
    return b"\0" + b"".join(bytes([len(part)]) + part.encode() for part in (name, value))


HELLO = _PREFACE + _frame(_SETTINGS, 0, 0, b"")
"""What makes a connection."""


def call(path: str, message: bytes, *, sent: int) -> bytes:
    """A call of which only the first `sent` bytes of its message are sent."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    block = b"".join(_literal(name, value) for name, value in headers.items())
    data = b"\0" + struct.pack("!I", len(message)) + message
    return _frame(_HEADERS, _END_HEADERS, 1, block) + _frame(_DATA, 0, 1, data[: 5 + sent])


def allowed(wanted: int) -> int:
    """How many of so many connections this process may open, which raises its limit as far as it can."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(wanted, hard - 256)


@contextmanager
def connected(address: str, count: int, said: bytes) -> Iterator[list[socket.socket]]:
    """So many connections on which `said` was sent, and nothing is read."""
    host, _, port = address.rpartition(":")
    with ExitStack() as opened:
        found = []
        for _ in range(count):
            peer = opened.enter_context(socket.create_connection((host, int(port)), timeout=10))
            peer.sendall(said)
            found.append(peer)
        yield found
