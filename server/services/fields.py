"""Checks of request fields that no domain object makes, and the path under which an error blames a field."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ml.errors import InputError

_NAME = re.compile(r"explanations/([A-Za-z0-9_-]{1,128})")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


@contextmanager
def blamed_at(path: str, *, instead_of: str = "") -> Iterator[None]:
    """Let errors of the block blame ``path.field`` for ``field``; or put `path` in place of a leading `instead_of`.

    Domain objects name fields relative to themselves, and only the request knows where they sit in it.
    """
    try:
        yield
    except InputError as error:
        if instead_of:
            error.field = path + error.field.removeprefix(instead_of)
        else:
            error.field = f"{path}.{error.field}"
        raise


def check_count(field: str, count: int, limit: int) -> None:
    """Raise `InputError` unless a repeated field has 1 to `limit` elements."""
    if not 1 <= count <= limit:
        raise InputError(field, f"send between 1 and {limit} at once, not {count}")


def explanation_id(name: str) -> str:
    """The id in an explanation's resource name; `InputError` for anything but ``explanations/{id}``."""
    if match := _NAME.fullmatch(name):
        return match[1]
    raise InputError("name", 'must be "explanations/" and an id of letters, digits, "_" and "-"')


def check_request_id(request_id: str) -> None:
    """Raise `InputError` unless the id is empty or as AIP-155 and the contract allow."""
    if request_id and not _REQUEST_ID.fullmatch(request_id):
        raise InputError("request_id", 'must be up to 128 letters, digits, "_" and "-"')
