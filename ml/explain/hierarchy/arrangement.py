"""How the known parts of a text stand within each other, where not all between two of them need be known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ml.explain.estimator import FloatArray, IntArray
from ml.explain.hierarchy.tree import Node


@dataclass(frozen=True)
class Arrangement:
    """How the known parts stand within each other.

    Attributes:
        nodes: each before those within it, in the order of the text.
        parents: of each, the smallest known part around it, by its index, int64 [nodes]; −1 for the whole text.
        owners: of each feature, the smallest known part around it, by its index, int64 [features].
        sizes: how many features each has, int64 [nodes].
        counts: how many of them have none smaller than this, int64 [nodes]; 0 for what was looked into.
        ends: which nodes were not looked into: leaves, and parts of which not all is known.
    """

    nodes: list[Node]
    parents: IntArray
    owners: IntArray
    sizes: IntArray
    counts: IntArray
    ends: IntArray

    @classmethod
    def of(cls, known: Iterable[Node], features: int) -> Arrangement:
        """The arrangement of `known` parts, the whole text among them."""
        nodes = sorted(known, key=lambda node: (node.start, -len(node)))
        owners = np.full(features, -1)
        parents = np.empty(len(nodes), dtype=np.int64)
        for index, node in enumerate(nodes):
            parents[index] = owners[node.start]
            owners[node.start : node.stop] = index
        sizes = np.array([len(node) for node in nodes])
        counts = np.bincount(owners, minlength=len(nodes))
        return cls(nodes, parents, owners, sizes, counts, np.flatnonzero(counts))

    def left(self, values: FloatArray) -> FloatArray:
        """Of the values of the known parts, what those within a part that was not looked into leave of its own."""
        left = values.copy()
        within = self.counts[self.parents] > 0
        within[0] = False  # the whole text
        np.subtract.at(left, self.parents[within], values[within])
        return left
