"""``python -m ml.train.calibrate``: make a trained LSTM as sure of itself as it has reason to be.

A model that was trained for long gives its first choices too much probability, and rare words, of which it has learnt
a few occurrences by heart, too much as well. Two numbers make up for most of it: the temperature by which all logits
are divided (Guo et al. 2017, "On calibration of modern neural networks"), and how much of a word's log-frequency is
added to its logit (Menon et al. 2021, "Long-tail learning via logit adjustment"). They are those under which the
validation split is likeliest, and are folded into the weights, so that nothing else has to know.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from safetensors.torch import load_file
from torch import Tensor

from ml.errors import GlossError
from ml.evaluate import stream
from ml.models.loading.files import CONFIG, replacing
from ml.models.lstm.files import load_module, save_weights
from ml.models.lstm.model import LstmModel, load_lstm
from ml.models.lstm.network import WordLSTM
from ml.train.corpus import read_split
from ml.train.errors import StorageError
from ml.train.loss import cross_entropy_sum
from ml.train.perplexity import Perplexity, lstm_hidden, lstm_nats

TEMPERATURES = [0.96 + step / 50 for step in range(9)]
TILTS = [step / 100 for step in range(-2, 9)]

_AGREE = 0.01
"""Nats per word by which weights that were written and loaded again may differ: half precision's rounding."""


@torch.inference_mode()
def fold(module: WordLSTM, temperature: float) -> None:
    """Divide the logits of `module`, a plain one, by `temperature`, by its weights alone."""
    module.head.weight.div_(temperature)
    module.head.bias.div_(temperature)
    if module.config.tied:  # the first layer undoes what this did to its input
        module.get_parameter("layers.0.weight_ih_l0").mul_(temperature)


@torch.inference_mode()
def tilt(module: WordLSTM, strength: float, log_frequencies: Tensor) -> None:
    """Add a share of words' `log_frequencies`, [vocabulary], to their logits."""
    module.head.bias.add_(log_frequencies, alpha=strength)


@dataclass(frozen=True)
class Text:
    """What decides: a module and words, [words], that it reads after the word `start`."""

    module: WordLSTM
    ids: Tensor
    start: int

    def perplexity(self) -> float:
        """Per token, which is a word of the model's vocabulary."""
        nats = sum(nats for nats, _ in lstm_nats(self.module, self.ids, self.start))
        return Perplexity(nats, len(self.ids), len(self.ids)).per_token


@torch.inference_mode()
def calibrate(text: Text, log_frequencies: Tensor, console: Console | None = None) -> tuple[float, float]:
    """Fold the best temperature and tilt into the text's module. Returns them. `console`: for a bar."""
    head, read = text.module.head, list(lstm_hidden(text.module, text.ids, text.start))

    def nats(temperature: float, strength: float) -> float:
        weight = head.weight / temperature
        bias = head.bias / temperature + strength * log_frequencies
        return sum(float(cross_entropy_sum(hidden, weight, bias, targets)) for hidden, targets in read)

    temperature = _least(lambda value: nats(value, 0.0), TEMPERATURES, "temperature", console)
    strength = _least(lambda value: nats(temperature, value), TILTS, "log-frequencies", console)
    fold(text.module, temperature)
    tilt(text.module, strength, log_frequencies)
    return temperature, strength


def _least(nats: Callable[[float], float], values: Sequence[float], description: str, console: Console | None) -> float:
    """The one of `values` whose `nats` are fewest."""
    hidden = console is None or not console.is_terminal
    found = {
        value: nats(value) for value in track(values, description, console=console, transient=True, disable=hidden)
    }
    return min(found, key=lambda value: found[value])


def write(text: Text, folder: Path) -> float:
    """Put the text's module into the weights of `folder`, in the type that they are stored in.

    Returns:
        The perplexity per token of what was written, loaded again.

    Raises:
        StorageError: the disk refuses, or what was written does not compute what it should. The folder is unharmed.
    """
    try:
        with replacing(folder) as scratch:
            shutil.copyfile(folder / CONFIG, scratch / CONFIG)
            save_weights(text.module, scratch, load_file(folder / "model.safetensors")["embedding.weight"].dtype)
            written = Text(load_module(scratch), text.ids, text.start).perplexity()
            if not abs(math.log(written / text.perplexity())) < _AGREE:
                raise StorageError(
                    f"loaded again, the new weights have a perplexity of {written:.2f}; {folder} is kept"
                )
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror}; it is kept as it was") from error
    return written


def _load(folder: Path) -> LstmModel:
    """The plain module: fast layers can be neither changed nor saved."""
    if not folder.is_dir():
        raise GlossError(f"there is no folder {folder}; name one that `python -m ml.train lstm` wrote")
    if not os.access(folder, os.W_OK):
        raise StorageError(f"{folder} cannot be written")
    return load_lstm(folder, "cpu", folder.name, "", fast=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Find temperature and tilt, fold them, and write the folder's weights again. Returns 0, or 2 after a mistake."""
    parser = argparse.ArgumentParser(prog="python -m ml.train.calibrate", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="of an LSTM that `python -m ml.train lstm` wrote")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.txt and valid.txt")
    parser.add_argument(
        "--words", type=int, default=50_000, help="of the validation split that decide (default: 50000)"
    )
    options = parser.parse_args(arguments)
    console = Console(stderr=True, markup=False, highlight=False)
    try:
        if options.words < 1:
            raise GlossError(f"--words is a number from 1 on, not {options.words}")
        model = _load(options.folder)
        start, ids = stream(model, read_split(options.data, "valid"))
        _, train = stream(model, read_split(options.data, "train"))
        # Half a time more than each word was seen, for the words that never were.
        counts = torch.bincount(train, minlength=model.info.vocabulary_size) + 0.5
        text = Text(model.module, ids[: options.words], start)
        before = text.perplexity()
        temperature, strength = calibrate(text, torch.log(counts / counts.sum()), console)
        after = write(text, options.folder)
    except GlossError as error:
        console.print(f"error: {error}", style="red", soft_wrap=True)
        return 2
    print(
        f"temperature {temperature:.2f} and {strength:.2f} of the log-frequencies, folded into the weights of"
        f" {options.folder}: validation perplexity {after:.2f} per token, before {before:.2f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
