"""A study, from the spec to the judged result: a question about many texts.

Its texts are the players of a game in which one plays at a time, so that a study shares the chunks, the cache, the time
limits and the checkpoints of explanations.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Unpack

import numpy as np

from ml.encoding import Encoding
from ml.errors import InputError, PromptTooLongError
from ml.explain.estimator import FloatArray, IntArray
from ml.explain.studies.bias import BiasProbeExplainer
from ml.explain.studies.global_surrogate import GlobalSurrogateExplainer, bag
from ml.explain.studies.texts import Texts
from ml.explain.target import TargetPlan, TargetTokens, plan, resolve
from ml.explain.target_text import describe
from ml.explain.trust import verdict
from ml.explain.trust.verdict import Reason
from ml.explain.values.value_function import ValueFunction
from ml.explain.work import AttemptOptions, Work
from ml.models.protocol import ExplainableModel, ModelInfo
from ml.result import BiasProbeResult, GlobalSurrogateResult, Stage, StopReason, StudyResult, Update
from ml.spec import BiasProbe, GlobalSurrogate, Prompt, StudySpec
from ml.tokens import Tokenizer

_AT_ONCE = 256
"""Texts that are evaluated together, between partial results."""


class StudyExplainer(Protocol):
    """From the values of a study's texts to its finding."""

    @property
    def blocks(self) -> IntArray:
        """The indices of the texts in the order of reading, [blocks, texts], each once.

        A block counts when all of it has been read. The order of blocks is random, so that what was read before time
        ran out is a fair sample.
        """
        ...

    @property
    def quick(self) -> bool:
        """Whether `find` is fast beside the reading, so that there can be partial results."""
        ...

    def find(self, values: FloatArray) -> GlobalSurrogateResult | BiasProbeResult | None:
        """The finding from the values [texts], NaN where unknown; None if there is none."""
        ...

    def doubts(self) -> Iterator[Reason]:
        """Reasons to doubt a finding from so few texts."""
        ...


@dataclass(frozen=True)
class StudyProblem:
    """A spec that was checked, with its texts, target and explainer.

    Attributes:
        first: the first text, after which the model decides what the target leaves open.
    """

    spec: StudySpec
    info: ModelInfo
    first: Encoding
    prompts: Texts
    target: TargetPlan
    explainer: StudyExplainer

    @property
    def max_evaluations(self) -> int:
        """One evaluation for each text."""
        return self.prompts.features

    def tokens(self, evaluations: int) -> int:
        """The most tokens that the model reads for so many evaluations."""
        longest = self.prompts.longest + self.target.longest
        return self.target.generate * len(self.first.ids) + evaluations * longest

    def fingerprint(self, target: TargetTokens) -> bytes:
        """32 bytes, equal for equal value functions: same weights, texts and target."""
        parts = (self.info.digest, self.info.dtype, self.prompts.identity, target)
        return hashlib.sha256(repr(parts).encode()).digest()


def prepare_study(tokenizer: Tokenizer, info: ModelInfo, spec: StudySpec) -> StudyProblem:
    """Check a study against a model's tokenizer, and work out all that does not take the model.

    Raises:
        InputError: something in the spec is not allowed; its `field` is the path in the contract.
        PromptTooLongError: a text, with its target, exceeds the context.
        CapabilityError: a text is a chat, and the model has no chat template.
    """
    paths, prompts = zip(*_texts(spec.method), strict=True)
    encodings = [_encoded(tokenizer, place, prompt) for place, prompt in zip(paths, prompts, strict=True)]
    planned, *others = (
        _planned(tokenizer, info, spec, place, each) for place, each in zip(paths, encodings, strict=True)
    )
    for place, other in zip(paths[1:], others, strict=True):
        if other.tokens != planned.tokens:
            message = "the target has other tokens after this text than after the first; let both end between two words"
            raise InputError(place, message)
    limit = spec.budget.max_evaluations
    if limit is not None and len(encodings) > limit:
        message = f"this study has {len(encodings)} texts, more than {limit}; raise the limit, or send fewer of them"
        raise InputError("budget.max_evaluations", message)
    return StudyProblem(
        spec=spec,
        info=info,
        first=planned.prompt,
        prompts=Texts(tuple(each.prompt.ids for each in (planned, *others))),
        target=planned,
        explainer=_explainer(spec, encodings),
    )


def _texts(method: GlobalSurrogate | BiasProbe) -> Iterator[tuple[str, Prompt]]:
    """The texts of a study, each with its path in the spec."""
    if isinstance(method, BiasProbe):
        for index, text in method.texts():
            yield f"bias_probe.templates[{index}]", Prompt(text)
        return
    seen: set[Prompt] = set()
    for index, prompt in enumerate(method.prompts):
        if prompt not in seen:  # a copy is no evidence, and would test a fit on its own data
            seen.add(prompt)
            yield f"global_surrogate.prompts[{index}]", prompt


def _encoded(tokenizer: Tokenizer, place: str, prompt: Prompt) -> Encoding:
    try:
        return tokenizer.encode(prompt)
    except InputError as error:
        subfield = error.field.removeprefix("prompt")
        # For a template the path is that of the template itself.
        error.field = place if place.startswith("bias_probe") else place + subfield
        raise


def _planned(tokenizer: Tokenizer, info: ModelInfo, spec: StudySpec, place: str, encoding: Encoding) -> TargetPlan:
    """The target after one of the texts."""
    try:
        return plan(tokenizer, info, encoding, spec.target)
    except PromptTooLongError as error:
        prompt, target = len(encoding.ids), error.tokens - len(encoding.ids)
        message = (
            f"the prompt has {prompt} tokens and the target adds {target}, more than the {error.limit} that this model"
            " reads; shorten one of them"
        )
        raise PromptTooLongError(place, error.tokens, error.limit, message) from error


def _explainer(spec: StudySpec, encodings: Sequence[Encoding]) -> StudyExplainer:
    seed = spec.budget.seed
    if isinstance(spec.method, BiasProbe):
        return BiasProbeExplainer(spec.method, seed)
    bags = tuple(bag(encoding.text, encoding.editable) for encoding in encodings)
    return GlobalSurrogateExplainer(spec.method, spec.target.scale, seed, bags)


class StudyRun(Work):
    """An attempt at one study; see `Work`.

    Raises:
        InputError, PromptTooLongError, CapabilityError: when it is made, as `prepare_study`.
        GlossError: while it works, if a number of the result is not finite.
    """

    def __init__(
        self,
        model: ExplainableModel,
        spec: StudySpec,
        checkpoint: bytes | None = None,
        **options: Unpack[AttemptOptions],
    ) -> None:
        """Study what `spec` asks about `model`. The other arguments are those of `Work`."""
        self.problem = prepare_study(model.tokenizer, model.info, spec)
        super().__init__(model, self.problem, spec.budget, spec.precision, checkpoint, **options)

    def __iter__(self) -> Iterator[Update]:
        """Work, and yield updates."""
        self._started = self._clock()
        yield self._update(Stage.PREPARING)
        resolving = resolve(self._model, self.problem.first, self.problem.target)
        target = yield from self._reported(resolving, Stage.CHOOSING_TARGET)
        value = self._open(target)
        blank = StudyResult(describe(self._model.tokenizer, target, self.problem.first.ids))

        values = np.full(self.problem.max_evaluations, np.nan)
        for _ in self._reading(value, values):
            value.deadline = self._deadline()  # set after the first chunk, which is always computed
            if self.problem.explainer.quick and self._due_partial:
                yield self._update(Stage.EXPLAINING, self._filled(value, blank, values, None))
            elif self._due:
                yield self._update(Stage.EXPLAINING)
        self._planned = value.answered
        stop = StopReason.COMPLETE if np.isfinite(values).all() else StopReason.DURATION
        result = self._filled(value, blank, values, stop)
        judged = verdict.judge_study(result, self.problem.explainer.doubts())
        yield self._update(Stage.DONE, replace(result, trust=judged))

    def _reading(self, value: ValueFunction, values: FloatArray) -> Generator[None, None, None]:
        """Read the texts, and put their values into `values` [texts]. Yields after each chunk of work."""
        blocks, choices = self.problem.explainer.blocks, np.eye(len(values), dtype=np.bool_)
        for some in np.array_split(blocks, math.ceil(blocks.size / _AT_ONCE)):
            texts = some.reshape(-1)
            answers = yield from value(choices[texts])
            if not np.isfinite(answers).all():
                return  # the answered ones are no random sample: they depend on the order of computation
            values[texts] = answers
            yield

    def _filled(
        self, value: ValueFunction, blank: StudyResult, values: FloatArray, stop: StopReason | None
    ) -> StudyResult:
        """The result from `values`, and the cost so far."""
        finding = self.problem.explainer.find(values)
        return replace(blank, finding=finding, cost=self._cost(value, stop), precision=self._precision)
