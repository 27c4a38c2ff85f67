"""What a study found."""

from __future__ import annotations

from dataclasses import dataclass, field

from ml.result.attributions import AttributionUnit, Interval
from ml.result.cost import Cost, Precision
from ml.result.resolved import ResolvedTarget
from ml.result.surrogate import SurrogateFit
from ml.result.trust import Trust


@dataclass(frozen=True)
class WordCoefficient:
    """A word's weight in a surrogate over many prompts; the standard error is None where it is not known."""

    word: str
    coefficient: float
    standard_error: float | None = 0.0


@dataclass(frozen=True)
class GlobalSurrogateResult:
    """A surrogate of the model over many prompts, whose tree asks about `coefficients` by their index."""

    surrogate: SurrogateFit
    held_out_r_squared: float
    coefficients: tuple[WordCoefficient, ...]
    coefficient_unit: AttributionUnit
    fitted_prompts: int
    held_out_prompts: int


@dataclass(frozen=True)
class GroupDifference:
    """The mean of value(first) − value(second) over the pairs of a bias probe; of one pair it has no error."""

    first: str
    second: str
    difference: float
    pairs: int
    standard_error: float | None = None
    interval: Interval | None = None


@dataclass(frozen=True)
class BiasProbeResult:
    """What every two groups differ by."""

    differences: tuple[GroupDifference, ...]


@dataclass(frozen=True)
class StudyResult:
    """What a study found. `finding` is None where there was nothing to find; a partial result lacks `trust`."""

    target: ResolvedTarget
    finding: GlobalSurrogateResult | BiasProbeResult | None = None
    trust: Trust | None = None
    cost: Cost = field(default_factory=Cost)
    precision: Precision = field(default_factory=Precision)
