"""Steps of decode rows alone by recorded passes; see `ml.runtime.cuda_graphs`.

A pass is recorded for a number of rows and a number of positions, once it was asked for some times. It reads from the
table of sequences where that lies, so all are forgotten when the table moves.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ml.runtime.cuda_graphs import Recorder, agree, rounded_up
from ml.runtime.decoding import DecodingStep
from ml.runtime.device import pinned
from ml.runtime.implementation import asking, registered
from ml.runtime.kv_cache import KvCache
from ml.runtime.last_layer import NO_MASK
from ml.runtime.ragged_batch import IntArray, Span
from ml.runtime.sequences import Sequences
from ml.runtime.spans import SpanOf

_log = logging.getLogger(__name__)

ROWS = (1, 2, 4, 8, 16, 32, 64)
"""Of a pass; fewer are filled up with copies of the first, which writes what it writes again."""

_SHORTEST = 64
"""Positions that a pass sees at least; then twice as many, and so on."""

_ASKED_BEFORE = 3
_MAX_PASSES = 24


class FixedStep(DecodingStep):
    """Decode rows whose numbers lie in memory of their own, so that the same pass serves any step.

    Masks are made in the pass, of the rows' positions.
    """

    def __init__(self, module: PreTrainedModel, sequences: Sequences, span_of: SpanOf, rows: int, longest: int) -> None:
        """Prepare for `rows` rows of sequences of up to `longest` tokens."""
        none = np.zeros(rows, dtype=np.int64)
        super().__init__(sequences, span_of, table_rows=none, ids=none, positions=none)
        self._module, self._longest = module, longest
        device = self.device = module.device
        self.count = self.rows = rows
        self.rows_kept = self.logit_rows
        # Token ids, positions, and rows of the table.
        self._numbers = torch.zeros(3, rows, dtype=torch.long, device=device)
        self.position_ids = self._numbers[1:2]
        self._firsts: dict[Span, Tensor] = {}  # the first position that each row sees
        self._columns = torch.arange(longest, device=device)
        self._no_mask = NO_MASK.to(device)

    def set(self, table_rows: IntArray, ids: IntArray, positions: IntArray) -> None:
        """Let the first rows of the next pass be these."""
        numbers = np.stack([ids, positions, table_rows])
        added = np.repeat(numbers[:, :1], self.rows - len(ids), axis=1)
        filled = np.concatenate([numbers, added], axis=1)
        self.positions = filled[1]
        self._numbers.copy_(pinned(torch.from_numpy(filled)), non_blocking=True)
        for span, firsts in self._firsts.items():
            self._put(firsts, span)

    def pass_through(self) -> Tensor:
        """What follows each row, float32 [rows, vocabulary]."""
        self._masks.clear()
        self._taken = self._numbers[2]
        self._row_slots = self._taken * self._capacity + self._numbers[1]
        with registered(self._module), asking(self):
            logits: Tensor = self._module(
                input_ids=self._numbers[:1],
                position_ids=self.position_ids,
                attention_mask=self._no_mask,
                use_cache=False,
                logits_to_keep=self.rows,
            ).logits[0]
        return logits.float()

    def _seen(self, span: Span, dtype: torch.dtype) -> tuple[slice, Tensor | None]:
        if span not in self._firsts:
            self._firsts[span] = torch.zeros_like(self._numbers[1])
            self._put(self._firsts[span], span)
        if span not in self._masks:
            first, last = self._firsts[span][:, None], self._numbers[1][:, None]
            hidden = (self._columns < first) | (self._columns > last)
            mask = torch.zeros(hidden.shape, dtype=dtype, device=self.device).masked_fill_(hidden, float("-inf"))
            self._masks[span] = slice(0, self._longest), mask[:, None, None, :]
        return self._masks[span]

    def _put(self, firsts: Tensor, span: Span) -> None:
        if span.size is not None:
            firsts.copy_(pinned(torch.from_numpy(span.first(self.positions))), non_blocking=True)


@dataclass(frozen=True)
class _Recorded:
    """A pass, by what it reads from and writes to."""

    step: FixedStep
    replay: Callable[[], None]
    logits: Tensor  # [rows, vocabulary]


class RecordedDecoding:
    """Recorded steps of a model's decode rows. Not safe for use from several threads at once."""

    def __init__(self, module: PreTrainedModel, span_of: SpanOf) -> None:
        """Record nothing yet."""
        self._module, self._span_of = module, span_of
        self._recorder: Recorder | None = Recorder(module.device)
        self._table: tuple[KvCache, int, int] | None = None
        self._asked: Counter[tuple[int, int]] = Counter()
        self._passes: dict[tuple[int, int], _Recorded] = {}

    def logits(self, sequences: Sequences, table_rows: IntArray, ids: IntArray, positions: IntArray) -> Tensor | None:
        """What follows each row, float32 [rows, vocabulary]; None where no such pass is recorded.

        Args:
            sequences: of which the rows are, with room for them.
            table_rows: of the rows' sequences.
            ids, positions: the token that each is given, and where in its sequence.
        """
        rows = rounded_up(len(ids), ROWS)
        if self._recorder is None or rows is None or not sequences.cache.layers:
            return None
        first = sequences.cache[sequences.cache.layers[0]][0]
        table = sequences.cache, sequences.capacity, first.data_ptr()
        if table != self._table or len(self._passes) > _MAX_PASSES:
            self._passes.clear()
            self._asked.clear()
            self._table = table
        longest = max(_SHORTEST, 1 << int(positions.max()).bit_length())
        key = rows, min(longest, sequences.capacity)
        self._asked[key] += 1
        if self._asked[key] <= _ASKED_BEFORE:
            return None
        if key not in self._passes:
            step = FixedStep(self._module, sequences, self._span_of, *key)
            step.set(table_rows, ids, positions)
            return self._first(key, step, len(ids))
        recorded = self._passes[key]
        recorded.step.set(table_rows, ids, positions)
        recorded.replay()
        return recorded.logits[: len(ids)].clone()  # the next replay writes over it

    def _first(self, key: tuple[int, int], step: FixedStep, count: int) -> Tensor | None:
        """Record a step while taking it; None where it cannot be recorded, or differs when replayed."""
        if self._recorder is None:
            return None
        try:
            computed = step.pass_through().clone()
            replay, logits = self._recorder.record(step.pass_through)
            replay()
            if agree(logits, computed):
                self._passes[key] = _Recorded(step, replay, logits)
                return logits[:count].clone()
            _log.warning("recorded steps differ from computed ones, going on without them")
        except RuntimeError as error:
            _log.warning("steps cannot be recorded, going on without: %s", str(error).partition("\n")[0])
        self._recorder, self._passes = None, {}
        return None
