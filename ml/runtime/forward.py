"""A forward pass of a ragged batch: what the model's attention layers see of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ml.runtime import kernels
from ml.runtime.attention_plan import AttentionPlan, Gathered, Planner, Run
from ml.runtime.embedding import inputs
from ml.runtime.implementation import asking, registered
from ml.runtime.kernels import Scores
from ml.runtime.kv_cache import KvCache, Slots, are_finite, as_slots
from ml.runtime.last_layer import NO_MASK, KeysKnownError, LayerCall, TrimmedForward
from ml.runtime.ragged_batch import FULL, IntArray, RaggedBatch, Span
from ml.runtime.spans import SpanOf


@dataclass(frozen=True)
class _Blocks:
    """`Gathered` where the model is."""

    queries: Tensor
    row_indices: Tensor
    rows: Tensor
    slots: Tensor
    mask: Tensor  # [N, 1, groups · B, K]
    _by_heads: dict[tuple[str, int], Tensor] = field(default_factory=dict)  # layers may differ in their heads

    def queries_by_head(self, heads: int) -> Tensor:
        """`queries` as indices into a table of [queries · heads], [N, heads, B]."""
        return self._once("queries", heads, lambda head: self.queries[:, None] * heads + head)

    def slots_by_head(self, heads: int) -> Tensor:
        """`slots` as indices into a table of [slots · heads], [N, heads, K]."""
        return self._once("slots", heads, lambda head: self.slots[:, None] * heads + head)

    def row_indices_by_head(self, heads: int) -> Tensor:
        """`row_indices` as indices into a table of [N · heads · B], [queries of all blocks, heads]."""
        max_rows = self.queries.shape[1]
        block, place = (self.row_indices // max_rows)[:, None], (self.row_indices % max_rows)[:, None]
        return self._once("row_indices", heads, lambda head: (block * heads + head.T) * max_rows + place)

    def _once(self, what: str, heads: int, make: Callable[[Tensor], Tensor]) -> Tensor:
        """Indices that `make` makes of the heads' numbers, [heads, 1], for all layers with so many."""
        key = what, heads
        if key not in self._by_heads:
            self._by_heads[key] = make(torch.arange(heads, device=self.slots.device)[:, None])
        return self._by_heads[key]


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
        self.blocks = [self._blocks(batch) for batch in plan.gathered]
        self._causal = self._causal_mask([run for run in plan.runs if run.causal])
        self.runs = [self._keys(run) for run in plan.runs]
        self.shared = [self._keys(run) for run in plan.shared]

    def _blocks(self, gathered: Gathered) -> _Blocks:
        return _Blocks(
            queries=torch.from_numpy(gathered.queries).to(self._device),
            row_indices=torch.from_numpy(gathered.indices).to(self._device),
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

    Where no row sees a cached token, nothing need be written to the cache: the rows' keys and values stay as the model
    made them until `copy_to` takes those that are worth keeping.
    """

    def __init__(
        self,
        batch: RaggedBatch,
        cache: KvCache,
        span_of: SpanOf,
        *,
        in_place: bool = False,
        matmul_dtype: torch.dtype | None = None,
    ) -> None:
        """Prepare to run `batch`, whose rows' slots are slots of `cache`.

        Args:
            in_place: whether those slots keep the rows' keys and values. Else they are one behind the other.
            matmul_dtype: what attention on a CPU rounds to; by default nothing.
        """
        super().__init__()
        self.layers: set[int] = set()
        """Layers that attended."""
        self.ids, self.positions, self.logit_rows = batch.ids, batch.positions, batch.logit_rows
        self._batch, self._cache, self._span_of = batch, cache, span_of
        self._cached = in_place or batch.sees_cached  # whether the rows are read from the cache
        self._matmul_dtype = matmul_dtype
        self._plans: dict[tuple[Span, bool, int], DevicePlan] = {}  # layers may differ in how many heads share keys
        self._planners: dict[Span, Planner] = {}
        self._first_slot = int(batch.slots[0]) if batch.rows else 0
        self._fresh: dict[int, tuple[Tensor, Tensor]] = {}

    def run(self, module: PreTrainedModel) -> Tensor:
        """Logits of the batch's `logit_rows`, [rows, vocabulary]."""
        return run_rows(self, module, self.ids, self.positions, self.logit_rows)

    def is_finite(self) -> bool:
        """Whether the rows' keys and values are finite numbers; one row's that are not may have spread to others."""
        if self._cached:
            return self._cache.is_finite(self._batch.slots)
        return not self._fresh or are_finite(*self._fresh[max(self._fresh)])

    def copy_to(self, cache: KvCache, source: IntArray, target: IntArray) -> None:
        """Copy the keys and values of tokens that rows saw, in `source` slots, into `target` slots of a cache."""
        for layer in sorted(self.layers):
            if self._cached:
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
            if self._cached:
                self._cache.write(call.layer, self._row_slots, keys, values)
            else:
                self._fresh[call.layer] = keys, values
        if self.collecting:
            raise KeysKnownError
        keys, values = (self._cache if self._cached else self._fresh)[call.layer]
        span = self._span_of(call.layer, call.arguments)
        plan = self._plan(span, groups=query.shape[1] // key.shape[1], dtype=self._matmul_dtype or query.dtype)
        scores = Scores.of(call.scale, call.arguments)
        return RowAttention(query[0], keys, values, scores)(plan).unsqueeze(0)

    @cached_property
    def _row_slots(self) -> Slots:
        return as_slots(self._batch.slots, self.device)

    def _plan(self, span: Span, groups: int, dtype: torch.dtype) -> DevicePlan:
        if span.is_full(self._batch.longest):
            span = FULL
        key = (span, self.picked, groups)
        if key not in self._plans:
            device = self.device
            if span not in self._planners:
                self._planners[span] = Planner(self._batch, span, gather=device.type != "cpu")
            plan = self._planners[span].plan(self.rows_kept if self.picked else None)
            first = 0 if self._cached else self._first_slot
            self._plans[key] = DevicePlan(plan, first, groups, dtype, device)
        return self._plans[key]


def run_rows(
    forward: TrimmedForward, module: PreTrainedModel, ids: IntArray, positions: IntArray, logit_rows: IntArray
) -> Tensor:
    """Run the rows of a forward pass. Returns the logits of its `logit_rows`, [rows, vocabulary]."""
    device = module.device
    laid_ids, laid_positions = forward.lay_out(ids, positions, logit_rows, device)
    with registered(module), asking(forward), suppress(KeysKnownError):
        logits: Tensor = module(
            **inputs(module, laid_ids),
            position_ids=laid_positions,
            attention_mask=NO_MASK.to(device),
            use_cache=False,
            logits_to_keep=forward.kept,
        ).logits[0]
        return forward.asked(logits, type(module))
    return torch.empty(0, module.config.get_text_config().vocab_size, dtype=module.dtype, device=device)


class RowAttention:
    """What a layer's attention gives for some rows."""

    def __init__(self, queries: Tensor, keys: Tensor, values: Tensor, scores: Scores) -> None:
        """Prepare.

        Args:
            queries: [heads, rows, size].
            keys, values: of the cache, each [slots, key heads, size].
        """
        self._queries, self._keys, self._values, self._scores = queries, keys, values, scores
        self._heads, self._dtype = queries.shape[0], queries.dtype
        self._rounded_queries = queries.to(keys.dtype)
        # Plain matmuls, which know no cap of scores, take the place of SDPA on a CPU.
        self._by_matmuls = keys.device.type == "cpu" and scores.cap is None

    def __call__(self, plan: DevicePlan) -> Tensor:
        """The rows' attention, [rows, heads, size of values]."""
        sinks = self._scores.sinks
        merges = bool(plan.shared) or sinks is not None
        if len(plan.blocks) == 1 and not plan.runs:
            out, lse = self._blocks(plan.blocks[0], with_lse=merges)
        elif not plan.blocks and len(plan.runs) == 1:
            out, lse = self._run(plan.runs[0], with_lse=merges)
        else:
            heads, rows, _ = self._queries.shape
            # In memory as the model takes it back, row by row.
            out = self._queries.new_empty(rows, heads, self._values.shape[2]).transpose(0, 1)
            precise = torch.promote_types(self._dtype, torch.float32)
            lse = self._queries.new_empty(heads, rows, 1, dtype=precise) if merges else None
            for run in plan.runs:
                self._put(out, lse, run.queries, *self._run(run, with_lse=merges))
            for blocks in plan.blocks:
                self._put(out, lse, blocks.rows, *self._blocks(blocks, with_lse=merges))
        if lse is None:
            return out.transpose(0, 1)
        for run in plan.shared:
            more, more_lse = self._run(run, with_lse=True)
            part = run.queries
            out[:, part], lse[:, part] = kernels.merge(out[:, part], lse[:, part], more, cast(Tensor, more_lse))
        out = out.transpose(0, 1)
        return out if sinks is None else kernels.with_sinks(out, lse.transpose(0, 1), sinks)

    @staticmethod
    def _put(out: Tensor, lse: Tensor | None, where: Slots, found: Tensor, found_lse: Tensor | None) -> None:
        out[:, where] = found
        if lse is not None and found_lse is not None:
            lse[:, where] = found_lse

    def _run(self, run: _Keys, *, with_lse: bool) -> tuple[Tensor, Tensor | None]:
        """[heads, queries, size], and [heads, queries, 1]."""
        key_heads = self._keys.shape[1]
        # Heads that share keys stand together: they are more queries of one.
        q = self._rounded_queries[:, run.queries].reshape(key_heads, -1, self._queries.shape[2])
        k, v = self._keys.transpose(0, 1)[:, run.slots], self._values.transpose(0, 1)[:, run.slots]
        if not with_lse and self._by_matmuls and k.dtype is torch.float32 and run.mask is not None:
            found = kernels.attend_by_matmuls(q, k, v, self._scores, run.mask)
            return found.view(self._heads, -1, found.shape[-1]), None
        mask = None if run.mask is None else run.mask[None, None]
        out, lse = kernels.attend(q[None], k[None], v[None], self._scores, mask)
        return out.reshape(self._heads, -1, out.shape[-1]).to(self._dtype), lse.reshape(self._heads, -1, 1)

    def _blocks(self, blocks: _Blocks, *, with_lse: bool) -> tuple[Tensor, Tensor | None]:
        """[heads, rows of the blocks, size], and [heads, rows of the blocks, 1]."""
        if not with_lse and self._by_matmuls and self._keys.dtype is torch.bfloat16:
            return self._rounded_blocks(blocks), None
        q = kernels.fold(rows_of(self._rounded_queries.transpose(0, 1), blocks.queries), self._keys.shape[1])
        k, v = (rows_of(each, blocks.slots).transpose(1, 2) for each in (self._keys, self._values))
        out, lse = kernels.attend(q, k, v, self._scores, blocks.mask)
        out, lse = (kernels.unfold(each, self._heads).flatten(0, 1) for each in (out, lse))
        out = rows_of(out, blocks.row_indices).to(self._dtype).transpose(0, 1)
        return out, rows_of(lse, blocks.row_indices).transpose(0, 1) if with_lse else None

    def _rounded_blocks(self, blocks: _Blocks) -> Tensor:
        """As `_blocks` by matmuls; these want each head's numbers together, so all is gathered head by head."""
        key_heads = self._keys.shape[1]
        q = _by_head(self._rounded_queries.transpose(0, 1), blocks.queries_by_head(self._heads))
        k, v = (_by_head(each, blocks.slots_by_head(key_heads)) for each in (self._keys, self._values))
        q = q.view(len(q), key_heads, -1, q.shape[-1])
        out = kernels.attend_rounded(q, k, v, self._scores, blocks.mask)
        return _by_head(out, blocks.row_indices_by_head(self._heads)).to(self._dtype).transpose(0, 1)


def _by_head(table: Tensor, indices: Tensor) -> Tensor:
    """`table` [..., size] at `indices` into all but its last dimension, of any shape: [*indices, size]."""
    size = table.shape[-1]
    return table.reshape(-1, size).index_select(0, indices.flatten()).view(*indices.shape, size)


def rows_of(table: Tensor, indices: Tensor) -> Tensor:
    """`table` [rows, ...] at `indices` of any shape, row by row: several times faster than by indexing."""
    picked = table.reshape(len(table), -1).index_select(0, indices.flatten())
    return picked.view(*indices.shape, *table.shape[1:])
