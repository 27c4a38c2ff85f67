"""LIME: a weighted interpretable model around the prompt (Ribeiro, Singh & Guestrin 2016), as it improves.

Everything that defines the numbers is that of the authors' `lime` package, text explainer: the number of removed
features uniform in 1..d, drawn without replacement; the whole prompt as the first sample; the cosine distance to it
times 100; the kernel √exp(−distance² / width²); ridge with α = 1 and an intercept on all features; weighted R². With
the same seed even the draws and the coefficients are the package's own, unless the ridge is helped by control variates
and a draw by importance, which estimate the same limit more closely.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from ml import spec
from ml.explain.control import Control, subsets
from ml.explain.estimator import BoolArray, Estimating, FloatArray, Game
from ml.explain.sampling import CONTROLLED_GROWTH, DEFAULT_SAMPLES, GOLDEN, PLAIN_GROWTH, anytime, fitted
from ml.explain.surrogates import Fit, Surrogate, decision_tree, lasso, r_squared, ridge, ridge_projector
from ml.spec import SurrogateKind

_EVENLY = 0.1
"""Share of the draws that fall on all sizes alike, whatever they seem to be worth."""
_MANY = 8192
"""Coalitions for the answer about a fitted game: their draw adds a fifth of the error of 333 samples, or less."""


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


@dataclass(frozen=True)
class Sizes:
    """How often each number of removed features, 1 to d, is drawn where the draw is ours to choose.

    LIME draws all sizes alike and then hardly weighs most of them. A size that is drawn more often than that, with
    weights lowered to match, estimates the same; what a sample then tells of a coefficient is about the same at every
    size when sizes are drawn in proportion to kernel · √(share removed · share kept) (Neyman 1934).

    Attributes:
        probabilities: float64 [d], of 1 to d removed features.
    """

    probabilities: FloatArray

    @classmethod
    def of(cls, features: int, width: float) -> Sizes:
        """For a prompt of `features` features and the kernel's width."""
        removed = np.arange(1, features + 1) / features
        worth = _of_share(1 - removed, width) * np.sqrt(removed * (1 - removed)) + 1e-300
        return cls((1 - _EVENLY) * worth / worth.sum() + _EVENLY / features)

    def draw(self, seed: int) -> Iterator[BoolArray]:
        """Coalitions, bool [features] each, without end: the whole prompt, and then by size."""
        random = np.random.default_rng([seed, 1])
        features, bounds = len(self.probabilities), self.probabilities.cumsum()
        yield np.ones(features, dtype=np.bool_)
        level = random.random()
        while True:
            level = (level + GOLDEN) % 1
            size = min(int(np.searchsorted(bounds, level, side="right")) + 1, features)
            coalition = np.ones(features, dtype=np.bool_)
            coalition[random.choice(features, size, replace=False)] = False
            yield coalition

    def many(self, random: np.random.Generator, count: int) -> BoolArray:
        """`count` coalitions by size, bool [count, features]."""
        features = len(self.probabilities)
        removed = 1 + random.choice(features, count, p=self.probabilities)
        return subsets(random, features - removed, features)

    def weights(self, coalitions: BoolArray) -> FloatArray:
        """What makes up for the sizes' being drawn unlike, float64 [n]; 1 for the whole prompt."""
        removed = (~coalitions).sum(axis=1)
        factors = np.concatenate([[1.0], 1 / (len(self.probabilities) * self.probabilities)])
        weights: FloatArray = factors[removed]
        return weights


def kernel(coalitions: BoolArray, width: float) -> FloatArray:
    """Weights of `coalitions` [n, features] by their cosine distance to the whole prompt, times 100. Returns [n]."""
    return _of_share(coalitions.mean(axis=1), width)


def _of_share(kept: FloatArray, width: float) -> FloatArray:
    distances = 100 * (1 - np.sqrt(kept))
    # A narrow kernel underflows; a weight of 0 for every sample of a half would leave nothing to fit.
    weights: FloatArray = np.maximum(np.sqrt(np.exp(-(distances**2) / width**2)), 1e-100)
    return weights


@dataclass(frozen=True)
class LimeExplainer:
    """LIME with growing numbers of samples: 64, then a quarter more each time, until a limit of the budget."""

    features: int
    method: spec.Lime
    budget: spec.Budget
    control: bool = False
    """Whether the ridge's coefficients are helped by control variates; see `ml.explain.control`."""

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
        seed = self.budget.seed
        draws = self._sizes.draw(seed) if self._controls else draw(self.features, self.planned, seed)
        return anytime(
            game,
            (coalition[None] for coalition in draws),
            lambda coalitions, values: fitted(self._fit, coalitions[:, 0], values[:, 0], self.budget.standard_error),
            rows=1,
            blocks=self.planned,
            limit=self.budget.standard_error,
            enough=2 * (self.features + 1),
            growth=CONTROLLED_GROWTH if self._controls else PLAIN_GROWTH,
        )

    def _fit(self, coalitions: BoolArray, values: FloatArray, *, errors: bool) -> Fit:
        weights = self._weights(coalitions)
        plain = self._surrogate(coalitions.astype(np.float64), values, weights, errors=errors)
        if not (self._controls and errors and len(values) >= 2 * (self.features + 1)):
            return plain
        return self._controlled(plain, coalitions, values, weights)

    def _controlled(self, plain: Fit, coalitions: BoolArray, values: FloatArray, weights: FloatArray) -> Fit:
        """The ridge of the fitted game, from many coalitions, and that of what the fit leaves, from those sampled."""
        samples = coalitions.astype(np.float64)

        def alpha(count: int) -> float:
            """The penalty that weighs as much beside `count` samples as α beside the package's own number of them."""
            return self._alpha(1.0) * count / DEFAULT_SAMPLES

        fitted_game = Control(plain.attributions, coalitions, values)
        rest = ridge(alpha(len(values)), samples, fitted_game.residuals, weights, errors=True)

        def project(many: BoolArray) -> FloatArray:
            return ridge_projector(alpha(len(many)), many.astype(np.float64), self._weights(many))

        coefficients, errors = fitted_game.estimate(self._many, project, (rest.attributions, rest.standard_errors))
        intercept = float(np.average(values - samples @ coefficients, weights=weights))
        explained = r_squared(values, intercept + samples @ coefficients, weights)
        return Fit(coefficients, errors, replace(plain.surrogate, r_squared=explained, intercept=intercept))

    @cached_property
    def _many(self) -> BoolArray:
        """Coalitions of the distribution that samples are drawn from, which cost no evaluations."""
        return self._sizes.many(np.random.default_rng([self.budget.seed, 2]), _MANY)  # a stream apart

    @property
    def _controls(self) -> bool:
        return self.control and self.method.surrogate is SurrogateKind.RIDGE

    @cached_property
    def _sizes(self) -> Sizes:
        return Sizes.of(self.features, self.method.kernel_width)

    def _weights(self, coalitions: BoolArray) -> FloatArray:
        weights = kernel(coalitions, self.method.kernel_width)
        return weights * self._sizes.weights(coalitions) if self._controls else weights

    def _alpha(self, default: float) -> float:
        return default if self.method.alpha is None else self.method.alpha

    @property
    def _surrogate(self) -> Surrogate:
        match self.method.surrogate:
            case SurrogateKind.RIDGE:
                return partial(ridge, self._alpha(1.0))
            case SurrogateKind.LASSO:
                return partial(lasso, self._alpha(0.01))
            case SurrogateKind.DECISION_TREE:
                return partial(decision_tree, self.method.max_depth)
