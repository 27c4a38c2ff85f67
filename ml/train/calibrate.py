"""``python -m ml.train.calibrate``: make a trained LSTM as sure of itself as it has reason to be.

A model that was trained for long gives its first choices too much probability. One number, the temperature by which
all logits are divided, makes up for most of it (Guo et al. 2017, "On calibration of modern neural networks"). It is the
one under which the validation split is likeliest, and it is folded into the weights, so that nothing else has to know.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from ml.errors import GlossError
from ml.evaluate import stream
from ml.models import load
from ml.models.lstm import LstmModel, WordLSTM, save_weights
from ml.train.corpus import read_split
from ml.train.perplexity import lstm_nats

TEMPERATURES = [1 + step / 50 for step in range(-4, 9)]


@torch.inference_mode()
def fold(module: WordLSTM, temperature: float) -> None:
    """Divide the logits of `module` by `temperature`, by its weights alone."""
    module.head.weight.div_(temperature)
    module.head.bias.div_(temperature)
    if module.config.tied:  # the first layer undoes what this did to its input
        module.get_parameter("layers.0.weight_ih_l0").mul_(temperature)


@torch.inference_mode()
def perplexities(module: WordLSTM, ids: Tensor, start: int, temperatures: Sequence[float]) -> list[float]:
    """Perplexity of `ids` per token at each temperature, leaving `module` as it was."""
    found, folded = [], 1.0
    for temperature in temperatures:
        fold(module, temperature / folded)
        folded = temperature
        found.append(math.exp(sum(nats for nats, _ in lstm_nats(module, ids, start)) / len(ids)))
    fold(module, 1 / folded)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Find the temperature, fold it, and write the folder's weights anew."""
    parser = argparse.ArgumentParser(prog="python -m ml.train.calibrate", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="of an LSTM that `python -m ml.train lstm` wrote")
    parser.add_argument("--data", type=Path, required=True, help="folder with valid.txt")
    parser.add_argument("--words", type=int, default=50_000, help="of the validation split that decide")
    options = parser.parse_args(arguments)
    console = Console()
    try:
        model = load(str(options.folder), device="cpu")
        if not isinstance(model, LstmModel):
            raise GlossError(f"{options.folder} is no LSTM of `python -m ml.train lstm`")
        start, ids = stream(model, read_split(options.data, "valid"))
        found = perplexities(model.module, ids[: options.words], start, TEMPERATURES)
    except GlossError as error:
        Console(stderr=True).print(f"error: {error}", style="red", soft_wrap=True)
        return 1
    for temperature, perplexity in zip(TEMPERATURES, found, strict=True):
        console.print(f"temperature {temperature:.2f}: validation perplexity {perplexity:.2f}")
    best = TEMPERATURES[found.index(min(found))]
    fold(model.module, best)
    save_weights(model.module, options.folder)
    console.print(f"folded {best:.2f} into the weights of {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
