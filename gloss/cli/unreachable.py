"""Why no server answers: what happened and what to do, from what gRPC says of its attempts to connect."""

from __future__ import annotations

import re

from gloss.client import Client

_CLOSED = ("Socket closed", "reset by peer", "Broken pipe", "GOAWAY")
_HANDSHAKES = (
    (
        "WRONG_VERSION_NUMBER",
        "it speaks no TLS",
        "Leave out --tls, --ca, --certificate, GLOSS_CA and GLOSS_CERTIFICATE, if you trust the network.",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "this client does not trust its certificate",
        "Name the PEM file of the authority that vouches for it by --ca or GLOSS_CA.",
    ),
    (
        "Hostname Verification|eer name .* is not in peer certificate",
        "its certificate is for another name",
        "Give --address a name that is in the certificate.",
    ),
    (
        "security handshaker",
        "this client's PEM files cannot be used",
        "Look at --ca and --certificate (GLOSS_CA, GLOSS_CERTIFICATE, GLOSS_CERTIFICATE_KEY): is each the file that it "
        "should be, and does the key belong to the certificate?",
    ),
)
"""What gRPC's text holds, what happened, and what to do."""


def unreachable(message: str, client: Client) -> tuple[str, str]:
    """What happened and what to do, where `message` is gRPC's own of a call that found no server."""
    cause = _cause(message)
    for pattern, what, advice in _HANDSHAKES:
        if re.search(pattern, message):
            return f"no connection to {client.address}: {what} ({cause})", advice
    if "handshake" in message.lower():
        return f"no connection to {client.address}: {cause}", "Look at --tls, --ca and --certificate."
    if any(sign in message for sign in _CLOSED):
        return f"{client.address} closed the connection ({cause})", _if_closed(client)
    if re.fullmatch(r"[\w.-]+", client.address):
        return f"no Gloss server answers at {client.address} ({cause})", f"Name its port, too: {client.address}:50051."
    advice = "Start one with `make up` (or `python -m server`), or name another by --address or GLOSS_ADDRESS."
    return f"no Gloss server answers at {client.address} ({cause})", advice


def _if_closed(client: Client) -> str:
    if not client.secured:
        return "If it speaks TLS, say so by --tls, or by --ca or GLOSS_CA. If it stops or restarts, try again."
    if not client.certified:
        return "It may want a certificate of this client: --certificate or GLOSS_CERTIFICATE."
    return "It may not trust this client's certificate, which --certificate or GLOSS_CERTIFICATE names."


def _cause(message: str) -> str:
    """What gRPC says last, without the addresses and the names of its parts."""
    cause = message.rpartition("last error: ")[2].removesuffix(": OK")
    cause = re.sub(r"^[A-Z_]+: (ipv[46]|unix|vsock)\S*: ", "", cause)
    cause = re.sub(r".*SSL_ERROR_SSL: error:[0-9a-f]+:SSL routines:OPENSSL_internal:", "", cause)
    return cause.removesuffix(": Invalid certificate verification context")
