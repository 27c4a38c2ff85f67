"""What an explanation found."""

from __future__ import annotations

from dataclasses import dataclass, field

from ml.result.attributions import Attribution, AttributionRow, AttributionUnit, Hierarchy, Interaction
from ml.result.cost import Cost, Precision
from ml.result.resolved import ResolvedRemoval, ResolvedTarget, Token
from ml.result.surrogate import SurrogateFit
from ml.result.trust import Faithfulness, Trust


@dataclass(frozen=True)
class ExplanationResult:
    """What an explanation found. A partial result may lack `faithfulness` and `trust`, which come last."""

    text: str
    tokens: tuple[Token, ...]
    target: ResolvedTarget
    removal: ResolvedRemoval
    attributions: tuple[Attribution, ...]
    base_value: float
    full_value: float
    attribution_unit: AttributionUnit = AttributionUnit.NAT
    surrogate: SurrogateFit | None = None
    interactions: tuple[Interaction, ...] = ()
    completeness_error: float | None = None
    stability: float | None = None
    outside_share: float | None = None
    faithfulness: Faithfulness | None = None
    converged: bool = False
    trust: Trust | None = None
    cost: Cost = field(default_factory=Cost)
    precision: Precision = field(default_factory=Precision)
    rows: tuple[AttributionRow, ...] = ()
    hierarchy: Hierarchy | None = None
