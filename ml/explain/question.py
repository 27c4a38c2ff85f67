"""What may be asked: an explanation of one prompt, or a study of many."""

from __future__ import annotations

from ml.explain import problem
from ml.explain.cache import ValueCache
from ml.explain.problem import Problem
from ml.explain.run import Run
from ml.explain.study import StudyProblem, StudyRun, prepare_study
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


def forecast(problem: Problem | StudyProblem, tokens_per_second: float | None) -> Progress:
    """What all of the work will cost, before any of it is done.

    Args:
        problem: what there is to solve.
        tokens_per_second: how fast such work was of late, prompts' shared tokens counted as often as they come; None
            where that is not known, and then no time is told.
    """
    tokens, limit = problem.tokens(problem.max_evaluations), problem.spec.budget.max_duration
    duration = None if tokens_per_second is None else tokens / tokens_per_second
    if duration is not None and limit is not None:
        duration = min(duration, limit)
    return Progress(0, problem.max_evaluations, remaining_duration=duration, tokens_planned=tokens)


def start(
    model: ExplainableModel, question: Question, checkpoint: bytes | None = None, *, cache: ValueCache | None = None
) -> Run | StudyRun:
    """What answers a question when it is iterated over. The arguments are those of `ml.explain.work.Work`.

    Raises:
        InputError, PromptTooLongError, CapabilityError: as `prepare`.
    """
    if isinstance(question, StudySpec):
        return StudyRun(model, question, checkpoint, cache=cache)
    return Run(model, question, checkpoint, cache=cache)
