"""Attention weights of chosen layers and queries, from an unmodified Hugging Face model.

Models call the attention function that transformers has under a name, and hand it whatever keyword arguments their own
call had. So what to capture travels with the call, and there is no global state; a call without it is plain SDPA. Only
the rows asked for are computed, the layer itself still runs through SDPA, and nothing runs above the highest layer
asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ml.errors import InputError
from ml.language_model import AttentionSink
from ml.models.decoding import SlotDecoder
from ml.models.implementation import NAME, forget, register, registered
from ml.models.packed_attention import PackedRun
from ml.models.value_zeroing import Zeroing

Reader = Callable[[PreTrainedModel, Sequence[int], Sequence[int], Sequence[int], AttentionSink], None]
"""Runs a model over ids and hands the weights of layers and queries to a sink; see `LanguageModel.attention`."""


class _Done(Exception):  # noqa: N818 - no error: it leaves the model from the highest layer asked for
    pass


class _Capture:
    """Which weights are wanted, and where they go."""

    def __init__(self, layers: Sequence[int], queries: Tensor, sink: AttentionSink, heads: int) -> None:
        self.missing = set(layers)
        self._heads = heads
        self._last = max(layers)
        self._queries = queries
        self._sink = sink

    def take(self, layer: int, query: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> None:
        """Hand over the weights of one layer, if they are wanted.

        Args:
            layer: its number.
            query: [1, heads, T, size].
            key: [1, key heads, T, size]; each serves as many neighbouring heads as there are more of them.
            mask: [1, 1 or heads, T, T], bool (True is seen) or added to the scores. None is causal.
            scale: multiplies the scores.
        """
        if layer not in self.missing:
            return
        self.missing.remove(layer)
        heads, keys = query.shape[1], key.shape[2]
        queries = self._queries.to(query.device)  # the layers may lie on several
        # [key heads, heads of each, Q, size] x [key heads, 1, size, T]; float32 as eager attention's softmax has it.
        q = query[0, :, queries].float().view(key.shape[1], -1, len(queries), query.shape[3])
        k = key[0].float().unsqueeze(1)
        scores = torch.matmul(q * scale, k.transpose(-1, -2)).view(heads, -1, keys)
        if mask is None:
            hidden = torch.arange(keys, device=scores.device) > queries[:, None]
            scores.masked_fill_(hidden, float("-inf"))
        elif mask.dtype == torch.bool:
            scores.masked_fill_(~mask[0, :, queries], float("-inf"))
        else:
            scores += mask[0, :, queries]
        self._sink(layer, all_heads(torch.softmax(scores, dim=-1), self._heads))
        if layer == self._last:
            raise _Done


def prepare(module: PreTrainedModel) -> Reader | None:
    """Set `module` up and return the cheapest way to read its attention; None where it has none.

    Each way is tried out on two tokens: models differ in whether they hand keyword arguments on, and only that tells.
    """
    if register(module):
        if _gives_weights(capture, module):
            return capture
        forget(module)
    return read_eager if _gives_weights(read_eager, module) else None


def _gives_weights(read: Reader, module: PreTrainedModel) -> bool:
    causal: list[bool] = []
    # Some layers may be of another kind: one that gives weights is enough. None may show the first token the second.
    # Models without attention fail in ways of their own.
    with contextlib.suppress(Exception), torch.inference_mode():
        layers = range(module.config.get_text_config().num_hidden_layers)
        read(module, [0, 0], layers, [0], lambda _, weights: causal.append(not weights[:, 0, 1].any()))
    return bool(causal) and all(causal)


def capture(
    module: PreTrainedModel, ids: Sequence[int], layers: Sequence[int], queries: Sequence[int], sink: AttentionSink
) -> None:
    """Run a prepared `module` over `ids` and hand the weights of `queries` to `sink`; see `LanguageModel.attention`.

    Raises:
        InputError: a layer of this model is of another kind (some mix attention with recurrence).
    """
    input_ids = torch.tensor([list(ids)], device=module.device)
    heads = module.config.get_text_config().num_attention_heads
    wanted = _Capture(layers, torch.tensor(list(queries), device=module.device), sink, heads)
    with registered(module), contextlib.suppress(_Done):
        module(input_ids=input_ids, use_cache=False, logits_to_keep=1, gloss_capture=wanted)
    _check_complete(wanted.missing)


def read_eager(
    module: PreTrainedModel, ids: Sequence[int], layers: Sequence[int], queries: Sequence[int], sink: AttentionSink
) -> None:
    """As `capture`, for a model that has its own way with attention: all layers run, and keep all their weights.

    Raises:
        InputError: the model gives no weights for one of `layers`.
    """
    input_ids = torch.tensor([list(ids)], device=module.device)
    before = module.config._attn_implementation
    switched = module._can_set_attn_implementation()
    try:
        if switched:
            module.set_attn_implementation("eager")
        out = module(input_ids=input_ids, use_cache=False, logits_to_keep=1, output_attentions=True)
    finally:
        if switched:
            module.set_attn_implementation(before)
    weights = getattr(out, "attentions", None) or ()
    # With fewer weights than layers nobody can tell whose they are.
    complete = len(weights) == module.config.get_text_config().num_hidden_layers
    missing = {layer for layer in layers if not complete or weights[layer] is None}
    for layer in sorted(set(layers) - missing):
        rows = weights[layer][0, :, list(queries)].float()
        sink(layer, all_heads(rows, module.config.get_text_config().num_attention_heads))
    _check_complete(missing)


def all_heads(weights: Tensor, heads: int) -> Tensor:
    """The weights [heads, queries, keys] of a layer, of which this process may have computed those of its own heads.

    In a tensor-parallel group every process holds an equal run of heads, in the order of their ranks.
    """
    if len(weights) == heads or not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return weights
    parts = [torch.empty_like(weights) for _ in range(heads // len(weights))]
    torch.distributed.all_gather(parts, weights.contiguous())
    return torch.cat(parts)


def _check_complete(missing: set[int]) -> None:
    if missing:
        names = ", ".join(map(str, sorted(missing)))
        raise InputError("layers", f"layers without attention in this model: {names}; leave them out")


def _attention(  # noqa: PLR0917 - transformers' signature
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    gloss_capture: _Capture | None = None,
    gloss_packed: PackedRun | None = None,
    gloss_decoder: SlotDecoder | None = None,
    gloss_zeroing: Zeroing | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
    if gloss_packed is not None:
        kwargs.pop("scaling", None)
        return gloss_packed.attend(cast(int, module.layer_idx), query, key, value, scale, **kwargs), None
    if gloss_decoder is not None:
        return gloss_decoder.attend(cast(int, module.layer_idx), query, key, value, scale), None
    if gloss_capture is not None:
        gloss_capture.take(cast(int, module.layer_idx), query, key, attention_mask, scale)
    if gloss_zeroing is not None:
        value = gloss_zeroing(value)
    out: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return out


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
