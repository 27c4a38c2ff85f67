"""The small protocol through which everything else sees a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from ml.tokens import Tokenizer

MEAN = -1
"""The id that stands for no token but for the mean of all embeddings; only explanations ask for it."""

Objective = Callable[[torch.Tensor], torch.Tensor]
"""From logits, float32 [n, tail, vocabulary], to n numbers whose gradients are wanted."""

AttentionSink = Callable[[int, torch.Tensor], None]
"""Receives a layer's number and its weights, float32 [heads, queries, keys], from the lowest layer up."""


@dataclass(frozen=True)
class ModelInfo:
    """What a model is.

    Attributes:
        digest: the SHA-256 of its files' contents.
        heads: 0 for a model without attention.
        capabilities: fast ways to compute that it was seen to allow, each with the longest prompt; None is any length.
        unused: what it was not seen to allow, in words.
    """

    name: str
    digest: str
    architecture: str
    parameters: int
    layers: int
    heads: int
    hidden_size: int
    vocabulary_size: int
    context_length: int
    device: str
    dtype: str
    capabilities: tuple[tuple[str, int | None], ...] = ()
    unused: str = ""


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


class Prefix(Protocol):
    """What a model keeps of a beginning that it has read: keys and values, or a hidden state."""

    @property
    def length(self) -> int:
        """How many tokens were read."""
        ...


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


class LanguageModel(Protocol):
    """A causal language model, resident and in evaluation mode. Not safe for use from several threads at once."""

    info: ModelInfo
    tokenizer: Tokenizer

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

    def read_prefix(self, ids: Sequence[int]) -> Prefix | None:
        """Read a beginning once for all sequences to come; None where the model cannot build on it."""
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

    def in_bfloat16(self) -> LanguageModel | None:
        """The same model with its matrix products in bfloat16, made on first use.

        None where that is no faster on this device, where the model computes in less than float32 already, and for a
        kind of model that gains nothing.
        """
        ...

    def attention(self, ids: Sequence[int], layers: Sequence[int], queries: Sequence[int], sink: AttentionSink) -> None:
        """Hand the softmax weights of `queries` over all keys to `sink`, one of `layers` after the other.

        Layers that are not asked for run as usual, and nothing runs above the highest one asked for.

        Raises:
            NoAttentionError: the model has none.
        """
        ...


@runtime_checkable
class WhiteBox(Protocol):
    """A model whose inside can be looked into: one that this process computes alone."""

    def embed(self, ids: Sequence[int]) -> torch.Tensor:
        """The embeddings of `ids`, `MEAN` among them or not, as the first layer is given them: float32 [T, size]."""
        ...

    def gradients(
        self, points: torch.Tensor, tail: int, objective: Objective, prefix: Prefix | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Values of an objective and their gradients with respect to embeddings.

        Args:
            points: sequences of embeddings, float32 [n, T, size], which run as one batch.
            tail: how many last positions `objective` is given.
            prefix: of this model, what stands before all sequences.

        Returns:
            The n values, and gradients float32 [n, T, size].
        """
        ...

    def value_zeroing(self, ids: Sequence[int], max_tokens: int, sink: AttentionSink) -> Iterator[int]:
        """What each position of each layer's output takes from each token (Mohebbi et al. 2023, equation 4).

        A layer is run again with the value vectors of one token set to zero, in all of its heads. What changes by it at
        a position, the cosine distance between the layer's outputs there, is that token's share of the position; the
        shares of a position sum to 1.

        Args:
            max_tokens: positions of one batch; one sequence may exceed it.
            sink: receives layer by layer, from the lowest up, shares float32 [1, T, T]: of positions, by token.

        Returns:
            An iterator that computes a batch at a time, and gives the number of positions in it.

        Raises:
            CapabilityError: the model has no value vectors, or keeps them to itself.
        """
        ...


@runtime_checkable
class Closeable(Protocol):
    """A model that holds more than memory, such as other processes."""

    def close(self) -> None:
        """Let go of it. The model does not compute any more."""
        ...
