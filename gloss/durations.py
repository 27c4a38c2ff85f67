"""Reads and makes the contract's lengths of time (`google.protobuf.Duration`)."""

from __future__ import annotations

import math
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

DurationLike = Duration | timedelta | float
"""A number counts seconds."""

_MAX_SECONDS = 315_576_000_000
"""What a `google.protobuf.Duration` holds at the most: 10,000 years."""


def duration(value: DurationLike) -> Duration:
    """The contract's message of a length of time.

    Raises:
        ValueError: it is no number of seconds, or longer than the contract can say.
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
    """The length in seconds; 0 where the message has none."""
    return duration.ToNanoseconds() / 1e9


def milliseconds(duration: Duration) -> float:
    """The length in milliseconds; 0 where the message has none."""
    return duration.ToNanoseconds() / 1e6
