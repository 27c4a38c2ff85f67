"""The covariance function of a Gaussian process over a game: how similar the values of two coalitions are.

With a coalition as signs sᵢ (1 for present, −1 for absent) and a relevance rᵢ of each feature:

    k(s, t) = constant + linear Σ rᵢ² sᵢ tᵢ + g(s) g(t) (exp(−D) + far exp(−3 D)),    D = sharpness Σ rᵢ [sᵢ ≠ tᵢ].

The second term is an additive game. The third covers all interactions, and decays with the relevance of the features
that differ; g(s) = exp(growth · mean of s, weighted by relevance) lets values vary more where many features are
present, or where few are. The parameters maximize the posterior of the sampled values, under a prior around what a
first answer and common prompts suggest (automatic relevance determination: Neal 1996; Rasmussen & Williams 2006, 5.1
and 5.4.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotri
from scipy.optimize import minimize

from ml.explain.control_variates import product_games
from ml.explain.estimator import BoolArray, FloatArray, IntArray

SHARPNESS = 0.7
_CONSTANT = 10.0  # a variance so large that the mean is free
_MIN_RELEVANCE = 0.01
_STEPS = 8
_MAX_CHANGE = 3.0  # from the prior, in logarithms: without noise, as in an exact game, the matrix has no inverse
MAX_SAMPLES = 256
"""The most samples that the parameters are fitted to: each step costs their third power."""
_FIRST_PER_FEATURE = 8


@dataclass(frozen=True)
class Covariance:
    """The covariance function of the module's docstring, for values with a variance of about 1.

    Attributes:
        relevance: of each feature, float64 [features].
        balance: the weights of the features in the mean of g, float64 [features], sum 1.
        linear, far, growth: as in the formula.
        noise: variance of what the process cannot explain.
    """

    relevance: FloatArray
    balance: FloatArray
    linear: float = 5.0
    far: float = 0.15
    growth: float = 0.0
    noise: float = 0.002

    @classmethod
    def of(cls, attributions: FloatArray) -> Covariance:
        """With the sizes of first attributions, float64 [features], as relevance; the largest is 1."""
        sizes = np.abs(attributions)
        relevance = np.maximum(sizes / max(float(sizes.max()), 1e-300), _MIN_RELEVANCE)
        return cls(relevance, relevance / relevance.sum())

    @property
    def parameters(self) -> int:
        """The number of parameters that `fitted` fits."""
        return len(self.relevance) + 4

    @staticmethod
    def first_samples(features: int) -> int:
        """How many of the first samples to compute first attributions from.

        Not all of them, so that the parameters do not change as samples are added.
        """
        return max(MAX_SAMPLES, _FIRST_PER_FEATURE * features)

    def __call__(self, one: BoolArray, other: BoolArray) -> FloatArray:
        """Between coalitions [n, features] and [m, features]. Returns [n, m]."""
        left, right = _signs(one), _signs(other)
        varying = self._interactions(self._near(left, right))
        varying *= self._swing(left)[:, None]
        varying *= self._swing(right)
        covariance: FloatArray = varying + self.linear * (left * self.relevance**2) @ right.T + _CONSTANT
        return covariance

    def of_samples(self, coalitions: BoolArray) -> FloatArray:
        """Between samples of `coalitions` [n, features], with noise. Returns [n, n]."""
        covariance = self(coalitions, coalitions)
        covariance.flat[:: len(coalitions) + 1] += self.noise
        return covariance

    def shapley(self, others: BoolArray) -> FloatArray:
        """Shapley values of the games k(·, t), t in `others` [m, features]. Returns [features, m]."""
        values = self.additive(others)
        for factors, scale in self._products():
            values += scale * product_games.shapley(*_given(factors, others)).T
        return values

    def interactions(self, others: BoolArray, pairs: IntArray) -> FloatArray:
        """Shapley interaction indices of `pairs`, int64 [2, pairs] in ascending order, as `shapley`.

        Returns [pairs, m].
        """
        values = np.zeros((len(others), pairs.shape[1]))
        for factors, scale in self._products():
            values += scale * product_games.interactions(*_given(factors, others), pairs)
        return values.T

    def additive(self, others: BoolArray) -> FloatArray:
        """What each feature adds in the additive part of the games k(·, t), t in `others` [m, features].

        Returns [features, m].
        """
        effects: FloatArray = (2 * self.linear * self.relevance**2 * _signs(others)).T
        return effects

    def by_size(self, others: BoolArray, size_weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Sums over all coalitions of the interactions of the games k(·, t); see `product_games.by_size`.

        Returns the sums over all coalitions, [m], and over those with each feature, [features, m].
        """
        total, own = np.zeros(len(others)), np.zeros(others.shape)
        for factors, scale in self._products():
            each, each_own = product_games.by_size(*_given(factors, others), size_weights)
            total += scale * each
            own += scale * each_own
        return total, own.T

    def shapley_variance(self) -> FloatArray:
        """Variances of the Shapley values of a game drawn from the process, float64 [features]."""
        return self._variance(product_games.shapley_twice) + self.additive_variance

    def interactions_variance(self, pairs: IntArray) -> FloatArray:
        """Variances of the interaction indices of a game drawn from the process, float64 [pairs]."""
        return self._variance(lambda factors: product_games.interactions_twice(factors, pairs))

    def by_size_variance(self, every: FloatArray, own: FloatArray) -> FloatArray:
        """Variances of sums over the interactions of a game, [features]; see `product_games.by_size_twice`."""
        return self._variance(lambda factors: product_games.by_size_twice(factors, every, own))

    @property
    def additive_variance(self) -> FloatArray:
        """Variances of what each feature adds in the additive part of a game, float64 [features]."""
        return np.asarray(4 * self.linear * self.relevance**2)

    def _variance(self, of_product: Callable[[FloatArray], FloatArray]) -> FloatArray:
        """The variances of answers for the interactions of a game, from those `of_product`s of factors."""
        variances: FloatArray = np.sum([scale * of_product(factors) for factors, scale in self._products()], axis=0)
        return variances

    def _products(self) -> Iterator[tuple[FloatArray, float]]:
        """The two terms of the interactions: products of factors [features, 2, 2] by sᵢ and tᵢ, and their scales."""
        swing = np.exp(self.growth * np.multiply.outer(self.balance, [[-2.0, 0.0], [0.0, 2.0]]))
        for sharpness, scale in ((SHARPNESS, 1.0), (3 * SHARPNESS, self.far)):
            differing = np.exp(-sharpness * self.relevance)[:, None, None] * [[0, 1], [1, 0]] + np.eye(2)
            yield swing * differing, scale

    def fitted(self, coalitions: BoolArray, values: FloatArray) -> Covariance:
        """The likeliest covariance for `values` [n] of `coalitions` [n, features], with this one as the prior."""
        coalitions, values = coalitions[:MAX_SAMPLES], values[:MAX_SAMPLES]
        if not values.any():
            return self  # there is nothing to fit
        return self._changed(_likeliest(_Samples(self, coalitions, values)))

    def _near(self, left: FloatArray, right: FloatArray) -> FloatArray:
        weights = SHARPNESS * self.relevance
        near: FloatArray = np.exp(((left * weights) @ right.T - weights.sum()) / 2)
        return near

    def _interactions(self, near: FloatArray) -> FloatArray:
        interactions = near * near  # a power takes twenty times as long
        interactions *= self.far
        interactions += 1
        interactions *= near
        return interactions

    def _swing(self, signs: FloatArray) -> FloatArray:
        swing: FloatArray = np.exp(self.growth * (signs @ self.balance))
        return swing

    def _changed(self, changes: FloatArray) -> Covariance:
        """The covariance with `changes` added to the logarithms of its parameters, and to growth itself."""
        linear, far, noise = np.exp(changes[-4:-1])
        return replace(
            self,
            relevance=self.relevance * np.exp(changes[:-4]),
            linear=self.linear * linear,
            far=self.far * far,
            noise=self.noise * noise,
            growth=self.growth + changes[-1],
        )

    def _misfit(self, signs: FloatArray, values: FloatArray, changes: FloatArray) -> tuple[float, FloatArray]:
        """−log of likelihood (at the likeliest scale) and prior of `changes`, and its gradient."""
        swing, middle = self._swing(signs), signs @ self.balance
        near = self._near(signs, signs)
        varying = self._interactions(near)
        far = (varying - near) * (scale := swing[:, None] * swing)
        varying *= scale
        products = (signs * self.relevance**2) @ signs.T
        matrix = varying + self.linear * products + _CONSTANT
        matrix.flat[:: len(values) + 1] += self.noise
        inverse, logarithm = inverse_of(matrix)
        weights = inverse @ values
        variance = float(values @ weights) / len(values)
        misfit = 0.5 * (len(values) * np.log(variance) + logarithm + changes @ changes)

        slope = (inverse - np.outer(weights, weights) / variance) / 2  # of the misfit by the matrix
        differing = slope * (varying + 2 * far)  # and by −D
        apart = (differing.sum() - np.einsum("nf,nf->f", signs, differing @ signs)) / 2  # Σ where i differs
        together = np.einsum("nf,nf->f", signs, slope @ signs)
        gradient = np.concatenate(
            [
                2 * self.linear * self.relevance**2 * together - SHARPNESS * self.relevance * apart,
                [
                    self.linear * float((slope * products).sum()),
                    float((slope * far).sum()),
                    self.noise * float(np.trace(slope)),
                    2 * float(middle @ (slope * varying).sum(axis=1)),
                ],
            ]
        )
        return float(misfit), gradient + changes


@dataclass(frozen=True, eq=False)
class _Samples:
    """A prior and the samples to fit it to, as a key of the cache: equal if all numbers are."""

    prior: Covariance
    coalitions: BoolArray
    values: FloatArray

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Samples) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[bytes, ...]:
        prior = self.prior
        others = np.array([prior.linear, prior.far, prior.growth, prior.noise])
        numbers = (prior.relevance, prior.balance, others, np.packbits(self.coalitions), self.values)
        return tuple(each.tobytes() for each in numbers)


@lru_cache(maxsize=8)
def _likeliest(samples: _Samples) -> FloatArray:
    """The likeliest changes of the prior. Cached, as successive estimates have the same first samples."""
    prior, signs = samples.prior, _signs(samples.coalitions)
    found = minimize(
        lambda changes: prior._changed(changes)._misfit(signs, samples.values, changes),
        np.zeros(prior.parameters),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-_MAX_CHANGE, _MAX_CHANGE)] * prior.parameters,
        options={"maxiter": _STEPS},
    )
    changes: FloatArray = found.x
    return changes


def _given(factors: FloatArray, others: BoolArray) -> tuple[FloatArray, FloatArray]:
    """The games k(·, t) of a product with `factors` [features, 2, 2], t in `others` [m, features].

    Returns the factors of present and of absent features, [m, features] each.
    """
    absent, present = (np.where(others, factors[:, s, 1], factors[:, s, 0]) for s in (0, 1))
    return present, absent


def _signs(coalitions: BoolArray) -> FloatArray:
    signs: FloatArray = np.where(coalitions, 1.0, -1.0)
    return signs


def inverse_of(matrix: FloatArray) -> tuple[FloatArray, float]:
    """The inverse of a symmetric positive definite matrix, and the logarithm of its determinant."""
    factor, failed = dpotrf(matrix, lower=True)
    if failed:
        raise np.linalg.LinAlgError("the covariance is not positive definite")
    logarithm = 2 * float(np.log(np.diag(factor)).sum())
    inverse: FloatArray = dpotri(factor, lower=True, overwrite_c=True)[0]  # the upper half is 0, as in the factor
    inverse += inverse.T
    inverse.flat[:: len(inverse) + 1] /= 2
    return inverse, logarithm
