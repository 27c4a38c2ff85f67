"""One explanation, from the spec to the judged result."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from itertools import repeat
from typing import Unpack

import numpy as np

from ml.errors import CapabilityError
from ml.explain import methods, rows
from ml.explain.estimator import Estimate, Estimating, FloatArray
from ml.explain.explainers.hierarchical import HierarchicalExplainer
from ml.explain.guided import guided
from ml.explain.numbers import known
from ml.explain.problem import prepare
from ml.explain.removal import BY_SIMILAR_WORDS
from ml.explain.rows import Row
from ml.explain.sampling.interval import two_sided_95
from ml.explain.similar import with_similar_words
from ml.explain.target import TargetTokens, resolve
from ml.explain.target_text import describe
from ml.explain.trust import doubts, faithfulness, verdict
from ml.explain.values.internals import InternalsExplainer, PromptInternals
from ml.explain.values.value_function import ValueFunction
from ml.explain.work import AttemptOptions, Work
from ml.models.protocol import ExplainableModel, ModelInternals
from ml.result import (
    Attribution,
    AttributionRow,
    ExplanationResult,
    Faithfulness,
    Hierarchy,
    Interaction,
    Interval,
    Stage,
    StopReason,
    Trust,
    Update,
)
from ml.spec import ExplanationSpec, PrecisionPolicy


class Run(Work):
    """An attempt at one explanation; see `Work`.

    The method gets the part of the budget's duration that faithfulness is not expected to need, and at least half.

    Raises:
        InputError, PromptTooLongError, CapabilityError: when it is made, as `ml.explain.problem.prepare`.
        GlossError: while it works, if a number of the result is not finite.
    """

    def __init__(
        self,
        model: ExplainableModel,
        spec: ExplanationSpec,
        checkpoint: bytes | None = None,
        **options: Unpack[AttemptOptions],
    ) -> None:
        """Explain what `spec` asks about `model`. The other arguments are those of `Work`."""
        self.problem = prepare(model.tokenizer, model.info, spec)
        if self.problem.perturbation.resolved.kind in BY_SIMILAR_WORDS:
            self.problem = with_similar_words(self.problem, model)
        # Explainers of internals use the model's own precision.
        precision = (
            PrecisionPolicy.FLOAT32 if isinstance(self.problem.explainer, InternalsExplainer) else spec.precision
        )
        super().__init__(model, self.problem, spec.budget, precision, checkpoint, **options)
        self._spec = spec
        self._rows: tuple[Row, ...] = ()
        self._seconds_of_rows = 0.0  # of the last ones, or what all would take

    def __iter__(self) -> Iterator[Update]:
        """Work, and yield updates."""
        self._started = self._clock()
        yield self._update(Stage.PREPARING)
        resolving = resolve(self._model, self.problem.encoding, self.problem.target)
        target = yield from self._reported(resolving, Stage.CHOOSING_TARGET)
        if self._spec.rows is not None:
            self._rows = rows.cut(self._model.tokenizer, self.problem.encoding, target, self._spec.rows)
            target = replace(target, rows=tuple(row.positions for row in self._rows))
        value = self._open(target)

        empty_and_full = self.problem.perturbation.empty_and_full
        value.add_to_next(empty_and_full)
        estimate = yield from self._estimated(value, target)
        # Time may have run out before them, or all else was known from an earlier attempt.
        while (blank := self._blank(value, target)) is None or value.has_added:
            value.deadline = math.inf
            yield from self._reported(value(empty_and_full), Stage.EXPLAINING)
        blank = yield from self._with_rows(value, blank, estimate)
        result = self._filled(value, blank, estimate)
        # The textbook's draws may be far more than there are different coalitions, and the evaluations fewer.
        samples = max(value.answered // self.problem.prompts.removals, estimate.samples)
        few = [
            *doubts.of_samples(self._spec.method, value.features, samples, estimate),
            *doubts.of_row_pairs(self._spec.rows, estimate),
            *doubts.of_ends(self.problem.explainer, samples, estimate, blank.base_value, blank.full_value),
        ]

        measured = None
        if self.problem.quality is not None:
            # The method may have needed less than planned.
            needed = value.answered + self.problem.prompts.removals * self.problem.quality.evaluations
            self._planned = min(needed, self.problem.max_evaluations)
            yield self._update(Stage.MEASURING_FAITHFULNESS, result)
            measured = yield from self._measured(value, self.problem.quality, estimate)
        if value.out_of_time:
            estimate = replace(estimate, stop=StopReason.DURATION)
        self._planned = value.answered
        result = replace(self._filled(value, blank, estimate), faithfulness=measured)
        yield self._update(Stage.DONE, replace(result, trust=self._judged(result, target, few)))

    def _estimated(self, value: ValueFunction, target: TargetTokens) -> Generator[Update, None, Estimate]:
        """Run the explainer, and return its last estimate."""
        estimate, news = Estimate.nothing(len(self.problem.features)), False
        reserved = self.problem.quality.evaluations if self.problem.quality else 0
        for step in self._estimating(value, target):
            value.deadline = self._deadline(reserved)  # set after the first chunk, which is always computed
            if step is not None:
                estimate, news = step, True
            if news and self._due_partial and (blank := self._blank(value, target)) is not None:
                news = False
                blank = yield from self._with_rows(value, blank, estimate, partial=True)
                yield self._update(Stage.EXPLAINING, self._filled(value, blank, estimate))
                if self._rows:
                    self._delay_partial(self._seconds_of_rows)
            elif self._due:
                yield self._update(Stage.EXPLAINING)
        return estimate

    def _estimating(self, value: ValueFunction, target: TargetTokens) -> Estimating:
        """The explainer at work, on the value function or on the model's internals."""
        explainer, perturbed = self.problem.explainer, self.problem.perturbation
        prompt = None
        if isinstance(self._model, ModelInternals):
            prompt = PromptInternals(self._model, self._model, perturbed, target, value)
        if isinstance(explainer, HierarchicalExplainer):
            return guided(explainer, perturbed, target, value, prompt)
        if not isinstance(explainer, InternalsExplainer):
            return explainer(value)
        if prompt is None:
            name = self._model.info.name
            message = f"{name!r} is split over several processes, and its internals are out of reach"
            raise CapabilityError(name, f"{message}; choose a method that perturbs the prompt")
        return explainer.explain(prompt)

    def _with_rows(
        self, value: ValueFunction, blank: ExplanationResult, estimate: Estimate, *, partial: bool = False
    ) -> Generator[Update, None, ExplanationResult]:
        """`blank` with the rows that `estimate` has; if `partial`, only if they take little of the time so far."""
        if not self._rows:
            return blank
        nothing = Estimate.nothing(value.features)
        ends = value.row_values(self.problem.perturbation.empty_and_full)

        def work() -> Generator[None, None, tuple[AttributionRow, ...]]:
            estimates = repeat(nothing, len(ends)) if estimate.rows is None else estimate.rows(value.row_values)
            found: list[AttributionRow] = []
            began = self._clock()
            for row, each, (base, full) in zip(self._rows, estimates, ends.tolist(), strict=True):
                known = self._with_errors_of_values(each, self._evaluator.row_noise(len(row.positions)), 1 + len(found))
                found.append(_row(row, known, base, full))
                self._seconds_of_rows = (self._clock() - began) * len(ends) / len(found)
                if partial and len(found) == 1 and not self._affords_partial(self._seconds_of_rows):
                    return ()
                yield
            return tuple(found)

        return replace(blank, rows=(yield from self._reported(work(), Stage.EXPLAINING)))

    def _measured(
        self, value: ValueFunction, plan: faithfulness.Plan, estimate: Estimate
    ) -> Generator[Update, None, Faithfulness | None]:
        """The faithfulness of an estimate, or None if time has run out."""
        value.deadline = self._deadline()
        if self._clock() >= value.deadline:
            value.out_of_time = True
            return None
        measuring = faithfulness.evaluate(plan, value, estimate.attributions, self._budget.seed)
        return (yield from self._reported(measuring, Stage.MEASURING_FAITHFULNESS))

    def _judged(self, result: ExplanationResult, target: TargetTokens, few: Sequence[verdict.Reason]) -> Trust:
        """Whether to rely on a result; `few` are reasons to doubt the number of its samples."""
        explainer = self.problem.explainer
        in_units = not isinstance(explainer, InternalsExplainer) or explainer.in_units
        return verdict.judge(
            result,
            faithfulness_asked=self._spec.quality.faithfulness,
            in_units=in_units,
            unchanged=self.problem.perturbation.unchanged,
            doubts=[
                *doubts.of_question(self._model.tokenizer, self.problem.encoding, target),
                *doubts.of_method(self._spec.method, len(self.problem.features)),
                *few,
            ],
        )

    def _blank(self, value: ValueFunction, target: TargetTokens) -> ExplanationResult | None:
        """The result without attributions; None as long as base or full value is unknown."""
        base, full = value.known(self.problem.perturbation.empty_and_full).tolist()
        if not (math.isfinite(base) and math.isfinite(full)):
            return None
        return ExplanationResult(
            text=self.problem.encoding.text,
            tokens=self.problem.prompt_tokens,
            target=describe(self._model.tokenizer, target, self.problem.encoding.ids),
            removal=self.problem.perturbation.resolved,
            attributions=(),
            base_value=base,
            full_value=full,
            attribution_unit=methods.unit(self._spec),
        )

    def _filled(self, value: ValueFunction, blank: ExplanationResult, estimate: Estimate) -> ExplanationResult:
        """The result with an estimate, and the cost so far."""
        estimate = self._with_errors_of_values(estimate, self._evaluator.noise)
        reach, errors = two_sided_95(estimate.freedom), estimate.standard_errors
        attributions = tuple(
            Attribution(
                text=feature.text,
                span=feature.span,
                positions=feature.positions,
                attribution=each,
                standard_error=known(error),
                interval=None if math.isinf(error) else Interval(each - reach * error, each + reach * error),
            )
            for feature, each, error in zip(
                self.problem.features, estimate.attributions.tolist(), errors.tolist(), strict=True
            )
        )
        return replace(
            blank,
            attributions=attributions,
            surrogate=estimate.surrogate,
            interactions=_interactions(estimate),
            stability=estimate.stability,
            completeness_error=estimate.completeness_error,
            outside_share=estimate.outside_share,
            hierarchy=estimate.hierarchy,
            precision=self._precision,
            converged=estimate.converged,
            cost=self._cost(value, estimate.stop),
        )

    def _with_errors_of_values(self, estimate: Estimate, noise: float, number: int = 0) -> Estimate:
        """`estimate` with the errors of the values added to its standard errors.

        Args:
            noise: standard deviation of a value from an external engine.
            number: whose estimate it is: 0 for the target's value, from 1 for those of the rows.
        """
        freedom, rounding = estimate.freedom, self._evaluator.rounding
        if rounding is not None and (estimate.standard_errors == 0).any():
            freedom = min(freedom, rounding.measured)
        errors = self._errors_of_values(estimate.standard_errors, noise, number)
        hierarchy = estimate.hierarchy and self._hierarchy(estimate.hierarchy, noise, two_sided_95(freedom))
        return replace(estimate, standard_errors=errors, freedom=freedom, hierarchy=hierarchy)

    def _errors_of_values(self, standard_errors: FloatArray, noise: float, number: int) -> FloatArray:
        """Standard errors of differences of two values, with the errors of the values added.

        Rounding is added to exact estimates only: sampling errors contain it, as they contain the spread of the values.
        """
        errors: FloatArray = np.hypot(standard_errors, math.sqrt(2) * noise)
        if (rounding := self._evaluator.rounding) is None:
            return errors
        # Only one of the two values is rounded: the whole prompt's never is.
        return np.where(standard_errors == 0, np.hypot(errors, rounding.deviations[number]), errors)

    def _hierarchy(self, found: Hierarchy, noise: float, reach: float) -> Hierarchy:
        """The hierarchy with the errors of the values added, and `reach` times these to what parts may hide."""
        sampled = np.array([node.standard_error or 0.0 for node in found.nodes])
        errors = self._errors_of_values(sampled, noise, 0)
        added = reach * np.sqrt(errors**2 - sampled**2)
        nodes = (
            replace(
                node,
                standard_error=None if node.standard_error is None else error,
                hidden=None if node.hidden is None else node.hidden + more,
            )
            for node, error, more in zip(found.nodes, errors.tolist(), added.tolist(), strict=True)
        )
        return replace(found, nodes=tuple(nodes))


def _row(row: Row, estimate: Estimate, base: float, full: float) -> AttributionRow:
    pairs = estimate.interactions
    return AttributionRow(
        text=row.text,
        span=row.span,
        positions=row.positions,
        base_value=base,
        full_value=full,
        attributions=tuple(estimate.attributions.tolist()),
        standard_errors=_errors(estimate.standard_errors),
        interval_reach=two_sided_95(estimate.freedom),
        interactions=() if pairs is None else tuple(pairs.values.tolist()),
        interaction_standard_errors=() if pairs is None else _errors(pairs.standard_errors),
        r_squared=None if estimate.surrogate is None else estimate.surrogate.r_squared,
    )


def _errors(standard_errors: FloatArray) -> tuple[float, ...]:
    """Standard errors as rows have them: none where all are 0."""
    return tuple(standard_errors.tolist()) if standard_errors.any() else ()


def _interactions(estimate: Estimate) -> tuple[Interaction, ...]:
    if (found := estimate.interactions) is None:
        return ()
    members = np.triu_indices(len(estimate.attributions), 1) if found.members is None else found.members
    pairs = zip(*members, strict=True)
    numbers = zip(pairs, found.values.tolist(), found.standard_errors.tolist(), strict=True)
    return tuple(Interaction(int(i), int(j), value, known(error)) for (i, j), value, error in numbers)
