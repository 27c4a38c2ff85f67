"""KernelSHAP: Shapley values by weighted regression on sampled coalitions (Lundberg & Lee 2017).

Coalitions are drawn from the Shapley kernel together with their complements, under the constraint that the values sum
to v(N) − v(∅) (Covert & Lee 2021). In addition, sizes are drawn in proportion at any time, not only in the long run,
and no pair is drawn twice, so that small sizes are soon fully sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from ml import spec
from ml.explain.control_variates.control import Control
from ml.explain.control_variates.covariance import Covariance
from ml.explain.control_variates.draws import Draws
from ml.explain.control_variates.indices import Index
from ml.explain.estimator import (
    BoolArray,
    Estimate,
    Estimating,
    FloatArray,
    Game,
    with_ends,
    with_rows,
)
from ml.explain.explainers.shapley import Pairs, Regression, kernel
from ml.explain.sampling.anytime import CONTROLLED_GROWTH, PLAIN_GROWTH, anytime_from_ends
from ml.explain.sampling.draws import DEFAULT_SAMPLES, GOLDEN, subset_counts
from ml.explain.sampling.errors import PULL_OF_STRATA, completeness_error, has_converged, stability, stratified
from ml.explain.sampling.stopping import Stopping

_MIN_PAIRS = 32
_TILT = 2  # the power that gives a fitted game the best Shapley values
_MIN_FOR_FIT = 1.5
"""Pairs for each feature, from which on a regression does not overfit."""
MIN_FOR_CONTROL = 2 * _MIN_FOR_FIT
"""Evaluations for each feature, beside the two ends, from which on control variates are used."""
_MANY = 4
"""Evaluations for each feature, from which on a regression's residuals show what varies within each size."""


@dataclass(frozen=True)
class Layers:
    """The pairs of a coalition and its complement, by the size of the smaller one, 1 to d/2.

    Attributes:
        layer_weights: the Shapley kernel's share of each layer, float64 [layers], sum 1.
        counts: the number of pairs in each layer, float64 [layers].
    """

    layer_weights: FloatArray
    counts: FloatArray

    @classmethod
    def of(cls, features: int) -> Layers:
        """The layers of `features` features."""
        sizes = range(1, features // 2 + 1)
        twice = np.array([1 if 2 * size == features else 2 for size in sizes])  # the middle is its own complement
        counts = subset_counts(features)[1 : len(sizes) + 1]
        return cls(kernel(features)[: len(sizes)] * twice, counts * twice / 2)


def draw(features: int, seed: int, *, tilt: int = 0) -> Iterator[BoolArray]:
    """Pairs of a coalition of at most half of the features and its complement, bool [2, features], each pair once.

    Args:
        tilt: sizes are drawn in proportion to the kernel's share times this power of the size. Above 0, which is for
            fitted games, every other pair is a single feature and its complement, until all of these are drawn.
    """
    random = np.random.default_rng(seed)
    layers = Layers.of(features)
    left, seen = layers.counts.copy(), set[bytes]()
    level, drawn = random.random(), 0
    tilted = layers.layer_weights * np.arange(1, len(layers.layer_weights) + 1) ** tilt
    while left.any():
        level, drawn = (level + GOLDEN) % 1, drawn + 1
        bounds = np.where(left > 0, tilted, 0).cumsum()
        layer = int(np.searchsorted(bounds, level * bounds[-1], side="right"))
        if tilt and left[0] and drawn % 2:
            layer = 0
        coalition = np.zeros(features, dtype=np.bool_)
        while True:
            coalition[:] = False
            coalition[random.choice(features, layer + 1, replace=False)] = True
            if 2 * (layer + 1) == features and not coalition[0]:
                coalition = ~coalition  # of two complements of the same size, always the same one
            key = np.packbits(coalition).tobytes()
            if key not in seen:
                break
        seen.add(key)
        left[layer] -= 1
        yield np.stack([coalition, ~coalition])


@dataclass(frozen=True)
class KernelShapExplainer:
    """KernelSHAP with growing numbers of pairs, until a limit of the budget.

    For games with more coalitions than the budget allows; `EnumerationExplainer` is for the others.
    """

    features: int
    budget: spec.Budget
    control: bool = False
    """Whether to use control variates; see `ml.explain.control_variates`."""

    @property
    def max_evaluations(self) -> int:
        """The empty and the full coalition, and as many pairs as the budget allows."""
        return 2 + 2 * self._pairs

    @property
    def min_evaluations(self) -> int:
        """Two pairs, as a single one has no standard error; or all coalitions, if fewer."""
        return min(6, int(2**self.features))

    def __call__(self, game: Game) -> Estimating:
        """Ask for the empty and the full coalition, then for pairs."""
        return anytime_from_ends(
            game,
            draw(self.features, self.budget.seed, tilt=self._tilt),
            self.estimate,
            nothing=Estimate.nothing(self.features),
            rows=2,
            blocks=self._pairs,
            stopping=Stopping.of(self.budget, max(_MIN_PAIRS, 2 * self.features)),
            growth=CONTROLLED_GROWTH if self.control else PLAIN_GROWTH,
        )

    @property
    def _pairs(self) -> int:
        return (self.budget.max_evaluations or DEFAULT_SAMPLES) // 2 - 1

    @property
    def _tilt(self) -> int:
        """As in `draw`. Where even all pairs are too few for a fit, those that the kernel draws have smaller errors."""
        return _TILT if self.control and self._pairs >= _MIN_FOR_FIT * self.features else 0

    def estimate(self, coalitions: BoolArray, values: FloatArray) -> Estimate:
        """From `coalitions` [pairs, 2, features], and the values of the empty, the full and these, [2 + 2 · pairs]."""
        pairs, every = Pairs.of(coalitions), with_ends(coalitions)
        if len(pairs) < 2:
            return Estimate.nothing(self.features)
        estimate = self._regressed(pairs)
        if self.control and self._fits(pairs):
            early = Covariance.first_samples(self.features) // 2
            first = self._regressed(pairs[np.arange(len(pairs)) < early])(values[: 2 + 2 * early]).attributions
            estimate = self._controlled(pairs, every, values, first)
        found = with_rows(estimate, every, values)
        return replace(
            found,
            converged=has_converged(found.attributions, found.standard_errors, self.budget.standard_error),
            stability=self._stability(pairs, values),
        )

    def _regressed(self, pairs: Pairs) -> Callable[[FloatArray], Estimate]:
        """The estimate by regression, as a function of the values."""
        regress, counts = self._regression(pairs), Layers.of(self.features).counts
        if self._fits(pairs) and not self._are_many(pairs):
            # With hardly more pairs than features, a residual spreads over all sizes, and little is known of a size
            # even if most of its pairs were drawn.
            counts = np.full_like(counts, np.inf)
        freedom = len(pairs) - (self.features - 1 if self._fits(pairs) else 1)

        def estimate(values: FloatArray) -> Estimate:
            gain = float(values[1] - values[0])
            gamma, influences = regress(pairs.differences(values[2:].reshape(-1, 2), gain))
            standard_errors = stratified(influences, pairs.sizes - 1, counts)
            return _complete(gain / self.features + gamma, standard_errors, freedom, gain)

        return estimate

    def _controlled(
        self, pairs: Pairs, every: BoolArray, values: FloatArray, first: FloatArray
    ) -> Callable[[FloatArray], Estimate]:
        """The estimate with a game fitted to `values` as control variate, from `first` attributions."""
        draws = Draws(2, 2, pairs.sizes - 1, Layers.of(self.features).counts)
        answers = Control(first, every, values, draws).answers(Index.of_features(self.features))

        def estimate(values: FloatArray) -> Estimate:
            [found] = answers(values[None])
            gain = float(values[1] - values[0])
            # Their sum is right but for rounding: the fit passes through the empty and the full coalition.
            attributions = found.values + (gain - found.values.sum()) / self.features
            complete = _complete(attributions, found.standard_errors, found.freedom, gain)
            return replace(complete, surprise=found.surprise, missed_in=found.missed_in)

        return estimate

    def _stability(self, pairs: Pairs, values: FloatArray) -> float | None:
        if len(pairs) < 4:
            return None  # half of them would be a single pair, or none
        differences = pairs.differences(values[2:].reshape(-1, 2), float(values[1] - values[0]))
        halves = np.arange(len(pairs)) // 2 % 2  # by twos, as every other pair may be a single feature
        return stability(*(self._regression(pairs[halves == half])(differences[halves == half])[0] for half in (0, 1)))

    def _are_many(self, pairs: Pairs) -> bool:
        """Whether residuals show what varies within each size."""
        return 2 * len(pairs) >= _MANY * self.features

    def _fits(self, pairs: Pairs) -> bool:
        """Whether there are enough pairs for a regression not to overfit."""
        return len(pairs) >= _MIN_FOR_FIT * self.features

    def _regression(self, pairs: Pairs) -> Regression:
        """γ and each pair's influence, from the pairs' differences.

        A layer's pairs share its weight. With fewer than three pairs for two features the regression would overfit, and
        its matrix is replaced by the expected one: Σ kernel zz' = (I − 11'/d) / 2H, where H is the harmonic number of
        d − 1. That is the unbiased estimator of Covert & Lee, with their covariance. With more pairs, the fit serves
        that estimator as a control variate: only its residuals vary.
        """
        layers = Layers.of(self.features)
        drawn = np.bincount(pairs.sizes - 1, minlength=len(layers.layer_weights))
        weights = (layers.layer_weights / np.maximum(drawn, 1))[pairs.sizes - 1]
        if self._fits(pairs):
            # Fewer have larger errors anyway: see `_regressed`.
            return pairs.regression(weights, PULL_OF_STRATA if self._are_many(pairs) else 0.0)
        weights *= 2 * (1 / np.arange(1, self.features)).sum() / layers.layer_weights[drawn > 0].sum()

        def regress(differences: FloatArray) -> tuple[FloatArray, FloatArray]:
            influences: FloatArray = pairs.design * (weights * differences)[:, None]
            return influences.sum(axis=0), influences

        return regress


def _complete(attributions: FloatArray, standard_errors: FloatArray, freedom: float, gain: float) -> Estimate:
    """An estimate whose attributions should sum to `gain`."""
    missed = completeness_error(attributions, gain)
    return Estimate(attributions, standard_errors, freedom=freedom, completeness_error=missed)
