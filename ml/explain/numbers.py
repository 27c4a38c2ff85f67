"""The last look at a result: no number may be missing where the contract promises one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

from ml.errors import GlossError
from ml.result import ExplanationResult

_MAY_BE_INFINITE = {"standard_error", "interval"}  # where nothing is known yet


def check(result: ExplanationResult) -> None:
    """Raise `GlossError` at the first number that is none, or infinite where that means nothing."""
    for place in _wrong(result, "", infinite=False):
        raise GlossError(
            f"the explanation came out without a number at {place}: its values are too large, too small or too alike to"
            " be told apart; explain the log-probability rather than the probability, or choose other parameters"
        )


def _wrong(part: object, place: str, *, infinite: bool) -> Iterator[str]:
    if isinstance(part, float):
        if math.isnan(part) or (math.isinf(part) and not infinite):
            yield place
    elif isinstance(part, tuple):
        for index, each in enumerate(part):
            yield from _wrong(each, f"{place}[{index}]", infinite=infinite)
    elif is_dataclass(part):
        for field in fields(part):
            name = field.name
            inside = f"{place}.{name}" if place else name
            yield from _wrong(getattr(part, name), inside, infinite=infinite or name in _MAY_BE_INFINITE)
