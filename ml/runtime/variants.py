"""Logits of many sequences that begin alike, such as the perturbed prompts of an explanation.

Sorted, the sequences stand in the order of a depth-first walk through their prefix tree, and each distinct prefix is
computed once. Whatever rows a walk has reached, the ancestors of all later rows are later rows themselves or lie on the
one path from the root to where the walk stands. So a forward pass of any size needs the keys and values of one path
from those before it, and memory stays bounded by the longest sequence, not by their number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ml.models.base import Batch
from ml.runtime.attention_plan import MIN_SHARED
from ml.runtime.forward import RaggedForward
from ml.runtime.kv_cache import KvCache
from ml.runtime.ragged_batch import BatchBuilder, IntArray, RaggedBatch, common_prefix
from ml.runtime.spans import SpanOf


@dataclass(frozen=True)
class CachedTokens:
    """A prefix whose keys and values are in the first slots of a cache; see `ml.models.base.Prefix`."""

    ids: tuple[int, ...]
    cache: KvCache

    @property
    def length(self) -> int:
        """Its tokens."""
        return len(self.ids)

    @property
    def by_heads(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values from the lowest layer up, each [1, key heads, positions, size]."""
        parts = (self.cache[layer] for layer in self.cache.layers)
        return [tuple(each[: self.length].transpose(0, 1).unsqueeze(0) for each in pair) for pair in parts]  # type: ignore[misc]


class Variants:
    """One model's way through some sequences.

    The first slots of its cache hold the path where the walk stands, position by position; behind them lie those of the
    rows in progress.
    """

    def __init__(
        self,
        module: PreTrainedModel,
        span_of: SpanOf,
        prefix: CachedTokens | None = None,
        *,
        matmul_dtype: torch.dtype | None = None,
    ) -> None:
        """Begin with nothing, or behind a `prefix` of all sequences.

        Args:
            matmul_dtype: what attention on a CPU rounds to; by default nothing.
        """
        self._module, self._span_of, self._matmul_dtype = module, span_of, matmul_dtype
        self._cache = prefix.cache if prefix else KvCache(0)
        self._known = prefix.length if prefix else 0
        self.layers: set[int] = set()
        """Layers that attended."""

    def read(self, ids: Sequence[int]) -> CachedTokens:
        """Compute the prefix of sequences to come, of which no logits are asked for."""
        self._compute_prefix(np.asarray(ids, dtype=np.int64), len(ids))
        return CachedTokens(tuple(ids), self._cache)

    def batches(
        self, sequences: Sequence[Sequence[int]], logit_counts: Sequence[int], *, max_tokens: int, max_logits: int
    ) -> Iterator[Batch]:
        """As `LanguageModel.stream_logits`.

        Batches are about equal, up to a quarter larger than asked: a few rows at the end would cost as much as many do.
        """
        order = sorted(range(len(sequences)), key=lambda index: tuple(sequences[index]))
        ids = [np.asarray(sequences[index], dtype=np.int64) for index in order]
        counts = [logit_counts[index] for index in order]
        unread = np.array([len(each) - tail for each, tail in zip(ids, counts, strict=True)])
        keeps = np.minimum([self._known, *(common_prefix(left, right) for left, right in pairwise(ids))], unread)
        longest = max(map(len, ids))
        computed = self._compute_prefix(ids[0], self._worth_computing(keeps, unread), longest)
        keeps[0] = self._known
        added = np.array([len(each) for each in ids]) - keeps
        first_rows, first_logits = (np.concatenate([[0], np.cumsum(each)]) for each in (added, counts))
        begin = 0
        while begin < len(order):
            left = int(first_rows[-1] - first_rows[begin])
            rows = -(-left // -(-left // (max_tokens + max_tokens // 4)))
            stops = (
                np.searchsorted(first_rows, first_rows[begin] + rows, side="right"),
                np.searchsorted(first_logits, first_logits[begin] + max_logits, side="right"),
            )
            stop = max(min(map(int, stops)) - 1, begin + 1)
            builder = BatchBuilder(longest)
            builder.enter(np.arange(int(keeps[begin])))
            for place in range(begin, stop):
                keep = int(keeps[place])
                builder.append(keep, ids[place][keep:], counts[place])
            logits, batch = self._run(builder, longest)
            indices = order[begin:stop]
            computed += batch.rows
            every = sum(len(sequences[index]) for index in indices)
            yield Batch(indices, logits.split(counts[begin:stop]), computed, every - computed)
            begin, computed = stop, 0

    def _worth_computing(self, keeps: IntArray, unread: IntArray) -> int:
        """Positions that all sequences share, where they are worth a pass of their own."""
        if len(keeps) == 1:
            return 0
        shared = min(int(keeps[1:].min()), int(unread[0]))
        return shared if shared >= MIN_SHARED else 0

    def _compute_prefix(self, ids: IntArray, length: int, longest: int = 0) -> int:
        """Compute the first `length` of `ids`, unless they are known; returns how many were computed."""
        before = self._known
        if length <= before:
            return 0
        builder = BatchBuilder(before)
        builder.enter(np.arange(before))
        builder.append(before, ids[before:length], 0)
        self._run(builder, max(longest, length))
        self._known = length
        return length - before

    def _run(self, builder: BatchBuilder, longest: int) -> tuple[Tensor, RaggedBatch]:
        """Logits of a batch, float32; then its last path lies in the cache's first slots, position by position."""
        batch = builder.finish()
        self._cache.grow(longest + batch.rows, longest)
        forward = RaggedForward(batch, self._cache, self._span_of, matmul_dtype=self._matmul_dtype)
        logits = forward.run(self._module).float()
        self.layers |= forward.layers
        path = batch.paths[-1]
        known = int(np.searchsorted(path >= batch.slots[0], True))  # tokens that lie there already come first
        forward.copy_to(self._cache, path[known:], np.arange(known, len(path)))
        return logits, batch
