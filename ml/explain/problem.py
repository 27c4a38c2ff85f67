"""The problem: a spec with all settled that only the tokenizer is needed for.

The server prepares a problem to refuse bad input before anything is queued; the worker prepares the same one to solve
it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from ml.errors import InputError, NotBuiltError
from ml.explain import faithfulness, target
from ml.explain.context import ContextExplainer, link
from ml.explain.estimator import Explainer
from ml.explain.features import Feature, segment
from ml.explain.kernel_shap import KernelShapExplainer
from ml.explain.lime import LimeExplainer
from ml.explain.occlusion import OcclusionExplainer
from ml.explain.permutation import PermutationExplainer
from ml.explain.removal import Perturbation, perturbation
from ml.explain.shapley import EnumerationExplainer, is_enumerable
from ml.explain.target import Readout, TargetPlan
from ml.language_model import ModelInfo
from ml.result import Token
from ml.spec import (
    ContextAttribution,
    Estimator,
    ExplanationSpec,
    KernelShap,
    Lime,
    Occlusion,
    ShapleyPermutation,
    Unbuilt,
)
from ml.tokens import Encoding, Tokenizer


@dataclass(frozen=True)
class Problem:
    """What there is to solve.

    Attributes:
        prompt_tokens: the prompt's tokens, for the result.
        quality: what is measured of the result; None when not asked for.
        planned: coalitions that will be asked for, with the base value, the full value and the quality block.
    """

    spec: ExplanationSpec
    info: ModelInfo
    encoding: Encoding
    prompt_tokens: tuple[Token, ...]
    features: tuple[Feature, ...]
    perturbation: Perturbation
    target: TargetPlan
    explainer: Explainer
    quality: faithfulness.Plan | None

    @property
    def planned(self) -> int:
        return 2 + self.explainer.planned + (self.quality.planned if self.quality else 0)

    def tokens(self, evaluations: int) -> int:
        """The most tokens that the model reads for so many evaluations: what prompts share is not left out."""
        beginning = len(self.perturbation.beginning)
        longest = self.perturbation.longest + self.target.longest
        return beginning + self.target.generate * len(self.encoding.ids) + evaluations * (longest - beginning)

    def fingerprint(self, readout: Readout) -> bytes:
        """32 bytes, equal where a coalition has the same value: same weights, prompt, features, removal and target."""
        parts = (
            self.info.digest,
            self.info.dtype,
            self.encoding.ids,
            [feature.positions for feature in self.features],
            self.perturbation.replacements,
            self.perturbation.nothing,
            readout,
        )
        return hashlib.sha256(repr(parts).encode()).digest()


def prepare(tokenizer: Tokenizer, info: ModelInfo, spec: ExplanationSpec) -> Problem:
    """Check a spec against a model's tokenizer and settle all that can be settled without running the model.

    Raises:
        InputError: something in the spec is not allowed; its `field` is the contract's path.
        PromptTooLongError: prompt, target or replacements exceed the context.
        NotBuiltError: the method or the removal is not built yet.
    """
    if isinstance(spec.method, Unbuilt):
        raise NotBuiltError(f"the method {spec.method.name}")
    encoding = tokenizer.encode(spec.prompt)
    planned_target = target.plan(tokenizer, info, encoding, spec.target)
    features = segment(encoding, spec.features)
    perturbed = perturbation(tokenizer, encoding, features, spec.removal)
    longest = perturbed.longest + planned_target.longest
    if longest > info.context_length:
        raise InputError(
            "removal.text",
            f"with every feature replaced, prompt and target have {longest} tokens and this model reads at most"
            f" {info.context_length}; choose a shorter text",
        )
    return Problem(
        spec=spec,
        info=info,
        encoding=encoding,
        prompt_tokens=tokenizer.tokens(encoding),
        features=features,
        perturbation=perturbed,
        target=planned_target,
        explainer=_explainer(spec, len(features)),
        quality=faithfulness.Plan.of(len(features), len(encoding.ids)) if spec.faithfulness else None,
    )


def _explainer(spec: ExplanationSpec, features: int) -> Explainer:
    explainer = _chosen(spec, features)
    most = spec.budget.max_evaluations
    if most is not None and explainer.fewest > most:
        raise InputError(
            "budget.max_evaluations",
            f"this method takes at least {explainer.fewest} evaluations of these {features} features, more than {most};"
            " raise the limit, use larger features (or for occlusion wider windows with a stride), or choose LIME",
        )
    return explainer


def _chosen(spec: ExplanationSpec, features: int) -> Explainer:
    controlled = spec.estimator is Estimator.CONTROL_VARIATES
    match spec.method:
        case Occlusion():
            return OcclusionExplainer(features, spec.method)
        case Lime():
            return LimeExplainer(features, spec.method, spec.budget, control=controlled)
        case KernelShap() | ShapleyPermutation() if is_enumerable(features, spec.budget):
            return EnumerationExplainer(features, spec.budget)
        case KernelShap():
            return KernelShapExplainer(features, spec.budget, control=controlled)
        case ShapleyPermutation():
            return PermutationExplainer(features, spec.budget)
        case ContextAttribution():
            return ContextExplainer(features, spec.method, spec.budget, link(spec.target))
        case Unbuilt(name):
            raise NotBuiltError(f"the method {name}")
