"""The two kinds of question: an explanation of one prompt, and a study of many."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Unpack, overload

from ml.explain import problem
from ml.explain.problem import Problem
from ml.explain.run import Run
from ml.explain.studies.study import StudyProblem, StudyRun, prepare_study
from ml.explain.work import AttemptOptions
from ml.models.protocol import ExplainableModel, ModelInfo
from ml.result import Progress
from ml.spec import ExplanationSpec, StudySpec
from ml.tokens import Tokenizer

Question = ExplanationSpec | StudySpec


@overload
def prepare(tokenizer: Tokenizer, info: ModelInfo, question: ExplanationSpec) -> Problem: ...


@overload
def prepare(tokenizer: Tokenizer, info: ModelInfo, question: Question) -> Problem | StudyProblem: ...


def prepare(tokenizer: Tokenizer, info: ModelInfo, question: Question) -> Problem | StudyProblem:
    """Check a question against a model's tokenizer, and work out all that does not take the model.

    Raises:
        InputError, PromptTooLongError, CapabilityError: as `ml.explain.problem.prepare` and `prepare_study`.
    """
    if isinstance(question, StudySpec):
        return prepare_study(tokenizer, info, question)
    return problem.prepare(tokenizer, info, question)


@dataclass(frozen=True)
class Forecast:
    """The most that a question will cost.

    Attributes:
        tokens: tokens that the model reads.
        max_duration: seconds; None where the budget does not bound them.
        rows: rows of the result.
        row_bytes: bytes that these take in the result.
    """

    evaluations: int
    tokens: int
    max_duration: float | None
    rows: int = 0
    row_bytes: int = 0

    def progress(self, tokens_per_second: float | None) -> Progress:
        """The progress before any work; without a remaining time if the recent throughput is unknown."""
        duration = None if tokens_per_second is None else self.tokens / tokens_per_second
        if duration is not None and self.max_duration is not None:
            duration = min(duration, self.max_duration)
        return Progress(0, self.evaluations, remaining_duration=duration, tokens_planned=self.tokens)


def forecast(problem: Problem | StudyProblem) -> Forecast:
    """The most that a problem will cost."""
    evaluations = problem.max_evaluations
    planned = Forecast(evaluations, problem.tokens(evaluations), problem.spec.budget.max_duration)
    if isinstance(problem, Problem):
        return replace(planned, rows=problem.max_rows, row_bytes=problem.row_bytes)
    return planned


def start(
    model: ExplainableModel,
    question: Question,
    checkpoint: bytes | None = None,
    **options: Unpack[AttemptOptions],
) -> Run | StudyRun:
    """A run that answers the question when iterated over. The arguments are those of `ml.explain.work.Work`.

    Raises:
        InputError, PromptTooLongError, CapabilityError: as `prepare`.
    """
    if isinstance(question, StudySpec):
        return StudyRun(model, question, checkpoint, **options)
    return Run(model, question, checkpoint, **options)
