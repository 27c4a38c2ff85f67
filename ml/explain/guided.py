"""Give a method that goes from coarse to fine a prior of where to look first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ml.explain.estimator import Estimating, FloatArray
from ml.explain.explainers.hierarchical import HierarchicalExplainer
from ml.explain.hierarchy.known_parts import LEAST
from ml.explain.hierarchy.prior import for_any, prior_of, with_gradients
from ml.explain.removal import Perturbation
from ml.explain.target import TargetTokens
from ml.explain.values.internals import PromptInternals
from ml.explain.values.value_function import ValueFunction

_TRUST = 0.75
"""Of a search that knows gradients: in texts they find more than the values of parts do."""
_SHARE_OF_ROWS = 1 / 8
"""Of the evaluations, what gradients of rows may take; where there are more rows, one gradient is of them all."""


def guided(
    explainer: HierarchicalExplainer,
    perturbed: Perturbation,
    target: TargetTokens,
    value: ValueFunction,
    prompt: PromptInternals | None,
) -> Estimating:
    """`explainer` at work on `value`, with a prior of where to look, if that matters.

    Where the model shows its gradients, and there is time for them, the prior takes one of the evaluations, or one for
    each row.

    Args:
        prompt: inside the model, where it is within reach.
    """
    if explainer.has_choice:
        # They are needed anyway: how fast the model is, how much time is left, and which rows rest on the text at all.
        yield from value(perturbed.empty_and_full)
        yield None  # the time limit is known after the first chunk
        explainer = _with_prior(explainer, perturbed, target, value, prompt)
    yield from explainer(value)


def _with_prior(
    explainer: HierarchicalExplainer,
    perturbed: Perturbation,
    target: TargetTokens,
    value: ValueFunction,
    prompt: PromptInternals | None,
) -> HierarchicalExplainer:
    priors = [prior_of(perturbed, target.tokens + target.rejected)]
    priors += [prior_of(perturbed, [target.tokens[position] for position in row]) for row in target.rows]
    weights = _weights(value, perturbed)
    limit = explainer.budget.max_evaluations
    spared = 0 if limit is None else limit - explainer.min_evaluations
    numbers = np.flatnonzero(weights == 1).tolist() if target.rows else [0]
    if target.is_sum_of_rows:
        numbers = numbers[1:]  # they sum to the target's
    if limit is None or len(numbers) > min(_SHARE_OF_ROWS * limit, spared):
        numbers = [0]
    gradients = None if prompt is None or spared < 1 else prompt.key_gradients(numbers)
    if gradients is None or limit is None:
        return replace(explainer, prior=for_any(priors, weights))
    whole = gradients[0] if numbers[0] == 0 else gradients.sum(axis=0)
    own = dict(zip(numbers, gradients, strict=True))
    priors = [with_gradients(each, own.get(number, whole)) for number, each in enumerate(priors)]
    budget = replace(explainer.budget, max_evaluations=limit - len(numbers))
    return replace(explainer, prior=for_any(priors, weights), trust=_TRUST, budget=budget)


def _weights(value: ValueFunction, perturbed: Perturbation) -> FloatArray:
    """How much the target and each of its rows count, up to 1, float64 [1 + rows].

    A row counts less if leaving out everything changes it by less than a tenth of what it changes another one by.
    """
    effects = np.abs(np.diff(value.row_values(perturbed.empty_and_full), axis=1))[:, 0]
    top = np.nanmax(effects, initial=0.0)
    rows = np.minimum(1.0, np.nan_to_num(effects) / (LEAST * top)) if top else np.ones(len(effects))
    return np.append(1.0, rows)
