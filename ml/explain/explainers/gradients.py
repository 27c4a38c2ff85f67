"""Gradients at the embeddings: input × gradient, and integrated gradients along a path."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from ml import spec
from ml.explain.estimator import BoolArray, Estimate, Estimating, FloatArray, empty_and_full
from ml.explain.explainers.quadrature import clenshaw_curtis, gauss_legendre, nested
from ml.explain.sampling.errors import completeness_error
from ml.explain.values.internals import PromptInternals
from ml.result import StopReason

CONVERGED = 0.05
"""The largest completeness error of a converged integral, as part of v(all) − v(nothing).

Also the largest change of any attribution by the last doubling of the points, as part of the largest attribution.
"""

DEFAULT_POINTS = 50
"""The most gradients of an integral if neither steps nor budget say."""


@dataclass(frozen=True)
class InputTimesGradientExplainer:
    """Gradient of the value times the embedding, summed over its dimensions and a feature's tokens.

    To first order, the loss of value if the embedding became zero (Shrikumar et al. 2017; for text Denil, Demiraj & de
    Freitas 2014).
    """

    gradients: int = 1
    """The most gradients, for the target and its rows; see `PromptInternals.numbers`."""

    in_units: ClassVar[bool] = True

    @property
    def max_evaluations(self) -> int:
        """All gradients."""
        return self.gradients

    @property
    def min_evaluations(self) -> int:
        """All gradients."""
        return self.max_evaluations

    def explain(self, prompt: PromptInternals) -> Estimating:
        """Exact, with one gradient for the target and for each row."""
        found = yield from _along_path(prompt, np.ones(1), from_removed=False)
        if found is None:
            yield Estimate.nothing(prompt.features, StopReason.DURATION)
            return
        [attributions] = found
        exact = Estimate(attributions[0], np.zeros(prompt.features), StopReason.COMPLETE, converged=True)
        yield _of_numbers([replace(exact, attributions=each) for each in attributions])


@dataclass(frozen=True)
class IntegratedGradientsExplainer:
    """Integrated gradients (Sundararajan, Taly & Yan 2017) from the prompt with every feature removed to the whole one.

    With x' the embeddings of the removed and x those of the whole prompt, a token's attribution is

        Σ over dimensions of (x − x') ∫₀¹ ∇v(x' + α (x − x')) dα.

    Attributions sum to v(x) − v(x'), up to the completeness error of the quadrature rule. If the steps are given, it is
    the Gauss-Legendre rule with so many points. Otherwise it is the Clenshaw-Curtis rule, whose intervals are doubled
    until the completeness error and the change by the last doubling are small enough; each doubling only takes the
    gradients between the known ones. The rows share the target's points, so that the attributions of rows that sum to
    the target do too.
    """

    method: spec.IntegratedGradients
    budget: spec.Budget
    gradients: int = 1
    """The most gradients at a point, for the target and its rows; see `PromptInternals.numbers`."""

    in_units: ClassVar[bool] = True

    @property
    def max_evaluations(self) -> int:
        """The empty and the full coalition, and the gradients at each point of the (finest) rule."""
        return 2 + self.gradients * (self.method.steps or self._rules[-1] + 1)

    @property
    def min_evaluations(self) -> int:
        """The same for given steps; otherwise two rules, as a single one does not show how good it is."""
        return 2 + self.gradients * (self.method.steps or self._rules[1] + 1)

    def explain(self, prompt: PromptInternals) -> Estimating:
        """Ask for the empty and the full coalition, then for gradients between them."""
        ends = empty_and_full(prompt.features)
        values = yield from prompt.game(ends)
        if not np.isfinite(values).all():
            yield Estimate.nothing(prompt.features, StopReason.DURATION)
            return
        empty, full = np.column_stack([values, prompt.game.row_values(ends).T])
        if self.method.steps is None:
            yield from self._refined(prompt, full - empty)
        else:
            yield from _at_once(prompt, full - empty, self.method.steps)

    @property
    def _rules(self) -> list[int]:
        limit = self.budget.max_evaluations
        return nested(DEFAULT_POINTS if limit is None else min((limit - 2) // self.gradients, spec.MAX_STEPS))

    def _refined(self, prompt: PromptInternals, gains: FloatArray) -> Estimating:
        estimate = Estimate.nothing(prompt.features)
        known = np.empty((0, 1 + prompt.rows, prompt.features))
        for intervals in (rules := self._rules):
            points, weights = clenshaw_curtis(intervals)
            new = np.ones(len(points), dtype=np.bool_)
            new[::2] = len(known) == 0  # every other point belongs to the coarser rule
            found = yield from _along_path(prompt, points[new], from_removed=True)
            if found is None:
                yield replace(estimate, stop=StopReason.DURATION)
                return
            refines = len(known) > 0
            known = _merged(new, found, known)
            attributions = np.tensordot(weights, known, axes=1)  # [1 + rows, features]
            changed = float(np.abs(attributions[0] - estimate.attributions).max()) if refines else np.inf
            estimate = _estimate(attributions, gains, changed)
            if estimate.converged:
                yield replace(estimate, stop=StopReason.COMPLETE)
                return
            yield replace(estimate, stop=StopReason.EVALUATIONS if intervals == rules[-1] else None)


def _at_once(prompt: PromptInternals, gains: FloatArray, steps: int) -> Estimating:
    points, weights = gauss_legendre(steps)
    found = yield from _along_path(prompt, points, from_removed=True)
    if found is None:
        yield Estimate.nothing(prompt.features, StopReason.DURATION)
        return
    yield replace(_estimate(np.tensordot(weights, found, axes=1), gains, changed=0), stop=StopReason.COMPLETE)


def _along_path(
    prompt: PromptInternals, points: FloatArray, *, from_removed: bool
) -> Generator[None, None, FloatArray | None]:
    """Gradient × path at points, of the target's value and of each row's, float64 [points, 1 + rows, features].

    None if time runs out. Yields after each batch.
    """
    every, numbers = points.repeat(len(prompt.numbers)), [*prompt.numbers] * len(points)
    found = np.empty((len(every), prompt.features))
    done = 0
    while done < len(every):
        if prompt.late:
            return None
        some = slice(done, done := done + prompt.batch_size)
        found[some] = prompt.path_gradients(every[some], numbers[some], from_removed=from_removed)
        yield
    of_numbers = found.reshape(len(points), len(prompt.numbers), prompt.features)
    if 0 in prompt.numbers:
        return of_numbers
    return np.concatenate([of_numbers.sum(axis=1, keepdims=True), of_numbers], axis=1)


def _merged(new: BoolArray, found: FloatArray, known: FloatArray) -> FloatArray:
    """`found` at the points where `new`, bool [n], is True, and `known` at the others."""
    merged = np.empty((len(new), *found.shape[1:]))
    merged[new], merged[~new] = found, known
    return merged


def _estimate(attributions: FloatArray, gains: FloatArray, changed: float) -> Estimate:
    """The estimate by a quadrature rule.

    Args:
        attributions: of the target and of each row, float64 [1 + rows, features].
        gains: what these should sum to, [1 + rows].
        changed: the largest difference of an attribution of the target from the coarser rule's.
    """
    found = _of_numbers(
        [
            Estimate(each, np.zeros(len(each)), completeness_error=completeness_error(each, gain))
            for each, gain in zip(attributions, gains.tolist(), strict=True)
        ]
    )
    missed, largest = found.completeness_error or 0.0, float(np.abs(found.attributions).max())
    converged = missed <= CONVERGED * abs(gains[0]) and changed <= CONVERGED * largest
    return replace(found, converged=bool(converged))


def _of_numbers(estimates: Sequence[Estimate]) -> Estimate:
    """The first of some estimates, with the others as its rows."""
    value, *rows = estimates
    return replace(value, rows=lambda _: rows)
