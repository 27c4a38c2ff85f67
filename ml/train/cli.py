"""The training command."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch
from rich.console import Console

from ml.train.corpus import read_corpus
from ml.train.display import Display
from ml.train.errors import TrainingError
from ml.train.loop import RunSettings, Training
from ml.train.task import Task
from ml.train.transformer import TransformerSettings, TransformerTask

S = TypeVar("S")

_RUNS = {
    "transformer": RunSettings(epochs=8, warmup=100, average=0.998, validations=4),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, and return the exit status: 0 done, 1 failed with a message, 130 interrupted (resume with --resume)."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=True)
    if options.threads:
        torch.set_num_threads(options.threads)
    # A polite end of the process is an interruption like Ctrl-C: the checkpoint is written.
    signal.signal(signal.SIGTERM, lambda *_: _interrupt())
    try:
        torch.manual_seed(options.seed)
        corpus = read_corpus(options.data)
        settings = _settings(options, TransformerSettings)
        task: Task = TransformerTask(corpus, settings, options.seed)
        training = Training(task, _settings(options, RunSettings), options.out, Display(console))
        if options.resume:
            training.resume()
        training.run()
    except TrainingError as error:
        console.print(f"error: {error}", style="red", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print(f"interrupted; continue with --resume --out {options.out}", soft_wrap=True)
        return 130
    return 0


def _interrupt() -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ml.train", description=__doc__)
    models = parser.add_subparsers(dest="model", required=True)
    transformer = models.add_parser("transformer", help="a small Llama-style transformer over byte-level BPE")
    for command, settings in ((transformer, TransformerSettings()),):
        command.add_argument("--data", type=Path, required=True, help="folder with train.txt, valid.txt and test.txt")
        command.add_argument("--out", type=Path, required=True, help="folder for the model and its training/ files")
        command.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
        command.add_argument("--threads", type=int, default=0, help="processor threads (default: torch's choice)")
        _add_options(command, settings)
        _add_options(command, _RUNS["transformer"])
    return parser


def _add_options(command: argparse.ArgumentParser, defaults: Any) -> None:
    """One option for each field of a settings record."""
    hints = get_type_hints(type(defaults))
    for part in fields(defaults):
        option, kind, default = "--" + part.name.replace("_", "-"), hints[part.name], getattr(defaults, part.name)
        if kind is bool:
            command.add_argument(option, action=argparse.BooleanOptionalAction, default=default)
        elif issubclass(kind, Enum):
            command.add_argument(option, type=kind, choices=list(kind), default=default)
        else:
            command.add_argument(option, type=kind, default=default, help=f"default: {default}")


def _settings(options: argparse.Namespace, kind: type[S]) -> S:
    return kind(**{part.name: getattr(options, part.name) for part in fields(kind)})  # type: ignore[arg-type]
