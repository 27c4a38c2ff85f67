"""What the layers of a Hugging Face model take from each token's value vectors."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from ml.errors import CapabilityError, MixedLayersError
from ml.models.base import AttentionSink
from ml.runtime.implementation import asked, asking, eager, registered, takes_function
from ml.runtime.last_layer import layers_of

_NOTHING = 1e-12  # a change of all positions together that is rounding
_PROJECTION = re.compile(r"v_proj|value(_proj)?")
"""What architectures call the projection that gives the value vectors of all heads, where it gives nothing else."""


@dataclass(frozen=True)
class _Call:
    """What a layer was called with, and what it gave, [1, T, size]."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor


class Zeroing:
    """Which value vectors are zero in a batch, on its way to the attention function; see `attention_capture`."""

    def __init__(self, tokens: Tensor, length: int) -> None:
        """In sequence i, of `length` tokens, those of token `tokens[i]`; without any it only watches."""
        self._tokens, self._length = tokens, length
        self.seen = False

    def __len__(self) -> int:
        return len(self._tokens)

    def __call__(self, values: Tensor) -> Tensor:
        """`values` [n, heads, T, size] with zeros.

        Raises:
            ValueError: they are not one of each token.
        """
        if values.shape[2] != self._length:
            raise ValueError("its value vectors are of others than the prompt's tokens")
        self.seen = True
        values = values.clone()
        values[torch.arange(len(self), device=values.device), :, self._tokens] = 0
        return values


class ValueZeroing:
    """The layers of a model, run again with the values of one token at a time set to zero."""

    def __init__(self, module: PreTrainedModel, name: str, *, renamed: bool = True) -> None:
        """Of `module`, which callers know by `name`.

        Args:
            renamed: whether it computes the same with our attention function. Otherwise its own eager one computes.

        Raises:
            CapabilityError: no layers can be told apart.
        """
        layers = layers_of(module)
        if layers is None:
            raise CapabilityError(name, f"the layers of {name!r} cannot be told apart; choose another method")
        self._module, self._layers, self._name, self._renamed = module, layers, name, renamed
        self._hands_over = takes_function(module)

    def _registered(self) -> AbstractContextManager[None]:
        """What the layers run within."""
        if self._renamed:
            return registered(self._module)
        _open_eager(self._module)
        return eager(self._module)

    def shares(self, ids: Sequence[int], max_tokens: int, sink: AttentionSink) -> Iterator[int]:
        """See `OpenModel.value_zeroing`."""
        calls, reached = self._calls(ids)
        if not reached:
            message = f"the code of model {self._name!r} keeps its value vectors to itself; choose another method"
            raise CapabilityError(self._name, message)
        if missing := set(range(len(self._layers))) - reached:
            raise MixedLayersError(self._name, missing)
        yield len(ids) * len(self._layers)
        batch = max(1, max_tokens // len(ids)) if self._takes_batch(calls[0], len(ids)) else 1
        for number, (layer, call) in enumerate(zip(self._layers, calls, strict=True)):
            changes = torch.zeros(len(ids), len(ids), device=call.output.device)
            for tokens in torch.arange(len(ids), device=changes.device).split(batch):
                changed = self._run(layer, call, Zeroing(tokens, len(ids)))
                # The cosine distance, without taking a number near 1 from 1.
                apart = F.normalize(changed.float(), dim=-1) - F.normalize(call.output.float(), dim=-1)
                changes[:, tokens] = apart.square().sum(-1).T / 2
                yield len(tokens) * len(ids)
            changes.tril_()  # a position does not see the tokens behind it; what differs there is rounding
            total = changes.sum(1, keepdim=True)
            alone = torch.eye(len(ids), device=changes.device)  # what nothing changes depends on itself
            sink(number, torch.where(total > _NOTHING, changes / total, alone).unsqueeze(0))

    def _calls(self, ids: Sequence[int]) -> tuple[list[_Call], set[int]]:
        """How the layers are called on the whole prompt, and which of them have values that can be reached."""
        calls: list[_Call] = []
        reached: set[int] = set()
        watching = Zeroing(torch.empty(0, dtype=torch.long), len(ids))

        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if watching.seen:
                reached.add(len(calls))
            watching.seen = False
            calls.append(_Call(args, kwargs, _by_position(output, _batch_dimension(_input(args, kwargs)))))

        hooks = [layer.register_forward_hook(note, with_kwargs=True) for layer in self._layers]
        try:
            with self._zeroed(watching, *self._layers):
                self._module(input_ids=torch.tensor([list(ids)], device=self._module.device), use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        return calls, reached

    def _run(self, layer: nn.Module, call: _Call, zeroing: Zeroing) -> Tensor:
        """The layer's output [n, T, size] with the values of n tokens zero, one in each sequence."""
        hidden, rest = _input(call.args, call.kwargs), call.args[1:]
        shape, batch = list(hidden.shape), _batch_dimension(hidden)
        shape[batch] = len(zeroing)
        repeated = hidden.expand(shape)
        with self._zeroed(zeroing, layer):
            if call.args:
                output = layer.forward(repeated, *rest, **call.kwargs)
            else:
                output = layer.forward(**{**call.kwargs, "hidden_states": repeated})
        return _by_position(output, batch)

    def _takes_batch(self, call: _Call, length: int) -> bool:
        """Whether the first layer takes a batch; what it is handed beside may be of one sequence."""
        tokens = torch.zeros(2, dtype=torch.long, device=self._module.device)
        try:
            self._run(self._layers[0], call, Zeroing(tokens, length))
        except (RuntimeError, IndexError, ValueError):
            return False
        return True

    @contextmanager
    def _zeroed(self, zeroing: Zeroing, *layers: nn.Module) -> Iterator[None]:
        """Within, what `layers` attend to is what `zeroing` makes of their values.

        It finds them on their way to the attention function, or where a layer has its own way with attention, as what a
        projection of theirs gives.
        """

        def project(_module: nn.Module, _args: Any, output: Tensor) -> Tensor | None:
            return None if zeroing.seen else zeroing(output.unsqueeze(1)).squeeze(1)

        own = [] if self._hands_over else [each for layer in layers for each in _projections(layer)]
        hooks = [each.register_forward_hook(project) for each in own]
        try:
            with self._registered(), asking(zeroing):
                yield
        finally:
            for hook in hooks:
                hook.remove()


def _open_eager(module: PreTrainedModel) -> None:
    """Let the eager attention of a model's own code find which values are to be zero, and change nothing else."""
    code = sys.modules[type(module).__module__]
    attend = getattr(code, "eager_attention_forward", None)
    if attend is None or hasattr(attend, "gloss_plain"):
        return

    def attending(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        wish = asked()
        return attend(module, query, key, wish(value) if isinstance(wish, Zeroing) else value, *args, **kwargs)

    attending.gloss_plain = attend  # type: ignore[attr-defined]
    code.eager_attention_forward = attending  # type: ignore[attr-defined]


def _projections(layer: nn.Module) -> list[nn.Module]:
    """The parts of a layer that give value vectors; the first that runs is that of self-attention."""
    return [part for name, part in layer.named_modules() if _PROJECTION.fullmatch(name.rpartition(".")[2])]


def _input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The hidden states that a layer is called with."""
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def _batch_dimension(hidden: Tensor) -> int:
    """Which dimension of one sequence's hidden states is the batch's, of size 1.

    Some models carry several hidden states of a position along: [streams, 1, T, size], or [1, T, streams, size].
    """
    return 1 if hidden.dim() == 4 and hidden.shape[1] == 1 else 0


def _by_position(output: Any, batch: int) -> Tensor:
    """A layer's output without what else it gives, [n, T, size]: a position's states one behind the other."""
    hidden: Tensor = output[0] if isinstance(output, tuple | list) else output
    return (hidden.permute(1, 2, 0, 3) if batch else hidden).flatten(2)
