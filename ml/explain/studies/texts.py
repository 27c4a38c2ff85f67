"""The texts of a study as the players of a game, in which a coalition is a single text."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from ml.explain.estimator import BoolArray
from ml.explain.removal import Ids


@dataclass(frozen=True)
class Texts:
    """The token ids of a study's texts; see `ml.explain.values.prompts.Prompts`."""

    ids: tuple[tuple[int, ...], ...]

    shared_prefix = ()
    removals = 1
    weights = (1.0,)

    @property
    def features(self) -> int:
        """The number of texts."""
        return len(self.ids)

    @property
    def longest(self) -> int:
        """The tokens of the longest text."""
        return max(map(len, self.ids))

    @property
    def identity(self) -> Hashable:
        """See `ml.explain.values.prompts.Prompts.identity`."""
        return self.ids

    def slopes(self, _coalition: BoolArray) -> None:
        """A text's value is its own."""
        return

    def __call__(self, coalition: BoolArray) -> Ids:
        """The text that a coalition stands for."""
        return np.array(self.ids[int(coalition.argmax())], dtype=np.int64)

    def variants(self, coalition: BoolArray) -> list[Ids]:
        """That one text."""
        return [self(coalition)]
