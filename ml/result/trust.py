"""How well an explanation predicts the model, and whether to rely on it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True)
class ControlledMetric:
    """A metric beside its mean and standard deviation over random rankings."""

    value: float
    random: float
    random_deviation: float


@dataclass(frozen=True)
class ControlledCurve:
    """A metric at each fraction beside its control, and its mean over the fractions."""

    values: tuple[float, ...]
    random_values: tuple[float, ...]
    aopc: ControlledMetric


@dataclass(frozen=True)
class Faithfulness:
    """How well a ranking by attribution predicts what the model does."""

    fractions: tuple[float, ...]
    comprehensiveness: ControlledCurve
    sufficiency: ControlledCurve
    deletion_auc: ControlledMetric
    insertion_auc: ControlledMetric
    random_rankings: int


class Verdict(Enum):
    """Whether to rely on an explanation."""

    TRUSTED = "trusted"
    CAUTION = "caution"
    NOT_TRUSTED = "not trusted"


@dataclass(frozen=True)
class Trust:
    """The verdict and, where it is not TRUSTED, its reasons, each a sentence."""

    verdict: Verdict
    reasons: tuple[str, ...] = ()
