"""Listens for gRPC calls, and replaces gRPC's own server when it ends.

A call whose method's name is not UTF-8 ends the main loop of gRPC's Python server, before any interceptor has seen it,
and nothing in Python can keep it from that. So that whoever can reach the port cannot end the server, a new one listens
on the same port within a second, with the same models, queues and services. Calls in progress are cut.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

import grpc

_logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.1
"""Seconds between two looks at whether gRPC still listens."""
_STUCK_SECONDS = 5.0
"""Seconds after which gRPC's stop counts as stuck."""
_PATIENCE_SECONDS = 30.0
"""Seconds in which the port of a server that ended must become free."""


class ListenerError(RuntimeError):
    """gRPC ended by itself, and its port cannot be had again."""


class Listener:
    """A gRPC server on one port."""

    def __init__(self, make: Callable[[], grpc.aio.Server], credentials: grpc.ServerCredentials | None) -> None:
        """Prepare one.

        Args:
            make: gives a server with interceptors and options, and without services.
            credentials: for TLS; None listens without.
        """
        self._make, self._credentials = make, credentials
        self._server = make()
        self._register: Callable[[grpc.aio.Server], None] = lambda _: None
        self._where = ""

    def listen(self, host: str, port: int, address: Callable[[str, int], str]) -> int:
        """Take the port, 0 for any free one, and return it.

        Raises:
            RuntimeError: gRPC cannot have it.
        """
        taken = self._add_port(address(host, port))
        self._where = address(host, taken)
        return taken

    async def start(self, register: Callable[[grpc.aio.Server], None]) -> None:
        """Serve. `register`: adds the services to a server."""
        self._register = register
        register(self._server)
        await self._server.start()

    async def stop(self, seconds: float) -> None:
        """End calls after `seconds`, and stop listening."""
        # Once in a great while gRPC's own stop never returns; nothing that matters is left to wait for.
        stopping = asyncio.ensure_future(self._server.stop(seconds))
        if not (await asyncio.wait({stopping}, timeout=seconds + _STUCK_SECONDS))[0]:
            _logger.warning("gRPC does not stop, going on without it")
            stopping.cancel()

    async def keep(self) -> None:
        """Watch the server, and replace it when it ends, until this is cancelled.

        Raises:
            ListenerError: the port cannot be had again.
        """
        while True:
            # There is no public way to ask; `wait_for_termination` waits for every client to close its connection.
            while self._server._server.is_running():  # type: ignore[attr-defined]  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_SECONDS)
            _logger.error("gRPC has ended by itself, as after a call whose method is not UTF-8; it is started again")
            await self._renew()

    async def _renew(self) -> None:
        await self.stop(0)
        give_up = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
        while True:
            self._server = self._make()
            try:
                self._add_port(self._where)
                break
            except RuntimeError as error:
                if asyncio.get_running_loop().time() > give_up:
                    raise ListenerError(f"gRPC has ended by itself, and {self._where} cannot be had again") from error
            with suppress(RuntimeError):
                await self._server.stop(0)
            await asyncio.sleep(_LOOK_SECONDS)
        self._register(self._server)
        await self._server.start()

    def _add_port(self, where: str) -> int:
        if self._credentials is None:
            return self._server.add_insecure_port(where)
        return self._server.add_secure_port(where, self._credentials)
