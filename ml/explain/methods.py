"""The methods: which explainer a spec asks for, and what a method demands of the model and of the removal."""

from __future__ import annotations

from ml import attention, spec
from ml.attention import AttentionSpec, Reduction
from ml.errors import InputError, NoAttentionError, NotBuiltError
from ml.explain.context import ContextExplainer, link
from ml.explain.estimator import Explainer
from ml.explain.flow import AttentionRolloutExplainer, ValueZeroingExplainer
from ml.explain.gradients import InputTimesGradientExplainer, IntegratedGradientsExplainer
from ml.explain.inside import Inspector
from ml.explain.kernel_shap import KernelShapExplainer
from ml.explain.lime import LimeExplainer
from ml.explain.occlusion import OcclusionExplainer
from ml.explain.permutation import PermutationExplainer
from ml.explain.removal import Perturbation
from ml.explain.shapley import EnumerationExplainer, is_enumerable
from ml.language_model import ModelInfo
from ml.spec import Estimator, ExplanationSpec, RemovalKind
from ml.tokens import Tokenizer


def removal(tokenizer: Tokenizer, asked: ExplanationSpec) -> spec.Removal:
    """The removal that a spec asks for; the method's own default where deletion would not do."""
    integrates = isinstance(asked.method, spec.IntegratedGradients)
    if integrates and asked.removal.kind is None and tokenizer.mask_token is None:
        return spec.Removal(RemovalKind.MEAN_EMBEDDING)
    return asked.removal


def explainer(asked: ExplanationSpec, info: ModelInfo, perturbed: Perturbation, tokens: int) -> Explainer | Inspector:
    """The explainer of a spec's method. `tokens`: the most that prompt and target have.

    Raises:
        InputError: the budget is too small, or the removal or so long a prompt does not suit the method.
        NoAttentionError: the method is about attention, and the model has none.
        NotBuiltError: the method is not built yet.
    """
    chosen = _chosen(asked, info, perturbed, tokens)
    most = asked.budget.max_evaluations
    if most is not None and chosen.fewest > most:
        raise InputError(
            "budget.max_evaluations",
            f"this method takes at least {chosen.fewest} evaluations of these {perturbed.features} features, more than"
            f" {most}; raise the limit, {_advice(asked.method)}",
        )
    return chosen


def _chosen(asked: ExplanationSpec, info: ModelInfo, perturbed: Perturbation, tokens: int) -> Explainer | Inspector:
    match asked.method:
        case spec.InputTimesGradient():
            return InputTimesGradientExplainer()
        case spec.IntegratedGradients():
            _check_path(perturbed)
            return IntegratedGradientsExplainer(asked.method)
        case spec.AttentionRollout():
            _check_rollout(info, tokens)
            return AttentionRolloutExplainer()
        case spec.ValueZeroing():
            if not info.heads:
                raise NoAttentionError(info.name)
            return ValueZeroingExplainer(tokens)
        case _:
            return _of_a_game(asked, perturbed.features)


def _of_a_game(asked: ExplanationSpec, features: int) -> Explainer:
    controlled = asked.estimator is Estimator.CONTROL_VARIATES
    match asked.method:
        case spec.Occlusion():
            return OcclusionExplainer(features, asked.method)
        case spec.Lime():
            return LimeExplainer(features, asked.method, asked.budget, control=controlled)
        case spec.ContextAttribution():
            return ContextExplainer(features, asked.method, asked.budget, link(asked.target))
        case spec.KernelShap() | spec.ShapleyPermutation():
            return _shapley(asked, features)
        case spec.Unbuilt(name):
            raise NotBuiltError(f"the method {name}")
        case _:
            raise NotBuiltError(f"the method {type(asked.method).__name__}")


def _shapley(asked: ExplanationSpec, features: int) -> Explainer:
    if is_enumerable(features, asked.budget):
        return EnumerationExplainer(features, asked.budget)
    if isinstance(asked.method, spec.ShapleyPermutation):
        return PermutationExplainer(features, asked.budget)
    return KernelShapExplainer(features, asked.budget, control=asked.estimator is Estimator.CONTROL_VARIATES)


def _check_path(perturbed: Perturbation) -> None:
    if not perturbed.keeps_places:
        raise InputError(
            "removal.kind",
            "integrated gradients move each token's embedding to that of what replaces it, so a feature and its"
            " replacement must have equally many tokens; choose the mask token or the mean embedding",
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
