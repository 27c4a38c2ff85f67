"""Words per second of LSTM training: the plain loop of the article against `ml.train`'s, on this machine.

    python -m benchmarks.train --data DIR [--json FILE]

Both train the same model (two layers of 200, 33,278 words, tied or not) on the same batches. The plain loop is what
tutorials write, in float32: all logits at once, `F.cross_entropy`, `clip_grad_norm_`, an optimizer step. Ours computes
the same loss and gradients (see the losses of the first and the last step) with the logits in chunks that stay in the
cache, and by default with products in bfloat16 where the processor has instructions for it. The sampled softmax is
listed apart: it estimates the same loss from a part of the vocabulary.

Time is counted in processor seconds as well as by the clock, since the first does not depend on what else runs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.optim import AdamW

from benchmarks.machine import processor
from ml.memory import keep_freed_memory
from ml.models.lstm.network import LstmConfig, WordLSTM
from ml.train.corpus import read_split
from ml.train.loss import cross_entropy, sampled_cross_entropy
from ml.train.precision import Precision
from ml.train.words import Vocabulary, build_words

Loss = Callable[[WordLSTM, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Measurement:
    """One way to train. Speeds are of the fastest step; a step reads batch × window words."""

    name: str
    batch: int
    window: int
    words_per_second: float
    words_per_processor_second: float
    """For all threads together."""
    loss: float
    """Of the first step, the same for all exact ways with the same batch and window."""
    last_loss: float
    """Of the last step."""


def plain(module: WordLSTM, hidden: Tensor, targets: Tensor) -> Tensor:
    """As the article computes it."""
    return F.cross_entropy(module.head(hidden), targets)


def fused(module: WordLSTM, hidden: Tensor, targets: Tensor) -> Tensor:
    """As `ml.train` computes it."""
    return cross_entropy(hidden, module.head.weight, module.head.bias, targets, products=Precision.AUTO.dtype)


def fused_float32(module: WordLSTM, hidden: Tensor, targets: Tensor) -> Tensor:
    """As `ml.train --precision float32` computes it."""
    return cross_entropy(hidden, module.head.weight, module.head.bias, targets)


def sampled(module: WordLSTM, hidden: Tensor, targets: Tensor) -> Tensor:
    """As `ml.train --frequent 4096 --samples 4096` estimates it."""
    head, products = module.head, Precision.AUTO.dtype
    return sampled_cross_entropy(
        hidden, head.weight, head.bias, targets, frequent=4096, samples=4096, products=products
    )


def measure(
    name: str, loss_of: Loss, streams: Tensor, *, types: int, batch: int, window: int, steps: int
) -> Measurement:
    """Train `steps` steps, and time each but the first."""
    torch.manual_seed(0)
    module = WordLSTM(LstmConfig(vocabulary_size=types, dropout=0.5)).train()
    optimizer = AdamW(module.parameters(), lr=0.003, fused=loss_of is not plain)
    rows = streams[: len(streams) // batch * batch].view(batch, -1)
    state = module.initial_state(batch)
    walls, processor, losses = [], [], []
    for step in range(steps + 1):
        inputs = rows[:, step * window : (step + 1) * window]
        targets = rows[:, step * window + 1 : (step + 1) * window + 1]
        wall, cpu = time.perf_counter(), time.process_time()
        optimizer.zero_grad()
        hidden, state = module(inputs, state)
        state = [(h.detach(), c.detach()) for h, c in state]
        loss = loss_of(module, hidden.flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        walls.append(time.perf_counter() - wall)
        processor.append(time.process_time() - cpu)
    words = batch * window
    return Measurement(name, batch, window, words / min(walls[1:]), words / min(processor[1:]), losses[0], losses[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    words = build_words(read_split(options.data, "train"), Vocabulary.WIKITEXT)
    streams = words.encode(read_split(options.data, "valid"))
    types = len(words.words)

    results = [
        measure("plain loop, 20 x 35", plain, streams, types=types, batch=20, window=35, steps=options.steps),
        measure("plain loop, 32 x 70", plain, streams, types=types, batch=32, window=70, steps=options.steps),
    ]
    keep_freed_memory()  # after the plain loop: it is part of what ours adds
    results += [
        measure(
            f"{name}, {batch} x {window}", way, streams, types=types, batch=batch, window=window, steps=options.steps
        )
        for name, way in (
            ("ml.train --precision float32", fused_float32),
            ("ml.train", fused),
            ("ml.train --samples 4096", sampled),
        )
        for batch, window in ((20, 35), (32, 70))
    ]
    threads = torch.get_num_threads()
    table = Table("way", "words/s by the clock", f"words per s of {threads} threads' time", "first loss", "last loss")
    for result in results:
        busy = result.words_per_processor_second * threads
        table.add_row(
            result.name,
            f"{result.words_per_second:,.0f}",
            f"{busy:,.0f}",
            f"{result.loss:.5f}",
            f"{result.last_loss:.4f}",
        )
    Console().print(table)
    if options.json:
        figures = {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "processor": processor(),
            "threads": threads,
            "torch": torch.__version__,
            "results": [asdict(result) for result in results],
        }
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
