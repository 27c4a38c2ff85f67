"""What keeps an engine's cached prefixes of one tenant apart from those of others."""

from __future__ import annotations

import hashlib
import secrets


class Salts:
    """A salt for each namespace, the same for as long as this object lives. Nobody else can know or guess it."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def of(self, namespace: str) -> str:
        """The salt of `namespace`; none, "", for the one that all share."""
        if not namespace:
            return ""
        return hashlib.blake2b(namespace.encode(), key=self._secret, digest_size=32).hexdigest()
