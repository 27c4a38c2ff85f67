"""The coalitions that LIME draws, and their weights: the `lime` package's draw, and one by importance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ml.explain.control_variates.covariance import Covariance
from ml.explain.estimator import BoolArray, FloatArray
from ml.explain.sampling.draws import DEFAULT_SAMPLES, GOLDEN, subset_counts

_EVENLY = 0.1
"""Share of the draws with a uniform size."""
_MAX_FOR_PRIOR = 128
"""Features: with more, the variances of a fit's coefficients would take a second and over 17 MB."""


def draw(features: int, samples: int, seed: int) -> Iterator[BoolArray]:
    """`samples` coalitions, bool [features] each, drawn one by one.

    The order of random numbers is the `lime` package's: all sizes first, then each sample's removed features.
    """
    # Seeds have 64 bits in the contract; those of 32 bits mean the same as in `lime`.
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
    """How often to draw each number of removed features, 0 to d, by importance.

    LIME draws sizes uniformly, and then gives most of them hardly any weight. Drawing a size more often, with lower
    weights to match, estimates the same. Samples of all sizes are about equally informative if sizes are drawn in
    proportion to kernel · √(share removed · share kept) (Neyman 1934). No coalition is drawn twice, so that small sizes
    are soon fully sampled.

    Attributes:
        probabilities: of 0 to d removed features, float64 [d + 1]; 0 for the whole prompt, which is always a sample.
        size_weights: the weight of all coalitions of each size together, in a fit to 1,000 samples; float64 [d + 1].
        counts: the number of coalitions of each size, float64 [d + 1].
    """

    probabilities: FloatArray
    size_weights: FloatArray
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
        """All coalitions in random order, bool [features] each: first the whole prompt, then by importance."""
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

    def weights(self, coalitions: BoolArray) -> FloatArray:
        """Weights of `coalitions` [n, features] in a fit, [n]: those of a size share its weight.

        The weight of a size without coalitions goes to the nearest size.
        """
        removed = (~coalitions).sum(axis=1)
        here = np.unique(removed)
        nearest = here[np.abs(np.arange(self.features + 1)[:, None] - here).argmin(axis=1)]
        size_weights = np.bincount(nearest, self.size_weights, self.features + 1)
        weights: FloatArray = (size_weights / np.maximum(np.bincount(removed, minlength=self.features + 1), 1))[removed]
        return weights


@dataclass(frozen=True)
class Coefficients:
    """The coefficients of the ridge of all coalitions: linear in a game's values, as `linear.Linear` asks."""

    sizes: Sizes
    alpha: float

    def chunks(self, rows: int) -> Iterator[Coefficients]:
        """See `linear.Linear`. There are only as many answers as features."""
        yield self

    def weights(self, coalitions: BoolArray) -> FloatArray:
        """See `linear.Linear`."""
        sizes = self.sizes
        present = coalitions.mean(axis=1, keepdims=True)
        design = (coalitions - present) / self._apart + (present - self._mean) / self._together
        weights: FloatArray = design * (sizes.size_weights / sizes.counts)[(~coalitions).sum(axis=1)][:, None]
        return weights

    def cross(self, covariance: Covariance, others: BoolArray) -> FloatArray:
        """See `linear.Linear`."""
        total, own = covariance.by_size(others, self.sizes.size_weights[::-1])
        together, apart = _parts(own - self._mean * total)
        additive, unlike = _parts(covariance.additive(others))  # which the penalty shrinks
        coefficients: FloatArray = together / self._together + additive * (1 - self.alpha / self._together)
        return coefficients + apart / self._apart + unlike * (1 - self.alpha / self._apart)

    @property
    def are_many(self) -> bool:
        """See `linear.Linear`."""
        return False

    def prior(self, covariance: Covariance) -> FloatArray | None:
        """See `linear.Linear`. It takes the third power of the number of features, and so not for very many."""
        features, counts = self.sizes.features, self.sizes.counts
        if features > _MAX_FOR_PRIOR:
            return None
        kept = 1 - np.arange(features + 1) / features
        size_weights = self.sizes.size_weights
        every = size_weights * ((kept - self._mean) / self._together - kept / self._apart)
        own = size_weights / self._apart
        squares = every**2 + kept * (2 * every * own + own**2)
        noise = covariance.noise * float((squares / counts).sum())
        variances = covariance.by_size_variance(every[::-1], own[::-1]) + noise
        # In the additive part, the penalty shrinks the mean over features by another factor than differences from it.
        additive, mine = covariance.additive_variance, 1 - self.alpha / self._apart
        every_other = (self.alpha / self._apart - self.alpha / self._together) / features
        variances += (mine**2 + 2 * mine * every_other) * additive + every_other**2 * additive.sum()
        return variances

    @cached_property
    def _mean(self) -> float:
        """The weighted share of coalitions that a feature is in."""
        kept = 1 - np.arange(self.sizes.features + 1) / self.sizes.features
        return float(np.average(kept, weights=self.sizes.size_weights))

    # The normal matrix of all coalitions has one number on its diagonal and another beside it, and so two eigenvalues:
    # one for the mean over features, and one for the differences from it.

    @cached_property
    def _together(self) -> float:
        d = self.sizes.features
        kept = d - np.arange(d + 1)
        return float(self.sizes.size_weights @ (kept - d * self._mean) ** 2) / d + self.alpha

    @cached_property
    def _apart(self) -> float:
        d = self.sizes.features
        removed = np.arange(d + 1)
        return float(self.sizes.size_weights @ (removed * (d - removed))) / (d * (d - 1)) + self.alpha


def _parts(each: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The mean of `each` [features, m] over features, [1, m], and the differences from it, [features, m]."""
    mean = each.mean(axis=0, keepdims=True)
    return mean, each - mean


def kernel(coalitions: BoolArray, width: float) -> FloatArray:
    """Weights of `coalitions` [n, features] by their cosine distance to the whole prompt, times 100. Returns [n]."""
    return _of_share(coalitions.mean(axis=1), width)


def _of_share(kept: FloatArray, width: float) -> FloatArray:
    distances = 100 * (1 - np.sqrt(kept))
    # A narrow kernel underflows, and half of the samples might all have a weight of 0.
    weights: FloatArray = np.maximum(np.sqrt(np.exp(-(distances**2) / width**2)), 1e-100)
    return weights
