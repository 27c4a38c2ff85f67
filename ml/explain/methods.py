"""Which explainer a spec asks for, and what its method requires of the model and the removal."""

from __future__ import annotations

from dataclasses import replace

from ml import attention, spec
from ml.attention import AttentionSpec, Reduction
from ml.errors import InputError, NoAttentionError, OutOfReachError
from ml.explain.estimator import Explainer
from ml.explain.explainers import sparse_interactions
from ml.explain.explainers.context import ContextExplainer, link
from ml.explain.explainers.enumeration import EnumerationExplainer
from ml.explain.explainers.flow import AttentionRolloutExplainer, ValueZeroingExplainer
from ml.explain.explainers.gradients import InputTimesGradientExplainer, IntegratedGradientsExplainer
from ml.explain.explainers.hierarchical import HierarchicalExplainer
from ml.explain.explainers.interactions import MAX_FEATURES, InteractionsExplainer
from ml.explain.explainers.kernel_shap import KernelShapExplainer
from ml.explain.explainers.lime import LimeExplainer
from ml.explain.explainers.occlusion import OcclusionExplainer
from ml.explain.explainers.permutation import PermutationExplainer
from ml.explain.explainers.sparse_interactions import SparseInteractionsExplainer
from ml.explain.hierarchy.tree import Node
from ml.explain.removal import BY_SIMILAR_WORDS, Perturbation
from ml.explain.sampling.draws import is_enumerable
from ml.explain.target import unit as value_unit
from ml.explain.values.internals import InternalsExplainer
from ml.models.protocol import ModelInfo
from ml.result import AttributionUnit
from ml.spec import Estimator, ExplanationSpec, RemovalKind, Scale, SurrogateKind
from ml.tokens import Tokenizer

_INTERNALS = (spec.InputTimesGradient, spec.IntegratedGradients, spec.AttentionRollout, spec.ValueZeroing)
"""Methods that look inside the model."""


def unit(asked: ExplanationSpec) -> AttributionUnit:
    """The unit of the attributions."""
    method, target = asked.method, asked.target
    if isinstance(method, spec.AttentionRollout | spec.ValueZeroing):
        return AttributionUnit.SHARE
    if isinstance(method, spec.Lime) and method.surrogate is SurrogateKind.DECISION_TREE:
        return AttributionUnit.IMPURITY_SHARE
    if isinstance(method, spec.ContextAttribution) and not isinstance(target.kind, spec.ContrastTarget):
        return AttributionUnit.LOG_ODDS
    return value_unit(target.scale)


def removal(tokenizer: Tokenizer, asked: ExplanationSpec) -> spec.Removal:
    """The removal that a spec asks for, or the method's default where deletion does not suit it."""
    integrates = isinstance(asked.method, spec.IntegratedGradients)
    if integrates and asked.removal.kind is None and tokenizer.mask_token is None:
        return spec.Removal(RemovalKind.MEAN_EMBEDDING)
    return asked.removal


def explainer(
    asked: ExplanationSpec,
    info: ModelInfo,
    perturbed: Perturbation,
    hierarchy: Node,
    *,
    appended: int,
    rows: int = 0,
) -> Explainer | InternalsExplainer:
    """The explainer of a spec's method.

    Args:
        perturbed: the prompt.
        hierarchy: the tree over its features.
        appended: the most tokens that the model reads after the prompt.
        rows: the most rows that the target may have.

    Raises:
        InputError: the budget is too small, or the method does not support the removal, the rows or so many features.
        NoAttentionError: the method needs attention, and the model has none.
        OutOfReachError: method or removal need the internals of a model that an external engine computes.
    """
    _check_reach(asked, info, perturbed)
    if perturbed.resolved.kind is RemovalKind.SIMILAR_SLOPES and not isinstance(asked.method, spec.Occlusion):
        raise InputError("removal.kind", "slopes are of one window at a time; choose occlusion, or plain similar words")
    limit, removals = asked.budget.max_evaluations, perturbed.removals
    if limit is not None and removals > 1:  # the budget counts prompts, explainers count coalitions
        asked = replace(asked, budget=replace(asked.budget, max_evaluations=max(2, limit // removals)))
    features = perturbed.features
    _check_rows(asked)
    internals = _of_internals(asked, info, perturbed, len(perturbed.ids) + appended, rows)
    chosen = internals or _of_a_game(asked, features, hierarchy)
    needed = chosen.min_evaluations * (1 if isinstance(chosen, InternalsExplainer) else removals)
    if limit is not None and needed > limit:
        raise InputError(
            "budget.max_evaluations",
            f"this method takes at least {needed} evaluations for these {features} features"
            f"{f' and {rows} rows' if rows and internals else ''}, more than {limit}; raise the limit,"
            f" {_advice(asked.method)}",
        )
    return chosen


def _check_reach(asked: ExplanationSpec, info: ModelInfo, perturbed: Perturbation) -> None:
    if not info.engine:
        return
    if isinstance(asked.method, _INTERNALS):
        instead = (
            "choose occlusion, LIME, KernelSHAP, Shapley permutation, interactions, context attribution or the"
            " hierarchical method, or load the model in Gloss"
        )
        raise OutOfReachError(info.name, info.engine, "gives log-probabilities, no gradients and no attention", instead)
    by_embeddings = {
        RemovalKind.MEAN_EMBEDDING: "reads tokens, not the mean of their embeddings",
        **dict.fromkeys(BY_SIMILAR_WORDS, "does not say which tokens have similar embeddings"),
    }
    if (why := by_embeddings.get(perturbed.resolved.kind)) is not None:
        raise OutOfReachError(info.name, info.engine, why, "remove by the mask token, a text or deletion")


def _of_internals(
    asked: ExplanationSpec, info: ModelInfo, perturbed: Perturbation, tokens: int, rows: int
) -> InternalsExplainer | None:
    """The explainer of a method that looks inside the model, else None; `tokens` is the most that the model reads."""
    match asked.method:
        case spec.InputTimesGradient():
            return InputTimesGradientExplainer(_gradients(asked, rows))
        case spec.IntegratedGradients():
            _check_path(perturbed)
            return IntegratedGradientsExplainer(asked.method, asked.budget, _gradients(asked, rows))
        case spec.AttentionRollout():
            _check_rollout(info, tokens)
            return AttentionRolloutExplainer()
        case spec.ValueZeroing():
            if not info.heads:
                raise NoAttentionError(info.name)
            return ValueZeroingExplainer(tokens)
        case _:
            return None


def _gradients(asked: ExplanationSpec, rows: int) -> int:
    """The most gradients at a point: one for each row, and the target's own where it is not the sum of its rows."""
    share_all = asked.rows is not None and not asked.rows.spans
    return rows if share_all and asked.target.scale is Scale.LOG_PROBABILITY else 1 + rows


def _of_a_game(asked: ExplanationSpec, features: int, hierarchy: Node) -> Explainer:
    match asked.method:
        case spec.Occlusion():
            return OcclusionExplainer(features, asked.method)
        case spec.Lime(estimator=estimator):
            controlled = estimator is Estimator.CONTROL_VARIATES
            return LimeExplainer(features, asked.method, asked.budget, control=controlled)
        case spec.ContextAttribution():
            return ContextExplainer(features, asked.method, asked.budget, link(asked.target))
        case spec.KernelShap() | spec.ShapleyPermutation():
            return _shapley(asked.method, features, asked.budget)
        case spec.Interactions():
            return _interactions(asked, features)
        case spec.Hierarchical():
            return HierarchicalExplainer(hierarchy, asked.method, asked.budget)
        case _:
            raise AssertionError(f"{asked.method} has no explainer")


def _shapley(method: spec.KernelShap | spec.ShapleyPermutation, features: int, budget: spec.Budget) -> Explainer:
    """Exact Shapley values where all coalitions are within the budget, else the method that was asked for."""
    if is_enumerable(features, budget):
        return EnumerationExplainer(features, budget)
    if isinstance(method, spec.ShapleyPermutation):
        return PermutationExplainer(features, budget)
    return KernelShapExplainer(features, budget, control=method.estimator is Estimator.CONTROL_VARIATES)


def _check_rows(asked: ExplanationSpec) -> None:
    """Raise `InputError` if the method has no such rows."""
    if asked.rows is None:
        return
    if isinstance(asked.method, spec.AttentionRollout | spec.ValueZeroing):
        message = "this method shows where the model looks, not what it answers; for rows, choose another method"
        raise InputError("rows", message)
    if asked.rows.pairs and not isinstance(asked.method, spec.Interactions):
        raise InputError("rows.pairs", "only interactions have rows of pairs; leave it unset, or choose that method")


def _interactions(asked: ExplanationSpec, features: int) -> Explainer:
    """Interactions of all pairs; with too many features for that, of the pairs that seem to matter."""
    pair_rows = asked.rows is not None and asked.rows.pairs
    if features <= MAX_FEATURES:
        return InteractionsExplainer(features, asked.budget, pair_rows)
    advice = "choose larger units, or restrict them with features.within"
    if pair_rows:
        message = f"rows of pairs are for at most {MAX_FEATURES} features, and the prompt has {features}; {advice}"
        raise InputError("rows.pairs", message)
    if features > sparse_interactions.MAX_FEATURES:
        limit = sparse_interactions.MAX_FEATURES
        message = f"the prompt has {features} features, and interactions are for at most {limit:,}; {advice}"
        raise InputError("features", message)
    return SparseInteractionsExplainer(features, asked.budget)


def _check_path(perturbed: Perturbation) -> None:
    if not perturbed.keeps_positions:
        raise InputError(
            "removal.kind",
            "integrated gradients move each token's embedding to its replacement's, so a feature and its replacement"
            " must have equally many tokens; choose the mask token or the mean embedding",
        )


def _check_rollout(info: ModelInfo, tokens: int) -> None:
    try:
        attention.resolve(AttentionSpec(reduction=Reduction.ROLLOUT), info, tokens)
    except InputError as error:
        error.field = "attention_rollout"
        raise


def _advice(method: spec.Method) -> str:
    match method:
        case spec.IntegratedGradients():
            return "or take fewer steps"
        case spec.ValueZeroing():
            return "or choose attention rollout, which takes one"
        case _:
            return "use larger features (or for occlusion wider windows with a stride), or choose LIME"
