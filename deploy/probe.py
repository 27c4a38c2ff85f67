"""Asks whether something serves: ``python -m deploy.probe HOST:PORT [SERVICE]``, or an http:// address.

Exit code 0 when the gRPC health service says SERVING (of the whole server, or of one service), or when the page
answers 200; 1 otherwise, with the reason on stderr; 2 for a command that makes no sense. For container health checks
and for scripts. A server that speaks TLS is asked with GLOSS_CA, GLOSS_CERTIFICATE and GLOSS_CERTIFICATE_KEY, as a
client has them, and GLOSS_TLS_NAME, the name in its certificate.
"""

from __future__ import annotations

import argparse
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gloss.connection import credentials


class NotServingError(Exception):
    """It does not serve; the message says why."""


def check_grpc(address: str, service: str = "", timeout: float = 5) -> None:
    """Ask the health service at HOST:PORT about `service`; empty means the server as a whole.

    Raises:
        NotServingError: it said otherwise, or nothing within `timeout` seconds.
    """
    with _channel(address) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=timeout
            )
        except grpc.RpcError as error:
            why = error.details() or f"the server has no service {service!r}"  # gRPC says nothing of one
            raise NotServingError(f"{address}: {error.code().name}: {why}") from None
    if reply.status != health_pb2.HealthCheckResponse.SERVING:
        status = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
        raise NotServingError(f"{address}: {service or 'the server'} is {status}")


def _channel(address: str) -> grpc.Channel:
    secured = credentials()
    if secured is None:
        return grpc.insecure_channel(address)
    # From beside the server its certificate's name is not the address that is asked.
    name = os.environ.get("GLOSS_TLS_NAME")
    return grpc.secure_channel(address, secured, [("grpc.ssl_target_name_override", name)] if name else None)


def check_http(url: str, timeout: float = 5) -> None:
    """Fetch a page.

    Raises:
        NotServingError: it did not answer 200 within `timeout` seconds.
    """
    try:
        with urllib.request.urlopen(url, timeout=timeout) as reply:  # noqa: S310 - the caller checked the scheme
            if reply.status != 200:
                raise NotServingError(f"{url}: HTTP {reply.status}")
    except (urllib.error.URLError, OSError) as error:
        raise NotServingError(f"{url}: {error}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Check what the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.probe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("address", metavar="HOST:PORT", help="of the gRPC server, or http://HOST:PORT/PATH of a page")
    parser.add_argument("service", nargs="?", default="", help="default: the server as a whole")
    options = parser.parse_args(arguments)
    try:
        if options.address.startswith("http://"):
            check_http(options.address)
        else:
            check_grpc(options.address, options.service)
    except NotServingError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
