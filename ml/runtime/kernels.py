"""Attention over given queries and keys, on a CPU and on a GPU, and the merging of several attentions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """How scores are made of queries and keys.

    Attributes:
        scale: multiplies the scores.
        cap: a score s becomes cap · tanh(s / cap) (Gemma 2); None leaves it.
        sinks: [heads], scores that count in the softmax and have no value (GPT-OSS); None is none.
    """

    scale: float
    cap: float | None = None
    sinks: Tensor | None = None

    @classmethod
    def of(cls, scale: float, arguments: Mapping[str, Any]) -> Scores:
        """What a model asks for, by transformers' names."""
        return cls(scale, arguments.get("softcap"), arguments.get("s_aux"))


def fold(queries: Tensor, key_heads: int) -> Tensor:
    """Queries [..., Q, heads, size] as [..., key heads, groups · Q, size]: heads that share keys are more queries."""
    *batch, count, heads, size = queries.shape
    if heads == key_heads:
        return queries.transpose(-3, -2)
    apart: Tensor = queries.unflatten(-2, (key_heads, heads // key_heads))
    return apart.movedim(-4, -2).reshape(*batch, key_heads, heads // key_heads * count, size)


def unfold(folded: Tensor, heads: int) -> Tensor:
    """The reverse of `fold`: [..., key heads, groups · Q, size] as [..., Q, heads, size]."""
    if heads == folded.shape[-3]:
        return folded.transpose(-3, -2)
    apart: Tensor = folded.unflatten(-2, (heads // folded.shape[-3], -1))
    return apart.movedim(-2, -4).flatten(-3, -2)


def attend(queries: Tensor, keys: Tensor, values: Tensor, scores: Scores, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Softmax attention, and the log-sum-exp of its scores.

    Args:
        queries: [batch, key heads, Q, size], folded.
        keys, values: [batch, key heads, K, size].
        mask: added to the scores, [batch, 1, Q or 1, K].

    Returns:
        [batch, key heads, Q, size], and float32 [batch, key heads, Q, 1].
    """
    if scores.cap is not None or keys.shape[-1] != values.shape[-1]:
        return _plainly(queries, keys, values, scores, mask)
    if queries.device.type == "cpu":
        # What SDPA runs on a CPU; called by its own name, it also returns the log-sum-exp.
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            queries, keys, values, attn_mask=mask, scale=scores.scale
        )
        return out, lse.unsqueeze(-1)
    if mask is not None:
        mask = _aligned(mask).expand(*queries.shape[:3], keys.shape[2])
    # One of the kernels that SDPA has on a GPU: no scores are written to memory.
    out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        queries, keys, values, mask, compute_log_sumexp=True, scale=scores.scale
    )
    return out, lse[:, :, : queries.shape[2]].unsqueeze(-1)  # the kernel rounds the number of queries up


def attend_by_matmuls(queries: Tensor, keys: Tensor, values: Tensor, scores: Scores, mask: Tensor) -> Tensor:
    """As `attend` of one batch without the log-sum-exp, by plain matmuls: on a CPU faster than SDPA for long blocks.

    Args:
        queries: [key heads, Q, size], folded.
        keys, values: [key heads, K, size].
        mask: added to the scores, [Q, K].
    """
    weights = torch.baddbmm(mask, queries, keys.transpose(1, 2), alpha=scores.scale).softmax(-1)
    return torch.bmm(weights, values)


def attend_rounded(queries: Tensor, keys: Tensor, values: Tensor, scores: Scores, mask: Tensor) -> Tensor:
    """As `attend` without the log-sum-exp, by plain matmuls: in bfloat16 on a CPU twice as fast as SDPA."""
    batch, heads, count, size = queries.shape
    found = torch.bmm(queries.reshape(-1, count, size), keys.reshape(-1, *keys.shape[2:]).transpose(1, 2))
    weights = torch.add(mask, found.view(batch, heads, count, -1), alpha=scores.scale).softmax(-1)
    out = torch.bmm(weights.view(batch * heads, count, -1), values.reshape(-1, *values.shape[2:]))
    return out.view(batch, heads, count, -1)


def merge(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """One softmax over two sets of keys: each has its share of the sum of exponentials.

    Args:
        out, other: [..., size].
        lse, other_lse: [..., 1].
    """
    share = torch.sigmoid(other_lse - lse).to(out.dtype)
    return torch.lerp(out, other.to(out.dtype), share), torch.logaddexp(lse, other_lse)


def with_sinks(out: Tensor, lse: Tensor, sinks: Tensor) -> Tensor:
    """Attention whose softmax also counts a score of each head that has no value (attention sinks of GPT-OSS).

    Args:
        out: [Q, heads, size].
        lse: [Q, heads, 1].
        sinks: [heads].
    """
    return out * torch.sigmoid(lse - sinks.float()[:, None]).to(out.dtype)


def _plainly(
    queries: Tensor, keys: Tensor, values: Tensor, scores: Scores, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    found = torch.matmul(queries, keys.transpose(-1, -2)).float() * scores.scale
    if scores.cap is not None:
        found = torch.tanh(found / scores.cap) * scores.cap
    if mask is not None:
        found = found + mask
    lse = torch.logsumexp(found, dim=-1, keepdim=True)
    return torch.matmul(torch.exp(found - lse).to(values.dtype), values), lse


def _aligned(mask: Tensor) -> Tensor:
    """`mask` with rows that begin at multiples of 16 numbers, as the GPU's kernel asks for."""
    missing = -mask.shape[-1] % 16
    return F.pad(mask, (0, missing))[..., : mask.shape[-1]] if missing else mask.contiguous()
