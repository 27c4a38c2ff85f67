"""Whether Gloss is right on a GPU, and how fast.

    python -m benchmarks.gpu [--device cuda:0] [--only agreement graphs serving explanations worker] [--json FILE]

Compares every verb and method with the CPU in float32: in float32, and in bfloat16 within what transformers' own
forward pass differs by there. Says whether forward passes are recorded as CUDA graphs. Then measures next tokens and
generated text over loopback gRPC, and LIME in this process and as a job. It takes less than six minutes.

`--device cpu` runs through the same with smaller sizes: for a machine without a GPU, where it only shows that it runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.device import speed
from benchmarks.device.agreement import Agreement, Comparison
from benchmarks.machine import processor
from benchmarks.serving.figures import Figure
from benchmarks.subjects import GPT2_SMALL, RANDOM_LSTM, folder_of
from ml.models.base import Chunk
from ml.models.huggingface import HuggingFaceModel
from ml.models.loading import load
from ml.runtime.model_runner import ModelRunner
from ml.runtime.spans import spans_of

SHIPPED = "transformer"


class Bench:
    """One device, in parts that can be run alone."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._small = device == "cpu"
        self._dtypes = ("float32",) if self._small else ("float32", "bfloat16")
        self.parts: dict[str, Callable[[], Iterator[Agreement | Figure]]] = {
            "agreement": self._agreement,
            "graphs": self._graphs,
            "serving": self._serving,
            "explanations": self._explanations,
            "worker": self._worker,
        }

    def _agreement(self) -> Iterator[Agreement]:
        for name in (SHIPPED, GPT2_SMALL, RANDOM_LSTM):
            with folder_of(name) as folder:
                for dtype in self._dtypes if name != RANDOM_LSTM else self._dtypes[:1]:
                    yield from Comparison(folder, self._device, dtype)

    def _graphs(self) -> Iterator[Figure]:
        """Milliseconds of a step by recorded passes, and of the same computed kernel by kernel."""
        with folder_of(SHIPPED) as folder:
            model = load(str(folder), device=self._device)
        if not isinstance(model, HuggingFaceModel):
            raise TypeError("the shipped transformer is one of transformers")
        note = "CUDA graphs are used" if model.recorded else "no CUDA graphs here"
        runners = model.runner(1 << 20), ModelRunner(model.module, spans_of(model.module), 1 << 20)
        for who, runner in zip(("as served", "kernel by kernel"), runners, strict=True):
            for count in (1, 8, 64):
                prompts = [Chunk(list(range(5 + number, 5 + number + speed.PROMPT_TOKENS))) for number in range(count)]
                yield speed.stepped(f"next tokens of {count} prompts", who, runner, prompts, note)
            for count in (1, 32):
                numbers = [runner.begin() for _ in range(count)]
                runner.step([Chunk(list(range(5, 37)), 1, number) for number in numbers])
                tokens = [Chunk([7], 1, number) for number in numbers]
                yield speed.stepped(f"a token of {count} streams", who, runner, tokens, note)
                for number in numbers:
                    runner.drop(number)
            note = ""

    def _serving(self) -> Iterator[Figure]:
        with folder_of(SHIPPED) as folder:
            vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
            yield from speed.served(folder, self._device, vocabulary, seconds=2 if self._small else 5)

    def _explanations(self) -> Iterator[Figure]:
        with folder_of(SHIPPED if self._small else GPT2_SMALL) as folder:
            yield from speed.explanations(folder, self._device, self._dtypes, 32, 100 if self._small else 1000)

    def _worker(self) -> Iterator[Figure]:
        with folder_of(SHIPPED if self._small else GPT2_SMALL) as folder:
            yield from speed.through_a_worker(folder, self._device, 32, 100 if self._small else 1000)


def main() -> int:
    """Print what is found as it comes, and write JSON where asked. 1 where something does not agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0", help="what torch calls it")
    parser.add_argument("--only", nargs="*", help="parts: agreement graphs serving explanations worker")
    parser.add_argument("--json", type=Path, help="write what is found here, after each part")
    options = parser.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        print("error: no GPU here; --device cpu runs through the same on the CPU", file=sys.stderr)
        return 2
    card = processor() if options.device == "cpu" else torch.cuda.get_device_name(options.device)
    print(f"{card}, torch {torch.__version__}, transformers {version('transformers')}", flush=True)
    report: dict[str, Any] = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "device": card,
        "processor": processor(),
        "versions": {name: version(name) for name in ("torch", "transformers", "grpcio")},
    }
    fails, began = 0, time.perf_counter()
    for name, part in Bench(options.device).parts.items():
        if options.only and name not in options.only:
            continue
        found = list(part())
        fails += sum(isinstance(each, Agreement) and not each.holds for each in found)
        show(name, found)
        print(f"{name}: {time.perf_counter() - began:.0f} s since the start", flush=True)
        if options.json:
            report[name] = [_row(each) for each in found]
            options.json.write_text(json.dumps(report, indent=1) + "\n")
    print("all agree" if not fails else f"{fails} do not agree")
    return 1 if fails else 0


def _row(found: Agreement | Figure) -> dict[str, Any]:
    return asdict(found) | ({"holds": found.holds} if isinstance(found, Agreement) else {})


def show(name: str, found: list[Agreement | Figure]) -> None:
    """A table."""
    table = Table("", title=name, show_header=False)
    for each in found:
        if isinstance(each, Agreement):
            verdict = "agrees" if each.holds else "DIFFERS"
            difference = f"{each.difference:.1e} of {each.allowed:.1e}"
            table.add_row(f"{each.model} {each.dtype}", each.what, difference, verdict, each.note)
        else:
            numbers = ((each.rate, "{:,.0f}/s"), (each.p50, "p50 {:,.2f} ms"), (each.p99, "p99 {:,.2f} ms"))
            table.add_row(each.work, each.who, *("" if x is None else form.format(x) for x, form in numbers), each.note)
    Console(width=160).print(table)


if __name__ == "__main__":
    sys.exit(main())
