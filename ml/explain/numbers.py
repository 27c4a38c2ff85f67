"""The last check of a result: all numbers must be finite where the contract promises numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

from ml.errors import GlossError
from ml.result import ExplanationResult, StudyResult

_MAY_BE_INFINITE = "standard_errors"
"""A field of rows, where infinity stands for a standard error that is not known yet."""


def known(error: float) -> float | None:
    """A standard error as results have it: None for an infinite one, which is not known yet."""
    return None if math.isinf(error) else error


def check(result: ExplanationResult | StudyResult) -> None:
    """Raise `GlossError` at the first number that is NaN or infinite."""
    for place in _wrong(result, ""):
        raise GlossError(
            f"the explanation came out without a number at {place}: its values are too large, too small or too alike to"
            " be told apart; explain the log-probability rather than the probability, or choose other parameters"
        )


def _wrong(part: object, place: str) -> Iterator[str]:
    if isinstance(part, float):
        if not math.isfinite(part):
            yield place
    elif isinstance(part, tuple):
        for index, each in enumerate(part):
            if not isinstance(each, float):
                yield from _wrong(each, f"{place}[{index}]")
            elif not (math.isfinite(each) or (each == math.inf and place.endswith(_MAY_BE_INFINITE))):
                yield f"{place}[{index}]"
    elif is_dataclass(part):
        for field in fields(part):
            yield from _wrong(getattr(part, field.name), f"{place}.{field.name}" if place else field.name)
