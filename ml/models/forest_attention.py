"""Attention over a forest of prompts: a causal product for each segment, a plain one for each visit.

The rows of `ml.forest` are one "sequence" with position ids of its own to a Hugging Face model, as those of
`ml.packing` are, and the run travels to the attention function the same way. Where rows see keys beside those of their
own segment, the parts are merged by their log-sum-exp: a softmax over several sets of keys gives each set its share of
the sum of exponentials.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from ml.forest import Forest
from ml.models.last_layer import KeysKnownError, TrimmedRun
from ml.models.packed_attention import attention_with_mass
from ml.prefixes import Piece

_WORTH_TRIMMING = 128
"""Rows that are not read out from which on the last layer runs on the others alone: a second start has a price."""
_SHORT = 64
"""Segments of up to so many rows are attended to together, padded: one operation costs as much as some rows do."""


class Store:
    """Keys and values of remembered tokens, one place a token, in memory that is taken once.

    What comes and goes at its own times would leave gaps among a model's short-lived tensors, and a bounded cache
    would grow without bound.
    """

    def __init__(self, run: ForestRun, max_bytes: int) -> None:
        """For models like the one that made `run`, with as many places as fit into `max_bytes`."""
        key, _ = next(iter(run.layers.values()))
        heads, _, size = key.shape
        self._order = {layer: number for number, layer in enumerate(run.layers)}
        self.token_bytes = sum(x[:, :1].numel() * x.element_size() for pair in run.layers.values() for x in pair)
        self.places = max_bytes // self.token_bytes
        # Written at once: pages that the system maps only when they are needed cost more than the copy does.
        self._numbers = key.new_empty(len(self._order), 2, heads, self.places, size).zero_()

    def __getitem__(self, where: tuple[int, range]) -> tuple[Tensor, Tensor]:
        """A layer's keys and values at some places, each [key heads, places, size]."""
        layer, places = where
        keys, values = self._numbers[self._order[layer], :, :, places.start : places.stop]
        return keys, values

    def put(self, places: range, run: ForestRun, rows: slice | Tensor) -> None:
        """Copy what all layers made of `rows`."""
        for layer, number in self._order.items():
            for kind, numbers in enumerate(run.layers[layer]):
                self._numbers[number, kind, :, places.start : places.stop] = numbers[:, rows]


class ForestRun(TrimmedRun):
    """One forest's way through a model.

    Attributes:
        layers: keys and values that each layer computed, by its number, each [key heads, R, size].
    """

    _no_mask = torch.zeros(1, 1, 1, 1)

    def __init__(self, forest: Forest, store: Store | None) -> None:
        """Prepare to run. `store`: where what the forest's prompts remember lies."""
        super().__init__()
        self.trims = forest.rows - len(forest.readout) >= _WORTH_TRIMMING
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._forest = forest
        self._store = store
        self._merges = bool(forest.visits)
        self._long, self._short = _by_length(forest.segments)

    def forward(self, module: PreTrainedModel) -> Tensor:
        """Logits of the read-out rows, [readout, vocabulary]."""
        device, forest = module.device, self._forest
        ids, positions = self.lay_out(forest.ids, forest.positions, forest.readout, device)
        logits: Tensor = module(
            input_ids=ids,
            position_ids=positions,
            attention_mask=self._no_mask.to(device),  # of attention's shape, so transformers makes none of its own
            use_cache=False,
            logits_to_keep=self.picks,
            gloss_packed=self,
        ).logits[0]
        return logits[: len(self.readout)]

    def attend_rows(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `TrimmedRun.attend`."""
        if self.picked:
            key, value = (each.unsqueeze(0) for each in self.layers[layer])
            spread = query.new_zeros(*query.shape[:2], self.count, query.shape[3])
            spread[:, :, self.readout] = query
            return self._attend(layer, spread, key, value, scale)[:, self.readout]
        self.layers[layer] = key[0], value[0]
        if self.collecting:
            raise KeysKnownError
        return self._attend(layer, query, key, value, scale)

    def _attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Of all rows, [1, R, heads, size]."""
        groups = query.shape[1] // key.shape[1]
        if len(self._forest.segments) == 1 and not self._merges:
            out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=groups > 1)
            return out.transpose(1, 2)
        out, mass = self._causal(query, _repeat(key, groups), _repeat(value, groups), scale)
        for visit in self._forest.visits:
            rows = slice(visit.rows.start, visit.rows.stop)
            keys, values = self._seen(layer, visit.keys)
            # Heads that share keys are more rows of one head: nothing has to be repeated.
            folded = query[:, :, rows].reshape(1, len(keys), -1, query.shape[3])
            more, more_mass = attention_with_mass(folded, keys[None], values[None], scale)
            more, more_mass = more.reshape(query[:, :, rows].shape), more_mass.reshape(1, query.shape[1], -1, 1)
            share = torch.sigmoid(more_mass - mass[:, :, rows])
            out[:, :, rows] = torch.lerp(out[:, :, rows], more, share.to(out.dtype))
            mass[:, :, rows] = torch.logaddexp(mass[:, :, rows], more_mass)
        return out.transpose(1, 2)

    def _seen(self, layer: int, keys: range | Piece) -> tuple[Tensor, Tensor]:
        """Keys and values of a visit, each [key heads, keys, size]."""
        if isinstance(keys, range):
            k, v = self.layers[layer]
            return k[:, keys.start : keys.stop], v[:, keys.start : keys.stop]
        if self._store is None:
            raise AssertionError("nothing is remembered without a store")
        return self._store[layer, keys.places]

    def _causal(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Each segment's attention to itself. [1, heads, R, size] and its mass, [1, heads, R, 1]."""
        _, heads, rows, size = query.shape
        # In memory as the model takes it back: [1, R, heads, size].
        out = query.new_empty(1, rows, heads, size).transpose(1, 2)
        mass = query.new_empty(1, heads, rows, 1, dtype=torch.float32)
        for segment in self._long:
            part = slice(segment.start, segment.stop)
            out[:, :, part], mass[:, :, part] = attention_with_mass(
                query[:, :, part], key[:, :, part], value[:, :, part], scale, causal=True
            )
        for places, whole in self._short:
            # [heads, R, size] -> [segments, heads, longest, size]; padding stands on the right, where nobody sees it.
            q, k, v = (x[0][:, places].transpose(0, 1) for x in (query, key, value))
            some, some_mass = attention_with_mass(q, k, v, scale, causal=True)
            rows_of = places[whole]
            out[0][:, rows_of] = some.transpose(1, 2)[whole].transpose(0, 1)
            mass[0][:, rows_of] = some_mass.transpose(1, 2)[whole].transpose(0, 1)
        return out, mass


def _by_length(segments: list[range]) -> tuple[list[range], list[tuple[Tensor, Tensor]]]:
    """Segments that go alone, and groups of short ones of similar length.

    Returns:
        Of each group the row at each place [segments, longest], and which places are rows [segments, longest].
    """
    groups: dict[int, list[range]] = defaultdict(list)
    alone = []
    for segment in segments:
        length = len(segment)
        if length > _SHORT:
            alone.append(segment)
        else:
            groups[1 << (length - 1).bit_length()].append(segment)
    padded = []
    for group in groups.values():
        if len(group) == 1:
            alone.append(group[0])
            continue
        offsets = torch.arange(max(map(len, group)))
        firsts, lengths = (torch.tensor(x)[:, None] for x in ([s.start for s in group], [len(s) for s in group]))
        whole = offsets < lengths
        padded.append((torch.where(whole, firsts + offsets, firsts), whole))
    return alone, padded


def _repeat(heads: Tensor, groups: int) -> Tensor:
    return heads if groups == 1 else heads.repeat_interleave(groups, dim=1)
