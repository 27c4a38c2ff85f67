"""Control variates: what a fitted game explains of the model's values is not left to the draw of coalitions.

A Gaussian process is fitted to the values sampled so far (Rasmussen & Williams 2006, chapter 2). What a method answers
about the *fitted* game costs no evaluations, so it can be had from thousands of coalitions; that is Bayesian
quadrature (O'Hagan 1991), and its posterior deviations are the standard errors. To it comes the plain estimator's
answer about the residuals, each of a fit without its own sample (leave-one-out in closed form: ibid. 5.4.2), with a
weight that grows to 1 with the samples: so in the long run the answer is the plain estimator's, whatever the fit is
worth.

Language models' values are dominated by a few features and their interactions. So the kernel measures how much two
coalitions differ in what matters: exp(−Σ relevance of the features in which they differ), beside a linear one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ml.explain.estimator import BoolArray, FloatArray, IntArray

MOST = 1024
"""Samples that a process is fitted to: its cost grows with their third power."""
_NOISE = 0.003  # of the values' variance: what the kernel cannot tell
_LEAST = 0.01  # relevance of a feature that seems to have none
_SHARPNESS, _LINEAR = 0.7, 10.0  # of the kernel's two parts; found on WikiText prompts, and not critical
_FIRM = 20  # samples a feature that are as many as none for the residuals' weight
_GROUPS = 8  # of coalitions, whose answers' differences show what drawing them costs
_SOME = 1024  # coalitions for the posterior's variance, which compares each with each


@dataclass(frozen=True)
class Kernel:
    """How alike the values of two coalitions are expected to be.

    Attributes:
        relevance: of each feature, float64 [features]; the largest is 1.
        odd: whether for half of the difference between a coalition's value and its complement's.
    """

    relevance: FloatArray
    odd: bool = False

    @classmethod
    def of(cls, attributions: FloatArray, *, odd: bool = False) -> Kernel:
        """With first attributions, float64 [features], as the features' relevance."""
        sizes = np.abs(attributions)
        return cls(np.maximum(sizes / max(float(sizes.max()), 1e-300), _LEAST), odd)

    def __call__(self, one: BoolArray, other: BoolArray) -> FloatArray:
        """Between coalitions [n, features] and [m, features]. Returns [n, m]."""
        left, right = one * 2.0 - 1, other * 2.0 - 1
        relevance = _SHARPNESS * self.relevance
        products = (left * relevance) @ right.T  # Σ relevance, with a minus where the two differ
        total = relevance.sum()
        alike: FloatArray = np.exp((products - total) / 2)
        linear = _LINEAR * (left * self.relevance**2) @ right.T
        if self.odd:
            alike, linear = alike - np.exp((-products - total) / 2), 2 * linear
        alike += linear
        return alike


class Control:
    """A game fitted to samples of another, and what it makes of an estimator's linear answer.

    Attributes:
        residuals: what the fit leaves of each sample's value, found without that sample, float64 [n].
    """

    def __init__(self, kernel: Kernel, coalitions: BoolArray, values: FloatArray) -> None:
        """Fit to `values` [n] of `coalitions` [n, features]."""
        self._kernel = kernel
        self._known = coalitions[:MOST]
        fitted = values[:MOST]
        mean = 0.0 if kernel.odd else float(fitted.mean())
        self._scale = float(fitted.std()) or 1.0
        centred = (fitted - mean) / self._scale
        self._inverse = np.linalg.inv(kernel(self._known, self._known) + _NOISE * np.eye(len(fitted)))
        weights = self._inverse @ centred
        left = weights / np.diag(self._inverse)
        alone = weights - self._inverse @ left / len(left)  # the mean of the n fits that leave a sample out
        # The residuals' answer is as noisy as the plain estimator where samples are few, and only then needed little.
        self._share = len(values) / (len(values) + _FIRM * coalitions.shape[1])
        self._weights: FloatArray = self._scale * ((1 - self._share) * weights + self._share * alone)
        # Of the process, as each sample alone shows it: their mean is the most likely value (ibid. 5.4.1).
        self._variances: FloatArray = weights * left
        rest = values[MOST:] - mean - self._scale * kernel(coalitions[MOST:], self._known) @ alone
        self.residuals: FloatArray = np.concatenate([self._scale * left, rest])

    def estimate(
        self,
        many: BoolArray,
        project: Callable[[BoolArray], FloatArray],
        of_residuals: FloatArray,
        less: FloatArray | float = 0.0,
    ) -> tuple[FloatArray, FloatArray]:
        """The answer about the game that was sampled, and its standard errors: the posterior deviations.

        Args:
            many: coalitions drawn as the samples were, which cost no evaluations.
            project: from coalitions [m, features] to the matrix [m, features] that makes an answer of their values.
            of_residuals: the plain estimator's answer about `residuals`, float64 [features].
            less: what the answer is not to be about, taken off the values of `many`.
        """
        values = self._kernel(many, self._known) @ self._weights - less
        answer: FloatArray = values @ project(many) + self._share * of_residuals
        parts = [
            part @ project(group)
            for part, group in zip(np.array_split(values, _GROUPS), np.array_split(many, _GROUPS), strict=True)
        ]
        drawn = np.var(parts, axis=0, ddof=1) / _GROUPS  # for there might have been other coalitions than `many`
        some = many[:_SOME]
        rows = project(some)
        cross = rows.T @ self._kernel(some, self._known)
        before = np.einsum("mf,mf->f", rows, self._kernel(some, some) @ rows)
        known = np.einsum("fn,fn->f", cross @ self._inverse, cross)
        # The process varies more in some places than in others; what counts is where a feature's answer comes from.
        importance = project(self._known) ** 2  # [n, features]
        variances = self._variances @ importance / importance.sum(axis=0)
        deviations: FloatArray = np.sqrt(self._scale**2 * variances * np.maximum(before - known, 0.0) + drawn)
        return answer, deviations


def subsets(random: np.random.Generator, sizes: IntArray, features: int) -> BoolArray:
    """Coalitions of the given `sizes`, int64 [n], their members drawn evenly. Returns bool [n, features]."""
    ranks = random.random((len(sizes), features)).argsort(axis=1).argsort(axis=1)
    chosen: BoolArray = ranks < sizes[:, None]
    return chosen
