"""The texts of a study as a game: its players are texts, and a coalition is one of them."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from ml.explain.estimator import BoolArray
from ml.explain.removal import Ids


@dataclass(frozen=True)
class Texts:
    """The token ids of a study's texts. A coalition is one of them."""

    ids: tuple[tuple[int, ...], ...]

    shared_prefix = ()
    removals = 1

    @property
    def features(self) -> int:
        """How many texts."""
        return len(self.ids)

    @property
    def longest(self) -> int:
        """The most tokens of any text."""
        return max(map(len, self.ids))

    @property
    def identity(self) -> Hashable:
        """See `ml.explain.values.prompts.Prompts.identity`."""
        return self.ids

    def __call__(self, coalition: BoolArray) -> Ids:
        """The text whose coalition it is."""
        return np.array(self.ids[int(coalition.argmax())], dtype=np.int64)

    def variants(self, coalition: BoolArray) -> list[Ids]:
        """That one text."""
        return [self(coalition)]
