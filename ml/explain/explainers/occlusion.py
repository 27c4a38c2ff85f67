"""Occlusion: how far the value falls without a window of features (Zeiler & Fergus 2014; Li et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ml import spec
from ml.explain.estimator import BoolArray, Estimate, Estimating, FloatArray, Game, with_rows
from ml.result import StopReason


@dataclass(frozen=True)
class OcclusionExplainer:
    """Exact: every window is computed once.

    The attribution of feature i is the mean of v(all) − v(all without W) over the windows W with i. Windows begin at
    every `stride`-th feature until one reaches the last feature; that one may be shorter.
    """

    features: int
    method: spec.Occlusion

    @property
    def max_evaluations(self) -> int:
        """The whole prompt and every window."""
        return 1 + len(self.windows())

    @property
    def min_evaluations(self) -> int:
        """All of them."""
        return self.max_evaluations

    def windows(self) -> BoolArray:
        """The windows, bool [windows, features], True where a feature is left out."""
        last = max(0, self.features - self.method.window)
        starts = np.arange(0, last + self.method.stride, self.method.stride)
        indices = np.arange(self.features)
        return (indices >= starts[:, None]) & (indices < starts[:, None] + self.method.window)

    def __call__(self, game: Game) -> Estimating:
        """Ask for all windows at once. If time runs out, features of unknown windows have infinite standard errors."""
        windows = self.windows()
        coalitions = np.concatenate([np.ones((1, self.features), dtype=np.bool_), ~windows])
        values = yield from game(coalitions)
        known = np.isfinite(values[0] - values[1:])
        held_by = windows[known].sum(axis=0)  # [features]: the known windows with it
        complete = bool(known.all())

        def estimate(values: FloatArray) -> Estimate:
            falls = values[0] - values[1:]
            return Estimate(
                attributions=falls[known] @ windows[known] / np.maximum(held_by, 1),
                standard_errors=np.where(held_by == windows.sum(axis=0), 0.0, np.inf),
                stop=StopReason.COMPLETE if complete else StopReason.DURATION,
                converged=complete,
            )

        yield with_rows(estimate, coalitions, values)
