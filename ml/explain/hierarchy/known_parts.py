"""The known parts of a text while a method goes from coarse to fine, and the estimate from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ml import spec
from ml.explain.estimator import BoolArray, Estimate, FloatArray, with_rows
from ml.explain.hierarchy.arrangement import Arrangement
from ml.explain.hierarchy.contributions import WHOLE, Asked, Contribution
from ml.explain.hierarchy.tree import Node
from ml.explain.sampling.errors import completeness_error, deviation, has_converged, moderated, stability
from ml.result import Hierarchy, HierarchyNode
from ml.spec import NodeValue

_SURE = 2
"""Standard errors by which a value has to differ from 0 to count."""


class KnownParts:
    """The parts of a text that were measured: the children of those that were looked into, and leaves anywhere.

    Attributes:
        asked: the coalitions, and their values.
        values: of the known parts below the whole text.
        rest: what the parts that seem to carry little contribute together; None as long as it is unknown.
    """

    def __init__(self, root: Node, method: spec.Hierarchical, limit: float | None) -> None:
        """Begin with the whole text alone; `limit` is the standard error that is asked for, if any."""
        self.asked = Asked(len(root))
        self.values: dict[Node, float] = {}
        self.rest: Contribution | None = None
        self._method = method
        self._limit = limit
        self._contributions: dict[Node, Contribution] = {root: WHOLE}
        self._standard_errors: dict[Node, float] = {}
        self._arranged = Arrangement.of([root], len(root))
        self._values = self._errors = np.zeros(1)  # of what is arranged; the whole text's do not matter here

    def add(self, contributions: Mapping[Node, Contribution]) -> None:
        """Add contributions, whose coalitions have values."""
        self._contributions.update(contributions)
        values, errors, _ = _evaluated(list(contributions.values()), self.asked.values)
        self.values.update(zip(contributions, values.tolist(), strict=True))
        self._standard_errors.update(zip(contributions, errors.tolist(), strict=True))
        self._arranged = Arrangement.of(self._contributions, self.asked.features)
        self._values = np.array([self.values.get(node, 0.0) for node in self._arranged.nodes])
        self._errors = np.array([self._standard_errors.get(node, 0.0) for node in self._arranged.nodes])

    @property
    def threshold(self) -> float:
        """The size of a value from which its part is looked into.

        It is a share of the largest value at an end of the tree. A part that was looked into may be worth far more than
        all it consists of, as where two sources say the same; that says nothing about which of its pieces matter.
        """
        return self._method.threshold * float(np.abs(self._values[self._arranged.ends]).max(initial=0.0))

    @property
    def largest_error(self) -> float:
        """The largest standard error of a part at the end of the tree."""
        return float(self._errors[self._arranged.ends].max(initial=0.0))

    def candidates(self) -> dict[Node, float]:
        """The parts that are worth looking into, with the size of what is left of each one's value, the largest first.

        What is left of a part is its value without those of leaves in it that are known.
        """
        ends, sizes = self._arranged.ends, np.abs(self._values)
        stands_out = sizes >= np.maximum(self.threshold, _SURE * self._errors)
        found = ends[(self._arranged.sizes[ends] > 1) & stands_out[ends]]
        left = np.abs(self._arranged.left(self._values))[found]
        order = np.argsort(-left, kind="stable")
        return {self._arranged.nodes[found[index]]: float(left[index]) for index in order}

    def little(self) -> BoolArray:
        """The features that seem to carry little, bool [features]: unknown ones, and those up to the threshold."""
        found: BoolArray = self._in_rest()[self._arranged.owners]
        return found

    def estimate(self) -> Estimate:
        """The estimate for features. Those of a part of which none is known have equal shares of its value.

        If some are known, the others have 0. What is left of the part's value is then mostly what they do together, and
        no feature that was not measured shall rank before its neighbour that was.
        """
        nodes, owners = self._arranged.nodes, self._arranged.owners
        contributions = [self._contributions[node] for node in nodes]
        ends, sizes = self._arranged.ends, self._arranged.sizes
        untouched = self._arranged.counts == sizes

        def estimate(values: FloatArray) -> Estimate:
            found, errors, freedom = _evaluated(contributions, values)
            return Estimate(
                attributions=np.where(untouched, found / sizes, 0.0)[owners],
                standard_errors=np.where(sizes == 1, errors, np.inf)[owners],
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
            hierarchy=self._hierarchy(values, errors),
        )

    def _stability(self, ends: Sequence[Contribution]) -> float | None:
        """Correlation between the values of the ends in two halves of the orders; None without random orders."""
        if any(each.shares is not None for each in ends):
            return None
        pairs = np.array([each.of_pairs(self.asked.values) for each in ends])
        return stability(pairs[:, 0::2].mean(axis=1), pairs[:, 1::2].mean(axis=1))

    def _hierarchy(self, values: FloatArray, errors: FloatArray) -> Hierarchy:
        nodes, parents = self._arranged.nodes, self._arranged.parents
        sizes, looked_into = np.abs(values), self._arranged.counts == 0
        excess = float((sizes[1:] - sizes[parents[1:]]).max(initial=0.0))
        children: list[list[int]] = [[] for _ in nodes]
        for index, parent in enumerate(parents[1:].tolist(), 1):
            children[parent].append(index)
        removal = self._method.node_value is NodeValue.REMOVAL
        in_rest = self._in_rest() & removal
        hidden = np.abs(self._arranged.left(values)) + excess + _SURE * errors
        return Hierarchy(
            tuple(
                HierarchyNode(
                    level=node.level,
                    span=node.span,
                    first_feature=node.start,
                    feature_count=len(node),
                    value=float(values[index]),
                    standard_error=float(errors[index]),
                    looked_into=bool(looked_into[index]),
                    children=tuple(children[index]),
                    hidden=None if looked_into[index] or not node.children else float(hidden[index]),
                    in_rest=bool(in_rest[index]),
                )
                for index, node in enumerate(nodes)
            ),
            self._method.node_value,
            None if self.rest is None else self.rest.value(self.asked.values),
        )

    def _in_rest(self) -> BoolArray:
        """Which parts seem to carry little: those not looked into, and leaves up to the threshold; bool [nodes]."""
        found = np.zeros(len(self._arranged.nodes), dtype=np.bool_)
        ends = self._arranged.ends
        found[ends] = (self._arranged.sizes[ends] > 1) | (np.abs(self._values[ends]) <= self.threshold)
        found[0] = False  # the whole text
        return found


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
