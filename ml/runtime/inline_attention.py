"""Attention that the code of a model computes inside its layers, handed to our function like that of others.

Many architectures take no attention function from outside. Each has a method that makes queries, keys and values, or
that gets them. While something is asked of attention, one of ours stands in its place and calls our function; without
that the layers go on as they are. A method that does not fit a model shows in verification, as all else does.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from ml.runtime.implementation import NAME, asked
from ml.runtime.last_layer import TrimmedForward, layers_of

States = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values, each [batch, heads, T, size]."""

_ADDED = 8
"""Numbers that a bias by position adds to a query: GPUs like sizes that are multiples of it."""
_STEP = 256
"""Numbers below it, and multiples of it below its square, are exact in half precision of both kinds."""


def hand_over(module: PreTrainedModel) -> None:
    """Let the layers of `module` that compute attention inside call our function, while something is asked of it."""
    for number, layer in enumerate(layers_of(module) or ()):
        for part in _inline(layer):
            if getattr(part, "layer_idx", None) is None:
                part.layer_idx = number  # type: ignore[assignment]
            _replace(type(part), *_METHODS[type(part).__name__])
            code = sys.modules[type(part).__module__]
            if build := getattr(code, "build_alibi_tensor", None):
                _replace(code, "build_alibi_tensor", functools.partial(_biases_of_rows, build))


def hands_over(module: nn.Module) -> bool:
    """Whether `module` has layers that `hand_over` knows."""
    return bool(_inline(module))


def _inline(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if type(part).__name__ in _METHODS]


def _replace(owner: Any, name: str, ours: Callable[..., Any]) -> None:
    """Let `ours` stand in the place of the function `name` of `owner`, a class or a module of code.

    Of the class, as a copy of a model has the methods of its class, and none that were put on the original.
    """
    own = getattr(owner, name)
    if hasattr(own, "gloss_plain"):
        return

    @functools.wraps(own)
    def either(*args: Any, **kwargs: Any) -> Any:
        return own(*args, **kwargs) if asked() is None else ours(*args, **kwargs)

    either.gloss_plain = own  # type: ignore[attr-defined]
    setattr(owner, name, either)


def _attend(layer: Any, states: States, mask: Tensor | None, *, scale: float | None = None, **kwargs: Any) -> Tensor:
    """What our function gives a layer, [batch, T, heads, size].

    Args:
        mask: of a call that is no ragged batch.
        scale: multiplies the scores; by default one by the square root of the size.
        kwargs: what else the layer asks for, by transformers' names.
    """
    query, key, value = states
    query, key = query.to(value.dtype), key.to(value.dtype)  # some are rotated in float32
    scale = scale or query.shape[-1] ** -0.5
    out: Tensor = AttentionInterface()[NAME](layer, query, key, value, mask, scaling=scale, **kwargs)[0]
    return out


def _by_heads(layers: tuple[nn.Module, ...], hidden_states: Tensor, size: int) -> States:
    """What three linear layers make of hidden states [batch, T, size of all heads]."""
    query, key, value = (layer(hidden_states).unflatten(-1, (-1, size)).transpose(1, 2) for layer in layers)
    return query, key, value


# In the place of a method that gets queries, keys and values.


def _of_states(layer: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None) -> Any:
    return _attend(layer, (query, key, value), attention_mask).transpose(1, 2), None


def _gpt_neo(layer: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None) -> Any:
    window = layer.config.window_size if layer.attention_type == "local" else None
    if window and attention_mask is not None and not isinstance(asked(), TrimmedForward):
        hidden = ~layer.bias[:, :, : query.shape[2], : key.shape[2]]
        attention_mask = attention_mask.masked_fill(hidden, torch.finfo(attention_mask.dtype).min)
    out = _attend(layer, (query, key, value), attention_mask, scale=1.0, sliding_window=window)
    return out.transpose(1, 2), None


def _openai_gpt(layer: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *_: Any) -> Any:
    return [_attend(layer, (query, key.transpose(2, 3), value), mask).transpose(1, 2)]


# In the place of a forward that gets hidden states [batch, T, size].


def _bart(layer: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, **_: Any) -> Any:
    states = _by_heads((layer.q_proj, layer.k_proj, layer.v_proj), hidden_states, layer.head_dim)
    return layer.out_proj(_attend(layer, states, attention_mask).flatten(2)), None


def _bert(
    layer: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    sinusoidal_pos: Tensor | None = None,
    *_: Any,
    **__: Any,
) -> Any:
    states = _by_heads((layer.query, layer.key, layer.value), hidden_states, layer.attention_head_size)
    if sinusoidal_pos is not None:  # RoFormer
        rotated = states if layer.rotary_value else states[:2]
        states = (*layer.apply_rotary_position_embeddings(sinusoidal_pos, *rotated), states[2])[:3]
    return _attend(layer, states, attention_mask).flatten(2), None


def _falcon(
    layer: Any,
    hidden_states: Tensor,
    alibi: Tensor | None,
    attention_mask: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    **_: Any,
) -> Any:
    query, key, value = (each.transpose(1, 2) for each in layer._split_heads(layer.query_key_value(hidden_states)))
    # Heads that share keys have got a copy each.
    layer.num_key_value_groups = layer.num_heads // layer.num_kv_heads
    key, value = (each[:, :: each.shape[1] // layer.num_kv_heads] for each in (key, value))
    if alibi is None:
        query, key = sys.modules[type(layer).__module__].apply_rotary_pos_emb(query, key, *position_embeddings)
    if alibi is None or not isinstance(asked(), TrimmedForward):  # otherwise the mask has the biases
        out = _attend(layer, (query, key, value), attention_mask)
    else:
        out = _attend_biased(layer, (query, key, value), None, _slopes(alibi) * layer.inv_norm_factor)
    return layer.dense(out.flatten(2)), None


def _bloom(
    layer: Any, hidden_states: Tensor, residual: Tensor, alibi: Tensor, attention_mask: Tensor | None, **_: Any
) -> Any:
    states = layer._reshape(layer.query_key_value(hidden_states))
    return residual + layer.dense(_attend_biased(layer, states, attention_mask, _slopes(alibi)).flatten(2)), None


def _mpt(
    layer: Any, hidden_states: Tensor, position_bias: Tensor, attention_mask: Tensor | None = None, **_: Any
) -> Any:
    mixed = layer.Wqkv(hidden_states)
    if layer.clip_qkv:
        mixed = mixed.clamp(min=-layer.clip_qkv, max=layer.clip_qkv)
    query, key, value = (each.unflatten(-1, (layer.n_heads, -1)).transpose(1, 2) for each in mixed.chunk(3, dim=2))
    visible = None if attention_mask is None else ~attention_mask.bool()
    slopes = _slopes(position_bias[..., -2:])
    out = _attend_biased(layer, (query, key, value), visible, slopes, scale=layer.softmax_scale)
    return layer.out_proj(out.flatten(2)), None


# Biases that grow with the position of the key (ALiBi).


def _biases_of_rows(build: Callable[..., Tensor], attention_mask: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """What `build` makes of a mask [batch, T]; of rows, which have no common one, for two positions: see `_slopes`."""
    rows = isinstance(asked(), TrimmedForward)
    return build(attention_mask.new_ones(1, 2) if rows else attention_mask, *args, **kwargs)


def _slopes(biases: Tensor) -> Tensor:
    """By how much biases [..., heads, 1, T] grow from one position to the next, [heads]."""
    return (biases[..., 1] - biases[..., 0]).flatten() if biases.shape[-1] > 1 else torch.zeros_like(biases).flatten()


def _attend_biased(
    layer: Any, states: States, mask: Tensor | None, slopes: Tensor, *, scale: float | None = None
) -> Tensor:
    """As `_attend`, with each head's slope, of `slopes` [heads], times the key's position added to its scores.

    Neither kernels nor caches know of it: queries and keys get some numbers more, whose product it is. The slope and
    the position are sums of two numbers each, which half precision has.
    """
    query, key, value = states
    batch, _, rows, size = query.shape
    scale = scale or size**-0.5
    slopes = slopes.float() / scale
    coarse = slopes.bfloat16().float()
    positions = _positions(rows, query.device)
    far, near = positions // _STEP * _STEP, positions % _STEP
    of_queries = torch.stack([coarse, coarse, slopes - coarse, slopes - coarse], dim=-1)[:, None]
    of_keys = torch.stack([far, near, far, near], dim=-1)

    def longer(each: Tensor, added: Tensor) -> Tensor:
        added = F.pad(added, (0, _ADDED - added.shape[-1])).to(value.dtype)
        return torch.cat([each.to(value.dtype), added.expand(batch, each.shape[1], rows, -1)], dim=-1)

    # Kernels are fast where values have as many numbers as keys.
    longer_states = longer(query, of_queries), longer(key, of_keys), longer(value, value.new_zeros(1))
    return _attend(layer, longer_states, mask, scale=scale)[..., :size]


def _positions(rows: int, device: torch.device) -> Tensor:
    """Where the rows of a layer's keys stand in their sequences, [rows]."""
    run = asked()
    if not isinstance(run, TrimmedForward):
        return torch.arange(rows, device=device)
    positions = run.position_ids[0].to(device)
    return positions[run.kept] if run.picked else positions


_METHODS: dict[str, tuple[str, Callable[..., Any]]] = {
    **dict.fromkeys(("CodeGenAttention", "GPTJAttention", "GPTNeoXJapaneseAttention"), ("_attn", _of_states)),
    "GPTNeoSelfAttention": ("_attn", _gpt_neo),
    "Attention": ("_attn", _openai_gpt),
    **dict.fromkeys(("MvpAttention", "TrOCRAttention", "XGLMAttention"), ("forward", _bart)),
    **dict.fromkeys(("MegatronBertSelfAttention", "RemBertSelfAttention", "RoFormerSelfAttention"), ("forward", _bert)),
    "FalconAttention": ("forward", _falcon),
    "BloomAttention": ("forward", _bloom),
    "MptAttention": ("forward", _mpt),
}
"""By the class of a layer's part: which method of it computes attention, and what takes its place."""
