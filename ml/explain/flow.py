"""Where a prediction's information comes from, followed through the layers: attention rollout and value zeroing.

Both give shares: of what is at the position that predicts the target, how much comes from each token. They say where
the model looks, and not whether what it found there speaks for the target or against it; so a share is never negative,
and shares do not add up to the value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ml.explain.estimator import Estimate, Estimating
from ml.explain.inside import Inside
from ml.result import StopReason


@dataclass(frozen=True)
class AttentionRolloutExplainer:
    """The product over the layers of ½ A + ½ I, with A a layer's attention, mean over heads (Abnar & Zuidema 2020)."""

    in_units: ClassVar[bool] = False
    planned: ClassVar[int] = 1
    fewest: ClassVar[int] = 1

    def inspect(self, inside: Inside) -> Estimating:
        """Exact: one pass."""
        shares = inside.by_feature(inside.rollout())
        yield Estimate(shares, np.zeros(inside.features), StopReason.COMPLETE, converged=True)


@dataclass(frozen=True)
class ValueZeroingExplainer:
    """What each layer's output loses with a token's value vectors, rolled out over the layers (Mohebbi et al. 2023)."""

    tokens: int
    """Of the prompt and what the model reads behind it."""

    in_units: ClassVar[bool] = False

    @property
    def planned(self) -> int:
        """The prompt as it is, and once without the values of each token."""
        return 1 + self.tokens

    @property
    def fewest(self) -> int:
        """All of them."""
        return self.planned

    def inspect(self, inside: Inside) -> Estimating:
        """Exact: each layer once for each token."""
        for shares in inside.value_zeroing():
            if shares is not None:
                found = inside.by_feature(shares)
                yield Estimate(found, np.zeros(inside.features), StopReason.COMPLETE, converged=True)
            elif inside.late:
                yield Estimate.nothing(inside.features, StopReason.DURATION)
                return
            else:
                yield None
