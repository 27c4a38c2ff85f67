"""Where to look first: a prior of which leaves matter, and how far what was measured bears it out."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from ml.explain.estimator import FloatArray
from ml.explain.hierarchy.contributions import Contribution, LeaveOneOut
from ml.explain.hierarchy.tree import Node
from ml.explain.removal import Perturbation

_SHARED = 0.2
"""The weight of shared tokens against that of nearness."""


def prior_of(perturbed: Perturbation, target: Collection[int]) -> FloatArray:
    """How much each feature may matter for a target's tokens, in no unit, float64 [features].

    A feature may matter more the nearer it is to the target, and the more and the rarer tokens it shares with it. This
    takes no evaluation, and nothing of the model but its tokens.
    """
    features, mine = perturbed.features, perturbed.owner >= 0
    near = 1 / np.arange(features, 0, -1)
    pairs = np.unique(np.stack([perturbed.ids[mine], perturbed.owner[mine]]), axis=1)  # [2, pairs]
    tokens, owners = pairs[:, np.isin(pairs[0], list(target))]
    _, token, having = np.unique(tokens, return_inverse=True, return_counts=True)
    shared = np.bincount(owners, weights=np.log(features / having)[token], minlength=features) ** 2
    sizes: FloatArray = near / near.sum()
    if shared.any():
        sizes += _SHARED * shared / shared.sum()
    return sizes


def with_gradients(prior: FloatArray, gradients: FloatArray) -> FloatArray:
    """A prior and, with the same weight, the loss to first order if less is seen of a feature, float64 [features].

    Args:
        gradients: of the value, with respect to how much is seen of each feature; see `ModelInternals.key_gradients`.
    """
    supports = np.clip(gradients, 0, None)
    return prior / prior.sum() + supports / supports.sum() if supports.any() else prior


def for_any(priors: Sequence[FloatArray], weights: FloatArray) -> FloatArray:
    """How much each feature may matter for any of some numbers, float64 [features].

    It is as much as for the number for which the feature matters most.

    Args:
        priors: of each number, float64 [features].
        weights: of each number, float64 [numbers].
    """
    if len(priors) == 1:
        return priors[0]
    each = [weight * prior / prior.sum() for weight, prior in zip(weights.tolist(), priors, strict=True)]
    found: FloatArray = np.max(each, axis=0)
    return found


class Guide:
    """The leaves in the order of a prior, and what they are expected to be worth.

    What the leaves that were measured for their prior turned out to be worth scales it. So a prior that misleads is
    soon not followed any more, but for the first leaves, if it is trusted so far.
    """

    def __init__(self, root: Node, sizes: FloatArray, removal: LeaveOneOut, *, trusted: int = 0) -> None:
        """The leaves of `root` by the prior `sizes`, float64 [features]; only positive, finite numbers count.

        Args:
            trusted: how many leaves are measured for their prior in any case.
        """
        leaves = [node for node in root if not node.children]
        self._sizes = np.where(np.isfinite(sizes), sizes, 0.0)
        order = np.argsort(-self._sizes, kind="stable").tolist()
        self._waiting = [leaves[feature] for feature in order if self._sizes[feature] > 0]
        self._tried: list[Node] = []
        self._trusted = trusted
        self._removal = removal

    def measure(self, sizes: Mapping[Node, float], limit: int, least: float) -> dict[Node, Contribution]:
        """The losses when each of the next leaves is left out; none if less than `least` is expected of one.

        The first leaves are measured whatever is expected, if the prior is trusted.

        Args:
            sizes: how much the known parts matter; see `KnownParts.sizes`.
            limit: how many leaves at most.
        """
        self._waiting = [leaf for leaf in self._waiting if leaf not in sizes]
        leaves = self._waiting[:limit]
        is_trusted = len(self._tried) < self._trusted
        if not leaves or (not is_trusted and self._expected(leaves, sizes) < least):
            return {}
        self._tried += leaves
        return self._removal.of(leaves)

    def _expected(self, leaves: Sequence[Node], sizes: Mapping[Node, float]) -> float:
        """The mean size that `leaves` are expected to have; infinite before any was tried."""
        if not self._tried:
            return math.inf
        scale = sum(sizes[leaf] for leaf in self._tried) / self._prior(self._tried)
        return scale * self._prior(leaves) / len(leaves)

    def _prior(self, leaves: Sequence[Node]) -> float:
        return float(self._sizes[[leaf.start for leaf in leaves]].sum())
