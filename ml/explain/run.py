"""One explanation at work, from the spec to the judged result."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import TypeVar

import numpy as np

from ml.errors import CapabilityError
from ml.explain import faithfulness, methods, numbers, target, trust
from ml.explain.cache import ValueCache, scope
from ml.explain.checkpoint import Memory
from ml.explain.estimator import Estimate, Estimating
from ml.explain.evaluation import Evaluator, rough_seconds
from ml.explain.inside import Inside, Inspector
from ml.explain.interval import two_sided_95
from ml.explain.problem import prepare
from ml.explain.target import Readout
from ml.explain.value_function import ValueFunction
from ml.models.base import LanguageModel, WhiteBox
from ml.result import (
    Attribution,
    Cost,
    ExplanationResult,
    Faithfulness,
    Interaction,
    Interval,
    Progress,
    StopReason,
    Trust,
    Update,
)
from ml.spec import BiasProbe, ExplanationSpec, GlobalSurrogate, PrecisionPolicy

_PARTIAL_SECONDS = 0.25
_PROGRESS_SECONDS = 0.05

T = TypeVar("T")


class Run:
    """Solves one explanation. Iterate over it once: updates come while it works, the last holds the judged result.

    Between two updates lies a chunk of work (about a second), or several short ones, as updates come no faster than a
    person can follow. To cancel, stop iterating.

    The same spec and model make the same draws, and on one machine the same numbers to the bit. Resuming from a
    checkpoint repeats the draws over the values found before; the attributions are then those of an undisturbed run
    within 1e-5, as values computed in other company may differ in their last bits.

    The budget's seconds count the work of this attempt alone; the cost's count that of all attempts. Of a budget's
    seconds the method gets what the quality block is not expected to need, and at least half.

    Args:
        checkpoint: what `checkpoint` gave in an earlier attempt. One that is damaged or of another problem is ignored.
        cache: values of earlier explanations by any model, to be used and added to. Left alone where the precision may
            change on the way, as its trial must not depend on what was explained before.
        namespace: of `cache`: only values of explanations in the same one are used.

    Raises:
        InputError, PromptTooLongError, CapabilityError: as `ml.explain.problem.prepare`, at once.
        GlossError: while it works; a result would hold something that is not a number.
    """

    def __init__(
        self,
        model: LanguageModel,
        spec: ExplanationSpec,
        checkpoint: bytes | None = None,
        *,
        cache: ValueCache | None = None,
        namespace: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.problem = prepare(model.tokenizer, model.info, spec)
        self._model = model
        self._spec = spec
        self._clock = clock
        self._cache, self._namespace = cache, namespace
        self._given = checkpoint or b""
        self._fingerprint = b""
        self._value: ValueFunction | None = None
        self._started = clock()
        self._seconds_before = 0.0
        self._planned = self.problem.planned
        self._last_progress = self._last_partial = -math.inf

    def checkpoint(self) -> bytes:
        """What another attempt needs to go on from here; the given checkpoint while there is nothing to add."""
        if self._value is None:
            return self._given
        self._value.memory.seconds = self._seconds_before + self._elapsed
        return self._value.memory.pack(self._fingerprint)

    def __iter__(self) -> Iterator[Update]:
        """Work, and tell."""
        self._started = self._clock()
        yield self._update("reading the prompt")
        resolving = target.resolve(self._model, self.problem.encoding, self.problem.target)
        readout = yield from self._told(resolving, "choosing the target")
        value = self._open(readout)

        extremes = self.problem.prompts.extremes
        value.beside(extremes)
        estimate = yield from self._estimated(value, readout)
        while (blank := self._blank(value, readout)) is None:  # time ended before their turn
            value.deadline = math.inf
            yield from self._told(value(extremes), "measuring the whole prompt")
        result = self._filled(value, blank, estimate)

        measured = None
        if self.problem.quality is not None:
            # Counted anew, as the method may have needed less than planned.
            self._planned = value.answered + self.problem.quality.planned
            yield self._update("measuring faithfulness", result)
            measured = yield from self._measured(value, self.problem.quality, estimate)
        if value.out_of_time:
            estimate = replace(estimate, stop=StopReason.SECONDS)
        self._planned = value.answered
        result = replace(self._filled(value, blank, estimate), faithfulness=measured)
        yield self._update("done", replace(result, trust=self._judged(result)))

    def _open(self, readout: Readout) -> ValueFunction:
        """The value function, with what an earlier attempt found out."""
        self._fingerprint = self.problem.fingerprint(readout)
        players = self.problem.prompts.features
        memory = Memory.unpack(self._given, self._fingerprint, players) or Memory(players)
        self._seconds_before = memory.seconds
        trial = self._spec.precision is PrecisionPolicy.AUTO and not isinstance(self.problem.explainer, Inspector)
        fast = self._model.in_bfloat16() if trial else None
        self._evaluator = Evaluator(
            self._model,
            readout,
            fast=fast,
            beginning=self.problem.prompts.beginning,
            planned=self.problem.planned,
        )
        self._value = ValueFunction(
            self.problem.prompts,
            self._evaluator,
            memory,
            self._clock,
            cache=self._cache if fast is None else None,
            scope=scope(self._model.info, readout, self._namespace),
        )
        return self._value

    def _estimated(self, value: ValueFunction, readout: Readout) -> Generator[Update, None, Estimate]:
        """Let the explainer work; its last estimate."""
        estimate, news = Estimate.nothing(len(self.problem.features)), False
        for step in self._estimating(value, readout):
            value.deadline = self._method_deadline()  # so the first chunk, at least, is always computed
            if step is not None:
                estimate, news = step, True
            timely = self._clock() - self._last_partial >= _PARTIAL_SECONDS
            if news and timely and (blank := self._blank(value, readout)) is not None:
                news = False
                yield self._update("explaining", self._filled(value, blank, estimate))
            elif self._due:
                yield self._update("explaining")
        return estimate

    def _estimating(self, value: ValueFunction, readout: Readout) -> Estimating:
        """The explainer at work on what it asks for: a game, or the inside of the model."""
        explainer = self.problem.explainer
        if not isinstance(explainer, Inspector):
            return explainer(value)
        if not isinstance(self._model, WhiteBox):
            name = self._model.info.name
            raise CapabilityError(name, f"{name!r} is computed by several processes, and its inside is out of reach")
        return explainer.inspect(Inside(self._model, self._model, self.problem.perturbation, readout, value))

    def _measured(
        self, value: ValueFunction, plan: faithfulness.Plan, estimate: Estimate
    ) -> Generator[Update, None, Faithfulness | None]:
        """The quality block, or None where time does not allow it."""
        value.deadline = self._started + (self._spec.budget.max_seconds or math.inf)
        if self._clock() >= value.deadline:
            value.out_of_time = True
            return None
        measuring = faithfulness.evaluate(plan, value, estimate.attributions, self._spec.budget.seed)
        return (yield from self._told(measuring, "measuring faithfulness"))

    def _judged(self, result: ExplanationResult) -> Trust:
        method = self._spec.method
        if isinstance(method, GlobalSurrogate | BiasProbe):
            return trust.judge_survey(result, method)
        explainer = self.problem.explainer
        in_units = not isinstance(explainer, Inspector) or explainer.in_units
        return trust.judge(result, faithfulness_asked=self._spec.faithfulness, in_units=in_units)

    def _told(self, work: Generator[None, None, T], stage: str) -> Generator[Update, None, T]:
        """Do some work and tell of its progress."""
        while True:
            try:
                next(work)
            except StopIteration as done:
                finished: T = done.value
                return finished
            if self._due:
                yield self._update(stage)

    def _update(self, stage: str, result: ExplanationResult | None = None) -> Update:
        now = self._last_progress = self._clock()
        if result is not None:
            numbers.check(result)
            self._last_partial = now
        answered = self._value.answered if self._value else 0
        planned = max(self._planned, answered)
        progress = Progress(answered, planned, stage, self._remaining, self.problem.tokens(planned))
        return Update(progress, result)

    @property
    def _due(self) -> bool:
        return self._clock() - self._last_progress >= _PROGRESS_SECONDS

    @property
    def _elapsed(self) -> float:
        return self._clock() - self._started

    @property
    def _seconds_each(self) -> float | None:
        """Seconds that an answer took so far, where it was not one of an earlier attempt; None before the first."""
        fresh = self._value.answered - self._value.recalled if self._value and self._value.computed else 0
        return self._elapsed / fresh if fresh > 0 else None

    @property
    def _remaining(self) -> float | None:
        each, limit = self._seconds_each, self._spec.budget.max_seconds
        if self._value is None or (each is None and not self._value.answered):
            remaining = rough_seconds(self._model.info, self.problem.tokens(self._planned))
        elif each is None:
            return None  # an earlier attempt's values came for nothing: there is no pace yet
        else:
            remaining = max(0, self._planned - self._value.answered) * each
        return remaining if limit is None else max(0.0, min(remaining, limit - self._elapsed))

    def _method_deadline(self) -> float:
        limit = self._spec.budget.max_seconds
        if limit is None:
            return math.inf
        quality = self.problem.quality.planned if self.problem.quality else 0
        reserved = min(limit / 2, quality * (self._seconds_each or 0.0))
        return self._started + limit - reserved

    def _blank(self, value: ValueFunction, readout: Readout) -> ExplanationResult | None:
        """The result before anything is attributed; None while the extremes are not known."""
        base, full = value.known(self.problem.prompts.extremes).tolist()
        if not (math.isfinite(base) and math.isfinite(full)):
            return None
        return ExplanationResult(
            text=self.problem.encoding.text,
            tokens=self.problem.prompt_tokens,
            target=target.describe(self._model.tokenizer, readout),
            removal=self.problem.perturbation.resolved,
            attributions=(),
            base_value=base,
            full_value=full,
            attribution_unit=methods.unit(self._spec),
        )

    def _filled(self, value: ValueFunction, blank: ExplanationResult, estimate: Estimate) -> ExplanationResult:
        """The result as far as `estimate` knows it, with what it has cost by now."""
        reach = two_sided_95(estimate.freedom)
        attributions = tuple(
            Attribution(
                text=feature.text,
                span=feature.span,
                positions=feature.positions,
                value=each,
                standard_error=error,
                interval=Interval(each - reach * error, each + reach * error),
            )
            for feature, each, error in zip(
                self.problem.features, estimate.attributions.tolist(), estimate.standard_errors.tolist(), strict=True
            )
        )
        memory = value.memory
        cost = Cost(
            evaluations=memory.evaluations,
            tokens_computed=memory.tokens_computed,
            tokens_saved=memory.tokens_saved,
            cache_hits=max(0, value.answered - memory.evaluations),
            seconds=self._seconds_before + self._elapsed,
            stop_reason=estimate.stop,
        )
        return replace(
            blank,
            attributions=attributions,
            surrogate=estimate.surrogate,
            interactions=_interactions(estimate),
            group_differences=estimate.group_differences,
            stability=estimate.stability,
            completeness_error=estimate.completeness_error,
            precision=self._evaluator.precision,
            converged=estimate.converged,
            cost=cost,
        )


def _interactions(estimate: Estimate) -> tuple[Interaction, ...]:
    if (found := estimate.interactions) is None:
        return ()
    pairs = zip(*np.triu_indices(len(estimate.attributions), 1), strict=True)
    numbers = zip(pairs, found.values.tolist(), found.standard_errors.tolist(), strict=True)
    return tuple(Interaction(int(i), int(j), value, error) for (i, j), value, error in numbers)
