"""The protocol through which explainers see a model: what to implement for one that is served elsewhere.

Explainers ask for log-probabilities of the tokens of given continuations, as numpy arrays. Nothing here knows of torch,
logits or devices; what servers ask of a model beside is in `ml.models.base`.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ml.models.objective import FloatArray, Objective
from ml.tokens import Tokenizer

MEAN = -1
"""The id that stands for no token but for the mean of all embeddings; only explanations ask for it."""


@dataclass(frozen=True)
class ModelInfo:
    """What a model is.

    Attributes:
        digest: the SHA-256 of its files' contents.
        heads: 0 for a model without attention.
        capabilities: fast ways to compute that it was seen to allow, each with the longest prompt; None is any length.
        unused: what it was not seen to allow, in words.
        engine: the software that computes the model elsewhere, with its version; "" where this process does. Of such a
            model nothing but log-probabilities can be had: parameters, layers, heads and hidden size are 0.
        max_top_k: how many most likely tokens it lists at most; None for all of them.
        noise: standard deviation of one token's log-probability with what else is computed in the same batch, in nats.
        token_price: what its engine takes for a token of a prompt; None where nobody counts.
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
    engine: str = ""
    max_top_k: int | None = None
    noise: float = 0.0
    token_price: float | None = None


@dataclass(frozen=True)
class LogProbabilities:
    """What a model gave for some of the prompts that were asked for, and what it took.

    Attributes:
        indices: which prompts; possibly none yet.
        rows: natural log-probabilities of each token of the continuations, one continuation behind the other, float64
            [indices, tokens].
        tokens_computed: positions that went through the model, padding left out.
        tokens_saved: positions that did not have to, because they belong to a prefix that was computed before.
    """

    indices: Sequence[int]
    rows: FloatArray
    tokens_computed: int
    tokens_saved: int


class Prefix(Protocol):
    """What a model keeps of a prefix that it has read: keys and values, or a hidden state."""

    @property
    def length(self) -> int:
        """How many tokens were read."""
        ...


class ExplainableModel(Protocol):
    """A causal language model, wherever it is computed. Not safe for use from several threads at once."""

    info: ModelInfo
    tokenizer: Tokenizer

    def stream_log_probabilities(
        self,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        prefix: Prefix | None = None,
    ) -> Iterator[LogProbabilities]:
        """Log-probabilities of each continuation's tokens after each prompt: a batch at a time, in any order.

        What prompts or continuations share is computed once where the model can. The batches depend on the arguments
        only, so equal calls give equal bits.

        Args:
            prompts: token ids, `MEAN` among them or not, each at least one. With any of the continuations, their last
                token left out, they fit the context.
            continuations: token ids, each at least one.
            max_tokens: positions of one batch, padding included; one prompt may exceed it.
            prefix: of this model, read from what all prompts begin with and are longer than.

        Returns:
            Batches, in which every prompt comes once.
        """
        ...

    def read_prefix(self, ids: Sequence[int]) -> Prefix | None:
        """Read a prefix once for all prompts to come; None where the model cannot build on it, or keeps it itself."""
        ...

    def generate_greedily(self, ids: Sequence[int], max_tokens: int, *, banned: Collection[int] = ()) -> Iterator[int]:
        """The most likely next token, again and again: up to `max_tokens`, or the first that ends a text.

        `banned` tokens are never chosen, however likely.
        """
        ...

    def in_bfloat16(self) -> Sequence[RoundedModel]:
        """The same model with matrix products in bfloat16, made on first use: the fastest first, the most exact last.

        None where that is no faster, where the model computes in less than float32 already, and where it is not ours to
        choose.
        """
        ...


@dataclass(frozen=True)
class RoundedModel:
    """A faster model of lower precision.

    Attributes:
        error: root mean square of the errors of its log-probabilities in a text that is the same for all models.
    """

    model: ExplainableModel
    error: float


@runtime_checkable
class Closeable(Protocol):
    """A model that holds more than memory, such as other processes."""

    def close(self) -> None:
        """Let go of it. The model does not compute any more."""
        ...


@runtime_checkable
class Namespaced(Protocol):
    """A model that keeps what it caches apart by namespaces, wherever it caches it."""

    def for_namespace(self, namespace: str) -> ExplainableModel:
        """The same model, which finds what was cached for `namespace` alone; "" is one of its own."""
        ...


@runtime_checkable
class Marking(Protocol):
    """A model whose digest does not identify its weights, so that it marks the checkpoints of what it computed."""

    def marked(self, checkpoint: bytes) -> bytes:
        """`checkpoint`, with what identifies the weights that its values are of."""
        ...

    def unmarked(self, data: bytes) -> bytes | None:
        """What `marked` was given; None where it is of other weights than this model's."""
        ...


@dataclass(frozen=True)
class NearestTokens:
    """The tokens whose embeddings are most like those of some words, the most like first.

    Attributes:
        ids: int64 [words, count].
        cosines: how like they are, float64 [words, count], at most 1.
    """

    ids: npt.NDArray[np.int64]
    cosines: FloatArray


@runtime_checkable
class ModelInternals(Protocol):
    """What some explainers need in addition: access to a model's layers and gradients."""

    def path_gradients(
        self,
        ids: Sequence[int],
        objective: Objective,
        *,
        points: FloatArray,
        numbers: Sequence[int] = (),
        baseline: Sequence[int] | None = None,
        prefix: Prefix | None = None,
    ) -> FloatArray:
        """What each token's embedding adds to an objective at points of a straight path: float64 [n, T].

        With x the embeddings of `ids` and x' those of the baseline, it is the sum over embedding dimensions of
        (x − x') · ∇v(x' + pointsᵢ (x − x')). A weighted sum over the points integrates it along the path.

        Args:
            ids: T tokens, `MEAN` among them or not: a prompt, and what is read of the objective's continuations.
            objective: v. Its continuations are one and what begins it, so that they are read together.
            points: float64 [n], 0 at the baseline to 1 at `ids`; they run as one batch.
            numbers: for each point which of v's numbers is differentiated: 0 for v itself, else a row's, from 1.
                Default: v itself at every point.
            baseline: as `ids`, T tokens. Default: embeddings of zeros.
            prefix: of this model, what stands before `ids` and the baseline.
        """
        ...

    def key_gradients(
        self, ids: Sequence[int], objective: Objective, numbers: Sequence[int] = (0,)
    ) -> FloatArray | None:
        """How much an objective depends, to first order, on how much is seen of each token, float64 [numbers, T].

        It is the gradient with respect to a number that is added to all scores of the token's keys, in all layers and
        heads and for all queries.

        Args:
            ids, objective: as those of `path_gradients`.
            numbers: which of the objective's numbers are differentiated: 0 for itself, else a row's, from 1.

        Returns:
            None where the model computes its attention itself, has none, or the memory for it is not there.
        """
        ...

    def nearest_tokens(self, words: Sequence[Sequence[int]], count: int) -> NearestTokens:
        """The tokens whose embeddings are most like those of each word.

        A word's own tokens are among them. Fewer than `count` where the model has no more tokens.

        Args:
            words: the tokens of each, at least one.
        """
        ...

    def attention_rollout(self, ids: Sequence[int], queries: Sequence[int]) -> npt.NDArray[np.float32]:
        """Attention rollout (Abnar & Zuidema 2020) from the positions `queries` to all T tokens, [queries, T].

        Raises:
            NoAttentionError: the model has none.
            InputError: one layer's weights would take too much memory.
        """
        ...

    def value_zeroing_rollout(
        self, ids: Sequence[int], queries: Sequence[int], *, max_tokens: int
    ) -> Generator[int, None, npt.NDArray[np.float32]]:
        """What the positions `queries` take from all T tokens, [queries, T]: value zeroing (Mohebbi et al. 2023).

        The shares of each layer are rolled out over the layers. They count the residual stream in, so nothing is mixed
        into them (section 3).

        Args:
            max_tokens: positions of one batch; one sequence may exceed it.

        Yields:
            After each batch, the number of positions in it.

        Raises:
            CapabilityError: the model has no value vectors, or keeps them to itself.
        """
        ...
