"""How much smaller the residuals are of samples that a kernel was fitted to than of others (optimism; Efron 1986).

The jackknife leaves a sample out of the process, but not out of the fit of the kernel. For smooth values that hardly
matters. For others, such as steps, a kernel overfits a few samples, and their residuals do not measure its error. So a
kernel is fitted to either half of the samples, and its residuals in the other half are compared with those in its own.

A kernel may also suit a few samples by accident: a vote of eight looks, in some draws of 64 coalitions, exactly like
one of four. Then leaving out a sample shows nothing, and perhaps neither do two halves. But among kernels of several
halves one misses far more. In smooth games the worst one misses up to 4 times as much as the kernel of all samples, as
it learned from fewer; in such an accident up to 10,000 times. What it misses is then the measure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ml.explain.estimator import FloatArray, IntArray

_LEARNED = 10.0
"""How many times more than all samples' kernel one of half of them may miss because it learned from fewer."""

Residuals = Callable[[FloatArray], FloatArray]
"""From the values of all coalitions, [n], to the residuals of each block by a process without it, [blocks, rows]."""


@dataclass(frozen=True)
class Trial:
    """A kernel that was fitted to half of the blocks.

    Attributes:
        residuals: of each block, when it is left out of the process with this kernel.
        own: the drawn blocks that the kernel was fitted to.
        others: the other drawn blocks.
    """

    residuals: Residuals
    own: IntArray
    others: IntArray


@dataclass(frozen=True)
class Optimism:
    """The optimism of a sample's kernel.

    Attributes:
        residuals: of each block, when it is left out of the process with the kernel in use.
        trials: kernels fitted to the two halves of the sample.
        more: as `residuals`, with kernels fitted to other halves; empty where samples are too many for an accident.
        share: the part of the sample that the kernel in use was fitted to.
    """

    residuals: Residuals
    trials: Sequence[Trial]
    more: Sequence[Residuals]
    share: float

    def factor(self, values: FloatArray) -> float:
        """The factor, at least 1, by which the squared residuals of `values` [n] are too small."""
        own, others, halves = 0.0, 0.0, list[float]()
        for trial in self.trials:
            residuals = trial.residuals(values)
            squares = (residuals**2).sum(axis=1)
            own += float(squares[trial.own].sum()) / max(1, len(trial.own))
            others += float(squares[trial.others].sum()) / max(1, len(trial.others))
            halves.append(mean_square(residuals))
        factor = max(1.0, others / own) if own > 0 else 1.0
        if self.more:
            worst = max(*halves, *(mean_square(half(values)) for half in self.more))
            whole = mean_square(self.residuals(values))
            if worst > _LEARNED * whole > 0:
                factor = max(factor, worst / whole)
        return 1 + self.share * (factor - 1)


def mean_square(residuals: FloatArray) -> float:
    """Of blocks' `residuals`, [blocks, rows]; 0 without any."""
    return float(np.square(residuals).sum() / max(1, residuals.size))
