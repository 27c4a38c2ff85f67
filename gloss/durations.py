"""Reads and makes the contract's lengths of time (`google.protobuf.Duration`)."""

from __future__ import annotations

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

DurationLike = Duration | timedelta | float
"""A number counts seconds."""


def duration(value: DurationLike) -> Duration:
    """The contract's message of a length of time.

    Raises:
        ValueError: it is longer than the contract can say.
    """
    if isinstance(value, Duration):
        return value
    built = Duration()
    built.FromNanoseconds(round((value.total_seconds() if isinstance(value, timedelta) else value) * 1e9))
    return built


def seconds(duration: Duration) -> float:
    """The length in seconds; 0 where the message has none."""
    return duration.ToNanoseconds() / 1e9


def milliseconds(duration: Duration) -> float:
    """The length in milliseconds; 0 where the message has none."""
    return duration.ToNanoseconds() / 1e6
