"""Who makes a call, by its key, else by its certificate, else anonymous."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache

from jobs.access import UNNAMED, Access
from server.interceptors import Context, Sent
from server.keys import Key

_UNREAD_SAN = b"other types of SAN"
"""What gRPC has in place of an alternative name that is no DNS name, address, URI or mail address."""


@dataclass(frozen=True)
class Caller:
    """A caller's name, "" where callers are anonymous, and which explanations it may see.

    Tenants of keys, of certificates, and those that `--tenant` names differ even where their names are equal.
    """

    name: str = ""
    access: Access = UNNAMED

    @classmethod
    @lru_cache
    def of_key(cls, key: Key) -> Caller:
        """The caller with an API key: of the key's tenant, else a tenant of its own."""
        tenant = f"tenant:{key.tenant}" if key.tenant else f"key:{key.name}"
        return cls(key.name, Access(tenant, key.admin))

    @classmethod
    def of_certificate(cls, certificate: Mapping[str, Iterable[bytes]]) -> Caller:
        """The caller with a client certificate, given as gRPC's `auth_context`: by its first SAN, else its CN.

        One with neither is a tenant by the certificate's digest, never the tenant without a name. A SAN that gRPC does
        not read is passed over, since it looks the same in all certificates.
        """
        names = (
            *(name for name in certificate.get("x509_subject_alternative_name", ()) if name != _UNREAD_SAN),
            *certificate.get("x509_common_name", ()),
            *(hashlib.sha256(pem).hexdigest().encode() for pem in certificate.get("x509_pem_cert", ())),
        )
        name = next(name for name in names if name).decode(errors="backslashreplace")
        return cls(name, Access(f"certificate:{name}"))


_current: ContextVar[Caller] = ContextVar("caller")
_NOBODY = Caller()


def caller() -> Caller:
    """Who makes the current call."""
    return _current.get(_NOBODY)


def admit(admitted: Caller) -> None:
    """Set who makes the current call."""
    _current.set(admitted)


@contextmanager
def by_certificate(context: Context) -> Iterator[Sent]:
    """Note the caller by its certificate; for a port where every client needs one."""
    admit(Caller.of_certificate(context.auth_context()))
    yield lambda: None


def queued_as(context: Context) -> str:
    """The caller for the queue: over all its connections, or a connection where callers are anonymous."""
    return caller().name or context.peer()
