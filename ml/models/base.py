"""What servers ask of a model beside what explainers do (`ml.models.protocol`): logits, decoding, attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from ml.models.protocol import MEAN, ExplainableModel, ModelInfo, Prefix

__all__ = [
    "MEAN",
    "AttentionSink",
    "Batch",
    "Closeable",
    "Decoder",
    "LanguageModel",
    "ModelInfo",
    "Prefix",
    "Reader",
    "Reading",
]

AttentionSink = Callable[[int, torch.Tensor], None]
"""Receives a layer's number and its weights, float32 [heads, queries, keys], from the lowest layer up."""


@dataclass(frozen=True)
class Batch:
    """Logits of some of the sequences that were asked for, and what they took.

    Attributes:
        indices: which sequences.
        logits: for each of them float32 [tail, vocabulary], as `LanguageModel.logits` gives it.
        tokens_computed: positions that went through the model, padding left out.
        tokens_saved: positions that did not have to, because they belong to a prefix that was computed before.
    """

    indices: Sequence[int]
    logits: Sequence[torch.Tensor]
    tokens_computed: int
    tokens_saved: int


@dataclass(frozen=True)
class Reading:
    """What a model said about some prompts, and what it took.

    Attributes:
        logits: for each prompt float32 [tail, vocabulary], as `LanguageModel.logits` gives it.
        tokens_computed: positions that went through the model, padding left out.
        tokens_padding: positions that went through it for nothing.
        recalled: for each prompt, how many of its first positions were known from prompts before.
    """

    logits: Sequence[torch.Tensor]
    tokens_computed: int
    tokens_padding: int
    recalled: Sequence[int]


class Reader(Protocol):
    """Reads prompts, and may remember how they began, so that the next ones that begin alike take less."""

    def read(self, sequences: Sequence[Sequence[int]], tails: Sequence[int]) -> Reading:
        """As `LanguageModel.logits`, in one batch. What is remembered may change the last digits, and nothing else."""
        ...

    def settle(self) -> None:
        """Do what can wait until the answers are out: note what was read."""
        ...

    @property
    def bytes(self) -> int:
        """Memory of what is remembered."""
        ...

    @property
    def pads(self) -> bool:
        """Whether prompts of one batch are padded to the longest."""
        ...


class Decoder(Protocol):
    """Sequences that grow by a token at a time, together. They may join and leave between two steps."""

    @property
    def recalled(self) -> int:
        """How many first positions of the sequence that began last were known from prompts before."""
        ...

    def start(self, ids: Sequence[int]) -> torch.Tensor:
        """Add a sequence behind the others and read `ids`. Returns what it predicts next, float32 [vocabulary]."""
        ...

    def step(self, tokens: Sequence[int], indices: Sequence[int] | None = None) -> torch.Tensor:
        """Read one more token of each sequence, in order. Returns what they predict next, float32 [n, vocabulary].

        `indices`, ascending, are the sequences that take part, where others stay as they are. Default: all.
        """
        ...

    def leave(self, index: int) -> None:
        """Drop a sequence and free its memory; the last one takes its place."""
        ...


class LanguageModel(ExplainableModel, Protocol):
    """A causal language model, resident and in evaluation mode. Not safe for use from several threads at once."""

    def logits(self, sequences: Sequence[Sequence[int]], tails: Sequence[int] | None = None) -> list[torch.Tensor]:
        """Next-token logits after each of the last `tails[i]` positions of sequence i.

        All sequences run as one batch, so the caller bounds their size. Only the positions asked for go through the
        language-model head.

        Args:
            sequences: token ids, `MEAN` among them or not, each 1 to `context_length` long.
            tails: how many last positions to read out, each 1 to the sequence's length. Default: 1 for all.

        Returns:
            One float32 tensor a sequence, [tails[i], vocabulary], on the model's device; row -1 predicts what follows
            the whole sequence.
        """
        ...

    def stream_logits(
        self,
        sequences: Sequence[Sequence[int]],
        tails: Sequence[int],
        *,
        max_tokens: int,
        max_readout: int,
        prefix: Prefix | None = None,
    ) -> Iterator[Batch]:
        """As `logits`, of any number of sequences: a batch at a time, in whatever order is cheapest.

        Where the model can, a prefix that sequences share is computed once. The batches depend on the arguments only,
        so equal calls give equal bits.

        Args:
            sequences: token ids, `MEAN` among them or not, each 1 to `context_length` long.
            tails: how many last positions to read out, each 1 to the sequence's length.
            max_tokens: positions of one batch, padding included; one sequence may exceed it.
            max_readout: read-out positions of one batch; likewise.
            prefix: of this model, read from what all sequences begin with, none of which is read out.
        """
        ...

    def reader(self, max_bytes: int) -> Reader:
        """A reader that remembers what fits into `max_bytes`; 0 lets it remember nothing.

        Where the model cannot resume from a beginning, or it would gain nothing, the reader remembers nothing either.
        """
        ...

    def decoder(self, reader: Reader | None = None) -> Decoder:
        """A decoder without sequences. `reader`: of this model, which reads their prompts where it can."""
        ...

    @property
    def decoder_bytes(self) -> int:
        """The most memory that one sequence of a decoder takes, at the model's full context."""
        ...

    def attention(self, ids: Sequence[int], layers: Sequence[int], queries: Sequence[int], sink: AttentionSink) -> None:
        """Hand the softmax weights of `queries` over all keys to `sink`, one of `layers` after the other.

        Layers that are not asked for run as usual, and nothing runs above the highest one asked for.

        Raises:
            NoAttentionError: the model has none.
        """
        ...


@runtime_checkable
class Closeable(Protocol):
    """A model that holds more than memory, such as other processes."""

    def close(self) -> None:
        """Let go of it. The model does not compute any more."""
        ...
