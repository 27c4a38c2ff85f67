"""Coarse to fine: the values of a text's parts, and then of the parts of those with the largest values.

Hierarchical leave-one-out (AttriBoT: Liu, Kandpal & Raffel 2025) over all levels of a text, the largest values first;
or Owen values of the same tree. For parts that were not looked into, an estimate of what they may hide is reported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ml import spec
from ml.explain.estimator import Estimate, Estimating, FloatArray, Game
from ml.explain.hierarchy.contributions import (
    Contribution,
    ExactOwen,
    LeaveOneOut,
    SampledOwen,
    Search,
    owen_coalitions,
)
from ml.explain.hierarchy.known_parts import KnownParts
from ml.explain.hierarchy.prior import Guide
from ml.explain.hierarchy.tree import MAX_CHILDREN, Node
from ml.explain.sampling.anytime import PLAIN_GROWTH
from ml.explain.sampling.draws import DEFAULT_SAMPLES
from ml.result import StopReason
from ml.spec import NodeValue

_MAX_EXACT = 2**14
"""The most coalitions for exact Owen values, however large the budget."""
_PAIRS, _MIN_PAIRS = 8, 2
"""Pairs of orders at first, and the fewest for a standard error."""


@dataclass(frozen=True)
class HierarchicalExplainer:
    """Values of a tree's parts, looking into those with the largest, until a limit of the budget."""

    root: Node
    method: spec.Hierarchical
    budget: spec.Budget
    prior: FloatArray | None = None
    """How much each feature may matter, in no unit, float64 [features]; it decides where leave-one-out looks first."""
    trust: float = 0.0
    """The share of the evaluations that go by the prior, whatever they find."""

    @property
    def max_evaluations(self) -> int:
        """The empty and the full coalition, one for each part and one for the rest; or those of the Owen values."""
        limit = self.budget.max_evaluations
        if self._samples:
            return limit or max(DEFAULT_SAMPLES, self.min_evaluations)
        if self.method.node_value is NodeValue.OWEN:
            return owen_coalitions(self.root)
        return min(self._every, limit or self._every)

    @property
    def min_evaluations(self) -> int:
        """The coalitions of the whole text's parts."""
        count = len(self.root.children)
        if self._samples:
            return 2 + 2 * _MIN_PAIRS * (count - 1)
        return owen_coalitions(self.root) if self.method.node_value is NodeValue.OWEN else 2 + count

    @property
    def has_choice(self) -> bool:
        """Whether it matters where it looks first: leave-one-out with fewer evaluations than all parts take."""
        limit = self.budget.max_evaluations
        return self.method.node_value is NodeValue.REMOVAL and limit is not None and limit < self._every

    def __call__(self, game: Game) -> Estimating:
        """Ask for the empty and the full coalition, then for parts, with estimates as the tree grows."""
        known = KnownParts(self.root, self.method, self.budget.standard_error)
        if not (yield from known.asked.answer(game)):
            yield Estimate.nothing(game.features, StopReason.DURATION)
        elif not self.root.children:
            yield replace(known.estimate(), stop=StopReason.COMPLETE)
        elif self._samples:
            yield from self._sample(game, known)
        else:
            yield from self._search(game, known)

    def _search(self, game: Game, known: KnownParts) -> Estimating:
        """Look into the part with the largest value, or measure likely leaves, and then remove the rest together."""
        removal = LeaveOneOut(known.asked) if self.method.node_value is NodeValue.REMOVAL else None
        search = removal or ExactOwen(known.asked, self.root)
        limited = self.budget.max_evaluations is not None  # without a limit the order makes no difference
        limit = self.max_evaluations
        guide = None
        if removal and limited and self.prior is not None:
            guide = Guide(self.root, self.prior, removal, trusted=int(self.trust * limit))
        found, reported = search.look_into(self.root), 0
        while found:
            if not (yield from known.asked.answer(game)):
                yield _out_of_time(known)
                return
            known.add(found)
            if len(known.asked) >= (1 + PLAIN_GROWTH) * reported:
                reported = len(known.asked)
                yield known.estimate()
            found = _next(known, search, guide, limit - len(known.asked) - (0 if removal is None else 1))
        stop = StopReason.EVALUATIONS if known.candidates() else StopReason.COMPLETE
        little = known.little()
        if removal is not None and little.any() and len(known.asked) < limit:
            known.rest = removal.without(little)
            if not (yield from known.asked.answer(game)):
                known.rest, stop = None, StopReason.DURATION
        yield replace(known.estimate(), stop=stop)

    def _sample(self, game: Game, known: KnownParts) -> Estimating:
        """Draw random orders of the parts, look into those that stand out, and draw more orders of all known parts."""
        orders = SampledOwen(known.asked, self.root, self.budget.seed)
        a_pair = 2 * (len(self.root.children) - 1)
        orders.draw(max(_MIN_PAIRS, min(_PAIRS, self._left(orders) // a_pair)))
        node: Node | None = self.root
        stop: StopReason | None = None
        while stop is None:
            found = orders.draw(self._more(orders)) if node is None else orders.look_into(node)
            if not (yield from known.asked.answer(game)):
                yield _out_of_time(known)
                return
            known.add(found)
            node = next((each for each in known.candidates() if orders.cost(each) <= self._left(orders)), None)
            limit = self.budget.standard_error
            if node is None and limit is not None and orders.pairs >= _PAIRS and known.largest_error < limit:
                stop = StopReason.STANDARD_ERROR
            elif node is None and not self._more(orders):
                stop = StopReason.EVALUATIONS
            yield replace(known.estimate(), stop=stop)

    def _more(self, orders: SampledOwen) -> int:
        """How many pairs of orders to draw next: a quarter more, within the budget."""
        return min(self._left(orders) // orders.pair_cost, max(1, int(PLAIN_GROWTH * orders.pairs)))

    def _left(self, orders: SampledOwen) -> int:
        """How many coalitions may still be drawn. Repeated ones count, or a small tree would never end."""
        return self.max_evaluations - 2 - orders.drawn

    @property
    def _every(self) -> int:
        """What leave-one-out takes for all parts: one each, one for the rest, and the empty and full coalition."""
        return 2 + sum(1 for _ in self.root)

    @property
    def _samples(self) -> bool:
        """Whether Owen values are sampled, as exact ones take too many coalitions."""
        if self.method.node_value is not NodeValue.OWEN:
            return False
        return owen_coalitions(self.root) > min(self.budget.max_evaluations or DEFAULT_SAMPLES, _MAX_EXACT)


def _next(known: KnownParts, search: Search, guide: Guide | None, limit: int) -> dict[Node, Contribution]:
    """What to measure next with up to `limit` evaluations: a part's children, or likely leaves; nothing at the end."""
    candidates = known.candidates()
    part = next((each for each in candidates if search.cost(each) <= limit), None)
    if guide is not None and candidates and limit > 0:
        least = 0.0 if part is None else candidates[part] / _evaluations_to_a_leaf(part)
        if found := guide.measure(known.sizes, min(MAX_CHILDREN, limit), least):
            return found
    return {} if part is None else search.look_into(part)


def _evaluations_to_a_leaf(part: Node) -> float:
    """About how many evaluations it takes to find a leaf of a part: its groups' children, level by level."""
    return MAX_CHILDREN * math.log(len(part), MAX_CHILDREN)


def _out_of_time(known: KnownParts) -> Estimate:
    if known.is_empty:
        return Estimate.nothing(known.asked.features, StopReason.DURATION)
    return replace(known.estimate(), stop=StopReason.DURATION)
