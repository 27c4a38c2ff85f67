"""Decoders: sequences that grow by a token at a time, together, and may join and leave between two steps.

`SlotDecoder` is for models whose attention can be replaced: the keys and values of each sequence lie in a slot of
buffers that grow with the longest of them, the newest token of all sequences go through the model as one row each, and
each row attends to its own slot. A new sequence's prompt is read as any other is, with what is remembered of its
beginning, and its keys and values are copied into a slot. Nothing else is copied from step to step, and no sequence is
padded to another's length in anything but the attention itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel

from ml.models.implementation import registered
from ml.models.prefix_reader import PrefixReader

_FIRST_CAPACITY = 64
_CACHES = ("past_key_values", "cache_params", "state", "mems")
"""Names under which models give back what they keep, and take it again."""


class SlotDecoder:
    """Decodes with a model that computes packed rows; see `ml.language_model.Decoder`."""

    # Already of the shape that attention takes, so transformers makes none of its own.
    _no_mask = torch.zeros(1, 1, 1, 1)

    def __init__(self, module: PreTrainedModel, reader: PrefixReader) -> None:
        """Decode with `module`, whose prompts `reader` reads."""
        self._module = module
        self._reader = reader
        self.recalled = 0
        self._lengths: list[int] = []
        # By layer: keys and values, each [slots, key heads, capacity, size]. The sequences are in the first slots.
        self._buffers: dict[int, tuple[Tensor, Tensor]] = {}
        self._slots = self._capacity = 0
        # Of a step: the n slots that take part, the positions of their newest tokens, and the mask [n, 1, 1, longest].
        self._taking: list[int] = []
        self._positions: list[int] = []
        self._mask = torch.empty(0)

    @torch.inference_mode()
    def start(self, ids: Sequence[int]) -> Tensor:
        """Add a sequence; see `Decoder.start`."""
        beginning = self._reader.begin(ids)
        slot = len(self._lengths)
        self._reserve(slot + 1, len(ids))
        for layer, runs in beginning.states.items():
            buffers, at = self._buffer(layer, runs[0][0]), 0
            for run in runs:
                stop = at + run[0].shape[1]
                for buffer, numbers in zip(buffers, run, strict=True):
                    buffer[slot, :, at:stop] = numbers
                at = stop
        self._lengths.append(len(ids))
        self.recalled = beginning.recalled
        return beginning.logits

    @torch.inference_mode()
    def step(self, tokens: Sequence[int], indices: Sequence[int] | None = None) -> Tensor:
        """Read one more token of each sequence; see `Decoder.step`."""
        self._taking = list(range(len(self._lengths)) if indices is None else indices)
        self._positions = positions = [self._lengths[slot] for slot in self._taking]
        self._reserve(len(self._lengths), max(positions) + 1)
        seen = torch.arange(max(positions) + 1) <= torch.tensor(positions)[:, None]
        self._mask = seen[:, None, None, :].to(self._module.device)
        device = self._module.device
        with registered(self._module):
            logits: Tensor = self._module(
                input_ids=torch.tensor([list(tokens)], device=device),
                position_ids=torch.tensor([positions], device=device),
                attention_mask=self._no_mask.to(device),
                use_cache=False,
                logits_to_keep=len(tokens),
                gloss_decoder=self,
            ).logits[0]
        for slot in self._taking:
            self._lengths[slot] += 1
        return logits.float()

    @torch.inference_mode()
    def leave(self, index: int) -> None:
        """Drop a sequence; see `Decoder.leave`."""
        last = len(self._lengths) - 1
        if index != last:
            length = self._lengths[last]
            for buffers in self._buffers.values():
                for buffer in buffers:
                    buffer[index, :, :length] = buffer[last, :, :length]
            self._lengths[index] = self._lengths[last]
        self._lengths.pop()
        if not self._lengths:
            self._buffers.clear()
            self._slots = self._capacity = 0

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """One layer's attention.

        Args:
            layer: its number.
            query: [1, heads, sequences, size]: the newest position of each.
            key, value: [1, key heads, sequences, size].
            scale: multiplies the scores.

        Returns:
            [1, sequences, heads, size].
        """
        keys, values = self._buffers[layer]
        count, longest = self._mask.shape[0], self._mask.shape[3]
        slots = torch.tensor(self._taking, device=key.device)
        places = torch.tensor(self._positions, device=key.device)
        keys[slots, :, places], values[slots, :, places] = key[0].transpose(0, 1), value[0].transpose(0, 1)
        # The first slots are read where they lie; any others are copied.
        read = slice(count) if self._taking[-1] == count - 1 else slots
        out = F.scaled_dot_product_attention(
            query[0].transpose(0, 1).unsqueeze(2),
            keys[read, :, :longest],
            values[read, :, :longest],
            attn_mask=self._mask,
            scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return out.squeeze(2).unsqueeze(0)

    def _reserve(self, slots: int, length: int) -> None:
        """Make room for `slots` sequences of up to `length` positions."""
        while self._slots < slots:
            self._slots = max(1, 2 * self._slots)
        while self._capacity < length:
            self._capacity = max(_FIRST_CAPACITY, 2 * self._capacity)
        for layer, buffers in self._buffers.items():
            if buffers[0].shape[0] < self._slots or buffers[0].shape[2] < self._capacity:
                self._buffers[layer] = (self._grown(buffers[0]), self._grown(buffers[1]))

    def _grown(self, buffer: Tensor) -> Tensor:
        slots, heads, capacity, size = buffer.shape
        # Zeros: what lies behind a sequence's end is masked, but not a number times nothing is not a number.
        grown = buffer.new_zeros(self._slots, heads, self._capacity, size)
        grown[:slots, :, :capacity] = buffer
        return grown

    def _buffer(self, layer: int, key: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's, made where there is none for keys like `key`, [key heads, positions, size]."""
        if layer not in self._buffers:
            shape = (self._slots, len(key), self._capacity, key.shape[2])
            self._buffers[layer] = (key.new_zeros(shape), key.new_zeros(shape))
        return self._buffers[layer]


@dataclass
class _Sequence:
    """The tokens of a sequence, and what the model keeps of them, by the name of the argument that takes it back."""

    ids: list[int]
    cache: dict[str, Any] = field(default_factory=dict)


class CacheDecoder:
    """Decodes by the model's own forward and its own cache, one sequence after the other; see `Decoder`.

    The model makes the cache: keys and values, states of a recurrence, or both. A sequence that is longer than its
    cache can be trusted is read anew for each token.
    """

    recalled = 0

    def __init__(self, module: PreTrainedModel, longest: float) -> None:
        """Decode with `module`, whose cache gives what recomputing gives up to `longest` tokens. 0 is no cache."""
        self._module = module
        self._longest = longest
        self._sequences: list[_Sequence] = []

    @torch.inference_mode()
    def start(self, ids: Sequence[int]) -> Tensor:
        """Add a sequence; see `Decoder.start`."""
        sequence = _Sequence([])
        logits = self._read(sequence, ids)
        self._sequences.append(sequence)
        return logits

    @torch.inference_mode()
    def step(self, tokens: Sequence[int], indices: Sequence[int] | None = None) -> Tensor:
        """Read one more token of each sequence; see `Decoder.step`."""
        sequences = self._sequences if indices is None else [self._sequences[index] for index in indices]
        pairs = zip(sequences, tokens, strict=True)
        return torch.stack([self._read(sequence, [token]) for sequence, token in pairs])

    def leave(self, index: int) -> None:
        """Drop a sequence; see `Decoder.leave`."""
        self._sequences[index] = self._sequences[-1]
        self._sequences.pop()

    def cached_bytes(self, index: int) -> int:
        """Memory that the model's cache of a sequence takes."""
        return _bytes_of(self._sequences[index].cache)

    def _read(self, sequence: _Sequence, ids: Sequence[int]) -> Tensor:
        """Read `ids` behind a sequence. Returns what comes next, float32 [vocabulary]."""
        sequence.ids.extend(ids)
        cached = len(sequence.ids) <= self._longest
        if not cached:
            sequence.cache = {}
        read = list(ids) if sequence.cache else sequence.ids
        out = self._module(
            input_ids=torch.tensor([read], device=self._module.device),
            use_cache=cached,
            logits_to_keep=1,
            **sequence.cache,
        )
        if cached:
            sequence.cache = {name: out[name] for name in _CACHES if out.get(name) is not None}
        logits: Tensor = out.logits[0, -1].float()
        return logits


def _bytes_of(cache: Any) -> int:
    """Memory of all tensors in a cache of whatever kind."""
    if isinstance(cache, Tensor):
        return cache.numel() * cache.element_size()
    if isinstance(cache, dict):
        return sum(map(_bytes_of, cache.values()))
    if isinstance(cache, (list, tuple)):
        return sum(map(_bytes_of, cache))
    # A cache of transformers holds layers, and a layer holds tensors, by names of its own.
    ours = type(cache).__module__.startswith("transformers.") and not isinstance(cache, PreTrainedConfig)
    return _bytes_of(vars(cache)) if ours and hasattr(cache, "__dict__") else 0
