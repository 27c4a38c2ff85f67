"""Perplexity: the exponential of the mean negative log-probability, over tokens or over words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ml.train.loss import cross_entropy_sum

if TYPE_CHECKING:
    from ml.models.base import LanguageModel
    from ml.models.lstm.network import WordLSTM


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


@dataclass(frozen=True)
class Window:
    """Predictions `first` to `end` of a stream, made with the tokens from `begin` on."""

    begin: int
    first: int
    end: int


def windows(length: int, size: int, stride: int) -> Iterator[Window]:
    """Windows of `size` predictions over a stream of `length` tokens that count each prediction once.

    Each window but the first counts its last `stride` predictions, so that they have at least `size` − `stride` tokens
    of context; the first counts all.
    """
    counted = 0
    while counted < length:
        end = min(length, counted + stride if counted else size)
        yield Window(max(0, end - size), counted, end)
        counted = end


@torch.inference_mode()
def transformer_nats(module: Any, ids: Tensor, start: int, *, size: int, batch: int = 8) -> Iterator[tuple[float, int]]:
    """Nats of each of `ids` in windows of `size` that do not overlap, each after the token `start`.

    Args:
        module: a Llama of transformers.
        ids: [tokens].

    Yields:
        (nats, tokens) of `batch` windows.
    """
    rows = ids[: len(ids) // size * size].view(-1, size).split(batch)
    rest = ids[len(ids) // size * size :]
    for targets in (*rows, *([rest[None]] if len(rest) else [])):
        inputs = torch.cat([targets.new_full((len(targets), 1), start), targets[:, :-1]], 1)
        hidden = module.model(input_ids=inputs, use_cache=False).last_hidden_state.flatten(0, 1)
        yield float(cross_entropy_sum(hidden, module.lm_head.weight, None, targets.flatten())), targets.numel()


@torch.inference_mode()
def strided_nats(
    model: LanguageModel, ids: Tensor, start: int, *, size: int, stride: int, batch: int = 4
) -> Iterator[tuple[float, int]]:
    """Nats of each of `ids` in windows that overlap (see `windows`), each after the token `start`.

    Yields:
        (nats, tokens) of `batch` windows.
    """
    pending = list(windows(len(ids), size, stride))
    for at in range(0, len(pending), batch):
        group = pending[at : at + batch]
        prompts = [[start, *ids[window.begin : window.end - 1].tolist()] for window in group]
        logits = torch.cat(model.logits(prompts, [window.end - window.first for window in group]))
        targets = torch.cat([ids[window.first : window.end] for window in group]).to(logits.device)
        chosen = logits.gather(1, targets[:, None]).squeeze(1)
        yield float((logits.logsumexp(1) - chosen).sum(dtype=torch.float64)), len(targets)


@torch.inference_mode()
def lstm_hidden(module: WordLSTM, ids: Tensor, start: int, *, size: int = 512) -> Iterator[tuple[Tensor, Tensor]]:
    """Read `ids` [words] as one stream after the word `start`, its hidden state carried all the way.

    Yields:
        (what the head gets [size, hidden], the words to predict from it [size]), the last ones shorter.
    """
    state = module.initial_state(1)
    device = module.embedding.weight.device
    stream = torch.cat([torch.tensor([start]), ids]).to(device)
    for at in range(0, len(ids), size):
        targets = stream[at + 1 : at + 1 + size]
        hidden, state = module(stream[at : at + len(targets)][None], state)
        yield hidden[0], targets


@torch.inference_mode()
def lstm_nats(module: WordLSTM, ids: Tensor, start: int, *, size: int = 512) -> Iterator[tuple[float, int]]:
    """Nats of each of `ids`, read as `lstm_hidden` does.

    Yields:
        (nats, tokens) of `size` words.
    """
    for hidden, targets in lstm_hidden(module, ids, start, size=size):
        yield float(cross_entropy_sum(hidden, module.head.weight, module.head.bias, targets)), len(targets)
