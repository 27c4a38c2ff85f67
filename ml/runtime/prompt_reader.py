"""Prefill of callers' prompts: a batch of any lengths in one pass, behind what the prefix cache holds of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ml.models.base import Reading
from ml.runtime.forward import RaggedForward
from ml.runtime.kv_cache import KvCache
from ml.runtime.prefix_cache import BLOCK, PrefixCache
from ml.runtime.ragged_batch import IntArray, RaggedBatch, Walk, common_prefix
from ml.runtime.spans import SpanOf

_BATCH_SLOTS = 4096
"""Slots for the rows of a batch, beside those of the prefix cache; a larger batch gets more."""


@dataclass(frozen=True)
class Prefilled:
    """A prompt that was read in order to be continued.

    Attributes:
        logits: what comes next, float32 [vocabulary].
        forward, slots: where the keys and values of its tokens are, until the next batch.
        cached_tokens: how many first tokens came from the prefix cache.
    """

    logits: Tensor
    forward: RaggedForward
    slots: IntArray
    cached_tokens: int


class PromptReader:
    """See `ml.models.base.Reader`."""

    pads = False

    def __init__(
        self,
        module: PreTrainedModel,
        span_of: SpanOf,
        max_bytes: int,
        alone: Callable[[Sequence[int]], Tensor | None] | None = None,
    ) -> None:
        """Read with `module`, with a prefix cache of up to `max_bytes`.

        Args:
            alone: computes one short prompt faster than looking it up would be.
        """
        self._module, self._span_of, self._alone = module, span_of, alone
        self._max_bytes = max_bytes
        self._cache: KvCache | None = None
        self._prefixes = PrefixCache(0)
        self._first_slot = 0  # of a batch's rows: behind the prefix cache
        # What the last batch computed, until it is inserted: its paths, their tokens, and how many of them were cached.
        self._fresh: tuple[RaggedForward, list[tuple[IntArray, tuple[int, ...], int]]] | None = None

    @property
    def bytes(self) -> int:
        """Memory of cached prefixes; see `Reader.bytes`."""
        return self._prefixes.tokens * self._cache.token_bytes if self._cache else 0

    @torch.inference_mode()
    def read(self, sequences: Sequence[Sequence[int]], tails: Sequence[int]) -> Reading:
        """Logits; see `Reader.read`."""
        self.settle()
        if self._alone and list(tails) == [1] and (logits := self._alone(sequences[0])) is not None:
            return Reading([logits], len(sequences[0]), 0, [0])
        logits, _, batch, cached = self._run(sequences, tails)
        return Reading(list(logits.split(list(tails))), batch.rows, 0, [cached[i] for i in range(len(sequences))])

    @torch.inference_mode()
    def prefill(self, ids: Sequence[int]) -> Prefilled:
        """Read a prompt, and say where its keys and values are."""
        self.settle()
        logits, forward, batch, cached = self._run([ids], [1])
        return Prefilled(logits[0], forward, batch.paths[0], cached[0])

    def _run(
        self, sequences: Sequence[Sequence[int]], tails: Sequence[int]
    ) -> tuple[Tensor, RaggedForward, RaggedBatch, dict[int, int]]:
        """Logits of the last positions, float32 [sum of tails, vocabulary], how they came, and each's cached tokens."""
        if self._cache is None:
            self._cache = self._make_cache()
        order = sorted(range(len(sequences)), key=lambda index: tuple(sequences[index]))
        walk = Walk(self._first_slot)
        cached: dict[int, int] = {}
        before, entered = np.empty(0, dtype=np.int64), -1
        for index in order:
            ids, tail = np.asarray(sequences[index], dtype=np.int64), tails[index]
            slots = self._match(sequences[index], len(ids) - tail)
            shared = common_prefix(before, ids)
            shared = shared if shared == len(ids) else shared - shared % BLOCK
            keep = len(slots)
            if shared > keep >= entered >= 0:
                keep = shared
            else:
                walk.enter(slots)
                entered = keep
            walk.append(keep, ids[keep:], tail)
            cached[index] = len(slots)
            before = ids
        batch = walk.finish()
        self._cache.grow(self._first_slot + batch.rows, self._first_slot)
        forward = RaggedForward(batch, self._cache, self._span_of)
        logits = forward.run(self._module).float()
        if self._max_bytes:
            told = [(path, tuple(sequences[i]), cached[i]) for path, i in zip(batch.paths, order, strict=True)]
            self._fresh = forward, told
        return self._in_callers_order(logits, order, tails), forward, batch, cached

    def _match(self, ids: Sequence[int], most: int) -> IntArray:
        runs = self._prefixes.match(ids, most)
        return np.concatenate([np.arange(run.start, run.stop) for run in runs] or [np.empty(0, dtype=np.int64)])

    def _make_cache(self) -> KvCache:
        """Slots for prefixes, as many as fit, and behind them those of a batch."""
        if self._max_bytes:
            walk, probe = Walk(), KvCache(1)
            walk.append(0, np.zeros(1, dtype=np.int64), 0)
            forward = RaggedForward(walk.finish(), probe, self._span_of)
            forward.run(self._module)
            forward.copy_to(probe, np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))
            self._first_slot = self._max_bytes // probe.token_bytes
            self._prefixes = PrefixCache(self._first_slot)
        return KvCache(self._first_slot + _BATCH_SLOTS)

    @torch.inference_mode()
    def settle(self) -> None:
        """Copy what the last batch computed into the prefix cache; see `Reader.settle`."""
        if self._fresh is None or self._cache is None:
            return
        forward, told = self._fresh
        self._fresh = None
        sources, targets = [], []
        for path, ids, cached in told:
            if inserted := self._prefixes.insert(ids, cached):
                sources.append(path[inserted.start : inserted.start + len(inserted.slots)])
                targets.append(np.arange(inserted.slots.start, inserted.slots.stop))
        if not sources:
            return
        source, target = np.concatenate(sources), np.concatenate(targets)
        # Where a prompt's slots were taken again by one behind it, the later one has them.
        target, last = np.unique(target[::-1], return_index=True)
        try:
            forward.copy_to(self._cache, source[::-1][last], target)
        except BaseException:
            self._prefixes = PrefixCache(self._first_slot)  # it names slots that were not written
            raise

    @staticmethod
    def _in_callers_order(logits: Tensor, order: Sequence[int], tails: Sequence[int]) -> Tensor:
        if list(order) == sorted(order):
            return logits
        parts = dict(zip(order, logits.split([tails[index] for index in order]), strict=True))
        return torch.cat([parts[index] for index in range(len(order))])
