"""Attention over packed rows: each row sees its ancestors in the prefix tree, and nothing is copied per sequence.

`ml.packing` lays sequences out so that each distinct prefix is one row. To a Hugging Face model the rows are one
"sequence" with position ids of its own; what tells them apart travels as a keyword argument of the model's call to the
attention function, so the model stays unmodified and there is no global state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from ml.blocks import Queries
from ml.models.embedding import inputs
from ml.models.implementation import registered
from ml.models.last_layer import KeysKnownError, TrimmedRun
from ml.packing import Step

KeysAndValues = Mapping[int, tuple[Tensor, Tensor]]
"""By layer: keys and values of consecutive positions, each [positions, key heads, size]."""


@dataclass(frozen=True)
class PackedPrefix:
    """A beginning that was read once, for sequences that share it; see `ml.language_model.Prefix`."""

    ids: Sequence[int]
    states: KeysAndValues

    @property
    def length(self) -> int:
        """Its tokens."""
        return len(self.ids)

    @property
    def by_heads(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values from the lowest layer up, each [1, key heads, positions, size]."""
        return [
            (keys.transpose(0, 1).unsqueeze(0), values.transpose(0, 1).unsqueeze(0))
            for _, (keys, values) in sorted(self.states.items())
        ]


class _Queries:
    """A step's queries where the model is."""

    def __init__(self, queries: Queries, dtype: torch.dtype, device: torch.device) -> None:
        visible = torch.from_numpy(queries.visible).to(device).unsqueeze(1)
        self.mask = torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, float("-inf"))
        self.rows = torch.from_numpy(queries.rows).to(device)
        self.places = torch.from_numpy(queries.places).to(device)


class PackedRun(TrimmedRun):
    """One packing's way through a model: the step under way, and what earlier steps leave to it."""

    _no_mask = torch.zeros(1, 1, 1, 1)

    def __init__(self, before: KeysAndValues | None = None, *, dtype: torch.dtype | None = None) -> None:
        """Begin with nothing, or with the keys and values of a path that was computed `before`.

        Args:
            before: of a run of the same `dtype`.
            dtype: what attention multiplies in; by default what the model does.
        """
        super().__init__()
        self._dtype = dtype
        self.layers: set[int] = set()
        """Layers that computed the last step."""
        # Of the path at which the step before ended.
        self._before = dict(before or {})
        self._last: tuple[Tensor, Tensor] | None = None  # keys and values of the last layer

    def read(self, module: PreTrainedModel, ids: Sequence[int]) -> PackedPrefix:
        """Read the beginning of sequences to come, of which nothing is read out."""
        self.forward(module, Step.prefix(ids))
        return PackedPrefix(ids, self._before)

    def forward(self, module: PreTrainedModel, step: Step) -> Tensor:
        """Logits of the step's read-out rows, [readout, vocabulary]."""
        device = module.device
        self._step = step
        self._path = torch.from_numpy(step.path).to(device)
        ids, positions = self.lay_out(step.ids, step.positions, step.readout, device)
        # Two runs through the layer's first half are only worth it where few rows take the second.
        self.trims = 2 * len(self.readout) < step.rows
        self.layers = set()
        if not step.is_trunk:
            self._keys = torch.from_numpy(step.keys).to(device)
            dtype = self._dtype or module.dtype
            self._queries = _Queries(step.queries, dtype, device)
            self._picked = _Queries(step.queries.only(step.readout), dtype, device) if self.trims else self._queries
        with registered(module), suppress(KeysKnownError):
            logits: Tensor = module(
                **inputs(module, ids),
                position_ids=positions,
                # Already of the shape that attention takes, so transformers does not make one of its own, which would
                # cost [rows, rows] and go unused: `attend` knows who sees whom.
                attention_mask=self._no_mask.to(device),
                use_cache=False,
                logits_to_keep=self.picks,
                gloss_packed=self,
            ).logits[0]
            return logits[: len(self.readout)]
        return torch.empty(0, module.config.get_text_config().vocab_size, dtype=module.dtype, device=device)

    def attend_rows(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `TrimmedRun.attend`."""
        self.layers.add(layer)
        step = self._step
        if self.picked and self._last is not None:
            (k, v), self._last = self._last, None
            return self._attend_blocks(query[0].transpose(0, 1), k, v, scale, self._picked).unsqueeze(0)
        k, v = (each[0].transpose(0, 1).to(self._dtype or each.dtype) for each in (key, value))
        if step.cached:
            k_before, v_before = self._before[layer]
            k = torch.cat([k_before[: step.cached], k])
            v = torch.cat([v_before[: step.cached], v])
        self._before[layer] = rows_of(k, self._path), rows_of(v, self._path)
        if self.collecting:
            self._last = k, v
            raise KeysKnownError
        if step.is_trunk:
            return F.scaled_dot_product_attention(
                query, key, value, is_causal=True, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
            ).transpose(1, 2)
        return self._attend_blocks(query[0].transpose(0, 1), k, v, scale, self._queries).unsqueeze(0)

    def _attend_blocks(self, q: Tensor, k: Tensor, v: Tensor, scale: float, queries: _Queries) -> Tensor:
        """`q` [rows, heads, size] over `k`, `v` [C + R, key heads, size]; returns [rows, heads, size]."""
        groups = q.shape[1] // k.shape[1]
        dtype, q, trunk = q.dtype, q.to(k.dtype), self._step.trunk
        if self._dtype is not None and not trunk:
            k, v = _repeat(k, groups), _repeat(v, groups)
            return self._attend_in_products(q, k, v, scale, queries).to(dtype)
        keys, values = (_repeat(rows_of(x, self._keys), groups).transpose(1, 2) for x in (k, v))
        out, mass = attention_with_mass(rows_of(q, queries.rows).transpose(1, 2), keys, values, scale, queries.mask)
        out = rows_of(out.transpose(1, 2).flatten(0, 1), queries.places).to(dtype)
        if not trunk:
            return out
        keys, values = (_repeat(x[None, :trunk], groups).transpose(1, 2) for x in (k, v))
        trunk_out, trunk_mass = attention_with_mass(q[None].transpose(1, 2), keys, values, scale)
        # A softmax over both sets of keys gives each set its share of the sum of exponentials.
        mass = rows_of(mass.transpose(1, 2).flatten(0, 1), queries.places)
        share = torch.sigmoid(trunk_mass[0].transpose(0, 1) - mass).to(dtype)
        return torch.lerp(out, trunk_out[0].transpose(0, 1).to(dtype), share)

    def _attend_in_products(self, q: Tensor, k: Tensor, v: Tensor, scale: float, queries: _Queries) -> Tensor:
        """As `_attend_blocks` with as many key heads, by plain products: faster than SDPA where they are rounded."""
        rows, heads, size = q.shape
        (blocks, block), keys = queries.rows.shape, self._keys.shape[1]
        head = torch.arange(heads, device=q.device)[:, None]

        def by_head(table: Tensor, indices: Tensor) -> Tensor:
            """[rows, heads, size] at [N, x] -> [N * heads, x, size]."""
            picked = table.reshape(-1, size).index_select(0, (indices[:, None] * heads + head).flatten())
            return picked.view(blocks * heads, -1, size)

        scores = torch.bmm(by_head(q, queries.rows), by_head(k, self._keys).transpose(1, 2))
        scores = torch.add(queries.mask, scores.view(blocks, heads, block, keys), alpha=scale)
        out = torch.bmm(scores.softmax(-1).view(blocks * heads, block, keys), by_head(v, self._keys))
        places = (queries.places // block * heads + head) * block + queries.places % block
        return out.view(-1, size).index_select(0, places.T.flatten()).view(rows, heads, size)


def rows_of(table: Tensor, indices: Tensor) -> Tensor:
    """`table` [rows, ...] at `indices` of any shape, row by row: several times faster than by indexing."""
    picked = table.reshape(len(table), -1).index_select(0, indices.flatten())
    return picked.view(*indices.shape, *table.shape[1:])


def attention_with_mass(
    q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None, *, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Attention, and the logarithm of the sum of the exponentials of its scores: what merging two attentions needs.

    Args:
        q: [batch, heads, queries, size].
        k, v: [batch, heads, keys, size].
        scale: multiplies the scores.
        mask: added to the scores, [batch, 1, queries, keys].
        causal: whether query i sees keys 0 to i only, in place of a mask.

    Returns:
        [batch, heads, queries, size] and [batch, heads, queries, 1].
    """
    if q.device.type == "cpu":
        # What SDPA runs on a CPU; called by its own name, it also returns the mass.
        out, mass = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, is_causal=causal, attn_mask=mask, scale=scale
        )
        return out, mass.unsqueeze(-1)
    if mask is not None:
        mask = _aligned(mask).expand(*q.shape[:3], k.shape[2])
    # One of the kernels that SDPA has on a GPU: no scores are written to memory.
    out, mass, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, mask, compute_log_sumexp=True, is_causal=causal, scale=scale
    )
    return out, mass[:, :, : q.shape[2]].unsqueeze(-1)  # the kernel rounds the number of queries up


def _aligned(mask: Tensor) -> Tensor:
    """`mask` with rows that begin at multiples of 16 numbers, as the kernel asks for."""
    missing = -mask.shape[-1] % 16
    return F.pad(mask, (0, missing))[..., : mask.shape[-1]] if missing else mask.contiguous()


def _repeat(heads: Tensor, groups: int) -> Tensor:
    """[..., key heads, size] -> [..., heads, size]."""
    return heads if groups == 1 else heads.repeat_interleave(groups, dim=-2)
