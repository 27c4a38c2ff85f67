"""Errors of sampled explanations beside `lime`'s and `shap`'s, and how honest their intervals are.

    python -m benchmarks.accuracy [--model transformer | lstm | FOLDER] [--seeds 12] [--json FILE]

A prompt of some 32 words is explained again and again with other seeds. An error is the root mean square difference
from a long reference run, over words and seeds. `lime` and `shap` ask the same model through the same value function,
so that nothing but their sampling and their estimator differs. Coverage is the share of 95 % intervals that hold the
reference. No figure here depends on the machine's speed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import shap
from lime.lime_text import LimeTextExplainer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.explained import attributions, explained
from ml.explain import ValueFunction, prepare
from ml.explain.target import TargetTokens
from ml.explain.values.evaluation import Evaluator
from ml.models.base import LanguageModel
from ml.models.loading import load
from ml.spec import (
    Budget,
    Estimator,
    ExplanationSpec,
    KernelShap,
    Lime,
    Method,
    NextTokenTarget,
    Prompt,
    Quality,
    ShapleyPermutation,
    Target,
)

TEXTS = (
    "The bridge was built in 1932 by the city engineers , and it was the longest of its kind in the country until the"
    " second world war . After the war , the",
    "He scored his first goal of the season in the last minute of the match against Manchester , and was named player"
    " of the month by the supporters of the club in",
)
REFERENCE = 4000
Values = npt.NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True)
class Measurement:
    """One way to estimate attributions, at one number of evaluations."""

    text: int
    who: str
    evaluations: int
    error: float
    coverage: float | None = None


class Bench:
    """One model and one prompt."""

    def __init__(self, model: LanguageModel, number: int, seeds: int) -> None:
        self.model, self.number, self.seeds = model, number, seeds
        self.text = TEXTS[number]
        ids = model.tokenizer.encode(Prompt(text=self.text)).ids
        self.target = int(model.logits([ids])[0][-1].argmax())
        spec = self._spec(KernelShap(), 1000, 0, Estimator.TEXTBOOK)
        problem = prepare(model.tokenizer, model.info, spec)
        self.game = ValueFunction(problem.perturbation, Evaluator(model, TargetTokens((self.target,))))

    def measure(self) -> list[Measurement]:
        """LIME and Shapley values, theirs and ours."""
        found = []
        lime = self._reference(Lime())
        found.append(self._peer("lime", 1000, self._lime, lime))
        for evaluations in (1000, 333, 250):
            found += self._ours("LIME", Lime(), evaluations, lime)
        shapley = self._reference(KernelShap())
        found.append(self._peer("shap KernelExplainer", 500, self._shap, shapley))
        for evaluations in (500, 250, 166):
            found += self._ours("KernelSHAP", KernelShap(), evaluations, shapley)
        found += self._ours("permutations", ShapleyPermutation(), 500, shapley)
        return found

    def _spec(self, method: Method, evaluations: int, seed: int, estimator: Estimator) -> ExplanationSpec:
        return ExplanationSpec(
            Prompt(text=self.text),
            replace(method, estimator=estimator) if isinstance(method, KernelShap | Lime) else method,
            target=Target(NextTokenTarget(id=self.target)),
            budget=Budget(max_evaluations=evaluations, seed=seed),
            quality=Quality(faithfulness=False),
        )

    def _run(self, spec: ExplanationSpec) -> tuple[Values, Values]:
        """Attributions, and how far their intervals reach."""
        found = explained(self.model, spec)
        reach = [each.interval.upper - each.attribution if each.interval else np.inf for each in found.attributions]
        return attributions(found), np.array(reach)

    def _reference(self, method: Method) -> Values:
        specs = [self._spec(method, REFERENCE, 1000 + seed, Estimator.CONTROL_VARIATES) for seed in range(3)]
        mean: Values = np.mean([self._run(spec)[0] for spec in _announced(specs, "the reference")], axis=0)
        return mean

    def _ours(self, name: str, method: Method, evaluations: int, reference: Values) -> list[Measurement]:
        found = []
        both = not isinstance(method, ShapleyPermutation)
        for estimator in Estimator if both else (Estimator.TEXTBOOK,):
            who = f"gloss {name}, {estimator.value}" if both else f"gloss {name}"
            specs = [self._spec(method, evaluations, seed, estimator) for seed in range(self.seeds)]
            runs = [self._run(spec) for spec in _announced(specs, f"{who}, {evaluations}")]
            errors = np.array([values - reference for values, _ in runs])
            held = np.mean([np.abs(e) <= reach for e, (_, reach) in zip(errors, runs, strict=True)])
            found.append(Measurement(self.number, who, evaluations, _rms(errors), float(held)))
        return found

    def _peer(self, who: str, evaluations: int, way: Callable[[int, int], Values], reference: Values) -> Measurement:
        seeds = _announced(range(self.seeds), f"{who}, {evaluations}")
        errors = np.array([way(evaluations, seed) - reference for seed in seeds])
        return Measurement(self.number, who, evaluations, _rms(errors))

    def _lime(self, evaluations: int, seed: int) -> Values:
        words = self.text.split()

        def predict(texts: list[str]) -> Values:
            kept = np.array([[one == word for one, word in zip(t.split(), words, strict=True)] for t in texts])
            values = self.game.evaluate(kept)
            return np.column_stack([values, -values])

        explainer = LimeTextExplainer(
            bow=False, split_expression=str.split, mask_string="\N{BULLET}", random_state=seed
        )
        found = explainer.explain_instance(
            self.text, predict, labels=(0,), num_features=len(words), num_samples=evaluations
        )
        weights = dict(found.as_map()[0])
        return np.array([weights[i] for i in range(len(words))])

    def _shap(self, evaluations: int, seed: int) -> Values:
        words = self.game.features
        explainer = shap.KernelExplainer(
            lambda masks: self.game.evaluate(masks.astype(bool)), np.zeros((1, words)), seed=seed
        )
        values: Values = explainer.shap_values(np.ones(words), nsamples=evaluations, silent=True, l1_reg=False)
        return values


def _announced(work: Sequence[T], what: str) -> Iterable[T]:
    """`work`, with a bar on standard error that goes once it is done."""
    return track(work, what, console=Console(stderr=True), transient=True)


def _rms(errors: Values) -> float:
    return float(np.sqrt(np.mean(errors**2)))


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="transformer", help="shipped name or folder")
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    model = load(options.model, device="cpu", threads=options.threads)
    found: list[Measurement] = []
    for number in range(len(TEXTS)):
        measured = Bench(model, number, options.seeds).measure()
        found += measured
        table = Table("who", "evaluations", "error", "coverage", title=f"{model.info.name}: {TEXTS[number][:40]}…")
        for one in measured:
            table.add_row(
                one.who,
                str(one.evaluations),
                f"{one.error:.4f}",
                "" if one.coverage is None else f"{one.coverage:.3f}",
            )
        Console().print(table)
    if options.json:
        figures = json.loads(options.json.read_text()) if options.json.exists() else {}
        figures[model.info.name] = {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "seeds": options.seeds,
            "texts": TEXTS,
            "found": [asdict(one) for one in found],
        }
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
