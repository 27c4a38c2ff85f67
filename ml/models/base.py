"""What servers ask of a model beside what explainers do (`ml.models.protocol`): logits, decoding, attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from ml.models.protocol import MEAN, Closeable, ExplainableModel, ModelInfo, Prefix

__all__ = [
    "MEAN",
    "AttentionSink",
    "Batch",
    "Chunk",
    "Closeable",
    "LanguageModel",
    "ModelInfo",
    "Prefix",
    "Runner",
    "StepResult",
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
class Chunk:
    """New tokens of one sequence in a step: one when decoding, some of a prompt in prefill, or a whole prompt.

    Attributes:
        ids: the tokens, at least one, behind those that the sequence has.
        logits: after how many of the last ones logits are asked for; 0 where more of the prompt follows.
        sequence: the number that `Runner.begin` gave; None for a whole prompt that nothing follows.
        namespace: whose cached prefixes are used and added to; what one has inserted is never matched by another.
    """

    ids: Sequence[int]
    logits: int = 1
    sequence: int | None = None
    namespace: str = ""


@dataclass(frozen=True)
class StepResult:
    """What a model said in a step, and what it took.

    Attributes:
        logits: for each chunk float32 [chunk.logits, vocabulary], as `LanguageModel.logits` gives it.
        tokens_computed: positions that went through the model, padding left out.
        tokens_padding: positions that went through it for nothing.
        cached_tokens: for each chunk, how many of its tokens were found in the prefix cache.
    """

    logits: Sequence[torch.Tensor]
    tokens_computed: int
    tokens_padding: int
    cached_tokens: Sequence[int]


class Runner(Protocol):
    """Runs whole prompts, and sequences that grow, a step at a time, and may cache prefixes of either.

    What is cached may change the last digits of an answer, and nothing else.
    """

    def begin(self) -> int:
        """Begin a sequence, which has no tokens yet. Returns its number."""
        ...

    def step(self, chunks: Sequence[Chunk]) -> StepResult:
        """Run the chunks, in one pass where the model can, else one after the other.

        A sequence has one chunk at most. Where it raises, drop the sequences that it was about.

        Raises:
            KeyError: a sequence was dropped, or lost when memory for a step before could not be had.
        """
        ...

    def drop(self, sequence: int) -> None:
        """Forget a sequence and free its memory."""
        ...

    def insert_prefixes(self) -> None:
        """Do what can wait until the answers are out: insert what was computed into the prefix cache."""
        ...

    @property
    def bytes(self) -> int:
        """Memory of cached prefixes."""
        ...

    @property
    def pads(self) -> bool:
        """Whether whole prompts of one step are padded to the longest."""
        ...

    @property
    def is_preemptible(self) -> bool:
        """Whether a step of whole prompts ends early once it is preempted; see `ml.runtime.preemption`."""
        ...


class LanguageModel(ExplainableModel, Protocol):
    """A causal language model, resident and in evaluation mode. Not safe for use from several threads at once."""

    def logits(
        self, sequences: Sequence[Sequence[int]], logit_counts: Sequence[int] | None = None
    ) -> list[torch.Tensor]:
        """Next-token logits after each of the last `logit_counts[i]` positions of sequence i.

        All sequences run as one batch, so the caller bounds their size. Only the positions asked for go through the
        language-model head.

        Args:
            sequences: token ids, `MEAN` among them or not, each 1 to `context_length` long.
            logit_counts: how many last positions to read out, each 1 to the sequence's length. Default: 1 for all.

        Returns:
            One float32 tensor a sequence, [logit_counts[i], vocabulary], on the model's device; row -1 predicts what
            follows the whole sequence.
        """
        ...

    def stream_logits(
        self,
        sequences: Sequence[Sequence[int]],
        logit_counts: Sequence[int],
        *,
        max_tokens: int,
        max_logits: int,
        prefix: Prefix | None = None,
    ) -> Iterator[Batch]:
        """As `logits`, of any number of sequences: a batch at a time, in whatever order is cheapest.

        Where the model can, a prefix that sequences share is computed once. The batches depend on the arguments only,
        so equal calls give equal bits.

        Args:
            sequences: token ids, `MEAN` among them or not, each 1 to `context_length` long.
            logit_counts: how many last positions to read out, each 1 to the sequence's length.
            max_tokens: positions of one batch, padding included; one sequence may exceed it.
            max_logits: logit positions of one batch; likewise.
            prefix: of this model, read from what all sequences begin with, none of which is read out.
        """
        ...

    def runner(self, max_bytes: int = 0) -> Runner:
        """A runner without sequences, with a prefix cache of up to `max_bytes`; 0 is none.

        Where the model cannot go on from a prefix, or would gain nothing, none is cached either.
        """
        ...

    @property
    def sequence_bytes(self) -> int:
        """The most memory that one sequence of a runner takes, at the model's full context."""
        ...

    def attention(self, ids: Sequence[int], layers: Sequence[int], queries: Sequence[int], sink: AttentionSink) -> None:
        """Hand the softmax weights of `queries` over all keys to `sink`, one of `layers` after the other.

        Layers that are not asked for run as usual, and nothing runs above the highest one asked for.

        Raises:
            NoAttentionError: the model has none.
        """
        ...
