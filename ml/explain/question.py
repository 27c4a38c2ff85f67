"""What may be asked: an explanation of one prompt, or a study of many."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ml.explain import problem
from ml.explain.problem import Problem
from ml.explain.run import Run
from ml.explain.studies.study import StudyProblem, StudyRun, prepare_study
from ml.explain.values.cache import ValueCache
from ml.models.protocol import ExplainableModel, ModelInfo
from ml.result import Progress
from ml.spec import ExplanationSpec, StudySpec
from ml.tokens import Tokenizer

Question = ExplanationSpec | StudySpec


def prepare(tokenizer: Tokenizer, info: ModelInfo, question: Question) -> Problem | StudyProblem:
    """Check a question against a model's tokenizer, and settle all that can be settled without running the model.

    Raises:
        InputError, PromptTooLongError, CapabilityError: as `ml.explain.problem.prepare` and `prepare_study`.
    """
    if isinstance(question, StudySpec):
        return prepare_study(tokenizer, info, question)
    return problem.prepare(tokenizer, info, question)


@dataclass(frozen=True)
class Forecast:
    """What all of the work will cost, told before any of it is done.

    Attributes:
        evaluations: the most evaluations.
        tokens: the most tokens that the model reads, those that prompts share counted as often as they come.
        max_duration: the most seconds that it may take; None where that is not bounded.
        rows: the most rows of the result.
        row_bytes: the most bytes that they take there.
    """

    evaluations: int
    tokens: int
    max_duration: float | None
    rows: int = 0
    row_bytes: int = 0

    def progress(self, tokens_per_second: float | None) -> Progress:
        """How far the work is. No time is told where it is not known how fast such work was of late."""
        duration = None if tokens_per_second is None else self.tokens / tokens_per_second
        if duration is not None and self.max_duration is not None:
            duration = min(duration, self.max_duration)
        return Progress(0, self.evaluations, remaining_duration=duration, tokens_planned=self.tokens)


def forecast(problem: Problem | StudyProblem) -> Forecast:
    """What a problem will cost."""
    evaluations = problem.max_evaluations
    planned = Forecast(evaluations, problem.tokens(evaluations), problem.spec.budget.max_duration)
    if isinstance(problem, Problem):
        return replace(planned, rows=problem.max_rows, row_bytes=problem.row_bytes)
    return planned


def start(
    model: ExplainableModel,
    question: Question,
    checkpoint: bytes | None = None,
    *,
    cache: ValueCache | None = None,
    namespace: str = "",
    spent: float = 0.0,
) -> Run | StudyRun:
    """What answers a question when it is iterated over. The arguments are those of `ml.explain.work.Work`.

    Raises:
        InputError, PromptTooLongError, CapabilityError: as `prepare`.
    """
    if isinstance(question, StudySpec):
        return StudyRun(model, question, checkpoint, cache=cache, namespace=namespace, spent=spent)
    return Run(model, question, checkpoint, cache=cache, namespace=namespace, spent=spent)
