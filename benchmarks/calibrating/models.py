"""Prompts of the shipped models as games: all coalitions of a short one are computed once and kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.calibrating import truths
from benchmarks.calibrating.games import ToyGame
from benchmarks.subjects import TEXT
from ml.explain import ValueFunction, prepare
from ml.explain.estimator import BoolArray, Explainer, FloatArray
from ml.explain.explainers.interactions import InteractionsExplainer
from ml.explain.explainers.kernel_shap import KernelShapExplainer
from ml.explain.explainers.lime import LimeExplainer
from ml.explain.problem import Problem
from ml.explain.target import TargetTokens
from ml.explain.values.evaluation import Evaluator
from ml.models.base import LanguageModel
from ml.models.loading import load
from ml.spec import Budget, ExplanationSpec, Lime, Prompt

NAMES = ("transformer", "lstm")
ENUMERATED = 13
"""Features up to which all coalitions are computed."""
_REFERENCE = 4000  # evaluations of one long run
_RUNS = 4


@dataclass
class ModelGame:
    """The first words of a text, each of them a feature; the value is the most likely next token's log-probability."""

    name: str
    features: int
    folder: Path

    def __post_init__(self) -> None:
        self._table: FloatArray | None = None
        self._value: ValueFunction | None = None

    def __call__(self, coalitions: BoolArray) -> FloatArray:
        """Values [n] of `coalitions`, bool [n, features]."""
        if self.features > ENUMERATED:
            return self._computed(coalitions)
        if self._table is None:
            self._table = self._kept("values", lambda: self._computed(truths.every(self.features)))
        values: FloatArray = self._table[coalitions @ (1 << np.arange(self.features))]
        return values

    def truth(self, kind: str) -> FloatArray:
        """The true answer: exact where all coalitions are known, and elsewhere that of long runs, their mean."""
        if self.features <= ENUMERATED:
            return truths.KINDS[kind](ToyGame(self.features, self))
        runs = range(_RUNS)
        return self._kept(kind, lambda: np.asarray(np.mean([self._long_run(kind, seed) for seed in runs], axis=0)))

    def _long_run(self, kind: str, seed: int) -> FloatArray:
        budget = Budget(max_evaluations=_REFERENCE, seed=10_000 + seed)
        explainers: dict[str, Explainer] = {
            "lime": LimeExplainer(self.features, Lime(), budget, control=True),
            "shapley": KernelShapExplainer(self.features, budget, control=True),
            "interactions": InteractionsExplainer(self.features, budget),
        }
        *_, last = (step for step in explainers[kind](self._opened()) if step is not None)
        return last.interactions.values if last.interactions is not None else last.attributions

    def _computed(self, coalitions: BoolArray) -> FloatArray:
        return self._opened().evaluate(coalitions)

    def _opened(self) -> ValueFunction:
        if self._value is None:
            model = _loaded(self.name)
            text = " ".join(TEXT.split()[: self.features])
            problem = prepare(model.tokenizer, model.info, ExplanationSpec(Prompt(text=text), Lime()))
            if not isinstance(problem, Problem) or len(problem.features) != self.features:
                raise AssertionError("a word that is not one feature")
            target = int(model.logits([problem.encoding.ids])[0][-1].argmax())
            self._value = ValueFunction(problem.perturbation, Evaluator(model, TargetTokens((target,))))
        return self._value

    def _kept(self, what: str, compute: Callable[[], FloatArray]) -> FloatArray:
        return kept(self.folder / f"{self.name}-{self.features}-{what}.npy", compute)


def kept(path: Path, compute: Callable[[], FloatArray]) -> FloatArray:
    """What was computed before and is kept in a file, or else what is computed now."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        mine = path.with_suffix(f".{os.getpid()}.npy")
        np.save(mine, compute())
        mine.replace(path)  # whole, whoever else is at it
    found: FloatArray = np.load(path)
    return found


@cache
def _loaded(name: str) -> LanguageModel:
    return load(name, device="cpu", threads=1)
