"""The article's word-level LSTM, and what later work found to make it good."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from ml.models.lstm import LstmConfig, State, WordLSTM, save_lstm
from ml.train.corpus import Corpus, count_words
from ml.train.loss import cross_entropy, sampled_cross_entropy
from ml.train.perplexity import Perplexity, lstm_nats
from ml.train.precision import Precision
from ml.train.words import Vocabulary, build_words


class Method(Enum):
    """How the weights move."""

    ADAM = "adam"
    SGD = "sgd"


@dataclass(frozen=True)
class LstmSettings:
    """Shape and training of the LSTM; `LstmConfig` says what the dropouts are."""

    vocabulary: Vocabulary = Vocabulary.WIKITEXT
    embedding_size: int = 200
    hidden_size: int = 200
    layers: int = 2
    tied: bool = True
    dropout: float = 0.5
    variational: bool = False
    embedding_dropout: float = 0.0
    weight_dropout: float = 0.0
    batch: int = 32
    """Streams that are read side by side."""
    window: int = 70
    """Words of each stream in a step, through which gradients flow."""
    method: Method = Method.ADAM
    rate: float = 0.003
    weight_decay: float = 0.0
    frequent: int = 0
    """With `samples`: this many most frequent words are always in the softmax, beside the batch's own."""
    samples: int = 0
    """Estimate the rest of the softmax from this many words; 0 computes all of it."""
    precision: Precision = Precision.AUTO
    """Of the softmax's products, which are nine tenths of the work."""


class LstmTask:
    """Trains on the text cut into `batch` long streams, whose hidden states are carried from window to window."""

    def __init__(self, corpus: Corpus, settings: LstmSettings, seed: int) -> None:
        self.settings = settings
        self.seed = seed
        self._products = settings.precision.dtype
        self._words = build_words(corpus.train, settings.vocabulary)
        ids = self._words.encode(corpus.train)
        # [batch, time]: row i is the i-th stretch of the text.
        self._streams = ids[: len(ids) // settings.batch * settings.batch].view(settings.batch, -1)
        self._valid_ids = self._words.encode(corpus.valid)
        self._valid_words = count_words(corpus.valid)
        self.module = WordLSTM(
            LstmConfig(
                vocabulary_size=len(self._words.words),
                embedding_size=settings.embedding_size,
                hidden_size=settings.hidden_size,
                layers=settings.layers,
                tied=settings.tied,
                dropout=settings.dropout,
                variational=settings.variational,
                embedding_dropout=settings.embedding_dropout,
                weight_dropout=settings.weight_dropout,
            )
        )
        self.optimizers = [_optimizer(self.module, settings)]
        self.steps_per_epoch = self._streams.shape[1] // settings.window
        self._state: State = self.module.initial_state(settings.batch)

    def batches(self, epoch: int, skip: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets, each [batch, time]; where windows begin and end changes with the epoch."""
        window = self.settings.window
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        first = int(torch.randint(window // 2, window, (), generator=generator))
        if skip == 0:
            self._state = self.module.initial_state(self.settings.batch)
        for step in range(skip, self.steps_per_epoch):
            begin = 0 if step == 0 else first + (step - 1) * window
            end = min(first + step * window, self._streams.shape[1] - 1)
            yield self._streams[:, begin:end], self._streams[:, begin + 1 : end + 1]

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean nats per word, or with `samples` an estimate of them; moves the carried state on."""
        hidden, state = self.module(inputs, self._state)
        # Cut here: gradients stay inside the window.
        self._state = [(h.detach(), c.detach()) for h, c in state]
        hidden, wanted, head = hidden.flatten(0, 1), targets.flatten(), self.module.head
        frequent, samples = self.settings.frequent, self.settings.samples
        if samples:
            return sampled_cross_entropy(
                hidden, head.weight, head.bias, wanted, frequent=frequent, samples=samples, products=self._products
            )
        return cross_entropy(hidden, head.weight, head.bias, wanted, products=self._products)

    def validate(self) -> Perplexity:
        """Over the whole split as one stream."""
        self.module.eval()
        parts = list(lstm_nats(self.module, self._valid_ids, self._words.end))
        self.module.train()
        return Perplexity(sum(nats for nats, _ in parts), len(self._valid_ids), self._valid_words)

    def export(self, folder: Path) -> None:
        """A folder that `ml.models.lstm.load_lstm` reads, with weights in half precision."""
        save_lstm(self.module, self._words.exported, folder)

    def state_dict(self) -> dict[str, Any]:
        """The carried hidden state."""
        return {"state": self._state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a carried hidden state."""
        self._state = [(h, c) for h, c in state["state"]]


def _optimizer(module: WordLSTM, settings: LstmSettings) -> Optimizer:
    if settings.method is Method.SGD:
        return SGD(module.parameters(), lr=settings.rate, weight_decay=settings.weight_decay)
    return AdamW(
        module.parameters(), lr=settings.rate, betas=(0.9, 0.99), weight_decay=settings.weight_decay, fused=True
    )
