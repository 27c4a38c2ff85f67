"""The word-level LSTM itself.

The recurrent model of Zaremba et al. 2014 ("Recurrent neural network regularization"), with what later work found to
help as options: tied input and output embeddings (Press & Wolf 2017), dropout that keeps one mask over time (Gal &
Ghahramani 2016), and dropout of whole embedding rows and of recurrent weights (Merity et al. 2018, AWD-LSTM).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ml.runtime.embedding import lookup

State = list[tuple[Tensor, Tensor]]
"""The recurrent state: for each layer its hidden and cell state, each [1, batch, hidden]."""


@dataclass(frozen=True)
class LstmConfig:
    """Shape and regularisation of a `WordLSTM`. The dropouts are probabilities and act in training only."""

    vocabulary_size: int
    embedding_size: int = 200
    hidden_size: int = 200
    layers: int = 2
    tied: bool = True
    """Output embedding = input embedding; needs embedding_size == hidden_size."""
    dropout: float = 0.5
    """Between the layers, before the first and after the last."""
    variational: bool = False
    """One dropout mask for all time steps of a window, in place of a fresh one for each."""
    embedding_dropout: float = 0.0
    """Whole words, wherever they occur in the batch."""
    weight_dropout: float = 0.0
    """Single recurrent weights, for all time steps of a window."""
    context_length: int = 2048
    """The longest prompt served. The recurrence itself has no limit."""

    def __post_init__(self) -> None:
        if self.tied and self.embedding_size != self.hidden_size:
            raise ValueError(
                f"tied weights need an embedding ({self.embedding_size}) as wide as the hidden state "
                f"({self.hidden_size})"
            )


class WordLSTM(nn.Module):
    """Embedding, LSTM layers and a linear head over the vocabulary.

    `forward` stops before the head, so that the caller chooses which positions pay for it: with 33,278 words it costs
    ten times as much as the recurrence.
    """

    def __init__(self, config: LstmConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary_size, config.embedding_size)
        widths = [config.embedding_size] + [config.hidden_size] * config.layers
        self.layers = nn.ModuleList(nn.LSTM(width, config.hidden_size, batch_first=True) for width in widths[:-1])
        self.head = nn.Linear(config.hidden_size, config.vocabulary_size)
        if config.tied:
            self.head.weight = self.embedding.weight
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.uniform_(self.head.weight, -0.1, 0.1)
        nn.init.zeros_(self.head.bias)

    def initial_state(self, batch: int) -> State:
        """The state before any word: zeros."""
        zeros = self.embedding.weight.new_zeros(1, batch, self.config.hidden_size)
        return [(zeros, zeros) for _ in self.layers]

    def forward(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Read `ids` [batch, time] on from `state`.

        Returns:
            The last layer's output [batch, time, hidden], ready for `head`, and the state after the last word.
        """
        return self.read(self._dropped(self._embed(ids)), state)

    def read(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """As `forward`, from embeddings [batch, time, size]."""
        after = []
        for layer, before in zip(self.layers, state, strict=True):
            x, last = self._recur(cast(nn.LSTM, layer), x, before)
            x = self._dropped(x)
            after.append(last)
        return x, after

    def _embed(self, ids: Tensor) -> Tensor:
        if not self.training:
            return lookup(self.embedding, ids)
        x: Tensor = self.embedding(ids)
        if self.config.embedding_dropout:
            # Scaling the rows that were looked up, not the matrix, spares a copy of the whole vocabulary.
            kept = F.dropout(x.new_ones(self.config.vocabulary_size, 1), self.config.embedding_dropout)
            x = x * F.embedding(ids, kept)
        return x

    def _recur(self, layer: nn.LSTM, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if not (self.training and self.config.weight_dropout):
            y, after = layer(x, state)
            return y, after
        inward, recurrent, *biases = cast(list[Tensor], layer.all_weights[0])
        weights = [inward, F.dropout(recurrent, self.config.weight_dropout), *biases]
        y, h, c = torch.lstm(x, list(state), weights, True, 1, 0.0, True, False, True)
        return y, (h, c)

    def _dropped(self, x: Tensor) -> Tensor:
        if not (self.training and self.config.dropout):
            return x
        if not self.config.variational:
            return F.dropout(x, self.config.dropout)
        return x * F.dropout(x.new_ones(x.shape[0], 1, x.shape[2]), self.config.dropout)
