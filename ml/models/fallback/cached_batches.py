"""Sequences in batches that share a cached prefix: for models that take a cache and cannot pack rows.

Some models have an attention of their own, or one that asks for more than a softmax over the visible scores, but nearly
all take keys and values that were computed before. So sequences that begin alike go through the model together, behind
keys and values of what they share, which are read once and carried on from batch to batch: of a prompt with one word
after the other left out about half of the positions are computed, of a long fixed context all but the first time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from ml.models.base import Batch
from ml.models.fallback.padded_batches import kept
from ml.runtime.embedding import inputs

_START = 64
"""Positions that take as long as starting the model once more does."""
_COPIES = 4
"""Tokens of a batch with what it shares, which is copied for each sequence, for one that is computed."""

States = list[tuple[Tensor, Tensor]]
"""Of each layer, keys and values of the first positions, each [1, key heads, positions, size]."""


@dataclass(frozen=True)
class CachedPrefix:
    """A prefix that was read once; see `ml.models.base.Prefix`."""

    ids: Sequence[int]
    states: States

    @property
    def length(self) -> int:
        """Its tokens."""
        return len(self.ids)

    @property
    def by_heads(self) -> States:
        """See `PackedPrefix.by_heads`."""
        return self.states


@dataclass(frozen=True)
class Group:
    """Sequences, by their index, of which `shared` first tokens are the same and not read out."""

    members: list[int]
    shared: int


class CachedRun:
    """One way through some sequences, and the keys and values of the prefix that was read last."""

    def __init__(self, module: PreTrainedModel, prefix: CachedPrefix | None = None) -> None:
        """Begin with nothing, or with a `prefix`."""
        self._module = module
        self._ids: list[int] = list(prefix.ids) if prefix else []
        self._states: States = prefix.states if prefix else []

    def read(self, ids: Sequence[int]) -> CachedPrefix:
        """Take the keys and values of the prefix `ids`."""
        self._know(ids)
        return CachedPrefix(self._ids, self._states)

    def batches(
        self, sequences: Sequence[Sequence[int]], logit_counts: Sequence[int], *, max_tokens: int, max_logits: int
    ) -> Iterator[Batch]:
        """As `LanguageModel.stream_logits`."""
        for group in groups(sequences, logit_counts, max_tokens=max_tokens, max_logits=max_logits):
            some = [sequences[i] for i in group.members]
            known = min(_common(self._ids, some[0]), group.shared)
            # To read more of what they share takes a start, and spares all but one of them so many positions.
            worth = (group.shared - known) * (len(some) - 1) > _START
            shared = group.shared if worth else known
            self._know(some[0][:shared])
            logits = self._logits([list(ids[shared:]) for ids in some], [logit_counts[i] for i in group.members])
            computed = shared - known + sum(map(len, some)) - shared * len(some)
            yield Batch(group.members, logits, computed, sum(map(len, some)) - computed)

    def _know(self, ids: Sequence[int]) -> None:
        """Read `ids` from where they leave what is known."""
        known = _common(self._ids, ids)
        self._states = [(keys[:, :, :known], values[:, :, :known]) for keys, values in self._states]
        if known < len(ids):
            cache = self._cache(1)
            self._run(cache, torch.tensor([list(ids[known:])]), torch.tensor([len(ids) - known - 1]))
            self._states = [(layer.keys, layer.values) for layer in cache.layers]
        self._ids = list(ids)

    def _logits(self, sequences: Sequence[Sequence[int]], logit_counts: Sequence[int]) -> list[Tensor]:
        """Logits of the last positions of each sequence behind what is known. Padding stands on the right."""
        longest = max(map(len, sequences))
        ids = torch.zeros(len(sequences), longest, dtype=torch.long)
        wanted = torch.zeros_like(ids, dtype=torch.bool)
        for row, (sequence, tail) in enumerate(zip(sequences, logit_counts, strict=True)):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            wanted[row, len(sequence) - tail : len(sequence)] = True
        logits = kept(self._run(self._cache(len(sequences)), ids, wanted), wanted)
        return list(logits.float().split(list(logit_counts)))

    def _cache(self, sequences: int) -> Any:
        """What is known, for each of some sequences. Without the model's configuration, no layer drops positions."""
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(self._states):
            if keys.shape[2]:
                cache.update(keys.expand(sequences, -1, -1, -1), values.expand(sequences, -1, -1, -1), layer)
        return cache

    def _run(self, cache: Any, ids: Tensor, keep: Tensor) -> Tensor:
        # `keep` stays on the CPU: of a model on several devices the last layer's need not be the first's.
        out = self._module(**inputs(self._module, ids), past_key_values=cache, use_cache=True, logits_to_keep=keep)
        logits: Tensor = out.logits
        return logits


def groups(
    sequences: Sequence[Sequence[int]], logit_counts: Sequence[int], *, max_tokens: int, max_logits: int
) -> Iterator[Group]:
    """Put sequences that begin alike together, in the order of their tokens.

    A group is bounded by the positions that it computes, padding included, by those that it holds and by those that it
    reads out; one sequence is always allowed. It ends where another sequence would make it compute more than a start of
    its own.
    """
    order = sorted(range(len(sequences)), key=lambda i: tuple(sequences[i]))
    shared_before = [0, *(_common(sequences[i], sequences[j]) for i, j in pairwise(order))]
    members: list[int] = []
    shared = longest = logit_positions = 0
    for i, before in zip(order, shared_before, strict=False):  # nothing is shared where there is nothing
        length, max_shared = len(sequences[i]), len(sequences[i]) - logit_counts[i]
        count, common, longer = len(members) + 1, min(shared, before, max_shared), max(longest, length)
        rows = count * (longer - common)
        apart = len(members) * (longest - shared) + length - min(before, max_shared) + _START
        fits = (
            rows <= max_tokens
            and count * longer <= _COPIES * max_tokens
            and logit_positions + logit_counts[i] <= max_logits
        )
        if members and not (fits and rows <= apart):
            yield Group(members, shared)
            members, logit_positions = [], 0
        if members:
            shared, longest = common, longer
        else:
            shared, longest = max_shared, length
        members.append(i)
        logit_positions += logit_counts[i]
    if members:
        yield Group(members, shared)


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many first tokens are the same."""
    for place, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return place
    return min(len(left), len(right))
