"""Games whose answers can be computed exactly, at any number of players.

A game's first 20 players at most do something together; each of the others adds a little of its own. So all that they
do together can be enumerated, and the rest is a sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ml.explain.estimator import BoolArray, FloatArray

TOGETHER = 20
"""Players that can be enumerated in seconds."""
_EACH = 0.05  # what every further player adds


@dataclass(frozen=True)
class ToyGame:
    """A game of `features` players.

    Attributes:
        joint: what the first `TOGETHER` of them do, bool [n, together] to float64 [n].
    """

    features: int
    joint: Callable[[BoolArray], FloatArray]

    @property
    def together(self) -> int:
        """How many of the first players do something together."""
        return min(self.features, TOGETHER)

    @property
    def alone(self) -> FloatArray:
        """What the players after those add, float64 [features - together]."""
        return np.full(self.features - self.together, _EACH)

    def __call__(self, coalitions: BoolArray) -> FloatArray:
        """Values [n] of `coalitions`, bool [n, features]."""
        values: FloatArray = self.joint(coalitions[:, : self.together]) * 1.0
        return values + coalitions[:, self.together :] @ self.alone


def _saturating(players: int) -> Callable[[BoolArray], FloatArray]:
    """A few strong players that make up for each other, as words of a prompt do."""
    strengths = np.array(([3.0, 2.0, 1.0] + [0.1] * players)[:players])
    return lambda present: -np.log1p(np.exp(3 - present @ strengths)) + 0.5 * present[:, 0]


def _crooked(players: int) -> Callable[[BoolArray], FloatArray]:
    """Many pairs that act together, squashed, with a dummy and twins."""
    random = np.random.default_rng(1)
    alone = random.normal(size=players) / np.sqrt(players)
    pairs = np.triu(random.normal(size=(players, players)), 1) / players
    alone[min(1, players - 1)], alone[-1] = alone[0], 0 if players > 2 else alone[-1]
    pairs[:2], pairs[:, -1] = 0, 0
    return lambda present: (
        2 * np.tanh(present @ alone + ((present @ pairs) * present).sum(1)) + present[:, :3].all(1) + 0.25
    )


def _bumpy(players: int) -> Callable[[BoolArray], FloatArray]:
    """A game that neither a linear model nor a Gaussian process fits."""
    effects = np.linspace(-1, 2, players)
    return lambda present: np.sin(3 * present @ effects) + present @ effects + present[:, :2].all(1)


def _votes(players: int) -> Callable[[BoolArray], FloatArray]:
    """A motion that passes from a quota of the weighted votes on: a step, and flat on either side."""
    votes = 1.0 / np.arange(1, players + 1)
    return lambda present: (present @ votes > votes.sum() / 2) * 1.0


def _additive(players: int) -> Callable[[BoolArray], FloatArray]:
    """A sum, which every surrogate and every kernel can fit; each player is worth three quarters of the one before."""
    effects = 0.75 ** np.arange(players)
    return lambda present: present @ effects


def _nearly(part: float) -> Callable[[int], Callable[[BoolArray], FloatArray]]:
    """Makes the same sum with interactions of a `part` of the largest effect, which a kernel may take for noise."""

    def make(players: int) -> Callable[[BoolArray], FloatArray]:
        add = _additive(players)
        return lambda present: (
            add(present)
            + part * present[:, :2].all(1)
            + part * present[:, 2:5].all(1)
            - part * (present[:, 1] & ~present[:, 5])
        )

    return make


_MAKERS: dict[str, Callable[[int], Callable[[BoolArray], FloatArray]]] = {
    "saturating": _saturating,
    "crooked": _crooked,
    "bumpy": _bumpy,
    "votes": _votes,
}
NAMES = tuple(_MAKERS)
NEARLY_FITTED: dict[str, Callable[[int], Callable[[BoolArray], FloatArray]]] = {
    "additive": _additive,
    "additive ± 1/1000": _nearly(0.001),
    "additive ± 1/30": _nearly(1 / 30),
}
"""Games that a kernel fits almost without error; of at least six players."""


def toy(name: str, features: int) -> ToyGame:
    """The game of that name with so many players."""
    return ToyGame(features, (_MAKERS | NEARLY_FITTED)[name](min(features, TOGETHER)))
