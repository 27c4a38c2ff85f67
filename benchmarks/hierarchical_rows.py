"""Does coarse to fine find what each sentence of an answer rests on, and what do rows change about it?

    python -m benchmarks.hierarchical_rows TEXT [--model FOLDER] [--answer next | quoted | planted]
        [--unit sentence | word] [--sentences 25] [--words 10] [--evaluations 13] [--contexts 20] [--seconds 480]
        [--json FILE]

TEXT is the folder of WikiText-2. The prompt is a text of so many sentences of it, and the answer has three sentences:
`next` are those that follow in the text; `quoted` is a sentence of the prompt, the one that follows, and another of the
prompt. `planted` are lists of sentences, five of which hold what the five sentences of the answer say.

Every feature is left out alone, with a row for each sentence of the answer. Then coarse to fine has so many
evaluations, once without rows, so that it looks for what all sentences rest on together, and once with them. What
counts is how many of a row's first features were measured. Rows on which leaving out the whole prompt costs less than a
nat do not count.
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

from benchmarks.finding.contexts import Context, continued, planted, quoted, wikitext
from benchmarks.machine import processor
from ml.errors import PromptTooLongError
from ml.explain import Run
from ml.explain.values.cache import ValueCache
from ml.memory import expect_to_stay, keep_freed_memory
from ml.models.loading import load
from ml.models.protocol import ExplainableModel
from ml.result import ExplanationResult
from ml.spec import Budget, ExplanationSpec, Features, Hierarchical, Occlusion, Rows, Unit

TOP = 5
SHARE, LEAST = 0.05, 1.0
"""Of a row's effect, what a source has to carry to be cited; and the least effect in nats. As `gloss cite` has them."""


@dataclass(frozen=True)
class Found:
    """How much of what a row rests on was measured, by the search without rows and by that with them.

    Attributes:
        effect: what leaving out the whole prompt costs the row, in nats.
        first: whether the first feature was measured.
        top: how many of the first five were, of `top_of`.
        cited: how many of those that would be cited were, of `cited_of`.
    """

    context: str
    effect: float
    first: tuple[bool, bool]
    top: tuple[int, int]
    top_of: int
    cited: tuple[int, int]
    cited_of: int


def find(model: ExplainableModel, context: Context, unit: Unit, evaluations: int, cache: ValueCache) -> list[Found]:
    """Explain a context three times."""
    parts = {"features": Features(unit, within=(0, context.context))}
    by_sentence = Rows(Unit.SENTENCE)
    flat = _result(model, context.asked(Occlusion(), rows=by_sentence, **parts), cache)
    searches = [
        _result(model, context.asked(Hierarchical(threshold=0.0), rows=rows, budget=budget, **parts), cache)
        for rows in (None, by_sentence)
        for budget in [Budget(max_evaluations=evaluations)]
    ]
    measured = [np.array([each.standard_error is not None for each in found.attributions]) for found in searches]
    found = []
    for row in flat.rows:
        values, effect = np.array(row.attributions), row.full_value - row.base_value
        top = [index for index in np.argsort(-values, kind="stable")[:TOP] if values[index] > 0]
        if effect < LEAST or not top:
            continue
        cited = np.flatnonzero(values >= SHARE * effect)
        of_both = [(bool(known[top[0]]), int(known[top].sum()), int(known[cited].sum())) for known in measured]
        first, of_top, of_cited = zip(*of_both, strict=True)
        found.append(Found(context.name, effect, first, of_top, len(top), of_cited, len(cited)))
    return found


def _result(model: ExplainableModel, asked: ExplanationSpec, cache: ValueCache) -> ExplanationResult:
    *_, last = Run(model, asked, cache=cache)
    if not isinstance(last.result, ExplanationResult):
        raise AssertionError("an explanation ends with its result")
    return last.result


def summary(found: Sequence[Found]) -> str:
    """What was found of all rows, without rows and with them."""
    ways = []
    for way, name in enumerate(("without rows", "with rows")):
        first = sum(one.first[way] for one in found)
        top = sum(one.top[way] for one in found) / max(1, sum(one.top_of for one in found))
        cited = sum(one.cited[way] for one in found) / max(1, sum(one.cited_of for one in found))
        ways.append(f"{name}: the first in {first}, {top:.0%} of the first {TOP}, {cited:.0%} of what would be cited")
    return f"{len(found)} rows; " + "; ".join(ways)


def contexts(options: argparse.Namespace) -> Iterator[Context]:
    """The contexts asked for."""
    if options.answer == "planted":
        return (planted(number, options.sentences) for number in itertools.count())
    made = continued if options.answer == "next" else quoted
    return made(wikitext(options.text), options.sentences, options.words)


def main() -> None:
    """Explain contexts until the time is up, and print and keep what is found of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="folder of WikiText-2")
    parser.add_argument("--model", default="transformer", help="shipped name or folder")
    parser.add_argument("--answer", choices=["next", "quoted", "planted"], default="next")
    parser.add_argument("--unit", choices=[Unit.SENTENCE.value, Unit.WORD.value], default=Unit.SENTENCE.value)
    parser.add_argument("--sentences", type=int, default=25)
    parser.add_argument("--words", type=int, default=10, help="of a sentence, at most")
    parser.add_argument("--evaluations", type=int, default=13)
    parser.add_argument("--contexts", type=int, default=20, help="that the model can read")
    parser.add_argument("--seconds", type=float, default=480.0)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/hierarchical_rows.json"))
    options = parser.parse_args()
    keep_freed_memory()
    until = time.monotonic() + options.seconds
    model = load(options.model, device="cpu", threads=1)
    expect_to_stay()
    found: list[Found] = []
    seen = 0
    for context in contexts(options):
        if seen == options.contexts or time.monotonic() > until:
            break
        try:
            rows = find(model, context, Unit(options.unit), options.evaluations, ValueCache(max_bytes=2**28))
        except PromptTooLongError:
            continue
        found += rows
        seen += 1
        print(f"{context.name}: {summary(rows)}", flush=True)
        keep(found, seen, model, options)
    print(f"{model.info.name}, {seen} contexts, {summary(found)}")


def keep(found: Sequence[Found], seen: int, model: ExplainableModel, options: argparse.Namespace) -> None:
    """Write down what is known, beside what other runs found."""
    figures = json.loads(options.json.read_text()) if options.json.exists() else {}
    asked = {name: getattr(options, name) for name in ("answer", "unit", "sentences", "words", "evaluations")}
    figures[" ".join(map(str, (model.info.name, *asked.values())))] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor(),
        **asked,
        "contexts": seen,
        "summary": summary(found),
        "rows": [asdict(one) for one in found],
    }
    options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
