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

from ml.models.lstm.files import save_lstm
from ml.models.lstm.network import LstmConfig, State, WordLSTM
from ml.train.corpus import Corpus, count_words, fingerprint
from ml.train.errors import DataError, OptionError
from ml.train.loss import cross_entropy, sampled_cross_entropy
from ml.train.options import LARGEST, check, option
from ml.train.perplexity import Perplexity, lstm_nats
from ml.train.precision import Precision
from ml.train.words import Vocabulary, build_words


class Method(Enum):
    """How the weights move."""

    ADAM = "adam"
    SGD = "sgd"


@dataclass(frozen=True)
class LstmSettings:
    """Shape and training of the LSTM.

    Raises:
        OptionError: a value is not allowed.
    """

    vocabulary: Vocabulary = option(
        "how lines become words: wikitext splits at spaces and keeps case, as published figures do; basic-english is"
        " torchtext's, in lower case, as in the article",
        Vocabulary.WIKITEXT,
        fixed=True,
    )
    embedding_size: int = option("numbers of a word's embedding", 200, minimum=1, maximum=LARGEST, fixed=True)
    hidden_size: int = option("numbers of each layer's hidden state", 200, minimum=1, maximum=LARGEST, fixed=True)
    layers: int = option("LSTM layers", 2, minimum=1, maximum=1000, fixed=True)
    tied: bool = option(
        "one matrix for input and output embeddings; needs --embedding-size as large as --hidden-size", True, fixed=True
    )
    dropout: float = option(
        "probability that a number between layers, before the first or after the last is dropped in training",
        0.5,
        minimum=0,
        below=1,
    )
    variational: bool = option("draw that dropout once a window, in place of once a word", False)
    embedding_dropout: float = option(
        "probability that a word is dropped wherever it occurs in the batch", 0.0, minimum=0, below=1
    )
    weight_dropout: float = option(
        "probability that a recurrent weight is dropped for all words of a window", 0.0, minimum=0, below=1
    )
    batch: int = option(
        "streams that the text is cut into and that are read at once", 32, minimum=1, maximum=LARGEST, fixed=True
    )
    window: int = option(
        "words of each stream in a step; gradients flow through no more", 70, minimum=2, maximum=LARGEST, fixed=True
    )
    method: Method = option("what moves the weights: AdamW, or plain gradient descent", Method.ADAM, fixed=True)
    rate: float = option(
        "learning rate of --method (adam: near 0.003, sgd: near 20), which --shape then lowers", 0.003, minimum=0
    )
    weight_decay: float = option("share of each weight that a step takes away, times the learning rate", 0.0, minimum=0)
    frequent: int = option(
        "with --samples: the softmax is exact over this many most frequent words", 0, minimum=0, maximum=LARGEST
    )
    samples: int = option(
        "estimate the rest of the softmax from this many words a step, for speed; 0 computes all of it",
        0,
        minimum=0,
        maximum=LARGEST,
    )
    precision: Precision = option(
        "of the softmax's products; auto is bfloat16 where the processor has instructions for it", Precision.AUTO
    )

    def __post_init__(self) -> None:
        check(self)
        if self.tied and self.embedding_size != self.hidden_size:
            raise OptionError(
                f"--embedding-size {self.embedding_size} and --hidden-size {self.hidden_size} differ, and tied weights"
                " need them equal: give both the same, or --no-tied"
            )
        if self.frequent and not self.samples:
            raise OptionError("--frequent does nothing without --samples: give both, or neither")


class LstmTask:
    """Trains on the text cut into `batch` long streams, whose hidden states are carried from window to window.

    Raises:
        DataError: the text is too short for one step.
    """

    name = "lstm"

    def __init__(self, corpus: Corpus, settings: LstmSettings, seed: int) -> None:
        self.settings = settings
        self.fingerprint = fingerprint(corpus)
        self.seed = seed
        self._products = settings.precision.dtype
        self._words = build_words(corpus.train, settings.vocabulary)
        ids = self._words.encode(corpus.train)
        if len(ids) < settings.batch * settings.window:
            raise DataError(
                f"the training text has {len(ids):,} words with its line ends, and one step takes"
                f" {settings.batch * settings.window:,}: give more text, or a smaller --batch or --window"
            )
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

    @property
    def rates(self) -> dict[str, float]:
        """See `Task.rates`."""
        return {"rate": self.settings.rate}

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
        """A folder that `ml.models.lstm.model.load_lstm` reads, with weights in half precision."""
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
