"""A fitted interpretable model."""

from __future__ import annotations

from dataclasses import dataclass

from ml.spec import SurrogateKind


@dataclass(frozen=True)
class TreeNode:
    """A node of a decision tree. A leaf has neither a feature nor children, which are indices of nodes."""

    value: float
    samples: int
    feature: int | None = None
    absent: int | None = None
    present: int | None = None


@dataclass(frozen=True)
class SurrogateFit:
    """A fitted interpretable model: a linear one has an intercept, a tree has nodes, the root first."""

    kind: SurrogateKind
    r_squared: float
    intercept: float | None = None
    nodes: tuple[TreeNode, ...] = ()
