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

    def slopes(self, coalition: BoolArray) -> Sequence[float] | None:
        """What each variant's change of value is multiplied by, if the coalition's is the root of their mean square.

        The value is then v - sign(m) * sqrt(|m|), where v is the value of the full coalition, and m is the weighted
        mean of sign(x) * x^2 over the variants; x is how much a variant's value is below v, times its factor. None: the
        coalition's value is the weighted mean of its variants' values.
        """
        ...

    def __call__(self, coalition: BoolArray) -> Ids:
        """The first variant of a coalition, bool [features]: int64, never empty."""
        ...

    def variants(self, coalition: BoolArray) -> Sequence[Ids]:
        """The prompts from whose values the coalition's is made; some may be equal."""
        ...
