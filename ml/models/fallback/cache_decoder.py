"""Decoding with any model, by its own forward and its own cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

_CACHES = ("past_key_values", "cache_params", "state", "mems")
"""Names under which models give back what they keep, and take it again."""


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
