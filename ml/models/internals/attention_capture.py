"""Attention weights of chosen layers and queries, from an unmodified Hugging Face model.

Models call the attention function that transformers has under a name. What is wanted of it beside attention it finds
in `ml.runtime.implementation.asked`; without that it is plain SDPA. Only the rows asked for are computed, the layer
itself still runs through SDPA, and nothing runs above the highest layer asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ml.errors import LayersError
from ml.models.base import AttentionSink
from ml.models.internals.value_zeroing import Zeroing
from ml.runtime.implementation import NAME, asked, asking, eager, register, registered
from ml.runtime.inline_attention import hand_over, hands_over
from ml.runtime.kernels import Scores
from ml.runtime.last_layer import LayerCall, TrimmedForward, layers_of
from ml.runtime.positions import follow_rows

Reader = Callable[[PreTrainedModel, Sequence[int], Sequence[int], Sequence[int], AttentionSink], None]
"""Runs a model over ids and hands the weights of layers and queries to a sink; see `LanguageModel.attention`."""


_TRIED = (1, 2, 3, 1, 2)
"""Tokens on which a model's ways to give weights are tried out."""
_APART, _APART_IN_HALF = 1e-4, 5e-2
"""Of the largest number: what two ways may differ by, in float32 and in half precision."""


class _Done(Exception):  # noqa: N818 - no error: it leaves the model from the highest layer asked for
    pass


class _Capture:
    """Which weights are wanted, and where they go."""

    def __init__(self, layers: Sequence[int], queries: Tensor, sink: AttentionSink, heads: int) -> None:
        self.missing = set(layers)
        self._under_way = -1
        self._heads = heads
        self._last = max(layers)
        self._queries = queries
        self._sink = sink

    def take(self, layer: int | None, query: Tensor, key: Tensor, mask: Tensor | None, scores: Scores) -> None:
        """Hand over the weights of one layer, if they are wanted.

        Args:
            layer: its number; None, or -1, for attention that several layers share: then it is the current layer.
            query: [1, heads, T, size].
            key: [1, key heads, T, size]; each serves as many neighbouring heads as there are more of them.
            mask: [1, 1 or heads, T, T], bool (True is seen) or added to the scores. None is causal.
        """
        layer = self._under_way if layer is None or layer < 0 else layer
        if layer not in self.missing:
            return
        self.missing.remove(layer)
        queries = self._queries.to(query.device)  # the layers may lie on several
        weights = _weights(query, key, mask, scores, queries)[0]
        self._sink(layer, all_heads(weights, self._heads))
        if layer == self._last:
            raise _Done

    @contextlib.contextmanager
    def following(self, module: PreTrainedModel) -> Iterator[None]:
        """Within this context, it is known which layer of `module` runs."""

        def note(number: int, *_: Any) -> None:
            self._under_way = number

        layers = layers_of(module) or ()
        hooks = [layer.register_forward_pre_hook(partial(note, number)) for number, layer in enumerate(layers)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _weights(query: Tensor, key: Tensor, mask: Tensor | None, scores: Scores, queries: Tensor) -> Tensor:
    """Softmax weights of some `queries` over all keys, float32 [batch, heads, Q, T], as eager attention has them."""
    batch, heads, _, size = query.shape
    keys = key.shape[2]
    # [batch, key heads, heads of each, Q, size] x [batch, key heads, 1, size, T].
    q = query[:, :, queries].float().view(batch, key.shape[1], -1, len(queries), size)
    k = key.float().unsqueeze(2)
    found = torch.matmul(q * scores.scale, k.transpose(-1, -2)).view(batch, heads, -1, keys)
    if scores.cap is not None:
        found = torch.tanh(found / scores.cap) * scores.cap
    if mask is None:
        hidden = torch.arange(keys, device=found.device) > queries[:, None]
        found = found.masked_fill(hidden, float("-inf"))
    elif mask.dtype == torch.bool:
        found = found.masked_fill(~mask[:, :, queries], float("-inf"))
    else:
        found = found + mask[:, :, queries]
    if scores.sinks is None:
        return torch.softmax(found, dim=-1)
    sinks = scores.sinks.float().view(1, -1, 1, 1).expand(*found.shape[:3], 1)
    return torch.softmax(torch.cat([found, sinks], dim=-1), dim=-1)[..., :keys]


def prepare(module: PreTrainedModel) -> Reader | None:
    """Set `module` up and return the cheapest way to read its attention; None where it has none.

    Each way is tried out on some tokens: models differ in whether they hand keyword arguments on, and only that shows.
    """
    # It stays registered for rows of a batch, whose attention can be capped and have sinks, which that of SDPA cannot.
    hand_over(module)
    captured = _weights_by(capture, module) if register(module) or hands_over(module) else {}
    follow_rows(module)
    agrees = _eager_agrees(module)
    eager_ones = _weights_by(read_eager, module)
    if eager_ones and not agrees:
        if not captured:
            return read_nothing
        eager_ones = {}
    # What a model adds to its scores by arguments of its own, only its own function knows.
    if not eager_ones:
        return capture if captured else None
    same = captured.keys() >= eager_ones.keys() and all(
        _alike(captured[layer], weights, _apart(module)) for layer, weights in eager_ones.items()
    )
    return capture if same else read_eager


def _weights_by(read: Reader, module: PreTrainedModel) -> dict[int, Tensor]:
    """The weights of some tokens by layer; none where they are not those of a causal model."""
    found: dict[int, Tensor] = {}
    # Some layers may be of another kind: one that gives weights is enough. Models without attention fail in ways of
    # their own.
    with contextlib.suppress(Exception), torch.inference_mode():
        layers = range(module.config.get_text_config().num_hidden_layers)
        read(module, _TRIED, layers, range(len(_TRIED)), found.__setitem__)
    causal = all(not bool(weights[..., : len(_TRIED)].triu(1).any()) for weights in found.values())
    return found if causal else {}


def _eager_agrees(module: PreTrainedModel) -> bool:
    """Whether `module` says the same with eager attention; of some, transformers' two ways differ."""
    ids = torch.tensor([_TRIED], device=module.device)
    try:
        with torch.inference_mode():
            plain = module(input_ids=ids, use_cache=False).logits.float()
            with eager(module):
                found = module(input_ids=ids, use_cache=False, output_attentions=True).logits.float()
    except Exception:  # noqa: BLE001 - as above
        return False
    return _alike(found, plain, _apart(module))


def _apart(module: PreTrainedModel) -> float:
    return _APART if module.dtype in {torch.float32, torch.float64} else _APART_IN_HALF


def _alike(found: Tensor, expected: Tensor, apart: float) -> bool:
    largest = float(expected.nan_to_num(0.0, 0.0, 0.0).abs().max())
    return found.shape == expected.shape and bool((found - expected).abs().max() <= apart * largest)


def capture(
    module: PreTrainedModel, ids: Sequence[int], layers: Sequence[int], queries: Sequence[int], sink: AttentionSink
) -> None:
    """Run a prepared `module` over `ids` and hand the weights of `queries` to `sink`; see `LanguageModel.attention`.

    Raises:
        LayersError: a layer of this model is of another kind (some mix attention with recurrence).
    """
    input_ids = torch.tensor([list(ids)], device=module.device)
    heads = module.config.get_text_config().num_attention_heads
    wanted = _Capture(layers, torch.tensor(list(queries), device=module.device), sink, heads)
    with wanted.following(module), registered(module), asking(wanted), contextlib.suppress(_Done):
        module(input_ids=input_ids, use_cache=False, logits_to_keep=1)
    _check_complete(wanted.missing)


def read_eager(
    module: PreTrainedModel, ids: Sequence[int], layers: Sequence[int], queries: Sequence[int], sink: AttentionSink
) -> None:
    """As `capture`, for a model that has its own way with attention: all layers run, and keep all their weights.

    Raises:
        LayersError: the model gives no weights for one of `layers`.
    """
    input_ids = torch.tensor([list(ids)], device=module.device)
    with eager(module):
        out = module(input_ids=input_ids, use_cache=False, logits_to_keep=1, output_attentions=True)
    weights = getattr(out, "attentions", None) or ()
    # With fewer weights than layers it is unknown whose they are.
    complete = len(weights) == module.config.get_text_config().num_hidden_layers
    missing = {layer for layer in layers if not complete or weights[layer] is None}
    for layer in sorted(set(layers) - missing):
        rows = weights[layer][0, :, list(queries)].float()
        sink(layer, all_heads(rows, module.config.get_text_config().num_attention_heads))
    _check_complete(missing)


def read_nothing(
    _module: PreTrainedModel, _ids: Sequence[int], _layers: Sequence[int], _queries: Sequence[int], _: AttentionSink
) -> None:
    """As `capture`, for a model that says something else while it gives weights: they are not those it answers by.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError("with weights to give, it says something else than without")


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
        raise LayersError(missing)


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
    wish, layer = asked(), cast(int | None, module.layer_idx)
    if isinstance(wish, TrimmedForward):
        if layer is None or layer < 0:
            raise NotImplementedError("rows of a ragged batch cannot have attention that layers share")
        # In memory as transformers' own functions give it: some models view it, and the others' reshaping is then free.
        return wish.attend(LayerCall(layer, scale, kwargs), query, key, value).contiguous(), None
    scores = Scores.of(scale, kwargs)
    if isinstance(wish, _Capture):
        wish.take(layer, query, key, attention_mask, scores)
    if isinstance(wish, Zeroing):
        value = wish(value)
    if attention_mask is None:
        kwargs["is_causal"] = True  # as all that is served, whether or not the module says so
    if scores.cap is None and scores.sinks is None:
        out: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return out
    # SDPA knows neither caps nor sinks.
    weights = _weights(query, key, attention_mask, scores, torch.arange(query.shape[2], device=query.device))
    grouped = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    return torch.matmul(weights.to(value.dtype), grouped).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
