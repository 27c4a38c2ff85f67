"""Gradients at a Hugging Face model's embeddings, of many sequences of equal length in one batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel

from ml.models.internals.objective import LogitsObjective
from ml.runtime.implementation import asking, registered
from ml.runtime.kernels import Scores
from ml.runtime.last_layer import NO_MASK, KeysKnownError, LayerCall, TrimmedForward
from ml.runtime.ragged_batch import Span
from ml.runtime.spans import SpanOf

States = Sequence[tuple[Tensor, Tensor]]
"""By layer: keys and values of what stands before all sequences, each [1, key heads, positions, size]."""


def gradients(
    module: PreTrainedModel,
    points: Tensor,
    tail: int,
    objective: LogitsObjective,
    before: States,
    *,
    span_of: SpanOf | None,
) -> tuple[Tensor, Tensor]:
    """See `OpenModel.gradients`.

    Args:
        before: none, or of every layer.
        span_of: what the layers see, where the model computes ragged batches; None where its own forward pass computes.
    """
    with torch.enable_grad():
        # Copies, as what was computed in inference mode may be no part of a gradient.
        states = [(keys.clone(), values.clone()) for keys, values in before]
        points = points.detach().to(module.device, module.dtype).requires_grad_()
        read = points.clone()  # some models write into what they are given
        if span_of is None:
            logits = _plain(module, read, tail, states)
        else:
            logits = DenseForward(read, tail, states, span_of).forward(module)
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
    return logits[:, -tail:]  # some models give those of all positions


class DenseForward(TrimmedForward):
    """Sequences of equal length as rows one behind the other, so that the last layer computes only those asked for.

    Without padding and with equal lengths, attention is that of a batch.
    """

    def __init__(self, points: Tensor, tail: int, before: States, span_of: SpanOf) -> None:
        """Prepare to run `points`, [n, T, size], for the logits of the last `tail` positions of each."""
        super().__init__()
        self._points, self._tail, self._before, self._span_of = points, tail, before, span_of
        self._many, length, _ = points.shape
        self._start = before[0][0].shape[2] if before else 0
        self.device, self.count = points.device, self._many * length
        self.rows = self.count
        self.rows_kept = np.arange(self.rows).reshape(self._many, length)[:, length - tail :].ravel()
        self.kept = torch.from_numpy(self.rows_kept).to(self.device)
        self.trims = 2 * tail < length
        self._last: tuple[Tensor, Tensor] | None = None  # keys and values of the last layer
        self._masks: dict[tuple[Span, int], Tensor] = {}

    def forward(self, module: PreTrainedModel) -> Tensor:
        """Logits of the last positions, [n, tail, vocabulary]."""
        positions = torch.arange(self._start, self._start + self._points.shape[1], device=self.device)
        self.position_ids = positions.repeat(self._many).unsqueeze(0)
        with registered(module), asking(self):
            logits: Tensor = module(
                inputs_embeds=self._points.reshape(1, self.rows, -1),
                position_ids=self.position_ids,
                attention_mask=NO_MASK.to(self.device),
                use_cache=False,
                logits_to_keep=self.kept,
            ).logits[0]
        return self.asked(logits, type(module)).view(self._many, self._tail, -1)

    def attend_rows(self, call: LayerCall, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `TrimmedForward.attend`."""
        q = self._apart(query)
        if self.picked and self._last is not None:
            (k, v), self._last = self._last, None
        else:
            k, v = (self._with_before(self._apart(each), call.layer, kind) for kind, each in enumerate((key, value)))
        if self.collecting:
            self._last = k, v
            raise KeysKnownError
        visible = self._visible(self._span_of(call.layer, call.arguments), q.shape[2], k.shape[2])
        scores = Scores.of(call.scale, call.arguments)
        if scores.cap is None and scores.sinks is None:
            gqa = q.shape[1] != k.shape[1]
            out = F.scaled_dot_product_attention(q, k, v, visible, scale=call.scale, enable_gqa=gqa)
        else:
            out = _attend(q, k, v, scores, visible)
        return out.transpose(1, 2).reshape(1, -1, q.shape[1], v.shape[3])

    def _visible(self, span: Span, queries: int, keys: int) -> Tensor:
        """Which keys the last `queries` positions see, [queries, keys]."""
        if (span, queries) not in self._masks:
            positions, seen = np.arange(keys - queries, keys)[:, None], np.arange(keys)
            visible = (seen <= positions) & (seen >= span.first(positions))
            self._masks[span, queries] = torch.from_numpy(visible).to(self.device)
        return self._masks[span, queries]

    def _apart(self, rows: Tensor) -> Tensor:
        """[1, heads, n · positions, size] -> [n, heads, positions, size]."""
        heads, size = rows.shape[1], rows.shape[3]
        return rows.view(heads, self._many, -1, size).transpose(0, 1)

    def _with_before(self, states: Tensor, layer: int, kind: int) -> Tensor:
        if not self._before:
            return states
        return torch.cat([self._before[layer][kind].expand(self._many, -1, -1, -1), states], dim=2)


def _attend(q: Tensor, k: Tensor, v: Tensor, scores: Scores, visible: Tensor) -> Tensor:
    """Attention with capped scores or sinks, by operations that have gradients; see `ml.runtime.kernels`."""
    k, v = (each.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for each in (k, v))
    found = torch.matmul(q, k.transpose(-1, -2)) * scores.scale
    if scores.cap is not None:
        found = torch.tanh(found / scores.cap) * scores.cap
    found = found.masked_fill(~visible, float("-inf"))
    if scores.sinks is not None:
        found = torch.cat([found, scores.sinks.view(1, -1, 1, 1).expand(*found.shape[:3], 1)], dim=-1)
    return torch.matmul(found.softmax(-1)[..., : k.shape[2]], v)
