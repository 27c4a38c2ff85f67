"""Give a method that goes from coarse to fine a prior of where to look first."""

from __future__ import annotations

from dataclasses import replace

from ml.explain.explainers.hierarchical import HierarchicalExplainer
from ml.explain.hierarchy.prior import prior_of, with_gradients
from ml.explain.removal import Perturbation
from ml.explain.target import TargetTokens
from ml.explain.values.internals import PromptInternals

_TRUST = 0.75
"""Of a search that knows gradients: in texts they find more than the values of parts do."""


def guided(
    explainer: HierarchicalExplainer,
    perturbed: Perturbation,
    target: TargetTokens,
    prompt: PromptInternals | None,
) -> HierarchicalExplainer:
    """`explainer` with a prior of where to look, if that matters.

    Where the model shows its gradients, the prior takes one of the evaluations.

    Args:
        prompt: inside the model, where it is within reach.
    """
    if not explainer.has_choice:
        return explainer
    prior = prior_of(perturbed, target.tokens + target.rejected)
    limit = explainer.budget.max_evaluations
    spared = None if limit is None or limit <= explainer.min_evaluations else limit - 1
    gradients = None if prompt is None or spared is None else prompt.key_gradients()
    if gradients is None:
        return replace(explainer, prior=prior)
    budget = replace(explainer.budget, max_evaluations=spared)
    return replace(explainer, prior=with_gradients(prior, gradients), trust=_TRUST, budget=budget)
