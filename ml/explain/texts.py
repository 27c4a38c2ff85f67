"""Many prompts in place of one prompt's variants: a game whose players are prompts, of which one plays at a time."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ml.explain.estimator import BoolArray
from ml.explain.removal import Ids, Perturbation


class Prompts(Protocol):
    """The prompts that a value function chooses from by coalitions."""

    @property
    def features(self) -> int:
        """How many players there are."""
        ...

    @property
    def empty_and_full(self) -> BoolArray:
        """The coalitions of the prompt with every feature removed and of the whole one, bool [2, features]."""
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

    def __call__(self, coalition: BoolArray) -> Ids:
        """The prompt of a coalition, bool [features]: int64, never empty."""
        ...


@dataclass(frozen=True)
class Texts:
    """The spec's own prompt with everything removed, the same whole, and then `others`. A coalition is one of them."""

    own: Perturbation
    others: tuple[tuple[int, ...], ...]

    shared_prefix = ()

    @property
    def features(self) -> int:
        """How many prompts."""
        return 2 + len(self.others)

    @property
    def empty_and_full(self) -> BoolArray:
        """The first two."""
        return self.choices[:2]

    @property
    def choices(self) -> BoolArray:
        """Each prompt's coalition, bool [features, features]."""
        return np.eye(self.features, dtype=np.bool_)

    @property
    def longest(self) -> int:
        """The most tokens of any prompt."""
        return max(self.own.longest, *map(len, self.others))

    @property
    def identity(self) -> Hashable:
        """See `Prompts.identity`."""
        return self.own.identity, self.others

    def __call__(self, coalition: BoolArray) -> Ids:
        """The prompt whose coalition it is."""
        chosen = int(coalition.argmax())
        if chosen < 2:
            return self.own(self.own.empty_and_full[chosen])
        return np.array(self.others[chosen - 2], dtype=np.int64)
