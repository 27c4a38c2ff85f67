"""Interpretable models fitted to weighted samples of a game: ridge, lasso, decision tree.

Each model is made for some samples and weights, and can then be fitted to the values of any game at these samples. The
fits are those of scikit-learn's models with `sample_weight`; the ridge is solved here, as the same factorization gives
its standard errors.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ml.explain.estimator import FloatArray, IntArray
from ml.explain.sampling.errors import PULL_OF_STRATA, deviation, free, moderated, root_sum_of_squares
from ml.result import SurrogateFit, TreeNode
from ml.spec import SurrogateKind

if TYPE_CHECKING:  # scikit-learn takes a second to import, which checking a spec or fitting a ridge need not wait for
    from sklearn import tree

_RESAMPLES = 40
_PRIOR_FREEDOM = 4
"""The weight of the mean variance of all features beside a feature's own, in resamples."""
_NO_PENALTY = 1e-9
"""Penalties below this one count as none."""
_TOLERANCE = 1e-4
"""How much of the sum of squares a lasso's coordinate descent may miss: scikit-learn's default."""
_EXACT_TOLERANCE = 1e-12
"""The same for all coalitions, as that answer is called exact: with the other, coefficients were off by up to 0.004."""
_NEGLIGIBLE = 1e-12
"""The part of the largest weight below which a sample is left out of a tree: it hardly moves any mean."""
_ROUNDING = 1e-12
"""Values whose relative difference is smaller are equal."""

Spread = Callable[[FloatArray], FloatArray]
"""From each sample's influence on the coefficients, [n, features], to the standard errors [features] of their sum."""


@dataclass(frozen=True)
class Fit:
    """A fitted surrogate: attributions and their standard errors, float64 [features], and its description.

    Attributes:
        freedom: degrees of freedom of the standard errors, infinite where they are as good as known.
        surprise, missed_in: see `Estimate`.
    """

    attributions: FloatArray
    standard_errors: FloatArray
    surrogate: SurrogateFit
    freedom: float = np.inf
    surprise: float = 0.0
    missed_in: float = np.inf


class Fitter(Protocol):
    """A model for some samples and weights, to be fitted to values."""

    def __call__(self, values: FloatArray, *, errors: bool = True) -> Fit:
        """Fit to `values` [n]. Without `errors` the standard errors, which may cost more than the fit, are infinite."""
        ...


def r_squared(values: FloatArray, predicted: FloatArray, weights: FloatArray) -> float:
    """The weighted coefficient of determination: 1 for constant values met exactly, 0 for those missed."""
    largest = float(np.abs(values).max()) or 1.0
    values, predicted = values / largest, predicted / largest  # squares of tiny ones would underflow
    residual = float(weights @ (values - predicted) ** 2)
    total = float(weights @ (values - np.average(values, weights=weights)) ** 2)
    rounding = _ROUNDING**2 * float(weights @ values**2)
    if total <= rounding:
        return 1.0 if residual <= rounding else 0.0
    return 1 - residual / total


class Ridge:
    """Weighted ridge regression with an unpenalized intercept, and standard errors that assume no error model.

    With Z the samples and y the values, centred and scaled by √w, the coefficients are β = G y, G = (Z'Z + αI)⁻¹ Z'.
    Their covariance is the sandwich (White 1980): that of Σᵢ gᵢ rᵢ / fᵢ where gᵢ is a column of G, rᵢ a residual, and
    fᵢ what `errors.free` makes of leverages. It holds whether or not the game is linear: the game has no noise, so all
    of the error comes from the draw of coalitions. The mean of the terms is subtracted: it does not vary, as the
    penalty and the fixed samples balance it.

    G is computed once and serves any values at these samples.
    """

    def __init__(
        self,
        alpha: float,
        samples: FloatArray,
        weights: FloatArray,
        *,
        fixed: int = 0,
        spread: Spread | None = None,
    ) -> None:
        """Prepare to fit `samples` [n, features] of 0 and 1 with `weights` [n] above 0.

        Args:
            fixed: how many of the first samples are the same in every draw.
            spread: the standard errors where samples are drawn from strata.
        """
        self._samples, self._weights, self._fixed, self._spread = samples, weights, fixed, spread
        self._scale = np.sqrt(weights)
        self._centre = np.average(samples, axis=0, weights=weights)
        self._z = (samples - self._centre) * self._scale[:, None]  # [n, features]
        self._projector = _projector(self._z, alpha)  # [features, n]

    def __call__(self, values: FloatArray, *, errors: bool = True) -> Fit:
        """See `Fitter`."""
        mean = float(np.average(values, weights=self._weights))
        y = (values - mean) * self._scale
        coefficients = self._projector @ y
        intercept = mean - float(self._centre @ coefficients)
        fit = SurrogateFit(
            kind=SurrogateKind.RIDGE,
            r_squared=r_squared(values, intercept + self._samples @ coefficients, self._weights),
            intercept=intercept,
        )
        if not errors:
            return Fit(coefficients, _unknown(coefficients), fit)
        influences = (self._projector * ((y - self._z @ coefficients) / self._free)).T
        standard_errors = self._spread(influences) if self._spread else _independent(influences[self._fixed :])
        return Fit(coefficients, standard_errors, fit)

    @cached_property
    def _free(self) -> FloatArray:
        """What residuals are divided by, [n]; see `errors.free`."""
        samples, features = self._z.shape
        pull = PULL_OF_STRATA if self._spread and samples > features + 1 else 1.0
        return free(np.einsum("nf,fn->n", self._z, self._projector) + self._weights / self._weights.sum(), pull)


def _independent(influences: FloatArray) -> FloatArray:
    """Standard errors [features] of the sum of independent draws `influences` [n, features]."""
    if len(influences) > 1:  # a single draw does not show its mean: all of it counts
        influences = influences - influences.mean(axis=0)
    return root_sum_of_squares(influences)


def _projector(z: FloatArray, alpha: float) -> FloatArray:
    """(Z'Z + αI)⁻¹ Z', by the smaller of the two equivalent systems; for α near 0 the pseudo-inverse."""
    n, features = z.shape
    if alpha < _NO_PENALTY:  # the systems may then be singular
        return np.asarray(np.linalg.pinv(z), dtype=np.float64)
    if features <= n:
        return np.asarray(np.linalg.solve(z.T @ z + alpha * np.eye(features), z.T), dtype=np.float64)
    return np.asarray(np.linalg.solve(z @ z.T + alpha * np.eye(n), z).T, dtype=np.float64)


@dataclass(frozen=True)
class Lasso:
    """Weighted lasso (Tibshirani 1996) with an intercept; standard errors by the bootstrap.

    Attributes:
        is_exact: whether the samples are all coalitions, so that the answer has to be exact.
    """

    alpha: float
    samples: FloatArray
    weights: FloatArray
    fixed: int = 0
    is_exact: bool = False

    def __call__(self, values: FloatArray, *, errors: bool = True) -> Fit:
        """See `Fitter`."""
        if self.alpha < _NO_PENALTY:  # coordinate descent would not converge
            fit = Ridge(0, self.samples, self.weights, fixed=self.fixed)(values, errors=errors)
            return replace(fit, surrogate=replace(fit.surrogate, kind=SurrogateKind.LASSO))
        coefficients, intercept = self._solve(values, slice(None), self.weights)
        explained = r_squared(values, intercept + self.samples @ coefficients, self.weights)
        fit = Fit(coefficients, _unknown(coefficients), SurrogateFit(SurrogateKind.LASSO, explained, intercept))
        if not errors:
            return fit
        return _with_errors(fit, lambda *some: self._solve(values, *some)[0], self.weights, self.fixed)

    def _solve(self, values: FloatArray, rows: slice | IntArray, weights: FloatArray) -> tuple[FloatArray, float]:
        """Coefficients and intercept, as `sklearn.linear_model.Lasso` finds them.

        That class takes several times as long, to check and prepare its arguments.
        """
        from sklearn import linear_model  # noqa: PLC0415
        from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415

        samples, values, weights = self.samples[rows], values[rows], weights[rows] / weights[rows].mean()
        centre, mean, scale = weights @ samples / len(weights), weights @ values / len(weights), np.sqrt(weights)
        z, y = np.asfortranarray((samples - centre) * scale[:, None]), (values - mean) * scale
        tolerance = _EXACT_TOLERANCE if self.is_exact else _TOLERANCE
        with warnings.catch_warnings(), _unchecked():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a few samples may be fitted without error
            _, path, _ = linear_model.lasso_path(
                z, y, alphas=[self.alpha], precompute=False, check_input=False, tol=tolerance
            )
        coefficients: FloatArray = path[:, 0]
        return coefficients, float(mean - centre @ coefficients)


@dataclass(frozen=True)
class DecisionTree:
    """A weighted regression tree (CART; Breiman et al. 1984) of at most `depth` levels.

    An attribution is the feature's share of the impurity that the tree takes away (they sum to 1 in absolute value),
    with the sign of its mean effect: the weighted mean value where it is present, minus that where it is absent.
    Standard errors by the bootstrap.
    """

    depth: int
    samples: FloatArray
    weights: FloatArray
    fixed: int = 0

    def __call__(self, values: FloatArray, *, errors: bool = True) -> Fit:
        """See `Fitter`."""
        model, attributions = self._solve(values, slice(None), self.weights)
        description = SurrogateFit(
            kind=SurrogateKind.DECISION_TREE,
            r_squared=r_squared(values, model.predict(self.samples), self.weights),
            nodes=_nodes(model),
        )
        fit = Fit(attributions, _unknown(attributions), description)
        if not errors:
            return fit
        return _with_errors(fit, lambda *some: self._solve(values, *some)[1], self.weights, self.fixed)

    def _solve(
        self, values: FloatArray, rows: slice | IntArray, weights: FloatArray
    ) -> tuple[tree.DecisionTreeRegressor, FloatArray]:
        from sklearn import tree  # noqa: PLC0415

        samples, values, weights = self.samples[rows], values[rows], weights[rows]
        # A node's sums are those of its parent less the other node's: of tiny weights, nothing but rounding is left.
        heavy = weights >= _NEGLIGIBLE * weights.max()
        samples, values, weights = samples[heavy], values[heavy], weights[heavy]
        # scikit-learn takes variances below 2e-16 for none, and probabilities may differ by less than their root.
        mean = values.mean()
        scale = np.abs(values - mean).max() or 1.0
        with _unchecked():
            model = tree.DecisionTreeRegressor(max_depth=self.depth, random_state=0)  # ties are always broken alike
            model.fit(samples.astype(np.float32), (values - mean) / scale, sample_weight=weights, check_input=False)
        model.tree_.value[:] = mean + scale * model.tree_.value
        if np.ptp(values) <= _ROUNDING * np.abs(values).max():  # the values differ by rounding only
            return model, np.zeros(samples.shape[1])
        return model, model.feature_importances_ * np.sign(_mean_effects(samples, values, weights))


def _mean_effects(samples: FloatArray, values: FloatArray, weights: FloatArray) -> FloatArray:
    present, absent = samples.T * weights, (1 - samples).T * weights  # [features, n]
    with np.errstate(invalid="ignore", divide="ignore"):
        effects: FloatArray = present @ values / present.sum(axis=1) - absent @ values / absent.sum(axis=1)
    return np.nan_to_num(effects)  # a feature that is always present, or never, shows no effect


def _nodes(model: tree.DecisionTreeRegressor) -> tuple[TreeNode, ...]:
    inner = model.tree_
    return tuple(
        # scikit-learn goes left where a feature is at most 0.5, that is absent; a leaf has a negative left child.
        TreeNode(value, samples) if left < 0 else TreeNode(value, samples, feature, left, right)
        for feature, left, right, value, samples in zip(
            inner.feature.tolist(),
            inner.children_left.tolist(),
            inner.children_right.tolist(),
            inner.value[:, 0, 0].tolist(),
            inner.n_node_samples.tolist(),
            strict=True,
        )
    )


def _unchecked() -> AbstractContextManager[None]:
    """Within, scikit-learn trusts its arguments: to check them takes as long as a small fit."""
    from sklearn import config_context  # noqa: PLC0415

    context: AbstractContextManager[None] = config_context(assume_finite=True, skip_parameter_validation=True)
    return context


def _unknown(coefficients: FloatArray) -> FloatArray:
    return np.full(coefficients.shape, np.inf)


def _with_errors(
    fit: Fit, statistic: Callable[[IntArray, FloatArray], FloatArray], weights: FloatArray, fixed: int
) -> Fit:
    """`fit` with standard errors from the bootstrap (Efron 1979), in which the first `fixed` samples are always kept.

    The jackknife would not do: leaving out one sample hardly ever changes a split or the choice of features, as another
    draw does (Shao & Wu 1989).

    A tree splits on a feature that hardly matters in few resamples, and a lasso drops it: it then looks more certain
    than it is. So errors are moderated.

    Args:
        statistic: the attributions, from the indices of the samples to use and the weights [n] of all.
        weights: of the samples, [n].
    """
    fixed = fixed if len(weights) - fixed > 1 else 0  # one draw alone does not show how others would differ
    drawn = len(weights) - fixed
    random = np.random.default_rng(0)  # equal samples have equal errors

    def again() -> FloatArray:
        often = np.concatenate([np.ones(fixed), np.bincount(random.integers(drawn, size=drawn), minlength=drawn)])
        return statistic(np.flatnonzero(often), weights * often)

    found = np.array([again() for _ in range(_RESAMPLES)])
    # A resample varies less than the sample did, by a factor that matters where samples are few.
    own = deviation(found) * np.sqrt(drawn / max(1, drawn - 1))
    standard_errors, freedom = moderated(own, np.full(len(own), _RESAMPLES - 1.0), _PRIOR_FREEDOM)
    return replace(fit, standard_errors=standard_errors, freedom=freedom)
