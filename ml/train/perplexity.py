"""Perplexity: the exponential of the mean negative log-probability, over tokens or over words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ml.train.loss import cross_entropy_sum

if TYPE_CHECKING:
    from ml.models.lstm import WordLSTM


@dataclass(frozen=True)
class Perplexity:
    """A text's negative log-probability in nats, and what it is divided by."""

    nats: float
    tokens: int
    words: int

    @property
    def per_token(self) -> float:
        """Comparable between models with the same tokenizer only."""
        return _exp(self.nats / self.tokens)

    @property
    def per_word(self) -> float:
        """Comparable between all models of the same text: nats are divided by the original text's words."""
        return _exp(self.nats / self.words)


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf


@torch.inference_mode()
def transformer_nats(
    model: nn.Module, ids: Tensor, start: int, *, window: int, stride: int, batch: int = 8
) -> Iterator[tuple[float, int]]:
    """Nats of every one of `ids`, in windows that overlap.

    A window is the start token and `window` − 1 ids before the one predicted last; it counts its last `stride`
    predictions only, so each has at least `window` − `stride` tokens of context (the text's first ones what there is).

    Yields:
        (nats, tokens) of one batch of windows, until every id has been counted once.
    """
    windows = []
    counted = 0
    while counted < len(ids):
        end = min(len(ids), max(counted + stride, window) if counted == 0 else counted + stride)
        windows.append((max(0, end - window), counted, end))
        counted = end
    for at in range(0, len(windows), batch):
        group = windows[at : at + batch]
        longest = max(end - begin for begin, _, end in group)
        inputs = torch.full((len(group), longest), start)
        targets = torch.full((len(group), longest), -1)
        for row, (begin, first, end) in enumerate(group):
            inputs[row, 1 : end - begin] = ids[begin : end - 1]
            targets[row, first - begin : end - begin] = ids[first:end]
        hidden = model.model(input_ids=inputs, use_cache=False).last_hidden_state
        kept = targets >= 0
        yield float(cross_entropy_sum(hidden[kept], model.lm_head.weight, None, targets[kept])), int(kept.sum())


@torch.inference_mode()
def lstm_nats(module: WordLSTM, ids: Tensor, first: int, window: int = 512) -> Iterator[tuple[float, int]]:
    """Nats of every one of `ids`, read as one stream after the word `first`, in steps of `window` words.

    Yields:
        (nats, tokens) of one window, until every id has been counted once.
    """
    state = module.initial_state(1)
    stream = torch.cat([torch.tensor([first]), ids])
    for at in range(0, len(ids), window):
        inputs, targets = stream[at : at + window][: len(ids) - at], ids[at : at + window]
        hidden, state = module(inputs[None], state)
        yield float(cross_entropy_sum(hidden[0], module.head.weight, module.head.bias, targets)), len(targets)
