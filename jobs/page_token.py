"""Page tokens: where a page of a list begins. They are of one list, and mean nothing to another."""

from __future__ import annotations

import base64
import binascii

from jobs import names
from jobs.errors import PageTokenError


def make(index: str, last: bytes) -> str:
    """The token of the page that follows the key `last` in the list `index`."""
    return base64.urlsafe_b64encode(b"%s %s" % (index.encode(), last)).decode()


def parse(token: str, index: str) -> bytes:
    """The key after which a page begins.

    Raises:
        PageTokenError: the token is none, or one of another list.
    """
    try:
        of_index, last = base64.b64decode(token, altchars=b"-_", validate=True).decode().split(" ")
    except (ValueError, binascii.Error):
        raise PageTokenError from None
    if of_index != index or names.parse_key(last) is None:
        raise PageTokenError
    return last.encode()
