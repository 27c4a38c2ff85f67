"""The problem: a spec, checked and worked out as far as the tokenizer allows, before the model runs.

The server prepares a problem to refuse bad input before it is queued; the worker prepares the same one to solve it.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from ml.encoding import Encoding
from ml.errors import InputError
from ml.explain import methods, rows, target
from ml.explain.estimator import Explainer
from ml.explain.explainers.occlusion import OcclusionExplainer
from ml.explain.features import Feature, segment
from ml.explain.hierarchy.tree import hierarchy
from ml.explain.removal import Perturbation, perturbation
from ml.explain.target import TargetPlan, TargetTokens
from ml.explain.trust import faithfulness
from ml.explain.values.internals import InternalsExplainer
from ml.models.protocol import ModelInfo
from ml.result import Token
from ml.spec import ExplanationSpec
from ml.tokens import Tokenizer

_NUMBER_BYTES = 8
_ROW_BYTES = 128
"""A row's text, span, tokens and values in a result, without the numbers of its features."""


@dataclass(frozen=True)
class Problem:
    """A spec that was checked, with its features, removal, target and explainer.

    Attributes:
        prompt_tokens: the prompt's tokens, for the result.
        quality: how faithfulness will be measured; None where not asked for, or where there is nothing to compare.
        max_rows: how many rows the result will have; an upper bound where the model decides about the target.
    """

    spec: ExplanationSpec
    info: ModelInfo
    encoding: Encoding
    prompt_tokens: tuple[Token, ...]
    features: tuple[Feature, ...]
    perturbation: Perturbation
    target: TargetPlan
    explainer: Explainer | InternalsExplainer
    quality: faithfulness.Plan | None
    max_rows: int = 0

    @property
    def prompts(self) -> Perturbation:
        """The prompt's variants, which the value function evaluates."""
        return self.perturbation

    @property
    def max_evaluations(self) -> int:
        """The most prompts, gradients and the like: base and full value, the explainer's, and those of faithfulness.

        A coalition has as many prompts as there are removals, and is evaluated once: few features take no more than all
        their coalitions. The full one is among those of occlusion, whose cost is known exactly.
        """
        ends = 1 if isinstance(self.explainer, OcclusionExplainer) else 2
        beside = ends + (self.quality.evaluations if self.quality else 0)
        explainer = self.explainer.max_evaluations
        if isinstance(self.explainer, InternalsExplainer):
            return explainer + self._max_prompts(beside)
        return self._max_prompts(explainer + beside)

    def _max_prompts(self, coalitions: int) -> int:
        """The most prompts of so many coalitions."""
        return self.prompts.removals * min(coalitions, 1 << len(self.features))

    @property
    def row_bytes(self) -> int:
        """The most bytes that rows take in the result: a number for each feature, and for each pair if asked for.

        Sampling methods add a standard error to each.
        """
        if (asked := self.spec.rows) is None:
            return 0
        features = len(self.features)
        pairs = math.comb(features, 2) if asked.pairs else 0
        exact = isinstance(self.explainer, InternalsExplainer | OcclusionExplainer)
        return self.max_rows * (_ROW_BYTES + (features + pairs) * _NUMBER_BYTES * (1 if exact else 2))

    def tokens(self, evaluations: int) -> int:
        """The most tokens that the model reads for so many evaluations, the shared prefix counted once."""
        shared_prefix = len(self.prompts.shared_prefix)
        longest = self.prompts.longest + self.target.longest
        return shared_prefix + self.target.generate * len(self.encoding.ids) + evaluations * (longest - shared_prefix)

    def fingerprint(self, target: TargetTokens) -> bytes:
        """32 bytes, equal for equal value functions: same weights, prompt, features, removal and target."""
        parts = (self.info.digest, self.info.dtype, self.prompts.identity, target)
        return hashlib.sha256(repr(parts).encode()).digest()


def prepare(tokenizer: Tokenizer, info: ModelInfo, spec: ExplanationSpec) -> Problem:
    """Check a spec against a model's tokenizer, and work out all that does not take the model.

    Raises:
        InputError: something in the spec is not allowed; its `field` is the path in the contract.
        PromptTooLongError: prompt, target or replacements exceed the context.
        CapabilityError: the model lacks what the method needs.
    """
    planned_target = target.plan(tokenizer, info, tokenizer.encode(spec.prompt), spec.target)
    encoding = planned_target.prompt
    max_rows = 0
    if spec.rows is not None:
        rows.check(spec.target)
        max_rows = rows.max_rows(tokenizer, encoding, planned_target, spec.rows)
    features = segment(encoding, spec.features)
    perturbed = perturbation(tokenizer, encoding, features, methods.removal(tokenizer, spec))
    longest = perturbed.longest + planned_target.longest
    if longest > info.context_length:
        raise InputError(
            "removal.text",
            f"with every feature replaced, prompt and target have {longest} tokens and this model reads at most"
            f" {info.context_length}; choose a shorter text",
        )
    # A single feature leaves no ranking to compare.
    measured = spec.quality.faithfulness and len(features) > 1
    return Problem(
        spec=spec,
        info=info,
        encoding=encoding,
        prompt_tokens=tokenizer.tokens(encoding),
        features=features,
        perturbation=perturbed,
        target=planned_target,
        explainer=methods.explainer(
            spec,
            info,
            perturbed,
            hierarchy(encoding, features, spec.features),
            appended=planned_target.longest,
            rows=max_rows,
        ),
        quality=faithfulness.Plan.of(len(features), len(encoding.ids)) if measured else None,
        max_rows=max_rows,
    )
