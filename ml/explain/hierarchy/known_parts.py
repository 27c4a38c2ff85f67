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

_SURE, _SURE_OF_ROW = 2, 3
"""Standard errors by which a value has to differ from 0 to count; more of rows, as there are many of them."""
LEAST = 0.1
"""The least that is taken to matter for a row, as a share of what matters most: below, there is mostly rounding."""


class KnownParts:
    """The parts of a text that were measured: the children of those that were looked into, and leaves anywhere.

    A part has a value for the target and one for each of its rows. What a value is worth depends on the largest one for
    the same row, so that a part on which a single row rests is looked into as well; see `sizes`.

    Attributes:
        asked: the coalitions, and their values.
        rest: what the parts that seem to carry little contribute together; None as long as it is unknown.
    """

    def __init__(self, root: Node, method: spec.Hierarchical, limit: float | None) -> None:
        """Begin with the whole text alone; `limit` is the standard error that is asked for, if any."""
        self.asked = Asked(len(root))
        self.rest: Contribution | None = None
        self._method = method
        self._limit = limit
        self._contributions: dict[Node, Contribution] = {root: WHOLE}
        self._known: dict[Node, tuple[FloatArray, FloatArray]] = {}
        self._arranged = Arrangement.of([root], len(root))
        # Of what is arranged, [1 + rows, nodes]; the whole text's do not matter here.
        self._values = self._errors = self._sizes = np.zeros((1, 1))
        self._factors = np.ones((1, 1))

    def add(self, contributions: Mapping[Node, Contribution]) -> None:
        """Add contributions, whose coalitions have values."""
        self._contributions.update(contributions)
        values, errors, _ = _evaluated(list(contributions.values()), self.asked.values)
        of_rows, errors_of_rows, _ = _evaluated(list(contributions.values()), self.asked.row_values)
        found = (np.vstack([values, of_rows]).T, np.vstack([errors, errors_of_rows]).T)
        self._known.update(zip(contributions, zip(*found, strict=True), strict=True))
        self._arranged = Arrangement.of(self._contributions, self.asked.features)
        nothing = (np.zeros(len(found[0][0])),) * 2
        both = [self._known.get(node, nothing) for node in self._arranged.nodes]
        self._values, self._errors = (np.array(each).T for each in zip(*both, strict=True))
        largest = np.abs(self._values[:, self._arranged.ends]).max(axis=1, initial=0.0)
        top = largest.max()
        matters = np.maximum(largest, LEAST * top)
        self._factors = (top / matters if top else np.ones(len(largest)))[:, None]
        self._sizes = np.abs(self._values) * self._factors

    @property
    def is_empty(self) -> bool:
        """Whether no part below the whole text is known."""
        return not self._known

    @property
    def sizes(self) -> dict[Node, float]:
        """How much the known parts below the whole text matter, in the unit of values.

        It is the size of a part's value. With rows, it is the largest of the sizes for the target and for each row, all
        of them scaled so that what matters most for each counts the same. What matters most for a row counts as a tenth
        of what does for any other, at least.
        """
        sizes = self._sizes.max(axis=0).tolist()
        return dict(zip(self._arranged.nodes[1:], sizes[1:], strict=True))

    @property
    def threshold(self) -> float:
        """The size from which a part is looked into; see `sizes`.

        It is a share of the largest value at an end of the tree. A part that was looked into may be worth far more than
        all it consists of, as where two sources say the same; that says nothing about which of its pieces matter.
        """
        return self._method.threshold * float(np.abs(self._values[:, self._arranged.ends]).max(initial=0.0))

    @property
    def largest_error(self) -> float:
        """The largest standard error of a part at the end of the tree."""
        return float(self._errors[0, self._arranged.ends].max(initial=0.0))

    def candidates(self) -> dict[Node, float]:
        """The parts that are worth looking into, with the size of what is left of each one's value, the largest first.

        What is left of a part is its value without those of leaves in it that are known. For sizes see `sizes`.
        """
        ends = self._arranged.ends
        sure = np.where(np.arange(len(self._values)) > 0, _SURE_OF_ROW, _SURE)[:, None]
        is_sure = np.abs(self._values) >= sure * self._errors
        stands_out: BoolArray = np.any((self._sizes >= self.threshold) & is_sure, axis=0)
        found = ends[(self._arranged.sizes[ends] > 1) & stands_out[ends]]
        every = np.array([self._arranged.left(values) for values in self._values])
        left = (np.abs(every) * self._factors).max(axis=0)[found]
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
            None if self.rest is None else float(self.rest.value(self.asked.values)),
        )

    def _in_rest(self) -> BoolArray:
        """Which parts seem to carry little: those not looked into, and leaves up to the threshold; bool [nodes]."""
        found = np.zeros(len(self._arranged.nodes), dtype=np.bool_)
        ends = self._arranged.ends
        found[ends] = (self._arranged.sizes[ends] > 1) | (self._sizes.max(axis=0)[ends] <= self.threshold)
        found[0] = False  # the whole text
        return found


def _evaluated(contributions: Sequence[Contribution], values: FloatArray) -> tuple[FloatArray, FloatArray, float]:
    """The values of parts and their standard errors, from `values` of coalitions [..., n]; and degrees of freedom.

    Returns:
        float64 [..., parts] each, and of the errors the least degrees of freedom.
    """
    found = np.moveaxis(np.array([each.value(values) for each in contributions]), 0, -1)
    errors, freedom = np.zeros(found.shape), np.inf
    sampled = [index for index, each in enumerate(contributions) if each.shares is None]
    if sampled:
        each_pair = np.array([contributions[index].of_pairs(values) for index in sampled])  # [parts, ..., pairs]
        pairs = each_pair.shape[-1]
        own = np.moveaxis(deviation(each_pair, axis=-1), 0, -1) / math.sqrt(pairs)
        for row in np.ndindex(own.shape[:-1]):
            errors[(*row, sampled)], known_by = moderated(own[row], np.full(len(sampled), pairs - 1.0))
            freedom = min(freedom, known_by)
    return found, errors, freedom
