"""Keys and values of tokens, one slot a token, in every layer."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ml.runtime.ragged_batch import IntArray

Slots = slice | Tensor


class KvCache:
    """Slots for keys and values, [slots, key heads, size] in each layer. Layers get their memory when first written."""

    def __init__(self, slots: int) -> None:
        """Make an empty cache of `slots` slots."""
        self.slots = slots
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def __getitem__(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, each [slots, key heads, size]."""
        return self._layers[layer]

    def write(self, layer: int, slots: Slots, keys: Tensor, values: Tensor) -> None:
        """Put `keys` and `values`, each [tokens, key heads, size], into `slots`."""
        if layer not in self._layers:
            # Zeros: what a mask hides is multiplied by 0, and a number that is not one would come through.
            made = [each.new_zeros(self.slots, *each.shape[1:]) for each in (keys, values)]
            self._layers[layer] = made[0], made[1]
        for kept, fresh in zip(self._layers[layer], (keys, values), strict=True):
            kept[slots] = fresh

    def copy_from(self, cache: KvCache, source: IntArray, target: IntArray) -> None:
        """Copy what `source` slots of a cache hold into `target` slots of this one, in every layer."""
        if len(source):
            for layer, pair in cache._layers.items():
                keys, values = (kept[as_slots(source, kept.device)] for kept in pair)
                self.write(layer, as_slots(target, keys.device), keys, values)

    def clear(self, slots: IntArray) -> None:
        """Let `slots` hold zeros."""
        for pair in self._layers.values():
            for kept in pair:
                kept[as_slots(slots, kept.device)] = 0

    def is_finite(self, slots: IntArray) -> bool:
        """Whether `slots` hold finite numbers, as far as the highest layer shows; see `are_finite`."""
        if not self._layers:
            return True
        pair = self._layers[max(self._layers)]
        return are_finite(*(kept[as_slots(slots, kept.device)] for kept in pair))

    def stretch(self, sequences: int, capacity: int, to_sequences: int, to_capacity: int) -> None:
        """Let the slots, `capacity` for each of some sequences, become those of more and longer ones."""
        self.slots = to_sequences * to_capacity
        for layer, pair in self._layers.items():
            stretched = []
            for kept in pair:
                larger = kept.new_zeros(to_sequences, to_capacity, *kept.shape[1:])
                larger[:sequences, :capacity] = kept.unflatten(0, (sequences, capacity))
                stretched.append(larger.flatten(0, 1))
            self._layers[layer] = stretched[0], stretched[1]

    def grow(self, slots: int, used: int) -> None:
        """Make room for `slots` slots, and keep what the first `used` hold."""
        if slots <= self.slots:
            return
        self.slots = slots
        for layer, pair in self._layers.items():
            grown = []
            for kept in pair:
                used = min(used, len(kept))
                larger = kept.new_zeros(slots, *kept.shape[1:])
                larger[:used] = kept[:used]
                grown.append(larger)
            self._layers[layer] = grown[0], grown[1]

    @property
    def layers(self) -> list[int]:
        """Numbers of the layers that were written, ascending."""
        return sorted(self._layers)

    @property
    def token_bytes(self) -> int:
        """What a token takes in all layers; 0 before anything was written."""
        pairs = list(self._layers.values())  # metrics ask from another thread, while layers get their memory
        return sum(each[0].numel() * each.element_size() for pair in pairs for each in pair)


def are_finite(keys: Tensor, values: Tensor) -> bool:
    """Whether all keys and values of a layer are finite numbers.

    What is not a number in one layer stays so in all above it, so the highest layer's stand for all.
    """
    return bool(keys.isfinite().all() & values.isfinite().all())


def as_slots(slots: IntArray, device: torch.device) -> Slots:
    """`slots` as an index: a slice, which is copied faster, where they stand together."""
    if len(slots) and bool((np.diff(slots) == 1).all()):
        return slice(int(slots[0]), int(slots[-1]) + 1)
    return torch.from_numpy(slots).to(device)
