"""How much smaller the residuals are of samples that a kernel was fitted to than of others (optimism; Efron 1986).

The jackknife leaves a sample out of the process, but not out of the fit of the kernel. For smooth values that hardly
matters. For others, such as steps, a kernel overfits a few samples, and their residuals do not measure its error. So a
kernel is fitted to either half of the samples, and its residuals in the other half are compared with those in its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ml.explain.estimator import FloatArray, IntArray

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
        trials: kernels fitted to halves.
        share: the part of the sample that the kernel in use was fitted to.
    """

    trials: Sequence[Trial]
    share: float

    def factor(self, values: FloatArray) -> float:
        """The factor, at least 1, by which the squared residuals of `values` [n] are too small."""
        own, others = 0.0, 0.0
        for trial in self.trials:
            squares = (trial.residuals(values) ** 2).sum(axis=1)
            own += float(squares[trial.own].sum()) / max(1, len(trial.own))
            others += float(squares[trial.others].sum()) / max(1, len(trial.others))
        return 1 + self.share * (max(1.0, others / own) - 1) if own > 0 else 1.0
