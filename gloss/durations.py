"""Reads and makes the contract's durations (`google.protobuf.Duration`)."""

from __future__ import annotations

import math
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

DurationLike = Duration | timedelta | float
"""Numbers are seconds."""

_MAX_SECONDS = 315_576_000_000
"""The longest `google.protobuf.Duration`: 10,000 years."""


def duration(value: DurationLike) -> Duration:
    """The contract's message of a duration.

    Raises:
        ValueError: it is no number of seconds, or longer than the contract allows.
    """
    if isinstance(value, Duration):
        return value
    length = value.total_seconds() if isinstance(value, timedelta) else value
    if not isinstance(length, int | float) or not math.isfinite(length):
        raise ValueError(f"give a number of seconds, not {value!r}")
    if abs(length) > _MAX_SECONDS:
        raise ValueError(f"must be at most {_MAX_SECONDS:,} seconds, not {length:g}")
    built = Duration()
    built.FromNanoseconds(round(length * 1e9))
    return built


def seconds(duration: Duration) -> float:
    """A duration in seconds; 0 for an empty message."""
    return duration.ToNanoseconds() / 1e9


def milliseconds(duration: Duration) -> float:
    """A duration in milliseconds; 0 for an empty message."""
    return duration.ToNanoseconds() / 1e6
