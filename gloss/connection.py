"""The connection of `Client` and `AsyncClient`: the server's address, its security, and options of each call."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import math
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import grpc

from gloss.errors import closed, from_rpc, unicode_only
from gloss.plans import IDEMPOTENT, Call, Reply

DEFAULT_ADDRESS = "127.0.0.1:50051"

P = ParamSpec("P")
Plan = TypeVar("Plan")
Method = TypeVar("Method", bound=Callable[..., Any])

SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [
                    {"service": service, "method": method}
                    for service, methods in IDEMPOTENT.items()
                    for method in methods
                ],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
    }
)
"""Idempotent calls are retried within their time-out if the server is unavailable; all addresses take turns."""


_MAX_SECONDS = 1e9
"""gRPC takes times that end after the year 2262 for times that are over."""


_ON_THIS_MACHINE = re.compile(
    r"(?:dns:(?://[^/]*/)?|ipv4:|ipv6:)?(?:127\.[\d.]+|localhost|\[::1\])(?::\w+)?|unix(?:-abstract)?:.*", re.IGNORECASE
)
"""gRPC targets of a server on this machine."""


class Connection:
    """Base of the clients: the settings of the connection.

    Args:
        address: ``HOST:PORT``, or any gRPC target such as ``dns:///gloss.example:443``, whose addresses take turns.
            Default: the environment variable GLOSS_ADDRESS, else 127.0.0.1:50051.
        timeout: seconds that a call may take unless it says otherwise; None or more than 1e9 is no limit.
        key: API key, sent with every call as ``authorization: Bearer KEY``. Use TLS beyond this machine: without it the
            key travels in the clear. Default: the environment variable GLOSS_KEY, else none.
        tls: encrypt the connection, and trust gRPC's own authorities. Implied by the two below.
        ca: PEM file of the authorities to trust instead. Default: the environment variable GLOSS_CA, else none.
        certificate: PEM files of this client's certificate and of its private key, for mutual TLS. Default: the
            environment variables GLOSS_CERTIFICATE and GLOSS_CERTIFICATE_KEY, else none.

    Raises:
        OSError: one of the files cannot be read.
        TypeError: the address or the key is no text, or the timeout is no number.
        ValueError: the address is not valid Unicode, the key cannot be sent, or the timeout is NaN.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        timeout: float | None = 30.0,
        key: str | None = None,
        tls: bool = False,
        ca: str | os.PathLike[str] | None = None,
        certificate: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
    ) -> None:
        for name, value in (("an address", address), ("a key", key)):
            if not isinstance(value, str | None):
                raise TypeError(f"{name} is text, not {type(value).__name__}")  # a key is never shown
        self.address = address or os.environ.get("GLOSS_ADDRESS") or DEFAULT_ADDRESS
        if not _is_unicode(self.address):
            raise ValueError(f"the address {self.address!r} is not valid Unicode")
        self.timeout = limit(timeout)
        key = key or os.environ.get("GLOSS_KEY")
        if key and not (key.isascii() and key.isprintable()):
            raise ValueError("a key is sent as metadata, which has only printable ASCII characters")
        self._metadata = (("authorization", f"Bearer {key}"),) if key else ()
        self._credentials = credentials(tls=tls, ca=ca, certificate=certificate)
        self.secured = self._credentials is not None
        self.certified = certificate is not None or "GLOSS_CERTIFICATE" in os.environ
        self._closed = threading.Event()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r})"

    def _options(self) -> list[tuple[str, Any]]:
        """Options of the channel."""
        return [
            ("grpc.service_config", SERVICE_CONFIG),
            ("grpc.primary_user_agent", "gloss"),
            ("grpc.max_receive_message_length", -1),  # the server limits its replies
            ("grpc.max_reconnect_backoff_ms", 5000),  # to find a restarted server soon
            # A proxy for the web must not be used for a server on this machine.
            ("grpc.enable_http_proxy", int(not _ON_THIS_MACHINE.fullmatch(self.address))),
        ]

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Turn gRPC's exceptions of a call into a `GlossError`."""
        if self._closed.is_set():
            raise closed()
        try:
            yield
        except grpc.RpcError as error:
            shut = self._closed.is_set() and error.code() is grpc.StatusCode.CANCELLED
            raise closed() if shut else from_rpc(error) from error
        except ValueError as error:  # as when another thread closed the channel before the call began
            if not self._closed.is_set():
                raise
            raise closed() from error
        except asyncio.CancelledError as error:
            # Closing the channel cancels its calls just as cancelling the waiting task does.
            task = asyncio.current_task()
            if not self._closed.is_set() or task is None or task.cancelling():
                raise
            raise closed() from error

    def _call_options(self, call: Call[Reply]) -> dict[str, Any]:
        """Keyword arguments of one call."""
        return {"timeout": self.timeout if call.timeout is None else limit(call.timeout), "metadata": self._metadata}


def limit(timeout: float | None) -> float | None:
    """A time limit as gRPC takes it; None is none.

    Raises:
        TypeError: it is of another type than a number.
        ValueError: it is NaN.
    """
    if not isinstance(cast(object, timeout), Real | None):
        raise TypeError(f"a timeout is a number of seconds, not {timeout!r}")
    if timeout is None or timeout > _MAX_SECONDS:
        return None
    if math.isnan(timeout):
        raise ValueError(f"a timeout is a number of seconds, not {timeout!r}")
    return timeout


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def credentials(
    *,
    tls: bool = False,
    ca: str | os.PathLike[str] | None = None,
    certificate: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
) -> grpc.ChannelCredentials | None:
    """The channel's credentials, from arguments and environment; None without TLS. See `Connection`.

    Raises:
        OSError: a file cannot be read.
    """
    environment = os.environ.get
    ca = ca or environment("GLOSS_CA")
    if certificate is None and (own := environment("GLOSS_CERTIFICATE")):
        certificate = own, environment("GLOSS_CERTIFICATE_KEY") or own
    if not (tls or ca or certificate):
        return None
    roots = Path(ca).read_bytes() if ca else None
    chain, private = (Path(file).read_bytes() for file in certificate) if certificate else (None, None)
    return grpc.ssl_channel_credentials(roots, private, chain)


def planned(build: Callable[P, Plan], *args: P.args, **kwargs: P.kwargs) -> Plan:
    """The plan that `build` makes of a caller's arguments.

    Raises:
        GlossError: a text among them is not valid Unicode.
    """
    with unicode_only():
        return build(*args, **kwargs)


def as_method(build: Callable[..., Any]) -> Callable[[Method], Method]:
    """Give a method the name, documentation and signature of the builder of its plan."""

    def decorate(method: Method) -> Method:
        functools.update_wrapper(method, build)
        built = inspect.signature(build)
        this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        shown = built.replace(parameters=[this, *built.parameters.values()], return_annotation=inspect.Signature.empty)
        method.__signature__ = shown  # type: ignore[attr-defined]
        return method

    return decorate
