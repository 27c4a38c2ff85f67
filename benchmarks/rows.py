"""What rows of a generation cost: every method that has them, with a row for each of 32 tokens and without.

    python -m benchmarks.rows [--model transformer | lstm | FOLDER] [--rounds 3] [--threads N] [--only METHOD]
        [--json FILE]

Both are timed in turn, and the ratio is the median over the rounds of one beside the other; each method is printed, and
kept in the JSON file, as soon as it is known. Words of a prompt of 20 are the features; sampling methods have 300
evaluations, and the faithfulness block is left out, as it would hide what is asked. Gradients of rows are further
evaluations: their ratio stands beside that of the evaluations.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.machine import processor
from benchmarks.subjects import TEXT
from ml.explain import Run
from ml.memory import expect_to_stay, keep_freed_memory
from ml.models.loading import load
from ml.models.protocol import ExplainableModel
from ml.result import ExplanationResult
from ml.spec import (
    Budget,
    ContextAttribution,
    Continuation,
    ExplanationSpec,
    Hierarchical,
    InputTimesGradient,
    IntegratedGradients,
    Interactions,
    KernelShap,
    Lime,
    Method,
    Occlusion,
    Prompt,
    Quality,
    Rows,
    ShapleyPermutation,
    SurrogateKind,
    Target,
)

WORDS, TOKENS = 20, 32
EVALUATIONS = 300
"""Of the methods that sample. Others have what they ask for."""
_SAMPLING = (Lime, KernelShap, ShapleyPermutation, ContextAttribution, Interactions)
METHODS: dict[str, Method] = {
    "occlusion": Occlusion(),
    "LIME, ridge": Lime(),
    "LIME, lasso": Lime(SurrogateKind.LASSO),
    "LIME, tree": Lime(SurrogateKind.DECISION_TREE),
    "KernelSHAP": KernelShap(),
    "permutations": ShapleyPermutation(),
    "context attribution": ContextAttribution(),
    "hierarchical": Hierarchical(),
    "interactions": Interactions(),
    "interactions, rows of pairs": Interactions(),
    "input × gradient": InputTimesGradient(),
    "integrated gradients": IntegratedGradients(13),
}


@dataclass(frozen=True)
class Measurement:
    """Seconds of a method without and with rows, medians, and the median ratio; evaluations of both."""

    method: str
    alone: float
    beside: float
    ratio: float
    evaluations: int
    evaluations_of_rows: int


def measure(model: ExplainableModel, name: str, rounds: int) -> Measurement:
    """Time one method in turn with and without rows."""
    prompt = " ".join(TEXT.split()[:WORDS])
    ids = model.tokenizer.encode(Prompt(text=prompt)).ids
    answer = tuple(
        model.generate_greedily(
            ids, TOKENS, banned=(*model.tokenizer.special.ends, *model.tokenizer.special.placeholders)
        )
    )
    method = METHODS[name]
    beside = ExplanationSpec(
        Prompt(text=prompt),
        method,
        target=Target(Continuation(token_ids=answer)),
        budget=Budget(max_evaluations=EVALUATIONS if isinstance(method, _SAMPLING) else None),
        quality=Quality(faithfulness=False),
        rows=Rows(pairs="pairs" in name),
    )
    alone = replace(beside, rows=None)
    _timed(model, beside)
    pairs = [(_timed(model, alone), _timed(model, beside)) for _ in range(rounds)]
    without, with_rows = ([each[kind][0] for each in pairs] for kind in (0, 1))
    return Measurement(
        method=name,
        alone=statistics.median(without),
        beside=statistics.median(with_rows),
        ratio=statistics.median(b / a for a, b in zip(without, with_rows, strict=True)),
        evaluations=pairs[0][0][1].cost.evaluations,
        evaluations_of_rows=pairs[0][1][1].cost.evaluations,
    )


def _timed(model: ExplainableModel, asked: ExplanationSpec) -> tuple[float, ExplanationResult]:
    began = time.perf_counter()
    *_, last = Run(model, asked)
    took = time.perf_counter() - began
    if not isinstance(last.result, ExplanationResult):
        raise AssertionError("an explanation ends with its result")
    return took, last.result


def line(one: Measurement) -> str:
    """A line about a method."""
    same = one.evaluations == one.evaluations_of_rows
    evaluations = f"{one.evaluations:,}" + ("" if same else f" → {one.evaluations_of_rows:,}")
    seconds = f"{one.alone:.2f} s without, {one.beside:.2f} s with them: {one.ratio:.2f} times as long"
    return f"{one.method}: {seconds}, {evaluations} evaluations"


def keep(found: Sequence[Measurement], model: ExplainableModel, path: Path) -> None:
    """Write down what is known of a model, beside that of the others."""
    figures = json.loads(path.read_text()) if path.exists() else {}
    figures[model.info.name] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor(),
        "measurements": [asdict(one) for one in found],
    }
    path.write_text(json.dumps(figures, indent=2) + "\n")


def main() -> None:
    """Measure, and print the figures of each method, in JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="transformer", help="shipped name or folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--only", default="", help="methods that contain this")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    keep_freed_memory()
    model = load(options.model, device="cpu", threads=options.threads)
    expect_to_stay()
    print(f"{model.info.name}, rows for {TOKENS} tokens", flush=True)
    found: list[Measurement] = []
    for name in METHODS:
        if options.only in name:
            found.append(measure(model, name, options.rounds))
            print(line(found[-1]), flush=True)
            if options.json:
                keep(found, model, options.json)


if __name__ == "__main__":
    main()
