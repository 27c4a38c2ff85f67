"""Reads the contract's lengths of time (`google.protobuf.Duration`) as numbers."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration


def seconds(duration: Duration) -> float:
    """The length in seconds; 0 where the message has none."""
    return duration.ToNanoseconds() / 1e9


def milliseconds(duration: Duration) -> float:
    """The length in milliseconds; 0 where the message has none."""
    return duration.ToNanoseconds() / 1e6
