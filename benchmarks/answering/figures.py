"""How often a known answer is found: figures with bootstrap intervals, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from rich.table import Table

Values = npt.NDArray[np.float64]

RANDOM = "a random ranking"
_RESAMPLES = 2000


@dataclass(frozen=True)
class Found:
    """Where a way put the deciding word of a pair.

    Attributes:
        first: the probability that it comes first, ties broken at random.
        reciprocal: its expected reciprocal rank.
        seconds: what the way took; None where it had values that others had computed.
    """

    first: float
    reciprocal: float
    seconds: float | None = None

    @classmethod
    def of(cls, attributions: Values, deciding: int, seconds: float | None) -> Found:
        """From what each word contributes, and which one decides. The word that speaks most for the target is first."""
        mine = attributions[deciding]
        above, equal = int((attributions > mine).sum()), int((attributions == mine).sum())
        ranks = above + 1 + np.arange(equal)
        return cls(float(above == 0) / equal, float(np.mean(1 / ranks)), seconds)

    @classmethod
    def by_chance(cls, features: int) -> Found:
        """In a random ranking."""
        return cls.of(np.zeros(features), 0, None)


@dataclass(frozen=True)
class Interval:
    """A mean, and a percentile bootstrap interval of 95 % over pairs."""

    mean: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """From one value a pair."""
        numbers, rng = np.array(values), np.random.default_rng(0)
        means = numbers[rng.integers(len(numbers), size=(_RESAMPLES, len(numbers)))].mean(axis=1)
        lower, upper = np.quantile(means, [0.025, 0.975])
        return cls(float(numbers.mean()), float(lower), float(upper))

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.lower:.3f}, {self.upper:.3f}]"


@dataclass(frozen=True)
class Figures:
    """What a way achieves. Pairs alternate between the half to choose by and the half that is held out."""

    way: str
    found: Sequence[Found]

    @cached_property
    def first(self) -> Interval:
        """How often the deciding word comes first."""
        return Interval.of([each.first for each in self.found])

    @cached_property
    def halves(self) -> tuple[Interval, Interval]:
        """The same in the half to choose by, and in the one that is held out."""
        chosen, held_out = (Interval.of([each.first for each in self.found[start::2]]) for start in (0, 1))
        return chosen, held_out

    @cached_property
    def reciprocal(self) -> Interval:
        """Mean reciprocal rank."""
        return Interval.of([each.reciprocal for each in self.found])

    @property
    def seconds(self) -> float | None:
        """The median of what it took, where that was measured."""
        known = [each.seconds for each in self.found if each.seconds is not None]
        return float(np.median(known)) if known else None

    def json(self) -> dict[str, object]:
        """All of it."""
        choosing, held_out = self.halves
        return {
            "pairs": len(self.found),
            "first": asdict(self.first),
            "first, half to choose by": asdict(choosing),
            "first, half held out": asdict(held_out),
            "reciprocal rank": asdict(self.reciprocal),
            "seconds": self.seconds,
        }


def table(title: str, found: Mapping[str, Sequence[Found]]) -> Table:
    """All ways, the best of the half to choose by first."""
    drawn = Table("way", "first", "half to choose by", "held out", "reciprocal rank", "seconds", title=title)
    key: Callable[[Figures], float] = lambda each: -each.halves[0].mean  # noqa: E731 - it has a type
    for each in sorted((Figures(way, one) for way, one in found.items()), key=key):
        seconds = "" if each.seconds is None else f"{each.seconds:.3f}"
        choosing, held_out = each.halves
        drawn.add_row(
            each.way, str(each.first), f"{choosing.mean:.3f}", str(held_out), f"{each.reciprocal.mean:.3f}", seconds
        )
    return drawn
