"""A forward pass of a ragged batch: what the model's attention layers see of it."""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ml.runtime.attention_plan import Planner
from ml.runtime.device_plan import DevicePlan
from ml.runtime.embedding import inputs
from ml.runtime.implementation import asking, registered
from ml.runtime.kernels import Scores
from ml.runtime.kv_cache import KvCache, Slots, are_finite, as_slots
from ml.runtime.last_layer import NO_MASK, KeysKnownError, LayerCall, TrimmedForward
from ml.runtime.ragged_batch import FULL, IntArray, RaggedBatch, Span
from ml.runtime.row_attention import RowAttention
from ml.runtime.spans import SpanOf


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
