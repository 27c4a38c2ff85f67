"""Checks of request fields that no domain object makes, and the path under which an error blames a field."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from ml.errors import InputError

M = TypeVar("M")
T = TypeVar("T")

_NAME = re.compile(r"explanations/([A-Za-z0-9_-]{1,128})")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


@contextmanager
def blamed_at(path: str) -> Iterator[None]:
    """Let errors of the block blame ``path.field`` for ``field``.

    Domain objects name fields relative to themselves, and only the request knows where they sit in it.
    """
    try:
        yield
    except InputError as error:
        error.field = f"{path}.{error.field}"
        raise


def read_each(field: str, messages: Iterable[M], read: Callable[[M], T], *, called: str = "") -> list[T]:
    """What `read` makes of each message of a repeated field.

    Its errors blame ``field[2].part`` for ``part``, where the third message is `called` so for ``called.part``.
    """
    found: list[T] = []
    try:
        for message in messages:
            found.append(read(message))
    except InputError as error:
        part = error.field.removeprefix(called) if called else f".{error.field}"
        error.field = f"{field}[{len(found)}]{part}"
        raise
    return found


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
