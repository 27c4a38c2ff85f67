"""Explanations: which parts of a prompt a model's answer rests on, how sure that is, and whether to believe it.

A question at work, from the spec to the judged result:

question.py         prepare, forecast and start, for an explanation of one prompt or a study of many
problem.py          Problem: a spec checked against a tokenizer, with its features, removal, target and explainer
methods.py          which explainer a spec asks for, and what a method demands of the model
work.py, run.py     Work: updates, checkpoints, the clock. Run: one explanation, to its judged result
features.py         what attributions are given to, and which tokens each of them owns
removal.py          from a coalition of features to the tokens that the model reads
target.py, rows.py  what is measured, and the parts of it that have attributions of their own
estimator.py        what an explainer is: a generator over a game, of which a value function is one

explainers/         the methods, a module each: lime.py, kernel_shap.py, occlusion.py, gradients.py, ...
values/             ValueFunction: coalitions in, values out; the only place that asks the model
sampling/           what explainers that sample share: growing batches, when to stop, errors, surrogates
control_variates/   a Gaussian process fitted to the samples, whose answers are exact
hierarchy/          the tree of a text's parts, for the method that goes from coarse to fine
trust/              faithfulness, doubts, and the verdict
studies/            questions about many texts
text/               words, sentences and blocks of a text
"""

from ml.explain.problem import Problem
from ml.explain.question import Forecast, Question, forecast, prepare, start
from ml.explain.run import Run
from ml.explain.studies.study import StudyProblem, StudyRun
from ml.explain.values.value_function import ValueFunction

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
