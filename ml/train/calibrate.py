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
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ml.errors import GlossError
from ml.evaluate import stream
from ml.models import load
from ml.models.lstm import LstmModel, WordLSTM, save_weights
from ml.train.corpus import read_split
from ml.train.perplexity import lstm_nats

TEMPERATURES = [0.96 + step / 50 for step in range(9)]
TILTS = [step / 100 for step in range(-2, 9)]


@torch.inference_mode()
def fold(module: WordLSTM, temperature: float) -> None:
    """Divide the logits of `module` by `temperature`, by its weights alone."""
    module.head.weight.div_(temperature)
    module.head.bias.div_(temperature)
    if module.config.tied:  # the first layer undoes what this did to its input
        module.get_parameter("layers.0.weight_ih_l0").mul_(temperature)


@torch.inference_mode()
def tilt(module: WordLSTM, strength: float, log_frequencies: Tensor) -> None:
    """Add a share of words' `log_frequencies`, [vocabulary], to their logits."""
    module.head.bias.add_(log_frequencies, alpha=strength)


def likeliest(
    change: Callable[[float], None],
    undo: Callable[[float], None],
    values: Sequence[float],
    text: Text,
    console: Console | None = None,
) -> float:
    """The value after whose `change` the text's perplexity is least; all of them are undone. `console`: for a bar."""
    found = {}
    for value in track(values, "calibrating", console=console, transient=True, disable=console is None):
        change(value)
        found[value] = text.perplexity()
        undo(value)
    return min(found, key=lambda value: found[value])


@dataclass(frozen=True)
class Text:
    """What decides: a module and words that it reads after the word `start`."""

    module: WordLSTM
    ids: Tensor
    start: int

    @torch.inference_mode()
    def perplexity(self) -> float:
        """Per word."""
        return math.exp(sum(nats for nats, _ in lstm_nats(self.module, self.ids, self.start)) / len(self.ids))


def calibrate(text: Text, log_frequencies: Tensor, console: Console | None = None) -> tuple[float, float]:
    """Fold the best temperature and tilt into the text's module. Returns them."""
    module = text.module
    temperature = likeliest(
        lambda value: fold(module, value), lambda value: fold(module, 1 / value), TEMPERATURES, text, console
    )
    fold(module, temperature)
    strength = likeliest(
        lambda value: tilt(module, value, log_frequencies),
        lambda value: tilt(module, -value, log_frequencies),
        TILTS,
        text,
        console,
    )
    tilt(module, strength, log_frequencies)
    return temperature, strength


def main(arguments: Sequence[str] | None = None) -> int:
    """Find the temperature, fold it, and write the folder's weights anew."""
    parser = argparse.ArgumentParser(prog="python -m ml.train.calibrate", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="of an LSTM that `python -m ml.train lstm` wrote")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.txt and valid.txt")
    parser.add_argument("--words", type=int, default=50_000, help="of the validation split that decide")
    options = parser.parse_args(arguments)
    console = Console()
    try:
        model = load(str(options.folder), device="cpu")
        if not isinstance(model, LstmModel):
            raise GlossError(f"{options.folder} is no LSTM of `python -m ml.train lstm`")
        start, ids = stream(model, read_split(options.data, "valid"))
        _, train = stream(model, read_split(options.data, "train"))
    except GlossError as error:
        Console(stderr=True).print(f"error: {error}", style="red", soft_wrap=True)
        return 1
    # Half a time more than each word was seen, for the words that never were.
    counts = torch.bincount(train, minlength=model.info.vocabulary_size) + 0.5
    text = Text(model.module, ids[: options.words], start)
    before = text.perplexity()
    temperature, strength = calibrate(text, torch.log(counts / counts.sum()), console)
    save_weights(model.module, options.folder)
    console.print(
        f"temperature {temperature:.2f} and {strength:.2f} of the log-frequencies, folded into the weights of"
        f" {options.folder}: validation perplexity {text.perplexity():.2f}, before {before:.2f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
