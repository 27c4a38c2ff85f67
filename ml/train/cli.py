"""The training command."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from ml.memory import keep_freed_memory
from ml.train.corpus import Corpus, read_corpus
from ml.train.display import Display
from ml.train.errors import InterruptedRunError, TrainingError
from ml.train.loop import RunSettings, Training
from ml.train.lstm import LstmSettings, LstmTask
from ml.train.task import Task
from ml.train.transformer import TransformerSettings, TransformerTask

S = TypeVar("S")


@dataclass(frozen=True)
class Recipe:
    """What can be trained: its task, and the defaults of its options."""

    summary: str
    task: Callable[[Corpus, Any, int], Task]
    settings: Any
    run: RunSettings


RECIPES = {
    "transformer": Recipe(
        "a small Llama-style transformer over byte-level BPE",
        TransformerTask,
        TransformerSettings(),
        RunSettings(epochs=8, warmup=100, average=0.998, validations=4),
    ),
    "lstm": Recipe(
        "the article's word-level LSTM",
        LstmTask,
        LstmSettings(),
        RunSettings(epochs=12, warmup=200, decay=0.7, clip=1.0, patience=5),
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, and return the exit status: 0 done, 1 failed with a message, 130 interrupted (go on with --resume)."""
    options = _parser().parse_args(arguments)
    recipe = RECIPES[options.model]
    console = Console(stderr=True)
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()
    disable_progress_bar()  # transformers draws one for every file it writes
    try:
        torch.manual_seed(options.seed)
        task = recipe.task(read_corpus(options.data), _read(options, type(recipe.settings)), options.seed)
        training = Training(task, _read(options, RunSettings), options.out, Display(console))
        if options.resume:
            training.resume()
        with _stopped_by_signals(training):
            training.run()
    except InterruptedRunError as error:
        console.print(str(error), soft_wrap=True)
        return 130
    except TrainingError as error:
        console.print(f"error: {error}", style="red", soft_wrap=True)
        return 1
    return 0


@contextmanager
def _stopped_by_signals(training: Training) -> Iterator[None]:
    """Within, Ctrl-C and a polite end of the process let the step in hand finish and leave a checkpoint."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: training.stop()) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ml.train", description="Train a model on a folder of text.")
    commands = parser.add_subparsers(dest="model", required=True)
    for name, recipe in RECIPES.items():
        command = commands.add_parser(name, help=recipe.summary, description=f"Train {recipe.summary}.")
        command.add_argument("--data", type=Path, required=True, help="folder with train.txt, valid.txt and test.txt")
        command.add_argument("--out", type=Path, required=True, help="folder for the model and its training/ files")
        command.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
        command.add_argument("--threads", type=int, default=0, help="processor threads (default: torch's choice)")
        _add_options(command.add_argument_group("model"), recipe.settings)
        _add_options(command.add_argument_group("run"), recipe.run)
    return parser


def _add_options(group: Any, defaults: Any) -> None:
    """One option for each field of a settings record, which documents them."""
    hints = get_type_hints(type(defaults))
    for part in fields(defaults):
        option, kind, default = "--" + part.name.replace("_", "-"), hints[part.name], getattr(defaults, part.name)
        if kind is bool:
            group.add_argument(option, action=argparse.BooleanOptionalAction, default=default)
        elif issubclass(kind, Enum):
            choices = "|".join(member.value for member in kind)
            group.add_argument(option, type=kind, default=default, metavar=choices, help=f"default: {default.value}")
        else:
            group.add_argument(option, type=kind, default=default, metavar=kind.__name__, help=f"default: {default}")


def _read(options: argparse.Namespace, kind: type[S]) -> S:
    return kind(**{part.name: getattr(options, part.name) for part in fields(kind)})  # type: ignore[arg-type]
