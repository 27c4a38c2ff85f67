"""What the stack on one machine reads from the environment, by the same names as the programs it starts."""

from __future__ import annotations

import errno
import socket
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from jobs.start import RedisUrl


class PortTakenError(Exception):
    """A port that the stack needs is not free."""


class Settings(BaseSettings):
    """Settings of ``python -m deploy.stack`` and ``python -m deploy.demo``."""

    model_config = SettingsConfigDict(env_prefix="GLOSS_", frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    """Address of the gRPC port."""

    port: int = Field(default=50051, ge=0, le=65535)
    """The gRPC port; 0 takes any free one."""

    metrics_host: str = "127.0.0.1"
    """Address of both metrics pages."""

    metrics_port: int = Field(default=9464, ge=0, le=65535)
    """Port of the server's metrics page; 0 takes any free one."""

    worker_metrics_port: int = Field(default=9465, ge=0, le=65535)
    """Port of the first worker's metrics page; 0, and every worker after the first, takes any free one."""

    redis_url: RedisUrl | Literal[""] = Field(default="", repr=False)
    """A Redis that runs elsewhere. Unset: the stack starts its own, on a private socket."""

    model: str = "transformer"
    """Models, separated by commas. The server holds all of them, and each gets a worker."""

    grace_seconds: float = Field(default=10.0, ge=0)
    """Seconds that accepted work gets to finish when the stack stops."""

    @property
    def models(self) -> list[str]:
        """The models one by one."""
        return [name.strip() for name in self.model.split(",") if name.strip()]

    def check_ports(self) -> None:
        """Make sure that every port is free, before minutes go into loading a model.

        Raises:
            PortTakenError: one is not; the message names it and its variable.
        """
        ports = [
            ("GLOSS_PORT", self.host, self.port),
            ("GLOSS_METRICS_PORT", self.metrics_host, self.metrics_port),
            ("GLOSS_WORKER_METRICS_PORT", self.metrics_host, self.worker_metrics_port),
        ]
        claimed: dict[int, str] = {}
        for variable, _, port in ports:
            if port in claimed:
                raise PortTakenError(f"{claimed[port]} and {variable} are both {port}: give each a port of its own")
            if port != 0:
                claimed[port] = variable
        for variable, host, port in ports:
            if port != 0:
                _check_port(variable, host, port)


def _check_port(variable: str, host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # As servers do: a connection of an earlier run that lingers in TIME_WAIT does not hold the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        reason = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror or error}"
        raise PortTakenError(f"port {port} on {host} {reason}; set {variable} to a free port, or 0 for any") from None


def without_password(url: str) -> str:
    """The address with its password, if any, blotted out."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{parts.netloc.rpartition('@')[2]}"))
