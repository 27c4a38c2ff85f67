"""Ranges declared beside a field's default, and the checks that specs make of themselves.

An error names the field relative to the part that finds it (``alpha``, ``words[2]``); whoever reads the part out of a
request puts the way there in front.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, get_args, get_origin, get_type_hints

from ml.errors import InputError


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high` (None: any larger one), or with `open` those between the two."""

    low: float
    high: float | None = None
    open: bool = False
    unit: str = ""
    """For messages."""

    def __contains__(self, value: float) -> bool:
        """Whether the value is allowed; what is not a number never is."""
        if self.open:
            return self.low < value and (self.high is None or value < self.high)
        return self.low <= value and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        """As an error message goes on after "must be"."""
        unit = f" {self.unit}" if self.unit else ""
        if self.high is None:
            return f"{'above' if self.open else 'at least'} {_shown(self.low)}{unit}"
        if self.open:
            return f"above {_shown(self.low)} and below {_shown(self.high)}{unit}"
        return f"between {_shown(self.low)} and {_shown(self.high)}{unit}"


class Checked:
    """A dataclass whose fields may carry a `Range`: ``depth: Annotated[int, Range(1, 8)] = 3``."""

    def __post_init__(self) -> None:
        """Raise `InputError` at the first field that is out of its range. None is in every range."""
        for name, allowed in ranges(type(self)).items():  # type: ignore[arg-type] # a class can be hashed
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise InputError(name, f"must be {allowed}, not {_shown(value)}")


@cache
def ranges(kind: type) -> Mapping[str, Range]:
    """The ranges that a dataclass declares, by field."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        name: mark
        for name, hint in hints.items()
        if get_origin(hint) is Annotated
        for mark in get_args(hint)
        if isinstance(mark, Range)
    }


def _shown(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def check_text(field: str, text: str) -> None:
    """Raise `InputError` unless the text has a visible character and no NUL."""
    if not text or text.isspace():
        raise InputError(field, "the text is empty or blank; send at least one visible character")
    check_nul(field, text)


def check_nul(field: str, text: str) -> None:
    """Raise `InputError` where the text holds a NUL character."""
    if "\0" in text:
        raise InputError(field, f"the text holds a NUL character at position {text.index(chr(0))}; remove it")


def check_ids(field: str, ids: Sequence[int], vocabulary_size: int) -> None:
    """Raise `InputError` at the first id outside the vocabulary."""
    if not ids or 0 <= min(ids) <= max(ids) < vocabulary_size:
        return
    for index, token_id in enumerate(ids):
        if not 0 <= token_id < vocabulary_size:
            raise InputError(f"{field}[{index}]", f"must be between 0 and {vocabulary_size - 1}, not {token_id}")
