"""How the coalitions of a sample were drawn, and which parts of it are smaller samples of the same kind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ml.explain.estimator import FloatArray, IntArray


@dataclass(frozen=True)
class Draws:
    """How the coalitions of a sample were drawn: some are always there, the others in blocks without replacement.

    Attributes:
        fixed: how many of the first coalitions are in every sample.
        rows: coalitions of a block.
        strata: the stratum of each block, int64 [blocks].
        counts: the number of blocks in each stratum, float64 [strata].
    """

    fixed: int
    rows: int
    strata: IntArray
    counts: FloatArray

    def first(self, blocks: int) -> Draws:
        """The first blocks only."""
        return Draws(self.fixed, self.rows, self.strata[:blocks], self.counts)

    @property
    def known(self) -> FloatArray:
        """The share of each stratum that was drawn, float64 [strata]."""
        return np.bincount(self.strata, minlength=len(self.counts)) / self.counts

    def coalitions(self, blocks: IntArray) -> IntArray:
        """The indices in the sample of the fixed coalitions and of those of `blocks`."""
        own = self.fixed + self.rows * blocks[:, None] + np.arange(self.rows)
        return np.concatenate([np.arange(self.fixed), own.ravel()])

    def halves(self, random: np.random.Generator | None = None) -> list[IntArray]:
        """The blocks of two halves, each a smaller sample of the same kind; fully sampled strata belong to both.

        Blocks alternate within each stratum, or in `random` order.
        """
        whole = self.known[self.strata] >= 1
        alternating = np.zeros(len(self.strata), dtype=np.int64)
        for stratum in np.unique(self.strata):
            own = np.flatnonzero(self.strata == stratum)
            if random is not None:
                random.shuffle(own)
            alternating[own] = (np.arange(len(own)) + stratum) % 2
        return [np.flatnonzero(whole | (alternating == half)) for half in (0, 1)]
