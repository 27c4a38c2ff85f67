"""What is asked: the explainers' own vocabulary, free of torch and of the wire.

Fields have the names that they have in `proto/gloss/v1`, which documents them for users. Defaults and ranges are
declared here and nowhere else. What can be checked without a model is checked when a part is made, and raises
`InputError`; checks that need the model's tokens are made by `ml.explain.problem`.
"""

from ml.spec import method
from ml.spec.budget import Budget, PrecisionPolicy, Quality
from ml.spec.checks import check_ids
from ml.spec.explanation import ExplanationSpec
from ml.spec.features import NEUTRAL, Features, Removal, RemovalKind, Rows, Span, Unit
from ml.spec.method import *  # noqa: F403 - the methods are listed where they are declared
from ml.spec.prompt import ChatMessage, Continuation, Prompt
from ml.spec.study import (
    MAX_TEXTS,
    MIN_PROMPTS,
    SLOT,
    BiasProbe,
    GlobalSurrogate,
    StudyMethod,
    StudySpec,
    SwapSet,
)
from ml.spec.target import ContrastTarget, GenerationTarget, NextTokenTarget, Scale, Target, TargetKind

__all__ = [
    "MAX_TEXTS",
    "MIN_PROMPTS",
    "NEUTRAL",
    "SLOT",
    "BiasProbe",
    "Budget",
    "ChatMessage",
    "Continuation",
    "ContrastTarget",
    "ExplanationSpec",
    "Features",
    "GenerationTarget",
    "GlobalSurrogate",
    "NextTokenTarget",
    "PrecisionPolicy",
    "Prompt",
    "Quality",
    "Removal",
    "RemovalKind",
    "Rows",
    "Scale",
    "Span",
    "StudyMethod",
    "StudySpec",
    "SwapSet",
    "Target",
    "TargetKind",
    "Unit",
    "check_ids",
]
__all__ += method.__all__
