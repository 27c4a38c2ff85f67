"""Decoding of many sequences together: a step is one row of each.

The keys and values of each sequence lie in a stretch of slots of its own, all of the same length, which grows with the
longest of them. So a step's attention is one batched matmul over slots as they stand: nothing is copied from step to
step. A new sequence's prompt is prefilled as any other is, behind what the prefix cache holds of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ml.runtime import kernels
from ml.runtime.implementation import asking, registered
from ml.runtime.kernels import Scores
from ml.runtime.kv_cache import KvCache
from ml.runtime.last_layer import NO_MASK, LayerCall, TrimmedForward
from ml.runtime.prompt_reader import PromptReader
from ml.runtime.ragged_batch import IntArray, Span
from ml.runtime.spans import SpanOf

_FIRST_CAPACITY = 64


class BatchedDecoder:
    """See `ml.models.base.Decoder`."""

    def __init__(self, module: PreTrainedModel, span_of: SpanOf, reader: PromptReader) -> None:
        """Decode with `module`, whose prompts `reader` prefills."""
        self._module, self._span_of, self._reader = module, span_of, reader
        self.recalled = 0
        self._lengths: list[int] = []
        self._cache = KvCache(0)
        self._sequences = self._capacity = 0  # that there is room for, and tokens of each

    @torch.inference_mode()
    def start(self, ids: Sequence[int]) -> Tensor:
        """Add a sequence; see `Decoder.start`."""
        prompt = self._reader.prefill(ids)
        sequence = len(self._lengths)
        self._reserve(sequence + 1, len(ids))
        prompt.forward.copy_to(self._cache, prompt.slots, self._slots(sequence, len(ids)))
        self._lengths.append(len(ids))
        self.recalled = prompt.cached_tokens
        return prompt.logits

    @torch.inference_mode()
    def step(self, tokens: Sequence[int], indices: Sequence[int] | None = None) -> Tensor:
        """Read one more token of each sequence; see `Decoder.step`."""
        taking = np.arange(len(self._lengths)) if indices is None else np.array(indices, dtype=np.int64)
        lengths = np.array(self._lengths, dtype=np.int64)[taking]
        self._reserve(len(self._lengths), int(lengths.max()) + 1)
        forward = DecodingStep(self._cache, self._span_of, self._capacity, taking, lengths)
        logits = forward.run(self._module, np.array(tokens, dtype=np.int64)).float()
        for sequence in taking.tolist():
            self._lengths[sequence] += 1
        return logits

    @torch.inference_mode()
    def leave(self, index: int) -> None:
        """Drop a sequence; see `Decoder.leave`."""
        last = len(self._lengths) - 1
        if index != last:
            length = self._lengths[index] = self._lengths[last]
            self._cache.copy(self._slots(last, length), self._slots(index, length))
        self._lengths.pop()
        if not self._lengths:
            self._cache = KvCache(0)
            self._sequences = self._capacity = 0

    def _slots(self, sequence: int, length: int) -> IntArray:
        first = sequence * self._capacity
        return np.arange(first, first + length)

    def _reserve(self, sequences: int, length: int) -> None:
        """Make room for `sequences` sequences of up to `length` tokens."""
        count, capacity = self._sequences, self._capacity
        while self._sequences < sequences:
            self._sequences = max(1, 2 * self._sequences)
        while self._capacity < length:
            self._capacity = max(_FIRST_CAPACITY, 2 * self._capacity)
        if (count, capacity) != (self._sequences, self._capacity):
            self._cache.stretch(count, capacity, self._sequences, self._capacity)


class DecodingStep(TrimmedForward):
    """One token of each of some sequences on their way through a model."""

    def __init__(self, cache: KvCache, span_of: SpanOf, capacity: int, sequences: IntArray, lengths: IntArray) -> None:
        """Prepare a step.

        Args:
            cache: the sequences' slots, `capacity` of each, one sequence after the other.
            sequences: those that take part, ascending.
            lengths: tokens of each of them so far.
        """
        super().__init__()
        self._cache, self._span_of, self._capacity = cache, span_of, capacity
        self._sequences, self._positions = sequences, lengths
        self._longest = int(lengths.max()) + 1
        self._masks: dict[Span, tuple[slice, Tensor | None]] = {}

    def run(self, module: PreTrainedModel, tokens: IntArray) -> Tensor:
        """Logits after each of `tokens`, [sequences, vocabulary]."""
        count, device = len(tokens), module.device
        self._slots = torch.from_numpy(self._sequences * self._capacity + self._positions).to(device)
        # The first sequences are read where they lie; any others are copied.
        first = int(self._sequences[-1]) == count - 1
        self._taken: slice | Tensor = slice(count) if first else torch.from_numpy(self._sequences).to(device)
        self.device, self.count, self.rows, self.rows_kept = device, count, count, np.arange(count)
        self.positions = torch.from_numpy(self._positions[None]).to(device)
        with registered(module), asking(self):
            logits: Tensor = module(
                input_ids=torch.from_numpy(tokens[None]).to(device),
                position_ids=self.positions,
                attention_mask=NO_MASK.to(device),
                use_cache=False,
                logits_to_keep=count,
            ).logits[0]
        return logits

    def attend_rows(self, call: LayerCall, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `TrimmedForward.attend`."""
        heads, key_heads = query.shape[1], key.shape[1]
        self._cache.write(call.layer, self._slots, key[0].transpose(0, 1), value[0].transpose(0, 1))
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

    def _seen(self, span: Span, dtype: torch.dtype) -> tuple[slice, Tensor | None]:
        """Which positions any sequence sees, and what is added to scores, [n, 1, 1, positions]."""
        if span not in self._masks:
            firsts = span.first(self._positions)
            start = int(firsts.min())
            positions = np.arange(start, self._longest)
            visible = (positions <= self._positions[:, None]) & (positions >= firsts[:, None])
            mask = None
            if not visible.all():
                hidden = torch.from_numpy(~visible).to(self.device)
                mask = torch.zeros(hidden.shape, dtype=dtype, device=self.device).masked_fill_(hidden, float("-inf"))
                mask = mask[:, None, None, :]
            self._masks[span] = slice(start, self._longest), mask
        return self._masks[span]
