"""What the work took, why it stopped, and how precise its numbers are."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class StopReason(Enum):
    """Why an explanation stopped."""

    COMPLETE = "complete"
    EVALUATIONS = "evaluations"
    DURATION = "duration"
    STANDARD_ERROR = "standard error"
    CANCELLED = "cancelled"
    RANKED = "ranked"


@dataclass(frozen=True)
class Cost:
    """What it took. `evaluations` are prompts computed; `cache_hits` those whose value was known already.

    `duration` is in seconds; `price` is that of an external engine, None where it has none.
    """

    evaluations: int = 0
    tokens_computed: int = 0
    tokens_saved: int = 0
    cache_hits: int = 0
    duration: float = 0.0
    stop_reason: StopReason | None = None
    price: float | None = None


@dataclass(frozen=True)
class Precision:
    """What the numbers were computed in, and the largest error against float32 seen, where a trial was made.

    `noise` is the standard deviation of one token's log-probability with what an external engine computes beside.
    """

    dtype: str = "float32"
    measured_error: float | None = None
    noise: float | None = None
