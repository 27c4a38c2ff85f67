"""LIME: a weighted interpretable model around the prompt (Ribeiro, Singh & Guestrin 2016), as it improves.

Everything that defines the numbers is that of the authors' `lime` package, text explainer: the number of removed
features uniform in 1..d, drawn without replacement; the whole prompt as the first sample; the cosine distance to it
times 100; the kernel √exp(−distance² / width²); ridge with α = 1 and an intercept on all features; weighted R². With
the same seed even the draws are the package's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from ml import spec
from ml.explain.estimator import BoolArray, Estimating, FloatArray, Game
from ml.explain.sampling import DEFAULT_SAMPLES, anytime, fitted
from ml.explain.surrogates import Fit, Surrogate, decision_tree, lasso, ridge
from ml.spec import SurrogateKind


def draw(features: int, samples: int, seed: int) -> Iterator[BoolArray]:
    """The first `samples` coalitions, bool [features] each, drawn as they are asked for.

    The order of draws is the `lime` package's: all sizes first, then each sample's removed features.
    """
    # A seed of the contract has 64 bits; one of 32 means what it means to NumPy and so to `lime`.
    words = (seed & 0xFFFFFFFF, seed >> 32)
    random = np.random.RandomState(words[0] if words[1] == 0 else words)
    sizes = random.randint(1, features + 1, samples - 1)
    yield np.ones(features, dtype=np.bool_)
    for size in sizes:
        coalition = np.ones(features, dtype=np.bool_)
        coalition[random.choice(features, size, replace=False)] = False
        yield coalition


def kernel(coalitions: BoolArray, width: float) -> FloatArray:
    """Weights of `coalitions` [n, features] by their cosine distance to the whole prompt, times 100. Returns [n]."""
    distances = 100 * (1 - np.sqrt(coalitions.mean(axis=1)))
    # A narrow kernel underflows; a weight of 0 for every sample of a half would leave nothing to fit.
    weights: FloatArray = np.maximum(np.sqrt(np.exp(-(distances**2) / width**2)), 1e-100)
    return weights


@dataclass(frozen=True)
class LimeExplainer:
    """LIME with growing numbers of samples: 64, then a quarter more each time, until a limit of the budget."""

    features: int
    method: spec.Lime
    budget: spec.Budget

    @property
    def planned(self) -> int:
        """The samples, those drawn more than once counted each time."""
        return self.budget.max_evaluations or DEFAULT_SAMPLES

    @property
    def fewest(self) -> int:
        """Two, the least that a surrogate can be fitted to."""
        return 2

    def __call__(self, game: Game) -> Estimating:
        """Sample, fit, and tell, again and again.

        The standard-error limit is looked at once there are two samples a coefficient: before that, the penalty
        holds coefficients and their errors near 0 whatever the game.
        """
        draws = draw(self.features, self.planned, self.budget.seed)
        return anytime(
            game,
            (coalition[None] for coalition in draws),
            lambda coalitions, values: fitted(self._fit, coalitions[:, 0], values[:, 0], self.budget.standard_error),
            rows=1,
            blocks=self.planned,
            limit=self.budget.standard_error,
            enough=2 * (self.features + 1),
        )

    def _fit(self, coalitions: BoolArray, values: FloatArray, *, errors: bool) -> Fit:
        weights = kernel(coalitions, self.method.kernel_width)
        return self._surrogate(coalitions.astype(np.float64), values, weights, errors=errors)

    @property
    def _surrogate(self) -> Surrogate:
        match self.method.surrogate:
            case SurrogateKind.RIDGE:
                return partial(ridge, 1.0 if self.method.alpha is None else self.method.alpha)
            case SurrogateKind.LASSO:
                return partial(lasso, 0.01 if self.method.alpha is None else self.method.alpha)
            case SurrogateKind.DECISION_TREE:
                return partial(decision_tree, self.method.max_depth)
