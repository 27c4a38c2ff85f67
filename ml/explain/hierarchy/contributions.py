"""What the parts of a text contribute: the loss when each is left out alone, or Owen values.

An order that keeps every part together is an order of the children at each node. A part's Owen value is its mean
contribution over such orders (Owen 1977 for one level, Winter 1989 for many). So the values of a node's children sum to
its own, and do not depend on the parts of parts that were not looked into: before a child there are some of its
siblings, and everything before its parent.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ml.explain.estimator import BoolArray, FloatArray, Game, IntArray, empty_and_full, row_values
from ml.explain.hierarchy.tree import Node

EMPTY, FULL = 0, 1
"""The indices of the empty and the full coalition."""


class Asked:
    """The coalitions that a game is asked for, each once, with an index.

    Attributes:
        values: of the coalitions so far, float64 [n]; NaN for those without an answer.
        row_values: their values for each row of the target, float64 [rows, n].
    """

    def __init__(self, features: int) -> None:
        self.features = features
        self.values: FloatArray = np.empty(0)
        self.row_values: FloatArray = np.empty((0, 0))
        self._coalitions: list[BoolArray] = []
        self._numbers: dict[bytes, int] = {}
        self.numbers(empty_and_full(features))

    def __len__(self) -> int:
        return len(self._coalitions)

    @property
    def coalitions(self) -> BoolArray:
        """All coalitions, bool [n, features]."""
        return np.array(self._coalitions)

    def numbers(self, coalitions: BoolArray) -> IntArray:
        """The indices of `coalitions` [..., features], int64 [...]; new ones will be asked for."""
        found = np.empty(coalitions.shape[:-1], dtype=np.int64)
        for place in np.ndindex(found.shape):
            key = np.packbits(coalitions[place]).tobytes()
            found[place] = number = self._numbers.setdefault(key, len(self._coalitions))
            if number == len(self._coalitions):
                self._coalitions.append(coalitions[place])
        return found

    def answer(self, game: Game) -> Generator[None, None, bool]:
        """Ask `game` for the values of new coalitions. Returns whether all values are known."""
        new = self._coalitions[len(self.values) :]
        if new:
            answers = yield from game(np.array(new))
            rows = row_values(game, np.array(new))
            self.row_values = np.concatenate([self.row_values, rows], axis=1) if len(self.values) else rows
            self.values = np.concatenate([self.values, answers])
        return bool(np.isfinite(self.values).all())


@dataclass(frozen=True)
class Contribution:
    """What a part adds: the mean of v(after) − v(before).

    Attributes:
        after, before: indices of coalitions, int64 [n].
        shares: weights of the differences, float64 [n]; None for a sample of pairs, each pair next to each other.
    """

    after: IntArray
    before: IntArray
    shares: FloatArray | None = None

    def value(self, values: FloatArray) -> FloatArray:
        """The mean difference of values [..., n], float64 [...]."""
        if self.shares is None:
            return np.asarray(self.of_pairs(values).mean(axis=-1))
        return np.asarray((values[..., self.after] - values[..., self.before]) @ self.shares)

    def of_pairs(self, values: FloatArray) -> FloatArray:
        """The mean difference of each pair of a sample, float64 [..., pairs], for values [..., n]."""
        differences = values[..., self.after] - values[..., self.before]
        return np.asarray(differences.reshape(*values.shape[:-1], len(self.after) // 2, 2).mean(axis=-1))


WHOLE = Contribution(np.array([FULL]), np.array([EMPTY]), np.ones(1))
"""The whole text's contribution."""


class Search(Protocol):
    """A definition of parts' values, and the coalitions that these take."""

    def cost(self, node: Node) -> int:
        """The most coalitions that looking into a node takes."""
        ...

    def look_into(self, node: Node) -> dict[Node, Contribution]:
        """The contributions of the children, and perhaps of other known parts; adds their coalitions to `Asked`."""
        ...


class LeaveOneOut:
    """The loss when a part alone is left out."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._found: dict[Node, Contribution] = {}

    def cost(self, node: Node) -> int:
        """One for each child that was not left out before."""
        return sum(child not in self._found for child in node.children)

    def look_into(self, node: Node) -> dict[Node, Contribution]:
        """See `Search`."""
        return self.of(node.children)

    def of(self, nodes: Sequence[Node]) -> dict[Node, Contribution]:
        """The loss when each of `nodes` is left out alone."""
        for node in nodes:
            self._found.setdefault(node, self.without(node.members(self._asked.features)))
        return {node: self._found[node] for node in nodes}

    def without(self, members: BoolArray) -> Contribution:
        """The loss when features, bool [features], are left out together."""
        return Contribution(np.array([FULL]), self._asked.numbers(~members[None]), np.ones(1))


class ExactOwen:
    """All orders at once: for each node, what may come before it, with the share of such orders."""

    def __init__(self, asked: Asked, root: Node) -> None:
        self._asked = asked
        self._before = {root: (np.zeros((1, asked.features), dtype=np.bool_), np.ones(1))}

    def cost(self, node: Node) -> int:
        """Every set of children after everything that may come before."""
        befores = len(self._before[node][1])
        return befores * ((1 << len(node.children)) - 2)

    def look_into(self, node: Node) -> dict[Node, Contribution]:
        """See `Search`."""
        before, shares = self._before.pop(node)
        count, features = len(node.children), self._asked.features
        members = np.array([child.members(features) for child in node.children])
        some = (np.arange(2**count)[:, None] >> np.arange(count)) % 2 == 1  # [2 ** count, children]
        coalitions = before[:, None] | (some @ members)  # [befores, 2 ** count, features]
        numbers = self._asked.numbers(coalitions)
        weights = np.array([1 / (count * math.comb(count - 1, size)) for size in range(count)])
        found = {}
        for place, child in enumerate(node.children):
            without = np.flatnonzero(~some[:, place])
            share = np.outer(shares, weights[some[without].sum(axis=1)]).ravel()
            found[child] = Contribution(numbers[:, without + 2**place].ravel(), numbers[:, without].ravel(), share)
            self._before[child] = coalitions[:, without].reshape(-1, features), share
        return found


def owen_coalitions(root: Node) -> int:
    """How many coalitions exact Owen values of a tree's leaves take, with the empty and the full one."""

    def within(node: Node, befores: int) -> int:
        count = len(node.children)
        if not count:
            return 0
        return befores * ((1 << count) - 2) + sum(within(child, befores << (count - 1)) for child in node.children)

    return 2 + within(root, 1)


class SampledOwen:
    """Random orders in pairs of one and its reverse, whose mean varies less (Mitchell et al. 2022).

    A node that is looked into later is ordered within all orders drawn before, so that in each of them the children's
    contributions sum to the node's.

    Attributes:
        pairs: the number of pairs drawn.
    """

    def __init__(self, asked: Asked, root: Node, seed: int) -> None:
        self.pairs = 0
        self._asked = asked
        self._seed = seed
        self._root = root
        self._numbers = {node: number for number, node in enumerate(root)}
        self._looked_into: list[Node] = []

    def cost(self, node: Node) -> int:
        """The coalitions between the start and the end of a node, in each order."""
        return 2 * self.pairs * (len(node.children) - 1)

    @property
    def drawn(self) -> int:
        """The number of coalitions drawn, where repeated ones count each time."""
        return self.pairs * self.pair_cost

    @property
    def pair_cost(self) -> int:
        """The most coalitions that another pair of orders takes."""
        return 2 * sum(len(node.children) - 1 for node in self._looked_into)

    def draw(self, pairs: int) -> dict[Node, Contribution]:
        """Draw so many more pairs. Returns the contributions of all known parts."""
        self.pairs += pairs
        return self._contributions()

    def look_into(self, node: Node) -> dict[Node, Contribution]:
        """See `Search`."""
        self._looked_into.append(node)
        return self._contributions()

    def _contributions(self) -> dict[Node, Contribution]:
        nothing = np.zeros((2 * self.pairs, self._asked.features), dtype=np.bool_)
        before = {self._root: nothing}
        found: dict[Node, Contribution] = {}
        for node in self._looked_into:  # a parent before its children
            ranks = self._ranks(node)
            members = np.array([child.members(self._asked.features) for child in node.children])
            for place, child in enumerate(node.children):
                before[child] = before[node] | ((ranks < ranks[:, place, None]) @ members)
                after = self._asked.numbers(before[child] | members[place])
                found[child] = Contribution(after, self._asked.numbers(before[child]))
        return found

    def _ranks(self, node: Node) -> IntArray:
        """The rank of each child in each order, int64 [2 · pairs, children]."""
        count = len(node.children)
        streams = ([self._seed, 2, pair, self._numbers[node]] for pair in range(self.pairs))
        ranks = np.array([np.random.default_rng(stream).permutation(count) for stream in streams])
        return np.stack([ranks, count - 1 - ranks], axis=1).reshape(-1, count)
