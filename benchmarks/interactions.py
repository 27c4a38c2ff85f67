"""Errors of sampled pairwise interactions beside shapiq's, and how honest their intervals are.

    python -m benchmarks.interactions [--model transformer | lstm | FOLDER] [--seeds 20] [--peers REGEX] [--json FILE]

The truth is exact, by shapiq's own computer: of prompts of twelve words all 4,096 coalitions are evaluated, and what
each way asks for is looked up there. shapiq estimates the same index from as many evaluations: by permutations,
weighted sums, stratified means, two regressions, and its sparse proxy (`pip install lightgbm`). An error is the root
mean square over pairs and seeds, as a part of the true interactions' standard deviation. Coverage is the share of 95 %
intervals that hold the truth, of all pairs and of the ten largest. No figure here depends on the machine's speed.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapiq
from rich.console import Console
from rich.table import Table

from ml.explain import ValueFunction, prepare
from ml.explain.estimator import Estimate, Pairwise
from ml.explain.explainers.interactions import InteractionsExplainer
from ml.explain.sampling.interval import two_sided_95
from ml.explain.target import TargetTokens
from ml.explain.values.evaluation import Evaluator
from ml.models.base import LanguageModel
from ml.models.loading import load
from ml.spec import Budget, ExplanationSpec, Interactions, Prompt

TEXTS = (
    "He scored his first goal of the season in the last minute",
    "The album was released in the United States by the band and",
    "The film was not good , and the critics said that it",
)
EVALUATIONS = (250, 500, 1000)
PEERS = {
    "shapiq PermutationSamplingSII": shapiq.PermutationSamplingSII,
    "shapiq SHAPIQ": shapiq.SHAPIQ,
    "shapiq SVARMIQ": shapiq.SVARMIQ,
    "shapiq KernelSHAPIQ": shapiq.KernelSHAPIQ,
    "shapiq InconsistentKernelSHAPIQ": shapiq.InconsistentKernelSHAPIQ,
    "shapiq ProxySPEX": shapiq.ProxySPEX,
}
LARGEST = 10
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measurement:
    """One way to one prompt's interactions, at one number of evaluations."""

    text: str
    who: str
    evaluations: int
    error: float
    coverage: float | None = None
    coverage_of_largest: float | None = None


class Bench:
    """One model and one prompt, all of whose coalitions are known."""

    def __init__(self, model: LanguageModel, text: str, seeds: int, peers: Sequence[str]) -> None:
        self._text, self._seeds, self._peers = text, seeds, peers
        problem = prepare(model.tokenizer, model.info, ExplanationSpec(Prompt(text=text), Interactions()))
        target = int(model.logits([problem.encoding.ids])[0][-1].argmax())
        self._game = ValueFunction(problem.perturbation, Evaluator(model, TargetTokens((target,))))
        self._features = self._game.features
        self._base = float(self._game.evaluate(np.zeros((1, self._features), dtype=np.bool_))[0])
        self._truth = self._read(shapiq.ExactComputer(self._values, n_players=self._features)("SII", order=2))

    def measure(self) -> list[Measurement]:
        """Gloss's and shapiq's."""
        found = []
        largest = np.argsort(-np.abs(self._truth))[:LARGEST]
        for evaluations in EVALUATIONS:
            for who in self._peers:
                theirs = [self._peer(who, evaluations, seed) for seed in range(self._seeds)]
                found.append(Measurement(self._text, who, evaluations, self._error(theirs)))
            ours = [self._explained(evaluations, seed) for seed in range(self._seeds)]
            pairs = [self._pairs(each) for each in ours]
            held = np.array(
                [
                    np.abs(each.values - self._truth) <= two_sided_95(one.freedom) * each.standard_errors
                    for one, each in zip(ours, pairs, strict=True)
                ]
            )
            error = self._error([each.values for each in pairs])
            coverage, of_largest = float(held.mean()), float(held[:, largest].mean())
            found.append(Measurement(self._text, "gloss", evaluations, error, coverage, of_largest))
        return found

    def _explained(self, evaluations: int, seed: int) -> Estimate:
        explainer = InteractionsExplainer(self._features, Budget(max_evaluations=evaluations, seed=seed))
        *_, last = (step for step in explainer(self._game) if step is not None)
        return last

    @staticmethod
    def _pairs(found: Estimate) -> Pairwise:
        if found.interactions is None:
            raise AssertionError("interactions are what was asked for")
        return found.interactions

    def _values(self, coalitions: npt.NDArray[np.bool_]) -> Values:
        """Values of `coalitions` [n, features], less that of none: shapiq takes that to be 0."""
        found: Values = self._game.evaluate(np.atleast_2d(coalitions).astype(np.bool_)) - self._base
        return found

    def _peer(self, who: str, evaluations: int, seed: int) -> Values:
        approximator = PEERS[who](n=self._features, max_order=2, index="SII", random_state=seed)
        return self._read(approximator.approximate(evaluations, self._values))

    def _read(self, found: shapiq.InteractionValues) -> Values:
        """The index of each pair; 0 where shapiq has found none."""
        return np.array([found[pair] for pair in combinations(range(self._features), 2)], dtype=np.float64)

    def _error(self, found: Sequence[Values]) -> float:
        return float(np.sqrt(np.mean((np.array(found) - self._truth) ** 2)) / self._truth.std())


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="transformer", help="shipped name or folder")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--peers", default="", help="shapiq's ways in whose names this regular expression is found")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    model = load(options.model, device="cpu", threads=options.threads)
    peers = [who for who in PEERS if re.search(options.peers, who)]
    found = [one for text in TEXTS for one in Bench(model, text, options.seeds, peers).measure()]
    table = Table(
        "prompt", "who", "evaluations", "error", "coverage", f"of the {LARGEST} largest", title=model.info.name
    )
    for one in found:
        shares = ("" if each is None else f"{each:.2f}" for each in (one.coverage, one.coverage_of_largest))
        table.add_row(one.text[:24] + "…", one.who, str(one.evaluations), f"{one.error:.3f}", *shares)
    Console().print(table)
    if options.json:
        figures = json.loads(options.json.read_text()) if options.json.exists() else {}
        figures[f"{model.info.name}, beside shapiq"] = {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "seeds": options.seeds,
            "found": [asdict(one) for one in found],
        }
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
