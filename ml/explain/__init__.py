"""Explanations: which parts of a prompt a model's answer rests on, how sure that is, and whether to believe it.

Problem (problem.py)        a spec settled against a tokenizer: features, removal, target, explainer
ValueFunction               coalitions of features in, target values out; removal, cache, chunks, clock
Evaluator (evaluation.py)   prompts in, log-probabilities of the target's tokens out: the only place that asks the model
TargetTokens (target.py)    what is measured, and the objective that makes a value of the log-probabilities
PromptInternals             one prompt inside a model, for methods that look there (internals.py)
OcclusionExplainer, ...     estimators over any game, which a value function is one of
Node (hierarchy.py)         the tree of a text's parts, for what goes from coarse to fine (hierarchical.py)
anytime (sampling.py)       what those that sample do alike: growing batches, limits, when to stop
Control (control.py)        what a fitted game explains of the samples' values, for those that sample
Work (work.py)              a question at work: updates, checkpoint, clock
Run (run.py)                one explanation at work, to its judged result
StudyRun (study.py)         one study of many texts at work, likewise
prepare, forecast, start    the same for either, by what is asked
"""

from ml.explain.problem import Problem
from ml.explain.question import Forecast, Question, forecast, prepare, start
from ml.explain.run import Run
from ml.explain.study import StudyProblem, StudyRun
from ml.explain.value_function import ValueFunction

__all__ = [
    "Forecast",
    "Problem",
    "Question",
    "Run",
    "StudyProblem",
    "StudyRun",
    "ValueFunction",
    "forecast",
    "prepare",
    "start",
]
