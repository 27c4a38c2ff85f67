"""A forward pass of a ragged batch: what the model's attention layers see of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ml.runtime import kernels
from ml.runtime.attention_plan import AttentionPlan, Gathered, Run, plan_attention
from ml.runtime.embedding import inputs
from ml.runtime.implementation import asking, registered
from ml.runtime.kernels import Scores
from ml.runtime.kv_cache import KvCache, Slots, as_slots
from ml.runtime.last_layer import NO_MASK, KeysKnownError, LayerCall, TrimmedForward
from ml.runtime.ragged_batch import FULL, IntArray, RaggedBatch, Span
from ml.runtime.spans import SpanOf


@dataclass(frozen=True)
class _Blocks:
    """`Gathered` where the model is."""

    queries: Tensor
    places: Tensor
    rows: Tensor
    slots: Tensor
    mask: Tensor  # [N, 1, groups · B, K]
    _by_heads: dict[int, Tensor] = field(default_factory=dict)  # layers may differ in how many heads keys have

    def by_head(self, heads: int) -> Tensor:
        """`slots` as indices into a table of [slots · heads], [N, heads, K]."""
        if heads not in self._by_heads:
            number = torch.arange(heads, device=self.slots.device)[:, None]
            self._by_heads[heads] = self.slots[:, None] * heads + number
        return self._by_heads[heads]


@dataclass(frozen=True)
class _Keys:
    """`Run` where the model is."""

    queries: slice
    slots: slice | Tensor
    mask: Tensor | None  # [groups · queries, keys]


class DevicePlan:
    """An `AttentionPlan` as tensors, for heads of which `groups` share keys; slots count from `first_slot`."""

    def __init__(
        self, plan: AttentionPlan, first_slot: int, groups: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._first_slot = first_slot
        self._groups, self._dtype, self._device = groups, dtype, device
        self.blocks = None if plan.gathered is None else self._blocks(plan.gathered)
        self._causal = self._causal_mask([run for run in plan.runs if run.causal])
        self.runs = [self._keys(run) for run in plan.runs]
        self.shared = [self._keys(run) for run in plan.shared]

    def _blocks(self, gathered: Gathered) -> _Blocks:
        return _Blocks(
            queries=torch.from_numpy(gathered.queries).to(self._device),
            places=torch.from_numpy(gathered.places).to(self._device),
            rows=torch.from_numpy(gathered.rows).to(self._device),
            slots=torch.from_numpy(np.maximum(gathered.slots - self._first_slot, 0)).to(self._device),
            mask=self._mask(torch.from_numpy(gathered.visible).to(self._device).unsqueeze(1)),
        )

    def _keys(self, run: Run) -> _Keys:
        first = self._first_slot
        if isinstance(run.slots, range):
            slots: Slots = slice(run.slots.start - first, run.slots.stop - first)
        else:
            slots = torch.from_numpy(run.slots - first).to(self._device)
        mask = None
        if run.causal:
            queries, keys = run.queries.stop - run.queries.start, len(run.slots)
            rows, columns = self._causal.shape
            # The lower right corner: its last query sees all keys.
            mask = self._causal[rows - queries :, columns - keys :]
            mask = mask.repeat(self._groups, 1) if self._groups > 1 else mask
        elif run.visible is not None:
            mask = self._mask(torch.from_numpy(run.visible).to(self._device))
        return _Keys(run.queries, slots, mask)

    def _mask(self, visible: Tensor) -> Tensor:
        """What is added to scores, with the queries of each of the heads that share keys: [..., groups · Q, K]."""
        hidden = torch.zeros_like(visible, dtype=self._dtype).masked_fill_(~visible, float("-inf"))
        return hidden.repeat(*(1,) * (hidden.dim() - 2), self._groups, 1) if self._groups > 1 else hidden

    def _causal_mask(self, runs: Sequence[Run]) -> Tensor:
        """For the largest of `runs`: of n queries, query i does not see the last n - 1 - i keys."""
        queries = max((run.queries.stop - run.queries.start for run in runs), default=0)
        keys = max((len(run.slots) for run in runs), default=0)
        unseen = torch.full((queries, keys), float("-inf"), dtype=self._dtype, device=self._device)
        return unseen.triu_(keys - queries + 1)


class RaggedForward(TrimmedForward):
    """One batch's way through a model.

    Where no row sees a cached token, nothing is written to the cache: the rows' keys and values stay as the model made
    them until `copy_to` takes those that are worth keeping.
    """

    def __init__(
        self, batch: RaggedBatch, cache: KvCache, span_of: SpanOf, *, matmul_dtype: torch.dtype | None = None
    ) -> None:
        """Prepare to run `batch`, whose rows' slots are slots of `cache`, one behind the other.

        Args:
            matmul_dtype: what attention on a CPU rounds to; by default nothing.
        """
        super().__init__()
        self.layers: set[int] = set()
        """Layers that attended."""
        self._batch, self._cache, self._span_of = batch, cache, span_of
        self._matmul_dtype = matmul_dtype
        self._plans: dict[tuple[Span, bool, int], DevicePlan] = {}  # layers may differ in how many heads share keys
        self._first_slot = int(batch.slots[0]) if batch.rows else 0
        self._fresh: dict[int, tuple[Tensor, Tensor]] = {}

    def run(self, module: PreTrainedModel) -> Tensor:
        """Logits of the batch's `logit_rows`, [rows, vocabulary]."""
        batch, device = self._batch, module.device
        ids, positions = self.lay_out(batch.ids, batch.positions, batch.logit_rows, device)
        with registered(module), asking(self), suppress(KeysKnownError):
            logits: Tensor = module(
                **inputs(module, ids),
                position_ids=positions,
                attention_mask=NO_MASK.to(device),
                use_cache=False,
                logits_to_keep=self.kept,
            ).logits[0]
            return self.asked(logits, type(module))
        return torch.empty(0, module.config.get_text_config().vocab_size, dtype=module.dtype, device=device)

    def copy_to(self, cache: KvCache, source: IntArray, target: IntArray) -> None:
        """Copy the keys and values of tokens that rows saw, in `source` slots, into `target` slots of a cache."""
        for layer in sorted(self.layers):
            if self._batch.sees_cached:
                keys, values = self._cache[layer]
                taken = as_slots(source, keys.device)
            else:
                keys, values = self._fresh[layer]
                taken = as_slots(source - self._first_slot, keys.device)
            cache.write(layer, as_slots(target, keys.device), keys[taken], values[taken])

    def attend_rows(self, call: LayerCall, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `TrimmedForward.attend`."""
        self.layers.add(call.layer)
        if not self.picked:
            dtype = self._matmul_dtype or key.dtype
            keys, values = (each[0].transpose(0, 1).to(dtype) for each in (key, value))
            if self._batch.sees_cached:
                rows = slice(self._first_slot, self._first_slot + self.count)
                self._cache.write(call.layer, rows, keys, values)
            else:
                self._fresh[call.layer] = keys, values
        if self.collecting:
            raise KeysKnownError
        keys, values = (self._cache if self._batch.sees_cached else self._fresh)[call.layer]
        span = self._span_of(call.layer, call.arguments)
        plan = self._plan(span, groups=query.shape[1] // key.shape[1], dtype=self._matmul_dtype or query.dtype)
        scores = Scores.of(call.scale, call.arguments)
        return RowAttention(query[0].transpose(0, 1), keys, values, scores)(plan).unsqueeze(0)

    def _plan(self, span: Span, groups: int, dtype: torch.dtype) -> DevicePlan:
        if span.is_full(self._batch.longest):
            span = FULL
        key = (span, self.picked, groups)
        if key not in self._plans:
            device = self.device
            rows = self.rows_kept if self.picked else None
            plan = plan_attention(self._batch, span, rows, gather=device.type != "cpu")
            first = 0 if self._batch.sees_cached else self._first_slot
            self._plans[key] = DevicePlan(plan, first, groups, dtype, device)
        return self._plans[key]


class RowAttention:
    """What a layer's attention gives for some rows."""

    def __init__(self, queries: Tensor, keys: Tensor, values: Tensor, scores: Scores) -> None:
        """Prepare.

        Args:
            queries: [rows, heads, size].
            keys, values: of the cache, each [slots, key heads, size].
        """
        self._queries, self._keys, self._values, self._scores = queries, keys, values, scores

    def __call__(self, plan: DevicePlan) -> Tensor:
        """The rows' attention, [rows, heads, size of values]."""
        queries, sinks = self._queries, self._scores.sinks
        merges = bool(plan.shared) or sinks is not None
        if plan.blocks is not None and not plan.runs:
            out, lse = self._blocks(plan.blocks, with_lse=merges)
        else:
            out = queries.new_empty(*queries.shape[:2], self._values.shape[2])
            lse = queries.new_empty(*queries.shape[:2], 1, dtype=torch.float32) if merges else None
            for run in plan.runs:
                self._put(out, lse, run.queries, *self._run(run, with_lse=merges))
            if plan.blocks is not None:
                self._put(out, lse, plan.blocks.rows, *self._blocks(plan.blocks, with_lse=merges))
        if lse is None:
            return out
        for run in plan.shared:
            more, more_lse = self._run(run, with_lse=True)
            out[run.queries], lse[run.queries] = kernels.merge(
                out[run.queries], lse[run.queries], more, cast(Tensor, more_lse)
            )
        return out if sinks is None else kernels.with_sinks(out, lse, sinks)

    @staticmethod
    def _put(out: Tensor, lse: Tensor | None, where: Slots, found: Tensor, found_lse: Tensor | None) -> None:
        out[where] = found
        if lse is not None and found_lse is not None:
            lse[where] = found_lse

    def _by_matmuls(self, dtype: torch.dtype) -> bool:
        """Whether plain matmuls in `dtype`, which know no cap of scores, take the place of SDPA: on a CPU."""
        return self._keys.device.type == "cpu" and self._keys.dtype == dtype and self._scores.cap is None

    def _folded(self, run: _Keys) -> tuple[Tensor, Tensor, Tensor]:
        """A run's queries, keys and values, each [key heads, ..., size]."""
        q = kernels.fold(self._queries[run.queries].to(self._keys.dtype), self._keys.shape[1])
        return q, self._keys[run.slots].transpose(0, 1), self._values[run.slots].transpose(0, 1)

    def _run(self, run: _Keys, *, with_lse: bool) -> tuple[Tensor, Tensor | None]:
        """[queries, heads, size], and [queries, heads, 1]."""
        q, k, v = self._folded(run)
        heads = self._queries.shape[1]
        if not with_lse and self._by_matmuls(torch.float32) and run.mask is not None:
            return kernels.unfold(kernels.attend_by_matmuls(q, k, v, self._scores, run.mask), heads), None
        mask = None if run.mask is None else run.mask[None, None]
        out, lse = kernels.attend(q[None], k[None], v[None], self._scores, mask)
        return kernels.unfold(out[0], heads).to(self._queries.dtype), kernels.unfold(lse[0], heads)

    def _blocks(self, blocks: _Blocks, *, with_lse: bool) -> tuple[Tensor, Tensor | None]:
        """[rows of the blocks, heads, size], and [rows of the blocks, heads, 1]."""
        heads, dtype = self._queries.shape[1], self._queries.dtype
        q = kernels.fold(rows_of(self._queries.to(self._keys.dtype), blocks.queries), self._keys.shape[1])
        if not with_lse and self._by_matmuls(torch.bfloat16):
            k, v = (self._by_head(each, blocks) for each in (self._keys, self._values))
            out, lse = kernels.attend_rounded(q, k, v, self._scores, blocks.mask), None
        else:
            k, v = (rows_of(each, blocks.slots).transpose(1, 2) for each in (self._keys, self._values))
            out, lse = kernels.attend(q, k, v, self._scores, blocks.mask)
        out = rows_of(kernels.unfold(out, heads).flatten(0, 1), blocks.places).to(dtype)
        if not with_lse or lse is None:
            return out, None
        return out, rows_of(kernels.unfold(lse, heads).flatten(0, 1), blocks.places)

    @staticmethod
    def _by_head(table: Tensor, blocks: _Blocks) -> Tensor:
        """`table` [slots, heads, size] at the blocks' slots, as [N, heads, K, size], copied once."""
        indices = blocks.by_head(table.shape[1])
        size = table.shape[2]
        return table.reshape(-1, size).index_select(0, indices.flatten()).view(*indices.shape, size)


def rows_of(table: Tensor, indices: Tensor) -> Tensor:
    """`table` [rows, ...] at `indices` of any shape, row by row: several times faster than by indexing."""
    picked = table.reshape(len(table), -1).index_select(0, indices.flatten())
    return picked.view(*indices.shape, *table.shape[1:])
