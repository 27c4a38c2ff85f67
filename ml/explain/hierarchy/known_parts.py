"""The known parts of a text while a method goes from coarse to fine, and the estimate from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ml import spec
from ml.explain.estimator import Estimate, FloatArray, with_rows
from ml.explain.hierarchy.contributions import WHOLE, Asked, Contribution
from ml.explain.hierarchy.tree import Node
from ml.explain.sampling.errors import completeness_error, deviation, has_converged, moderated, stability
from ml.result import Hierarchy, HierarchyNode
from ml.spec import NodeValue

_SURE = 2
"""Standard errors by which a value has to differ from 0 to count."""


class KnownParts:
    """A tree that grows at its ends: the parts that were looked into, and their children.

    Attributes:
        asked: the coalitions, and their values.
        values, standard_errors: of the known parts below the whole text.
        rest: what the parts that seem to carry little contribute together; None as long as it is unknown.
    """

    def __init__(self, root: Node, method: spec.Hierarchical, limit: float | None) -> None:
        """Begin with the whole text alone; `limit` is the standard error that is asked for, if any."""
        self.asked = Asked(len(root))
        self.values: dict[Node, float] = {}
        self.standard_errors: dict[Node, float] = {}
        self.rest: Contribution | None = None
        self._root = root
        self._method = method
        self._limit = limit
        self._contributions: dict[Node, Contribution] = {root: WHOLE}

    def add(self, contributions: Mapping[Node, Contribution]) -> None:
        """Add contributions, whose coalitions have values."""
        self._contributions.update(contributions)
        values, errors, _ = _evaluated(list(contributions.values()), self.asked.values)
        self.values.update(zip(contributions, values.tolist(), strict=True))
        self.standard_errors.update(zip(contributions, errors.tolist(), strict=True))

    @property
    def threshold(self) -> float:
        """The size of a value from which its part is looked into.

        It is a share of the largest value at an end of the tree. A part that was looked into may be worth far more than
        all it consists of, as where two sources say the same; that says nothing about which of its pieces matter.
        """
        return self._method.threshold * max((abs(self.values[node]) for node in self._ends()), default=0.0)

    @property
    def largest_error(self) -> float:
        """The largest standard error of a part at the end of the tree."""
        return max((self.standard_errors[node] for node in self._ends()), default=0.0)

    def candidates(self) -> list[Node]:
        """The parts that are worth looking into, the largest first."""
        least = self.threshold
        found = [node for node in self._ends() if node.children and self._stands_out(node, least)]
        return sorted(found, key=lambda node: -abs(self.values[node]))

    def little(self) -> list[Node]:
        """The parts that seem to carry little: those not looked into, and leaves up to the threshold."""
        least = self.threshold
        return [node for node in self._ends() if node.children or abs(self.values[node]) <= least]

    def estimate(self) -> Estimate:
        """The estimate for features. Those of a part that was not looked into have equal shares of its value."""
        nodes = [node for node in self._root if node in self._contributions]
        contributions = [self._contributions[node] for node in nodes]
        ends = [index for index, node in enumerate(nodes) if not self._looked_into(node)]
        sizes = np.array([len(nodes[index]) for index in ends])

        def estimate(values: FloatArray) -> Estimate:
            found, errors, freedom = _evaluated(contributions, values)
            return Estimate(
                attributions=np.repeat(found[ends] / sizes, sizes),
                standard_errors=np.repeat(np.where(sizes == 1, errors[ends], np.inf), sizes),
                freedom=freedom,
            )

        found = with_rows(estimate, self.asked.coalitions, self.asked.values)
        values, errors, _ = _evaluated(contributions, self.asked.values)
        precise = not errors.any() or has_converged(values[ends], errors[ends], self._limit)
        sums = self._method.node_value is NodeValue.OWEN
        return replace(
            found,
            converged=precise and not self.candidates(),
            completeness_error=completeness_error(found.attributions, float(values[0])) if sums else None,
            stability=self._stability([contributions[index] for index in ends]),
            hierarchy=self._hierarchy(nodes, values, errors),
        )

    def _stability(self, ends: Sequence[Contribution]) -> float | None:
        """Correlation between the values of the ends in two halves of the orders; None without random orders."""
        if any(each.shares is not None for each in ends):
            return None
        pairs = np.array([each.of_pairs(self.asked.values) for each in ends])
        return stability(pairs[:, 0::2].mean(axis=1), pairs[:, 1::2].mean(axis=1))

    def _hierarchy(self, nodes: Sequence[Node], values: FloatArray, errors: FloatArray) -> Hierarchy:
        indices = {node: place for place, node in enumerate(nodes)}
        parts = {node: [child for child in node.children if child in indices] for node in nodes}
        sizes = dict(zip(nodes, np.abs(values).tolist(), strict=True))
        excess = max((sizes[child] - sizes[node] for node in nodes for child in parts[node]), default=0.0)
        removal = self._method.node_value is NodeValue.REMOVAL
        little = set(self.little()) if removal and parts[self._root] else set()
        hidden = {
            node: sizes[node] + max(0.0, excess) + _SURE * error
            for node, error in zip(nodes, errors.tolist(), strict=True)
            if node.children and not parts[node]
        }
        numbers = zip(nodes, values.tolist(), errors.tolist(), strict=True)
        return Hierarchy(
            tuple(
                HierarchyNode(
                    level=node.level,
                    span=node.span,
                    first_feature=node.start,
                    feature_count=len(node),
                    value=value,
                    standard_error=error,
                    looked_into=bool(parts[node]),
                    children=tuple(indices[child] for child in parts[node]),
                    hidden=hidden.get(node),
                    in_rest=node in little,
                )
                for node, value, error in numbers
            ),
            self._method.node_value,
            None if self.rest is None else self.rest.value(self.asked.values),
        )

    def _ends(self) -> list[Node]:
        """The known parts without known children: leaves, and parts that were not looked into."""
        return [node for node in self._root if node in self.values and not self._looked_into(node)]

    def _looked_into(self, node: Node) -> bool:
        return bool(node.children) and node.children[0] in self._contributions

    def _stands_out(self, node: Node, least: float) -> bool:
        return abs(self.values[node]) >= max(least, _SURE * self.standard_errors[node])


def _evaluated(contributions: Sequence[Contribution], values: FloatArray) -> tuple[FloatArray, FloatArray, float]:
    """The values of parts and their standard errors, float64 [parts] each, and the errors' degrees of freedom."""
    found = np.array([each.value(values) for each in contributions])
    errors, freedom = np.zeros(len(found)), np.inf
    sampled = [index for index, each in enumerate(contributions) if each.shares is None]
    if sampled:
        each_pair = np.array([contributions[index].of_pairs(values) for index in sampled])  # [parts, pairs]
        pairs = each_pair.shape[1]
        own = deviation(each_pair, axis=1) / math.sqrt(pairs)
        errors[sampled], freedom = moderated(own, np.full(len(sampled), pairs - 1.0))
    return found, errors, freedom
