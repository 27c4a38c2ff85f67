"""How much better a kernel does on samples that it was fitted to than on others (optimism; Efron 1986).

The jackknife leaves a sample out of the process, but not out of what the kernel was chosen by. Where the values are
smooth, that hardly matters. Where they are not, as at a step, a kernel follows the accidents of a few samples, and what
it leaves of these is no measure of its error. So kernels are fitted to either half of the samples, and what each leaves
of the other half is compared with what it leaves of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ml.explain.estimator import FloatArray, IntArray

Leaving = Callable[[FloatArray], FloatArray]
"""From the values of all coalitions, [n], to what a process without a block leaves of each, [blocks, rows]."""


@dataclass(frozen=True)
class Trial:
    """A kernel that was fitted to some blocks of a sample.

    Attributes:
        leaving: what the process with that kernel leaves of every block that is left out.
        own: the blocks that the kernel was fitted to, of those that a draw decides on, and `others` the rest of these.
    """

    leaving: Leaving
    own: IntArray
    others: IntArray


@dataclass(frozen=True)
class Optimism:
    """What is known of the kernel of a sample.

    Attributes:
        trials: kernels fitted to halves.
        share: which part of the sample the kernel in use was fitted to.
    """

    trials: Sequence[Trial]
    share: float

    def factor(self, values: FloatArray) -> float:
        """What the squared residuals of `values` [n] should be multiplied by, at least 1."""
        own, others = 0.0, 0.0
        for trial in self.trials:
            squares = (trial.leaving(values) ** 2).sum(axis=1)
            own += float(squares[trial.own].sum()) / max(1, len(trial.own))
            others += float(squares[trial.others].sum()) / max(1, len(trial.others))
        return 1 + self.share * (max(1.0, others / own) - 1) if own > 0 else 1.0
