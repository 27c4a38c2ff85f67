"""The training command."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from ml.memory import keep_freed_memory
from ml.train.checkpoint import load_checkpoint
from ml.train.corpus import Corpus, read_corpus
from ml.train.display import Display
from ml.train.errors import InterruptedRunError, OptionError, ResumeError, TrainingError
from ml.train.folder import RunFolder
from ml.train.loop import Training
from ml.train.lstm import LstmSettings, LstmTask
from ml.train.options import add_options, build
from ml.train.run import RunSettings
from ml.train.task import Task
from ml.train.transformer import TransformerSettings, TransformerTask


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
    """Train, and return the exit status.

    0: done. 1: the run failed on its way. 2: a mistake; nothing was trained. 130: interrupted; go on with --resume.
    """
    options = _parser().parse_args(arguments)
    console = Console(stderr=True, markup=False, highlight=False)
    keep_freed_memory()
    disable_progress_bar()  # transformers draws one for every file it writes
    try:
        with _memory_named():
            training = _prepared(options, console)
    except KeyboardInterrupt:
        console.print("interrupted before the first step")
        return 130
    except (TrainingError, OSError) as error:
        return _failed(console, error, 2)
    try:
        with _memory_named(), _stopped_by_signals(training):
            training.run()
    except InterruptedRunError as error:
        console.print(str(error), soft_wrap=True)
        return 130
    except TrainingError as error:
        return _failed(console, error, 1)
    return 0


def _prepared(options: argparse.Namespace, console: Console) -> Training:
    """A run whose first step can be made."""
    given, recipe = vars(options), RECIPES[options.model]
    folder = RunFolder(options.out)
    if options.threads < 0:
        raise OptionError(f"--threads is a number from 0 on, not {options.threads}")
    if not options.resume:
        folder.check(overwrite=options.overwrite)
    # What is not given is as it was in the run that goes on.
    stored = (load_checkpoint(folder.checkpoint, only="settings") or {}) if options.resume else {}
    if stored.get("model", options.model) != options.model:
        raise ResumeError(
            f"{folder.checkpoint} is of another model: `python -m ml.train {stored['model']}` goes on with it"
        )
    settings = build(recipe.settings, stored.get("task", {}), given)
    run = build(recipe.run, stored.get("run", {}), given)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(run.seed)
    task = recipe.task(read_corpus(options.data), settings, run.seed)
    training = Training(task, run, options.out, Display(console))
    if options.resume:
        training.resume()
    else:
        training.begin()
    return training


def _failed(console: Console, error: Exception, status: int) -> int:
    console.print(f"error: {error}", style="red", soft_wrap=True)
    return status


@contextmanager
def _memory_named() -> Iterator[None]:
    """Within, torch's word for too little memory becomes one for the user."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        raise OptionError("there is too little memory: a smaller model, --batch or window needs less") from error


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


class _Parser(argparse.ArgumentParser):
    """One whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        self.exit(2, f"error: {message}; `{self.prog} --help` explains the options\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m ml.train",
        description="Train a model on a folder of text. `python -m ml.train MODEL --help` explains a model's options.",
    )
    commands = parser.add_subparsers(dest="model", metavar="MODEL", required=True)
    for name, recipe in RECIPES.items():
        command = commands.add_parser(name, help=recipe.summary, description=f"Train {recipe.summary}.")
        command.add_argument(
            "--data", type=Path, required=True, metavar="DIR", help="folder with train.txt, valid.txt and test.txt"
        )
        command.add_argument(
            "--out", type=Path, required=True, metavar="DIR", help="folder for the model and its training/ files"
        )
        again = command.add_mutually_exclusive_group()
        again.add_argument(
            "--resume",
            action="store_true",
            help="go on with the run in --out; options that are not given are that run's",
        )
        again.add_argument("--overwrite", action="store_true", help="replace the run or the model that lies in --out")
        command.add_argument(
            "--threads", type=int, default=0, metavar="N", help="processor threads; 0 is torch's choice (default: 0)"
        )
        add_options(command.add_argument_group("model"), recipe.settings)
        add_options(command.add_argument_group("run"), recipe.run)
    return parser
