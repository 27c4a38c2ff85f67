"""A model whose layers this process computes, behind the protocol of explainers that look at its internals."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ml.attention import AttentionSpec, Reduction, resolve
from ml.models.base import AttentionSink
from ml.models.internals.attention_maps import attend
from ml.models.internals.nearest import nearest_tokens
from ml.models.internals.objective import LogitsObjective, of_logits
from ml.models.log_probabilities import LogitsModel
from ml.models.objective import FloatArray, Objective
from ml.models.protocol import NearestTokens, Prefix


class OpenModel(LogitsModel):
    """A `LogitsModel` that also is an `ml.models.protocol.ModelInternals`."""

    @abstractmethod
    def embed(self, ids: Sequence[int]) -> Tensor:
        """The embeddings of `ids`, `MEAN` among them or not, as the first layer is given them: float32 [T, size]."""

    @property
    @abstractmethod
    def embedding(self) -> nn.Module:
        """The layer of token embeddings, whose `weight` has a row for each token."""

    def embed_prompt(self, ids: Sequence[int]) -> Tensor:
        """As `embed`, for a prompt that is to be read as these tokens are.

        Raises:
            CapabilityError: the model reads some of them otherwise than their embeddings.
        """
        return self.embed(ids)

    @abstractmethod
    def gradients(
        self, points: Tensor, tail: int, objective: LogitsObjective, prefix: Prefix | None = None
    ) -> tuple[Tensor, Tensor]:
        """Values of an objective and their gradients with respect to embeddings.

        Args:
            points: sequences of embeddings, float32 [n, T, size], which run as one batch.
            tail: how many last positions `objective` is given.
            objective: from logits to values.
            prefix: of this model, what stands before all sequences.

        Returns:
            The n values, and gradients float32 [n, T, size].
        """

    @abstractmethod
    def attention(self, ids: Sequence[int], layers: Sequence[int], queries: Sequence[int], sink: AttentionSink) -> None:
        """See `ml.models.base.LanguageModel.attention`."""

    @abstractmethod
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
        """See `ModelInternals.path_gradients`."""
        end = self.embed_prompt(ids)
        begin = torch.zeros_like(end) if baseline is None else self.embed(baseline)
        at = torch.tensor(points, dtype=torch.float32, device=end.device)[:, None, None]
        value, positions = of_logits(objective, numbers)
        _, gradients = self.gradients(torch.lerp(begin, end, at), positions, value, prefix)
        found: FloatArray = ((end - begin) * gradients).sum(-1, dtype=torch.float64).cpu().numpy()
        return found

    def key_gradients(
        self, ids: Sequence[int], objective: Objective, numbers: Sequence[int] = (0,)
    ) -> FloatArray | None:
        """See `ModelInternals.key_gradients`: out of reach, unless a subclass reaches it."""
        return None

    def nearest_tokens(self, words: Sequence[Sequence[int]], count: int) -> NearestTokens:
        """See `ModelInternals.nearest_tokens`."""
        return nearest_tokens(self.embedding, words, count)

    def attention_rollout(self, ids: Sequence[int], queries: Sequence[int]) -> npt.NDArray[np.float32]:
        """See `ModelInternals.attention_rollout`."""
        spec = AttentionSpec(queries=tuple(queries), reduction=Reduction.ROLLOUT)
        found = attend(self, ids, resolve(spec, self.info, len(ids)))
        shares: npt.NDArray[np.float32] = found.weights[0, 0].astype(np.float32, copy=False)
        return shares

    def value_zeroing_rollout(
        self, ids: Sequence[int], queries: Sequence[int], *, max_tokens: int
    ) -> Generator[int, None, npt.NDArray[np.float32]]:
        """See `ModelInternals.value_zeroing_rollout`."""
        product = torch.eye(len(ids), device=self.info.device)

        def multiply(_: int, shares: Tensor) -> None:
            nonlocal product
            product = shares[0].to(product.device) @ product

        yield from self.value_zeroing(ids, max_tokens, multiply)
        rolled: npt.NDArray[np.float32] = product[list(queries)].cpu().numpy()
        return rolled
