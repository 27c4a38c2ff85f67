"""Settings records as options: what a field means, which values it takes, and whether a started run may change it."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from enum import Enum
from typing import Any, TypeVar, get_type_hints

from ml.train.errors import OptionError

LARGEST = 2**20
"""The most that a size or a count may be: far beyond what a machine could hold, and no number overflows."""

S = TypeVar("S")
_KEY = "option"
_METAVARS = {int: "N", float: "X"}


@dataclass(frozen=True)
class _Option:
    """`help` names the unit. A value is in [least, most] and under `below`. `fixed`: a started run cannot change it."""

    help: str
    minimum: float
    maximum: float
    below: float
    fixed: bool

    def allows(self, value: float) -> bool:
        return math.isfinite(value) and self.minimum <= value <= self.maximum and value < self.below

    @property
    def range(self) -> str:
        if self.below < math.inf:
            return f"from {self.minimum:g} to below {self.below:g}"
        return f"from {self.minimum:g} " + ("on" if self.maximum == math.inf else f"to {self.maximum:,}")


def option(
    help: str,
    default: Any = MISSING,
    *,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    below: float = math.inf,
    fixed: bool = False,
) -> Any:
    """A dataclass field that is an option of the training command; see `_Option` for the arguments."""
    return field(default=default, metadata={_KEY: _Option(help, minimum, maximum, below, fixed)})


def check(settings: Any) -> None:
    """Raise `OptionError` for the first number of a record that is out of its range."""
    for part in fields(settings):
        known, value = _known(part), getattr(settings, part.name)
        if isinstance(value, int | float) and not isinstance(value, bool) and not known.allows(value):
            raise OptionError(f"{flag(part.name)} is a number {known.range}, not {value}")


def flag(name: str) -> str:
    """How a field is spelt on the command line."""
    return "--" + name.replace("_", "-")


def add_options(group: Any, defaults: Any) -> None:
    """One option for each field of a record. What is not given is absent from the parsed namespace."""
    hints = get_type_hints(type(defaults))
    for part in fields(defaults):
        kind, value = hints[part.name], _plain(getattr(defaults, part.name))
        about = f"{_known(part).help} (default: {_shown(value)})".replace("%", "%%")
        if kind is bool:
            how: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        elif issubclass(kind, Enum):
            how = {"choices": [member.value for member in kind]}
        else:
            how = {"type": kind, "metavar": _METAVARS[kind]}
        group.add_argument(flag(part.name), default=argparse.SUPPRESS, help=about, **how)


def build(defaults: S, *changes: Mapping[str, Any]) -> S:
    """A record like `defaults` with the plain values that `changes` name, the later ones over the earlier.

    Raises:
        OptionError: a value is not allowed.
    """
    kind, hints = type(defaults), get_type_hints(type(defaults))
    values = plain(defaults)
    for change in changes:
        values |= {name: change[name] for name in values if name in change}
    return kind(**{name: hints[name](value) for name, value in values.items()})


def plain(settings: Any) -> dict[str, Any]:
    """A record's values as JSON knows them."""
    return {part.name: _plain(getattr(settings, part.name)) for part in fields(settings)}


@dataclass(frozen=True)
class Change:
    """A field that a resumed run has otherwise than before."""

    name: str
    before: Any
    now: Any
    fixed: bool

    def __str__(self) -> str:
        return f"{flag(self.name)} {_shown(self.now)} (was {_shown(self.before)})"


def differences(settings: Any, before: Mapping[str, Any]) -> Iterator[Change]:
    """What a record has otherwise than `before`, which `plain` gave."""
    now = plain(settings)
    for part in fields(settings):
        if now[part.name] != before.get(part.name, now[part.name]):
            yield Change(part.name, before[part.name], now[part.name], _known(part).fixed)


def _known(part: Field[Any]) -> _Option:
    known: _Option = part.metadata[_KEY]
    return known


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def _shown(value: Any) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
