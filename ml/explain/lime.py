"""LIME: a weighted interpretable model around the prompt (Ribeiro, Singh & Guestrin 2016), as it improves.

Everything that defines the numbers is that of the authors' `lime` package, text explainer: the number of removed
features uniform in 1..d, drawn without replacement; the whole prompt as the first sample; the cosine distance to it
times 100; the kernel √exp(−distance² / width²); ridge with α = 1 and an intercept on all features; weighted R². With
the same seed even the draws are the package's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ml import spec
from ml.explain.estimator import BoolArray, Estimate, Estimating, FloatArray, Game
from ml.explain.surrogates import Fit, Surrogate, decision_tree, lasso, ridge
from ml.result import StopReason
from ml.spec import SurrogateKind

DEFAULT_SAMPLES = 1000
_FIRST_BATCH = 64


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

    def __call__(self, game: Game) -> Estimating:
        """Sample, fit, and tell, again and again.

        The standard-error limit is looked at once there are two samples a coefficient: before that, the penalty
        holds coefficients and their errors near 0 whatever the game.
        """
        draws = draw(self.features, self.planned, self.budget.seed)
        coalitions = np.empty((0, self.features), dtype=np.bool_)
        values = np.empty(0)
        while True:
            size = min(max(_FIRST_BATCH, len(values) // 4), self.planned - len(values))
            batch = np.array([next(draws) for _ in range(size)])
            answers = yield from game(batch)
            # Only the samples before the first unanswered one: which of the others were answered depends on the order
            # of the work, not on chance alone.
            answered = size if np.isfinite(answers).all() else int(np.argmin(np.isfinite(answers)))
            coalitions = np.concatenate([coalitions, batch[:answered]])
            values = np.concatenate([values, answers[:answered]])

            estimate = self._estimate(coalitions, values)
            stop = self._stop(estimate, len(values), out_of_time=answered < size)
            yield replace(estimate, stop=stop)
            if stop is not None:
                return

    def _stop(self, estimate: Estimate, samples: int, *, out_of_time: bool) -> StopReason | None:
        limit = self.budget.standard_error
        enough = samples >= min(2 * (self.features + 1), self.planned)
        if limit is not None and enough and float(estimate.standard_errors.max()) < limit:
            return StopReason.STANDARD_ERROR
        if out_of_time:
            return StopReason.SECONDS
        return StopReason.EVALUATIONS if samples == self.planned else None

    def _estimate(self, coalitions: BoolArray, values: FloatArray) -> Estimate:
        if len(values) < 2:
            return Estimate.nothing(self.features)
        fit = self._fit(coalitions, values)
        limit = self.budget.standard_error
        # Where the budget names no limit: a tenth of the largest attribution.
        settled = np.abs(fit.attributions).max() / 10 if limit is None else limit
        return Estimate(
            attributions=fit.attributions,
            standard_errors=fit.standard_errors,
            converged=bool(fit.standard_errors.max() <= settled),
            surrogate=fit.surrogate,
            stability=self._stability(coalitions, values),
        )

    def _fit(self, coalitions: BoolArray, values: FloatArray, *, errors: bool = True) -> Fit:
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

    def _stability(self, coalitions: BoolArray, values: FloatArray) -> float | None:
        """Pearson correlation between the attributions of every other sample and those of the rest."""
        if self.features < 3 or len(values) < 4:
            return None  # any two points lie on a line
        halves = [self._fit(coalitions[half::2], values[half::2], errors=False).attributions for half in (0, 1)]
        return None if min(map(np.ptp, halves)) == 0 else float(np.corrcoef(halves[0], halves[1])[0, 1])
