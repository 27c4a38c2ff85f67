"""`python -m ml.evaluate MODEL --data DIR`: perplexity per token and per word.

A word-level LSTM reads a split's lines as one stream of words with an `<eos>` after each line and its hidden state
carried all the way, as published WikiText figures are measured. Every other model reads the same lines as natural text
(`ml.train.natural`) in overlapping windows of its context. What is divided by for the figure per word is the same for
both: the original lines' words and line ends.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from ml.errors import GlossError
from ml.models.base import LanguageModel
from ml.models.loading import load
from ml.models.lstm.model import LstmModel
from ml.spec import Prompt
from ml.train.corpus import FILES, count_words, read_split
from ml.train.natural import natural_text
from ml.train.perplexity import Perplexity, lstm_nats, strided_nats


def evaluate(model: LanguageModel, lines: list[str], *, stride: int = 0, console: Console | None = None) -> Perplexity:
    """The perplexity of a split's lines.

    Args:
        model: any that `ml.models.loading.load` gives.
        lines: as `ml.train.corpus.read_split` gives them.
        stride: predictions that a window counts; 0 is half the context. An LSTM needs none.
        console: where to show a progress bar.
    """
    start, ids = stream(model, lines)
    if isinstance(model, LstmModel):
        parts = lstm_nats(model.module, ids, start)
        batches = -(-len(ids) // 512)
    else:
        size = model.info.context_length
        stride = min(stride or size // 2, size)
        parts = strided_nats(model, ids, start, size=size, stride=stride)
        batches = -(-len(ids) // stride) // 4
    nats = sum(nats for nats, _ in _tracked(parts, batches, console))
    return Perplexity(nats, len(ids), count_words(lines))


def stream(model: LanguageModel, lines: list[str]) -> tuple[int, torch.Tensor]:
    """The token that a text starts after, and the lines as the model reads them: one stream of token ids.

    The start is what the tokenizer begins every prompt with, else what ends a text.
    """
    whole, alone = model.tokenizer.encode(Prompt(text="a")).ids, model.tokenizer.ids("a")
    start = whole[0] if len(whole) > len(alone) else min(model.tokenizer.special.ends, default=0)
    if isinstance(model, LstmModel):
        # Line by line, each with its end, which the tokenizer turns into <eos>.
        return start, torch.tensor([token for line in lines for token in model.tokenizer.ids(line + "\n")])
    return start, torch.tensor(model.tokenizer.ids(natural_text(lines)))


def _tracked(parts: Iterator[tuple[float, int]], batches: int, console: Console | None) -> Iterator[tuple[float, int]]:
    if console is None or not console.is_terminal:
        return parts
    return iter(track(parts, description="evaluating", total=batches, console=console, transient=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table, or with --json one line a split. Returns 0, or 2 after a mistake."""
    parser = argparse.ArgumentParser(prog="python -m ml.evaluate", description="Perplexity per token and per word.")
    parser.add_argument("model", help="a shipped name, a folder, or a name on the Hub")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.txt, valid.txt and test.txt")
    parser.add_argument("--split", choices=tuple(FILES), action="append", help="default: valid and test")
    parser.add_argument(
        "--stride",
        type=int,
        default=0,
        help="tokens that each window but the first predicts (default: half of the context)",
    )
    parser.add_argument(
        "--device", default="auto", help="auto (the first GPU, else the CPU), cpu, cuda:1 (default: auto)"
    )
    parser.add_argument("--threads", type=int, help="processor threads (default: torch's choice)")
    parser.add_argument("--json", action="store_true", help="one JSON object a split")
    options = parser.parse_args(arguments)
    console = Console(stderr=True, markup=False, highlight=False)
    try:
        if options.stride < 0:
            raise GlossError(f"--stride is a number from 0 on, not {options.stride}")
        if options.threads is not None and options.threads < 1:
            raise GlossError(f"--threads is a number from 1 on, not {options.threads}")
        splits = {split: read_split(options.data, split) for split in options.split or ("valid", "test")}
        model = load(options.model, device=options.device, threads=options.threads)
        for split, lines in splits.items():
            found = evaluate(model, lines, stride=options.stride, console=console)
            if options.json:
                figures = {"per_token": found.per_token, "per_word": found.per_word, **asdict(found)}
                print(json.dumps({"model": model.info.name, "split": split, **figures}))
            else:
                print(
                    f"{split:>5}: perplexity {found.per_token:.2f} per token, {found.per_word:.2f} per word "
                    f"({found.tokens:,} tokens, {found.words:,} words)"
                )
    except GlossError as error:
        console.print(f"error: {error}", style="red", soft_wrap=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
