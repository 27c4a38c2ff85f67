"""Interpretable models fitted to weighted samples of a game: ridge, lasso, decision tree.

Each fit is the one of scikit-learn under the same name, with `sample_weight`; the ridge is solved here, as its standard
errors come out of the same factorization.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ml.explain.estimator import FloatArray, IntArray
from ml.result import SurrogateFit, TreeNode
from ml.spec import SurrogateKind

if TYPE_CHECKING:  # scikit-learn takes a second to import: who checks a spec or fits a ridge need not wait for it
    from sklearn.linear_model import Lasso
    from sklearn.tree import DecisionTreeRegressor

_RESAMPLES = 40
_NO_PENALTY = 1e-9
_ROUNDING = 1e-12  # values that differ by less than this part of them are equal


Spread = Callable[[FloatArray], FloatArray]
"""From what each sample pulls the coefficients by, [n, features], to the standard errors [features] of their sum."""


@dataclass(frozen=True)
class Fit:
    """A fitted surrogate: attributions and their standard errors, float64 [features], and its description.

    Attributes:
        freedom: degrees of freedom of the standard errors, infinite where there are plenty.
    """

    attributions: FloatArray
    standard_errors: FloatArray
    surrogate: SurrogateFit
    freedom: float = np.inf


class Fitting(Protocol):
    """A surrogate that is ready to be fitted: its samples and their weights are settled."""

    def __call__(self, values: FloatArray, *, errors: bool = True) -> Fit:
        """Fit it to `values` [n]. Without `errors` the standard errors, which may cost more, are left infinite."""
        ...


class Surrogate(Protocol):
    """An interpretable model with its parameters."""

    def __call__(
        self, samples: FloatArray, values: FloatArray, weights: FloatArray, *, errors: bool = True, fixed: int = 0
    ) -> Fit:
        """Fit `samples` [n, features] of 0 and 1 to `values` [n] with `weights` [n] above 0.

        Without `errors` the standard errors, which may cost more than the fit, are left infinite. The first `fixed`
        samples are the same in every draw, and so no part of what a draw leaves to chance.
        """
        ...


def r_squared(values: FloatArray, predicted: FloatArray, weights: FloatArray) -> float:
    """The weighted coefficient of determination: 1 for constant values met exactly, 0 for those missed."""
    residual = float(weights @ (values - predicted) ** 2)
    total = float(weights @ (values - np.average(values, weights=weights)) ** 2)
    rounding = _ROUNDING**2 * float(weights @ values**2)
    if total <= rounding:
        return 1.0 if residual <= rounding else 0.0
    return 1 - residual / total


class Ridge:
    """Weighted ridge regression with an unpenalized intercept, and standard errors that trust no error model.

    With Z the samples and y the values, centred and scaled by √w, the coefficients are β = G y, G = (Z'Z + αI)⁻¹ Z'.
    Their covariance is the sandwich (White 1980) in its HC2 form (MacKinnon & White 1985): that of Σᵢ gᵢ rᵢ / √(1 − hᵢ)
    where gᵢ is a column of G, rᵢ a residual and hᵢ a leverage. It holds for random masks whether or not the game is
    linear; the game itself has no noise, so all of the error is in the draw of the masks. Of the terms their mean is
    taken off: the penalty and the fixed samples hold against it, and it is no part of what varies.

    G is found once, and serves the values of any game of these samples.
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
            spread: the standard errors of the sum of such terms, where samples are not drawn independently.
        """
        self._samples, self._weights, self._fixed, self._spread = samples, weights, fixed, spread
        self._scale = np.sqrt(weights)
        self._centre = np.average(samples, axis=0, weights=weights)
        self._z = (samples - self._centre) * self._scale[:, None]  # [n, features]
        self._projector = _projector(self._z, alpha)  # [features, n]

    def __call__(self, values: FloatArray, *, errors: bool = True) -> Fit:
        """The fit to `values` [n]; without `errors`, those are left infinite."""
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
        pulls = (self._projector * ((y - self._z @ coefficients) / self._free)).T
        standard_errors = self._spread(pulls) if self._spread else _independent(pulls[self._fixed :])
        return Fit(coefficients, standard_errors, fit)

    @cached_property
    def _free(self) -> FloatArray:
        """What a residual is divided by, √(1 − h), [n]."""
        leverage = np.einsum("nf,fn->n", self._z, self._projector) + self._weights / self._weights.sum()
        # A sample that the fit must pass through says nothing about its own error; keep its term finite.
        free: FloatArray = np.sqrt(np.maximum(1 - leverage, 1e-6))
        return free


def ridge(
    alpha: float,
    samples: FloatArray,
    values: FloatArray,
    weights: FloatArray,
    *,
    errors: bool = True,
    fixed: int = 0,
) -> Fit:
    """The fit of a `Ridge` to one game's values."""
    return Ridge(alpha, samples, weights, fixed=fixed)(values, errors=errors)


def _independent(pulls: FloatArray) -> FloatArray:
    """Standard errors [features] of the sum of independent draws `pulls` [n, features]."""
    if len(pulls) > 1:  # one does not show its mean: all of its pull counts
        pulls = pulls - pulls.mean(axis=0)
    standard_errors: FloatArray = np.sqrt((pulls**2).sum(axis=0))
    return standard_errors


def _projector(z: FloatArray, alpha: float) -> FloatArray:
    """(Z'Z + αI)⁻¹ Z', by the smaller of the two systems that give it; for α near 0 the pseudo-inverse."""
    n, features = z.shape
    if alpha < _NO_PENALTY:  # nothing then keeps the systems from being singular
        return np.asarray(np.linalg.pinv(z), dtype=np.float64)
    if features <= n:
        return np.asarray(np.linalg.solve(z.T @ z + alpha * np.eye(features), z.T), dtype=np.float64)
    return np.asarray(np.linalg.solve(z @ z.T + alpha * np.eye(n), z).T, dtype=np.float64)


def lasso(
    alpha: float,
    samples: FloatArray,
    values: FloatArray,
    weights: FloatArray,
    *,
    errors: bool = True,
    fixed: int = 0,
) -> Fit:
    """Weighted lasso (Tibshirani 1996) with an intercept; standard errors by the bootstrap."""
    if alpha < _NO_PENALTY:  # coordinate descent is no way to least squares.
        fit = ridge(0, samples, values, weights, errors=errors, fixed=fixed)
        least_squares = SurrogateFit(SurrogateKind.LASSO, fit.surrogate.r_squared, fit.surrogate.intercept)
        return Fit(fit.attributions, fit.standard_errors, least_squares)
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415
    from sklearn.linear_model import Lasso  # noqa: PLC0415

    def solve(rows: slice | IntArray, weights: FloatArray = weights) -> Lasso:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a few samples may be fitted without error
            return Lasso(alpha=alpha).fit(samples[rows], values[rows], sample_weight=weights[rows])

    model = solve(slice(None))
    explained = r_squared(values, model.predict(samples), weights)
    fit = Fit(model.coef_, _unknown(model.coef_), SurrogateFit(SurrogateKind.LASSO, explained, float(model.intercept_)))
    return _with_errors(fit, weights, lambda *some: solve(*some).coef_, fixed) if errors else fit


def decision_tree(
    depth: int,
    samples: FloatArray,
    values: FloatArray,
    weights: FloatArray,
    *,
    errors: bool = True,
    fixed: int = 0,
) -> Fit:
    """A weighted regression tree (CART; Breiman et al. 1984).

    An attribution is the feature's share of the impurity that the tree takes away (they sum to 1 in absolute value),
    with the sign of its mean effect: the weighted mean value where it is present, minus that where it is absent.
    Standard errors by the bootstrap.
    """
    from sklearn.tree import DecisionTreeRegressor  # noqa: PLC0415

    def solve(rows: slice | IntArray, weights: FloatArray = weights) -> tuple[DecisionTreeRegressor, FloatArray]:
        tree = DecisionTreeRegressor(max_depth=depth, random_state=0)  # ties between splits are broken alike each time
        tree.fit(samples[rows], values[rows], sample_weight=weights[rows])
        if np.ptp(values[rows]) <= _ROUNDING * np.abs(values[rows]).max():  # nothing to share but rounding
            return tree, np.zeros(samples.shape[1])
        sign = np.sign(_mean_effects(samples[rows], values[rows], weights[rows]))
        return tree, tree.feature_importances_ * sign

    tree, attributions = solve(slice(None))
    description = SurrogateFit(
        kind=SurrogateKind.DECISION_TREE,
        r_squared=r_squared(values, tree.predict(samples), weights),
        nodes=_nodes(tree),
    )
    fit = Fit(attributions, _unknown(attributions), description)
    return _with_errors(fit, weights, lambda *some: solve(*some)[1], fixed) if errors else fit


def _mean_effects(samples: FloatArray, values: FloatArray, weights: FloatArray) -> FloatArray:
    present, absent = samples.T * weights, (1 - samples).T * weights  # [features, n]
    with np.errstate(invalid="ignore", divide="ignore"):
        effects: FloatArray = present @ values / present.sum(axis=1) - absent @ values / absent.sum(axis=1)
    return np.nan_to_num(effects)  # a feature always present, or never, has shown no effect


def _nodes(tree: DecisionTreeRegressor) -> tuple[TreeNode, ...]:
    inner = tree.tree_
    return tuple(
        # scikit-learn goes left where a feature is at most 0.5, which is where it is absent; a leaf has no left.
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


def _unknown(coefficients: FloatArray) -> FloatArray:
    return np.full(coefficients.shape, np.inf)


def _with_errors(
    fit: Fit, weights: FloatArray, statistic: Callable[[IntArray, FloatArray], FloatArray], fixed: int
) -> Fit:
    """`fit` with standard errors from drawing the samples again but for the first `fixed`.

    Not the jackknife: samples that differ in so little hardly ever choose another split or another feature, as other
    draws do (Efron 1979; Shao & Wu 1989).

    Args:
        weights: of all samples, [n].
        statistic: from the numbers of the samples to take, and new weights [n].
    """
    fixed = fixed if len(weights) - fixed > 1 else 0  # one draw alone does not show how others would differ
    drawn = len(weights) - fixed
    random = np.random.default_rng(0)  # the same samples are told the same errors

    def again() -> FloatArray:
        often = np.concatenate([np.ones(fixed), np.bincount(random.integers(drawn, size=drawn), minlength=drawn)])
        return statistic(np.flatnonzero(often), weights * often)

    found = np.array([again() for _ in range(_RESAMPLES)])
    # A resample varies by less than the sample did, the fewer there are the more.
    standard_errors: FloatArray = found.std(axis=0, ddof=1) * np.sqrt(drawn / max(1, drawn - 1))
    return replace(fit, standard_errors=standard_errors, freedom=_RESAMPLES - 1)
