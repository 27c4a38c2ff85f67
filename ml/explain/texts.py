"""Many prompts in place of one prompt's variants: a game whose players are prompts, of which one plays at a time."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ml.explain.estimator import BoolArray
from ml.explain.removal import Ids


class Prompts(Protocol):
    """The prompts that a value function chooses from by coalitions."""

    @property
    def features(self) -> int:
        """How many players there are."""
        ...

    @property
    def shared_prefix(self) -> Sequence[int]:
        """The tokens with which every prompt begins and is longer than."""
        ...

    @property
    def longest(self) -> int:
        """The most tokens of any prompt."""
        ...

    @property
    def identity(self) -> Hashable:
        """Equal where equal coalitions mean equal prompts, and with the same `repr` in every process."""
        ...

    @property
    def removals(self) -> int:
        """How many variants a coalition has."""
        ...

    def __call__(self, coalition: BoolArray) -> Ids:
        """The first variant of a coalition, bool [features]: int64, never empty."""
        ...

    def variants(self, coalition: BoolArray) -> Sequence[Ids]:
        """The prompts whose mean value is that of a coalition, some of them the same or not."""
        ...


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
        """See `Prompts.identity`."""
        return self.ids

    def __call__(self, coalition: BoolArray) -> Ids:
        """The text whose coalition it is."""
        return np.array(self.ids[int(coalition.argmax())], dtype=np.int64)

    def variants(self, coalition: BoolArray) -> list[Ids]:
        """That one text."""
        return [self(coalition)]
