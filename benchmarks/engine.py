"""Gloss in front of a real vLLM, beside plain clients of the same vLLM, in one run on one machine.

    python -m benchmarks.engine [--model transformer | FOLDER] [--evaluations 1000] [--rounds 5] [--json FILE]

vLLM is installed where it is missing (`benchmarks/vllm.py`), and serves the model in float32 on this machine's
processor. A plain client (`benchmarks/plain_client.py`) asks about the very prompts that Gloss asks about, and fits
nothing. Each round's prefixes are salted, so that everybody begins with an empty prefix cache, and the ways take turns.

What a prefix cache is worth shows where the words that are explained stand behind a long text, by which all begin.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import vllm
from benchmarks.explained import attributions, explained
from benchmarks.machine import processor
from benchmarks.plain_client import PlainClient, seconds_for
from benchmarks.subjects import TEXT, folder_of
from ml import spec
from ml.models.loading import load
from ml.models.protocol import ExplainableModel, LogProbabilities
from ml.models.served.address import parse
from ml.models.served.exchange import Exchange
from ml.models.served.model import ServedModel
from ml.models.served.opening import look
from ml.models.served.options import EngineOptions
from ml.spec import (
    Budget,
    Continuation,
    ContrastTarget,
    ExplanationSpec,
    Features,
    GenerationTarget,
    Prompt,
    Quality,
    Target,
)

CONTEXT = 3 * TEXT
"""What the words stand behind, where there is a prefix to cache: some blocks of it, of 128 tokens each."""

CONTEXT_SHARE = 4
"""There, so many times fewer evaluations: where nothing is cached, each takes ten times as long."""

SEEDS = range(4)
"""Over which errors are averaged."""

_salts = itertools.count()


@dataclass(frozen=True)
class Round:
    """What one run of Gloss took.

    Attributes:
        busy: seconds of it in which the engine had at least one request.
    """

    seconds: float
    busy: float


class Recorded(ServedModel):
    """A served model that keeps what it was asked about, and when its requests were under way."""

    def __init__(self, found: Any) -> None:
        self.spans: list[tuple[float, float]] = []
        self.prompts: list[tuple[int, ...]] = []
        self.tokens: list[int] = []
        super().__init__(found, self._note)

    def _note(self, exchange: Exchange) -> None:
        now = time.perf_counter()
        self.spans.append((now - exchange.seconds, now))

    def stream_log_probabilities(self, prompts: Any, continuations: Any, **options: Any) -> Iterator[LogProbabilities]:
        """As `ServedModel` does, noting what is asked."""
        self.prompts += [tuple(prompt) for prompt in prompts]
        self.tokens.append(continuations[0][0])
        yield from super().stream_log_probabilities(prompts, continuations, **options)

    def busy(self, since: float) -> float:
        """Seconds since then in which a request was under way."""
        total, end = 0.0, since
        for begin, until in sorted(span for span in self.spans if span[1] > since):
            total += max(0.0, until - max(begin, end))
            end = max(end, until)
        return total


def lime(
    words: int, evaluations: int, *, controlled: bool = False, seed: int = 0, context: str = ""
) -> ExplanationSpec:
    """A LIME explanation of so many words, behind a context that is part of each prompt."""
    estimator = spec.Estimator.CONTROL_VARIATES if controlled else spec.Estimator.TEXTBOOK
    text = context + " ".join(TEXT.split()[:words])
    return ExplanationSpec(
        Prompt(text),
        spec.Lime(estimator=estimator),
        features=Features(within=(len(context), len(text))),
        budget=Budget(max_evaluations=evaluations, seed=seed),
        quality=Quality(faithfulness=False),
    )


def attributed(model: ExplainableModel, asked: ExplanationSpec) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What an explanation finds, [features]."""
    return attributions(explained(model, asked))


def gloss(model: Recorded, asked: ExplanationSpec) -> Round:
    """One run of Gloss, from a spec to the result."""
    own = model.for_namespace(f"round {next(_salts)}")
    began = time.perf_counter()
    attributed(own, asked)
    ended = time.perf_counter()
    return Round(ended - began, model.busy(began))


def agreement(served: ExplainableModel, local: ExplainableModel, evaluations: int) -> dict[str, float]:
    """The largest difference of any attribution, by method and target; so many evaluations where methods sample."""
    continuation = Target(Continuation(text=" of the city"))
    contrast = Target(ContrastTarget(Continuation(text=" city"), Continuation(text=" river")))
    prompt, short = Prompt(" ".join(TEXT.split()[:24])), Prompt("The bridge was built in 1932")
    large = Budget(max_evaluations=evaluations, seed=1)
    asked = {
        "occlusion": ExplanationSpec(prompt, spec.Occlusion()),
        "exact Shapley values": ExplanationSpec(short, spec.KernelShap()),
        "interactions": ExplanationSpec(short, spec.Interactions()),
        "occlusion, a continuation": ExplanationSpec(prompt, spec.Occlusion(), continuation),
        "occlusion, a generation": ExplanationSpec(prompt, spec.Occlusion(), Target(GenerationTarget(4))),
        "occlusion, a contrast": ExplanationSpec(prompt, spec.Occlusion(), contrast),
        "hierarchical": ExplanationSpec(prompt, spec.Hierarchical(threshold=0.0)),
        "LIME": ExplanationSpec(prompt, spec.Lime(), budget=large),
        "KernelSHAP": ExplanationSpec(prompt, spec.KernelShap(), budget=large),
        "Shapley permutation": ExplanationSpec(prompt, spec.ShapleyPermutation(), budget=large),
        "context attribution": ExplanationSpec(prompt, spec.ContextAttribution(), budget=large),
    }
    return {name: float(np.abs(attributed(served, one) - attributed(local, one)).max()) for name, one in asked.items()}


def cheapest_control(local: ExplainableModel, words: int, max_evaluations: int) -> tuple[int, float, float]:
    """Evaluations with control variates whose error is no larger than the textbook's from `max_evaluations`.

    Returns them, their error and the textbook's: root mean squares against 40 times as many evaluations, over seeds.
    """
    exact = attributed(local, lime(words, 40 * max_evaluations, controlled=True))

    def error(evaluations: int, *, controlled: bool) -> float:
        found = [attributed(local, lime(words, evaluations, controlled=controlled, seed=1 + seed)) for seed in SEEDS]
        return float(np.sqrt(np.mean((np.array(found) - exact) ** 2)))

    textbook = error(max_evaluations, controlled=False)
    for evaluations in [max_evaluations * percent // 100 for percent in (15, 20, 25, 30, 40, 50, 70, 100)]:
        if (own := error(evaluations, controlled=True)) <= textbook:
            return evaluations, own, textbook
    return max_evaluations, own, textbook


def race(
    url: str, model: Recorded, client: PlainClient, asked: dict[str, ExplanationSpec], rounds: int
) -> Iterator[dict[str, Any]]:
    """What each of Gloss's ways takes, by its spec, beside plain clients who ask about the prompts of the first.

    Yields the figures so far, after each way of each round.
    """
    name, first = next(iter(asked.items()))
    model.prompts.clear()
    gloss(model, first)
    prompts, token = [*dict.fromkeys(model.prompts)], model.tokens[-1]
    ways: dict[str, Callable[[], float]] = {
        "plain client, by ids": lambda: seconds_for(client.by_ids, prompts, token, 1),
        "plain client, by ids, 4 requests at once": lambda: seconds_for(client.by_ids, prompts, token, 4),
        "plain client, by echo": lambda: seconds_for(client.by_echo, prompts, token, 1),
    }
    seconds: dict[str, list[float]] = {name: [] for name in (*asked, *ways)}
    shares: dict[str, list[float]] = {name: [] for name in seconds}
    runs: list[Round] = []
    for _, (way, times) in itertools.product(range(rounds), seconds.items()):
        before = _cached(url)
        if way in ways:
            times.append(ways[way]())
        else:
            run = gloss(model, asked[way])
            times.append(run.seconds)
            runs += [run] if way == name else []
        shares[way].append(_share(before, _cached(url)))
        _tell(f"  {way}: {times[-1]:.2f} s\n")
        yield {
            "prompts": len(prompts),
            "tokens_per_prompt": statistics.mean(map(len, prompts)),
            "runs": {way: len(each) for way, each in seconds.items()},
            "seconds": {way: statistics.median(each) for way, each in seconds.items() if each},
            "cached_share": {way: statistics.median(each) for way, each in shares.items() if each},
            "busy_share": statistics.median(run.busy / run.seconds for run in runs),
            "own_seconds": statistics.median(run.seconds - run.busy for run in runs),
        }


def measure(
    folder: Path, words: int, evaluations: int, rounds: int, *, control: bool, log: Path
) -> Iterator[dict[str, Any]]:
    """All figures, a few at a time; without `control`, none of control variates, whose error takes long to measure."""
    yield {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "processor": processor(),
        "vllm": vllm.VERSION,
        "words": words,
    }
    local = load(str(folder), device="cpu")
    asked = {"gloss": lime(words, evaluations)}
    if control:
        fewer, own, textbook = cheapest_control(local, words, evaluations)
        yield {"control_evaluations": fewer, "error": {"control variates": own, "textbook": textbook}}
        asked["gloss, control variates"] = lime(words, fewer, controlled=True)
        _tell(f"control variates: {fewer} evaluations for an error of {own:.3g}, textbook {textbook:.3g}\n")
    fewer = evaluations // CONTEXT_SHARE
    behind = {"gloss": lime(words, fewer, context=CONTEXT)}
    with vllm.serving(folder, log) as url:
        found = asyncio.run(look(parse(f"vllm+{url}/{folder.name}"), EngineOptions()))
        model, client = Recorded(found), PlainClient(url, folder.name)
        agreed = agreement(model, local, min(400, evaluations))
        _tell("".join(f"  {name}: {difference:.1e}\n" for name, difference in agreed.items()))
        yield {"noise": found.info.noise, "agreement": agreed}
        for figures in race(url, model, client, asked, rounds):
            yield {"alone": {"evaluations": evaluations, **figures}}
        for figures in race(url, model, client, behind, rounds):
            yield {"behind a context": {"evaluations": fewer, **figures}}
        model.close()


def _cached(url: str) -> tuple[float, float]:
    return vllm.metric(url, "vllm:prefix_cache_hits_total"), vllm.metric(url, "vllm:prefix_cache_queries_total")


def _share(before: tuple[float, float], after: tuple[float, float]) -> float:
    hits, queries = (new - old for new, old in zip(after, before, strict=True))
    return hits / queries if queries else 0.0


def _tell(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


def show(found: dict[str, Any]) -> None:
    """The figures, in lines."""
    for where in ("alone", "behind a context"):
        race = found[where]
        seconds, ours = race["seconds"], race["seconds"]["gloss"]
        prompts = f"{race['prompts']} different prompts of {race['tokens_per_prompt']:.0f} tokens"
        print(f"LIME, {race['evaluations']} evaluations of {found['words']} words {where} ({prompts})")
        for name, each in seconds.items():
            print(f"  {name:42} {each:7.2f} s  {each / ours:5.2f} ×  {100 * race['cached_share'][name]:3.0f} % cached")
        print(f"  engine busy {100 * race['busy_share']:.0f} %, Gloss's own part {race['own_seconds']:.2f} s")
    if "control_evaluations" in found:
        print(f"control variates: {found['control_evaluations']} evaluations at an equal error")
    print("largest differences from the model as Gloss loads it")
    for name, difference in found["agreement"].items():
        print(f"  {name:42} {difference:.1e}")


def keep(path: Path, model: str, found: dict[str, Any]) -> None:
    """Put the figures of a model into a file, beside those of others."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**kept, model: found}, indent=1) + "\n")


def main() -> None:
    """Measure, show and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="transformer")
    parser.add_argument("--words", type=int, default=32)
    parser.add_argument("--evaluations", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--control", action=argparse.BooleanOptionalAction, default=True, help="control variates, too")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with folder_of(options.model) as folder, tempfile.TemporaryDirectory() as logs:
        for figures in measure(
            folder.resolve(),
            options.words,
            options.evaluations,
            options.rounds,
            control=options.control,
            log=Path(logs) / "vllm.log",
        ):
            found |= figures
            if options.json:  # each time: a run that is cut short keeps what it measured
                keep(options.json, Path(options.model).name, found)
    show(found)


if __name__ == "__main__":
    main()
