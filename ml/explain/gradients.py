"""Gradients at the embeddings: what an infinitely small change would do, and the sum of such changes along a path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from ml import spec
from ml.explain.estimator import Estimate, Estimating, ends
from ml.explain.inside import Inside
from ml.explain.shapley import completeness_error
from ml.result import StopReason

CONVERGED = 0.05
"""The largest part of v(all) − v(nothing) by which the attributions of an integral may miss it."""


@dataclass(frozen=True)
class InputTimesGradientExplainer:
    """Gradient of the value times the embedding, summed over its dimensions and a feature's tokens.

    To first order, what the value would lose if the embedding became zero (Shrikumar et al. 2017; for text Denil,
    Demiraj & de Freitas 2014).
    """

    in_units: ClassVar[bool] = True
    planned: ClassVar[int] = 1
    fewest: ClassVar[int] = 1

    def inspect(self, inside: Inside) -> Estimating:
        """Exact: one gradient."""
        embedded = inside.embeddings()
        gradients = inside.gradients(embedded.unsqueeze(0))[0]
        attributions = inside.by_feature((gradients * embedded).sum(-1, dtype=torch.float64).cpu().numpy())
        yield Estimate(attributions, np.zeros(inside.features), StopReason.COMPLETE, converged=True)


@dataclass(frozen=True)
class IntegratedGradientsExplainer:
    """Integrated gradients (Sundararajan, Taly & Yan 2017) from the prompt with every feature removed to the whole one.

    With x' the embeddings of the one and x those of the other, a token's attribution is

        Σ over dimensions of (x − x') ∫₀¹ ∇v(x' + α (x − x')) dα,

    the integral by Gauss's and Legendre's rule. All of them sum to v(x) − v(x'), as far as the rule is fine enough: by
    how much they miss it is the completeness error.
    """

    method: spec.IntegratedGradients

    in_units: ClassVar[bool] = True

    @property
    def planned(self) -> int:
        """The two ends, and a gradient at each point of the rule."""
        return 2 + self.method.steps

    @property
    def fewest(self) -> int:
        """All of them."""
        return self.planned

    def inspect(self, inside: Inside) -> Estimating:
        """Ask for the two ends, then for gradients between them."""
        empty, whole = yield from inside.game(ends(inside.features))
        if not np.isfinite(whole - empty):
            yield Estimate.nothing(inside.features, StopReason.DURATION)
            return
        begin, end = inside.embeddings(removed=True), inside.embeddings()
        nodes, weights = np.polynomial.legendre.leggauss(self.method.steps)
        rule = torch.tensor(np.stack([(nodes + 1) / 2, weights / 2], axis=1), dtype=torch.float32, device=end.device)
        mean = torch.zeros_like(end, dtype=torch.float64)
        for part in rule.split(inside.points):
            if inside.late:
                yield Estimate.nothing(inside.features, StopReason.DURATION)
                return
            places, shares = part.T[:, :, None, None]
            mean += (shares * inside.gradients(torch.lerp(begin, end, places))).sum(0)
            yield None
        attributions = inside.by_feature(((end - begin) * mean).sum(-1).cpu().numpy())
        missed = completeness_error(attributions, gain := float(whole - empty))
        yield Estimate(
            attributions=attributions,
            standard_errors=np.zeros(inside.features),
            stop=StopReason.COMPLETE,
            converged=missed <= CONVERGED * abs(gain),
            completeness_error=missed,
        )
