"""KernelSHAP: Shapley values by weighted regression on sampled coalitions (Lundberg & Lee 2017), as it improves.

Coalitions are drawn from the Shapley kernel together with their complements, and the constraint that the values sum to
v(N) − v(∅) is kept (Covert & Lee 2021). Beyond these: sizes are drawn in proportion at any moment, not only in the long
run, and no pair is drawn twice, so that small sizes soon are known whole and leave nothing to chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ml import spec
from ml.explain.control import Control, Kernel, subsets
from ml.explain.estimator import BoolArray, Estimate, Estimating, FloatArray, Game, IntArray
from ml.explain.sampling import CONTROLLED_GROWTH, DEFAULT_SAMPLES, GOLDEN, PLAIN_GROWTH, anytime, settled, stability
from ml.explain.shapley import SINGULAR, Pairs, completeness_error, ends, kernel
from ml.result import StopReason

_FEWEST_PAIRS = 32
_FEWEST_FOR_CONTROL = 1.5  # pairs a feature
_MANY = 8192
"""Pairs for the answer about a fitted game."""


@dataclass(frozen=True)
class Layers:
    """Pairs of coalitions by the smaller one's size, 1 to d/2.

    Attributes:
        mass: the Shapley kernel's share of each layer, float64 [layers], sum 1.
        counts: how many pairs there are in it, float64 [layers].
    """

    mass: FloatArray
    counts: FloatArray

    @classmethod
    def of(cls, features: int) -> Layers:
        """The layers of `features` features."""
        sizes = range(1, features // 2 + 1)
        twice = np.array([1 if 2 * size == features else 2 for size in sizes])  # the middle is its own complement
        counts = np.array([float(math.comb(features, size)) for size in sizes])
        return cls(kernel(features)[: len(sizes)] * twice, counts * twice / 2)


def draw(features: int, seed: int, *, large: bool = False) -> Iterator[BoolArray]:
    """Pairs of a coalition of at most half of the features and its complement, bool [2, features], each pair once.

    With `large`, sizes are drawn in proportion to the kernel's share times the size: a pair of larger coalitions tells
    a fitted game more.
    """
    random = np.random.default_rng(seed)
    layers = Layers.of(features)
    left, seen = layers.counts.copy(), set[bytes]()
    level = random.random()
    while left.any():
        level = (level + GOLDEN) % 1
        mass = layers.mass * np.arange(1, len(layers.mass) + 1) if large else layers.mass
        bounds = np.where(left > 0, mass, 0).cumsum()
        layer = int(np.searchsorted(bounds, level * bounds[-1], side="right"))
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

    For problems that cannot be enumerated within the budget; `EnumerationExplainer` is for the others.
    """

    features: int
    budget: spec.Budget
    control: bool = False
    """Whether control variates help the regression; see `ml.explain.control`."""

    @property
    def planned(self) -> int:
        """The two ends and as many pairs as the budget has room for."""
        return 2 + 2 * self._pairs

    @property
    def fewest(self) -> int:
        """Two pairs, as one alone does not tell how sure it is; or all coalitions, where they are fewer."""
        return min(6, int(2**self.features))

    def __call__(self, game: Game) -> Estimating:
        """Ask for the two ends, then for pairs."""
        empty, whole = yield from game(ends(game))
        gain = float(whole - empty)
        if not np.isfinite(gain):
            yield Estimate.nothing(self.features, StopReason.SECONDS)
            return
        yield from anytime(
            game,
            draw(self.features, self.budget.seed, large=self.control),
            lambda coalitions, values: self._estimate(Pairs.of(coalitions, values, gain), gain),
            rows=2,
            blocks=self._pairs,
            limit=self.budget.standard_error,
            enough=max(_FEWEST_PAIRS, 2 * self.features),
            growth=CONTROLLED_GROWTH if self.control else PLAIN_GROWTH,
        )

    @property
    def _pairs(self) -> int:
        return (self.budget.max_evaluations or DEFAULT_SAMPLES) // 2 - 1

    def _estimate(self, pairs: Pairs, gain: float) -> Estimate:
        if len(pairs) < 2:
            return Estimate.nothing(self.features)
        gamma, pulls = self._regress(pairs)
        standard_errors = _spread(pulls, pairs.sizes, Layers.of(self.features).counts)
        if self.control and len(pairs) >= _FEWEST_FOR_CONTROL * self.features:
            gamma, standard_errors = self._controlled(pairs, gain / self.features + gamma, gain)
        attributions = gain / self.features + gamma
        halves = [np.arange(len(pairs)) % 2 == half for half in (0, 1)]
        first, second = (self._regress(pairs[half])[0] for half in halves)
        return Estimate(
            attributions=attributions,
            standard_errors=standard_errors,
            converged=settled(attributions, standard_errors, self.budget.standard_error),
            stability=stability(first, second) if len(pairs) >= 4 else None,
            freedom=len(pairs) - 1,
            completeness_error=completeness_error(attributions, gain),
        )

    def _controlled(self, pairs: Pairs, first: FloatArray, gain: float) -> tuple[FloatArray, FloatArray]:
        """γ and its standard errors: of the fitted game, from many pairs, and of what it leaves, from those drawn."""
        kept, many = pairs.kept, self._many
        # The process is fitted to half of v(S) − v(N∖S) itself, in which what does not matter has no part.
        halves = pairs.differences + (kept.mean(axis=1) - 0.5) * gain
        even = (many.mean(axis=1) - 0.5) * gain  # what they would be if all features were alike
        for _ in range(2):  # the first answer's noise is no good guide to what matters
            fitted_game = Control(Kernel.of(first, odd=True), kept, halves)
            rest, _ = self._regress(pairs.with_differences(fitted_game.residuals))
            gamma, errors = fitted_game.estimate(many, _projector, rest, even)
            first = gain / self.features + gamma
        return gamma, errors

    @cached_property
    def _many(self) -> BoolArray:
        """The first coalitions of pairs drawn from the kernel, which cost no evaluations."""
        random = np.random.default_rng([self.budget.seed, 2])  # a stream apart from the samples'
        sizes = 1 + random.choice(self.features // 2, _MANY, p=Layers.of(self.features).mass)
        return subsets(random, sizes, self.features)

    def _regress(self, pairs: Pairs) -> tuple[FloatArray, FloatArray]:
        """γ and each pair's pull, as `Pairs.regress`.

        A layer's pairs share its mass. With fewer than three pairs for two features the regression would follow their
        accidents, and its matrix is the one that it has in expectation: Σ kernel zz' = (I − 11'/d) / 2H, where H is the
        harmonic number of d − 1. That is the unbiased estimator of Covert & Lee, and its covariance theirs. With more,
        the fit serves that estimator as a control variate: only what it leaves varies.
        """
        layers = Layers.of(self.features)
        drawn = np.bincount(pairs.sizes - 1, minlength=len(layers.mass))
        weights = (layers.mass / np.maximum(drawn, 1))[pairs.sizes - 1]
        if len(pairs) >= 1.5 * self.features:
            return pairs.regress(weights)
        weights *= 2 * (1 / np.arange(1, self.features)).sum() / layers.mass[drawn > 0].sum()
        pulls: FloatArray = pairs.design * (weights * pairs.differences)[:, None]
        return pulls.sum(axis=0), pulls


def _projector(kept: BoolArray) -> FloatArray:
    """What makes γ of the differences of evenly weighted pairs, given by their first coalitions [pairs, features]."""
    design = kept - kept.mean(axis=1, keepdims=True)
    projector: FloatArray = design @ np.linalg.pinv(design.T @ design, rcond=SINGULAR, hermitian=True)
    return projector


def _spread(pulls: FloatArray, sizes: IntArray, counts: FloatArray) -> FloatArray:
    """Standard errors of the sum of `pulls` [pairs, features], drawn without replacement from layers of `counts`.

    The stratified variance with its correction for finite populations (Cochran 1977). A layer with one pair drawn does
    not show its mean: all of that pair's pull counts.
    """
    variance = np.zeros(pulls.shape[1])
    for size in np.unique(sizes):
        stratum = pulls[sizes == size]
        many = len(stratum)
        centred = stratum - stratum.mean(axis=0) if many > 1 else stratum
        variance += (1 - many / counts[size - 1]) * many / max(1, many - 1) * (centred**2).sum(axis=0)
    standard_errors: FloatArray = np.sqrt(variance)
    return standard_errors
