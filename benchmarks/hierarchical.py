"""Does coarse to fine find the sources that asking for every one finds, and from how many evaluations?

    python -m benchmarks.hierarchical TEXT [--model FOLDER] [--figure hundred | quarter | real | planted | short]
        [--contexts 20] [--bfloat16] [--seconds 480] [--json FILE]

TEXT is the folder of WikiText-2. `hundred` and `real` are texts of 100 and 200 sentences of it, and the model's own
continuation; `short` are texts of 25 sentences, which the shipped transformer can read; `planted` are lists of 200
sentences, five of which hold what the continuation says. Each is explained twice: every sentence left out alone, and
coarse to fine within 30 evaluations of 100 sentences (25 as `quarter`), 60 of 200, 13 of 25.

Each context is printed, and kept in the JSON file, as soon as it is known. What the model says is kept in that file's
neighbour `.cache`: a run that is started again goes on behind it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks.finding.contexts import Context, planted, real, wikitext
from benchmarks.finding.kept import KeptCache
from benchmarks.machine import processor
from ml.errors import PromptTooLongError
from ml.explain import Run
from ml.memory import expect_to_stay, keep_freed_memory
from ml.models.loading import load
from ml.models.protocol import ExplainableModel
from ml.result import ExplanationResult
from ml.spec import Budget, ExplanationSpec, Hierarchical, Occlusion


@dataclass(frozen=True)
class Figure:
    """A goal: contexts of so many sentences, real ones with at most so many words each, and the evaluations allowed."""

    sentences: int
    evaluations: int
    words: int = 0

    def contexts(self, text: Path) -> Iterator[Context]:
        """All contexts of real text, or planted ones without end."""
        if self.words:
            return real(wikitext(text), self.sentences, self.words)
        return (planted(number, self.sentences) for number in itertools.count())


FIGURES = {
    "hundred": Figure(100, 30, words=15),
    "quarter": Figure(100, 25, words=15),
    "real": Figure(200, 60, words=8),
    "planted": Figure(200, 60),
    "short": Figure(25, 13, words=10),
}
TOP = 5


@dataclass(frozen=True)
class Found:
    """What the two ways found of one context.

    Attributes:
        tokens: of the prompt.
        flat_evaluations, evaluations: prompts that either asks about, known ones as well.
        flat_top, top: the sentences that support the answer most, first to fifth.
        planted: those that hold the answer, where that is known.
        covered, pruned: of the parts that were not looked into, how many hide no more than they say, and how many
            there are.
    """

    context: str
    tokens: int
    flat_evaluations: int
    evaluations: int
    flat_top: tuple[int, ...]
    top: tuple[int, ...]
    planted: tuple[int, ...]
    covered: int
    pruned: int

    @property
    def same_first(self) -> bool:
        """Whether the first source is the same."""
        return self.top[0] == self.flat_top[0]

    @property
    def same(self) -> int:
        """How many of the first five are."""
        return len({*self.top} & {*self.flat_top})


def find(model: ExplainableModel, context: Context, figure: Figure, cache: KeptCache, until: float) -> Found | None:
    """Explain a context both ways; None where time runs out."""
    flat, flat_evaluations = _result(model, context.asked(Occlusion()), cache, until)
    if flat is None:
        return None
    asked = context.asked(Hierarchical(threshold=0.0), budget=Budget(max_evaluations=figure.evaluations))
    ours, evaluations = _result(model, asked, cache, until)
    if ours is None or ours.hierarchy is None:
        return None
    missed = [each.standard_error is None for each in ours.attributions]
    alone = np.where(missed, [abs(each.attribution) for each in flat.attributions], 0.0)
    pruned = [node for node in ours.hierarchy.nodes if node.hidden is not None]
    hides = [alone[node.first_feature :][: node.feature_count].max() - (node.hidden or 0.0) for node in pruned]
    return Found(
        context.name,
        len(flat.tokens),
        flat_evaluations,
        evaluations,
        _top(flat),
        _top(ours),
        tuple(sorted(context.planted)),
        sum(bool(each <= 1e-9) for each in hides),
        len(pruned),
    )


def _result(
    model: ExplainableModel, asked: ExplanationSpec, cache: KeptCache, until: float
) -> tuple[ExplanationResult | None, int]:
    """The result, None where time runs out; and about how many prompts was asked."""
    result = None
    cache.asked.clear()
    for update in Run(model, asked, cache=cache):
        if time.monotonic() > until:
            return None, len(cache.asked)
        result = update.result
    if not isinstance(result, ExplanationResult):
        raise AssertionError("an explanation ends with its result")
    return result, len(cache.asked)


def _top(result: ExplanationResult) -> tuple[int, ...]:
    attributions = np.array([each.attribution for each in result.attributions])
    return tuple(np.argsort(-attributions, kind="stable")[:TOP].tolist())


def line(one: Found) -> str:
    """A line about a context."""
    first = "the same" if one.same_first else "another"
    return (
        f"{one.context}: {one.tokens:,} tokens, {one.evaluations} evaluations for {one.flat_evaluations},"
        f" {first} first, {one.same} of the first {TOP}, {one.covered} of {one.pruned} parts bounded"
    )


def summary(found: Sequence[Found]) -> str:
    """A line about all contexts of a figure."""
    first, same = sum(one.same_first for one in found), sum(one.same for one in found)
    fewer = sum(one.flat_evaluations for one in found) / max(1, sum(one.evaluations for one in found))
    return (
        f"{len(found)} contexts: {fewer:.1f} times fewer evaluations, the same first in {first},"
        f" {same / max(1, len(found)):.2f} of the first {TOP} on average"
    )


def keep(found: Sequence[Found], model: ExplainableModel, figure: str, path: Path) -> None:
    """Write down what is known of a figure's contexts, beside that of the others."""
    figures = json.loads(path.read_text()) if path.exists() else {}
    figures.setdefault(model.info.name, {})[figure] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor(),
        "dtype": model.info.dtype,
        "contexts": [asdict(one) for one in found],
    }
    path.write_text(json.dumps(figures, indent=1) + "\n")


def main() -> None:
    """Explain contexts until the time is up, and print and keep what is found of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="folder of WikiText-2")
    parser.add_argument("--model", default="lstm", help="shipped name or folder")
    parser.add_argument("--figure", choices=list(FIGURES), default="hundred")
    parser.add_argument("--contexts", type=int, default=20, help="that the model can read")
    parser.add_argument("--bfloat16", action="store_true", help="compute in bfloat16")
    parser.add_argument("--seconds", type=float, default=480.0)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/hierarchical.json"))
    options = parser.parse_args()
    keep_freed_memory()
    until = time.monotonic() + options.seconds
    model: ExplainableModel = load(options.model, device="cpu", threads=1)
    if options.bfloat16 and (faster := model.in_bfloat16()):
        model = faster[0].model
    expect_to_stay()
    cache, figure = KeptCache(options.json.with_suffix(".cache")), FIGURES[options.figure]
    found: list[Found] = []
    for context in figure.contexts(options.text):
        try:
            one = find(model, context, figure, cache, until)
        except PromptTooLongError:
            continue
        if one is None:
            break
        found.append(one)
        print(line(one), flush=True)
        keep(found, model, options.figure, options.json)
        if len(found) == options.contexts:
            break
    print(f"{model.info.name}, {options.figure}, {summary(found)}")


if __name__ == "__main__":
    main()
