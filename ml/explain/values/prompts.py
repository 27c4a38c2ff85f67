"""What a value function needs of its prompts: those with features left out, or the texts of a study."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol

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
