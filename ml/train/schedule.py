"""Learning-rate schedules, as a factor on the base rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum


class Shape(Enum):
    """How the rate changes over a run."""

    CONSTANT = "constant"
    COSINE = "cosine"
    TRAPEZOID = "trapezoid"
    """Constant, then linear to zero over the last `decay` of the run."""
    PLATEAU = "plateau"
    """Divided by 4 after each validation that is no improvement."""


@dataclass(frozen=True)
class Schedule:
    """The factor at each step. A `PLATEAU` is constant here: the run divides when it sees one."""

    shape: Shape
    steps: int
    warmup: int = 0
    decay: float = 0.4

    def factor(self, step: int) -> float:
        """At `step`, counted from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = min(1.0, step / self.steps)
        match self.shape:
            case Shape.COSINE:
                return 0.5 * (1 + math.cos(math.pi * progress))
            case Shape.TRAPEZOID:
                return min(1.0, (1 - progress) / self.decay) if self.decay else 1.0
            case _:
                return 1.0
