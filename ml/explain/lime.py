"""LIME: a weighted interpretable model around the prompt (Ribeiro, Singh & Guestrin 2016), as it improves.

Everything that defines the numbers is that of the authors' `lime` package, text explainer: the number of removed
features uniform in 1..d, drawn without replacement; the whole prompt as the first sample; the cosine distance to it
times 100; the kernel √exp(−distance² / width²); ridge with α = 1 and an intercept on all features; weighted R².

The textbook's estimator makes even the package's own draws, so that the same seed gives the package's coefficients. The
other one estimates what the package finds of 1,000 samples on the average: a fit to all coalitions, each weighed by how
often it is drawn. It is exact where all coalitions are within the budget; elsewhere a draw by importance and control
variates come close to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from ml import spec
from ml.explain.control import Control, subsets
from ml.explain.estimator import BoolArray, Estimate, Estimating, FloatArray, Game
from ml.explain.sampling import (
    CONTROLLED_GROWTH,
    DEFAULT_SAMPLES,
    GOLDEN,
    PLAIN_GROWTH,
    anytime,
    fitted,
    stratified,
    subset_counts,
)
from ml.explain.shapley import is_enumerable
from ml.explain.surrogates import Fit, Surrogate, decision_tree, lasso, r_squared, ridge, ridge_projector
from ml.result import StopReason
from ml.spec import SurrogateKind

_EVENLY = 0.1
"""Share of the draws that fall on all sizes alike, whatever they seem to be worth."""
_MANY = 8192
"""Coalitions for the answer about a fitted game: their draw adds a fifth of the error of 333 samples, or less."""
_GROUPS = 8
"""Of them, whose answers' differences show what drawing them costs."""


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
    """How often each number of removed features, 0 to d, is drawn where the draw is ours to choose.

    LIME draws all sizes alike and then hardly weighs most of them. A size that is drawn more often than that, with
    weights lowered to match, estimates the same; what a sample then tells of a coefficient is about the same at every
    size when sizes are drawn in proportion to kernel · √(share removed · share kept) (Neyman 1934). No coalition is
    drawn twice, so that small sizes soon are known whole and leave nothing to chance.

    Attributes:
        probabilities: float64 [d + 1], of 0 to d removed features; 0 for the whole prompt, which is always a sample.
        mass: what all coalitions of a size weigh together in a fit to 1,000 samples, on the average; float64 [d + 1].
        counts: how many coalitions there are of each size, float64 [d + 1].
    """

    probabilities: FloatArray
    mass: FloatArray
    counts: FloatArray

    @classmethod
    def of(cls, features: int, width: float) -> Sizes:
        """For a prompt of `features` features and the kernel's width."""
        removed = np.arange(features + 1) / features
        weights = _of_share(1 - removed, width)
        worth = weights * np.sqrt(removed * (1 - removed)) + 1e-300
        worth[0] = 0
        probabilities = (1 - _EVENLY) * worth / worth.sum() + _EVENLY / features
        probabilities[0] = 0
        often = np.full(features + 1, (DEFAULT_SAMPLES - 1) / features)
        often[0] = 1
        return cls(probabilities, often * weights, subset_counts(features))

    @property
    def features(self) -> int:
        """d."""
        return len(self.counts) - 1

    def draw(self, seed: int) -> Iterator[BoolArray]:
        """Coalitions, bool [features] each and each once: the whole prompt, and then by size."""
        random = np.random.default_rng([seed, 1])
        yield np.ones(self.features, dtype=np.bool_)
        level, left, seen = random.random(), self.counts.copy(), set[bytes]()
        left[0] = 0
        while left.any():
            level = (level + GOLDEN) % 1
            bounds = np.where(left > 0, self.probabilities, 0).cumsum()
            size = int(np.searchsorted(bounds, level * bounds[-1], side="right"))
            while True:
                coalition = np.ones(self.features, dtype=np.bool_)
                coalition[random.choice(self.features, size, replace=False)] = False
                if (key := np.packbits(coalition).tobytes()) not in seen:
                    break
            seen.add(key)
            left[size] -= 1
            yield coalition

    def many(self, random: np.random.Generator, count: int) -> BoolArray:
        """The whole prompt and `count` coalitions by size, bool [1 + count, features], some of them often."""
        removed = random.choice(self.features + 1, count, p=self.probabilities)
        return subsets(random, self.features - np.concatenate([[0], removed]), self.features)

    def weights(self, coalitions: BoolArray) -> FloatArray:
        """What `coalitions` [n, features] weigh in a fit: each size its mass, however many of it are here. Returns [n].

        A size that is not here counts with the nearest one.
        """
        removed = (~coalitions).sum(axis=1)
        here = np.unique(removed)
        nearest = here[np.abs(np.arange(self.features + 1)[:, None] - here).argmin(axis=1)]
        mass = np.bincount(nearest, self.mass, self.features + 1)
        weights: FloatArray = (mass / np.maximum(np.bincount(removed, minlength=self.features + 1), 1))[removed]
        return weights

    def projector(self, alpha: float, coalitions: BoolArray) -> FloatArray:
        """What makes the ridge's coefficients of the values of `coalitions` [n, features], [n, features], with the
        normal matrix that all coalitions have: it is one number on the diagonal and another beside it.
        """
        removed = np.arange(self.features + 1)
        mean = self.mass @ removed / self.mass.sum()
        together = self.mass @ (removed - mean) ** 2 / self.features + alpha  # its eigenvalue for the mean of features
        apart = self.mass @ (removed * (self.features - removed)) / (self.features * (self.features - 1)) + alpha
        present = coalitions.mean(axis=1, keepdims=True)
        design = (coalitions - present) / apart + (present - 1 + mean / self.features) / together
        projector: FloatArray = design * self.weights(coalitions)[:, None]
        return projector


def kernel(coalitions: BoolArray, width: float) -> FloatArray:
    """Weights of `coalitions` [n, features] by their cosine distance to the whole prompt, times 100. Returns [n]."""
    return _of_share(coalitions.mean(axis=1), width)


def _of_share(kept: FloatArray, width: float) -> FloatArray:
    distances = 100 * (1 - np.sqrt(kept))
    # A narrow kernel underflows; a weight of 0 for every sample of a half would leave nothing to fit.
    weights: FloatArray = np.maximum(np.sqrt(np.exp(-(distances**2) / width**2)), 1e-100)
    return weights


def surrogate(method: spec.Lime) -> Surrogate:
    """The interpretable model that a method asks for, with its parameters."""
    match method.surrogate:
        case SurrogateKind.RIDGE:
            return partial(ridge, 1.0 if method.alpha is None else method.alpha)
        case SurrogateKind.LASSO:
            return partial(lasso, 0.01 if method.alpha is None else method.alpha)
        case SurrogateKind.DECISION_TREE:
            return partial(decision_tree, method.max_depth)


@dataclass(frozen=True)
class LimeExplainer:
    """LIME with growing numbers of samples: 64, then a quarter more each time, until a limit of the budget."""

    features: int
    method: spec.Lime
    budget: spec.Budget
    control: bool = False
    """Whether coalitions are drawn to tell the most, all of them where the budget has room, and control variates help
    the ridge where it has not; see `ml.explain.control`."""

    @property
    def max_evaluations(self) -> int:
        """The samples, or all coalitions. The package's own draws are counted each time that they come."""
        return int(2**self.features) if self._every else self.budget.max_evaluations or DEFAULT_SAMPLES

    @property
    def min_evaluations(self) -> int:
        """Two, the least that a surrogate can be fitted to."""
        return 2

    def __call__(self, game: Game) -> Estimating:
        """Sample, fit, and tell, again and again.

        The standard-error limit is looked at once there are two samples a coefficient: before that, the penalty
        holds coefficients and their errors near 0 whatever the game.
        """
        seed, limit = self.budget.seed, self.budget.standard_error
        draws = self._sizes.draw(seed) if self._chooses else draw(self.features, self.max_evaluations, seed)
        return anytime(
            game,
            (coalition[None] for coalition in draws),
            lambda coalitions, values: self._estimate(coalitions[:, 0], values[:, 0]),
            rows=1,
            blocks=self.max_evaluations,
            limit=limit,
            enough=2 * (self.features + 1),
            growth=CONTROLLED_GROWTH if self._controls else PLAIN_GROWTH,
            end=StopReason.COMPLETE if self._every else StopReason.EVALUATIONS,
        )

    def _estimate(self, coalitions: BoolArray, values: FloatArray) -> Estimate:
        found = fitted(self._fit, coalitions, values, self.budget.standard_error, fixed=1)
        if self._every and len(values) == self.max_evaluations:
            return replace(found, converged=True, stability=None)
        return replace(found, freedom=max(1, len(values) - self.features - 1))

    def _fit(self, coalitions: BoolArray, values: FloatArray, *, errors: bool) -> Fit:
        samples = coalitions.astype(np.float64)
        if not self._chooses:
            weights = kernel(coalitions, self.method.kernel_width)
            return surrogate(self.method)(samples, values, weights, errors=errors, fixed=1)
        weights = self._sizes.weights(coalitions)
        if self._every and self.method.surrogate is not SurrogateKind.RIDGE:
            return self._left_out(surrogate(self.method)(samples, values, weights, errors=errors, fixed=1), len(values))
        plain = self._ridge(coalitions, values, errors=errors)
        if self._every or not errors or len(values) < 2 * (self.features + 1):
            return plain
        return self._controlled(plain, coalitions, values, weights)

    def _left_out(self, fit: Fit, known: int) -> Fit:
        """The sampling theory's correction for finite populations (Cochran 1977)."""
        share = 1 - known / self.max_evaluations
        return replace(fit, standard_errors=np.sqrt(share) * fit.standard_errors if share else np.zeros(self.features))

    def _ridge(self, coalitions: BoolArray, values: FloatArray, *, errors: bool = True) -> Fit:
        """The ridge of coalitions that were drawn by size, each once."""
        removed = (~coalitions).sum(axis=1)
        return ridge(
            self._alpha,
            coalitions.astype(np.float64),
            values,
            self._sizes.weights(coalitions),
            errors=errors,
            spread=lambda pulls: stratified(pulls, removed, self._sizes.counts),
        )

    def _controlled(self, plain: Fit, coalitions: BoolArray, values: FloatArray, weights: FloatArray) -> Fit:
        """The ridge of the fitted game, from many coalitions, and that of what the fit leaves, from those sampled."""
        fitted_game = Control(plain.attributions, coalitions, values)
        # Residuals are those of fits without their own sample, so that no leverage has to be made up for.
        pulls = self._sizes.projector(self._alpha, coalitions) * fitted_game.residuals[:, None]
        spread = stratified(pulls, (~coalitions).sum(axis=1), self._sizes.counts)
        coefficients, errors = fitted_game.estimate(
            self._many, self._project, (pulls.sum(axis=0), spread), exact=self._many_are_all
        )
        samples = coalitions.astype(np.float64)
        intercept = float(np.average(values - samples @ coefficients, weights=weights))
        explained = r_squared(values, intercept + samples @ coefficients, weights)
        return Fit(coefficients, errors, replace(plain.surrogate, r_squared=explained, intercept=intercept))

    def _project(self, coalitions: BoolArray) -> FloatArray:
        return ridge_projector(self._alpha, coalitions.astype(np.float64), self._sizes.weights(coalitions))

    @cached_property
    def _many(self) -> tuple[BoolArray, ...]:
        """All coalitions, or groups of many that are drawn as samples are; they cost no evaluations."""
        random = np.random.default_rng([self.budget.seed, 2])  # a stream apart
        if self._many_are_all:
            every: BoolArray = (np.arange(2**self.features)[:, None] >> np.arange(self.features) & 1) == 0
            return (every,)
        return tuple(self._sizes.many(random, _MANY // _GROUPS) for _ in range(_GROUPS))

    @property
    def _many_are_all(self) -> bool:
        return bool(2 ** min(self.features, 63) <= _MANY)

    @property
    def _every(self) -> bool:
        """Whether all coalitions are within the budget, so that nothing has to be left to chance."""
        return self.control and is_enumerable(self.features, self.budget)

    @property
    def _controls(self) -> bool:
        return self._chooses and not self._every

    @property
    def _chooses(self) -> bool:
        """Whether the draw is ours to choose, and not the package's."""
        return self._every or (self.control and self.method.surrogate is SurrogateKind.RIDGE)

    @cached_property
    def _sizes(self) -> Sizes:
        return Sizes.of(self.features, self.method.kernel_width)

    @property
    def _alpha(self) -> float:
        return 1.0 if self.method.alpha is None else self.method.alpha
