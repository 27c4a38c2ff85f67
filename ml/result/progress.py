"""How far the work is, and what is known so far."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ml.result.explanation import ExplanationResult
from ml.result.study import StudyResult


class Stage(Enum):
    """What is being done."""

    PREPARING = "preparing"
    CHOOSING_TARGET = "choosing the target"
    EXPLAINING = "explaining"
    MEASURING_FAITHFULNESS = "measuring faithfulness"
    DONE = "done"


@dataclass(frozen=True)
class Progress:
    """How far the work is.

    `stage` is None before the work has begun. `remaining_duration` is in seconds: a guess before the first evaluation,
    None where nothing is known.
    `tokens_planned` is the most tokens that the model will read.
    """

    evaluations_done: int
    evaluations_planned: int
    stage: Stage | None = None
    remaining_duration: float | None = None
    tokens_planned: int = 0


@dataclass(frozen=True)
class Update:
    """One step of the work: always the progress, and now and then what is known so far."""

    progress: Progress
    result: ExplanationResult | StudyResult | None = None
