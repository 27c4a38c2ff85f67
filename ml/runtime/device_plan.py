"""An attention plan where the model is: its indices and masks as tensors, which all layers of a pass share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ml.runtime.attention_plan import AttentionPlan, Gathered, Run
from ml.runtime.kv_cache import Slots


@dataclass(frozen=True)
class DeviceBlocks:
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
class DeviceRun:
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
        self.runs = [self._run(run) for run in plan.runs]
        self.shared = [self._run(run) for run in plan.shared]

    def _blocks(self, gathered: Gathered) -> DeviceBlocks:
        return DeviceBlocks(
            queries=torch.from_numpy(gathered.queries).to(self._device),
            row_indices=torch.from_numpy(gathered.indices).to(self._device),
            rows=torch.from_numpy(gathered.rows).to(self._device),
            slots=torch.from_numpy(np.maximum(gathered.slots - self._first_slot, 0)).to(self._device),
            mask=self._mask(torch.from_numpy(gathered.visible).to(self._device).unsqueeze(1)),
        )

    def _run(self, run: Run) -> DeviceRun:
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
        return DeviceRun(run.queries, slots, mask)

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
