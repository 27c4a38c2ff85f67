"""Attention weights of chosen layers and queries, from an unmodified Hugging Face model.

The weights are computed in an attention function registered with transformers, and only where they are asked for: every
layer's own output still comes from SDPA. What to capture travels as a keyword argument of the model's call, so there is
no global state, and nothing runs above the highest layer asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ml.language_model import AttentionSink

_NAME = "gloss_capture"


class _Done(Exception):  # noqa: N818  (it is no error)
    """Raised from the highest layer asked for, to leave the model."""


class _Capture:
    """Which weights are wanted, and where they go."""

    def __init__(self, layers: Sequence[int], queries: Sequence[int], sink: AttentionSink) -> None:
        self.layers = frozenset(layers)
        self.last = max(layers)
        self.queries = torch.as_tensor(queries)
        self.sink = sink

    def see(self, layer: int, query: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> None:
        """Take one layer's weights: `query` [1, heads, T, size], `key` [1, key heads, T, size]."""
        if layer not in self.layers:
            return
        queries = self.queries.to(query.device)
        q = query[0, :, queries].float()
        k = key[0].float().repeat_interleave(query.shape[1] // key.shape[1], dim=0)
        scores = torch.matmul(q, k.transpose(-1, -2)) * scale
        if mask is None:
            hidden = torch.arange(k.shape[1], device=q.device) > queries[:, None]
            scores = scores.masked_fill(hidden, float("-inf"))
        elif mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask[0, :, queries], float("-inf"))
        else:
            scores = scores + mask[0, :, queries]
        self.sink(layer, torch.softmax(scores, dim=-1))
        if layer == self.last:
            raise _Done


def capture(
    model: PreTrainedModel, ids: Sequence[int], layers: Sequence[int], queries: Sequence[int], sink: AttentionSink
) -> None:
    """Run `model` over `ids` and hand the weights of `queries` to `sink`, layer by layer.

    `sink` gets float32 [heads, queries, keys], for each of `layers` from the lowest up.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation(_NAME)
    try:
        input_ids = torch.tensor([list(ids)], device=model.device)
        model(input_ids=input_ids, use_cache=False, logits_to_keep=1, capture=_Capture(layers, queries, sink))
    except _Done:
        pass
    finally:
        model.set_attn_implementation(before)


def _attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
    kwargs.pop("capture").see(module.layer_idx, query, key, attention_mask, scale)
    out: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return out


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)
