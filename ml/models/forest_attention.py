"""Attention over a forest of prompts: each segment sees itself causally, and visits see all of other keys.

The rows of `ml.forest` are one "sequence" with position ids of its own to a Hugging Face model, as those of
`ml.packing` are, and the run travels to the attention function the same way. Where rows see keys beside those of their
own segment, the parts are merged by their log-sum-exp: a softmax over several sets of keys gives each set its share of
the sum of exponentials.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from ml.forest import Forest, Indices
from ml.models.cuda import to_device
from ml.models.implementation import registered
from ml.models.last_layer import KeysKnownError, TrimmedRun
from ml.models.packed_attention import attention_with_mass
from ml.prefixes import Piece

_WORTH_TRIMMING = 128
"""Rows that are not read out from which on the last layer runs on the others alone: a second start has a price."""
_BLOCK = 64
"""Queries of a block on a CPU: fewer are slow to multiply, and more look at too many keys that they do not see."""


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


@dataclass(frozen=True)
class _Block:
    """Some queries of one segment, and the keys up to the last of them: query i sees all but the last n - 1 - i."""

    queries: slice
    keys: slice
    merges: bool
    """Whether its queries see more than that, by visits."""


class _Queries:
    """Some rows of a forest as queries, in blocks."""

    def __init__(self, forest: Forest, rows: Indices, longest: int) -> None:
        """`rows`: ascending. `longest`: queries of a block at most, about."""
        self.visits: list[tuple[slice, range | Piece]] = []
        merges = np.zeros(len(rows), dtype=np.bool_)
        for visit in forest.visits:
            queries = _within(visit.rows, rows)
            merges[queries] = True
            if queries.start < queries.stop:
                self.visits.append((queries, visit.keys))
        self.blocks = [
            _Block(part, slice(segment.start, int(rows[part.stop - 1]) + 1), bool(merges[part.start]))
            for segment in forest.segments
            for part in _parts(rows, _within(segment, rows), longest)
        ]


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

    def forward(self, module: PreTrainedModel) -> Tensor:
        """Logits of the read-out rows, [readout, vocabulary]."""
        device, forest = module.device, self._forest
        ids, positions = self.lay_out(forest.ids, forest.positions, forest.readout, device)
        # Elsewhere SDPA is faster than plain products, and skips what is not seen.
        self._by_products = device.type == "cpu" and module.dtype == torch.float32
        longest = _BLOCK if self._by_products else forest.rows
        self._queries = _Queries(forest, np.arange(forest.rows), longest)
        if self.trims:
            # Prompts may end alike, and they stand in their callers' order.
            rows, firsts, places = np.unique(forest.readout, return_index=True, return_inverse=True)
            self._picked = _Queries(forest, rows, longest)
            self._firsts, self._places = (torch.from_numpy(each).to(device) for each in (firsts, places))
        self._mask = _causal_mask(self._queries.blocks, module.dtype, device)
        with registered(module):
            logits: Tensor = module(
                input_ids=to_device(ids, device),
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
            out = self._attend(layer, query[0, :, self._firsts], scale, self._picked)
            return out[:, self._places].transpose(0, 1).unsqueeze(0)
        self.layers[layer] = key[0], value[0]
        if self.collecting:
            raise KeysKnownError
        return self._attend(layer, query[0], scale, self._queries).transpose(0, 1).unsqueeze(0)

    def _attend(self, layer: int, q: Tensor, scale: float, queries: _Queries) -> Tensor:
        """`q` [heads, queries, size] over the layer's keys and values; returns [heads, queries, size]."""
        out, mass = self._attend_to_segments(layer, q, scale, queries.blocks)
        heads, _, size = q.shape
        for part, which in queries.visits:
            keys, values = self._seen(layer, which)
            # Heads that share keys are more rows of one head: nothing has to be repeated.
            folded = q[:, part].reshape(1, len(keys), -1, size)
            more, more_mass = attention_with_mass(folded, keys[None], values[None], scale)
            more, more_mass = more.reshape(heads, -1, size), more_mass.reshape(heads, -1, 1)
            share = torch.sigmoid(more_mass - mass[:, part])
            out[:, part] = torch.lerp(out[:, part], more, share.to(out.dtype))
            mass[:, part] = torch.logaddexp(mass[:, part], more_mass)
        return out

    def _attend_to_segments(
        self, layer: int, q: Tensor, scale: float, blocks: Sequence[_Block]
    ) -> tuple[Tensor, Tensor]:
        """Each query's attention to its own segment, and its mass where it will be merged, [heads, queries, 1]."""
        heads, count, size = q.shape
        k, v = (_repeat(each, heads // len(each)) for each in self.layers[layer])
        # In memory as the model takes it back: [queries, heads, size].
        out = q.new_empty(count, heads, size).transpose(0, 1)
        mass = q.new_empty(heads, count, 1, dtype=torch.float32)
        for block in blocks:
            part = block.queries
            asking, keys, values = q[:, part], k[:, block.keys], v[:, block.keys]
            whole = asking.shape[1] == keys.shape[1]
            if self._by_products and not block.merges:
                scores = torch.baddbmm(self._mask_of(block), asking, keys.transpose(1, 2), alpha=scale)
                out[:, part] = torch.bmm(scores.softmax(-1), values)
                continue
            asking, keys, values = asking[None], keys[None], values[None]
            mask = None if whole else self._mask_of(block)[None, None]
            if block.merges:
                found = attention_with_mass(asking, keys, values, scale, mask, causal=whole)
                out[:, part], mass[:, part] = found[0][0], found[1][0]
            else:
                out[:, part] = F.scaled_dot_product_attention(asking, keys, values, mask, is_causal=whole, scale=scale)[
                    0
                ]
        return out, mass

    def _mask_of(self, block: _Block) -> Tensor:
        """What is added to the block's scores, [queries, keys]."""
        queries, keys = (each.stop - each.start for each in (block.queries, block.keys))
        rows, columns = self._mask.shape
        # The mask's lower right corner: its last query sees all keys.
        return self._mask[rows - queries :, columns - keys :]

    def _seen(self, layer: int, keys: range | Piece) -> tuple[Tensor, Tensor]:
        """Keys and values of a visit, each [key heads, keys, size]."""
        if isinstance(keys, range):
            k, v = self.layers[layer]
            return k[:, keys.start : keys.stop], v[:, keys.start : keys.stop]
        if self._store is None:
            raise AssertionError("nothing is remembered without a store")
        return self._store[layer, keys.places]


def _within(run: range, rows: Indices) -> slice:
    """Where those of `rows`, which ascend, stand that are in `run`."""
    return slice(*np.searchsorted(rows, (run.start, run.stop)).tolist())


def _parts(rows: Indices, where: slice, longest: int) -> Iterator[slice]:
    """Cut `where` into runs of consecutive rows, and long ones into equal parts."""
    some = rows[where]
    if not len(some):
        return
    for run in np.split(np.arange(where.start, where.stop), np.nonzero(np.diff(some) > 1)[0] + 1):
        parts = max(1, round(len(run) / longest))
        for part in np.array_split(run, parts):
            yield slice(int(part[0]), int(part[-1]) + 1)


def _causal_mask(blocks: Sequence[_Block], dtype: torch.dtype, device: torch.device) -> Tensor:
    """For the largest of `blocks`: of n queries, query i does not see the last n - 1 - i keys."""
    queries = max(block.queries.stop - block.queries.start for block in blocks)
    keys = max(block.keys.stop - block.keys.start for block in blocks)
    return torch.full((queries, keys), float("-inf"), dtype=dtype, device=device).triu_(keys - queries + 1)


def _repeat(heads: Tensor, groups: int) -> Tensor:
    return heads if groups == 1 else heads.repeat_interleave(groups, dim=0)
