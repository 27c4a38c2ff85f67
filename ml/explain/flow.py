"""Where a prediction's information comes from, followed through the layers: attention rollout and value zeroing.

Both give shares: of what is at the position that predicts the target, how much comes from each token. They say where
the model looks, and not whether what it found there supports the target or opposes it; so a share is never negative,
and shares do not add up to the value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ml.explain.estimator import Estimate, Estimating
from ml.explain.internals import PromptInternals
from ml.result import StopReason


@dataclass(frozen=True)
class AttentionRolloutExplainer:
    """The product over the layers of ½ A + ½ I, with A a layer's attention, mean over heads (Abnar & Zuidema 2020)."""

    in_units: ClassVar[bool] = False
    max_evaluations: ClassVar[int] = 1
    min_evaluations: ClassVar[int] = 1

    def explain(self, prompt: PromptInternals) -> Estimating:
        """Exact: one pass."""
        yield Estimate(prompt.attention_rollout(), np.zeros(prompt.features), StopReason.COMPLETE, converged=True)


@dataclass(frozen=True)
class ValueZeroingExplainer:
    """What each layer's output loses with a token's value vectors, rolled out over the layers (Mohebbi et al. 2023)."""

    tokens: int
    """Of the prompt and what the model reads behind it."""

    in_units: ClassVar[bool] = False

    @property
    def max_evaluations(self) -> int:
        """The prompt as it is, and once without the values of each token."""
        return 1 + self.tokens

    @property
    def min_evaluations(self) -> int:
        """All of them."""
        return self.max_evaluations

    def explain(self, prompt: PromptInternals) -> Estimating:
        """Exact: each layer once for each token."""
        for shares in prompt.value_zeroing_rollout():
            if shares is not None:
                yield Estimate(shares, np.zeros(prompt.features), StopReason.COMPLETE, converged=True)
            elif prompt.late:
                yield Estimate.nothing(prompt.features, StopReason.DURATION)
                return
            else:
                yield None
