"""Decode rows: one token of each of some sequences.

The slots of all sequences are one table (see `ml.runtime.sequences`), so the rows' attention is one batched matmul over
slots as they stand: nothing is copied from step to step.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ml.runtime import kernels
from ml.runtime.implementation import asking, registered
from ml.runtime.kernels import Scores
from ml.runtime.kv_cache import Slots, as_slots
from ml.runtime.last_layer import NO_MASK, KeysKnownError, LayerCall, TrimmedForward
from ml.runtime.ragged_batch import IntArray, Span
from ml.runtime.sequences import Sequences
from ml.runtime.spans import SpanOf


class DecodingStep(TrimmedForward):
    """Decode rows on their way through a model."""

    def __init__(
        self, sequences: Sequences, span_of: SpanOf, *, table_rows: IntArray, ids: IntArray, positions: IntArray
    ) -> None:
        """Prepare a step.

        Args:
            table_rows: of the sequences that take part, ascending.
            ids, positions: the token that each is given, and where in its sequence.
        """
        super().__init__()
        self.ids, self.positions, self.logit_rows = ids, positions, np.arange(len(ids))
        self._cache, self._capacity, self._span_of = sequences.cache, sequences.capacity, span_of
        self.table_rows = table_rows
        self._longest = int(positions.max()) + 1
        self._masks: dict[Span, tuple[slice, Tensor | None]] = {}

    def run(self, module: PreTrainedModel) -> Tensor:
        """Logits of the rows, [rows, vocabulary]. No row is added: a step is too short for that."""
        count, device = len(self.ids), module.device
        self.device, self.count, self.rows, self.rows_kept = device, count, count, self.logit_rows
        self.position_ids = torch.from_numpy(self.positions[None]).to(device)
        with registered(module), asking(self):
            logits: Tensor = module(
                input_ids=torch.from_numpy(self.ids[None]).to(device),
                position_ids=self.position_ids,
                attention_mask=NO_MASK.to(device),
                use_cache=False,
                logits_to_keep=count,
            ).logits[0]
        return logits

    def attend_rows(self, call: LayerCall, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `TrimmedForward.attend`."""
        heads, key_heads = query.shape[1], key.shape[1]
        self._cache.write(call.layer, self._row_slots, key[0].transpose(0, 1), value[0].transpose(0, 1))
        if self.collecting:
            raise KeysKnownError
        seen, mask = self._seen(self._span_of(call.layer, call.arguments), query.dtype)
        keys, values = (
            each.view(-1, self._capacity, *each.shape[1:])[self._taken, seen].transpose(1, 2)
            for each in self._cache[call.layer]
        )
        queries = kernels.fold(query[0].transpose(0, 1).unsqueeze(1), key_heads)  # [n, key heads, groups, size]
        scores = Scores.of(call.scale, call.arguments)
        out, lse = kernels.attend(queries, keys, values, scores, mask)
        out = kernels.unfold(out, heads)[:, 0]
        if scores.sinks is not None:
            out = kernels.with_sinks(out, kernels.unfold(lse, heads)[:, 0], scores.sinks)
        return out.unsqueeze(0)

    @cached_property
    def _row_slots(self) -> Slots:
        """That the rows' keys and values are written to."""
        return as_slots(self.table_rows * self._capacity + self.positions, self.device)

    @cached_property
    def _taken(self) -> Slots:
        """The sequences in the table. Next to each other they are read where they lie, else copied."""
        return as_slots(self.table_rows, self.device)

    def _seen(self, span: Span, dtype: torch.dtype) -> tuple[slice, Tensor | None]:
        """Which positions any sequence sees, and what is added to scores, [n, 1, 1, positions]."""
        if span not in self._masks:
            firsts = span.first(self.positions)
            start = int(firsts.min())
            positions = np.arange(start, self._longest)
            visible = (positions <= self.positions[:, None]) & (positions >= firsts[:, None])
            mask = None
            if not visible.all():
                hidden = torch.from_numpy(~visible).to(self.device)
                mask = torch.zeros(hidden.shape, dtype=dtype, device=self.device).masked_fill_(hidden, float("-inf"))
                mask = mask[:, None, None, :]
            self._masks[span] = slice(start, self._longest), mask
        return self._masks[span]
