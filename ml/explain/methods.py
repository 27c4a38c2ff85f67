"""The methods: which explainer a spec asks for, and what a method demands of the model and of the removal."""

from __future__ import annotations

from collections.abc import Sequence

from ml import attention, spec
from ml.attention import AttentionSpec, Reduction
from ml.errors import InputError, NoAttentionError, PromptTooLongError
from ml.explain.bias import BiasProbeExplainer
from ml.explain.context import ContextExplainer, link
from ml.explain.estimator import Explainer
from ml.explain.features import Feature, segment
from ml.explain.flow import AttentionRolloutExplainer, ValueZeroingExplainer
from ml.explain.global_surrogate import GlobalSurrogateExplainer, bag, located
from ml.explain.gradients import InputTimesGradientExplainer, IntegratedGradientsExplainer
from ml.explain.interactions import MOST_FEATURES, InteractionsExplainer
from ml.explain.internals import InternalsExplainer
from ml.explain.kernel_shap import KernelShapExplainer
from ml.explain.lime import LimeExplainer
from ml.explain.occlusion import OcclusionExplainer
from ml.explain.permutation import PermutationExplainer
from ml.explain.removal import Perturbation
from ml.explain.shapley import EnumerationExplainer, is_enumerable
from ml.explain.texts import Prompts, Texts
from ml.models.protocol import ModelInfo
from ml.result import AttributionUnit
from ml.spec import Estimator, ExplanationSpec, RemovalKind, Scale, SurrogateKind
from ml.tokens import Encoding, Tokenizer


def is_survey(method: spec.Method) -> bool:
    """Whether a method asks about many prompts, and not about the features of one."""
    return isinstance(method, spec.GlobalSurrogate | spec.BiasProbe)


def unit(asked: ExplanationSpec) -> AttributionUnit:
    """The unit of the attributions."""
    method, target = asked.method, asked.target
    if isinstance(method, spec.AttentionRollout | spec.ValueZeroing):
        return AttributionUnit.SHARE
    if isinstance(method, spec.Lime | spec.GlobalSurrogate) and method.surrogate is SurrogateKind.DECISION_TREE:
        return AttributionUnit.IMPURITY_SHARE
    if isinstance(method, spec.ContextAttribution) and not isinstance(target.kind, spec.ContrastTarget):
        return AttributionUnit.LOG_ODDS
    return AttributionUnit.PROBABILITY if target.scale is Scale.PROBABILITY else AttributionUnit.NAT


def subject(asked: ExplanationSpec) -> tuple[spec.Prompt, spec.Features]:
    """The prompt that the result shows, and what it is cut into."""
    if not isinstance(asked.method, spec.BiasProbe):
        return asked.prompt, asked.features
    word = asked.method.groups[0].words[0]
    template = asked.prompt.text or ""
    start = template.index(spec.SLOT)
    return spec.Prompt(template.replace(spec.SLOT, word)), spec.Features(spans=((start, start + len(word)),))


def cut(encoding: Encoding, wanted: spec.Features, method: spec.Method) -> tuple[Feature, ...]:
    """The features of the prompt.

    Raises:
        InputError: as `segment`; or no token begins with the word in a bias probe's slot.
    """
    try:
        return segment(encoding, wanted)
    except InputError as error:
        if not isinstance(method, spec.BiasProbe):
            raise
        message = f"the word in the slot is part of a longer token; put a space before {spec.SLOT}"
        raise InputError("prompt.text", message) from error


def prompts(tokenizer: Tokenizer, asked: ExplanationSpec, perturbed: Perturbation, appended: int) -> Prompts:
    """What the value function chooses from. `appended`: the most tokens that the model reads behind a prompt.

    Raises:
        InputError, PromptTooLongError: as `Tokenizer.encode`.
    """
    others: list[tuple[str, str]] = []  # by where they stand in the spec
    match asked.method:
        case spec.GlobalSurrogate(texts):
            others = [(f"global_surrogate.prompts[{index}]", texts[index]) for index in _distinct(asked, texts)]
        case spec.BiasProbe(groups, templates):
            places = ["prompt.text", *(f"bias_probe.templates[{index}]" for index in range(len(templates)))]
            others = [
                (place, template.replace(spec.SLOT, words[group]))
                for place, template in zip(places, (asked.prompt.text or "", *templates), strict=True)
                for words in zip(*(group.words for group in groups), strict=True)
                for group in range(len(groups))
            ][1:]  # the first is the prompt itself
        case _:
            return perturbed
    return Texts(perturbed, tuple(_ids(tokenizer, place, text, appended) for place, text in others))


def _distinct(asked: ExplanationSpec, texts: Sequence[str]) -> list[int]:
    """Where texts come for the first time: a copy is no more evidence, and would test a fit on what it knows."""
    first = {text: index for index, text in reversed([*enumerate(texts)]) if text != asked.prompt.text}
    if len(first) < spec.FEWEST_PROMPTS:
        message = f"only {len(first) + 1} differ, the spec's own among them; send at least {spec.FEWEST_PROMPTS + 1}"
        raise InputError("global_surrogate.prompts", message)
    return sorted(first.values())


def _ids(tokenizer: Tokenizer, place: str, text: str, appended: int) -> tuple[int, ...]:
    try:
        ids = tokenizer.prompt_ids(spec.Prompt(text))
        if len(ids) + appended > tokenizer.context_length:
            message = (
                f"the prompt has {len(ids)} tokens and the target adds {appended}, more than the"
                f" {tokenizer.context_length} that this model reads; shorten one of them"
            )
            raise PromptTooLongError(place, len(ids) + appended, tokenizer.context_length, message)
    except InputError as error:
        error.field = place
        raise
    return ids


def removal(tokenizer: Tokenizer, asked: ExplanationSpec) -> spec.Removal:
    """The removal that a spec asks for; the method's own default where deletion would not do."""
    integrates = isinstance(asked.method, spec.IntegratedGradients)
    if integrates and asked.removal.kind is None and tokenizer.mask_token is None:
        return spec.Removal(RemovalKind.MEAN_EMBEDDING)
    return asked.removal


def explainer(
    asked: ExplanationSpec,
    info: ModelInfo,
    perturbed: Perturbation,
    *,
    encoding: Encoding,
    features: Sequence[Feature],
    appended: int,
) -> Explainer | InternalsExplainer:
    """The explainer of a spec's method.

    Args:
        perturbed: the prompt that the result shows; `encoding` and `features` are its.
        appended: the most tokens that the model reads behind it.

    Raises:
        InputError: the budget is too small, or the removal or so long a prompt does not suit the method.
        NoAttentionError: the method is about attention, and the model has none.
    """
    if is_survey(asked.method):
        chosen = _survey(asked, encoding, features)
    else:
        chosen = _of_internals(asked, info, perturbed, len(encoding.ids) + appended) or _of_a_game(asked, len(features))
    most = asked.budget.max_evaluations
    if most is not None and chosen.min_evaluations > most:
        raise InputError(
            "budget.max_evaluations",
            f"this method takes at least {chosen.min_evaluations} evaluations of {_what(asked.method, len(features))},"
            f" more than {most}; raise the limit, {_advice(asked.method)}",
        )
    return chosen


def _survey(asked: ExplanationSpec, encoding: Encoding, features: Sequence[Feature]) -> Explainer | InternalsExplainer:
    if isinstance(asked.method, spec.BiasProbe):
        groups = asked.method.groups
        return BiasProbeExplainer(
            seed=asked.budget.seed,
            labels=tuple(group.label for group in groups),
            words=len(groups[0].words),
            templates=1 + len(asked.method.templates),
        )
    if not isinstance(asked.method, spec.GlobalSurrogate):
        raise AssertionError("the two surveys are all that there are")
    own = located(encoding.text, encoding.editable)
    texts = asked.method.prompts
    return GlobalSurrogateExplainer(
        asked.method,
        asked.budget.seed,
        bags=(frozenset(own.values()), *(bag(texts[index]) for index in _distinct(asked, texts))),
        features=tuple(
            frozenset(word for start, word in own.items() if feature.span[0] <= start < feature.span[1])
            for feature in features
        ),
    )


def _of_internals(
    asked: ExplanationSpec, info: ModelInfo, perturbed: Perturbation, tokens: int
) -> InternalsExplainer | None:
    """The explainer of a method that looks inside the model; None for others.

    `tokens`: the most that the model reads at once.
    """
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
            return None


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
        case spec.Interactions():
            _check_pairs(features)
            return InteractionsExplainer(features, asked.budget)
        case _:
            raise AssertionError(f"{asked.method} is no game's")


def _shapley(asked: ExplanationSpec, features: int) -> Explainer:
    if is_enumerable(features, asked.budget):
        return EnumerationExplainer(features, asked.budget)
    if isinstance(asked.method, spec.ShapleyPermutation):
        return PermutationExplainer(features, asked.budget)
    return KernelShapExplainer(features, asked.budget, control=asked.estimator is Estimator.CONTROL_VARIATES)


def _check_pairs(features: int) -> None:
    if features > MOST_FEATURES:
        raise InputError(
            "features",
            f"the prompt has {features} features, and interactions are found of at most {MOST_FEATURES}; choose larger"
            " units, or restrict them with features.within",
        )


def _check_path(perturbed: Perturbation) -> None:
    if not perturbed.keeps_positions:
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


def _what(method: spec.Method, features: int) -> str:
    return "so many texts" if is_survey(method) else f"these {features} features"


def _advice(method: spec.Method) -> str:
    match method:
        case spec.IntegratedGradients():
            return "or take fewer steps"
        case spec.ValueZeroing():
            return "or choose attention rollout, which takes one"
        case spec.GlobalSurrogate() | spec.BiasProbe():
            return "or send fewer of them"
        case _:
            return "use larger features (or for occlusion wider windows with a stride), or choose LIME"
