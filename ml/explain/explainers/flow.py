"""Where a prediction's information comes from, followed through the layers: attention rollout and value zeroing.

Both give shares: of what is at the position that predicts the target, how much comes from each token. They say where
the model looks, and not whether what it found there supports the target or opposes it; so a share is never negative,
and shares do not add up to the value.

Many models put nearly all of their attention on a start token that tells them nothing, an attention sink (Xiao et al.
2024). So the share of tokens that belong to no feature is told apart, and features get their shares of the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ml.explain.estimator import Estimate, Estimating, FloatArray
from ml.explain.values.internals import PromptInternals
from ml.result import StopReason


@dataclass(frozen=True)
class AttentionRolloutExplainer:
    """The product over the layers of ½ A + ½ I, with A a layer's attention, mean over heads (Abnar & Zuidema 2020)."""

    in_units: ClassVar[bool] = False
    max_evaluations: ClassVar[int] = 1
    min_evaluations: ClassVar[int] = 1

    def explain(self, prompt: PromptInternals) -> Estimating:
        """Exact: one pass."""
        yield _among_features(prompt.attention_rollout())


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
                yield _among_features(shares)
            elif prompt.late:
                yield Estimate.nothing(prompt.features, StopReason.DURATION)
                return
            else:
                yield None


def _among_features(shares: FloatArray) -> Estimate:
    """An exact estimate from features' shares of the whole, float64 [features]."""
    on_features = float(shares.sum())
    return Estimate(
        attributions=shares / on_features if on_features > 0 else shares,
        standard_errors=np.zeros(len(shares)),
        stop=StopReason.COMPLETE,
        converged=True,
        outside_share=max(0.0, 1 - on_features),
    )
