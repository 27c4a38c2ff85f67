"""Gradients at the embeddings: what an infinitely small change would do, and the sum of such changes along a path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ml import spec
from ml.explain.estimator import Estimate, Estimating, empty_and_full
from ml.explain.internals import PromptInternals
from ml.explain.shapley import completeness_error
from ml.result import StopReason

CONVERGED = 0.05
"""The largest part of v(all) − v(nothing) by which the attributions of an integral may miss it."""


@dataclass(frozen=True)
class InputTimesGradientExplainer:
    """Gradient of the value times the embedding, summed over its dimensions and a feature's tokens.

    To first order, what the value would lose if the embedding became zero (Shrikumar et al. 2017; for text Denil,
    Demiraj & de Freitas 2014).
    """

    in_units: ClassVar[bool] = True
    max_evaluations: ClassVar[int] = 1
    min_evaluations: ClassVar[int] = 1

    def explain(self, prompt: PromptInternals) -> Estimating:
        """Exact: one gradient."""
        attributions = prompt.path_gradients(np.ones(1), np.ones(1), from_removed=False)
        yield Estimate(attributions, np.zeros(prompt.features), StopReason.COMPLETE, converged=True)


@dataclass(frozen=True)
class IntegratedGradientsExplainer:
    """Integrated gradients (Sundararajan, Taly & Yan 2017) from the prompt with every feature removed to the whole one.

    With x' the embeddings of the one and x those of the other, a token's attribution is

        Σ over dimensions of (x − x') ∫₀¹ ∇v(x' + α (x − x')) dα,

    the integral by Gauss's and Legendre's rule. All of them sum to v(x) − v(x'), as far as the rule is fine enough: by
    how much they miss it is the completeness error.
    """

    method: spec.IntegratedGradients

    in_units: ClassVar[bool] = True

    @property
    def max_evaluations(self) -> int:
        """The empty and the full coalition, and a gradient at each point of the rule."""
        return 2 + self.method.steps

    @property
    def min_evaluations(self) -> int:
        """All of them."""
        return self.max_evaluations

    def explain(self, prompt: PromptInternals) -> Estimating:
        """Ask for the empty and the full coalition, then for gradients between them."""
        empty, full = yield from prompt.game(empty_and_full(prompt.features))
        if not np.isfinite(full - empty):
            yield Estimate.nothing(prompt.features, StopReason.DURATION)
            return
        nodes, weights = np.polynomial.legendre.leggauss(self.method.steps)
        attributions = np.zeros(prompt.features)
        for first in range(0, self.method.steps, prompt.batch_size):
            if prompt.late:
                yield Estimate.nothing(prompt.features, StopReason.DURATION)
                return
            some = slice(first, first + prompt.batch_size)
            attributions += prompt.path_gradients((nodes[some] + 1) / 2, weights[some] / 2, from_removed=True)
            yield None
        missed = completeness_error(attributions, gain := float(full - empty))
        yield Estimate(
            attributions=attributions,
            standard_errors=np.zeros(prompt.features),
            stop=StopReason.COMPLETE,
            converged=missed <= CONVERGED * abs(gain),
            completeness_error=missed,
        )
