"""What the contract's comments say of defaults and ranges is what is declared."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from enum import Enum
from typing import Any

import pytest

from gloss import v1 as pb
from gloss.v1.comments import COMMENTS
from ml.spec.checks import Range, ranges
from schema import codec, convert

_DEFAULT = re.compile(r"Default: ([\w.+-]+?)[.,](?: |$)")
_NUMBER = r"([\d,.]*\d(?:e[+-]?\d+)?)"
_RANGES = {
    rf"{_NUMBER} to {_NUMBER}(?! seconds)\b": Range,
    rf"{_NUMBER} to {_NUMBER} seconds": lambda low, high: Range(low, high, unit="seconds"),
    rf"above {_NUMBER} and below {_NUMBER}": lambda low, high: Range(low, high, open=True),
    rf"at least {_NUMBER}": Range,
}
assert convert.EXPLANATION_SPEC  # which makes the codecs below it
PAIRS = [(name, kind) for name, kind in sorted(codec._made, key=str) if kind.__module__.startswith("ml.spec")]


def declared() -> Iterator[tuple[str, Any, Any]]:
    """Each field of the specs: its name, its descriptor and the dataclass that has it."""
    for name, kind in PAIRS:
        described = pb.Prompt.DESCRIPTOR.file.pool.FindMessageTypeByName(name)
        for field in described.fields:
            yield f"{described.name}.{field.name}", field, kind


FIELDS = {name: (field, kind) for name, field, kind in declared()}


def default_of(kind: Any, name: str) -> Any:
    """The default of a field, or None where it has none that is a plain value."""
    for field in dataclasses.fields(kind):
        if field.name == name:
            return None if field.default is dataclasses.MISSING else field.default
    return None


def said(text: str) -> Any:
    """The default that a comment names, as a number, a truth value or an enum's name; None where it tells a story."""
    found = _DEFAULT.search(text)
    if found is None:
        return None
    word = found[1]
    if word in ("true", "false"):
        return word == "true"
    try:
        return float(word)
    except ValueError:
        return word if word.isupper() else None


@pytest.mark.parametrize("name", FIELDS)
def test_defaults(name: str) -> None:
    field, kind = FIELDS[name]
    default = default_of(kind, field.name)
    if isinstance(default, Enum):
        default = default.name
    if default in (None, "", ()):
        assert said(COMMENTS[name]) is None, "the comment names a default, and none is declared"
    else:
        assert said(COMMENTS[name]) == default


@pytest.mark.parametrize("name", FIELDS)
def test_ranges(name: str) -> None:
    field, kind = FIELDS[name]
    before = COMMENTS[name].partition("Default:")[0]
    found = [
        make(*(float(number.replace(",", "")) for number in match.groups()))
        for pattern, make in _RANGES.items()
        for match in re.finditer(pattern, before)
    ]
    allowed = ranges(kind).get(field.name)
    if allowed is None:
        assert not found or name in SAID_OTHERWISE, "the comment names a range, and none is declared"
    elif name not in SAID_OTHERWISE:
        assert found[:1] == [allowed], COMMENTS[name]


SAID_OTHERWISE = {
    "Occlusion.stride": "up to the window",
    "GlobalSurrogate.prompts": "how many, which no range is declared for",
    "BiasProbe.templates": "likewise",
    "BiasProbe.groups": "likewise",
}


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, (field, _) in FIELDS.items() if field.enum_type])
def test_unspecified_is_the_default(name: str, field: Any) -> None:
    _, kind = FIELDS[name]
    unspecified = field.enum_type.values_by_number[0].name
    logged = re.match(r"As (\w+)\.", COMMENTS[f"{field.enum_type.name}.{unspecified}"])
    default = default_of(kind, field.name)
    assert (logged[1] if logged else None) == (default.name if default else None)
