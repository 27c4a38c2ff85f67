"""Sets fields of the contract from plain Python values (``"ridge"``, ``2.5``, ``timedelta``); reads errors and rows.

Fields are set by their descriptors, so that new fields of a message need no code here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from gloss import v1
from gloss.durations import duration

M = TypeVar("M", bound=Message)


def standard_error(part: Any) -> float:
    """The standard error of an attribution, a pair, a coefficient or a difference; infinite if unknown."""
    error: float = part.standard_error if part.HasField("standard_error") else math.inf
    return error


def row_attributions(result: v1.ExplanationResult, row: v1.AttributionRow) -> list[v1.FeatureAttribution]:
    """A row's attributions as messages like those of the whole target, with standard errors and intervals."""
    errors = row.standard_errors or [0.0] * len(row.attributions)
    return [
        _of_row(feature, attribution, error, row)
        for feature, attribution, error in zip(result.attributions, row.attributions, errors, strict=True)
    ]


def _of_row(
    feature: v1.FeatureAttribution, attribution: float, error: float, row: v1.AttributionRow
) -> v1.FeatureAttribution:
    part = v1.FeatureAttribution(
        text=feature.text, span=feature.span, positions=feature.positions, attribution=attribution
    )
    if math.isfinite(error):
        reach = row.interval_reach * error
        part.standard_error = error
        ends = v1.Interval(lower=attribution - reach, upper=attribution + reach, level=row.interval_level)
        part.interval.CopyFrom(ends)
    return part


def enum_names(described: Any) -> dict[str, int]:
    """The values of an enum, without UNSPECIFIED, by their names for users: LOG_PROBABILITY is ``log-probability``.

    `described` is the enum's descriptor, or the generated wrapper.
    """
    described = getattr(described, "DESCRIPTOR", described)
    prefix = described.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return {
        value.name.removeprefix(prefix).lower().replace("_", "-"): value.number
        for value in described.values
        if value.number
    }


def enum_value(described: Any, name: str | int | None) -> Any:
    """The value of an enum by its name; zero for None. Numbers are returned as they are.

    Raises:
        ValueError: the enum has no such value.
    """
    if not isinstance(name, str):
        return name or 0
    names = enum_names(described)
    if name not in names:
        raise ValueError(f"{name!r} is unknown; choose from {', '.join(names)}")
    return names[name]


def fill(message: M, values: Mapping[str, Any]) -> M:
    """Set fields of a message, and return it. None leaves a field as it is.

    Raises:
        ValueError: the message has no such field, or the field cannot hold the value.
    """
    fields = message.DESCRIPTOR.fields_by_name
    for name, value in values.items():
        if name not in fields:
            known = f"it has {', '.join(fields)}" if fields else "it has none"
            raise ValueError(f"{message.DESCRIPTOR.name} has no {name!r}; {known}")
        if value is not None:
            _set(message, fields[name], value)
    return message


def _set(message: Message, field: Any, value: Any) -> None:
    try:
        if field.enum_type is not None:
            setattr(message, field.name, enum_value(field.enum_type, value))
        elif field.message_type is not None and field.message_type.full_name == Duration.DESCRIPTOR.full_name:
            getattr(message, field.name).CopyFrom(duration(value))
        elif field.is_repeated:
            getattr(message, field.name).extend(value)
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(value)
        else:
            setattr(message, field.name, value)
    except UnicodeEncodeError:  # `gloss.errors.unicode_only` has a better message
        raise
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{field.name}: {error}") from error


def given(values: Iterable[Any]) -> bool:
    """Whether any of the values is not None."""
    return any(value is not None for value in values)
