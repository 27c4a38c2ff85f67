"""Gradients at a Hugging Face model's embeddings, of many sequences of equal length in one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel

from ml.language_model import Objective
from ml.models.implementation import registered
from ml.models.last_layer import KeysKnownError, TrimmedRun

States = Sequence[tuple[Tensor, Tensor]]
"""By layer: keys and values of what stands before all sequences, each [1, key heads, positions, size]."""


def gradients(
    module: PreTrainedModel, points: Tensor, tail: int, objective: Objective, before: States, *, packs: bool
) -> tuple[Tensor, Tensor]:
    """See `WhiteBox.gradients`.

    Args:
        before: none, or of every layer.
        packs: whether the model computes packed rows; see `packed_attention.can_pack`.
    """
    with torch.enable_grad():
        # Copies, as what was computed in inference mode may be no part of a gradient.
        states = [(keys.clone(), values.clone()) for keys, values in before]
        points = points.detach().to(module.device, module.dtype).requires_grad_()
        logits = BatchRun(points, tail, states).forward(module) if packs else _plain(module, points, tail, states)
        values = objective(logits.float())
        (found,) = torch.autograd.grad(values.sum(), points)
    return values.detach(), found.float()


def _plain(module: PreTrainedModel, points: Tensor, tail: int, before: States) -> Tensor:
    """Logits of the last `tail` positions, [n, tail, vocabulary]."""
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(before):
        cache.update(keys.expand(len(points), -1, -1, -1), values.expand(len(points), -1, -1, -1), layer)
    cached = {"past_key_values": cache, "use_cache": True} if before else {"use_cache": False}
    logits: Tensor = module(inputs_embeds=points, logits_to_keep=tail, **cached).logits
    return logits


class BatchRun(TrimmedRun):
    """The sequences as rows one behind the other, so that the last layer computes only those that are read out.

    Without padding and with equal lengths, attention is that of a batch.
    """

    _no_mask = torch.zeros(1, 1, 1, 1)

    def __init__(self, points: Tensor, tail: int, before: States) -> None:
        """Prepare to run `points`, [n, T, size], reading out the last `tail` positions of each."""
        super().__init__()
        self._points, self._tail, self._before = points, tail, before
        self._many, length, _ = points.shape
        self._start = before[0][0].shape[2] if before else 0
        self.count = self.rows = self._many * length
        rows = torch.arange(self.rows, device=points.device).view(self._many, length)
        self.readout = self.picks = rows[:, length - tail :].flatten()
        self.trims = 2 * tail < length
        self._last: tuple[Tensor, Tensor] | None = None  # keys and values of the last layer
        seen = torch.ones(length, self._start + length, dtype=torch.bool, device=points.device)
        self._seen = seen.tril(self._start)

    def forward(self, module: PreTrainedModel) -> Tensor:
        """Logits of the read-out positions, [n, tail, vocabulary]."""
        length = self._points.shape[1]
        positions = torch.arange(self._start, self._start + length, device=self._points.device)
        with registered(module):
            logits: Tensor = module(
                inputs_embeds=self._points.reshape(1, self.rows, -1),
                position_ids=positions.repeat(self._many).unsqueeze(0),
                attention_mask=self._no_mask.to(self._points.device),  # transformers makes none of its own
                use_cache=False,
                logits_to_keep=self.picks,
                gloss_packed=self,
            ).logits[0]
        return logits.view(self._many, self._tail, -1)

    def attend_rows(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `TrimmedRun.attend`."""
        q = self._apart(query)
        if self.picked and self._last is not None:
            (k, v), self._last = self._last, None
        else:
            k, v = (self._with_before(self._apart(each), layer, kind) for kind, each in enumerate((key, value)))
        if self.collecting:
            self._last = k, v
            raise KeysKnownError
        asking = q.shape[2]
        causal = asking > 1 and not self._start and asking == k.shape[2]
        mask = None if causal or asking == 1 else self._seen[-asking:]
        gqa = q.shape[1] != k.shape[1]
        out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale, enable_gqa=gqa)
        return out.transpose(1, 2).reshape(1, -1, q.shape[1], q.shape[3])

    def _apart(self, rows: Tensor) -> Tensor:
        """[1, heads, n · positions, size] -> [n, heads, positions, size]."""
        heads, size = rows.shape[1], rows.shape[3]
        return rows.view(heads, self._many, -1, size).transpose(0, 1)

    def _with_before(self, states: Tensor, layer: int, kind: int) -> Tensor:
        if not self._before:
            return states
        return torch.cat([self._before[layer][kind].expand(self._many, -1, -1, -1), states], dim=2)
