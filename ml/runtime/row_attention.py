"""What a layer's attention gives for some rows: by the blocks and runs of a plan, merged where rows see both."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from ml.runtime import kernels
from ml.runtime.device_plan import DeviceBlocks, DevicePlan, DeviceRun
from ml.runtime.kernels import Scores
from ml.runtime.kv_cache import Slots


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

    def _run(self, run: DeviceRun, *, with_lse: bool) -> tuple[Tensor, Tensor | None]:
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

    def _blocks(self, blocks: DeviceBlocks, *, with_lse: bool) -> tuple[Tensor, Tensor | None]:
        """[heads, rows of the blocks, size], and [heads, rows of the blocks, 1]."""
        if not with_lse and self._by_matmuls and self._keys.dtype is torch.bfloat16:
            return self._rounded_blocks(blocks), None
        q = kernels.fold(_rows_of(self._rounded_queries.transpose(0, 1), blocks.queries), self._keys.shape[1])
        k, v = (_rows_of(each, blocks.slots).transpose(1, 2) for each in (self._keys, self._values))
        out, lse = kernels.attend(q, k, v, self._scores, blocks.mask)
        out, lse = (kernels.unfold(each, self._heads).flatten(0, 1) for each in (out, lse))
        out = _rows_of(out, blocks.row_indices).to(self._dtype).transpose(0, 1)
        return out, _rows_of(lse, blocks.row_indices).transpose(0, 1) if with_lse else None

    def _rounded_blocks(self, blocks: DeviceBlocks) -> Tensor:
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


def _rows_of(table: Tensor, indices: Tensor) -> Tensor:
    """`table` [rows, ...] at `indices` of any shape, row by row: several times faster than by indexing."""
    picked = table.reshape(len(table), -1).index_select(0, indices.flatten())
    return picked.view(*indices.shape, *table.shape[1:])
