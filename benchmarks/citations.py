"""Citations beside `context-cite` 0.0.4 on the same contexts, answers and masks; and facts that were planted.

    python -m benchmarks.citations speed [--model transformer | FOLDER] [--batches 1,8,64] [--rounds 3]
    python -m benchmarks.citations planted --model FOLDER [--seconds 150]

`speed`: 20 sources, some 400 tokens, an answer of three sentences, 64 ablations: all of what either does from texts to
the scores of every sentence. Both are timed in turn. The masks are those of `context-cite`, and so are the scores, but
for rounding: the largest difference is shown. `context-cite` is installed apart (``pip install context-cite==0.0.4``).

`planted`: how often the source that comes first is the one that holds the answer, of 50 contexts that a script makes. A
run ends after so many seconds; started again, it goes on behind what is known.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.citing.contexts import ANSWER, PROMPT, QUESTION, SOURCES, Planted, planted
from benchmarks.citing.ours import asked, explained_by, scores
from benchmarks.machine import processor
from benchmarks.subjects import folder_of
from gloss.citations import Rule, judge
from ml.memory import expect_to_stay, keep_freed_memory
from ml.models.base import LanguageModel
from ml.models.loading import load
from ml.spec import KernelShap, PrecisionPolicy, Prompt
from schema.convert import from_result

SIZE, TOKENS = 8, 10
"""Sources of a context with a planted fact, and tokens of the model's answer."""
OURS = {"gloss": PrecisionPolicy.FLOAT32, "gloss, bfloat16 where it is good": PrecisionPolicy.AUTO}


def speed(folder: Path, batches: list[int], ablations: int, rounds: int) -> dict[str, Any]:
    """Time all ways in turn."""
    from benchmarks.citing.peer import Peer, attributions  # what it needs is not installed everywhere  # noqa: PLC0415

    model, peer, answer = load(str(folder), device="cpu"), Peer(folder), "".join(ANSWER)
    expect_to_stay()
    prompt = PROMPT.format(context=" ".join(SOURCES), query=QUESTION)

    def theirs(batch: int) -> Callable[[], Any]:
        return lambda: attributions(
            peer.citer(SOURCES, QUESTION, answer, batch_size=batch, num_ablations=ablations), ANSWER
        )

    first = peer.citer(SOURCES, QUESTION, answer, batch_size=batches[0], num_ablations=ablations)
    expected, masks = attributions(first, ANSWER), first._masks
    found = scores(model, SOURCES, prompt, answer, masks)
    ways: dict[str, Callable[[], Any]] = {f"context-cite, batch {batch}": theirs(batch) for batch in batches} | {
        way: lambda precision=precision: explained_by(
            model, asked(SOURCES, prompt, answer, evaluations=ablations, precision=precision), masks
        )
        for way, precision in OURS.items()
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, ask in ways.items():
            seconds[way].append(_timed(ask))
    return {
        "ablations": ablations,
        "difference": float(np.abs(found - expected).max()),
        "largest": float(np.abs(expected).max()),
        "tokens": len(model.tokenizer.encode(Prompt(text=" ".join(SOURCES))).ids),
        "seconds": seconds,
    }


def _timed(ask: Callable[[], Any]) -> float:
    began = time.perf_counter()
    ask()
    return time.perf_counter() - began


def place(model: LanguageModel, case: Planted) -> dict[str, Any]:
    """Let the model answer, and see which source comes first."""
    prompt = f"{' '.join(case.sentences)}\n\nQuestion: {case.question}\nAnswer:"
    ids = model.tokenizer.encode(Prompt(text=prompt)).ids
    generated = list(model.generate_greedily(ids, TOKENS, banned=model.tokenizer.special.placeholders))
    answer = model.tokenizer.decode(generated).split("\n")[0].rstrip()
    found: dict[str, Any] = {"answer": answer, "right": case.answer.casefold() in answer.casefold()}
    if not found["right"]:
        return found
    sources = len(case.sentences)
    spec = asked(case.sentences, prompt, answer, method=KernelShap(), evaluations=max(64, 8 * sources))
    sentences = judge(from_result(explained_by(model, spec)), Rule())
    cited = next(each for each in sentences if case.answer.casefold() in each.text.casefold()).cited
    return found | {"cited": cited, "planted": case.planted, "first": cited[:1] == [case.planted]}


def plant(model: LanguageModel, cases: list[dict[str, Any]], seconds: float) -> list[dict[str, Any]]:
    """Go on behind the cases that are known, for so long."""
    end = time.monotonic() + seconds
    for case in list(planted(SIZE))[len(cases) :]:
        if time.monotonic() >= end:
            break
        cases.append(place(model, case))
    return cases


def main() -> None:
    """Measure, show, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "planted"])
    parser.add_argument("--model", default="transformer", help="shipped name or folder")
    parser.add_argument("--batches", default="1,8,64", help="of context-cite")
    parser.add_argument("--ablations", type=int, default=64, help="as context-cite has by itself")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/citations.json"))
    options = parser.parse_args()
    keep_freed_memory()
    figures = json.loads(options.json.read_text()) if options.json.exists() else {}
    name = Path(options.model).name
    mine = figures.setdefault(name, {})
    with folder_of(options.model) as folder:
        if options.what == "speed":
            batches = [int(each) for each in options.batches.split(",")]
            mine["speed"] = {
                "date": f"{datetime.now(UTC):%Y-%m-%d}",
                "processor": processor(),
                "threads": torch.get_num_threads(),
                "versions": {each: version(each) for each in ("torch", "transformers", "context-cite")},
                **speed(folder, batches, options.ablations, options.rounds),
            }
            show_speed(name, mine["speed"])
        else:
            model = load(str(folder), device="cpu")
            expect_to_stay()
            mine["planted"] = plant(model, mine.get("planted", []), options.seconds)
            show_planted(mine["planted"])
    options.json.write_text(json.dumps(figures, indent=1) + "\n")


def show_speed(name: str, found: dict[str, Any]) -> None:
    """A table of the ways, and by how much the scores differ."""
    console = Console()
    medians = {way: statistics.median(seconds) for way, seconds in found["seconds"].items()}
    fastest = min(medians[way] for way in OURS)
    table = Table("way", "seconds", "times gloss", title=f"{name}: {found['tokens']} tokens of sources")
    for way, seconds in medians.items():
        table.add_row(way, f"{seconds:.2f}", f"{seconds / medians['gloss']:.2f}")
    console.print(table)
    console.print(
        f"fastest {fastest:.2f} s; scores differ by at most {found['difference']:.1e} of {found['largest']:.1f}"
    )


def show_planted(cases: list[dict[str, Any]]) -> None:
    """How many are answered right, and of them, how many have the right source first."""
    right = [case for case in cases if case["right"]]
    first = sum(case["first"] for case in right)
    Console().print(f"{len(cases)} asked, {len(right)} answered right, the right source first in {first}")


if __name__ == "__main__":
    main()
