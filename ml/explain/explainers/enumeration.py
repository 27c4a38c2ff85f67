"""Shapley values from all coalitions, as a regression on their pairs; see `ml.explain.explainers.shapley`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ml import spec
from ml.explain.estimator import BoolArray, Estimate, Estimating, FloatArray, Game, with_ends, with_rows
from ml.explain.explainers.kernel_shap import KernelShapExplainer, draw
from ml.explain.explainers.shapley import Pairs, kernel, of_one_feature
from ml.explain.sampling.anytime import anytime_from_ends
from ml.explain.sampling.errors import completeness_error
from ml.explain.sampling.stopping import Stopping
from ml.result import StopReason


@dataclass(frozen=True)
class EnumerationExplainer:
    """Shapley values from all coalitions, which are evaluated in the order in which KernelSHAP draws them.

    So when time runs out there is a sample for KernelSHAP's estimator: most of it are coalitions that matter most.
    """

    features: int
    budget: spec.Budget

    @property
    def max_evaluations(self) -> int:
        """All coalitions."""
        return int(2**self.features)

    @property
    def min_evaluations(self) -> int:
        """All coalitions."""
        return self.max_evaluations

    def __call__(self, game: Game) -> Estimating:
        """Ask for the empty and the full coalition, then for the pairs between them."""
        if self.features == 1:
            return of_one_feature(game)
        return anytime_from_ends(
            game,
            draw(self.features, self.budget.seed),
            self._estimate,
            nothing=Estimate.nothing(self.features),
            rows=2,
            blocks=self._pairs,
            stopping=Stopping(self.budget.standard_error, enough=4 * self.features),
            end=StopReason.COMPLETE,
        )

    @property
    def _pairs(self) -> int:
        return self.max_evaluations // 2 - 1

    def _estimate(self, coalitions: BoolArray, values: FloatArray) -> Estimate:
        """From `coalitions` [pairs, 2, features], and the values of the empty, the full and these, [2 + 2 · pairs]."""
        if len(coalitions) < self._pairs:
            return KernelShapExplainer(self.features, self.budget).estimate(coalitions, values)
        pairs = Pairs.of(coalitions)
        each = kernel(self.features) / [math.comb(self.features, size) for size in range(1, self.features)]
        regress = pairs.regression(each[pairs.sizes - 1])

        def exact(values: FloatArray) -> Estimate:
            gain = float(values[1] - values[0])
            gamma, _ = regress(pairs.differences(values[2:].reshape(-1, 2), gain))
            attributions = gain / self.features + gamma
            return Estimate(
                attributions,
                np.zeros(self.features),
                converged=True,
                completeness_error=completeness_error(attributions, gain),
            )

        return with_rows(exact, with_ends(coalitions), values)
