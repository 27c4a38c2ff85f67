"""Control variates: what a fitted game explains of the model's values is not left to the draw of coalitions.

A Gaussian process is fitted to the values sampled so far (Rasmussen & Williams 2006, chapter 2). What a method answers
about the *fitted* game costs no evaluations, so it can be had exactly or from thousands of coalitions; that is Bayesian
quadrature (O'Hagan 1991). To it comes the plain estimator's answer about the residuals, each of a fit without its own
sample (leave-one-out in closed form: ibid. 5.4.2), with a weight that grows to 1 with the samples: so in the long run
the answer is the plain estimator's, whatever the fit is worth. The standard errors are those of the plain estimator
about the residuals.

Language models' values are dominated by a few features and their interactions: what the process expects of two
coalitions says `ml.explain.covariance`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from ml.explain.covariance import Covariance, inverse_of
from ml.explain.estimator import BoolArray, FloatArray, IntArray

MOST = 1024
"""Samples that a process is fitted to: its cost grows with their third power."""
_FIRM = 60  # samples a feature that are as many as none for the residuals' weight
_AT_ONCE = 1024  # coalitions that are compared with those of the fit


Answer = tuple[FloatArray, FloatArray]
"""Attributions and their standard errors, float64 [features] each."""


class Linear(Protocol):
    """Answers that are linear in a game's values: Σ weight · v over all coalitions.

    Attributes:
        squares: Σ of squared weights over all coalitions, the same for each answer.
    """

    @property
    def squares(self) -> float: ...

    def weights(self, coalitions: BoolArray) -> FloatArray:
        """What `coalitions` [n, features] count for, [n, answers]."""
        ...

    def cross(self, covariance: Covariance, others: BoolArray) -> FloatArray:
        """The answers about the games k(·, t), t in `others` [m, features]. Returns [answers, m]."""
        ...

    def variances(self, covariance: Covariance) -> FloatArray:
        """The answers' variances over the games drawn from the process, [answers]."""
        ...


class Control:
    """A game fitted to samples of another, and what it makes of an estimator's linear answer.

    Attributes:
        residuals: what the fit leaves of each sample's value, found without that sample, float64 [n].
    """

    def __init__(self, first: FloatArray, coalitions: BoolArray, values: FloatArray, most: int = MOST) -> None:
        """Fit to `values` [n] of `coalitions` [n, features], the first `most` of them.

        `first` attributions [features] tell what matters.
        """
        self._known = coalitions[:most]
        mean = float(values[:most].mean())
        centred = values[:most] - mean
        largest = float(np.abs(centred).max()) or 1.0  # squares of the smallest probabilities would be 0
        self._scale = largest * (float((centred / largest).std()) or 1.0)
        centred = centred / self._scale
        self._covariance = Covariance.of(first).fitted(self._known, centred)
        matrix = self._covariance(self._known, self._known)
        self._inverse, _ = inverse_of(matrix + self._covariance.noise * np.eye(len(centred)))
        weights = self._inverse @ centred
        self._whole: FloatArray = self._scale * weights
        left = weights / np.diag(self._inverse)
        alone = weights - self._inverse @ left / len(left)  # the mean of the n fits that leave a sample out
        # The residuals' answer is as noisy as the plain estimator where samples are few, and only then needed little.
        self._share = len(values) / (len(values) + _FIRM * coalitions.shape[1])
        self._weights: FloatArray = self._scale * ((1 - self._share) * weights + self._share * alone)
        # Of the process, as each sample alone shows it: their mean is the most likely value (ibid. 5.4.1).
        # A parameter that was fitted takes a sample, as in a regression.
        many = len(centred)
        self._variances: FloatArray = weights * left * many / max(1, many - self._covariance.parameters)
        rest = values[most:] - mean - self._scale * self._expected(coalitions[most:], alone)
        self.residuals: FloatArray = np.concatenate([self._scale * left, rest])

    def estimate(
        self,
        many: Sequence[BoolArray],
        project: Callable[[BoolArray], FloatArray],
        residual: Answer,
        *,
        exact: bool = False,
    ) -> Answer:
        """The answer about the game that was sampled.

        Args:
            many: groups of coalitions drawn as the samples were, which cost no evaluations.
            project: from coalitions [m, features] to the matrix [m, features] that makes an answer of their values.
            residual: the plain estimator's answer about `residuals`.
            exact: whether `many` are all coalitions, so that the answer about the fitted game is not left to a draw.
        """
        values = [self._expected(group, self._weights) for group in many]
        attributions = np.concatenate(values) @ project(np.concatenate(many))
        drawn = np.zeros(len(attributions))
        if not exact:  # there might have been other coalitions
            parts = [value @ project(group) for value, group in zip(values, many, strict=True)]
            drawn = np.var(parts, axis=0, ddof=1) / len(parts)
        answer, errors = self._together(attributions, residual)
        return answer, np.sqrt(errors**2 + drawn)

    def shapley(self, residual: Answer) -> Answer:
        """Shapley values of the game that was sampled; the fitted one's are exact. `residual` as in `estimate`."""
        return self._together(self._covariance.shapley(self._known) @ self._weights, residual)

    def posterior(self, linear: Linear) -> Answer:
        """What the fit says of the game that was sampled, exact where all coalitions are: values and their variances.

        What the process cannot tell is taken for part of the game, independent from coalition to coalition. So every
        sample counts as itself, and only the coalitions that were not sampled leave anything open.
        """
        noise = self._covariance.noise
        cross = linear.cross(self._covariance, self._known) + noise * linear.weights(self._known).T
        before = linear.variances(self._covariance) + noise * linear.squares
        known = np.einsum("an,an->a", cross @ self._inverse, cross)
        variances = self._scale**2 * float(self._variances.mean()) * np.maximum(before - known, 0.0)
        return cross @ self._whole, variances

    def corrected(self, posterior: Answer, residual: Answer) -> Answer:
        """The posterior with as much of the residuals' answer as shows to be more than noise.

        That share, the same for all answers, is the one with the least squared error (James & Stein 1961): next to
        nothing where the fit is good, and in the long run all, whatever the fit is worth.

        Args:
            posterior: values and variances of `posterior`, [answers] each.
            residual: the plain estimator's values about `residuals`, and their variances.

        Returns:
            The answers and their standard errors.
        """
        values, variances = posterior
        rest, noise = residual
        seen = float((rest**2).mean()) or 1e-300
        share = max(0.0, 1 - float(noise.mean()) / seen)
        # Where residuals add up to more than the fit admits to, it is surer of itself than it should be.
        admitted = float((variances + noise).mean())
        variances = variances * (max(1.0, seen / admitted) if admitted else 1.0)
        errors = np.sqrt(variances)
        doubt = max(share, self._share)  # the part of it that is not left to the process' own assumptions
        return values + share * rest, (1 - doubt) * errors + doubt * np.sqrt(variances + noise)

    def _expected(self, coalitions: BoolArray, weights: FloatArray) -> FloatArray:
        """What a fit, as weights of the samples it knows, expects of `coalitions` [n, features], [n]."""
        parts = np.array_split(coalitions, 1 + len(coalitions) // _AT_ONCE)
        return np.concatenate([self._covariance(part, self._known) @ weights for part in parts])

    def _together(self, attributions: FloatArray, residual: Answer) -> Answer:
        """With what the fit leaves, and the error of the plain estimator about that.

        The residuals are those of fits without their own sample: as far off as the fit is at coalitions that were not
        sampled. What the process itself holds possible is no measure of it, as no game is drawn from one. A parameter
        that was fitted takes a sample, as in a regression.
        """
        rest, errors = residual
        many = len(self._known)
        factor = math.sqrt(many / max(1, many - self._covariance.parameters))
        return attributions + self._share * rest, factor * errors


def subsets(random: np.random.Generator, sizes: IntArray, features: int) -> BoolArray:
    """Coalitions of the given `sizes`, int64 [n], their members drawn evenly. Returns bool [n, features]."""
    ranks = random.random((len(sizes), features)).argsort(axis=1).argsort(axis=1)
    chosen: BoolArray = ranks < sizes[:, None]
    return chosen
