"""When to stop, what to measure beside the attributions, and in what precision to compute."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated

from ml.spec.checks import Checked, Range


@dataclass(frozen=True)
class Budget(Checked):
    """When to stop. The first limit reached ends the work; None is no limit (or the method's own default).

    `max_duration` is in seconds.
    """

    max_evaluations: Annotated[int | None, Range(2, 10_000_000)] = None
    max_duration: Annotated[float | None, Range(1e-9, 1e9, unit="seconds")] = None
    standard_error: Annotated[float | None, Range(1e-9, 1e9)] = None
    seed: int = 0


@dataclass(frozen=True)
class Quality:
    """What is measured about the explanation itself."""

    faithfulness: bool = True


class PrecisionPolicy(Enum):
    """What the model computes perturbed prompts in."""

    FLOAT32 = "float32"
    """The reference; or what the model is kept in, where that is less."""
    AUTO = "auto"
    """bfloat16 where that is faster and its error, measured on some of the job's own prompts, is small enough."""
