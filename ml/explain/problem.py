"""The problem: a spec with all settled that only the tokenizer is needed for.

The server prepares a problem to refuse bad input before anything is queued; the worker prepares the same one to solve
it.
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
"""Of a row in a result beside these numbers: its text, its place, its tokens and its values."""


@dataclass(frozen=True)
class Problem:
    """What there is to solve.

    Attributes:
        prompt_tokens: the prompt's tokens, for the result.
        quality: what is measured of the result; None when not asked for, or when there is nothing to compare.
        max_rows: how many rows the result will have, or at most, where the model has a say in the target.
        max_evaluations: prompts, gradients and the like that will be asked for, with those of the base value, the full
            value and the quality block. A coalition has as many prompts as there are removals.
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
        """What the value function chooses from: the prompt's variants."""
        return self.perturbation

    @property
    def max_evaluations(self) -> int:
        """The base value, the full value, what the explainer asks for, and the quality block.

        A coalition has as many prompts as there are removals.
        """
        beside = 2 + (self.quality.evaluations if self.quality else 0)
        explainer, removals = self.explainer.max_evaluations, self.prompts.removals
        if isinstance(self.explainer, InternalsExplainer):
            return explainer + removals * beside
        return removals * (explainer + beside)

    @property
    def row_bytes(self) -> int:
        """The most bytes of the rows in a result: a number for each feature, and for each pair of them if asked for.

        Methods that sample have a standard error for each as well.
        """
        if (asked := self.spec.rows) is None:
            return 0
        features = len(self.features)
        pairs = math.comb(features, 2) if asked.pairs else 0
        exact = isinstance(self.explainer, InternalsExplainer | OcclusionExplainer)
        return self.max_rows * (_ROW_BYTES + (features + pairs) * _NUMBER_BYTES * (1 if exact else 2))

    def tokens(self, evaluations: int) -> int:
        """The most tokens that the model reads for so many evaluations: what prompts share is not left out."""
        shared_prefix = len(self.prompts.shared_prefix)
        longest = self.prompts.longest + self.target.longest
        return shared_prefix + self.target.generate * len(self.encoding.ids) + evaluations * (longest - shared_prefix)

    def fingerprint(self, target: TargetTokens) -> bytes:
        """32 bytes, equal where a coalition has the same value: same weights, prompts, features, removal and target."""
        parts = (self.info.digest, self.info.dtype, self.prompts.identity, target)
        return hashlib.sha256(repr(parts).encode()).digest()


def prepare(tokenizer: Tokenizer, info: ModelInfo, spec: ExplanationSpec) -> Problem:
    """Check a spec against a model's tokenizer and settle all that can be settled without running the model.

    Raises:
        InputError: something in the spec is not allowed; its `field` is the contract's path.
        PromptTooLongError: prompt, target or replacements exceed the context.
        CapabilityError: the model has not got what the method is about.
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
