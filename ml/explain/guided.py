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
    ends = value.row_values(perturbed.empty_and_full)
    effects = np.abs(np.append(np.diff(value.known(perturbed.empty_and_full)), np.diff(ends)))
    priors = [prior_of(perturbed, target.tokens + target.rejected)]
    priors += [prior_of(perturbed, [target.tokens[position] for position in row]) for row in target.rows]
    limit, numbers = explainer.budget.max_evaluations, [0]
    spared = 0 if limit is None else limit - explainer.min_evaluations
    if limit is not None and target.rows:
        of_rows = _mattering(effects, target)
        numbers = of_rows if len(of_rows) <= min(_SHARE_OF_ROWS * limit, spared) else numbers
    gradients = None if prompt is None or spared < 1 else prompt.key_gradients(numbers)
    if gradients is None or limit is None:
        return replace(explainer, prior=for_any(priors, effects, LEAST))
    whole = gradients[0] if numbers[0] == 0 else gradients.sum(axis=0)
    of_number = dict(zip(numbers, gradients, strict=True)) | {0: whole}
    rest = whole if len(numbers) == 1 else np.zeros_like(whole)  # of rows without a gradient of their own
    known = [with_gradients(each, of_number.get(number, rest)) for number, each in enumerate(priors)]
    budget = replace(explainer.budget, max_evaluations=limit - len(numbers))
    return replace(explainer, prior=for_any(known, effects, LEAST), trust=_TRUST, budget=budget)


def _mattering(effects: FloatArray, target: TargetTokens) -> list[int]:
    """Which numbers have gradients: the rows on which leaving out everything has an effect, and the whole if needed."""
    rows = [number for number in range(1, len(effects)) if effects[number] >= LEAST * effects.max()]
    return rows if rows and target.is_sum_of_rows else [0, *rows]
