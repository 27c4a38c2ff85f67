"""The flow of information through the layers to the prediction: attention rollout and value zeroing.

Both give shares: how much of what reaches the position that predicts the target comes from each token. They show where
the model looks, not whether what is there supports or opposes the target; so shares are never negative, and do not sum
to the value.

Many models put nearly all of their attention on a meaningless start token, an attention sink (Xiao et al. 2024). So the
share of tokens that belong to no feature is reported apart, and the features' shares are of the rest.
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
    """The product over layers of ½ A + ½ I, with A a layer's attention, mean over heads (Abnar & Zuidema 2020)."""

    in_units: ClassVar[bool] = False
    max_evaluations: ClassVar[int] = 1
    min_evaluations: ClassVar[int] = 1

    def explain(self, prompt: PromptInternals) -> Estimating:
        """Exact: one pass."""
        yield _among_features(prompt.attention_rollout())


@dataclass(frozen=True)
class ValueZeroingExplainer:
    """How each layer's output changes without a token's values, rolled out over the layers (Mohebbi et al. 2023)."""

    tokens: int
    """The number of tokens of the prompt and of what the model reads after it."""

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
    """An exact estimate from the features' shares of everything, float64 [features]."""
    on_features = float(shares.sum())
    return Estimate(
        attributions=shares / on_features if on_features > 0 else shares,
        standard_errors=np.zeros(len(shares)),
        stop=StopReason.COMPLETE,
        converged=True,
        outside_share=max(0.0, 1 - on_features),
    )
