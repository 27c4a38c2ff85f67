"""How fast a model has been recently, from which a call's waiting time is estimated."""

from __future__ import annotations

import math


class Throughput:
    """Tokens per second, with an exponential memory; what the model's thread does between batches counts too."""

    _MEMORY_SECONDS = 2.0
    _EVIDENCE_SECONDS = 0.5

    def __init__(self) -> None:
        self._tokens = self._seconds = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Infinite while too little is known, so that one slow batch refuses nobody."""
        return self._tokens / self._seconds if self._tokens and self._seconds >= self._EVIDENCE_SECONDS else math.inf

    def note(self, tokens: int, seconds: float) -> None:
        """`tokens` took `seconds`."""
        share = math.exp(-seconds / self._MEMORY_SECONDS)
        self._tokens = share * self._tokens + tokens
        self._seconds = share * self._seconds + seconds


class TimeShares:
    """How the models shared the time of late, with an exponential memory."""

    _MEMORY_SECONDS = 2.0

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def note(self, model: str, seconds: float) -> None:
        """A step of `model` took `seconds`."""
        share = math.exp(-seconds / self._MEMORY_SECONDS)
        self._seconds = {other: share * before for other, before in self._seconds.items()}
        self._seconds[model] = self._seconds.get(model, 0.0) + seconds

    def of_others(self, model: str) -> float:
        """Which part of the time, from 0 to 1, was that of other models."""
        total = sum(self._seconds.values())
        return 1 - self._seconds.get(model, 0.0) / total if total else 0.0

    def forget(self) -> None:
        """Begin anew."""
        self._seconds.clear()


class Turnover:
    """How often running sequences end, and others may start."""

    _MEMORY_SEQUENCES = 16

    def __init__(self) -> None:
        self._noted = 0
        self._mean_seconds = 0.0

    def note(self, seconds: float) -> None:
        """A sequence has ended that ran for `seconds`."""
        self._noted = min(self._noted + 1, self._MEMORY_SEQUENCES)
        self._mean_seconds += (seconds - self._mean_seconds) / self._noted

    def per_second(self, capacity: int) -> float:
        """How many of `capacity` sequences end in a second. Infinite while nothing is known."""
        return capacity / self._mean_seconds if self._mean_seconds else math.inf
