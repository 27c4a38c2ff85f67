"""How often explanations find the one word that decides, beside captum's on the same pairs.

    python -m benchmarks.known_answers [FILE] [--model transformer | lstm | FOLDER] [--pairs 300] [--skip 0]
        [--timed 10] [--only REGEX] [--json FILE]

The protocol of Yin & Neubig (2022): English minimal pairs whose reason is known from grammar. "Raymond is selling
this" goes on with " sketch" and not with " sketches" because of "this"; an explanation of the one rather than the other
should rank that word first. Asked are the first pairs of FILE that the model gets right, the phenomena taking turns.
Without FILE, those of the sample here. With `--skip` they are asked behind pairs by which something was chosen.

What is found is kept in the JSON file's neighbour `.jsonl`, and a run that is started again goes on behind it. Seconds
are of the first `--timed` pairs, each way alone; from then on ways share the model's answers.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.answering.captum import Captum
from benchmarks.answering.figures import RANDOM, Figures, Found, Values, table
from benchmarks.answering.ours import Way, ways
from benchmarks.answering.pairs import SAMPLE, Pair, read
from benchmarks.machine import processor
from benchmarks.subjects import folder_of
from ml.explain import Problem
from ml.explain.values.cache import ValueCache
from ml.explain.values.evaluation import Evaluator
from ml.explain.values.value_function import ValueFunction
from ml.models.base import LanguageModel
from ml.models.huggingface import HuggingFaceModel
from ml.models.loading import load
from ml.spec import Occlusion, Removal

PLAIN = Way("", Occlusion(), Removal())


class Bench:
    """One model, and what is known of it already.

    Attributes:
        found: what each way found, in the order of the pairs.
        right, wrong: how many pairs the model gets right and wrong.
    """

    def __init__(
        self, model: LanguageModel, module: PreTrainedModel | None, kept: Path, *, only: str, timed: int
    ) -> None:
        self.model = model
        self.found: dict[str, list[Found]] = defaultdict(list)
        self.right = self.wrong = 0
        self._module = module
        self._only = re.compile(only)
        self._timed = timed
        self._kept = kept
        self._known: dict[str, dict[str, Found | None]] = defaultdict(dict)
        for line in kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []:
            each = json.loads(line)
            if each["model"] == self._digest:
                self._known[each["pair"]][each["way"]] = Found(**each["found"]) if each["found"] else None

    @property
    def _digest(self) -> str:
        return self.model.info.digest[:12]

    def ask(self, pair: Pair) -> None:
        """Ask all ways about a pair, unless what they find is known."""
        known = self._known[pair.key]
        if RANDOM not in known:
            problem = PLAIN.problem(self.model, pair)
            self._keep(pair, RANDOM, Found.by_chance(len(problem.features)) if self._is_right(problem) else None)
        if known[RANDOM] is None:
            self.wrong += 1
            return
        for way, ask in self._ways(pair):
            if way in known or not self._only.search(way):
                continue
            begin = time.perf_counter()
            attributions, deciding = ask()
            seconds = time.perf_counter() - begin if self.right < self._timed else None
            self._keep(pair, way, Found.of(attributions, deciding, seconds))
        self.right += 1
        for way, found in known.items():
            if found is not None and (way == RANDOM or self._only.search(way)):
                self.found[way].append(found)

    def _keep(self, pair: Pair, way: str, found: Found | None) -> None:
        self._known[pair.key][way] = found
        line = {"model": self._digest, "pair": pair.key, "way": way, "found": found and asdict(found)}
        with self._kept.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _is_right(self, problem: Problem) -> bool:
        """Whether the model finds the right word more likely than the wrong one."""
        if problem.target.tokens is None:
            raise AssertionError("a contrast leaves nothing to the model")
        game = ValueFunction(problem.perturbation, Evaluator(self.model, problem.target.tokens))
        return float(game.evaluate(problem.perturbation.empty_and_full)[1]) > 0

    def _ways(self, pair: Pair) -> Iterator[tuple[str, Callable[[], tuple[Values, int]]]]:
        """Each way with its name; it gives what each word contributes, and the index of the one that decides."""
        problem = PLAIN.problem(self.model, pair)
        deciding = pair.deciding(problem.features)
        cache = ValueCache() if self.right >= self._timed else None
        for way in ways(self.model, pair):
            yield f"gloss {way.name}", partial(_with, deciding, partial(way.attributions, self.model, pair, cache))
        if self._module is not None and self.model.tokenizer.mask_token is not None:
            captum = Captum(self._module, problem, self.model.tokenizer.mask_token[0])
            for name, ask in captum.ways():
                yield name, partial(_with, deciding, ask)


def _with(deciding: int, ask: Callable[[], Values]) -> tuple[Values, int]:
    """What `ask` gives, and the index of the deciding word."""
    return ask(), deciding


def main() -> None:
    """Ask, and show and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=SAMPLE)
    parser.add_argument("--model", default="transformer")
    parser.add_argument("--pairs", type=int, default=300, help="that the model gets right")
    parser.add_argument("--skip", type=int, default=0, help="pairs that come before, right or wrong")
    parser.add_argument("--only", default="", help="ways in whose names this regular expression is found")
    parser.add_argument("--timed", type=int, default=10, help="of them, those on which each way is timed alone")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/known_answers.json"))
    arguments = parser.parse_args()

    pairs = read(arguments.file)[arguments.skip :]
    with folder_of(arguments.model) as folder:
        model = load(str(folder))
        module = None
        if isinstance(model, HuggingFaceModel):
            module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        kept = arguments.json.with_suffix(".jsonl")
        bench = Bench(model, module, kept, only=arguments.only, timed=arguments.timed)
        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task("pairs", total=arguments.pairs)
            for pair in pairs:
                if bench.right >= arguments.pairs:
                    break
                bench.ask(pair)
                progress.update(task, completed=bench.right)
    name = Path(arguments.model).name + (f", after {arguments.skip} pairs" if arguments.skip else "")
    title = f"{name}: {bench.right} pairs that it gets right, of {bench.right + bench.wrong}"
    Console().print(table(title, bench.found))
    _write(arguments.json, name, bench)


def _write(file: Path, name: str, bench: Bench) -> None:
    figures = json.loads(file.read_text()) if file.exists() else {}
    mine = figures.setdefault(name, {"found": {}})
    mine |= {"right": bench.right, "wrong": bench.wrong}
    measured = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "versions": {each: version(each) for each in ("torch", "transformers", "captum")},
    }
    for way, found in bench.found.items():
        mine["found"][way] = measured | Figures(way, found).json()
    file.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
