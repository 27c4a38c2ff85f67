"""A study at work, from the spec to the judged result: a question about many texts.

Its texts are the players of a game in which one plays at a time, so that a study has the chunks, the cache, the clock
and the checkpoints of an explanation.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ml.encoding import Encoding
from ml.errors import InputError, PromptTooLongError
from ml.explain.estimator import FloatArray, IntArray
from ml.explain.studies.bias import BiasProbeExplainer
from ml.explain.studies.global_surrogate import GlobalSurrogateExplainer, bag
from ml.explain.studies.texts import Texts
from ml.explain.target import TargetPlan, TargetTokens, describe, plan, resolve
from ml.explain.trust import verdict
from ml.explain.trust.verdict import Reason
from ml.explain.values.cache import ValueCache
from ml.explain.values.value_function import ValueFunction
from ml.explain.work import Work
from ml.models.protocol import ExplainableModel, ModelInfo
from ml.result import BiasProbeResult, GlobalSurrogateResult, Stage, StopReason, StudyResult, Update
from ml.spec import BiasProbe, GlobalSurrogate, Prompt, StudySpec
from ml.tokens import Tokenizer

_AT_ONCE = 256
"""Texts that are asked for together, before what is known so far can be told."""


class StudyExplainer(Protocol):
    """Makes a finding of the values of a study's texts."""

    @property
    def blocks(self) -> IntArray:
        """The texts, by their index, in the order in which to read them: [blocks, texts], each once.

        A block counts when all of it has been read. Their order is one of chance: where time runs out, what was read is
        a fair sample of what was asked.
        """
        ...

    @property
    def quick(self) -> bool:
        """Whether `find` takes no time beside the reading, so that what is known can be told on the way."""
        ...

    def find(self, values: FloatArray) -> GlobalSurrogateResult | BiasProbeResult | None:
        """What the values [texts] tell, NaN where unknown. None where that is nothing."""
        ...

    def doubts(self) -> Iterator[Reason]:
        """Reasons to doubt what so few texts tell."""
        ...


@dataclass(frozen=True)
class StudyProblem:
    """A study with all settled that only the tokenizer is needed for.

    Attributes:
        first: the first text, which settles what the target leaves to the model.
    """

    spec: StudySpec
    info: ModelInfo
    first: Encoding
    prompts: Texts
    target: TargetPlan
    explainer: StudyExplainer

    @property
    def max_evaluations(self) -> int:
        """One evaluation a text."""
        return self.prompts.features

    def tokens(self, evaluations: int) -> int:
        """The most tokens that the model reads for so many evaluations."""
        longest = self.prompts.longest + self.target.longest
        return self.target.generate * len(self.first.ids) + evaluations * longest

    def fingerprint(self, target: TargetTokens) -> bytes:
        """32 bytes, equal where a text has the same value: same weights, texts and target."""
        parts = (self.info.digest, self.info.dtype, self.prompts.identity, target)
        return hashlib.sha256(repr(parts).encode()).digest()


def prepare_study(tokenizer: Tokenizer, info: ModelInfo, spec: StudySpec) -> StudyProblem:
    """Check a study against a model's tokenizer and settle all that can be settled without running the model.

    Raises:
        InputError: something in the spec is not allowed; its `field` is the contract's path.
        PromptTooLongError: a text, with its target, exceeds the context.
        CapabilityError: a text is a chat and the model has no chat template.
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
    """The texts of a study, each with where it stands in the spec."""
    if isinstance(method, BiasProbe):
        for index, text in method.texts():
            yield f"bias_probe.templates[{index}]", Prompt(text)
        return
    seen: set[Prompt] = set()
    for index, prompt in enumerate(method.prompts):
        if prompt not in seen:  # a copy is no more evidence, and would test a fit on what it knows
            seen.add(prompt)
            yield f"global_surrogate.prompts[{index}]", prompt


def _encoded(tokenizer: Tokenizer, place: str, prompt: Prompt) -> Encoding:
    try:
        return tokenizer.encode(prompt)
    except InputError as error:
        subfield = error.field.removeprefix("prompt")
        # A template's text is the template itself.
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
    """Solves one study; see `Work`.

    Raises:
        InputError, PromptTooLongError, CapabilityError: as `prepare_study`, at once.
        GlossError: while it works; a result would hold something that is not a number.
    """

    def __init__(
        self,
        model: ExplainableModel,
        spec: StudySpec,
        checkpoint: bytes | None = None,
        *,
        cache: ValueCache | None = None,
        namespace: str = "",
        spent: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Study what `spec` asks about `model`. The other arguments are those of `Work`."""
        self.problem = prepare_study(model.tokenizer, model.info, spec)
        super().__init__(
            model,
            self.problem,
            spec.budget,
            spec.precision,
            checkpoint,
            cache=cache,
            namespace=namespace,
            spent=spent,
            clock=clock,
        )

    def __iter__(self) -> Iterator[Update]:
        """Work, and tell."""
        self._started = self._clock()
        yield self._update(Stage.PREPARING)
        resolving = resolve(self._model, self.problem.first, self.problem.target)
        target = yield from self._reported(resolving, Stage.CHOOSING_TARGET)
        value = self._open(target)
        blank = StudyResult(describe(self._model.tokenizer, target, self.problem.first.ids))

        values = np.full(self.problem.max_evaluations, np.nan)
        for _ in self._reading(value, values):
            value.deadline = self._deadline()  # so the first chunk, at least, is always computed
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
        """Read the texts, and put their values [texts] where they belong. Yields after each chunk of work."""
        blocks, choices = self.problem.explainer.blocks, np.eye(len(values), dtype=np.bool_)
        for some in np.array_split(blocks, math.ceil(blocks.size / _AT_ONCE)):
            texts = some.reshape(-1)
            answers = yield from value(choices[texts])
            if not np.isfinite(answers).all():
                return  # which of them were answered depends on the order of the work, not on chance alone
            values[texts] = answers
            yield

    def _filled(
        self, value: ValueFunction, blank: StudyResult, values: FloatArray, stop: StopReason | None
    ) -> StudyResult:
        """The result as far as `values` tell it, with what it has cost by now."""
        finding = self.problem.explainer.find(values)
        return replace(blank, finding=finding, cost=self._cost(value, stop), precision=self._precision)
