"""A real model in Gloss beside transformers itself, in one run on one machine.

    python -m benchmarks.real_model FOLDER [--threads 2] [--repeats 3] [--json FILE]

For a model with a sliding window, such as Gemma 3: streams that are generated together, a prefix that comes again
within the window and beyond it, next tokens together, and occlusion against a plain batched loop (SDPA, logits of the
last position only) at its best batch size. Where the plain loop would take minutes, a few of its prompts are timed and
scaled. Ratios hold; seconds drift with the machine.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from benchmarks.machine import processor
from ml.explain.values.evaluation import chunk_tokens
from ml.memory import expect_to_stay, keep_freed_memory
from ml.models.base import Chunk
from ml.models.huggingface import HuggingFaceModel
from ml.models.loading import load

STREAMS, TOKENS = 8, 32
NEW = 32
BATCHES = (8, 16, 33)


@dataclass(frozen=True)
class Row:
    """A work's two times, in seconds, or rates, and how many times better the first is."""

    work: str
    ours: float
    other: float
    ratio: float
    goal: float


class Bench:
    """One model, and the works."""

    def __init__(self, folder: Path, threads: int, repeats: int) -> None:
        keep_freed_memory()
        model = load(str(folder), device="cpu", threads=threads)
        if not isinstance(model, HuggingFaceModel):
            raise SystemExit("transformers has to know the model, too")
        self.model = model
        self._plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        expect_to_stay()
        self._random = np.random.default_rng(0)
        self._repeats = repeats

    def rows(self) -> Iterator[Row]:
        """All works, one after the other."""
        alone, together = self._median(lambda: self._decode(1)), self._median(lambda: self._decode(STREAMS))
        yield _rate(
            f"{STREAMS} streams of {TOKENS} tokens, against one", STREAMS * TOKENS / together, TOKENS / alone, 3.0
        )
        theirs = self._median(self._generate)
        work = f"{STREAMS} streams of {TOKENS} tokens, against transformers' batched generate"
        yield _rate(work, STREAMS * TOKENS / together, STREAMS * TOKENS / theirs, 1.1)
        for known in (480, 960):
            yield self._prefix(known)
        yield self._together(100)
        yield self._occlusion(1024, 32, 15.0)
        yield self._occlusion(64, 64, 1.8)

    def _ids(self, count: int) -> list[int]:
        limit = min(self.model.info.vocabulary_size, 200_000)
        return [int(token) for token in self._random.integers(5, limit, count)]

    def _median(self, way: Callable[[], object]) -> float:
        times = []
        for _ in range(self._repeats + 1):
            began = time.perf_counter()
            way()
            times.append(time.perf_counter() - began)
        return float(np.median(times[1:]))  # the first is a warm-up

    def _decode(self, streams: int) -> None:
        runner = self.model.runner()
        numbers = [runner.begin() for _ in range(streams)]
        results = [runner.step([Chunk(self._ids(30), 1, number)]) for number in numbers]
        tokens = [int(result.logits[0].argmax()) for result in results]
        for _ in range(TOKENS - 1):
            chunks = [Chunk([token], 1, number) for token, number in zip(tokens, numbers, strict=True)]
            tokens = torch.cat(list(runner.step(chunks).logits)).argmax(-1).tolist()

    @torch.inference_mode()
    def _generate(self) -> None:
        prompts = torch.tensor([self._ids(30) for _ in range(STREAMS)])
        self._plain.generate(prompts, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)

    def _prefix(self, known: int) -> Row:
        first, second = list[float](), list[float]()
        runner = self.model.runner(1 << 30)
        for _ in range(self._repeats):
            shared = self._ids(known)
            for times in (first, second):
                prompt = [*shared, *self._ids(NEW)]
                began = time.perf_counter()
                runner.step([Chunk(prompt)])
                times.append(time.perf_counter() - began)
                runner.insert_prefixes()
        ours, other = float(np.median(second)), float(np.median(first))
        return Row(
            f"{known} known tokens and {NEW} new ones, second time against first", ours, other, other / ours, 5.0
        )

    def _together(self, tokens: int) -> Row:
        runner = self.model.runner()

        def read(batches: Sequence[Sequence[list[int]]]) -> None:
            for prompts in batches:
                runner.step([Chunk(ids) for ids in prompts])

        alone = self._median(lambda: read([[self._ids(tokens)] for _ in range(STREAMS)]))
        ours = self._median(lambda: read([[self._ids(tokens) for _ in range(STREAMS)]]))
        return Row(f"{STREAMS} next tokens after {tokens}, together against one by one", ours, alone, alone / ours, 1.6)

    def _occlusion(self, tokens: int, last: int, goal: float) -> Row:
        ids = self._ids(tokens)
        variants = [ids, *([*ids[:i], 3, *ids[i + 1 :]] for i in range(tokens - last, tokens))]
        max_tokens = chunk_tokens(self.model.info)

        def gloss() -> None:
            for _ in self.model.stream_logits(variants, [1] * len(variants), max_tokens=max_tokens, max_logits=128):
                pass

        ours = self._median(gloss)
        share = 1.0 if tokens < 256 else 8 / len(variants)
        some = variants[: round(share * len(variants))]
        other = min(self._loop(some, batch) for batch in BATCHES if batch <= len(some)) / share
        return Row(
            f"occlusion of the last {last} of {tokens} tokens, against a plain loop", ours, other, other / ours, goal
        )

    @torch.inference_mode()
    def _loop(self, variants: Sequence[list[int]], batch: int) -> float:
        began = time.perf_counter()
        for at in range(0, len(variants), batch):
            self._plain(input_ids=torch.tensor(variants[at : at + batch]), use_cache=False, logits_to_keep=1)
        return time.perf_counter() - began


def _rate(work: str, ours: float, other: float, goal: float) -> Row:
    return Row(f"{work} (tokens/s)", ours, other, ours / other, goal)


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a Hugging Face folder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="each figure is the median of so many")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    bench = Bench(options.folder, options.threads, options.repeats)
    table = Table("work", "Gloss", "other", "ratio", "at least", title=f"{bench.model.info.name}, {processor()}")
    rows = []
    for row in bench.rows():
        rows.append(row)
        print(f"{row.work}: {row.ratio:.2f}", flush=True)
        table.add_row(row.work, f"{row.ours:.3g}", f"{row.other:.3g}", f"{row.ratio:.2f}", f"{row.goal:g}")
    Console(width=140).print(table)
    if options.json:
        report = {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "model": bench.model.info.name,
            "processor": processor(),
            "threads": options.threads,
            "versions": {name: version(name) for name in ("torch", "transformers")},
            "rows": [asdict(row) for row in rows],
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
