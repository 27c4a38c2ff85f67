"""What a value function needs of its prompts: those with features left out, or the texts of a study."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol

from ml.explain.estimator import BoolArray
from ml.explain.removal import Ids


class Prompts(Protocol):
    """From coalitions to prompts."""

    @property
    def features(self) -> int:
        """The number of players."""
        ...

    @property
    def shared_prefix(self) -> Sequence[int]:
        """Tokens that every prompt begins with, and is longer than."""
        ...

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt, at most."""
        ...

    @property
    def identity(self) -> Hashable:
        """Equal for equal prompts of all coalitions, with the same `repr` in every process."""
        ...

    @property
    def removals(self) -> int:
        """How many variants each coalition has."""
        ...

    @property
    def weights(self) -> Sequence[float]:
        """How much each variant counts in a coalition's value."""
        ...

    def __call__(self, coalition: BoolArray) -> Ids:
        """The first variant of a coalition, bool [features]: int64, never empty."""
        ...

    def variants(self, coalition: BoolArray) -> Sequence[Ids]:
        """The prompts whose weighted mean value is the coalition's; some may be equal."""
        ...
