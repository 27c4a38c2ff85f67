"""The server's certificate, and whose clients it trusts."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc

from server.ports import StartError
from server.settings import Settings


def credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """What the gRPC port is secured with; None where it is not.

    Raises:
        StartError: a file is missing or does not hold what it should, with exit code 2 and the variable's name. gRPC
            would only say that it cannot listen.
    """
    certificate, key, authority = settings.tls_certificate, settings.tls_key, settings.tls_client_ca
    if certificate is None or key is None:
        return None
    pair = _read("GLOSS_TLS_KEY", key), _read("GLOSS_TLS_CERTIFICATE", certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # The passphrase of a locked key would be asked for on a terminal that a server does not have.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise StartError(f"GLOSS_TLS_CERTIFICATE and GLOSS_TLS_KEY: {_reason(error)}", 2) from None
    roots = None if authority is None else _read("GLOSS_TLS_CLIENT_CA", authority)
    try:
        if authority is not None:
            context.load_verify_locations(authority)
    except OSError as error:
        raise StartError(f"GLOSS_TLS_CLIENT_CA: {_reason(error)}", 2) from None
    return grpc.ssl_server_credentials([pair], root_certificates=roots, require_client_auth=roots is not None)


def _read(variable: str, path: Path) -> bytes:
    """The file's bytes; ssl would not say which of two files it cannot read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartError(f"{variable}: {path} cannot be read: {error.strerror}", 2) from None


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"not PEM, or the two do not belong together ({error.reason or error})"
    return str(error)
