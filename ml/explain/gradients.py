"""Gradients at the embeddings: what an infinitely small change would do, and the sum of such changes along a path."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from ml import spec
from ml.explain.estimator import BoolArray, Estimate, Estimating, FloatArray, empty_and_full
from ml.explain.internals import PromptInternals
from ml.explain.quadrature import clenshaw_curtis, gauss_legendre, nested
from ml.explain.shapley import completeness_error
from ml.result import StopReason

CONVERGED = 0.05
"""The largest part of v(all) − v(nothing) by which the attributions of an integral may miss it.

So may, of the largest attribution, what the last doubling of the points changed of any.
"""

DEFAULT_POINTS = 50
"""The most gradients of an integral where neither the steps nor a budget is given."""


@dataclass(frozen=True)
class InputTimesGradientExplainer:
    """Gradient of the value times the embedding, summed over its dimensions and a feature's tokens.

    To first order, what the value would lose if the embedding became zero (Shrikumar et al. 2017; for text Denil,
    Demiraj & de Freitas 2014).
    """

    in_units: ClassVar[bool] = True
    max_evaluations: ClassVar[int] = 1
    min_evaluations: ClassVar[int] = 1

    def explain(self, prompt: PromptInternals) -> Estimating:
        """Exact: one gradient."""
        [attributions] = prompt.path_gradients(np.ones(1), from_removed=False)
        yield Estimate(attributions, np.zeros(prompt.features), StopReason.COMPLETE, converged=True)


@dataclass(frozen=True)
class IntegratedGradientsExplainer:
    """Integrated gradients (Sundararajan, Taly & Yan 2017) from the prompt with every feature removed to the whole one.

    With x' the embeddings of the one and x those of the other, a token's attribution is

        Σ over dimensions of (x − x') ∫₀¹ ∇v(x' + α (x − x')) dα.

    All of them sum to v(x) − v(x'), as far as the rule of the integral is fine enough: by how much they miss it is the
    completeness error. Where the steps are given, the rule is Gauss's and Legendre's of so many points. Otherwise it is
    Clenshaw's and Curtis's, whose intervals are doubled until the completeness error and what the last doubling changed
    are small enough. Each doubling takes gradients between those that are known already.
    """

    method: spec.IntegratedGradients
    budget: spec.Budget

    in_units: ClassVar[bool] = True

    @property
    def max_evaluations(self) -> int:
        """The empty and the full coalition, and a gradient at each point of the rule, or of the finest."""
        return 2 + (self.method.steps or self._rules[-1] + 1)

    @property
    def min_evaluations(self) -> int:
        """As many; of the rules that are refined two, as one alone does not tell how good it is."""
        return 2 + (self.method.steps or self._rules[1] + 1)

    def explain(self, prompt: PromptInternals) -> Estimating:
        """Ask for the empty and the full coalition, then for gradients between them."""
        empty, full = yield from prompt.game(empty_and_full(prompt.features))
        if not np.isfinite(gain := float(full - empty)):
            yield Estimate.nothing(prompt.features, StopReason.DURATION)
        elif self.method.steps is None:
            yield from self._refined(prompt, gain)
        else:
            yield from _at_once(prompt, gain, self.method.steps)

    @property
    def _rules(self) -> list[int]:
        limit = self.budget.max_evaluations
        return nested(DEFAULT_POINTS if limit is None else min(limit - 2, spec.MAX_STEPS))

    def _refined(self, prompt: PromptInternals, gain: float) -> Estimating:
        estimate = Estimate.nothing(prompt.features)
        known = np.empty((0, prompt.features))
        for intervals in (rules := self._rules):
            points, weights = clenshaw_curtis(intervals)
            new = np.ones(len(points), dtype=np.bool_)
            new[::2] = len(known) == 0  # every other point is the coarser rule's
            found = yield from _along_path(prompt, points[new])
            if found is None:
                yield replace(estimate, stop=StopReason.DURATION)
                return
            refines = len(known) > 0
            known = _merged(new, found, known)
            attributions = weights @ known
            changed = float(np.abs(attributions - estimate.attributions).max()) if refines else np.inf
            estimate = _estimate(attributions, gain, changed)
            if estimate.converged:
                yield replace(estimate, stop=StopReason.COMPLETE)
                return
            yield replace(estimate, stop=StopReason.EVALUATIONS if intervals == rules[-1] else None)


def _at_once(prompt: PromptInternals, gain: float, steps: int) -> Estimating:
    points, weights = gauss_legendre(steps)
    found = yield from _along_path(prompt, points)
    if found is None:
        yield Estimate.nothing(prompt.features, StopReason.DURATION)
        return
    yield replace(_estimate(weights @ found, gain, changed=0), stop=StopReason.COMPLETE)


def _along_path(prompt: PromptInternals, points: FloatArray) -> Generator[None, None, FloatArray | None]:
    """Gradient × way at each of some points, float64 [points, features]; None where time does not allow all of them.

    Yields after each batch.
    """
    found = np.empty((len(points), prompt.features))
    size = prompt.batch_size
    for first in range(0, len(points), size):
        if prompt.late:
            return None
        some = slice(first, first + size)
        found[some] = prompt.path_gradients(points[some], from_removed=True)
        yield
    return found


def _merged(new: BoolArray, found: FloatArray, known: FloatArray) -> FloatArray:
    """Rows of `found` where `new`, bool [n], says so, and of `known` elsewhere."""
    merged = np.empty((len(new), found.shape[1]))
    merged[new], merged[~new] = found, known
    return merged


def _estimate(attributions: FloatArray, gain: float, changed: float) -> Estimate:
    """What a rule tells. `changed` is the most by which an attribution differs from the coarser rule's."""
    missed = completeness_error(attributions, gain)
    return Estimate(
        attributions=attributions,
        standard_errors=np.zeros(len(attributions)),
        converged=missed <= CONVERGED * abs(gain) and changed <= CONVERGED * float(np.abs(attributions).max()),
        completeness_error=missed,
    )
