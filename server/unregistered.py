"""Keep gRPC from registering methods one by one."""

from __future__ import annotations

from typing import Any, cast

import grpc


def unregistered(server: grpc.aio.Server) -> grpc.aio.Server:
    """What generated code can add a service to, so that gRPC finds its methods by their names at each call.

    Generated code also registers each method. Then gRPC waits for a call of each of them at once, and at every call it
    looks at all that it waits for: an eighth of the event loop's time if most calls are refused.
    """
    return cast("grpc.aio.Server", _Unregistered(server))


class _Unregistered:
    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Add a service."""
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """Do nothing."""
