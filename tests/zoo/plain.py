"""What transformers alone gives: one prompt at a time, by a copy with eager attention that Gloss never touched."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ml.models.base import MEAN, AttentionSink, Batch, ModelInfo, Prefix
from ml.models.internals.objective import LogitsObjective
from ml.models.internals.open_model import OpenModel
from ml.tokens import Tokenizer
from tests.zoo.configurations import make


class Missing(Exception):  # noqa: N818 - no error of ours
    """transformers cannot give it."""


EAGER_DIFFERS = {"falcon, alibi": "sdpa"}
"""What transformers computes wrongly with eager attention (here it adds its biases twice), and with which not."""


@torch.inference_mode()
def _noise(eager: nn.Module, chosen: nn.Module) -> float:
    """What transformers' own two ways differ by on a prompt, as a share of the largest logit."""
    ids = torch.tensor([[1 + 7 * i % 397 for i in range(30)]], device=next(eager.parameters()).device)
    one, other = (module(input_ids=ids, use_cache=False).logits for module in (eager, chosen))
    return float((one - other).abs().nan_to_num(0.0).max() / one.abs().nan_to_num(0.0, 0.0, 0.0).max())


class Plain(OpenModel):
    """As much of a model as explanations ask for, written down as the definitions have it."""

    def __init__(self, name: str, info: ModelInfo, tokenizer: Tokenizer, device: str = "cpu") -> None:
        self.module = make(name, EAGER_DIFFERS.get(name, "eager")).to(device)
        self._device = torch.device(device)
        self._eager_differs = name in EAGER_DIFFERS
        self.noise = _noise(self.module, make(name).to(device))
        self.module.requires_grad_(False)
        self.info, self.tokenizer = info, tokenizer
        self._known: dict[tuple[tuple[int, ...], int], Tensor] = {}

    @torch.inference_mode()
    def row(self, ids: Sequence[int], tail: int = 1) -> Tensor:
        """Logits of the last `tail` positions, [tail, vocabulary]."""
        key = (tuple(ids), tail)
        if key not in self._known:
            self._known[key] = self.module(**self._inputs(ids), use_cache=False).logits[0, -tail:].float().cpu()
        return self._known[key]

    def _inputs(self, ids: Sequence[int]) -> dict[str, Tensor]:
        tensor = torch.tensor([list(ids)], device=self._device)
        return {"inputs_embeds": self.embed(ids)[None]} if MEAN in ids else {"input_ids": tensor}

    def logits(self, sequences: Sequence[Sequence[int]], logit_counts: Sequence[int] | None = None) -> list[Tensor]:
        return [self.row(ids, tail) for ids, tail in zip(sequences, logit_counts or [1] * len(sequences), strict=True)]

    def read_prefix(self, ids: Sequence[int]) -> None:
        return None

    def stream_logits(
        self, sequences: Sequence[Sequence[int]], logit_counts: Sequence[int], **_: Any
    ) -> Iterator[Batch]:
        for index, (ids, tail) in enumerate(zip(sequences, logit_counts, strict=True)):
            yield Batch([index], [self.row(ids, tail)], len(ids), 0)

    def in_bfloat16(self) -> tuple[()]:
        return ()

    def attention(self, ids: Sequence[int], layers: Sequence[int], queries: Sequence[int], sink: AttentionSink) -> None:
        found = self.weights(ids)
        for layer in layers:
            sink(layer, found[layer][:, list(queries)])

    @torch.inference_mode()
    def weights(self, ids: Sequence[int]) -> dict[int, Tensor]:
        """By layer: [heads, T, T].

        Raises:
            Missing: transformers gives none.
        """
        if self._eager_differs:
            raise Missing("its eager attention is another one")
        found: dict[int, Tensor] = {}
        again: set[int] = set()
        under_way = [-1]

        def note(attend: Callable[..., Any], module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            out, weights = attend(module, *args, **kwargs)
            layer = getattr(module, "layer_idx", None)
            layer = under_way[0] if layer in {None, -1} else layer  # shared by several
            if layer in found:
                again.add(layer)
            elif weights is not None and layer is not None and layer >= 0:
                found[layer] = weights[0].float().cpu()
            return out, weights

        stack = max(self._stacks(), key=len, default=())
        hooks = [
            each.register_forward_pre_hook(lambda *_, number=number: under_way.__setitem__(0, number))
            for number, each in enumerate(stack)
        ]
        with self._wrapped(note) as wrapped:
            out = self.module(
                input_ids=torch.tensor([list(ids)], device=self._device), use_cache=False, output_attentions=True
            )
        for hook in hooks:
            hook.remove()
        given = getattr(out, "attentions", None) or ()
        layers = self.module.config.get_text_config().num_hidden_layers
        if (
            (not (wrapped and found) or again)
            and len(given) == layers
            and all(each is None or each.dim() == 4 for each in given)
        ):
            found = {layer: weights[0].float().cpu() for layer, weights in enumerate(given) if weights is not None}
        elif again:
            raise Missing("its layers attend more than once")
        if not found:
            raise Missing("no attention")
        if any(weights.shape[-1] != len(ids) for weights in found.values()):
            raise Missing("its keys are others than the prompt's tokens")
        return found

    @contextmanager
    def _wrapped(self, wrapper: Callable[..., Any]) -> Iterator[bool]:
        """Within, `wrapper` stands around the eager attention of the model's own code; false where there is none."""
        code = sys.modules[type(self.module).__module__]
        eager = getattr(code, "eager_attention_forward", None)
        if eager is None:
            yield False
            return
        code.eager_attention_forward = lambda *args, **kwargs: wrapper(eager, *args, **kwargs)  # type: ignore[attr-defined]
        try:
            yield True
        finally:
            code.eager_attention_forward = eager  # type: ignore[attr-defined]

    @property
    def embedding(self) -> nn.Module:
        return self.module.get_input_embeddings()

    @torch.no_grad()
    def embed(self, ids: Sequence[int]) -> Tensor:
        embedding = self.module.get_input_embeddings()
        rows = embedding(torch.tensor([max(0, each) for each in ids], device=self._device)).float()
        if MEAN in ids:
            mean = embedding(torch.arange(embedding.weight.shape[0], device=self._device)).double().mean(0).float()
            rows[torch.tensor(ids) == MEAN] = mean
        return rows

    def gradients(
        self, points: Tensor, tail: int, objective: LogitsObjective, prefix: Prefix | None = None
    ) -> tuple[Tensor, Tensor]:
        values, gradients = [], []
        for each in points.detach().clone():
            with torch.inference_mode(False), torch.enable_grad():
                point = each[None].clone().requires_grad_()
                logits = self.module(inputs_embeds=point.clone(), use_cache=False).logits[:, -tail:].float()
                value = objective(logits)
                gradients += torch.autograd.grad(value.sum(), point)
            values.append(value.detach())
        return torch.cat(values), torch.cat(gradients)

    @torch.inference_mode()
    def value_zeroing(self, ids: Sequence[int], max_tokens: int, sink: AttentionSink) -> Iterator[int]:
        """The whole model once more for each layer and token, with the token's values zero in this layer alone."""
        whole = self._outputs(ids, -1, 1)
        for layer, output in enumerate(whole):
            changed = self._outputs(ids, layer, len(ids))[layer]
            changes = (1 - F.cosine_similarity(changed.double(), output.double(), dim=-1)).float().T
            changes.tril_()
            total = changes.sum(1, keepdim=True)
            sink(layer, torch.where(total > 1e-12, changes / total, torch.eye(len(ids)))[None])
            yield len(ids)

    def _stacks(self) -> list[nn.ModuleList]:
        """What can be the layers of the model."""
        layers = self.module.config.get_text_config().num_hidden_layers
        stacks = [each for each in self.module.modules() if isinstance(each, nn.ModuleList) and len(each) == layers]
        return [each for each in stacks if type(each[0]).__name__.endswith(("Layer", "Block"))]

    def _outputs(self, ids: Sequence[int], layer: int, many: int) -> list[Tensor]:
        """What each layer gives for `many` copies, [many, T, size]; in `layer` values of token i are zero in copy i."""
        reached = []

        def zero(
            attend: Callable[..., Any],
            module: Any,
            query: Tensor,
            key: Tensor,
            value: Tensor,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            if module.layer_idx == layer:
                reached.append(layer)
                if value.shape[2] != len(ids):
                    raise Missing("its values are of others than the prompt's tokens")
                value = value.clone()
                value[torch.arange(many), :, torch.arange(many)] = 0
            return attend(module, query, key, value, *args, **kwargs)

        outputs: list[Tensor] = []
        stacks = self._stacks()
        if len(stacks) != 1:
            raise Missing("layers are not found")

        def note(_module: nn.Module, _args: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple | list) else output
            if hidden.dim() == 4 and hidden.shape[1:3] == (many, len(ids)):
                hidden = hidden.permute(1, 2, 0, 3)
            outputs.append(hidden.flatten(2).cpu())

        def project(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
            reached.append(layer)
            output = output.clone()
            output[torch.arange(many), torch.arange(many)] = 0
            return output

        def without(value: Tensor, heads: int) -> Tensor:
            reached.append(layer)
            value = value.clone()
            value.movedim(heads, 1)[torch.arange(many), :, torch.arange(many)] = 0
            return value

        hooks = [each.register_forward_hook(note) for each in stacks[0]]
        inline: AbstractContextManager[None] = nullcontext()
        if layer >= 0 and not self.module._can_set_attn_implementation():
            # Attention is written down in the layer: what its values are projected by, or what parts them from queries
            # and keys, is all that can be held on to.
            hooks += [
                part.register_forward_hook(project)
                for name, part in stacks[0][layer].named_modules()
                if name.rpartition(".")[2] in {"v_proj", "value", "value_proj"}
            ]
            if len(hooks) == len(stacks[0]):
                inline = _inline(stacks[0][layer], without)
        try:
            with self._wrapped(zero), inline:
                self.module(input_ids=torch.tensor([list(ids)] * many, device=self._device), use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        if layer >= 0 and not reached:
            raise Missing("no value vectors")
        return outputs


@contextmanager
def _inline(layer: nn.Module, without: Callable[[Tensor, int], Tensor]) -> Iterator[None]:
    """Within, `without` changes the values of a layer of which one projection gives queries, keys and values.

    It is given them with their heads' dimension, which the layer's code parts them by.
    """
    undo: list[Callable[[], None]] = []
    for part in layer.modules():
        if own := getattr(part, "_attn", None):
            part._attn = lambda q, k, v, *more, own=own, **named: own(q, k, without(v, 1), *more, **named)  # type: ignore[assignment]
            undo.append(lambda part=part: part.__dict__.pop("_attn"))  # type: ignore[misc]
        for name, heads in (("_split_heads", 2), ("_reshape", 1)):
            if not hasattr(part, "_attn") and (own := getattr(part, name, None)):

                def split(fused: Tensor, own: Any = own, heads: int = heads) -> tuple[Tensor, ...]:
                    *others, value = own(fused)
                    return *others, without(value, heads)

                setattr(part, name, split)
                undo.append(lambda part=part, name=name: part.__dict__.pop(name))  # type: ignore[misc]
        if isinstance(fused := getattr(part, "Wqkv", None), nn.Linear):

            def chunk(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
                query, key, value = output.chunk(3, dim=2)
                return torch.cat([query, key, without(value[:, None], 1)[:, 0]], dim=2)

            undo.append(fused.register_forward_hook(chunk).remove)
    try:
        yield
    finally:
        for each in undo:
            each()
