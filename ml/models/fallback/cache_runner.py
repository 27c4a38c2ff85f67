"""Sequences that grow with any model, by its own forward and its own cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from ml.models.base import Chunk
from ml.models.fallback.padded_batches import Logits
from ml.models.fallback.serial_runner import SerialRunner

_CACHES = ("past_key_values", "cache_params", "state", "mems")
"""Names under which models give back what they keep, and take it again."""


@dataclass
class Cached:
    """A sequence: its tokens, and what the model keeps of the first `known`, by the argument that takes it back."""

    ids: list[int] = field(default_factory=list)
    known: int = 0
    cache: dict[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Memory that the model's cache takes."""
        return _bytes_of(self.cache)


class CacheRunner(SerialRunner[Cached]):
    """Sequences by the model's own forward and its own cache, one after the other; see `ml.models.base.Runner`.

    The model makes the cache: keys and values, states of a recurrence, or both. It is trusted to take one token more:
    so a prompt is read in one go with its last chunk, and a sequence that is longer than its cache can be trusted is
    read again for each token.
    """

    def __init__(self, module: PreTrainedModel, logits: Logits, longest: float, *, pads: bool = True) -> None:
        """Run `module`, whose cache gives what recomputing gives up to `longest` tokens. 0 is no cache.

        Args:
            logits, pads: see `SerialRunner`.
        """
        super().__init__(logits, pads=pads)
        self._module, self._longest = module, longest

    def new(self) -> Cached:
        """See `SerialRunner.new`."""
        return Cached()

    @torch.inference_mode()
    def advance(self, sequences: Sequence[Cached], chunks: Sequence[Chunk]) -> list[Tensor]:
        """See `SerialRunner.advance`."""
        return [self._read(sequence, chunk) for sequence, chunk in zip(sequences, chunks, strict=True)]

    def _read(self, sequence: Cached, chunk: Chunk) -> Tensor:
        sequence.ids.extend(chunk.ids)
        if not chunk.logits:
            return torch.empty(0, self._module.config.get_text_config().vocab_size, device=self._module.device)
        cached = len(sequence.ids) <= self._longest
        if not cached or len(sequence.ids) - sequence.known > 1 or chunk.logits > 1:
            sequence.cache, sequence.known = {}, 0
        out = self._module(
            input_ids=torch.tensor([sequence.ids[sequence.known :]], device=self._module.device),
            use_cache=cached,
            logits_to_keep=chunk.logits,
            **sequence.cache,
        )
        if cached:
            sequence.cache = {name: out[name] for name in _CACHES if out.get(name) is not None}
            sequence.known = len(sequence.ids) if sequence.cache else 0
        logits: Tensor = out.logits[0, -chunk.logits :].float()
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
